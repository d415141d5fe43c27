"""What a running test may still use: CPU time of the candidate, wall time, and any bound on all tests together.

Enters: limits and a process id. Leaves: functions that wait for a socket, and `TimeoutError("cpu")` or `("wall")`. The
CPU time of the referee itself is bounded by its own timer.

Reads how much CPU time another process has used, to the nanosecond where the kernel allows it.
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
    """The clocks of one program's tests.

    Args:
        cpu_seconds: CPU seconds of one test.
        wall_seconds: Wall seconds of one test.
        tests: Number of tests, where a test that runs many times starts its allowance as often, so that the time of
            all of them together needs a bound too; `math.inf` sets none.
    """

    def __init__(self, *, cpu_seconds: float, wall_seconds: float, tests: float = math.inf) -> None:
        self.cpu_seconds = cpu_seconds
        self.wall_seconds = wall_seconds
        self.end = time.monotonic() + (tests + 1) * wall_seconds

    def start(self, pid: int) -> None:
        """Start the allowance of a test that process `pid` is to run."""
        self.pid = pid
        self.cpu_start = process_cpu_seconds(pid) or 0.0
        self.wall_end = min(time.monotonic() + self.wall_seconds, self.end)

    def is_spent(self) -> bool:
        """Whether all tests together took too long."""
        return time.monotonic() >= self.end

    def check(self) -> float:
        """Return the CPU seconds the test has left.

        Raises:
            TimeoutError: "cpu" or "wall", the allowance that is spent.
        """
        left = self.cpu_seconds - ((process_cpu_seconds(self.pid) or 0.0) - self.cpu_start)
        if left <= 0:
            raise TimeoutError("cpu")
        if time.monotonic() >= self.wall_end:
            raise TimeoutError("wall")
        return left

    def waiter(self, channel: socket.socket) -> Wait:
        """Return a function that waits for `channel` as long as the allowance lasts."""
        polls = {event: select.poll() for event in (select.POLLIN, select.POLLOUT)}
        for event, poll in polls.items():
            poll.register(channel, event)

        def wait(sock: socket.socket, event: int) -> None:
            poll = polls[event]
            # Bytes that keep dribbling in are always ready; the wall clock ends those as well.
            if poll.poll(_QUICK_MILLISECONDS) and time.monotonic() < self.wall_end:
                return
            while True:
                left = self.check()
                if poll.poll(1000 * min(max(left, 0.001), _TICK_SECONDS)):
                    return

        return wait


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
