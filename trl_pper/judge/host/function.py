"""Judge a program by test code that calls it: start its processes, pass descriptors, and collect outcomes.

The tests go to the referee and nowhere else; the program goes to the candidate. The host reads neither.
"""

from __future__ import annotations

import contextlib
import io
import os
import select
import socket
import time
from dataclasses import dataclass
from typing import Any

from trl_pper.judge.host.worker import Worker, WorkerError, read_outcome
from trl_pper.judge.limits import Limits
from trl_pper.judge.verdict import Outcome, Verdict
from trl_pper.judge.wire import codec
from trl_pper.judge.wire.channel import ChannelClosed, receive_frame, send_frame
from trl_pper.judge.wire.rules import OUTCOME_BYTES
from trl_pper.tasks.task import FunctionTests

_ANSWER_SECONDS = 30.0
_MAX_MESSAGE_BYTES = 1 << 20
_OUTCOMES = {byte: outcome for outcome, byte in OUTCOME_BYTES.items()}


def judge_function(worker: Worker, program: str, tests: FunctionTests, limits: Limits) -> Verdict:
    """Return the verdict on `program` after running all tests in `worker`.

    Args:
        worker: The worker that runs program and tests.
        program: The program's text.
        tests: The test code.
        limits: The limits of the worker, with the task's CPU seconds if it has any.

    Raises:
        WorkerError: The sandbox failed.
    """
    bench = _bench(worker, tests, limits)
    if bench.unsupported:
        return Verdict.uniform(Outcome.UNSUPPORTED, 1, bench.unsupported)
    with worker.system.sealed_file(program.encode("utf-8", "surrogatepass")) as source:
        return _Run(worker, bench, source).judge()


@dataclass(eq=False)
class Bench:
    """A referee that a worker keeps for the task it judged last.

    Args:
        tests: The task's tests.
        limits: Bounds on the programs of the task.
        host: The host's end of the referee's channel.
        board: A nameless file in which the referee writes the outcome of every test, a byte each; see
            `wire.rules.OUTCOME_BYTES`.
        total: Number of tests.
        unsupported: Why the tests cannot be run, or "".
    """

    tests: FunctionTests
    limits: Limits
    host: socket.socket
    board: io.FileIO
    total: int = 0
    unsupported: str = ""


def _bench(worker: Worker, tests: FunctionTests, limits: Limits) -> Bench:
    """Return the worker's referee for `tests` under `limits`, after starting it unless it runs already."""
    kept = worker.bench
    if isinstance(kept, Bench) and (kept.tests, kept.limits) == (tests, limits):
        return kept
    ours, theirs = socket.socketpair()
    bench = Bench(tests, limits, ours, worker.system.board_file())
    worker.keep_bench(bench, ours, bench.board)
    content = codec.encode((tests.setup, tests.code, tests.entry_point), max_bytes=1 << 30)
    with theirs, worker.system.sealed_file(content) as test_file:
        descriptors = [theirs.fileno(), test_file, bench.board.fileno()]
        worker.request("referee", descriptors, seconds=_ANSWER_SECONDS, limits=limits.to_dict())
    ours.settimeout(_ANSWER_SECONDS)
    try:
        kind, detail = codec.decode(receive_frame(ours, max_bytes=_MAX_MESSAGE_BYTES))
    except (ChannelClosed, OSError):
        raise WorkerError("the referee did not start") from None
    ours.settimeout(None)
    bench.total, bench.unsupported = (detail, "") if kind == "plan" else (0, detail)
    return bench


