"""A pseudo-terminal in the place of this process's output, and somebody who looks at it all the time."""

import fcntl
import os
import pty
import re
import struct
import sys
import termios
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pyte


class Screen:
    """What stands on a terminal of so many columns and lines, at each moment that something came.

    Args:
        columns: Width, in characters.
        lines: Height; nothing scrolls out of sight as long as it suffices.
    """

    def __init__(self, columns: int, lines: int) -> None:
        self._screen = pyte.Screen(columns, lines)
        self._stream = pyte.ByteStream(self._screen)
        self.raw = b""
        self.moments: list[list[str]] = []

    def feed(self, written: bytes) -> None:
        """Show what was written."""
        self.raw += written
        # Every drawing begins with a return to the left; what one read brings may be several of them.
        for drawing in re.split(rb"(?=\r)", written):
            self._stream.feed(drawing)
            self.moments.append([line.rstrip() for line in self._screen.display if line.strip()])

    @property
    def busy(self) -> list[list[str]]:
        """The moments at which anything stood there."""
        return [moment for moment in self.moments if moment]

    @property
    def lines(self) -> list[str]:
        """The lines that stand there in the end."""
        return self.moments[-1] if self.moments else []

    def watch(self, terminal: int) -> None:
        """Show what comes until nobody writes any more."""
        while True:
            try:
                written = os.read(terminal, 65536)
            except OSError:
                # What a terminal answers when the last writer is gone.
                return
            if not written:
                return
            self.feed(written)


def open_terminal(columns: int, lines: int) -> tuple[int, int]:
    """Return both ends of a pseudo-terminal: the one to look at, and the one to write to."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))
    return ours, theirs


@contextmanager
def terminal(columns: int = 100, lines: int = 60) -> Iterator[Screen]:
    """Have standard output and standard error of this process go to a terminal."""
    screen = Screen(columns, lines)
    ours, theirs = open_terminal(columns, lines)
    watcher = threading.Thread(target=screen.watch, args=(ours,))
    watcher.start()
    before, width = (sys.stdout, sys.stderr), os.environ.get("COLUMNS")
    # What asks the descriptors of the process, not these files, would find another terminal or none.
    os.environ["COLUMNS"] = str(columns)
    with os.fdopen(theirs, "w", buffering=1, encoding="utf-8") as output:
        sys.stdout = sys.stderr = output
        try:
            yield screen
        finally:
            sys.stdout, sys.stderr = before
            os.environ.pop("COLUMNS")
            if width is not None:
                os.environ["COLUMNS"] = width
    watcher.join()
    os.close(ours)
