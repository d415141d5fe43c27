"""Faults of a machine: a full disk, a folder that is read-only, a file that may not grow, a clock that jumps."""

import contextlib
import os
import resource
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest


@contextlib.contextmanager
def mounted(folder: Path, options: str) -> Iterator[Path]:
    """Mount an empty file system in memory; skip where that is not allowed."""
    folder.mkdir(exist_ok=True)
    command = ["mount", "-t", "tmpfs", "-o", options, "none", str(folder)]
    if os.geteuid() or subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("no right to mount a file system")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


@contextlib.contextmanager
def full_disk(folder: Path, *, kilobytes: int) -> Iterator[Path]:
    """Give a folder a disk of a few kilobytes."""
    with mounted(folder, f"size={kilobytes}k") as disk:
        yield disk


@contextlib.contextmanager
def read_only(folder: Path) -> Iterator[Path]:
    """Take away the right to write into a folder."""
    folder.mkdir(exist_ok=True)
    if os.geteuid():
        folder.chmod(0o500)
        try:
            yield folder
        finally:
            folder.chmod(0o700)
    else:
        # Root may write to any folder, but to no file system that is read-only.
        with mounted(folder, "ro") as disk:
            yield disk


@contextlib.contextmanager
def largest_file(size: int) -> Iterator[None]:
    """Refuse to write files of more than `size` bytes, with an error in the middle of a write."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def jump_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the wall clock jump a year forwards and backwards in turn, at every look."""
    real, looks = time.time, iter(range(10**9))
    year = 365 * 24 * 3600
    monkeypatch.setattr("time.time", lambda: real() + year * (1 - 2 * (next(looks) % 2)))


def killed_after(seconds: float, work: Callable[[Callable[[str], None]], None]) -> list[str]:
    """Run work in a forked process that is killed after a time; return what it said until then.

    Args:
        seconds: When to kill it, unless it has ended.
        work: Gets a function that passes a line on.
    """
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(reader)
        try:
            work(lambda line: os.write(writer, f"{line}\n".encode()) and None)
        finally:
            os._exit(0)
    os.close(writer)
    time.sleep(seconds)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    with os.fdopen(reader) as pipe:
        return pipe.read().splitlines()


def left_behind(folder: Path) -> list[str]:
    """Return the names of temporary files below a folder."""
    return sorted(path.name for path in folder.rglob("*") if path.name.endswith((".partial", ".part")))
