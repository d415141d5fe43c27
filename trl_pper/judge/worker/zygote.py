"""Fork referees and candidates from a clean interpreter, on request of the host, and clean up after them.

`host.worker` runs this file as a program, the zygote, and sends it requests with descriptors over a Unix socket. The
zygote answers with process ids, exit statuses and CPU times. It reads neither programs nor tests: their descriptors
pass through it unread. So no process from which a candidate is forked ever holds an expected answer.
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
    # The zygote is to import neither the host nor the rest of the package, whatever the `__init__` files import. Every
    # candidate inherits its modules, and starting a worker is to be quick.
    for name, path in (
        ("trl_pper", os.path.dirname(os.path.dirname(_HERE))),
        ("trl_pper.judge", os.path.dirname(_HERE)),
    ):
        package = types.ModuleType(name)
        package.__path__ = [path]
        sys.modules[name] = package


if __name__ == "__main__":
    _import_without_package_init()

#: Imported before the first fork, so that programs find these modules loaded, and before the judge's own modules, so
#: that the judge's objects lie together in memory. A candidate writes to these objects, and then copies fewer pages.
_PRELOADED = (
    "_sitebuiltins abc array ast bisect calendar cmath collections contextlib copy csv ctypes dataclasses datetime"
    " decimal enum fcntl fractions functools hashlib heapq importlib inspect io itertools json locale math numbers"
    " operator pprint queue random re resource socket statistics string struct symtable sysconfig textwrap threading"
    " time traceback types typing unicodedata warnings"
).split()
for _name in _PRELOADED:
    __import__(_name)

from trl_pper.judge.jail.posix import (  # noqa: E402
    FIRST_OWN_DESCRIPTOR,
    Ending,
    LevelUnavailable,
    arrange_descriptors,
    bound_thread_stacks,
    raise_stack_limit,
    renew_standard_streams,
    signal_child,
)
from trl_pper.judge.wire.channel import Line, PacketLine, StreamLine  # noqa: E402
from trl_pper.judge.worker import candidate, referee  # noqa: E402
from trl_pper.judge.worker.scratch import Scratch  # noqa: E402

_CLEANUP_SECONDS = 5.0
_HOST_CHECK_MILLISECONDS = 2000
_WATCH_MILLISECONDS = 100


class HostGone(Exception):
    """Raised when the host has closed its end of the control socket."""


class Zygote:
    """A server of forked processes for a single host, with at most a candidate and a referee at a time.

    Args:
        line: The connection to the host.
        jail: The isolation of this process and its children, already in force.
    """

    def __init__(self, line: Line, jail: Jail) -> None:
        self.line = line
        self.jail = jail
        self.scratch = Scratch(jail.room)
        self.ending = Ending()
        self.parent = os.getppid()
        self.candidate: int | None = None
        self.referee: int | None = None
        #: Whether `watch` killed the present candidate.
        self.overrun = False
        self.poll = select.poll()
        self.poll.register(line.sock, select.POLLIN)

    def serve(self) -> None:
        """Answer requests until the host is gone.

        Raises:
            HostGone: Always, in the end.
        """
        handlers: dict[str, Callable[[dict[str, Any], list[int]], dict[str, Any] | None]] = {
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
                # The child has its own copies. An open copy here would hide from the host that the child has ended.
                for descriptor in descriptors:
                    os.close(descriptor)
            if answer is not None:
                self.reply(answer)

    def receive(self) -> tuple[dict[str, Any], list[int]]:
        """Wait for the next request; return it with its descriptors.

        Meanwhile the files of the present candidate are watched, unless the file system itself bounds them.

        Raises:
            HostGone: The host has closed the socket or ended.
        """
        waited = 0
        while True:
            watched = self.candidate is not None and not self.jail.bounded_files and not self.overrun
            milliseconds = _WATCH_MILLISECONDS if watched else _HOST_CHECK_MILLISECONDS
            if self.poll.poll(milliseconds):
                break
            waited += milliseconds
            if watched:
                self.watch()
            # A process forked from the host may keep the socket open after the host has ended.
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
        """Kill the candidate if it has left more files, or more bytes in files, than its limits allow."""
        limits = self.jail.limits
        files, file_bytes = int(limits["files"]), int(limits["file_bytes"])
        if self.candidate is not None and self.ask_apart(lambda: self.scratch.exceeds(files, file_bytes)):
            self.overrun = True
            signal_child(self.candidate, signal.SIGKILL)

    def ask_apart(self, question: Callable[[], bool]) -> bool:
        """Answer a question in a child process; a child that fails answers with False."""
        # The names of files, which a program chose, must not come into the memory of this process: later programs
        # inherit it.
        pid = self.jail.fork_referee()
        if pid == 0:
            try:
                os._exit(0 if question() else 1)
            finally:
                os._exit(1)
        return os.waitpid(pid, 0)[1] == 0

    def start_candidate(self, request: dict[str, Any], descriptors: list[int]) -> dict[str, Any]:
        """Fork a candidate.

        Args:
            request: Has the "mode" of the candidate, and its "cpu_seconds".
            descriptors: The channel and the program; for shared tests their plan.

        Returns:
            The process id as "pid", numbered as this process sees it.
        """
        self.overrun = False
        # Read before the fork, so that the child can tell whether its parent has died meanwhile.
        mode, parent = request["mode"], os.getpid()
        self.jail.open_room(script=mode == "stdio")
        if mode == "stdio":
            descriptors.append(self.jail.input_file())
        size = int(self.jail.limits["value_bytes"])
        allow = self.jail.cpu_allowance(request["cpu_seconds"])
        pid = self.jail.fork_candidate()
        if pid == 0:
            try:
                arrange_descriptors(descriptors, first=3)
                renew_standard_streams()
                os.chdir(self.jail.room)
                if not self.jail.process_namespaces:
                    os.setsid()
                self.jail.seal_candidate(parent, 3 + len(descriptors), script=mode == "stdio")
                candidate.main(mode, size, allow, self.jail.script_fork())
            finally:
                # Also after an exception, so that no child ever returns into the zygote's loop. The host sees a child
                # that ended before it was ready.
                os._exit(125)
        self.candidate = pid
        return {"pid": pid}

    def start_referee(self, request: dict[str, Any], descriptors: list[int]) -> dict[str, Any]:
        """Fork a referee, in place of the present referee.

        Args:
            request: Has the task's "limits".
            descriptors: The socket to the host, the tests, and the board for outcomes.
        """
        self.kill_referee()
        parent = os.getpid()
        pid = self.jail.fork_referee()
        if pid == 0:
            try:
                os.setsid()
                arrange_descriptors(descriptors, first=3)
                renew_standard_streams()
                self.jail.seal_referee(parent, 3 + len(descriptors))
                referee.main(limits=request["limits"])
            finally:
                os._exit(125)
        self.referee = pid
        return {}

    def dismiss_referee(self, request: dict[str, Any], descriptors: list[int]) -> dict[str, Any]:
        """Kill the referee, because the host asks for it."""
        self.kill_referee()
        return {}

    def kill_referee(self) -> None:
        """Kill the referee, if there is one."""
        if self.referee is not None:
            self.jail.end_child(self.referee)
            self.referee = None

    def kill_candidate(self, request: dict[str, Any], descriptors: list[int]) -> None:
        """Kill the candidate with the processes that it left behind, remove its working directory, and tell the host.

        The report has the layout `wire.rules.ENDING`; it is all zeros if there is no candidate. At the level
        "processes", a process that left the candidate's group is not found.

        Args:
            request: May have "grace_seconds", the time that the candidate has to end by itself; 0 by default.
            descriptors: None.
        """
        self.end_candidate(float(request.get("grace_seconds", 0.0)))
        self.line.send(memoryview(self.ending).cast("B"))
        self.ending.clear()

    def end_candidate(self, grace_seconds: float = 0.0) -> None:
        """Kill the candidate, if there is one, and remove what it leaves; note in `self.ending` how it ended."""
        if self.candidate is None:
            return
        self.ending.killed = not self.has_ended(self.candidate, grace_seconds)
        self.ending.overrun = self.overrun
        self.jail.end_child(self.candidate, self.ending)
        self.candidate = None
        # Processes first: they could write to the directory while it is emptied.
        if self.jail.may_leave_processes:
            self.kill_orphans()
        if not self.jail.close_room() and not (self.ask_apart(self.empty) and self.jail.close_room()):
            raise RuntimeError(f"the working directory {self.jail.room!r} cannot be emptied")

    def empty(self) -> bool:
        """Empty the working directory; return True."""
        self.scratch.clear()
        return True

    def has_ended(self, pid: int, grace_seconds: float) -> bool:
        """Wait until child `pid` ends, at most `grace_seconds`; return whether it has ended."""
        deadline = time.monotonic() + grace_seconds
        while not self.jail.has_ended(pid):
            if time.monotonic() >= deadline:
                return False
            time.sleep(0.002)
        return True

    def kill_orphans(self) -> None:
        """Kill every process that a candidate left behind.

        Raises:
            RuntimeError: New processes appear as fast as they are killed.
        """
        # At the levels that use this, Linux makes the zygote, a subreaper, the parent of every orphan.
        deadline = time.monotonic() + _CLEANUP_SECONDS
        # Repeatedly, since the children of a killed process become children of this process only then.
        while orphans := [pid for pid in self.jail.children() if pid != self.referee]:
            for pid in orphans:
                self.jail.end_child(pid)
            if time.monotonic() > deadline:
                raise RuntimeError(f"{len(orphans)} processes of a candidate keep coming back")

    def end(self) -> None:
        """Kill the candidate and the referee, and clean up after them."""
        self.end_candidate()
        self.kill_referee()


def _confine(options: dict[str, Any]) -> Jail:
    """Put this process into the jail of the isolation level that the host asks for.

    Raises:
        LevelUnavailable: The machine does not offer the level.
    """
    kind: Callable[..., Jail]
    # `jail.linux` cannot be imported elsewhere, since it is made of interfaces that only Linux has.
    if options["level"] == "processes":
        from trl_pper.judge.jail.posix import PosixJail as kind
    else:
        from trl_pper.judge.jail.linux import LinuxJail as kind
    directory, imports, limits = options["directory"], options["imports"], options["limits"]
    return kind(options["level"], directory=directory, imports=imports, limits=limits)


def _renew_signals() -> None:
    """Treat signals as a new interpreter does, whatever the caller ignores or blocks."""
    # Both are inherited through exec. With SIGCHLD ignored, the kernel keeps no exit status of a child; with SIGPROF
    # blocked, no test could be interrupted.
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    for number in signal.valid_signals() - {signal.SIGPIPE, signal.SIGXFSZ}:
        if signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)


def main() -> None:
    """Enter the jail, and serve the host; the options are a JSON object in `sys.argv[1]`."""
    _renew_signals()
    options = json.loads(sys.argv[1])
    # Moved up, because the low numbers are for the descriptors that children receive.
    control = socket.socket(fileno=fcntl.fcntl(options["control"], fcntl.F_DUPFD_CLOEXEC, FIRST_OWN_DESCRIPTOR))
    os.close(options["control"])
    line = StreamLine(control) if control.type == socket.SOCK_STREAM else PacketLine(control)
    sys.path.extend(path for path in options["imports"] if path not in sys.path)
    sys.argv = ["program.py"]
    for name in options["preload"]:
        with contextlib.suppress(ImportError):
            __import__(name)
    raise_stack_limit()
    bound_thread_stacks()
    try:
        jail = _confine(options)
    except LevelUnavailable as error:
        line.send(json.dumps({"unavailable": str(error)}).encode())
        return
    candidate.prepare(jail.room)
    # A collection in a child would otherwise write to every object, and copy the pages of all of them.
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
