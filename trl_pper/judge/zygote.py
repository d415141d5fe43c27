"""The worker: a clean interpreter that forks referees and candidates for the host and cleans up after them.

Run as a program by `trl_pper.judge.worker`. Enters, over a Unix socket: requests with descriptors attached. Leaves:
process ids, exit statuses and CPU times. The zygote reads neither programs nor tests: the descriptors that hold them
pass through unread, so no ancestor of a candidate ever holds an expected answer.
"""

from __future__ import annotations

import gc
import json
import os
import select
import shutil
import signal
import socket
import sys
import time
import traceback
import types
from collections.abc import Callable
from typing import Any

_HERE = os.path.dirname(os.path.abspath(__file__))


def _import_without_package_init() -> None:
    # The real __init__ files would pull in the host's side of the judge.
    for name, path in (("trl_pper", os.path.dirname(_HERE)), ("trl_pper.judge", _HERE)):
        package = types.ModuleType(name)
        package.__path__ = [path]
        sys.modules[name] = package


if __name__ == "__main__":
    _import_without_package_init()

from trl_pper.judge import candidate, confinement, referee  # noqa: E402
from trl_pper.judge.cpu_clock import process_cpu_seconds  # noqa: E402

#: Imported before the first fork, so that programs find them loaded.
_PRELOADED = (
    "abc array ast bisect calendar cmath collections contextlib copy csv dataclasses datetime decimal enum fractions"
    " functools hashlib heapq inspect io itertools json locale math numbers operator pprint queue random re statistics"
    " string struct textwrap threading time types typing unicodedata warnings _sitebuiltins"
).split()

MAX_MESSAGE_BYTES = 1 << 16
_CLEANUP_SECONDS = 5.0


class HostGone(Exception):
    """The host closed its end of the control socket."""


class Zygote:
    """Serves one host, one program at a time."""

    def __init__(self, control: socket.socket, directory: str) -> None:
        self.control = control
        self.directory = directory
        self.parent = os.getppid()
        self.identities = _available_identities()
        self.tasks_of_user = _count_tasks(os.getuid())
        self.candidate: int | None = None
        self.referee: int | None = None
        self.serial = 0
        confinement.prctl(confinement.PR_SET_CHILD_SUBREAPER, 1)
        confinement.leave_network()

    def serve(self) -> None:
        """Answer requests until the host is gone."""
        handlers: dict[str, Callable[[dict[str, Any], list[int]], dict[str, Any]]] = {
            "stdio": self.run_stdio,
            "referee": self.start_referee,
            "dismiss": self.dismiss_referee,
            "candidate": self.start_candidate,
            "kill": self.kill_candidate,
        }
        self.reply({"pid": os.getpid(), "separate_user": self.identities[0].uid is not None})
        while True:
            request, descriptors = self.receive()
            try:
                answer = handlers[request["op"]](request, descriptors)
            finally:
                for descriptor in descriptors:
                    os.close(descriptor)
            self.reply(answer)

    def receive(self) -> tuple[dict[str, Any], list[int]]:
        """Wait for the next request and the descriptors that came with it."""
        poll = select.poll()
        poll.register(self.control, select.POLLIN)
        while not poll.poll(2000):
            # A process forked from the host may keep the socket open after the host has gone.
            if os.getppid() != self.parent:
                raise HostGone
        message, descriptors, _, _ = socket.recv_fds(self.control, MAX_MESSAGE_BYTES, 16)
        if not message:
            raise HostGone
        return json.loads(message), descriptors

    def reply(self, answer: dict[str, Any]) -> None:
        """Send an answer to the host."""
        self.control.send(json.dumps(answer).encode())

    def start_candidate(self, request: dict[str, Any], descriptors: list[int]) -> dict[str, Any]:
        """Fork a candidate over descriptors stdin, stdout, stderr, channel, program."""
        self.serial += 1
        room = os.path.join(self.directory, str(self.serial))
        os.mkdir(room, 0o700)
        identity, limits = self.identities[0], request["limits"]
        if identity.uid is not None:
            os.chown(room, identity.uid, identity.uid)
        # Without a user of its own the candidate shares the count with everything else this user runs.
        processes = int(limits["processes"]) + (0 if identity.uid is not None else self.tasks_of_user)
        parent = os.getpid()

        def child() -> None:
            os.chdir(room)
            confinement.limit_resources(limits, processes=processes)
            confinement.seal(identity, dumpable=True, parent=parent)
            candidate.main(mode=request["mode"], limits=limits)

        self.candidate = _fork(child, descriptors)
        return {"pid": self.candidate}

    def start_referee(self, request: dict[str, Any], descriptors: list[int]) -> dict[str, Any]:
        """Fork a referee over descriptors stdin, stdout, stderr, host, tests; it replaces the one before."""
        self.kill_referee()
        limits, identity, parent = request["limits"], self.identities[1], os.getpid()

        def child() -> None:
            os.chdir("/")
            confinement.limit_resources(limits, processes=4096)
            confinement.seal(identity, dumpable=False, parent=parent)
            referee.main(limits=limits)

        self.referee = _fork(child, descriptors)
        return {}

    def dismiss_referee(self, request: dict[str, Any], descriptors: list[int]) -> dict[str, Any]:
        """Kill a referee that no longer answers."""
        self.kill_referee()
        return {}

    def kill_referee(self) -> None:
        """Kill the referee, if there is one."""
        if self.referee is not None:
            _kill_group(self.referee)
            self.referee = None

    def run_stdio(self, request: dict[str, Any], descriptors: list[int]) -> dict[str, Any]:
        """Run one stdio test to its end or its limit."""
        pid = self.start_candidate({**request, "mode": "stdio"}, descriptors)["pid"]
        limits = request["limits"]
        timeout = self.supervise(pid, float(limits["cpu_seconds"]), float(limits["wall_seconds"]))
        return {**self.kill_candidate({}, []), "timeout": timeout}

    def supervise(self, pid: int, cpu_seconds: float, wall_seconds: float) -> str | None:
        """Wait for process `pid`; return which clock it overran, or None when it ended by itself."""
        deadline = time.monotonic() + wall_seconds
        poll = select.poll()
        poll.register(self.control, 0)
        ended = os.pidfd_open(pid)
        poll.register(ended, select.POLLIN)
        try:
            while True:
                used = process_cpu_seconds(pid)
                left = cpu_seconds - used if used is not None else 0.05
                if left <= 0:
                    return "cpu"
                if time.monotonic() >= deadline:
                    return "wall"
                for descriptor, _ in poll.poll(1000 * min(max(left, 0.001), 0.1)):
                    if descriptor == ended:
                        return None
                    raise HostGone
        finally:
            os.close(ended)

    def kill_candidate(self, request: dict[str, Any], descriptors: list[int]) -> dict[str, Any]:
        """Kill the candidate with everything it started; return how it ended."""
        if self.candidate is None:
            return {"status": 0, "cpu_seconds": 0.0}
        status, cpu_seconds = _kill_group(self.candidate)
        self.candidate = None
        self.kill_orphans()
        _remove_tree(os.path.join(self.directory, str(self.serial)))
        return {"status": status, "cpu_seconds": cpu_seconds}

    def kill_orphans(self) -> None:
        """Kill every descendant a candidate left behind; as subreaper this process inherits them all."""
        deadline = time.monotonic() + _CLEANUP_SECONDS
        while orphans := [pid for pid in _children() if pid != self.referee]:
            for pid in orphans:
                _kill_group(pid)
            if time.monotonic() > deadline:
                raise RuntimeError(f"{len(orphans)} processes of a candidate keep coming back")

    def end(self) -> None:
        """Leave nothing running."""
        self.kill_candidate({}, [])
        self.kill_referee()


