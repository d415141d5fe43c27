"""Judge a program by its output: a single process runs test after test, and the host compares.

Only inputs enter the worker. A process goes on to the next test only after it passed a test, so that every failure
comes from a fresh process. If a process ran more than one test, one of its passes is repeated in a fresh process; if
that pass does not hold, all of them are repeated.
"""

from __future__ import annotations

import contextlib
import os
import select
import socket
import zlib
from dataclasses import dataclass

from trl_pper.judge.host.compare import CheckerError, outputs_match
from trl_pper.judge.host.worker import Worker, WorkerError, ended_well, read_outcome
from trl_pper.judge.limits import Limits
from trl_pper.judge.verdict import Outcome, Verdict
from trl_pper.judge.wire import codec
from trl_pper.judge.wire.allowance import Allowance
from trl_pper.judge.wire.channel import ChannelClosed, FrameReader, FrameTooBig, frame, send_frame
from trl_pper.judge.wire.rules import DONE, OUTCOME_OF_KIND, READY, SPENT
from trl_pper.tasks.task import StdioCase, StdioTests

_MAX_WORDS_BYTES = 1 << 17
_ANSWER_SECONDS = 30.0


def judge_stdio(worker: Worker, program: str, tests: StdioTests, limits: Limits) -> Verdict:
    """Run all tests of `program` in `worker`.

    Args:
        worker: The worker to run it in.
        program: Source text.
        tests: Inputs and expected outputs.
        limits: Limits of the worker; the CPU seconds may be set by the task.

    Raises:
        WorkerError: The sandbox failed.
    """
    longest = max(len(_encoded(case.input)) for case in tests.cases)
    if longest > limits.file_bytes:
        message = f"an input of {longest} bytes is more than file_bytes, {limits.file_bytes}, allows"
        return Verdict.uniform(Outcome.UNSUPPORTED, len(tests.cases), message)
    with worker.system.sealed_file(_encoded(program)) as source:
        judging = _Judging(worker, source, tests, limits)
        try:
            judging.run()
        finally:
            judging.drop()
    return judging.verdict()


