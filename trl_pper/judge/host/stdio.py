"""Judge a program by its output: it runs each test in a process of its own, and the host compares.

Only inputs enter the worker, never an expected output. Which tests a program runs, and in which order and processes,
does not depend on whether its outputs are right: a program gets a single try at each test, and learns nothing about
its answers. `worker.script` forks the processes of a program from one that has compiled it.

A checker that travels with the task is untrusted as well, and reads what the program printed. It runs in a candidate
process of its own, after the program's process has ended: the two never share the working directory, and no program
is alive while its expected outputs are in the worker. All outputs are held until then, as the time of a comparison
tells something, too; a run that went to its end counts as a pass meanwhile.
"""

from __future__ import annotations

import contextlib
import os
import socket
from dataclasses import dataclass
from typing import NamedTuple

from trl_pper.judge.host.compare import CheckerError, outputs_match
from trl_pper.judge.host.system import ProcessHandle
from trl_pper.judge.host.worker import (
    Ending,
    TestsLost,
    Worker,
    await_ready,
    ended_well,
    first_pid,
    read_outcome,
)
from trl_pper.judge.limits import Limits
from trl_pper.judge.verdict import Outcome, Verdict
from trl_pper.judge.wire import codec
from trl_pper.judge.wire.allowance import Allowance
from trl_pper.judge.wire.channel import ChannelClosed, FrameReader, FrameTooBig, receive_frame, send_frame
from trl_pper.judge.wire.rules import DONE, MANY, ONCE, OUTCOME_OF_KIND, SCRIPT_ENDING
from trl_pper.tasks.task import StdioCase, StdioTests

_MAX_WORDS_BYTES = 1 << 17
_ANSWER_SECONDS = 30.0
#: Time that a process has to end after its last message.
_GRACE_SECONDS = 1.0
#: Bytes of output that may wait to be compared; a few outputs of the largest size.
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


class _Process:
    """A candidate process for a script or a checker.

    Args:
        worker: The worker that forks the process.
        source: Descriptor of the text of the script or the checker.
        limits: The limits of the task.
        mode: "stdio" for a script, "checker" for a checker.
    """

    def __init__(self, worker: Worker, source: int, limits: Limits, mode: str) -> None:
        self.worker = worker
        self.limits = limits
        self.ended = False
        #: CPU seconds of the process and its children, known once it has ended.
        self.cpu_seconds = 0.0
        # Closed here if the worker fails or is cancelled before the process is ready, and by `end` otherwise.
        with contextlib.ExitStack() as self.files:
            self.channel, theirs = socket.socketpair()
            self.files.enter_context(self.channel)
            worker.system.expect_process(self.channel)
            with theirs:
                answer = worker.request(
                    "candidate",
                    [theirs.fileno(), source],
                    seconds=_ANSWER_SECONDS,
                    mode=mode,
                    cpu_seconds=limits.cpu_seconds,
                )
            self.pid = await_ready(worker, self.channel, answer["pid"])
            self.files = self.files.pop_all()

    def end(self, *, grace_seconds: float = 0.0) -> Ending:
        """Kill the process; return how it ended."""
        self.ended = True
        try:
            ending = self.worker.end_candidate(grace_seconds=grace_seconds)
        finally:
            self.files.close()
        self.cpu_seconds = ending.cpu_seconds
        return ending


class _Exchange:
    """An exchange of frames with a process, within the time of a test.

    Args:
        channel: The socket to the process.
        pid: Its process id, as the host sees it.
        limits: The limits of the task.
    """

    def __init__(self, channel: socket.socket, pid: int, limits: Limits) -> None:
        self.channel = channel
        self.pid = pid
        self.allowance = Allowance(cpu_seconds=limits.cpu_seconds, wall_seconds=limits.wall_seconds)
        self.wait = self.allowance.waiter(channel)
        self.reader = FrameReader(channel, self.wait)

    def ask(self, *given: bytes) -> tuple[bytes, str]:
        """Send texts; return the answer, or b"" and the reason why there is none.

        The reason is "cpu" or "wall" for spent time, and "ended" for a process that hung up.
        """
        self.allowance.start(self.pid)
        try:
            for text in given:
                send_frame(self.channel, text, wait=self.wait)
            return self.reader.read(_MAX_WORDS_BYTES), ""
        except TimeoutError as error:
            return b"", str(error)
        except (ChannelClosed, FrameTooBig):
            return b"", "ended"


