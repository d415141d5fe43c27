"""Find out which guarantees hold on this machine, by running hostile programs that try to break them.

A guarantee is "verified" if its program tried and failed, else "absent". Nothing is assumed from the platform, the
user or the kernel version. A verified guarantee is no proof: another program might find another way.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator

from trl_pper.judge.host.function import judge_function
from trl_pper.judge.host.stdio import judge_stdio
from trl_pper.judge.host.worker import Worker, clean_environment
from trl_pper.judge.limits import Limits
from trl_pper.judge.verdict import Outcome
from trl_pper.judge.wire.rules import PORTABLE_LEVEL
from trl_pper.tasks.task import FunctionTests, StdioCase, StdioTests

#: For programs that run into a limit, so that they end soon.
_TIGHT = Limits(cpu_seconds=0.3, memory_bytes=128 << 20, output_bytes=1 << 16, file_bytes=1 << 20, files=50)
#: For programs that search for a way out, which takes CPU time on a slow machine.
_PATIENT = Limits(cpu_seconds=5.0)
#: Environment variables that an interpreter or macOS sets in a process, and that tell nothing of the host's.
_OF_THE_SYSTEM = ("LC_CTYPE", "__CF_USER_TEXT_ENCODING", "__PYVENV_LAUNCHER__")


def examine(level: str) -> dict[str, str]:
    """Try to break every guarantee at isolation level `level`.

    Returns:
        For each guarantee, by name, "verified" or "absent".

    Raises:
        WorkerError: A worker could not be started or died.
    """
    with _worker(level, _TIGHT) as tight, _worker(level, _PATIENT) as patient:
        found = {name: "verified" if holds(tight) else "absent" for name, holds in _BOUNDS.items()}
        found |= {name: "verified" if holds(patient) else "absent" for name, holds in _WALLS.items()}
    return found


def escapes(level: str) -> list[str]:
    """Return the names of the guarantees of `level` that hostile programs got past.

    Raises:
        LevelRefused: The machine does not offer `level`.
        WorkerError: A worker could not be started or died.
    """
    # No program here runs into a limit, so that this is quick enough to run before the first use of a level.
    with _worker(level, _PATIENT) as worker:
        return [name for name in _PROMISES[level] if not _WALLS[name](worker)]


@contextlib.contextmanager
def _worker(level: str, limits: Limits) -> Iterator[Worker]:
    worker = Worker(level, limits)
    try:
        yield worker
    finally:
        worker.close()


def descendants(pid: int) -> list[int]:
    """Return the process ids of all descendants of process `pid` that have not ended; for Linux."""
    children: dict[int, list[int]] = {}
    for name in filter(str.isdigit, os.listdir("/proc")):
        with contextlib.suppress(OSError), open(f"/proc/{name}/stat") as file:
            # A program chooses its own name, which stands in parentheses and may hold spaces and parentheses.
            fields = file.read().rpartition(")")[2].split()
            if fields[0] != "Z":
                children.setdefault(int(fields[1]), []).append(int(name))
    found, waiting = [], [pid]
    while waiting:
        waiting += (next_ones := children.get(waiting.pop(), []))
        found += next_ones
    return found


def _running(worker: Worker) -> set[int] | None:
    """Return the process ids of a worker's processes, or None if they cannot be found out."""
    if worker.level != PORTABLE_LEVEL:
        return set(descendants(worker.process.pid))
    # An orphan is no descendant of the worker any more, but still has its command line.
    command = ["ps", "-A", "-ww", "-o", "pid=,stat=,command="]
    try:
        listed = subprocess.run(command, capture_output=True, text=True, errors="replace", check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        return None
    rows = [line.split(maxsplit=2) for line in listed.splitlines() if worker.directory in line]
    return {int(row[0]) for row in rows if not row[1].startswith("Z")} or None


def _outcome(worker: Worker, program: str, *, given: str = "", expected: str = "") -> Outcome:
    tests = StdioTests(cases=(StdioCase(input=given, output=expected),))
    return judge_stdio(worker, program, tests, worker.limits).outcomes[0]


def _cpu_limit(worker: Worker) -> bool:
    return _outcome(worker, "while True: pass") is Outcome.TIMEOUT


def _memory_limit(worker: Worker) -> bool:
    # It stops by itself at four times the limit, in case nothing else stops it.
    program = "kept = []\nwhile len(kept) < 32: kept.append(b'x' * (1 << 24))"
    # On a busy machine it may reach the limit of CPU time first.
    return any(_outcome(worker, program) is Outcome.MEMORY_LIMIT for _ in range(3))


def _output_limit(worker: Worker) -> bool:
    program = "import os\nwhile True: os.write(1, b'x' * 4096)"
    return _outcome(worker, program) is Outcome.OUTPUT_LIMIT


def _process_limit(worker: Worker) -> bool:
    # It forks at most 200 times, in case nothing limits it. With a limit of 1, the first fork fails.
    program = """
import os, signal
started = 0
try:
    while started < 200:
        pid = os.fork()
        if pid == 0:
            signal.pause()
        started += 1
except BlockingIOError:
    print("limited")
"""
    return _outcome(worker, program, expected="limited") is Outcome.PASSED


def _thread_limit(worker: Worker) -> bool:
    program = """
import threading
stop = threading.Event()
try:
    for _ in range(200):
        threading.Thread(target=stop.wait).start()
except RuntimeError:
    print("limited")
stop.set()
"""
    return _outcome(worker, program, expected="limited") is Outcome.PASSED


def _file_limit(worker: Worker) -> bool:
    program = """
import os
for number in range(100000):
    os.makedirs(f"{number % 7}/{number}")
    open(f"{number % 7}/{number}/file", "w").write("x" * 4096)
"""
    return _outcome(worker, program) in (Outcome.OUTPUT_LIMIT, Outcome.RUNTIME_ERROR)


def _nothing_outlives(worker: Worker) -> bool:
    # A process that leaves its session and loses its parent can be found neither by group nor by descent.
    program = """
import os, time
try:
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            time.sleep(600)
        os._exit(0)
    os.wait()
except OSError:
    pass
print("started")
"""
    before = _running(worker)
    outcome = _outcome(worker, program, expected="started")
    after = _running(worker)
    return outcome is Outcome.PASSED and before is not None and after is not None and before.issuperset(after)


def _answers_kept_out(worker: Worker) -> bool:
    # Finding the planted text proves that the search works.
    program = """
import gc, sys
planted = "plan" + "ted-" + str(id(gc))
def reachable():
    frame = sys._getframe()
    while frame is not None:
        yield from frame.f_globals.values()
        yield from frame.f_locals.values()
        frame = frame.f_back
    for thing in gc.get_objects():
        yield from thing.values() if type(thing) is dict else thing if type(thing) in (list, tuple, set) else ()
def hunt():
    words = {thing for thing in reachable() if type(thing) is str}
    if planted not in words:
        raise LookupError("the search does not work")
    found = [word for word in words if word.startswith("answ" + "er-")]
    for number in range(256):
        try:
            found += [content for content in [os.pread(number, 1 << 20, 0)] if b"answ" + b"er-" in content]
        except OSError:
            pass
    return found
import os
"""
    tests = FunctionTests(code=f'assert "answer-{secrets.token_hex(8)}" in hunt()', entry_point="hunt")
    return judge_function(worker, program, tests, worker.limits).outcomes[0] is Outcome.WRONG_ANSWER


def _environment(worker: Worker) -> bool:
    # Variables of a trainer often hold tokens and passwords.
    program = """
import os
print(sorted(set(os.environ) - set(input().split())))
"""
    allowed = " ".join((*clean_environment(), "HOME", "TMPDIR", *_OF_THE_SYSTEM))
    return _outcome(worker, program, given=allowed, expected="[]") is Outcome.PASSED


def _files_unread(worker: Worker) -> bool:
    with tempfile.NamedTemporaryFile("w", suffix=".txt") as file:
        # Readable for everybody, so that the mode alone does not protect it.
        os.chmod(file.name, 0o644)
        print(secret := secrets.token_hex(8), file=file, flush=True)
        program = "print(open(input()).read())"
        return _outcome(worker, program, given=file.name, expected=secret) is not Outcome.PASSED


def _files_unwritten(worker: Worker) -> bool:
    with tempfile.TemporaryDirectory() as directory:
        # Writable for everybody, so that the mode alone does not protect it.
        os.chmod(directory, 0o777)
        target = os.path.join(directory, "written")
        _outcome(worker, "open(input(), 'w').write('x')", given=target)
        return not os.path.exists(target)


def _network(worker: Worker) -> bool:
    program = """
import socket
port, name = input().split()
for family, address in ((socket.AF_INET, ("127.0.0.1", int(port))), (socket.AF_UNIX, "\\0" + name)):
    try:
        with socket.socket(family) as sock:
            sock.settimeout(1)
            sock.connect(address)
            print("connected")
    except OSError:
        pass
"""
    name = secrets.token_hex(8)
    with socket.create_server(("127.0.0.1", 0)) as server, socket.socket(socket.AF_UNIX) as local:
        # Only Linux has socket names that are not files.
        with contextlib.suppress(OSError):
            local.bind("\0" + name)
            local.listen()
        return _outcome(worker, program, given=f"{server.getsockname()[1]} {name}") is Outcome.PASSED


def _other_processes(worker: Worker) -> bool:
    # The host, the zygote and low numbers, which are the other processes of a process namespace.
    program = """
import os
def may(action):
    try:
        action()
    except OSError:
        return False
    return True
others = [pid for pid in map(int, input().split()) if pid != os.getpid()]
reached = [
    pid for pid in others
    if may(lambda: os.kill(pid, 0)) or may(lambda: open(f"/proc/{pid}/mem", "rb").close())
    or may(lambda: open(f"/proc/{pid}/environ", "rb").close())
]
print("reached" if reached else "none")
"""
    pids = " ".join(map(str, (os.getpid(), worker.process.pid, 1, *range(2, 10))))
    return _outcome(worker, program, given=pids, expected="none") is Outcome.PASSED


def _other_programs(worker: Worker) -> bool:
    program = """
import os
for path in ("/bin/echo", "/usr/bin/echo", "/bin/busybox"):
    try:
        os.execv(path, [path, "executed"])
    except OSError:
        pass
"""
    return _outcome(worker, program, expected="") is Outcome.PASSED


def _system_calls(worker: Worker) -> bool:
    if sys.platform != "linux":
        # The numbers of system calls are Linux's, and nothing filters them elsewhere.
        return False
    # ptrace, unshare, keyctl, process_vm_readv, bpf, perf_event_open, userfaultfd; io_uring, mounts, pidfds, clone3.
    program = """
import ctypes, os
libc = ctypes.CDLL(None, use_errno=True)
bad = 0
x86_64, aarch64 = (101, 272, 250, 310, 321, 298, 323), (117, 97, 219, 270, 280, 241, 282)
numbers = x86_64 if os.uname().machine == "x86_64" else aarch64
for number in (*numbers, 425, 428, 430, 434, 435):
    ctypes.set_errno(0)
    arguments = (0x10000000,) if number in (272, 97) else (0, 0, 0, 0, 0, 0)
    bad += libc.syscall(ctypes.c_long(number), *map(ctypes.c_long, arguments)) >= 0
    bad += ctypes.get_errno() not in (1, 38, 11)
print(bad)
"""
    return _outcome(worker, program, expected="0") is Outcome.PASSED


#: Limits on a program, with the functions that try to exceed them; run under tight limits.
_BOUNDS: dict[str, Callable[[Worker], bool]] = {
    "cpu limit": _cpu_limit,
    "memory limit": _memory_limit,
    "output limit": _output_limit,
    "process limit": _process_limit,
    "thread limit": _thread_limit,
    "file limit": _file_limit,
    "nothing outlives a program": _nothing_outlives,
}
#: Walls around a program, with the functions that try to get past them.
_WALLS: dict[str, Callable[[Worker], bool]] = {
    "answers kept out": _answers_kept_out,
    "environment kept out": _environment,
    "files unread": _files_unread,
    "files unwritten": _files_unwritten,
    "network": _network,
    "other processes": _other_processes,
    "other programs": _other_programs,
    "system calls": _system_calls,
}
#: The walls that each level promises.
_PROMISES: dict[str, tuple[str, ...]] = {
    "namespaces": tuple(_WALLS),
    "landlock": tuple(_WALLS),
    "seccomp": ("environment kept out", "network", "other programs", "system calls"),
    "rlimits": ("environment kept out",),
    "processes": ("answers kept out", "environment kept out"),
}
