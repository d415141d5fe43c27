"""The level `processes`: programs in processes apart, by nothing but what every POSIX system has.

Enters: what `Confinement` takes. Leaves: a `Separation`, which stands in the place of one. It bounds CPU time in whole
seconds, what a program prints and how much it writes to each file, and its descriptors; where the system counts
processes without threads, it forbids a program to start one. It bounds neither memory nor which files are read and
written nor the network, and finds no process that a program started and that left its group. Expected answers are in
another process of the same user.
"""

from __future__ import annotations

import contextlib
import math
import os
import random
import resource
import signal
import socket
import sys
import time
from collections.abc import Mapping, Sequence

from trl_pper.judge.channel import Wait
from trl_pper.judge.process import LevelUnavailable, at_most, end_child, limit_files

#: Above every descriptor that a worker has, which are few.
_CLOSED_TO = 1 << 10


class Separation:
    """The separation of one worker's processes; made once in it, before it forks anything.

    Args:
        level: "processes".
        directory: A directory of the worker's own, in which programs work.
        imports: Import paths that programs may use; nothing has to be done for them.
        limits: From `Limits.to_dict()`.

    Raises:
        LevelUnavailable: This is root.
    """

    #: See `Confinement`.
    process_namespaces = False
    bounded_files = False
    #: What it leaves cannot be found, so there is nothing to look for.
    may_leave_processes = False

    def __init__(self, level: str, *, directory: str, imports: Sequence[str], limits: Mapping[str, float]) -> None:
        if os.geteuid() == 0:
            raise LevelUnavailable("programs would be processes of root; run the judge as an ordinary user")
        self.level = level
        self.limits = limits
        #: Working directory of programs.
        self.room = os.path.join(directory, "room")
        self._input_path = os.path.join(directory, "input")
        #: Endings of children that were asked for before the child was to be killed.
        self._endings: dict[int, tuple[int, float]] = {}
        os.mkdir(self.room)
        os.chdir(self.room)
        limit_files(limits)

    def fork_candidate(self) -> int:
        """Fork a child that is to be a candidate; return 0 in the child."""
        pid = os.fork()
        if pid == 0:
            # Python seeds it anew in a forked child.
            random.seed(int(os.environ["PYTHONHASHSEED"]))
        return pid

    def fork_referee(self) -> int:
        """Fork a child that is to be a referee; return 0 in the child."""
        return os.fork()

    def input_file(self) -> int:
        """Return a descriptor of a new, empty file for a script's standard input."""
        descriptor = os.open(self._input_path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        os.unlink(self._input_path)
        return descriptor

    def children(self) -> list[int]:
        """Return nothing: orphans of a program become children of the system's first process."""
        return []

    def cpu_allowance(self, seconds: float) -> Wait:
        """Return what a candidate does before it waits for work: renew its CPU time, which no other process can see.

        Args:
            seconds: CPU seconds for each piece of work; what is in force is the next whole second.
        """

        def renew(channel: socket.socket, event: int) -> None:
            _, hard = resource.getrlimit(resource.RLIMIT_CPU)
            allowed = at_most(resource.RLIMIT_CPU, math.ceil(time.process_time() + seconds))
            resource.setrlimit(resource.RLIMIT_CPU, (allowed, hard))

        return renew

    def seal_candidate(self, parent: int, descriptors: int) -> None:
        """Take on the limits of a program; the last step before untrusted work. See `Confinement`."""
        if self.limits["processes"] == 1 and sys.platform != "linux":
            # All processes of the user count, so that no other can be started. Linux counts threads, too.
            bound = at_most(resource.RLIMIT_NPROC, 1)
            resource.setrlimit(resource.RLIMIT_NPROC, (bound, bound))
        self.seal_referee(parent, descriptors)

    def seal_referee(self, parent: int, descriptors: int) -> None:
        """Let go of what is not for a child. See `Confinement`."""
        _limit_memory(int(self.limits["memory_bytes"]))
        os.closerange(descriptors, _CLOSED_TO)
        if os.getppid() != parent:
            os._exit(1)

    def has_ended(self, pid: int) -> bool:
        """Return whether child `pid` has ended."""
        if pid not in self._endings:
            found, status, usage = os.wait4(pid, os.WNOHANG)
            if found:
                self._endings[pid] = status, usage.ru_utime + usage.ru_stime
        return pid in self._endings

    def end_child(self, pid: int) -> tuple[int, float]:
        """Kill child `pid` and its process group; return its wait status and the CPU seconds it used."""
        ending = self._endings.pop(pid, None)
        if ending is None:
            return end_child(pid)
        # The child's own number is free again by now.
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(pid, signal.SIGKILL)
        return ending


def _limit_memory(size: int) -> None:
    """Ask for a bound on memory; macOS refuses it or takes no notice of it."""
    with contextlib.suppress(ValueError, OSError):
        bound = at_most(resource.RLIMIT_AS, size)
        resource.setrlimit(resource.RLIMIT_AS, (bound, bound))
