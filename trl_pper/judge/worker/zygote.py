"""The worker: a clean interpreter that forks referees and candidates for the host and cleans up after them.

Run as a program by `trl_pper.judge.worker`. Enters, over a Unix socket: requests with descriptors attached. Leaves:
process ids, exit statuses and CPU times. The zygote reads neither programs nor tests: the descriptors that hold them
pass through unread, so no ancestor of a candidate ever holds an expected answer.
"""

from __future__ import annotations

import contextlib
import fcntl
import gc
import json
import os
import select
import signal
import socket
import sys
import time
import types
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from trl_pper.judge.jail.posix import Jail

_HERE = os.path.dirname(os.path.abspath(__file__))


def _import_without_package_init() -> None:
    # The real __init__ files would pull in the host's side of the judge.
    for name, path in (
        ("trl_pper", os.path.dirname(os.path.dirname(_HERE))),
        ("trl_pper.judge", os.path.dirname(_HERE)),
    ):
        package = types.ModuleType(name)
        package.__path__ = [path]
        sys.modules[name] = package


if __name__ == "__main__":
    _import_without_package_init()

#: Imported before the first fork, so that programs find them loaded, and before the judge's own modules: what those
#: hold then lies together in memory, and a candidate, which writes to it, copies fewer pages.
_PRELOADED = (
    "_sitebuiltins abc array ast bisect calendar cmath collections contextlib copy csv ctypes dataclasses datetime"
    " decimal enum fcntl fractions functools hashlib heapq importlib inspect io itertools json locale math numbers"
    " operator pprint queue random re resource socket statistics string struct symtable sysconfig textwrap threading"
    " time traceback types typing unicodedata warnings"
).split()
for _name in _PRELOADED:
    __import__(_name)

from trl_pper.judge.jail.posix import FIRST_OWN_DESCRIPTOR, LevelUnavailable, arrange_descriptors, signal_child  # noqa: E402
from trl_pper.judge.wire.channel import Line, PacketLine, StreamLine  # noqa: E402
from trl_pper.judge.worker import candidate, referee  # noqa: E402
from trl_pper.judge.worker.scratch import Scratch  # noqa: E402

_CLEANUP_SECONDS = 5.0
_HOST_CHECK_MILLISECONDS = 2000
_WATCH_MILLISECONDS = 100


class HostGone(Exception):
    """The host closed its end of the control socket."""


