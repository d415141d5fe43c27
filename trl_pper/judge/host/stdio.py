"""Judge a program by its output: a process runs test after test, and the host compares.

Only inputs enter the worker, never an expected output. A process goes on to the next test only after a pass, so every
failure is that of a fresh process. When any process ran more than a single test, a single pass of a used process is
repeated in a fresh process; if it fails there, all passes of used processes are repeated.

A checker that travels with the task is untrusted as well, and reads what the program printed. It runs in a candidate
process of its own, after the program's process has ended: the two never share the working directory, and no program
is alive while its expected outputs are in the worker. Outputs are held until then; a run that went to its end counts
as a pass meanwhile, and tests that a used process failed are repeated in a fresh process.
"""

from __future__ import annotations

import contextlib
import os
import socket
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, replace

from trl_pper.judge.host.compare import CheckerError, outputs_match
from trl_pper.judge.host.worker import Worker, await_ready, ended_well, read_outcome
from trl_pper.judge.limits import Limits
from trl_pper.judge.verdict import Outcome, Verdict
from trl_pper.judge.wire import codec
from trl_pper.judge.wire.allowance import Allowance
from trl_pper.judge.wire.channel import ChannelClosed, FrameReader, FrameTooBig, send_frame
from trl_pper.judge.wire.rules import DONE, OUTCOME_OF_KIND, SPENT
from trl_pper.tasks.task import StdioCase, StdioTests

_MAX_WORDS_BYTES = 1 << 17
_ANSWER_SECONDS = 30.0
#: Bytes of output that may wait for the checker; a few outputs of the largest size.
_MAX_HELD_BYTES = 1 << 26


def judge_stdio(worker: Worker, program: str, tests: StdioTests, limits: Limits) -> Verdict:
    """Return the verdict on `program` after running all tests in `worker`.

    Args:
        worker: The worker that runs the program.
        program: The program's text.
        tests: Inputs and expected outputs.
        limits: The limits of the worker, with the task's CPU seconds if it has any.

    Raises:
        WorkerError: The sandbox failed.
    """
    longest = max(len(_encoded(case.input)) for case in tests.cases)
    if longest > limits.file_bytes:
        message = f"an input of {longest} bytes is more than file_bytes, {limits.file_bytes}, allows"
        return Verdict.uniform(Outcome.UNSUPPORTED, len(tests.cases), message)
    if tests.checker is not None and tests.checker_language != "python":
        # A compiled checker would have to be started as a program, and the jail starts none.
        message = (
            f"the checker is written in {tests.checker_language}, and the jail in which checkers run starts no"
            " compiled program; write the checker in Python"
        )
        return Verdict.uniform(Outcome.UNSUPPORTED, len(tests.cases), message)
    with contextlib.ExitStack() as files:
        source = files.enter_context(worker.system.sealed_file(_encoded(program)))
        checking = None
        if tests.checker is not None:
            rule = files.enter_context(worker.system.sealed_file(_encoded(tests.checker)))
            checking = _Checking(worker, rule, limits)
        judging = _Judging(worker, source, tests, limits, checking)
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
    #: Whether the process had run another test before.
    reused: bool = False


class _Script:
    """A candidate process that runs the program once for each input, or the checker once for each output.

    Args:
        worker: The worker that forks the process.
        source: Descriptor of the text of the program or of the checker.
        limits: The limits of the task.
        mode: "stdio" for a program, "checker" for a checker, of which nothing is kept but its answers.
    """

    def __init__(self, worker: Worker, source: int, limits: Limits, mode: str = "stdio") -> None:
        self.worker = worker
        self.limits = limits
        self.runs = 0
        self.seen = 0
        self.cpu_seconds = 0.0
        self.spent = False
        # Closed here if the worker fails or is cancelled before the process is ready, and by `end` otherwise.
        with contextlib.ExitStack() as self.files:
            self.outputs = [
                self.files.enter_context(worker.system.output_file()) for _ in range(2 if mode == "stdio" else 0)
            ]
            self.channel, theirs = socket.socketpair()
            self.files.enter_context(self.channel)
            worker.system.expect_process(self.channel)
            with theirs:
                descriptors = [theirs.fileno(), source, *self.outputs]
                answer = worker.request(
                    "candidate", descriptors, seconds=_ANSWER_SECONDS, mode=mode, cpu_seconds=limits.cpu_seconds
                )
            self.pid = await_ready(worker, self.channel, answer["pid"])
            self.files = self.files.pop_all()
        self.allowance = Allowance(cpu_seconds=self.limits.cpu_seconds, wall_seconds=self.limits.wall_seconds)
        self.wait = self.allowance.waiter(self.channel)
        self.reader = FrameReader(self.channel, self.wait)

    def run(self, *given: bytes) -> tuple[bytes, str]:
        """Run the program on the texts `given`; return its last message, or b"" and the reason why there is none.

        The reason is "cpu" or "wall" for spent time, and "ended" for a process that hung up.
        """
        self.runs += 1
        self.allowance.start(self.pid)
        try:
            for text in given:
                send_frame(self.channel, text, wait=self.wait)
            return self.reader.read(_MAX_WORDS_BYTES), ""
        except TimeoutError as error:
            return b"", str(error)
        except (ChannelClosed, FrameTooBig):
            return b"", "ended"

    def printed(self) -> bytes | None:
        """Return the standard output since the last call, or None when it or standard error is larger than allowed."""
        output, errors = self.outputs
        start, self.seen = self.seen, os.fstat(output).st_size
        if max(self.seen - start, os.fstat(errors).st_size) > self.limits.output_bytes:
            return None
        # Where the system cannot seal the file, a program may have shortened it.
        return os.pread(output, max(0, self.seen - start), start)

    def end(self, grace_seconds: float = 0.0) -> dict[str, object]:
        """Kill the process; return how it ended."""
        try:
            ending = self.worker.request("kill", seconds=_ANSWER_SECONDS + grace_seconds, grace_seconds=grace_seconds)
        finally:
            self.files.close()
        self.cpu_seconds = float(ending["cpu_seconds"])
        return ending


