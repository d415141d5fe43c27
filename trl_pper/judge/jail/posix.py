"""Define the interface of a jail, and the jail that works on every POSIX system.

The module has three parts:

- functions that every jail and the zygote use, for descriptors, limits and the end of children;
- `Jail`, the interface that a zygote uses;
- `PosixJail`, the jail of the level "processes", which runs programs in separate processes and no more.

`PosixJail` bounds CPU time in whole seconds, the bytes that a program prints, the bytes that it writes to each file,
and its descriptors. Where the system counts processes without threads, it forbids a program to start a process. It
bounds neither memory nor which files are read and written nor the network. It finds no process that a program started
and that left its process group. Expected answers are in another process of the same user.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import math
import os
import random
import resource
import signal
import socket
import sys
import time
from collections.abc import Callable, Mapping, Sequence

from trl_pper.judge.wire.channel import Wait

#: Above every descriptor that a worker has, which are few.
_CLOSED_TO = 1 << 10
_STACK_BYTES = 120 << 20
_THREAD_STACK_BYTES = 8 << 20
#: At least the size of `pthread_attr_t` on every system.
_THREAD_ATTRIBUTES_BYTES = 256


#: A worker's own descriptors lie from here on; lower numbers are for the descriptors that its children get.
FIRST_OWN_DESCRIPTOR = 40


class LevelUnavailable(RuntimeError):
    """An error: this machine does not offer the isolation level asked for; the message names the reason."""


def arrange_descriptors(sources: Sequence[int], *, first: int) -> None:
    """Give the descriptors `sources` the numbers `first`, `first + 1`, ... in this process."""
    # Usually they have these numbers already.
    if list(sources) != list(range(first, first + len(sources))):
        # First to numbers above, so that no source is overwritten before it is copied.
        high = [fcntl.fcntl(source, fcntl.F_DUPFD, first + len(sources)) for source in sources]
        for target, source in enumerate(high, first):
            os.dup2(source, target)


def renew_standard_streams() -> None:
    """Connect descriptors 0 to 2 of this process to /dev/null, opened for this process alone."""
    # The flags of an open file, which any process that has it may set, would pass from program to program.
    null = os.open(os.devnull, os.O_RDWR)
    for number in range(3):
        os.dup2(null, number)
    os.close(null)


def at_most(which: int, value: int) -> int:
    """Return `value`, or the hard limit of resource `which` if that is lower."""
    # Only root may raise a hard limit.
    _, hard = resource.getrlimit(which)
    return value if hard == resource.RLIM_INFINITY else min(value, hard)


def raise_stack_limit() -> None:
    """Let the stacks of this process and its future children grow to 120 MiB, whatever soft limit it was started with.

    A lower hard limit stays in force. The stack takes memory only as it grows, and counts towards the bound on memory.
    """
    # Recursion through C code, as with functools.lru_cache, ends in SIGSEGV at this limit. Kernels leave at least 128
    # MiB of addresses free below the stack of any process, so that the limit may be raised while the process runs.
    bound = at_most(resource.RLIMIT_STACK, _STACK_BYTES)
    soft, hard = resource.getrlimit(resource.RLIMIT_STACK)
    if soft != bound:
        # Some systems refuse limits that are no multiple of a page, or above a bound of their own.
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_STACK, (bound, hard))


def bound_thread_stacks() -> None:
    """Give new threads of this process and its future children stacks of 8 MiB, whatever limit it was started with.

    Without effect where the C library cannot be told.
    """
    # glibc takes the soft limit on the stack, read when a program starts, for the size of each thread's stack: under a
    # limit of a gibibyte three threads would fill the memory of a program.
    libc = ctypes.CDLL(None)
    if hasattr(libc, "pthread_setattr_default_np"):
        attributes = ctypes.create_string_buffer(_THREAD_ATTRIBUTES_BYTES)
        libc.pthread_attr_init(attributes)
        libc.pthread_attr_setstacksize(attributes, ctypes.c_size_t(_THREAD_STACK_BYTES))
        libc.pthread_setattr_default_np(attributes)
        libc.pthread_attr_destroy(attributes)


def limit_files(limits: Mapping[str, float]) -> None:
    """Bound the bytes that this process and its future children write to a file, and their open files.

    Args:
        limits: From `Limits.to_dict()`.
    """
    # Hard limits as well, so that a program cannot raise them. One byte more than the output limit may be written, so
    # that the host can tell an output that is too long from an output of just that length.
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


class Ending(ctypes.Structure):
    """A place in memory for the way in which a child ended; the host unpacks the bytes with `wire.rules.ENDING`.

    A zygote must never have a Python object with a number that a program chose, such as an exit status: freed objects
    stay in memory, and the next program inherits the memory. So the kernel writes here, and `clear` fills the place
    with zeros.
    """

    _fields_ = (
        ("killed", ctypes.c_int),
        ("overrun", ctypes.c_int),
        ("status", ctypes.c_int),
        # A `struct rusage` of Linux: user and system seconds and microseconds, then fourteen numbers of no interest.
        ("times", ctypes.c_long * 4),
        ("others", ctypes.c_long * 14),
    )

    def clear(self) -> None:
        """Fill the place with zeros."""
        ctypes.memset(ctypes.byref(self), 0, ctypes.sizeof(self))


class Jail:
    """An interface for the jail of a worker, made once in the worker before it forks.

    Args:
        level: The isolation level.
        directory: A directory that only this worker uses; programs work in it unless the level brings a file system.
        limits: From `Limits.to_dict()`.
    """

    def __init__(self, level: str, *, directory: str, limits: Mapping[str, float]) -> None:
        self.level = level
        self.limits = limits
        #: Working directory of programs.
        self.room = os.path.join(directory, "room")

    @property
    def process_namespaces(self) -> bool:
        """Whether each candidate has its own process namespace; all processes in it die with the candidate."""
        return False

    @property
    def bounded_files(self) -> bool:
        """Whether the file system itself bounds the bytes that a candidate writes."""
        return False

    def open_room(self, *, script: bool) -> None:
        """Make the working directory of the next candidate.

        Args:
            script: Whether the candidate needs a file for its standard input.
        """
        os.mkdir(self.room)
        # Candidates may be another user than this process.
        os.chmod(self.room, 0o1777)

    def close_room(self) -> bool:
        """Remove the working directory; return False if it must be emptied first."""
        try:
            os.rmdir(self.room)
        except FileNotFoundError:
            return True
        except OSError:
            return False
        return True

    @property
    def may_leave_processes(self) -> bool:
        """Whether a candidate can have left processes behind that `children` finds."""
        return False

    def fork_candidate(self) -> int:
        """Fork a child that is to be a candidate; return 0 in the child."""
        raise NotImplementedError

    def fork_referee(self) -> int:
        """Fork a child that is to be a referee; return 0 in the child."""
        raise NotImplementedError

    def seal_candidate(self, parent: int, descriptors: int, *, script: bool = False) -> None:
        """Give up all rights that a program must not have; the last step before untrusted work.

        Args:
            parent: Process id of the parent; this process must not outlive it.
            descriptors: Number of descriptors that stay open, counted from 0; all others are closed.
            script: Whether the process only compiles a script and then calls the function from `script_fork`, if that
                is not None.
        """
        raise NotImplementedError

    def script_fork(self) -> Callable[[], int] | None:
        """Return a function with which a candidate forks a sealed child for each test of a script.

        The function returns 0 in the child. None means that the candidate runs the test itself, and no other.
        """
        return None

    def seal_referee(self, parent: int, descriptors: int) -> None:
        """Give up all rights that test code must not have; the arguments are those of `seal_candidate`."""
        raise NotImplementedError

    def input_file(self) -> int:
        """Return a descriptor of a new, empty file for a script's standard input."""
        raise NotImplementedError

    def children(self) -> list[int]:
        """Return the process ids of this process's children, or an empty list where the system cannot tell."""
        return []

    def cpu_allowance(self, seconds: float) -> Wait | None:
        """Return a function that a candidate calls before it waits for work; None where the jail needs no call.

        Args:
            seconds: CPU seconds for each piece of work.
        """
        return None

    def has_ended(self, pid: int) -> bool:
        """Return whether child `pid` has ended."""
        raise NotImplementedError

    def end_child(self, pid: int, ending: Ending | None = None) -> None:
        """Kill child `pid` and its process group, and note how it ended."""
        raise NotImplementedError


