"""Reads how much CPU time another process has used, to the nanosecond where the kernel allows it."""

from __future__ import annotations

import time

_CPUCLOCK_SCHED = 2


def process_cpu_seconds(pid: int) -> float | None:
    """Return the CPU seconds used by all threads of process `pid`, or None when it is gone.

    None everywhere but on Linux, too: there a process bounds its own, see `separation`.
    """
    try:
        # The kernel's encoding of another process's CPU clock: MAKE_PROCESS_CPUCLOCK in posix-timers.
        return time.clock_gettime((~pid << 3) | _CPUCLOCK_SCHED)
    except OSError:
        return None