class _Checking:
    """A task's checker at work on the outputs of a single program.

    Args:
        worker: The worker that runs the checker.
        source: Descriptor of the checker's text.
        limits: The limits of the task; CPU and wall time of each output are those of a test.
    """

    def __init__(self, worker: Worker, source: int, limits: Limits) -> None:
        self.worker = worker
        self.source = source
        self.limits = limits
        self.process: _Script | None = None
        self.timeouts = 0
        #: The reason why the checker cannot judge, or "".
        self.fault = ""

    def judge(self, case: StdioCase, printed: bytes) -> tuple[Outcome, str]:
        """Return outcome and message of a program that printed `printed`."""
        if self.fault:
            return Outcome.UNSUPPORTED, self.fault
        shown = printed[:100].decode("utf-8", "replace")
        # Otherwise a program could hold up the judge with an output for each test that the checker is slow at.
        if self.timeouts >= self.limits.max_timeouts:
            return Outcome.WRONG_ANSWER, f"printed {shown!r}, after outputs that took the checker too long"
        accepted, said = self.ask(case, printed)
        if accepted is None:
            # A checker may well fail on garbage; only its answer on the correct output shows whose fault that is.
            known, reason = self.ask(case, _encoded(case.output))
            if known is None:
                self.fault = f"the checker fails even on the expected output: {reason}"
                return Outcome.UNSUPPORTED, self.fault
            return Outcome.WRONG_ANSWER, f"printed {shown!r}, on which the checker fails: {said}"
        if accepted:
            return Outcome.PASSED, ""
        return Outcome.WRONG_ANSWER, f"printed {shown!r}, which the checker refuses" + (f": {said}" if said else "")

    def ask(self, case: StdioCase, output: bytes) -> tuple[bool | None, str]:
        """Return the checker's answer and its message; None for the answer if it failed."""
        self.process = self.process or _Script(self.worker, self.source, self.limits, "checker")
        words, reason = self.process.run(_encoded(case.input), output, _encoded(case.output))
        accepted, said = (None, f"ran out of {reason} time") if reason else _checker_answer(words)
        if accepted is not None:
            return accepted, said
        # Whatever a failure left behind must not decide on the next output.
        process, self.process = self.process, None
        ending = process.end(grace_seconds=1.0 if reason == "ended" else 0.0)
        if reason == "ended":
            outcome, said = read_outcome(ending)
            reason = "cpu" if outcome is Outcome.TIMEOUT else reason
        self.timeouts += reason in ("cpu", "wall")
        return None, said

    def drop(self) -> None:
        """End the running process, if there is any."""
        if self.process is not None:
            process, self.process = self.process, None
            process.end()


