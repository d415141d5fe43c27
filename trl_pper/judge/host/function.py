"""Judge a program by test code that calls it: start its processes, pass descriptors, and collect outcomes.

Tests that can run separate go to the referee and nowhere else; the program goes to the candidate. Tests that cannot go
to the candidate as well, as the referee prepared them. The host reads neither tests nor program.
"""

from __future__ import annotations

import contextlib
import io
import os
import secrets
import select
import socket
import time
from dataclasses import dataclass
from typing import Any

from trl_pper.judge.host.worker import Ending, TestsLost, Worker, WorkerError, await_ready, read_outcome
from trl_pper.judge.limits import Limits
from trl_pper.judge.verdict import UNJUDGED, Outcome, Verdict
from trl_pper.judge.wire import codec
from trl_pper.judge.wire.allowance import Allowance
from trl_pper.judge.wire.channel import ChannelClosed, FrameReader, FrameTooBig, receive_frame, send_frame
from trl_pper.judge.wire.rules import DONE, ENDED, FAILED, LOADED, OUTCOME_BYTES, REPORT, START
from trl_pper.tasks.task import FunctionTests

_ANSWER_SECONDS = 30.0
_MAX_MESSAGE_BYTES = 1 << 20
_MAX_PLAN_BYTES = 1 << 28
_MAX_REPORT_BYTES = 1 << 14
_MAX_TRIAL_SECONDS = 20.0
#: Times the CPU seconds of a test that a process may use before it is killed.
_PATIENCE = 1.25
_OUTCOMES = {byte: outcome for outcome, byte in OUTCOME_BYTES.items()}


def judge_function(
    worker: Worker, program: str, tests: FunctionTests, limits: Limits, *, shared_tests: str = "allow"
) -> Verdict:
    """Return the verdict on `program` after running all tests in `worker`.

    Args:
        worker: The worker that runs program and tests.
        program: The program's text.
        tests: The test code.
        limits: The limits of the worker, with the task's CPU seconds if it has any.
        shared_tests: "allow", or "refuse" to leave tests that must run in the program's process unjudged.

    Raises:
        TestsLost: The process of the tests ended while it judged the program.
        WorkerError: The sandbox failed.
    """
    bench = _bench(worker, tests, limits)
    if bench.unsupported:
        return Verdict.uniform(Outcome.UNSUPPORTED, max(1, bench.total), bench.unsupported)
    if bench.plan and shared_tests == "refuse":
        message = "the tests must run in the program's process, where a verdict can be forged; this judge refuses them"
        return Verdict.uniform(Outcome.UNSUPPORTED, bench.total, message)
    with worker.system.sealed_file(program.encode("utf-8", "surrogatepass")) as source:
        if bench.plan:
            return SharedRun(worker, bench, source).judge()
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
        plan: The tests as candidates run them, where they run shared; b"" where they run separate.
        unsupported: The reason why the tests cannot be run, or "".
    """

    tests: FunctionTests
    limits: Limits
    host: socket.socket
    board: io.FileIO
    total: int = 0
    plan: bytes = b""
    unsupported: str = ""


def _bench(worker: Worker, tests: FunctionTests, limits: Limits) -> Bench:
    """Return the worker's referee for `tests` under `limits`, after starting it unless it runs already."""
    kept = worker.bench
    if isinstance(kept, Bench) and (kept.tests, kept.limits) == (tests, limits):
        return kept
    ours, theirs = socket.socketpair()
    bench = Bench(tests, limits, ours, worker.system.board_file())
    worker.keep_bench(bench, ours, bench.board)
    content = codec.encode((tests.setup, tests.code, tests.entry_point, tests.run), max_bytes=1 << 30)
    with theirs, worker.system.sealed_file(content) as test_file:
        descriptors = [theirs.fileno(), test_file, bench.board.fileno()]
        worker.request("referee", descriptors, seconds=_ANSWER_SECONDS, limits=limits.to_dict())
    ours.settimeout(_ANSWER_SECONDS)
    try:
        kind, bench.total, detail, trial = codec.decode(receive_frame(ours, max_bytes=_MAX_PLAN_BYTES))
    except (ChannelClosed, OSError):
        raise WorkerError("the referee did not start") from None
    ours.settimeout(None)
    if kind == "unsupported":
        bench.unsupported = detail.decode()
    bench.plan = detail if kind == "shared" else b""
    if trial:
        bench.unsupported = _setup_fault(worker, trial, limits)
    return bench


def _setup_fault(worker: Worker, trial: bytes, limits: Limits) -> str:
    """Return the reason why the setup of tests fails by itself, found before any program runs; "" for none.

    Args:
        worker: The worker of the tests.
        trial: The setup as the referee prepared it.
        limits: The limits of the tests.
    """
    # More than a test has, because modules are loaded here for the first time.
    seconds = min(1.5 * limits.cpu_seconds + 3.0, _MAX_TRIAL_SECONDS)
    ours, theirs = socket.socketpair()
    reason = ""
    with ours, worker.system.sealed_file(trial) as source:
        worker.system.expect_process(ours)
        with theirs:
            descriptors = [theirs.fileno(), source]
            answer = worker.request(
                "candidate", descriptors, seconds=_ANSWER_SECONDS, mode="setup", cpu_seconds=seconds
            )
        pid = await_ready(worker, ours, answer["pid"])
        allowance = Allowance(cpu_seconds=seconds, wall_seconds=_MAX_TRIAL_SECONDS)
        allowance.start(pid)
        try:
            said = FrameReader(ours, allowance.waiter(ours)).read(_MAX_REPORT_BYTES)
        except (ChannelClosed, FrameTooBig):
            _, reason = read_outcome(worker.end_candidate(grace_seconds=1.0), limits)
        except TimeoutError as error:
            worker.end_candidate()
            # A setup that merely waits, or that has a long time for each test, is left to the clocks of the tests.
            if error.args == ("cpu",) and seconds > limits.cpu_seconds:
                reason = f"it takes more than {limits.cpu_seconds:g} CPU seconds"
        else:
            worker.end_candidate()
            reason = "" if said == DONE else said.decode("utf-8", "replace")
    return f"the setup fails by itself: {reason}" if reason else ""


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

    def _stop(self, grace_seconds: float = 0.0) -> Ending:
        ending = self.worker.end_candidate(grace_seconds=grace_seconds)
        self.cpu_seconds += ending.cpu_seconds
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
                # Fails if the worker has ended, which takes its referee along.
                self._stop()
                raise TestsLost("the process of the tests ended on what the program returned") from None
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
            outcome, message = read_outcome(ending, self.limits)
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


