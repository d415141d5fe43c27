"""What processes use, read from /proc: CPU time, memory and descriptors of this process and all its descendants.

Leaves: plain numbers. A process that ends while it is read counts as gone.
"""

from __future__ import annotations

import os
import time

_TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")
_CPUCLOCK_SCHED = 2
#: Fields of /proc/PID/stat after the name: state, parent, ..., CPU time of the children waited for.
_STATE, _PARENT, _CHILDREN_USER, _CHILDREN_SYSTEM = 0, 1, 13, 14


def _stat(pid: int | str) -> list[str] | None:
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()
    except OSError:
        return None


def descendants(pid: int) -> list[int]:
    """Return the process ids of all living descendants of process `pid`."""
    children: dict[int, list[int]] = {}
    for name in filter(str.isdigit, os.listdir("/proc")):
        fields = _stat(name)
        if fields is not None and fields[_STATE] != "Z":
            children.setdefault(int(fields[_PARENT]), []).append(int(name))
    found: list[int] = []
    waiting = [pid]
    while waiting:
        next_ones = children.get(waiting.pop(), [])
        waiting += next_ones
        found += next_ones
    return found


def tree_cpu_seconds() -> float:
    """Return the CPU seconds, user and system, of this process and every descendant, living or waited for.

    The living are exact; those waited for by a descendant are rounded down to the kernel's ticks, 10 ms or so each.
    """
    used = os.times()
    return (
        used.children_user
        + used.children_system
        + time.process_time()
        + sum(map(_cpu_seconds, descendants(os.getpid())))
    )


def _cpu_seconds(pid: int) -> float:
    fields = _stat(pid)
    if fields is None:
        return 0.0
    waited_for = (int(fields[_CHILDREN_USER]) + int(fields[_CHILDREN_SYSTEM])) / _TICKS_PER_SECOND
    try:
        # The kernel's encoding of another process's CPU clock: MAKE_PROCESS_CPUCLOCK in posix-timers.
        return waited_for + time.clock_gettime((~pid << 3) | _CPUCLOCK_SCHED)
    except OSError:
        return waited_for


def resident_bytes(pid: int) -> int:
    """Return the resident memory of process `pid`; pages shared with other processes count in each of them."""
    try:
        with open(f"/proc/{pid}/statm") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return 0


def entries(path: str) -> int | None:
    """Return the number of entries of a directory, or None when this user may not read it."""
    try:
        return len(os.listdir(path))
    except FileNotFoundError:
        return 0
    except OSError:
        return None


def available_bytes() -> int:
    """Return the memory that new processes can have without swapping."""
    with open("/proc/meminfo") as file:
        fields = dict(line.split(":", 1) for line in file)
    return int(fields["MemAvailable"].split()[0]) * 1024