class _Judging:
    def __init__(
        self, worker: Worker, source: int, tests: StdioTests, limits: Limits, checking: _Checking | None
    ) -> None:
        self.worker = worker
        self.source = source
        self.tests = tests
        self.limits = limits
        self.checking = checking
        #: Outputs for the checker, by the index of the test.
        self.held: dict[int, bytes] = {}
        self.results: list[_Result] = []
        self.cpu_seconds = 0.0
        self.script: _Script | None = None

    def verdict(self) -> Verdict:
        """Return the verdict from the results so far."""
        failed = [(number, result) for number, result in enumerate(self.results, 1) if result.message]
        message = f"test {failed[0][0]}: {failed[0][1].message}" if failed else ""
        outcomes = tuple(result.outcome for result in self.results)
        return Verdict(outcomes=outcomes, message=message, cpu_seconds=self.cpu_seconds)

    def run(self) -> None:
        """Judge every test, then repeat passes of used processes as the module describes."""
        for index in range(len(self.tests.cases)):
            self.results.append(self.next_result(index))
            if sum(map(len, self.held.values())) > _MAX_HELD_BYTES:
                self.check()
        self.check()
        reused = [index for index, result in enumerate(self.results) if result.reused]
        passed = [index for index in reused if self.results[index].outcome is Outcome.PASSED]
        # Only a checker finds failures afterwards; without one every failure is that of a fresh process.
        self.repeat([index for index in reused if self.results[index].outcome is Outcome.WRONG_ANSWER])
        if not passed:
            return
        # Chosen by a hash of an input rather than drawn, so that verdicts repeat.
        chosen = passed[zlib.crc32(repr(self.tests.cases[passed[0]].input).encode()) % len(passed)]
        self.repeat([chosen])
        if self.results[chosen].outcome is not Outcome.PASSED:
            self.repeat([index for index in passed if index != chosen])

    def repeat(self, indices: Sequence[int]) -> None:
        """Judge tests again, each in a fresh process."""
        if self.checking is not None:
            # An output that has passed must not fail now because the checker was slow at other outputs.
            self.checking.timeouts = 0
        for index in indices:
            self.results[index] = self.fresh(index)
            if sum(map(len, self.held.values())) > _MAX_HELD_BYTES:
                self.check()
        self.check()

    def check(self) -> None:
        """Let the checker decide on the outputs that wait for it."""
        if self.checking is None or not self.held:
            return
        # The program must not be alive beside the checker, which knows the expected outputs.
        self.drop()
        held, self.held = self.held, {}
        try:
            for index, printed in held.items():
                outcome, message = self.checking.judge(self.tests.cases[index], printed)
                self.results[index] = replace(self.results[index], outcome=outcome, message=message)
        finally:
            self.checking.drop()

    def next_result(self, index: int) -> _Result:
        """Judge the next test, at first in the running process, if there is any: it has passed every test so far."""
        known = self.settled()
        if known is not None:
            return known
        if self.script is not None:
            result = self.judge(index)
            if result.outcome is Outcome.PASSED:
                return result
        # A failure in a used process may come from the state that earlier runs left behind.
        return self.fresh(index)

    def settled(self) -> _Result | None:
        """Return the result of all remaining tests once it is known without running them, or None."""
        last = self.results[-1].outcome if self.results else Outcome.PASSED
        if last is Outcome.SYNTAX_ERROR:
            return self.results[-1]
        # Counted after a timeout only: no other result can bring their number to the limit.
        if last is Outcome.TIMEOUT and sum(one.outcome is last for one in self.results) >= self.limits.max_timeouts:
            return _Result(outcome=Outcome.TIMEOUT)
        return None

    def fresh(self, index: int) -> _Result:
        """Judge a test in a new process."""
        self.drop()
        self.script = _Script(self.worker, self.source, self.limits)
        return self.judge(index)

    def judge(self, index: int) -> _Result:
        """Judge a test in the running process; end the process unless the test passed."""
        script = self.script
        assert script is not None
        words, reason = script.run(_encoded(self.tests.cases[index].input))
        printed = script.printed()
        result = self.result(index, words, reason, printed, reused=script.runs > 1)
        # A spent process has ended its threads the way an interpreter does at its exit, which works only once.
        if result.outcome is not Outcome.PASSED or words == SPENT:
            self.drop()
        return result

    def result(self, index: int, words: bytes, reason: str, printed: bytes | None, *, reused: bool) -> _Result:
        """Return the result of a run from its last message and its output."""
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
        if self.checking is not None:
            self.held[index] = printed
            return _Result(outcome=Outcome.PASSED, reused=reused)
        case = self.tests.cases[index]
        try:
            if outputs_match(printed, case, self.tests):
                return _Result(outcome=Outcome.PASSED, reused=reused)
        except CheckerError as error:
            return _Result(outcome=Outcome.UNSUPPORTED, message=str(error), reused=reused)
        shown = printed[:100].decode("utf-8", "replace")
        message = f"printed {shown!r}, expected {case.output[:100]!r}"
        return _Result(outcome=Outcome.WRONG_ANSWER, message=message, reused=reused)

    def ending(self) -> tuple[Outcome, str] | None:
        """Return outcome and message of a process that ended without a last message; None for a clean exit."""
        assert self.script is not None
        script, self.script = self.script, None
        ending = script.end(grace_seconds=1.0)
        self.cpu_seconds += script.cpu_seconds
        # A program that calls `os._exit(0)` sends no message, and is judged by its output.
        return None if ended_well(ending) else read_outcome(ending)

    def drop(self) -> None:
        """End the running process, if there is any."""
        if self.script is not None:
            script, self.script = self.script, None
            script.end()
            self.cpu_seconds += script.cpu_seconds


def _checker_answer(words: bytes) -> tuple[bool | None, str]:
    """Return the answer of a checker and its message; None for the answer if the checker failed."""
    try:
        accepted, said = codec.decode(words)
    except (codec.CodecError, TypeError, ValueError):
        accepted = said = None
    if type(accepted) not in (bool, type(None)) or type(said) is not str:
        return None, "its process answered with garbage"
    return accepted, said


def _failure(words: bytes) -> tuple[Outcome, str]:
    """Return outcome and message of a run whose candidate reported its failure itself."""
    try:
        kind, _, _, note = codec.decode(words)
    except (codec.CodecError, TypeError, ValueError):
        kind = note = None
    if type(kind) is not str or type(note) is not str:
        return Outcome.RUNTIME_ERROR, "the program ended with garbage"
    return OUTCOME_OF_KIND.get(kind, Outcome.RUNTIME_ERROR), note
