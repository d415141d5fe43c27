"""Judges one program by test code that calls it: the host's part, which passes descriptors and collects outcomes.

Enters: a program, its function tests and a worker. Leaves: a Verdict. The tests go to the referee and nowhere else.
"""

from __future__ import annotations

import contextlib
import select
import socket
import time
from typing import Any

from trl_pper.judge import codec
from trl_pper.judge.channel import ChannelClosed, receive_frame, send_frame
from trl_pper.judge.endings import outcome_of
from trl_pper.judge.limits import Limits
from trl_pper.judge.worker import Worker, WorkerError, sealed_file
from trl_pper.task import FunctionTests
from trl_pper.verdict import Outcome, Verdict

_ANSWER_SECONDS = 30.0
_MAX_MESSAGE_BYTES = 1 << 20


def judge_function(worker: Worker, program: str, tests: FunctionTests, limits: Limits) -> Verdict:
    """Run all tests of `program` in `worker`.

    Raises:
        WorkerError: The sandbox failed.
    """
    with contextlib.ExitStack() as stack:
        run = _Run(worker, program, tests, limits, stack)
        try:
            verdict = run.collect()
        finally:
            ending = worker.request("end", seconds=_ANSWER_SECONDS)
        cpu_seconds = run.cpu_seconds + float(ending["cpu_seconds"])
        return Verdict(outcomes=verdict.outcomes, message=verdict.message, cpu_seconds=cpu_seconds)


class _Run:
    def __init__(
        self, worker: Worker, program: str, tests: FunctionTests, limits: Limits, stack: contextlib.ExitStack
    ) -> None:
        self.worker = worker
        self.limits = limits
        self.cpu_seconds = 0.0
        self.outcomes: list[Outcome | None] = []
        self.message = ""
        self.null = stack.enter_context(open("/dev/null", "r+b", buffering=0))
        self.program = stack.enter_context(sealed_file(program.encode("utf-8", "surrogatepass")))
        test_file = stack.enter_context(
            sealed_file(codec.encode((tests.setup, tests.code, tests.entry_point), max_bytes=1 << 30))
        )
        self.host, referee_end = socket.socketpair()
        stack.enter_context(self.host)
        ours, theirs = socket.socketpair()
        null = self.null.fileno()
        with referee_end, ours, theirs:
            descriptors = [null, null, null, theirs.fileno(), self.program]
            descriptors += [null, null, null, ours.fileno(), referee_end.fileno(), test_file]
            self._ask("pair", descriptors)

    def _ask(self, operation: str, descriptors: list[int]) -> dict[str, Any]:
        return self.worker.request(
            operation, descriptors, seconds=_ANSWER_SECONDS, mode="function", limits=self.limits.to_dict()
        )

    def collect(self) -> Verdict:
        """Listen to the referee until it has nothing more to say."""
        while True:
            try:
                kind, *fields = codec.decode(receive_frame(self.host, max_bytes=_MAX_MESSAGE_BYTES, wait=self._wait))
            except ChannelClosed:
                raise WorkerError("the referee has ended") from None
            except TimeoutError:
                return self._verdict(Outcome.TIMEOUT, "the test code did not end on what the program returned")
            if kind == "plan":
                self.outcomes = [None] * fields[0]
            elif kind == "test":
                self._record(*fields)
            elif kind == "lost":
                self._replace(*fields)
            elif kind == "broken":
                raise WorkerError(fields[0])
            elif kind == "unsupported":
                return Verdict.uniform(Outcome.UNSUPPORTED, 1, fields[0])
            elif kind == "end":
                return self._verdict(Outcome(fields[0]), fields[1])

    def _wait(self, sock: socket.socket, event: int) -> None:
        # The referee watches the candidate's clocks; this catches a referee stuck in one long operation of its own.
        seconds = 2.0 * self.limits.wall_seconds + 5.0
        poll = select.poll()
        poll.register(sock, event)
        end = time.monotonic() + seconds
        while not poll.poll(1000 * min(5.0, seconds)):
            if time.monotonic() > end:
                raise TimeoutError

    def _record(self, index: int, outcome: str, message: str) -> None:
        self.outcomes[index] = Outcome(outcome)
        self.message = self.message or message

    def _replace(self, reason: str, more: bool) -> None:
        """Tell the referee how its candidate ended, and hand it a new one if it wants more."""
        ending = self._ask("kill", [])
        self.cpu_seconds += float(ending["cpu_seconds"])
        if reason == "cpu":
            outcome, message = Outcome.TIMEOUT, f"used more than {self.limits.cpu_seconds:g} CPU seconds"
        elif reason == "wall":
            outcome, message = Outcome.TIMEOUT, f"took more than {self.limits.wall_seconds:g} seconds"
        elif reason == "ended":
            outcome, message = outcome_of(int(ending["status"]))
        else:
            outcome, message = Outcome.RUNTIME_ERROR, f"the program answered with {reason}"
        ours, theirs = socket.socketpair()
        null = self.null.fileno()
        with ours, theirs:
            pid = 0
            if more:
                pid = self._ask("candidate", [null, null, null, theirs.fileno(), self.program])["pid"]
            try:
                answer = (outcome.value, message, pid)
                send_frame(self.host, codec.encode(answer, max_bytes=_MAX_MESSAGE_BYTES))
                if more:
                    socket.send_fds(self.host, [b"+"], [ours.fileno()])
            except (ChannelClosed, OSError) as error:
                raise WorkerError(f"the referee has ended: {error}") from None

    def _verdict(self, default: Outcome, message: str) -> Verdict:
        outcomes = tuple(outcome or default for outcome in self.outcomes)
        return Verdict(outcomes=outcomes, message=self.message or (message if None in self.outcomes else ""))
