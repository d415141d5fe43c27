"""Judges one program by what it prints: a fresh process per test, compared with the expected output on the host.

Enters: a program, its input and output pairs and a worker. Leaves: a Verdict. Only inputs enter the worker.
"""

from __future__ import annotations

import contextlib
import os
import socket

from trl_pper.judge import codec
from trl_pper.judge.candidate import READY
from trl_pper.judge.channel import ChannelClosed, FrameTooBig, receive_frame
from trl_pper.judge.compare import outputs_match
from trl_pper.judge.endings import OUTCOME_OF_KIND, outcome_of
from trl_pper.judge.limits import Limits
from trl_pper.judge.worker import Worker, WorkerError, output_file, sealed_file
from trl_pper.task import StdioCase, StdioTests
from trl_pper.verdict import Outcome, Verdict

_MARGIN_SECONDS = 30.0


def judge_stdio(worker: Worker, program: str, tests: StdioTests, limits: Limits) -> Verdict:
    """Run all tests of `program` in `worker`.

    Raises:
        WorkerError: The sandbox failed.
    """
    outcomes: list[Outcome] = []
    first_message, cpu_seconds = "", 0.0
    with sealed_file(program.encode("utf-8", "surrogatepass")) as source:
        for case in tests.cases:
            if outcomes.count(Outcome.TIMEOUT) >= limits.max_timeouts:
                outcomes.append(Outcome.TIMEOUT)
                continue
            outcome, message, seconds = _run_case(worker, source, case, tests.compare, limits)
            outcomes.append(outcome)
            cpu_seconds += seconds
            if outcome is not Outcome.PASSED:
                first_message = first_message or f"test {len(outcomes)}: {message}"
            if outcome is Outcome.SYNTAX_ERROR:
                outcomes += [outcome] * (len(tests.cases) - len(outcomes))
                break
    return Verdict(outcomes=tuple(outcomes), message=first_message, cpu_seconds=cpu_seconds)


def _run_case(
    worker: Worker, source: int, case: StdioCase, compare: str, limits: Limits
) -> tuple[Outcome, str, float]:
    """Run one test; return its outcome, a message and the CPU seconds it took."""
    with contextlib.ExitStack() as stack:
        standard_input = stack.enter_context(sealed_file(case.input.encode("utf-8", "surrogatepass")))
        output, errors = stack.enter_context(output_file()), stack.enter_context(output_file())
        ours, theirs = socket.socketpair()
        stack.enter_context(ours)
        with theirs:
            ending = worker.request(
                "stdio",
                [standard_input, output, errors, theirs.fileno(), source],
                seconds=limits.wall_seconds + _MARGIN_SECONDS,
                limits=limits.to_dict(),
            )
        cpu_seconds = float(ending["cpu_seconds"])
        if not _was_ready(ours):
            raise WorkerError("a candidate ended before it was ready")
        if max(os.fstat(output).st_size, os.fstat(errors).st_size) > limits.output_bytes:
            return Outcome.OUTPUT_LIMIT, f"wrote more than {limits.output_bytes} bytes", cpu_seconds
        if ending["timeout"] is not None:
            return Outcome.TIMEOUT, f"ran out of {ending['timeout']} time", cpu_seconds
        if ending["status"] != 0:
            return *_failure(ours, int(ending["status"])), cpu_seconds
        printed = os.pread(output, limits.output_bytes, 0)
        if outputs_match(printed, case.output, compare=compare):
            return Outcome.PASSED, "", cpu_seconds
        shown = printed[:100].decode("utf-8", "replace")
        return Outcome.WRONG_ANSWER, f"printed {shown!r}, expected {case.output[:100]!r}", cpu_seconds


def _was_ready(channel: socket.socket) -> bool:
    channel.setblocking(False)
    try:
        return receive_frame(channel, max_bytes=1 << 10) == READY
    except (ChannelClosed, FrameTooBig, BlockingIOError):
        return False


def _failure(channel: socket.socket, status: int) -> tuple[Outcome, str]:
    """Return outcome and message of a program that ended badly: from its own last words, else from its status."""
    try:
        kind, _, _, note = codec.decode(receive_frame(channel, max_bytes=1 << 17))
    except (ChannelClosed, FrameTooBig, BlockingIOError, codec.CodecError, TypeError, ValueError):
        return outcome_of(status)
    return OUTCOME_OF_KIND.get(kind, Outcome.RUNTIME_ERROR), str(note)