class _Run(NamedTuple):
    """A run of a script on a test.

    Args:
        words: Its last message, or b"".
        reason: The reason why there is no message; see `_Exchange.ask`.
        printed: The standard output; None if it or standard error is larger than allowed.
        ending: How the process ended.
    """

    words: bytes
    reason: str
    printed: bytes | None
    ending: Ending


class _Script(_Process):
    """A candidate process that has compiled the program, and runs it in a child for each test.

    Where a program may start processes, the candidate runs a single test itself.
    """

    def __init__(self, worker: Worker, source: int, limits: Limits) -> None:
        super().__init__(worker, source, limits, "stdio")
        #: Whether the process has ended, or must not run another test.
        self.spent = False
        self.many = False

    def compile(self) -> tuple[Outcome, str] | None:
        """Wait until the program is compiled; return outcome and message of a failure, which ends the process."""
        words, reason = _Exchange(self.channel, self.pid, self.limits).ask()
        self.many = words == MANY
        if words in (MANY, ONCE):
            return None
        ending = self.end(grace_seconds=1.0 if reason == "ended" else 0.0)
        if reason == "ended":
            return read_outcome(ending, self.limits)
        return (Outcome.TIMEOUT, f"ran out of {reason} time") if reason else _failure(words)

    def run(self, given: bytes) -> _Run:
        """Run the program on the input `given`."""
        with contextlib.ExitStack() as files:
            output, errors = (files.enter_context(self.worker.system.output_file()) for _ in range(2))
            channel, theirs = socket.socketpair()
            files.enter_context(channel)
            self.worker.system.expect_process(channel)
            with theirs, contextlib.suppress(OSError):
                socket.send_fds(self.channel, [b"+"], [theirs.fileno(), output, errors])
            pid = first_pid(self.worker, channel, self.pid)
            if pid is None:
                return self.lost()
            # Not the number alone: once the process has ended, another process may get the number.
            process = files.enter_context(self.worker.system.process_handle(pid))
            words, reason = _Exchange(channel, pid, self.limits).ask(given)
            if reason in ("cpu", "wall"):
                process.kill()
            ending = self.await_end(process, grace_seconds=0.0 if reason in ("cpu", "wall") else _GRACE_SECONDS)
            size = os.fstat(output).st_size
            too_much = max(size, os.fstat(errors).st_size) > self.limits.output_bytes
            printed = None if too_much else os.pread(output, size, 0)
        return _Run(words, reason, printed, ending)

    def lost(self) -> _Run:
        """Return the end of a process that has not begun with a test; only a limit on files ends it there.

        Raises:
            TestsLost: It ended for another reason.
        """
        self.spent = True
        ending = self.end()
        if not ending.overrun:
            raise TestsLost("the process of the program ended between two tests")
        return _Run(b"", "ended", b"", ending)

    def await_end(self, process: ProcessHandle, *, grace_seconds: float) -> Ending:
        """Wait until the process of a test has ended, and kill it if it does not end soon; return how it ended.

        Args:
            process: The process.
            grace_seconds: Time that it has to end by itself; 0 for a process that is killed already or must be.
        """
        if not self.many:
            self.spent = True
            return self.end(grace_seconds=grace_seconds)
        killed = grace_seconds == 0.0
        for seconds in (_ANSWER_SECONDS,) if killed else (grace_seconds, _ANSWER_SECONDS):
            self.channel.settimeout(seconds)
            try:
                report = receive_frame(self.channel, max_bytes=SCRIPT_ENDING.size)
            except TimeoutError:
                # It said that its program was over, and then did not end.
                process.kill()
                killed = True
                continue
            except ChannelClosed:
                break
            status, self.spent = SCRIPT_ENDING.unpack(report)
            return Ending(status=status, cpu_seconds=0.0, killed=killed, overrun=False)
        # The parent is gone as well: it was killed for files that the program left.
        self.spent = True
        return self.end()


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
        self.process: _Process | None = None
        self.exchange: _Exchange | None = None
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
        if self.process is None or self.exchange is None:
            self.process = _Process(self.worker, self.source, self.limits, "checker")
            self.exchange = _Exchange(self.process.channel, self.process.pid, self.limits)
        words, reason = self.exchange.ask(_encoded(case.input), output, _encoded(case.output))
        accepted, said = (None, f"ran out of {reason} time") if reason else _checker_answer(words)
        if accepted is not None:
            return accepted, said
        # Whatever a failure left behind must not decide on the next output.
        process, self.process = self.process, None
        ending = process.end(grace_seconds=1.0 if reason == "ended" else 0.0)
        if reason == "ended":
            outcome, said = read_outcome(ending, self.limits)
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
        #: Outputs to compare, by the index of the test.
        self.held: dict[int, bytes] = {}
        self.results: list[_Result] = []
        #: The result of every test of a program that does not compile.
        self.unusable: _Result | None = None
        self.cpu_seconds = 0.0
        self.script: _Script | None = None

    def verdict(self) -> Verdict:
        """Return the verdict from the results so far."""
        failed = [(number, result) for number, result in enumerate(self.results, 1) if result.message]
        message = f"test {failed[0][0]}: {failed[0][1].message}" if failed else ""
        outcomes = tuple(result.outcome for result in self.results)
        return Verdict(outcomes=outcomes, message=message, cpu_seconds=self.cpu_seconds)

    def run(self) -> None:
        """Judge every test."""
        for index in range(len(self.tests.cases)):
            self.results.append(self.settled() or self.judge(index))
            if sum(map(len, self.held.values())) > _MAX_HELD_BYTES:
                self.check()
        self.check()

    def check(self) -> None:
        """Compare the outputs that were held, or let the checker decide on them."""
        if not self.held:
            return
        # No process of the program may be alive beside the checker, which knows the expected outputs. Nor may it see
        # how long a comparison takes, which depends on the first difference.
        self.drop()
        held, self.held = self.held, {}
        try:
            for index, printed in held.items():
                self.results[index] = self.compared(index, printed)
        finally:
            if self.checking is not None:
                self.checking.drop()

    def settled(self) -> _Result | None:
        """Return the result of all remaining tests once it is known without running them, or None."""
        if self.unusable is not None:
            return self.unusable
        # Counted after a timeout only: no other result can bring their number to the limit.
        last = self.results[-1].outcome if self.results else Outcome.PASSED
        if last is Outcome.TIMEOUT and sum(one.outcome is last for one in self.results) >= self.limits.max_timeouts:
            return _Result(outcome=Outcome.TIMEOUT)
        return None

    def judge(self, index: int) -> _Result:
        """Judge a test."""
        if self.script is None:
            self.script = _Script(self.worker, self.source, self.limits)
            failure = self.script.compile()
            if failure is not None:
                self.unusable = _Result(outcome=failure[0], message=failure[1])
                self.drop()
                return self.unusable
        run = self.script.run(_encoded(self.tests.cases[index].input))
        if self.script.spent:
            self.drop()
        return self.result(index, run)

    def result(self, index: int, run: _Run) -> _Result:
        """Return the result of a run from its last message and its output."""
        if run.printed is None:
            return _Result(outcome=Outcome.OUTPUT_LIMIT, message=f"wrote more than {self.limits.output_bytes} bytes")
        if run.reason == "ended":
            # A program that calls `os._exit(0)` sends no message, and is judged by its output.
            if not ended_well(run.ending):
                outcome, message = read_outcome(run.ending, self.limits)
                return _Result(outcome=outcome, message=message)
        elif run.reason:
            return _Result(outcome=Outcome.TIMEOUT, message=f"ran out of {run.reason} time")
        elif run.words != DONE:
            outcome, message = _failure(run.words)
            return _Result(outcome=outcome, message=message)
        self.held[index] = run.printed
        return _Result(outcome=Outcome.PASSED)

    def compared(self, index: int, printed: bytes) -> _Result:
        """Return the result of a test whose run went to its end, by what it printed."""
        case = self.tests.cases[index]
        if self.checking is not None:
            outcome, message = self.checking.judge(case, printed)
            return _Result(outcome=outcome, message=message)
        try:
            if outputs_match(printed, case, self.tests):
                return _Result(outcome=Outcome.PASSED)
        except CheckerError as error:
            return _Result(outcome=Outcome.UNSUPPORTED, message=str(error))
        shown = printed[:100].decode("utf-8", "replace")
        message = f"printed {shown!r}, expected {case.output[:100]!r}"
        return _Result(outcome=Outcome.WRONG_ANSWER, message=message)

    def drop(self) -> None:
        """End the program's process, if there is any."""
        if self.script is not None:
            script, self.script = self.script, None
            if not script.ended:
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
