"""Keeps the directory that programs work in: says when one leaves too much there, and empties it after each.

Enters: the directory. Leaves: an empty directory. Entries are removed one level at a time without recursion, since a
program may nest directories deeper than any call stack or path.
"""

from __future__ import annotations

import os
import stat


def _size_bytes(entry: os.DirEntry[str]) -> int:
    try:
        return entry.stat(follow_symlinks=False).st_blocks * 512
    except FileNotFoundError:
        return 0


class Scratch:
    """The working directory of a worker's programs; its owner made it and may remove what is in it."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.mode = stat.S_IMODE(os.stat(path).st_mode)

    def exceeds(self, files: int, total_bytes: int) -> bool:
        """Return whether more than `files` entries or `total_bytes` in them lie here, at any depth.

        A directory that cannot be looked into, locked or too deep to be named, counts as too much. Files that were
        unlinked while open are not seen: descriptors times bytes per file bound those.
        """
        count = size = 0
        waiting = [self.path]
        while waiting:
            try:
                with os.scandir(waiting.pop()) as entries:
                    for entry in entries:
                        count += 1
                        if entry.is_dir(follow_symlinks=False):
                            waiting.append(entry.path)
                        else:
                            size += _size_bytes(entry)
                        if count > files or size > total_bytes:
                            return True
            except FileNotFoundError:
                continue
            except OSError:
                return True
        return False

    def clear(self) -> None:
        """Remove everything in the directory and give it back its mode."""
        if stat.S_IMODE(os.stat(self.path).st_mode) != self.mode:
            os.chmod(self.path, self.mode)
        while names := os.listdir(self.path):
            for name in names:
                self._remove(os.path.join(self.path, name))

    def _remove(self, path: str) -> None:
        if not stat.S_ISDIR(os.lstat(path).st_mode):
            os.unlink(path)
            return
        # A directory can be moved or emptied only with these rights on it.
        os.chmod(path, 0o700)
        for name in os.listdir(path):
            inner = os.path.join(path, name)
            if stat.S_ISDIR(os.lstat(inner).st_mode):
                # Flattened, to be removed from the top in its turn.
                os.chmod(inner, 0o700)
                os.rename(inner, os.path.join(self.path, f".{os.urandom(16).hex()}"))
            else:
                os.unlink(inner)
        os.rmdir(path)