class SharedRun:
    """A run of a program together with its tests.

    Args:
        worker: The worker that runs them.
        bench: The tests.
        source: A descriptor of the program.
    """

    def __init__(self, worker: Worker, bench: Bench, source: int) -> None:
        self.worker = worker
        self.bench = bench
        self.source = source
        self.limits = bench.limits
        # Hard to guess, and another one for each process, so that a program cannot report in a test's place unless it
        # searches its own process for it.
        self.secret = secrets.token_bytes(16)
        self.outcomes: list[Outcome | None] = [None] * bench.total
        self.message = ""

    def judge(self) -> Verdict:
        """Run program and tests, and return the verdict; kill the candidate in the end."""
        ours, theirs = socket.socketpair()
        with ours:
            self.worker.system.expect_process(ours)
            with theirs, self.worker.system.sealed_file(self.bench.plan) as plan:
                answer = self.worker.request(
                    "candidate",
                    [theirs.fileno(), self.source, plan],
                    seconds=_ANSWER_SECONDS,
                    mode="shared",
                    cpu_seconds=self.limits.cpu_seconds,
                )
            pid = await_ready(self.worker, ours, answer["pid"])
            default, message, ended = self.collect(ours, pid)
            ending = self.worker.end_candidate(grace_seconds=1.0 if ended else 0.0)
        if ended:
            default, message = read_outcome(ending, self.limits)
        missing = None in self.outcomes
        outcomes = tuple(default if outcome is None else outcome for outcome in self.outcomes)
        text = self.message or (message if missing else "")
        return Verdict(outcomes=outcomes, message=text, cpu_seconds=ending.cpu_seconds, run="shared")

    def collect(self, channel: socket.socket, pid: int) -> tuple[Outcome, str, bool]:
        """Read the reports of the tests.

        Returns:
            The outcome and the message for tests that did not report, and whether the process ended by itself, so that
            its exit status explains more.
        """
        # The process interrupts a test by itself when its time is spent. This is for code that cannot be interrupted.
        allowance = Allowance(
            cpu_seconds=_PATIENCE * self.limits.cpu_seconds + 0.5,
            wall_seconds=self.limits.wall_seconds,
            tests=self.bench.total,
        )
        wait = allowance.waiter(channel)
        reader = FrameReader(channel, wait)
        allowance.start(pid)
        try:
            start = START.pack(self.secret, self.limits.cpu_seconds, self.limits.max_timeouts)
            send_frame(channel, start, wait=wait)
            while True:
                report = reader.read(_MAX_REPORT_BYTES)
                allowance.start(pid)
                if len(report) < REPORT.size or not report.startswith(self.secret):
                    return Outcome.RUNTIME_ERROR, "the program sent garbage in a test's place", False
                _, number, byte = REPORT.unpack_from(report)
                outcome = _OUTCOMES.get(byte, Outcome.RUNTIME_ERROR)
                message = report[REPORT.size :].decode("utf-8", "replace")
                if number == LOADED:
                    continue
                if number == FAILED:
                    return outcome, message, False
                if number == ENDED:
                    return self.default(outcome), message or "the test did not run", False
                self.record(number, outcome, message)
        except ChannelClosed:
            return Outcome.RUNTIME_ERROR, "", True
        except FrameTooBig:
            return Outcome.RUNTIME_ERROR, "the program sent garbage in a test's place", False
        except TimeoutError as error:
            return Outcome.TIMEOUT, f"ran out of {error} time", False

    def default(self, outcome: Outcome) -> Outcome:
        """Return the outcome of tests that did not report, of which the code ended with `outcome`."""
        # A test that never ran has failed: only the program can have kept it from running. What follows too many
        # timeouts is a timeout.
        if outcome is not Outcome.NOT_RUN:
            return outcome
        timeouts = sum(each is Outcome.TIMEOUT for each in self.outcomes)
        return Outcome.TIMEOUT if timeouts >= self.limits.max_timeouts else Outcome.RUNTIME_ERROR

    def record(self, number: int, outcome: Outcome, message: str) -> None:
        """Note the outcome of a test; a failure stays a failure."""
        if number >= len(self.outcomes) or self.outcomes[number] not in (None, Outcome.PASSED):
            return
        # Nothing in the program's process can tell that a verdict is not the program's fault.
        self.outcomes[number] = outcome if outcome not in UNJUDGED else Outcome.RUNTIME_ERROR
        if outcome is not Outcome.PASSED:
            self.message = self.message or message
