"""Measure the working directory of programs, and empty it after each of them.

`Scratch.exceeds` measures and enforces nothing: between two calls a program may write more. Files that were unlinked
while open are not seen. The limits on descriptors and on bytes per file bound those files.
"""

from __future__ import annotations

import os
import stat


def _size_bytes(entry: os.DirEntry[str], seen: set[int]) -> int:
    try:
        status = entry.stat(follow_symlinks=False)
    except FileNotFoundError:
        return 0
    # A file of several names counts once.
    if status.st_nlink > 1:
        if status.st_ino in seen:
            return 0
        seen.add(status.st_ino)
    # Allocated blocks, which POSIX counts in units of 512 bytes: a sparse file takes no room for its holes.
    return status.st_blocks * 512


class Scratch:
    """The working directory of a worker's programs.

    Args:
        path: Its path. `clear` removes everything in it.
    """

    def __init__(self, path: str) -> None:
        self.path = path

    def exceeds(self, files: int, total_bytes: int) -> bool:
        """Return whether the directory holds more than `files` entries, or more than `total_bytes` in them.

        Entries count at any depth. A directory that cannot be read counts as too much.
        """
        count = size = 0
        waiting, seen = [self.path], set[int]()
        while waiting:
            try:
                with os.scandir(waiting.pop()) as entries:
                    for entry in entries:
                        count += 1
                        if entry.is_dir(follow_symlinks=False):
                            waiting.append(entry.path)
                        else:
                            size += _size_bytes(entry, seen)
                        if count > files or size > total_bytes:
                            return True
            except FileNotFoundError:
                # The program is still at work and may have removed it.
                continue
            except OSError:
                # Locked, or nested so deep that its path is too long: a program could hide any amount there.
                return True
        return False

    def clear(self) -> None:
        """Remove everything in the directory."""
        # A program may have taken away the rights to list and to change the directory.
        os.chmod(self.path, 0o700)
        while names := os.listdir(self.path):
            for name in names:
                self._remove(os.path.join(self.path, name))

    def _remove(self, path: str) -> None:
        if not stat.S_ISDIR(os.lstat(path).st_mode):
            os.unlink(path)
            return
        # Without these rights on it a directory can be neither moved nor emptied.
        os.chmod(path, 0o700)
        for name in os.listdir(path):
            inner = os.path.join(path, name)
            if stat.S_ISDIR(os.lstat(inner).st_mode):
                # Moved to the top, to be removed from there later: a program may nest directories deeper than any
                # call stack or path.
                os.chmod(inner, 0o700)
                os.rename(inner, os.path.join(self.path, f".{os.urandom(16).hex()}"))
            else:
                os.unlink(inner)
        os.rmdir(path)