def _fork(child: Callable[[], None], descriptors: list[int]) -> int:
    pid = os.fork()
    if pid:
        return pid
    try:
        os.setsid()
        confinement.arrange_descriptors(descriptors)
        child()
    except BaseException:
        # Seen by the host as a child that ended before it said it was ready.
        traceback.print_exc()
    finally:
        os._exit(125)


def _kill_group(pid: int) -> tuple[int, float]:
    for kill in (os.killpg, os.kill):
        try:
            kill(pid, signal.SIGKILL)
        except (ProcessLookupError, PermissionError):
            pass
    try:
        _, status, usage = os.wait4(pid, 0)
    except ChildProcessError:
        return 0, 0.0
    return status, usage.ru_utime + usage.ru_stime


def _children() -> list[int]:
    with open(f"/proc/self/task/{os.getpid()}/children") as file:
        return [int(pid) for pid in file.read().split()]


def _remove_tree(path: str) -> None:
    try:
        os.rmdir(path)
    except OSError:
        shutil.rmtree(path, ignore_errors=True)


def _count_tasks(uid: int) -> int:
    count = 0
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                if os.stat(f"/proc/{name}").st_uid == uid:
                    count += len(os.listdir(f"/proc/{name}/task"))
            except OSError:
                continue
    return count


def _available_identities() -> tuple[confinement.Identity, confinement.Identity]:
    """Return who the candidate and the referee run as: users nobody else has, when this process may become them."""
    if os.geteuid() != 0:
        return confinement.Identity(), confinement.Identity()
    # One pair of users per worker, so that one worker's processes neither count against nor reach another's.
    uid = 1_879_048_192 + 2 * os.getpid()
    for reads_everything in (False, True):
        candidate_identity = confinement.Identity(uid=uid, reads_everything=reads_everything)
        if _can_read_library_as(candidate_identity):
            return candidate_identity, confinement.Identity(uid=uid + 1, reads_everything=reads_everything)
    return confinement.Identity(), confinement.Identity()


def _can_read_library_as(identity: confinement.Identity) -> bool:
    pid = os.fork()
    if pid == 0:
        try:
            confinement.assume(identity)
            for module in (os, sys.modules[confinement.__name__]):
                assert module.__file__ is not None
                with open(module.__file__) as file:
                    file.read(1)
            os._exit(0)
        finally:
            os._exit(1)
    return os.waitpid(pid, 0)[1] == 0


def main() -> None:
    """Serve the host on descriptor argv[1], with argv[2] as scratch directory and the rest as import paths."""
    control = socket.socket(fileno=int(sys.argv[1]))
    directory, paths = sys.argv[2], sys.argv[3:]
    sys.path.extend(path for path in paths if path not in sys.path)
    sys.argv = ["program.py"]
    for name in _PRELOADED:
        __import__(name)
    gc.collect()
    gc.freeze()
    zygote = Zygote(control, directory)
    try:
        zygote.serve()
    except HostGone:
        pass
    finally:
        zygote.end()


if __name__ == "__main__":
    main()