class Zygote:
    """Serves one host, one program at a time."""

    def __init__(self, line: Line, jail: Jail) -> None:
        self.line = line
        self.jail = jail
        self.scratch = Scratch(jail.room)
        self.parent = os.getppid()
        self.candidate: int | None = None
        self.referee: int | None = None
        #: Why the candidate at hand was ended before anybody asked for it, or "".
        self.overrun = ""
        self.poll = select.poll()
        self.poll.register(line.sock, select.POLLIN)

    def serve(self) -> None:
        """Answer requests until the host is gone."""
        handlers: dict[str, Callable[[dict[str, Any], list[int]], dict[str, Any]]] = {
            "referee": self.start_referee,
            "dismiss": self.dismiss_referee,
            "candidate": self.start_candidate,
            "kill": self.kill_candidate,
        }
        while True:
            request, descriptors = self.receive()
            try:
                answer = handlers[request["op"]](request, descriptors)
            finally:
                for descriptor in descriptors:
                    os.close(descriptor)
            self.reply(answer)

    def receive(self) -> tuple[dict[str, Any], list[int]]:
        """Wait for the next request and the descriptors that came with it, watching the candidate at hand."""
        waited = 0
        while True:
            watched = self.candidate is not None and not self.jail.bounded_files and not self.overrun
            milliseconds = _WATCH_MILLISECONDS if watched else _HOST_CHECK_MILLISECONDS
            if self.poll.poll(milliseconds):
                break
            waited += milliseconds
            if watched:
                self.watch()
            # A process forked from the host may keep the socket open after the host has gone.
            if waited >= _HOST_CHECK_MILLISECONDS and os.getppid() != self.parent:
                raise HostGone
        message, descriptors = self.line.receive_with_descriptors()
        if not message:
            raise HostGone
        return json.loads(message), descriptors

    def reply(self, answer: dict[str, Any]) -> None:
        """Send an answer to the host."""
        self.line.send(json.dumps(answer).encode())

    def watch(self) -> None:
        """End the candidate when it has left more files than it may."""
        limits = self.jail.limits
        if self.candidate is not None and self.scratch.exceeds(int(limits["files"]), int(limits["file_bytes"])):
            self.overrun = f"left more than {limits['files']:.0f} files or {limits['file_bytes']:.0f} bytes in them"
            signal_child(self.candidate, signal.SIGKILL)

    def start_candidate(self, request: dict[str, Any], descriptors: list[int]) -> dict[str, Any]:
        """Fork a candidate over descriptors channel, program and, for a script, output and errors."""
        self.overrun = ""
        mode, parent = request["mode"], os.getpid()
        if mode == "stdio":
            descriptors.append(self.jail.input_file())
        size = int(self.jail.limits["value_bytes"])
        allow = self.jail.cpu_allowance(request["cpu_seconds"])
        pid = self.jail.fork_candidate()
        if pid == 0:
            try:
                arrange_descriptors(descriptors, first=3)
                if not self.jail.process_namespaces:
                    os.setsid()
                self.jail.seal_candidate(parent, 3 + len(descriptors))
                candidate.main(mode, size, allow)
            finally:
                # Seen by the host as a child that ended before it said it was ready.
                os._exit(125)
        self.candidate = pid
        return {"pid": pid}

    def start_referee(self, request: dict[str, Any], descriptors: list[int]) -> dict[str, Any]:
        """Fork a referee over host, tests and board under a task's limits; it replaces the one before."""
        self.kill_referee()
        parent = os.getpid()
        pid = self.jail.fork_referee()
        if pid == 0:
            try:
                os.setsid()
                arrange_descriptors(descriptors, first=3)
                self.jail.seal_referee(parent, 3 + len(descriptors))
                referee.main(limits=request["limits"])
            finally:
                os._exit(125)
        self.referee = pid
        return {}

    def dismiss_referee(self, request: dict[str, Any], descriptors: list[int]) -> dict[str, Any]:
        """Kill a referee that no longer answers."""
        self.kill_referee()
        return {}

    def kill_referee(self) -> None:
        """Kill the referee, if there is one."""
        if self.referee is not None:
            self.jail.end_child(self.referee)
            self.referee = None

    def kill_candidate(self, request: dict[str, Any], descriptors: list[int]) -> dict[str, Any]:
        """Kill the candidate with everything it started; return how it ended.

        A request with "grace_seconds" leaves it that long to end by itself.
        """
        if self.candidate is None:
            return {"status": 0, "cpu_seconds": 0.0, "killed": False, "overrun": self.overrun}
        killed = not self.has_ended(self.candidate, float(request.get("grace_seconds", 0.0)))
        status, cpu_seconds = self.jail.end_child(self.candidate)
        self.candidate = None
        if self.jail.may_leave_processes:
            self.kill_orphans()
        self.scratch.clear()
        return {"status": status, "cpu_seconds": cpu_seconds, "killed": killed, "overrun": self.overrun}

    def has_ended(self, pid: int, grace_seconds: float) -> bool:
        """Return whether child `pid` ends by itself within `grace_seconds`."""
        deadline = time.monotonic() + grace_seconds
        while not self.jail.has_ended(pid):
            if time.monotonic() >= deadline:
                return False
            time.sleep(0.002)
        return True

    def kill_orphans(self) -> None:
        """Kill every descendant a candidate left behind; as subreaper this process inherits them all."""
        deadline = time.monotonic() + _CLEANUP_SECONDS
        while orphans := [pid for pid in self.jail.children() if pid != self.referee]:
            for pid in orphans:
                self.jail.end_child(pid)
            if time.monotonic() > deadline:
                raise RuntimeError(f"{len(orphans)} processes of a candidate keep coming back")

    def end(self) -> None:
        """Leave nothing running."""
        self.kill_candidate({}, [])
        self.kill_referee()


def _confine(options: dict[str, Any]) -> Jail:
    """Lock this process in at the level that the host asks for.

    Raises:
        LevelUnavailable: The machine does not offer it.
    """
    kind: Callable[..., Jail]
    # Only one of the two: what `jail.linux` is made of exists on Linux alone.
    if options["level"] == "processes":
        from trl_pper.judge.jail.posix import PosixJail as kind
    else:
        from trl_pper.judge.jail.linux import LinuxJail as kind
    directory, imports, limits = options["directory"], options["imports"], options["limits"]
    return kind(options["level"], directory=directory, imports=imports, limits=limits)


def main() -> None:
    """Serve the host as the JSON object in argv[1] says."""
    options = json.loads(sys.argv[1])
    control = socket.socket(fileno=fcntl.fcntl(options["control"], fcntl.F_DUPFD_CLOEXEC, FIRST_OWN_DESCRIPTOR))
    os.close(options["control"])
    line = StreamLine(control) if control.type == socket.SOCK_STREAM else PacketLine(control)
    sys.path.extend(path for path in options["imports"] if path not in sys.path)
    sys.argv = ["program.py"]
    for name in options["preload"]:
        with contextlib.suppress(ImportError):
            __import__(name)
    try:
        jail = _confine(options)
    except LevelUnavailable as error:
        line.send(json.dumps({"unavailable": str(error)}).encode())
        return
    candidate.prepare()
    gc.collect()
    gc.freeze()
    zygote = Zygote(line, jail)
    zygote.reply({"pid": os.getpid()})
    try:
        zygote.serve()
    except HostGone:
        pass
    finally:
        zygote.end()


if __name__ == "__main__":
    main()
