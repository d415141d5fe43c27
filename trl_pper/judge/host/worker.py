"""Start, ask and end a worker process, and read outcomes from the way its candidates ended."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import resource
import select
import shutil
import signal
import socket
import stat
import subprocess
import sys
import sysconfig
import tempfile
import weakref
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from trl_pper.judge.host.system import HostSystem, host_system
from trl_pper.judge.limits import Limits
from trl_pper.judge.verdict import Outcome
from trl_pper.judge.wire.channel import frame
from trl_pper.judge.wire.rules import ENDING, PORTABLE_LEVEL, READY

_ZYGOTE = Path(__file__).parents[1] / "worker" / "zygote.py"
_START_SECONDS = 60.0
_END_SECONDS = 8.0
_READY_SECONDS = 30.0


class WorkerError(Exception):
    """A failure of the sandbox, which says nothing about the program being judged."""


class Ending(NamedTuple):
    """The way in which a candidate ended.

    Args:
        status: The wait status, as `os.wait4` returns it.
        cpu_seconds: CPU seconds that it used.
        killed: Whether the zygote had to kill it.
        overrun: Whether it was killed because it had left too many files, or too many bytes in files.
    """

    status: int
    cpu_seconds: float
    killed: bool
    overrun: bool


class Closable(Protocol):
    """An object that holds a descriptor."""

    def close(self) -> None:
        """Close the descriptor."""


def clean_environment(seed: int = 0) -> dict[str, str]:
    """Return the whole environment of a worker; of the caller's variables it holds LD_LIBRARY_PATH alone.

    Args:
        seed: Seed of text hashes, and so of the order of sets.
    """
    environment = {
        "PATH": "/usr/local/bin:/usr/bin:/bin",
        "LANG": "C.UTF-8",
        "PYTHONHASHSEED": str(seed),
        "PYTHONUTF8": "1",
        # Numerical libraries would start a thread for each core, and the threads of a program are limited.
        "OMP_NUM_THREADS": "1",
        "OPENBLAS_NUM_THREADS": "1",
        # The C library would reserve 64 MiB of addresses for each thread, up to eight times the number of cores: on a
        # large machine threads would reach the limit on memory long before their own.
        "MALLOC_ARENA_MAX": "2",
    }
    # Some interpreters do not start without it.
    if "LD_LIBRARY_PATH" in os.environ:
        environment["LD_LIBRARY_PATH"] = os.environ["LD_LIBRARY_PATH"]
    return environment


class TestsLost(WorkerError):
    """The process of the tests ended while it judged a program; its worker is alive."""

    __test__ = False


class HostUnfit(WorkerError):
    """A state of the calling process or of its machine in which no worker can start, at whatever level."""


#: A worker keeps its own descriptors from 40 on, out of the way of those of programs.
_LEAST_OPEN_FILES = 64


def check_host(level: str) -> None:
    """Make sure that this process can start workers, and that none of its descriptors gets a standard stream's number.

    Args:
        level: The isolation level of the workers.

    Raises:
        HostUnfit: It cannot; the message says why, and what to do.
    """
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < _LEAST_OPEN_FILES:
        raise HostUnfit(
            f"a worker needs to open {_LEAST_OPEN_FILES} files, and this process and its children may open {soft};"
            " raise the limit, for instance with `ulimit -n 1024`"
        )
    if level != PORTABLE_LEVEL and not os.path.exists("/proc/self/uid_map"):
        raise HostUnfit(
            "/proc is not mounted, and a worker finds its user and its processes there; mount it, with root's"
            " `mount -t proc proc /proc`"
        )
    with _refused("no descriptor is left"):
        for number in range(3):
            try:
                os.fstat(number)
            except OSError:
                # Started without it, as by `<&-`. The next descriptor would get the number, and a library that prints
                # would write to it.
                taken = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
                if taken != number:
                    os.close(taken)


@contextlib.contextmanager
def _refused(failure: str, remedy: str = "") -> Iterator[None]:
    """Turn an error of the operating system into one that says what failed and what to do."""
    try:
        yield
    except OSError as error:
        remedies = {
            errno.EMFILE: "; raise the limit on open files, for instance with `ulimit -n 4096`",
            errno.ENFILE: "; the machine has no open files left",
            errno.EAGAIN: "; raise the limit on processes, for instance with `ulimit -u`",
            errno.ENOMEM: "; the machine has no memory left for another process",
        }
        raise HostUnfit(f"{failure}: {error}{remedies.get(error.errno or 0, remedy)}") from error


class LevelRefused(WorkerError):
    """An isolation level that this machine does not offer to a worker."""


class Worker:
    """A running worker, from the host's side. Not thread-safe but for `cancel`: it serves a program at a time.

    Args:
        level: Isolation level that the worker enters; see `levels.ISOLATION_LEVELS`.
        limits: Bounds on its programs.
        preload: Modules that it imports before the first program, for programs that use them.
        seed: Seed of text hashes and of `random` in every program.
        announce: Called with this worker before it has started, so that another thread may `cancel` the start.

    Raises:
        LevelRefused: The machine does not offer `level`.
        HostUnfit: No worker can start here.
        WorkerError: The worker does not start.
    """

    def __init__(
        self,
        level: str,
        limits: Limits,
        preload: Sequence[str] = (),
        *,
        seed: int = 0,
        announce: Callable[[Worker], None] | None = None,
    ) -> None:
        self.level = level
        self.limits = limits
        #: The operating system's side of this worker.
        self.system = host_system(level)
        check_host(level)
        with contextlib.ExitStack() as started:
            with _refused(
                "no folder for a worker can be made", "; set TMPDIR to a folder that has room and can be written to"
            ):
                self.directory, owned = _own_directory()
            started.callback(os.close, owned)
            started.callback(_discard, self.directory)
            with _refused("a worker cannot be started"):
                self.line, theirs = self.system.line_pair()
                started.callback(self.line.sock.close)
                with theirs:
                    self.process = self._start(theirs, preload, seed)
            # From here on the finalizer cleans up.
            started.pop_all()
        #: The referee of the task judged last, which `function` stores here between programs.
        self.bench: Any = None
        # Objects that are open as long as the worker's referee. The finalizer shares the list, as it outlives `self`.
        self._held: list[Closable] = []
        # The process id of the candidate at work, as the zygote sees it, or nothing; shared for the same reason.
        self._candidate: list[int] = []
        held = self.process, self.system, self.line.sock, self._held, self._candidate
        self._finalizer = weakref.finalize(self, _end, *held, self.directory, owned)
        self.line.sock.settimeout(_START_SECONDS)
        try:
            if announce is not None:
                announce(self)
            answer = json.loads(self._receive())
        except BaseException:
            # It runs no program yet, and would notice that the host has hung up only once it has started.
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)
            self.close()
            raise
        if "unavailable" in answer:
            self.close()
            raise LevelRefused(f"isolation level {level!r} is not available here: {answer['unavailable']}")

    def _start(self, theirs: socket.socket, preload: Sequence[str], seed: int) -> subprocess.Popen[bytes]:
        paths = [sysconfig.get_path("purelib"), sysconfig.get_path("platlib")]
        # `-I` would ignore PYTHONHASHSEED, and hash order must repeat from run to run. `-s -S -P` with an environment
        # made here is as isolated: no user site, no site, no script directory, no variable of the caller's.
        options = {
            "control": theirs.fileno(),
            "directory": self.directory,
            "imports": list(dict.fromkeys(paths)),
            "level": self.level,
            "limits": self.limits.to_dict(),
            "preload": list(preload) if self.system.preloads else [],
        }
        # A new interpreter rather than a fork of the host's, which may be a trainer of many gigabytes.
        return subprocess.Popen(
            [sys.executable, "-s", "-S", "-P", str(_ZYGOTE), json.dumps(options)],
            env=clean_environment(seed),
            pass_fds=[theirs.fileno()],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            # `_end` kills the process group of a worker that hangs, which must not be the host's.
            start_new_session=True,
            cwd="/",
        )

    def request(
        self, operation: str, descriptors: Sequence[int] = (), *, seconds: float, **fields: Any
    ) -> dict[str, Any]:
        """Send the zygote a request and return its answer.

        Args:
            operation: Name of the request: "referee", "dismiss" or "candidate".
            descriptors: Descriptors that the zygote's new child gets; the caller keeps its own copies.
            seconds: Wall seconds to wait for the answer.
            fields: The other fields of the request.

        Raises:
            WorkerError: The worker died, hangs or failed.
        """
        self._send({"op": operation, **fields}, descriptors, seconds)
        answer: dict[str, Any] = json.loads(self._receive())
        self._candidate[:] = [answer["pid"]] if "pid" in answer else []
        return answer

    def end_candidate(self, *, grace_seconds: float = 0.0) -> Ending:
        """Have the zygote kill the candidate, and return how it ended.

        Args:
            grace_seconds: Wall seconds that the candidate has to end by itself.

        Raises:
            WorkerError: The worker died, hangs or failed.
        """
        self._send({"op": "kill", "grace_seconds": grace_seconds}, (), _READY_SECONDS + grace_seconds)
        killed, overrun, status, *times = ENDING.unpack_from(self._receive())
        self._candidate.clear()
        cpu_seconds = times[0] + times[2] + (times[1] + times[3]) / 1e6
        return Ending(status=status, cpu_seconds=cpu_seconds, killed=bool(killed), overrun=bool(overrun))

    def _send(self, message: dict[str, Any], descriptors: Sequence[int], seconds: float) -> None:
        self.line.sock.settimeout(seconds)
        try:
            self.line.send(json.dumps(message).encode(), descriptors)
        except OSError as error:
            raise WorkerError(f"the worker is gone: {error}") from error

    def _receive(self) -> bytes:
        try:
            message = self.line.receive()
        except OSError as error:
            raise WorkerError(f"the worker does not answer: {error}") from error
        if not message:
            raise WorkerError("the worker has ended")
        return message

    def keep_bench(self, bench: Any, *held: Closable) -> None:
        """Store the referee `bench` for the next program, with the objects it holds open, in place of the last."""
        self.drop_bench()
        self.bench = bench
        self._held.extend(held)

    def drop_bench(self) -> None:
        """Close the channel to the referee of the last program, which ends it."""
        self.bench = None
        while self._held:
            self._held.pop().close()

    def cancel(self) -> None:
        """Hang up on the zygote from another thread; a call that waits for its answer raises WorkerError."""
        with contextlib.suppress(OSError):
            self.line.sock.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """End the worker and everything it started; harmless when repeated."""
        self.bench = None
        self._finalizer()


def _end(
    process: subprocess.Popen[bytes],
    system: HostSystem,
    control: socket.socket,
    held: list[Closable],
    candidate: list[int],
    directory: str,
    owned: int,
) -> None:
    # Losing its control socket is the zygote's order to clean up and leave.
    for each in (control, *held):
        each.close()
    try:
        process.wait(timeout=_END_SECONDS)
    except subprocess.TimeoutExpired:
        try:
            os.killpg(process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        process.wait()
    if process.returncode != 0:
        # A zygote that crashed or was killed could not end its candidate itself.
        for pid in candidate:
            system.end_orphan(pid)
    _remove(directory)
    os.close(owned)


_PREFIX = "trl-pper-judge-"
#: A file in each worker's directory. Its lock tells whether the process that made the directory is alive.
_OWNER = ".owner"


def _own_directory() -> tuple[str, int]:
    """Return a new directory for a worker, and a descriptor that proves, as long as it is open, that it is in use."""
    while True:
        directory = tempfile.mkdtemp(prefix=_PREFIX)
        # Candidates of a worker that runs as root are another user, who has to pass through here.
        os.chmod(directory, 0o711)
        try:
            owned = os.open(os.path.join(directory, _OWNER), os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        except OSError:
            # Without its mark nobody would remove it later.
            os.rmdir(directory)
            raise
        # Another process may take the file, before it has its lock, for one left behind.
        if _locked(owned) is not False and os.path.exists(os.path.join(directory, _OWNER)):
            return directory, owned
        os.close(owned)


def _locked(descriptor: int) -> bool | None:
    """Lock a file for this process; return whether it has the lock, or None where the file system has no locks."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return None
    return True