def _encoded(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")


@dataclass(frozen=True, kw_only=True)
class _Result:
    outcome: Outcome
    message: str = ""
    #: Whether another test had run in the same process before.
    reused: bool = False


class _Script:
    """A candidate process that runs the program once per input."""

    def __init__(self, worker: Worker, source: int, limits: Limits) -> None:
        self.worker = worker
        self.limits = limits
        self.runs = 0
        self.seen = 0
        self.cpu_seconds = 0.0
        self.spent = False
        # Closed here if the worker fails or is cancelled before the process is ready, and by `end` otherwise.
        with contextlib.ExitStack() as self.files:
            self.output, self.errors = (self.files.enter_context(worker.system.output_file()) for _ in range(2))
            self.channel, theirs = socket.socketpair()
            self.files.enter_context(self.channel)
            worker.system.expect_process(self.channel)
            with theirs:
                descriptors = [theirs.fileno(), source, self.output, self.errors]
                answer = worker.request(
                    "candidate", descriptors, seconds=_ANSWER_SECONDS, mode="stdio", cpu_seconds=limits.cpu_seconds
                )
            self.pid = self.await_ready(answer["pid"])
            self.files = self.files.pop_all()
        self.allowance = Allowance(cpu_seconds=self.limits.cpu_seconds, wall_seconds=self.limits.wall_seconds)
        self.wait = self.allowance.waiter(self.channel)
        self.reader = FrameReader(self.channel, self.wait)

    def await_ready(self, known: int) -> int:
        """Wait for the first message of the process; return its process id, which is `known` to the zygote.

        Raises:
            WorkerError: It ended before.
        """
        expected = frame(READY)
        poll = select.poll()
        poll.register(self.channel, select.POLLIN)
        if poll.poll(1000 * _ANSWER_SECONDS):
            word, pid = self.worker.system.first_word(self.channel, len(expected), known)
            if word == expected:
                return pid
        self.end()
        raise WorkerError("a candidate ended before it was ready")

    def run(self, given: bytes) -> tuple[bytes, str]:
        """Run the program on `given`; return its closing message, or b"" and the reason for its lack."""
        self.runs += 1
        self.allowance.start(self.pid)
        try:
            send_frame(self.channel, given, wait=self.wait)
            return self.reader.read(_MAX_WORDS_BYTES), ""
        except TimeoutError as error:
            return b"", str(error)
        except (ChannelClosed, FrameTooBig):
            return b"", "ended"

    def printed(self) -> bytes | None:
        """Return the output since the last call, or None if it is longer than allowed."""
        start, self.seen = self.seen, os.fstat(self.output).st_size
        if max(self.seen - start, os.fstat(self.errors).st_size) > self.limits.output_bytes:
            return None
        # A program may have shortened the file, where the system cannot seal it.
        return os.pread(self.output, max(0, self.seen - start), start)

    def end(self, grace_seconds: float = 0.0) -> dict[str, object]:
        """Kill the process; return how it ended."""
        try:
            ending = self.worker.request("kill", seconds=_ANSWER_SECONDS + grace_seconds, grace_seconds=grace_seconds)
        finally:
            self.files.close()
        self.cpu_seconds = float(ending["cpu_seconds"])
        return ending


class _Judging:
    def __init__(self, worker: Worker, source: int, tests: StdioTests, limits: Limits) -> None:
        self.worker = worker
        self.source = source
        self.tests = tests
        self.limits = limits
        self.results: list[_Result] = []
        self.cpu_seconds = 0.0
        self.script: _Script | None = None

    def verdict(self) -> Verdict:
        """Return the verdict of all results."""
        failed = [(number, result) for number, result in enumerate(self.results, 1) if result.message]
        message = f"test {failed[0][0]}: {failed[0][1].message}" if failed else ""
        outcomes = tuple(result.outcome for result in self.results)
        return Verdict(outcomes=outcomes, message=message, cpu_seconds=self.cpu_seconds)

    def run(self) -> None:
        """Judge every test, and confirm the passes of processes that had run a test before."""
        for case in self.tests.cases:
            self.results.append(self.next_result(case))
        reused = [index for index, result in enumerate(self.results) if result.reused]
        if not reused:
            return
        chosen = reused[zlib.crc32(repr(self.tests.cases[reused[0]].input).encode()) % len(reused)]
        audit = self.fresh(self.tests.cases[chosen])
        self.results[chosen] = audit
        if audit.outcome is not Outcome.PASSED:
            for index in reused:
                if index != chosen:
                    self.results[index] = self.fresh(self.tests.cases[index])

    def next_result(self, case: StdioCase) -> _Result:
        """Judge the next test, in the process at hand when that has only passed so far."""
        known = self.settled()
        if known is not None:
            return known
        if self.script is not None:
            result = self.judge(case)
            if result.outcome is Outcome.PASSED:
                return result
        return self.fresh(case)

    def settled(self) -> _Result | None:
        """Return the result of every test still to come, once the program cannot do otherwise."""
        last = self.results[-1].outcome if self.results else Outcome.PASSED
        if last is Outcome.SYNTAX_ERROR:
            return self.results[-1]
        # Only a timeout can have been the one too many.
        if last is Outcome.TIMEOUT and sum(one.outcome is last for one in self.results) >= self.limits.max_timeouts:
            return _Result(outcome=Outcome.TIMEOUT)
        return None

    def fresh(self, case: StdioCase) -> _Result:
        """Judge a test in a new process."""
        self.drop()
        self.script = _Script(self.worker, self.source, self.limits)
        return self.judge(case)

    def judge(self, case: StdioCase) -> _Result:
        """Judge a test in the process at hand; let go of the process unless it passed."""
        script = self.script
        assert script is not None
        words, reason = script.run(_encoded(case.input))
        printed = script.printed()
        result = self.result(case, words, reason, printed, reused=script.runs > 1)
        if result.outcome is not Outcome.PASSED or words == SPENT:
            self.drop()
        return result

    def result(self, case: StdioCase, words: bytes, reason: str, printed: bytes | None, *, reused: bool) -> _Result:
        """Return the outcome and message of a run that ended."""
        if printed is None:
            message = f"wrote more than {self.limits.output_bytes} bytes"
            return _Result(outcome=Outcome.OUTPUT_LIMIT, message=message, reused=reused)
        if reason == "ended":
            ended = self.ending()
            if ended is not None:
                return _Result(outcome=ended[0], message=ended[1], reused=reused)
        elif reason:
            return _Result(outcome=Outcome.TIMEOUT, message=f"ran out of {reason} time", reused=reused)
        elif words not in (DONE, SPENT):
            outcome, message = _failure(words)
            return _Result(outcome=outcome, message=message, reused=reused)
        try:
            if outputs_match(printed, case, self.tests):
                return _Result(outcome=Outcome.PASSED, reused=reused)
        except CheckerError as error:
            return _Result(outcome=Outcome.UNSUPPORTED, message=str(error), reused=reused)
        shown = printed[:100].decode("utf-8", "replace")
        message = f"printed {shown!r}, expected {case.output[:100]!r}"
        return _Result(outcome=Outcome.WRONG_ANSWER, message=message, reused=reused)

    def ending(self) -> tuple[Outcome, str] | None:
        """Read from the process itself how it ended without a word; None means well, as after `os._exit(0)`."""
        assert self.script is not None
        script, self.script = self.script, None
        ending = script.end(grace_seconds=1.0)
        self.cpu_seconds += script.cpu_seconds
        return None if ended_well(ending) else read_outcome(ending)

    def drop(self) -> None:
        """End the process at hand, if any."""
        if self.script is not None:
            script, self.script = self.script, None
            script.end()
            self.cpu_seconds += script.cpu_seconds


def _failure(words: bytes) -> tuple[Outcome, str]:
    """Return outcome and message of a program that reported its failure itself."""
    try:
        kind, _, _, note = codec.decode(words)
    except (codec.CodecError, TypeError, ValueError):
        kind = note = None
    if type(kind) is not str or type(note) is not str:
        return Outcome.RUNTIME_ERROR, "the program ended with garbage"
    return OUTCOME_OF_KIND.get(kind, Outcome.RUNTIME_ERROR), note
