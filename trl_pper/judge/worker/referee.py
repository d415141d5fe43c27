"""Run the test code of a task against one candidate after another, and report to the host how each test ended.

The tests, with the expected answers, arrive on a descriptor that no candidate ever holds. This process is a sibling
of the candidate, never its ancestor, and runs no line of the program. Values that the program returns reach the test
code as values of exact builtin and library types, as instances of the tests' own classes, or as handles.
"""

from __future__ import annotations

import builtins
import contextlib
import mmap
import os
import random
import signal
import socket
import types
from collections.abc import Mapping
from typing import Any

from trl_pper.judge.verdict import Outcome
from trl_pper.judge.wire import codec
from trl_pper.judge.wire.channel import ChannelClosed, receive_frame, send_frame
from trl_pper.judge.wire.exceptions import error_text
from trl_pper.judge.wire.rules import OUTCOME_BYTES
from trl_pper.judge.worker.conversation import Conversation, SandboxBroken
from trl_pper.judge.worker.handles import same
from trl_pper.judge.worker.plan import SAME, TestPlan, plan_tests
from trl_pper.tasks.tests import TEST, why_no_test

#: Descriptors that a referee starts with, after standard input, output and error.
HOST, TESTS, BOARD = 3, 4, 5


_MAX_MESSAGE_CHARS = 500
_RETRY_SECONDS = 0.05


def main(*, limits: Mapping[str, float]) -> None:
    """Judge every program that the host announces; never returns.

    Args:
        limits: From `Limits.to_dict()`.
    """
    setup, code, entry_point = codec.decode(os.pread(TESTS, os.fstat(TESTS).st_size, 0))
    host = socket.socket(fileno=HOST)
    try:
        plan = plan_tests(code, setup=setup, entry_point=entry_point)
        programs = (compile(setup, "setup.py", "exec", dont_inherit=True), _compile(plan))
    except (SyntaxError, ValueError, RecursionError) as error:
        # A fault of the tests, which says nothing about any program.
        _tell(host, "unsupported", f"the test code cannot be read: {error}")
        os._exit(0)
    if not plan.tests:
        _tell(host, "unsupported", why_no_test(plan.tree))
        os._exit(0)
    os.ftruncate(BOARD, len(plan.tests))
    board = mmap.mmap(BOARD, len(plan.tests))
    _tell(host, "plan", len(plan.tests))
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
            namespace=module.__dict__,
            class_names=plan.class_names,
            tests=len(plan.tests),
        )
        board[:] = bytes(len(board))
        healthy = _judge_program(_Referee(plan, conversation, host, module, board), programs)
        conversation.channel.close()
    os._exit(0)


def _compile(plan: TestPlan) -> types.CodeType:
    return compile(plan.tree, "tests.py", "exec", dont_inherit=True)


def _judge_program(referee: _Referee, programs: tuple[types.CodeType, ...]) -> bool:
    """Judge one program; return whether this process is fit for another."""
    # Test code that draws random inputs draws the same for every program.
    random.seed(0)
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
        conversation: Conversation,
        host: socket.socket,
        module: types.ModuleType,
        board: mmap.mmap,
    ) -> None:
        self.board = board
        self.explained = False
        self.module = module
        self.plan = plan
        self.conversation = conversation
        self.host = host
        self.outcomes: list[Outcome | None] = [None] * len(plan.tests)
        self.depth = 0
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
        # A test inside a function that the program calls back must not renew what the program is using up.
        if self.conversation.nesting:
            return
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
            outcome, message = self.judge(error)
            # A module that the tests import is missing, which says nothing about the program.
            if isinstance(error, ImportError) and not hasattr(error, "pper_note"):
                outcome = Outcome.UNSUPPORTED
            return outcome, message
        finally:
            signal.setitimer(signal.ITIMER_PROF, 0)
        return Outcome.NOT_RUN, "the test code did not reach this test"

    def namespace(self) -> dict[str, Any]:
        """Return the globals of the test code: real modules, and values or handles for the program's globals."""
        names = self.module.__dict__
        names.update({"__builtins__": builtins, TEST: self.test, SAME: same})
        for name in self.plan.program_names:
            if name in self.plan.module_names:
                names[name] = __import__(name)
                continue
            # A name that the program lacks stays unbound, so that only the tests that use it fail.
            with contextlib.suppress(NameError):
                names[name] = self.conversation.request("global", name)
        return names

    def test(self, index: int) -> _Test:
        """Return the context manager that records how test `index` ends, and lets the test code go on."""
        return _Test(self, index)

    def judge(self, error: BaseException) -> tuple[Outcome, str]:
        """Return the outcome and the message for a test that raised `error`."""
        failure = self.conversation.failure
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
            statement = self.plan.tests[index][:200]
            message = f"{statement}: {message}" if message else statement
            _tell(self.host, "failed", message[:_MAX_MESSAGE_CHARS])


class _Test:
    __slots__ = ("index", "referee")

    def __init__(self, referee: _Referee, index: int) -> None:
        self.referee = referee
        self.index = index

    def __enter__(self) -> None:
        if self.referee.depth == 0:
            self.referee.allow()
        self.referee.depth += 1

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> bool:
        referee = self.referee
        referee.depth -= 1
        if isinstance(error, SandboxBroken):
            return False
        failure = referee.conversation.failure
        if error is not None:
            referee.record(self.index, *referee.judge(error))
        elif failure is not None:
            # Test code caught the failure, which stays a failure.
            referee.record(self.index, failure.outcome, failure.message)
        else:
            referee.record(self.index, Outcome.PASSED, "")
        if referee.depth == 0:
            referee.allow()
        return True
