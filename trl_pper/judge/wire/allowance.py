"""Bound the CPU time and wall time of a running test, and the wall time of all tests of a program together.

`Allowance` measures the candidate's process and raises `TimeoutError("cpu")` or `TimeoutError("wall")` when its time
is spent. It does not bound the CPU time of the referee: the referee has a timer of its own.
"""

from __future__ import annotations

import math
import select
import socket
import time

from trl_pper.judge.wire.channel import Wait

_QUICK_MILLISECONDS = 5
_TICK_SECONDS = 0.1


class Allowance:
    """A set of clocks for the tests of a single program.

    Args:
        cpu_seconds: CPU seconds of each test.
        wall_seconds: Wall seconds of each test.
        tests: Number of tests; bounds the wall time of all tests together by `(tests + 1) * wall_seconds`. `math.inf`
            sets no such bound.
    """

    def __init__(self, *, cpu_seconds: float, wall_seconds: float, tests: float = math.inf) -> None:
        self.cpu_seconds = cpu_seconds
        self.wall_seconds = wall_seconds
        # A test that runs many times restarts its clocks each time, so the tests need a common end as well.
        self.end = time.monotonic() + (tests + 1) * wall_seconds

    def start(self, pid: int) -> None:
        """Start the clocks of a test that process `pid` will run."""
        self.pid = pid
        self.cpu_start = process_cpu_seconds(pid) or 0.0
        self.wall_end = min(time.monotonic() + self.wall_seconds, self.end)

    def is_spent(self) -> bool:
        """Return whether all tests together took too long."""
        return time.monotonic() >= self.end

    def check(self) -> float:
        """Return the CPU seconds that the test has left.

        Raises:
            TimeoutError: The time of the test is spent; the message is "cpu" or "wall".
        """
        left = self.cpu_seconds - ((process_cpu_seconds(self.pid) or 0.0) - self.cpu_start)
        if left <= 0:
            raise TimeoutError("cpu")
        if time.monotonic() >= self.wall_end:
            raise TimeoutError("wall")
        return left

    def waiter(self, channel: socket.socket) -> Wait:
        """Return a function that waits until `channel` is ready and raises `TimeoutError` once the time is spent."""
        polls = {event: select.poll() for event in (select.POLLIN, select.POLLOUT)}
        for event, poll in polls.items():
            poll.register(channel, event)

        def wait(sock: socket.socket, event: int) -> None:
            poll = polls[event]
            # A candidate that keeps sending single bytes is always ready, so the wall clock is read here too. Reading
            # the CPU clock costs more, so that waits for a longer wait.
            if poll.poll(_QUICK_MILLISECONDS) and time.monotonic() < self.wall_end:
                return
            while True:
                left = self.check()
                # A single thread cannot spend `left` any sooner; several threads can, so the tick bounds the wait.
                if poll.poll(1000 * min(max(left, 0.001), _TICK_SECONDS)):
                    return

        return wait


_CPUCLOCK_SCHED = 2


def process_cpu_seconds(pid: int) -> float | None:
    """Return the CPU seconds used by all threads of process `pid`, or None when it is gone.

    Returns None on every system but Linux; there a candidate bounds its own CPU time, see `jail.posix.PosixJail`.
    """
    try:
        # The clock id of another process's CPU time, with nanosecond resolution: the macro MAKE_PROCESS_CPUCLOCK in
        # the kernel's include/linux/posix-timers.h.
        return time.clock_gettime((~pid << 3) | _CPUCLOCK_SCHED)
    except OSError:
        return None