class PosixJail(Jail):
    """A jail for the level "processes"; the module describes its bounds.

    Args:
        level: "processes".
        directory: A directory that only this worker uses; programs work in it.
        imports: Import paths that programs may use; not used, because all files are readable.
        limits: From `Limits.to_dict()`.

    Raises:
        LevelUnavailable: The process belongs to root.
    """

    def __init__(self, level: str, *, directory: str, imports: Sequence[str], limits: Mapping[str, float]) -> None:
        if os.geteuid() == 0:
            raise LevelUnavailable("programs would be processes of root; run the judge as an ordinary user")
        super().__init__(level, directory=directory, limits=limits)
        self._input_path = os.path.join(directory, "input")
        #: Wait status and resource usage of children that `has_ended` found ended, and so reaped, before `end_child`.
        self._endings: dict[int, tuple[int, resource.struct_rusage]] = {}
        limit_files(limits)

    def fork_candidate(self) -> int:
        """Fork a child that is to be a candidate; return 0 in the child."""
        pid = os.fork()
        if pid == 0:
            # Python seeds `random` anew in a forked child; with a fixed seed, verdicts on random programs repeat.
            random.seed(int(os.environ["PYTHONHASHSEED"]))
        return pid

    def fork_referee(self) -> int:
        """Fork a child that is to be a referee; return 0 in the child."""
        return os.fork()

    def input_file(self) -> int:
        """Return a descriptor of a new, empty file for a script's standard input."""
        descriptor = os.open(self._input_path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        # Without a name, it can only be reached through the descriptor.
        os.unlink(self._input_path)
        return descriptor

    def cpu_allowance(self, seconds: float) -> Wait:
        """Return a function with which a candidate renews its own CPU time, in whole seconds."""
        # Off Linux no other process can read the CPU time of a candidate, so its own soft limit has to end it.

        def renew(channel: socket.socket, event: int) -> None:
            _, hard = resource.getrlimit(resource.RLIMIT_CPU)
            allowed = at_most(resource.RLIMIT_CPU, math.ceil(time.process_time() + seconds))
            resource.setrlimit(resource.RLIMIT_CPU, (allowed, hard))

        return renew

    def seal_candidate(self, parent: int, descriptors: int, *, script: bool = False) -> None:
        """Set the limits of a program; the last step before untrusted work. See `Jail.seal_candidate`."""
        if self.limits["processes"] == 1 and sys.platform != "linux":
            # All processes of the user count, so a bound of 1 forbids new processes. Linux counts threads, too: there
            # the bound would forbid threads.
            bound = at_most(resource.RLIMIT_NPROC, 1)
            resource.setrlimit(resource.RLIMIT_NPROC, (bound, bound))
        self.seal_referee(parent, descriptors)

    def seal_referee(self, parent: int, descriptors: int) -> None:
        """Ask for a memory bound, and close all descriptors but the first `descriptors`. See `Jail.seal_candidate`."""
        _limit_memory(int(self.limits["memory_bytes"]))
        os.closerange(descriptors, _CLOSED_TO)
        # The parent is gone already, so nobody would end this process.
        if os.getppid() != parent:
            os._exit(1)

    def has_ended(self, pid: int) -> bool:
        """Return whether child `pid` has ended."""
        if pid not in self._endings:
            found, status, usage = os.wait4(pid, os.WNOHANG)
            if found:
                self._endings[pid] = status, usage
        return pid in self._endings

    def end_child(self, pid: int, ending: Ending | None = None) -> None:
        """Kill child `pid` and its process group, and note how it ended."""
        known = self._endings.pop(pid, None)
        if known is None:
            signal_child(pid, signal.SIGKILL)
            with contextlib.suppress(ChildProcessError):
                known = os.wait4(pid, 0)[1:]
        else:
            # The child is reaped, so its own number is free again and only its group gets the signal. While the group
            # has members, no other process gets that number.
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(pid, signal.SIGKILL)
        if known is not None and ending is not None:
            ending.status, usage = known
            for place, seconds in enumerate((usage.ru_utime, usage.ru_stime)):
                ending.times[2 * place], ending.times[2 * place + 1] = int(seconds), round(seconds % 1 * 1e6)


def _limit_memory(size: int) -> None:
    """Ask for a bound of `size` bytes on the address space; without effect where the system refuses it."""
    # macOS refuses the limit or ignores it, and this level promises none.
    with contextlib.suppress(ValueError, OSError):
        bound = at_most(resource.RLIMIT_AS, size)
        resource.setrlimit(resource.RLIMIT_AS, (bound, bound))