class _Run:
    def __init__(self, worker: Worker, bench: Bench, source: int) -> None:
        self.worker = worker
        self.bench = bench
        self.host = bench.host
        self.limits = bench.limits
        self.source = source
        self.cpu_seconds = 0.0
        self.message = ""
        #: The candidate's channel, kept open until the referee has surely received it: macOS loses a descriptor that
        #: is closed on its way.
        self.lent = contextlib.ExitStack()

    def judge(self) -> Verdict:
        """Run the program and return its verdict; kill the candidate in the end."""
        with self.lent:
            self._start()
            verdict = self.collect()
            self._stop()
        return Verdict(outcomes=verdict.outcomes, message=verdict.message, cpu_seconds=self.cpu_seconds)

    def _start(self, outcome: tuple[str, str] | None = None) -> None:
        """Start a candidate and send the referee its channel, with `outcome`, if any, of the candidate before it."""
        self.lent.close()
        ours, theirs = socket.socketpair()
        self.lent.enter_context(ours)
        with theirs:
            answer = self.worker.request(
                "candidate",
                [theirs.fileno(), self.source],
                seconds=_ANSWER_SECONDS,
                mode="function",
                cpu_seconds=self.limits.cpu_seconds,
            )
        pid = answer["pid"]
        self._tell(pid if outcome is None else (*outcome, pid))
        try:
            socket.send_fds(self.host, [b"+"], [ours.fileno()])
        except OSError as error:
            raise WorkerError(f"the referee has ended: {error}") from None

    def _stop(self, grace_seconds: float = 0.0) -> dict[str, Any]:
        ending = self.worker.request("kill", seconds=_ANSWER_SECONDS + grace_seconds, grace_seconds=grace_seconds)
        self.cpu_seconds += float(ending["cpu_seconds"])
        return ending

    def _tell(self, message: Any) -> None:
        try:
            send_frame(self.host, codec.encode(message, max_bytes=_MAX_MESSAGE_BYTES))
        except (ChannelClosed, OSError) as error:
            raise WorkerError(f"the referee has ended: {error}") from None

    def collect(self) -> Verdict:
        """Read the referee's messages up to the last, and return the verdict.

        A message is "failed" (the first failure, for people), "lost" (its candidate ended, timed out or sent garbage),
        "broken" (a candidate ended before its program) or "end".
        """
        while True:
            try:
                kind, *fields = codec.decode(receive_frame(self.host, max_bytes=_MAX_MESSAGE_BYTES, wait=self._wait))
            except ChannelClosed:
                raise WorkerError("the referee has ended") from None
            except TimeoutError:
                # Read before `drop_bench` closes the board: the outcomes on it still count.
                verdict = self._verdict(Outcome.TIMEOUT, "the test code did not end on what the program returned")
                self.worker.drop_bench()
                self.worker.request("dismiss", seconds=_ANSWER_SECONDS)
                return verdict
            if kind == "failed":
                self.message = self.message or fields[0]
            elif kind == "lost":
                self._replace(*fields)
            elif kind == "broken":
                raise WorkerError(fields[0])
            elif kind == "end":
                outcome, message, healthy = fields
                verdict = self._verdict(Outcome(outcome), message)
                if not healthy:
                    # It ran out of memory or was interrupted in the middle of test code: no state to judge on with.
                    self.worker.drop_bench()
                return verdict

    def _board(self) -> bytes:
        return os.pread(self.bench.board.fileno(), self.bench.total, 0)

    def _wait(self, sock: socket.socket, event: int) -> None:
        # The referee watches the candidate's clocks; this catches a referee stuck in a long operation of its own.
        seconds = 2.0 * self.limits.wall_seconds + 5.0
        poll = select.poll()
        poll.register(sock, event)
        if poll.poll(1000 * min(5.0, seconds)):
            return
        known, end = b"", time.monotonic() + seconds
        while not poll.poll(1000 * min(5.0, seconds)):
            now, board = time.monotonic(), self._board()
            # A new outcome on the board proves that the referee is alive, and starts its time anew.
            if board != known:
                known, end = board, now + seconds
            elif now > end:
                raise TimeoutError

    def _replace(self, reason: str, more: bool) -> None:
        """Send the referee the outcome of its lost candidate, and a new candidate if it wants `more`."""
        # A process that hung up is about to end by itself, and its own exit status explains more than a kill.
        ending = self._stop(grace_seconds=1.0 if reason == "ended" else 0.0)
        if reason == "cpu":
            outcome, message = Outcome.TIMEOUT, f"used more than {self.limits.cpu_seconds:g} CPU seconds"
        elif reason == "wall":
            outcome, message = Outcome.TIMEOUT, f"took more than {self.limits.wall_seconds:g} seconds"
        elif reason == "ended":
            outcome, message = read_outcome(ending)
        else:
            outcome, message = Outcome.RUNTIME_ERROR, f"the program answered with {reason}"
        if more:
            self._start((outcome.value, message))
        else:
            self._tell((outcome.value, message, 0))

    def _verdict(self, default: Outcome, message: str) -> Verdict:
        board = self._board()
        # The message of the end explains the tests that were never recorded: bytes that are still 0.
        unsaid = message if 0 in board else ""
        outcomes = [_OUTCOMES.get(byte, default) for byte in board]
        return Verdict(outcomes=tuple(outcomes), message=self.message or unsaid)
