"""What a worker's process does to itself and to its children by means that every POSIX system has.

Enters: descriptors, limits and process ids. Leaves: descriptors in their places, limits in force, and how a child
ended.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import resource
import signal
from collections.abc import Mapping, Sequence

#: A worker's own descriptors lie from here on, below them those that it hands to its children.
FIRST_OWN_DESCRIPTOR = 40


class LevelUnavailable(RuntimeError):
    """This machine does not offer the isolation level asked for; the message says what is missing."""


def arrange_descriptors(sources: Sequence[int], *, first: int) -> None:
    """Make `sources` the descriptors `first`, `first + 1`, ... of this process, as they usually are."""
    if list(sources) != list(range(first, first + len(sources))):
        high = [fcntl.fcntl(source, fcntl.F_DUPFD, first + len(sources)) for source in sources]
        for target, source in enumerate(high, first):
            os.dup2(source, target)


def at_most(which: int, value: int) -> int:
    """Return `value`, or the limit in force where that is lower."""
    _, hard = resource.getrlimit(which)
    return value if hard == resource.RLIM_INFINITY else min(value, hard)


def limit_files(limits: Mapping[str, float]) -> None:
    """Bound what this process and those it forks write and hold open.

    Args:
        limits: From `Limits.to_dict()`.
    """
    for which, value in (
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_FSIZE, max(limits["file_bytes"], limits["output_bytes"] + 1)),
        (resource.RLIMIT_NOFILE, limits["open_files"]),
    ):
        bound = at_most(which, int(value))
        resource.setrlimit(which, (bound, bound))


def signal_child(pid: int, number: int) -> None:
    """Send a signal to child `pid` and its process group."""
    for send in (os.killpg, os.kill):
        with contextlib.suppress(ProcessLookupError, PermissionError):
            send(pid, number)


def end_child(pid: int) -> tuple[int, float]:
    """Kill child `pid` and its process group; return its wait status and the CPU seconds it used."""
    signal_child(pid, signal.SIGKILL)
    try:
        _, status, usage = os.wait4(pid, 0)
    except ChildProcessError:
        return 0, 0.0
    return status, usage.ru_utime + usage.ru_stime
