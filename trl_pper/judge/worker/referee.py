"""Run the test code of a task against one candidate after another, and report to the host how each test ended.

The tests, with the expected answers, arrive on a descriptor that no candidate ever holds. This process is a sibling
of the candidate, never its ancestor, and runs no line of the program. Values that the program returns reach the test
code as values of exact builtin and library types. For tests that cannot run separate from the program, the process
only prepares the plan that candidates run.
"""

from __future__ import annotations

import builtins
import marshal
import mmap
import os
import signal
import socket
import sys
import types
from collections.abc import Mapping
from typing import Any

from trl_pper.judge.verdict import Outcome
from trl_pper.judge.wire import codec
from trl_pper.judge.wire.channel import ChannelClosed, receive_frame, send_frame
from trl_pper.judge.wire.exceptions import error_text
from trl_pper.judge.wire.rules import OUTCOME_BYTES
from trl_pper.judge.worker.conversation import OPERATIONS, Conversation, Function, SandboxBroken
from trl_pper.judge.worker.plan import OPERATION, BadTests, TestPlan, compile_setup, compile_tests, plan_tests
from trl_pper.judge.worker.program import seed_random
from trl_pper.judge.worker.shared import Check
from trl_pper.tasks.separable import Separable
from trl_pper.tasks.syntax import UNREADABLE, why_unreadable
from trl_pper.tasks.tests import CHECK, TEST

#: Descriptors that a referee starts with, after standard input, output and error.
HOST, TESTS, BOARD = 3, 4, 5


_MAX_MESSAGE_CHARS = 500
_MAX_PLAN_BYTES = 1 << 28
_RETRY_SECONDS = 0.05
_RECURSION_LIMIT = 5000
#: Less than the host waits for a new referee.
_NOT_REACHED = "the test code did not reach this test"


def main(*, limits: Mapping[str, float]) -> None:
    """Judge every program that the host announces; never returns.

    Args:
        limits: From `Limits.to_dict()`.
    """
    setup, code, entry_point, run = codec.decode(os.pread(TESTS, os.fstat(TESTS).st_size, 0))
    host = socket.socket(fileno=HOST)
    # Values may be nested deep, and the codec calls itself for each level.
    sys.setrecursionlimit(_RECURSION_LIMIT)
    try:
        plan = plan_tests(code, setup=setup, entry_point=entry_point, run=run)
        programs = (compile_setup(plan.setup), compile_tests(plan.tree))
        if plan.separable is None:
            shared = plan.shared(entry_point)
            trial = _trial(plan, shared.setup, uses_pytest=shared.uses_pytest)
            prepared = ("shared", len(plan.tests), shared.to_bytes(), trial)
            send_frame(host, codec.encode(prepared, max_bytes=_MAX_PLAN_BYTES))
            os._exit(0)
        trial = _trial(plan, programs[0])
    except UNREADABLE as error:
        # A fault of the tests, which says nothing about any program.
        reason = why_unreadable(error)
        message = reason if isinstance(error, BadTests) else f"the test code cannot be read: {reason}"
        _tell(host, "unsupported", 0, message[:_MAX_MESSAGE_CHARS].encode("utf-8", "replace"), b"")
        os._exit(0)
    separable = plan.separable
    os.ftruncate(BOARD, len(plan.tests))
    board = mmap.mmap(BOARD, len(plan.tests))
    send_frame(host, codec.encode(("separate", len(plan.tests), b"", trial), max_bytes=_MAX_PLAN_BYTES))
    healthy = True
    while healthy:
        try:
            pid = codec.decode(receive_frame(host, max_bytes=1 << 10))
        except ChannelClosed:
            break
        _, descriptors, _, _ = socket.recv_fds(host, 1, 1)
        module = types.ModuleType("__main__")
        conversation = Conversation(
            channel=socket.socket(fileno=descriptors[0]),
            host=host,
            pid=pid,
            limits=limits,
            exact=separable.exact,
            tests=len(plan.tests),
        )
        board[:] = bytes(len(board))
        referee = _Referee(plan, separable, conversation, host, module, board)
        healthy = _judge_program(referee, programs)
        conversation.channel.close()
    os._exit(0)


def _trial(plan: TestPlan, setup: types.CodeType, *, uses_pytest: bool = False) -> bytes:
    """Return a setup that needs no program, for `shared.try_setup`; b"" for a setup that cannot be tried alone."""
    return marshal.dumps((setup, uses_pytest)) if plan.setup_alone else b""


def _judge_program(referee: _Referee, programs: tuple[types.CodeType, ...]) -> bool:
    """Judge one program; return whether this process is fit for another."""
    # Test code that draws random inputs draws the same for every program.
    seed_random(0)
    try:
        outcome, message = referee.run(programs)
    except SandboxBroken as error:
        _tell(referee.host, "broken", str(error))
        return False
    _tell(referee.host, "end", outcome.value, message[:_MAX_MESSAGE_CHARS], referee.healthy)
    return referee.healthy


def _tell(host: socket.socket, *message: Any) -> None:
    send_frame(host, codec.encode(message, max_bytes=1 << 20))


