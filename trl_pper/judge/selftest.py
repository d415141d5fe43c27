"""Finds out which guarantees hold on this machine by running programs that try to break them.

Leaves: for each guarantee "verified", because a program tried and failed, or "absent". Nothing is assumed from the
platform, the user or the kernel version.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import socket
from collections.abc import Callable

from trl_pper.judge.function import judge_function
from trl_pper.judge.limits import Limits
from trl_pper.judge.stdio import judge_stdio
from trl_pper.judge.worker import Worker
from trl_pper.task import FunctionTests, StdioCase, StdioTests
from trl_pper.verdict import Outcome

_LIMITS = Limits(cpu_seconds=0.3, memory_bytes=512 << 20, output_bytes=1 << 16, processes=16)
#: For programs that need time to look around.
_PATIENT = Limits(cpu_seconds=5.0, processes=16)


def examine() -> dict[str, str]:
    """Run every canary in a fresh worker; return "verified" or "absent" for each guarantee.

    Raises:
        WorkerError: The worker could not be started or died.
    """
    worker = Worker()
    try:
        return {name: "verified" if holds(worker) else "absent" for name, holds in _GUARANTEES.items()}
    finally:
        worker.close()


def processes_under(directory: str) -> list[int]:
    """Return the processes whose working directory lies in `directory`: what a worker's candidates left behind."""
    found = []
    for name in filter(str.isdigit, os.listdir("/proc")):
        with contextlib.suppress(OSError):
            if os.readlink(f"/proc/{name}/cwd").startswith(directory + os.sep):
                found.append(int(name))
    return found


def _outcome(
    worker: Worker, program: str, *, given: str = "", expected: str = "", limits: Limits = _LIMITS
) -> Outcome:
    tests = StdioTests(cases=(StdioCase(input=given, output=expected),))
    return judge_stdio(worker, program, tests, limits).outcomes[0]


def _cpu_limit(worker: Worker) -> bool:
    return _outcome(worker, "while True: pass") is Outcome.TIMEOUT


def _memory_limit(worker: Worker) -> bool:
    program = "kept = []\nwhile True: kept.append(bytearray(1 << 24))"
    return _outcome(worker, program, limits=Limits(memory_bytes=_LIMITS.memory_bytes)) is Outcome.MEMORY_LIMIT


def _output_limit(worker: Worker) -> bool:
    program = "import os\nwhile True: os.write(1, b'x' * 4096)"
    return _outcome(worker, program) is Outcome.OUTPUT_LIMIT


def _process_limit(worker: Worker) -> bool:
    program = """
import os, signal
children = []
try:
    while len(children) < 100:
        pid = os.fork()
        if pid == 0:
            signal.pause()
        children.append(pid)
except BlockingIOError:
    print("limited")
"""
    return _outcome(worker, program, expected="limited", limits=_PATIENT) is Outcome.PASSED


def _process_group_killed(worker: Worker) -> bool:
    program = """
import os, time
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        time.sleep(600)
    os._exit(0)
os.wait()
print("started")
"""
    started = _outcome(worker, program, expected="started", limits=_PATIENT) is Outcome.PASSED
    return started and not processes_under(worker.directory)


def _answers_kept_out(worker: Worker) -> bool:
    # The control proves that the search finds what is there.
    program = """
import os, re
planted = b"plan" + b"ted-" + os.urandom(8).hex().encode()
def search(process, word):
    found = set()
    with open(f"/proc/{process}/maps") as maps, open(f"/proc/{process}/mem", "rb", 0) as memory:
        for line in maps:
            span, mode = line.split()[:2]
            if mode.startswith("rw"):
                start, end = (int(part, 16) for part in span.split("-"))
                try:
                    memory.seek(start)
                    found.update(re.findall(word + rb"-[0-9a-f]{16}", memory.read(end - start)))
                except (OSError, ValueError, OverflowError):
                    pass
    return found
def hunt():
    if planted not in search("self", b"plan" + b"ted"):
        raise LookupError("the search does not work")
    found = search("self", b"answ" + b"er")
    try:
        found |= search(os.getppid(), b"answ" + b"er")
    except OSError:
        pass
    return [text.decode() for text in found]
"""
    tests = FunctionTests(code=f'assert "answer-{secrets.token_hex(8)}" in hunt()', entry_point="hunt")
    return judge_function(worker, program, tests, _PATIENT).outcomes[0] is Outcome.WRONG_ANSWER


def _filesystem(worker: Worker) -> bool:
    program = "import os\nos.listdir('/')\nopen('/proc/self/status').read()\nprint('read')"
    return _outcome(worker, program, expected="read") is not Outcome.PASSED


def _network(worker: Worker) -> bool:
    program = "import socket\nsocket.create_connection(('127.0.0.1', int(input())), 1)\nprint('connected')"
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = str(server.getsockname()[1])
        return _outcome(worker, program, given=port, expected="connected", limits=_PATIENT) is not Outcome.PASSED


def _other_processes(worker: Worker) -> bool:
    program = """
import os
def may(action):
    try:
        action()
    except OSError:
        return False
    return True
others = [int(name) for name in os.listdir("/proc") if name.isdigit() and int(name) != os.getpid()]
reached = [
    pid for pid in others
    if may(lambda: os.kill(pid, 0)) or may(lambda: open(f"/proc/{pid}/mem", "rb").close())
]
print("reached" if reached else "none")
"""
    return _outcome(worker, program, expected="none", limits=_PATIENT) is Outcome.PASSED


_GUARANTEES: dict[str, Callable[[Worker], bool]] = {
    "cpu limit": _cpu_limit,
    "memory limit": _memory_limit,
    "output limit": _output_limit,
    "process limit": _process_limit,
    "process group killed": _process_group_killed,
    "answers kept out": _answers_kept_out,
    "other processes": _other_processes,
    "network": _network,
    "filesystem": _filesystem,
}