def remove_abandoned() -> None:
    """Remove the directories of workers whose host was killed, by this user and in this folder for temporary files.

    A lock decides, which the kernel drops with the process that holds it, in whatever process namespace that lives. A
    directory without a worker's own mark is left alone.
    """
    with contextlib.suppress(OSError), os.scandir(tempfile.gettempdir()) as entries:
        names = [entry.path for entry in entries if entry.name.startswith(_PREFIX)]
        for directory in names:
            _remove_if_abandoned(directory)


def _remove_if_abandoned(directory: str) -> None:
    with contextlib.suppress(OSError):
        status = os.lstat(directory)
        if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.geteuid():
            return
        mark = os.open(os.path.join(directory, _OWNER), os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            if _locked(mark):
                _remove(directory)
        finally:
            os.close(mark)


def _discard(directory: str) -> None:
    """Remove the directory of a worker that has not started, without a descriptor: there may be none left."""
    with contextlib.suppress(OSError):
        os.unlink(os.path.join(directory, _OWNER))
        os.rmdir(directory)


def _remove(directory: str) -> None:
    # A program whose zygote was killed may have nested directories deeper than the call stack.
    with contextlib.suppress(RecursionError):
        shutil.rmtree(directory, ignore_errors=True)


def ended_well(ending: Ending) -> bool:
    """Return whether the candidate exited by itself with status 0."""
    return ending.status == 0 and not ending.killed and not ending.overrun


def read_outcome(ending: Ending, limits: Limits) -> tuple[Outcome, str]:
    """Return outcome and message for a candidate that ended or hung up without a last message.

    Args:
        ending: How it ended.
        limits: The limits that it had.
    """
    if ending.overrun:
        message = f"the program left more than {limits.files} files or {limits.file_bytes} bytes in them"
        return Outcome.OUTPUT_LIMIT, message
    if ending.killed:
        return Outcome.RUNTIME_ERROR, "the process hung up without ending"
    code = os.waitstatus_to_exitcode(ending.status)
    if code >= 0:
        return Outcome.RUNTIME_ERROR, f"the process ended with status {code}"
    if -code == signal.SIGKILL:
        return Outcome.MEMORY_LIMIT, "the process was killed, as the kernel does when memory runs out"
    if -code == signal.SIGXCPU:
        return Outcome.TIMEOUT, "the process was ended by its CPU limit"
    name = signal.Signals(-code).name if -code in signal.valid_signals() else str(-code)
    return Outcome.RUNTIME_ERROR, f"the process was ended by {name}"


def await_ready(worker: Worker, channel: socket.socket, known: int) -> int:
    """Wait until a new candidate is ready; return its process id as the host sees it.

    Args:
        worker: The candidate's worker.
        channel: The socket to the candidate; `HostSystem.expect_process` knows it.
        known: The process id as the zygote sees it, maybe in another process namespace.

    Raises:
        WorkerError: The process ended before it was ready; it has been killed.
    """
    pid = first_pid(worker, channel, known)
    if pid is None:
        worker.end_candidate()
        raise WorkerError("a candidate ended before it was ready")
    return pid


def first_pid(worker: Worker, channel: socket.socket, known: int) -> int | None:
    """Wait until a new process is ready; return its process id as the host sees it, or None if it has ended.

    Args:
        worker: The worker of the process.
        channel: The socket to the process, of which nobody else holds the other end.
        known: As in `await_ready`.
    """
    expected = frame(READY)
    poll = select.poll()
    poll.register(channel, select.POLLIN)
    if poll.poll(1000 * _READY_SECONDS):
        word, pid = worker.system.first_word(channel, len(expected), known)
        if word == expected:
            return pid
    return None