class _Referee:
    def __init__(
        self,
        plan: TestPlan,
        separable: Separable,
        conversation: Conversation,
        host: socket.socket,
        module: types.ModuleType,
        board: mmap.mmap,
    ) -> None:
        self.board = board
        self.explained = False
        self.module = module
        self.plan = plan
        self.separable = separable
        self.conversation = conversation
        self.host = host
        self.outcomes: list[Outcome | None] = [None] * len(plan.tests)
        #: Failures of checks inside the running test that a block around them may swallow.
        self.noted: dict[int, BaseException] = {}
        #: False once this process was interrupted at an arbitrary point or ran out of memory.
        self.healthy = True
        signal.signal(signal.SIGPROF, self.on_timer)

    def on_timer(self, signum: int, frame: types.FrameType | None) -> None:
        """Interrupt the test code, because the CPU time of this process is spent."""
        # A message to the host must not be cut in two, so the timer tries again a little later.
        if self.conversation.replacing:
            signal.setitimer(signal.ITIMER_PROF, _RETRY_SECONDS)
            return
        self.healthy = False
        raise self.conversation.fail(Outcome.TIMEOUT, "the test code ran too long on what the program returned")

    def allow(self) -> None:
        """Start the CPU and wall time of the next test, for the candidate and for this process."""
        self.conversation.failure = None
        self.conversation.allow()
        # Test code can run for ever on a value that the program returned, such as an enormous int.
        signal.setitimer(signal.ITIMER_PROF, self.conversation.allowance.cpu_seconds)

    def run(self, programs: tuple[types.CodeType, ...]) -> tuple[Outcome, str]:
        """Run the setup and the tests; return the outcome and the message for tests that were never reached."""
        try:
            self.conversation.load()
            self.allow()
            namespace = self.namespace()
            for program in programs:
                exec(program, namespace)
        except SandboxBroken:
            raise
        except BaseException as error:
            if isinstance(error, SystemExit) and error.code in (None, 0) and not hasattr(error, "pper_note"):
                # The test code itself ends here.
                return Outcome.NOT_RUN, _NOT_REACHED
            outcome, message = self.judge(error)
            if 0 not in self.board[:]:
                # All tests have ended, and yet the code did not come to its end.
                self.record(len(self.outcomes) - 1, outcome, message)
            return outcome, message
        finally:
            signal.setitimer(signal.ITIMER_PROF, 0)
        return Outcome.NOT_RUN, _NOT_REACHED

    def namespace(self) -> dict[str, Any]:
        """Return the globals of the test code: real modules, and stand-ins for what the program defines."""
        names = self.module.__dict__
        names.update({"__builtins__": builtins, TEST: self.test, CHECK: self.check})
        names.update({OPERATION.format(name): function for name, function in OPERATIONS.items()})
        for name in self.plan.program_names:
            if name in self.plan.module_names:
                names[name] = __import__(name)
            else:
                names[name] = Function(self.conversation, name, makes=name in self.separable.classes)
        return names

    def test(self, index: int) -> _Test:
        """Return the context manager that records how test `index` ends, and lets the test code go on."""
        return _Test(self, index)

    def check(self, index: int) -> Check:
        """Return the context manager that remembers a failure inside test `index`, and lets it pass."""
        return Check(self.noted, index)

    def judge(self, error: BaseException) -> tuple[Outcome, str]:
        """Return the outcome and the message for a test that raised `error`."""
        failure = self.conversation.failure
        if self.conversation.loaded and self.conversation.serial == 0 and self.conversation.epoch == 0:
            # Nothing of the program had a part in it.
            return Outcome.UNSUPPORTED, f"the test code fails by itself: {type(error).__name__}: {error_text(error)}"[
                :_MAX_MESSAGE_CHARS
            ]
        # First: test code may have caught the failure and raised something else.
        if failure is not None:
            return failure.outcome, failure.message
        if hasattr(error, "pper_note"):
            return Outcome.RUNTIME_ERROR, error.pper_note
        if isinstance(error, MemoryError):
            self.healthy = False
            return Outcome.MEMORY_LIMIT, "the test code ran out of memory on what the program returned"
        if isinstance(error, AssertionError):
            return Outcome.WRONG_ANSWER, error_text(error)[:_MAX_MESSAGE_CHARS]
        return Outcome.RUNTIME_ERROR, f"in the test code: {type(error).__name__}: {error_text(error)}"[
            :_MAX_MESSAGE_CHARS
        ]

    def record(self, index: int, outcome: Outcome, message: str) -> None:
        """Write an outcome on the board, and send a message about the first failure to the host."""
        # A test that runs several times passes only if it passes every time.
        known = self.outcomes[index]
        if known is not None and (known is not Outcome.PASSED or outcome is Outcome.PASSED):
            return
        self.outcomes[index] = outcome
        self.board[index] = OUTCOME_BYTES[outcome]
        if outcome is not Outcome.PASSED and not self.explained:
            self.explained = True
            statement = self.plan.texts[index]
            message = f"{statement}: {message}" if message else statement
            _tell(self.host, "failed", message[:_MAX_MESSAGE_CHARS])


class _Test:
    __slots__ = ("index", "referee")

    def __init__(self, referee: _Referee, index: int) -> None:
        self.referee = referee
        self.index = index

    def __enter__(self) -> None:
        self.referee.allow()

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> bool:
        referee = self.referee
        if isinstance(error, SandboxBroken):
            return False
        failure = referee.conversation.failure
        error = error or referee.noted.pop(self.index, None)
        if error is not None:
            referee.record(self.index, *referee.judge(error))
        elif failure is not None:
            # Test code caught the failure, which stays a failure.
            referee.record(self.index, failure.outcome, failure.message)
        else:
            referee.record(self.index, Outcome.PASSED, "")
        referee.allow()
        return True
