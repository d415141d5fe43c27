"""The level `processes`: programs in processes apart, by nothing but what every POSIX system has.

Enters: what `Confinement` takes. Leaves: a `Separation`, which stands in the place of one. It bounds CPU time in whole
seconds, what a program prints and how much it writes to each file, and its descriptors; where the system counts
processes without threads, it forbids a program to start one. It bounds neither memory nor which files are read and
written nor the network, and finds no process that a program started and that left its group. Expected answers are in
another process of the same user.

What a worker's process does to itself and to its children by means that every POSIX system has.

Enters: descriptors, limits and process ids. Leaves: descriptors in their places, limits in force, and how a child
ended.
"""

from __future__ import annotations

import contextlib
import fcntl
import math
import os
import random
import resource
import signal
import socket
import sys
import time
from collections.abc import Mapping, Sequence

from trl_pper.judge.wire.channel import Wait

#: Above every descriptor that a worker has, which are few.
_CLOSED_TO = 1 << 10


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


class Jail:
    """The jail of one worker: made once in it, before it forks anything.

    Args:
        level: The isolation level.
        directory: A directory of the worker's own; programs work in it unless the level brings a file system.
        limits: From `Limits.to_dict()`.
    """

    def __init__(self, level: str, *, directory: str, limits: Mapping[str, float]) -> None:
        self.level = level
        self.limits = limits
        #: Working directory of programs.
        self.room = os.path.join(directory, "room")

    @property
    def process_namespaces(self) -> bool:
        """Whether each candidate has a process namespace, whose death kills everything in it."""
        return False

    @property
    def bounded_files(self) -> bool:
        """Whether the file system itself bounds what a candidate writes."""
        return False

    @property
    def may_leave_processes(self) -> bool:
        """Whether a candidate can have started processes that outlive it, and that can be found."""
        return False

    def fork_candidate(self) -> int:
        """Fork a child that is to be a candidate; return 0 in the child."""
        raise NotImplementedError

    def fork_referee(self) -> int:
        """Fork a child that is to be a referee; return 0 in the child."""
        raise NotImplementedError

    def seal_candidate(self, parent: int, descriptors: int) -> None:
        """Give up everything a program must not have; the last step before untrusted work.

        Args:
            parent: Process id of the parent this process must not outlive.
            descriptors: Descriptors to keep, counted from 0; all others are closed.
        """
        raise NotImplementedError

    def seal_referee(self, parent: int, descriptors: int) -> None:
        """Give up privileges; a referee runs trusted code and reads untrusted data. See `seal_candidate`."""
        raise NotImplementedError

    def input_file(self) -> int:
        """Return a descriptor of a new, empty file for a script's standard input."""
        raise NotImplementedError

    def children(self) -> list[int]:
        """Return the process ids of this process's children, as far as the system tells."""
        return []

    def cpu_allowance(self, seconds: float) -> Wait | None:
        """Return a function that a candidate calls before it waits for work; None if there is nothing to call.

        Args:
            seconds: CPU seconds for each piece of work.
        """
        return None

    def has_ended(self, pid: int) -> bool:
        """Return whether child `pid` has ended."""
        raise NotImplementedError

    def end_child(self, pid: int) -> tuple[int, float]:
        """Kill child `pid` and its process group; return its wait status and the CPU seconds it used."""
        return end_child(pid)


class PosixJail(Jail):
    """The jail of the level "processes".

    Args:
        level: "processes".
        directory: A directory of the worker's own, in which programs work.
        imports: Import paths that programs may use; nothing has to be done for them.
        limits: From `Limits.to_dict()`.

    Raises:
        LevelUnavailable: This is root.
    """

    def __init__(self, level: str, *, directory: str, imports: Sequence[str], limits: Mapping[str, float]) -> None:
        if os.geteuid() == 0:
            raise LevelUnavailable("programs would be processes of root; run the judge as an ordinary user")
        super().__init__(level, directory=directory, limits=limits)
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

    def cpu_allowance(self, seconds: float) -> Wait:
        """Return a function that renews a candidate's CPU time, which no other process can see, in whole seconds."""

        def renew(channel: socket.socket, event: int) -> None:
            _, hard = resource.getrlimit(resource.RLIMIT_CPU)
            allowed = at_most(resource.RLIMIT_CPU, math.ceil(time.process_time() + seconds))
            resource.setrlimit(resource.RLIMIT_CPU, (allowed, hard))

        return renew

    def seal_candidate(self, parent: int, descriptors: int) -> None:
        """Take on the limits of a program; the last step before untrusted work."""
        if self.limits["processes"] == 1 and sys.platform != "linux":
            # All processes of the user count, so that no other can be started. Linux counts threads, too.
            bound = at_most(resource.RLIMIT_NPROC, 1)
            resource.setrlimit(resource.RLIMIT_NPROC, (bound, bound))
        self.seal_referee(parent, descriptors)

    def seal_referee(self, parent: int, descriptors: int) -> None:
        """Bound the memory, and close the descriptors that are not for a child."""
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
