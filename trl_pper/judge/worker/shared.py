"""Run test code and program in one process, as unittest, pytest and the published graders do.

The meaning is exactly that of Python. The verdict can be forged in principle, because program and tests share the
process. Known tricks fail:

- each test reports its own outcome with a secret number that the host chose for this process, so that a test that
  never ran has failed, whatever exits, hooks and replaced names do;
- an object of the program's own class does not equal the literal that a test expects;
- a text of the program that a test evaluates or fills in cannot reach into the interpreter;
- a StopIteration of the program does not end a loop of the tests over `map` or its like.
"""

from __future__ import annotations

import builtins
import marshal
import re
import signal
import socket
import string
import sys
import types
from collections.abc import Callable
from typing import Any, NamedTuple

from trl_pper.judge.verdict import Outcome
from trl_pper.judge.wire.channel import FrameReader, Wait, send_frame
from trl_pper.judge.wire.exceptions import error_text
from trl_pper.judge.wire.rules import DONE, ENDED, FAILED, LOADED, OUTCOME_BYTES, OUTCOME_OF_KIND, REPORT, START
from trl_pper.judge.worker import cases
from trl_pper.judge.worker.program import MODULE_NAME, compile_program, describe, run
from trl_pper.tasks.tests import CHECK, TEST

#: Names in rewritten test code, unlikely to occur in a program: the comparison of a result with a literal; a text of
#: the program that the tests evaluate or fill in; a function that an iterator of the tests calls.
EQUAL, TEXT, CALLED = "__pper_equal__", "__pper_text__", "__pper_called__"
#: Modules that stand for the program in imports of test code.
PROGRAM_MODULES = frozenset((MODULE_NAME, "__main__", "main", "program", "answer", "submission", "candidate"))
_MAX_MESSAGE_CHARS = 500
_MAX_START_BYTES = 1 << 10
_HEAP_TYPE = 1 << 9
#: A field of a template that names an attribute or an item.
_LOOKS_INSIDE = re.compile(r"\w*[.\[].*", re.DOTALL)
_DEPTH = 20


class SharedPlan(NamedTuple):
    """The tests as `plan` prepares them; everything in it can be marshalled.

    Args:
        setup: Code before the tests.
        code: The rewritten test code.
        collected: For each test its kind, owner, name and number; see `tasks.tests.Test`.
        texts: For each test a short text for people.
        classes: Names of classes that the tests make objects of.
        entry_point: See `FunctionTests`.
        uses_pytest: Whether the test code imports pytest.
    """

    setup: types.CodeType
    code: types.CodeType
    collected: tuple[tuple[str, str, str, int | None], ...]
    texts: tuple[str, ...]
    classes: frozenset[str]
    entry_point: str | None
    uses_pytest: bool

    def to_bytes(self) -> bytes:
        """Return the plan as bytes."""
        return marshal.dumps(tuple(self))

    @classmethod
    def from_bytes(cls, data: bytes) -> SharedPlan:
        """Return the plan from the bytes of `to_bytes`."""
        return cls._make(marshal.loads(data))


class Timeout(BaseException):
    """Raised in a test when its CPU time is spent."""

    # A BaseException, so that no `except Exception` catches it.


class _Stop(BaseException):
    """Raised to end the test code after too many timeouts."""


def try_setup(trial: bytes, channel: socket.socket) -> None:
    """Run a setup that needs no program, and tell the host how it ended.

    Args:
        trial: The marshalled pair of the compiled setup and of whether the tests import pytest.
        channel: The socket to the host.
    """
    setup, uses_pytest = marshal.loads(trial)
    message = DONE
    try:
        if uses_pytest:
            cases.supply_pytest()
        exec(setup, {"__name__": "__main__", "__builtins__": builtins})
    except BaseException as error:
        said = ": ".join(filter(None, (type(error).__name__, error_text(error))))
        message = said[:_MAX_MESSAGE_CHARS].encode("utf-8", "replace")
    send_frame(channel, message)


def run_shared(source: bytes, plan: bytes, channel: socket.socket, wait: Wait | None = None) -> None:
    """Run the program's top level, then the tests, and report the outcome of each to the host.

    Args:
        source: The program's text in UTF-8.
        plan: From `SharedPlan.to_bytes`.
        channel: The socket to the host.
        wait: Called before each read, to renew the CPU time of this process.
    """
    secret, cpu_seconds, timeouts = START.unpack(FrameReader(channel, wait).read(_MAX_START_BYTES))
    tests = SharedPlan.from_bytes(plan)

    def tell(number: int, outcome: Outcome, message: str) -> None:
        text = message[:_MAX_MESSAGE_CHARS].encode("utf-8", "replace")
        send_frame(channel, REPORT.pack(secret, number, OUTCOME_BYTES[outcome]) + text)

    try:
        code = compile_program(source)
    except BaseException as error:
        return tell(FAILED, Outcome.SYNTAX_ERROR, describe(error).note)
    try:
        namespace = run(code, MODULE_NAME)
    except BaseException as error:
        words = describe(error)
        return tell(FAILED, OUTCOME_OF_KIND.get(words.kind, Outcome.RUNTIME_ERROR), words.note)
    tell(LOADED, Outcome.PASSED, "")
    return Harness(tests, namespace, tell, cpu_seconds, timeouts).run()


class Harness:
    """The tests of a program, while they run.

    Args:
        plan: The tests.
        namespace: Globals of the program, which the tests share.
        tell: Reports the outcome of a test to the host.
        cpu_seconds: CPU seconds for each test.
        timeouts: Number of timeouts after which no further test runs.
    """

    def __init__(
        self,
        plan: SharedPlan,
        namespace: dict[str, Any],
        tell: Callable[[int, Outcome, str], None],
        cpu_seconds: float,
        timeouts: int,
    ) -> None:
        self.plan = plan
        self.namespace = namespace
        self.tell = tell
        self.cpu_seconds = cpu_seconds
        self.timeouts_left = timeouts
        #: Failures of checks inside the running test that a block around them may swallow.
        self.noted: dict[int, BaseException] = {}
        self.reported: set[int] = set()
        self.failed = False

    def run(self) -> None:
        """Run setup, test code and collected tests; report the end."""
        signal.signal(signal.SIGPROF, self.on_timer)
        names = self.namespace
        module = sys.modules[MODULE_NAME]
        sys.modules.update({name: module for name in PROGRAM_MODULES if name not in sys.modules})
        ours = {TEST: self.test, CHECK: self.check, EQUAL: self.equal, TEXT: text_of_program, CALLED: ending_no_loop}
        error: BaseException | None = None
        collected = [number for number, test in enumerate(self.plan.collected) if test[0] != "statement"]
        try:
            self.start_clock()
            # `from __future__` and definitions of the program may have set any of these names.
            names.update(ours, __name__="__main__")
            if self.plan.uses_pytest:
                cases.supply_pytest()
            exec(self.plan.setup, names)
            try:
                exec(self.plan.code, names)
            except (Exception, SystemExit) as raised:
                # Under unittest and pytest the tests would run, whatever a guard `__main__` does.
                if not collected:
                    raise
                error = None if self.is_own_exit(raised) else raised
            if collected:
                cases.run_collected(self, collected)
        except _Stop:
            pass
        except BaseException as raised:
            error = None if self.is_own_exit(raised) else raised
        finally:
            signal.setitimer(signal.ITIMER_PROF, 0)
        outcome, message = (Outcome.NOT_RUN, "") if error is None else self.judge(error)
        if error is not None and len(self.reported) == len(self.plan.texts) and not self.failed:
            # All tests have passed or failed, and yet the code did not come to its end.
            self.tell(max(self.reported), outcome, message)
        self.tell(ENDED, outcome, message)

    def is_own_exit(self, error: BaseException) -> bool:
        """Return whether `error` is the end of the test code, written as `sys.exit(0)`."""
        if not isinstance(error, SystemExit) or error.code not in (None, 0):
            return False
        return self.is_raised_by_tests(error)

    def is_raised_by_tests(self, error: BaseException) -> bool:
        """Return whether the last frame of `error` that is not of a library is one of the tests."""
        name, traceback = "", error.__traceback__
        while traceback is not None:
            name = traceback.tb_frame.f_code.co_filename
            if name == "program.py":
                return False
            traceback = traceback.tb_next
        return True

    def on_timer(self, signum: int, frame: types.FrameType | None) -> None:
        """Interrupt the test, because its CPU time is spent."""
        self.timeouts_left -= 1
        raise Timeout(f"used more than {self.cpu_seconds:g} CPU seconds")

    def start_clock(self) -> None:
        """Give the next test its CPU time."""
        if self.timeouts_left <= 0:
            signal.setitimer(signal.ITIMER_PROF, 0)
            raise _Stop
        # Again and again, since the program may catch the first.
        signal.setitimer(signal.ITIMER_PROF, self.cpu_seconds, self.cpu_seconds)

    def test(self, number: int) -> _Test:
        """Return the context manager that reports how test `number` ends, and lets the test code go on."""
        return _Test(self, number)

    def check(self, number: int) -> Check:
        """Return the context manager that remembers a failure inside test `number`, and lets it pass."""
        return Check(self.noted, number)

    def equal(self, got: Any, want: Any) -> bool:
        """Return `got == want`, for a literal `want`; an object of the program that equals anything does not count."""
        if not (got == want):
            return False
        if self.is_forged(got, want):
            raise AssertionError("the program gave an object of its own class that claims to equal the value")
        return True

    def is_forged(self, got: Any, want: Any, depth: int = 0) -> bool:
        """Return whether `got` equals `want`, a value of a builtin type, only by a class of the program."""
        kind, wanted = type(got), type(want)
        if kind is wanted or depth > _DEPTH:
            if wanted in (list, tuple) and len(got) == len(want):
                return any(self.is_forged(one, other, depth + 1) for one, other in zip(got, want, strict=True))
            if wanted is dict:
                return any(self.is_forged(got[key], want[key], depth + 1) for key in got.keys() & want.keys())
            return False
        if wanted.__module__ != "builtins" or not kind.__flags__ & _HEAP_TYPE:
            return False
        # Tests that make objects of a class of the program ask its `__eq__` on purpose.
        if kind.__name__ in self.plan.classes:
            return False
        if issubclass(kind, wanted):
            equal: Any = wanted.__eq__
            return kind.__eq__ is not equal and equal(got, want) is not True
        home = sys.modules.get(kind.__module__)
        return home is None or home is sys.modules[MODULE_NAME] or getattr(home, kind.__name__, None) is not kind

    def judge(self, error: BaseException) -> tuple[Outcome, str]:
        """Return the outcome and the message for a test that raised `error`."""
        if isinstance(error, AssertionError):
            return Outcome.WRONG_ANSWER, error_text(error)
        if isinstance(error, Timeout):
            return Outcome.TIMEOUT, error_text(error)
        if isinstance(error, MemoryError):
            return Outcome.MEMORY_LIMIT, "the test ran out of memory"
        return Outcome.RUNTIME_ERROR, describe(error).note

    def report(self, number: int, error: BaseException | None) -> None:
        """Report how test `number` ended."""
        self.reported.add(number)
        error = error or self.noted.pop(number, None)
        if error is None:
            self.tell(number, Outcome.PASSED, "")
        else:
            self.failed = True
            outcome, message = self.judge(error)
            text = self.plan.texts[number]
            self.tell(number, outcome, f"{text}: {message}" if message else text)


class _Test:
    __slots__ = ("harness", "number")

    def __init__(self, harness: Harness, number: int) -> None:
        self.harness = harness
        self.number = number

    def __enter__(self) -> None:
        self.harness.start_clock()

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> bool:
        if isinstance(error, _Stop):
            return False
        # The end of the test code inside a block, such as `if all_passed: sys.exit(0)`.
        ends = error is not None and self.harness.is_own_exit(error)
        self.harness.report(self.number, None if ends else error)
        self.harness.start_clock()
        return not ends


class Check:
    """A context manager that notes a failure inside a test, and lets it pass.

    Args:
        noted: The first failure of each test, by number.
        number: The test.
    """

    __slots__ = ("noted", "number")

    def __init__(self, noted: dict[int, BaseException], number: int) -> None:
        self.noted = noted
        self.number = number

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        if error is not None:
            self.noted.setdefault(self.number, error)


def text_of_program(value: Any) -> Any:
    """Return a text that the tests evaluate or fill in, unless it reaches into the interpreter.

    Raises:
        AssertionError: The text looks at attributes of the interpreter or of what it is filled with.
    """
    if isinstance(value, str):
        if "__" in value:
            raise AssertionError("the text that the program gave reaches into the interpreter")
        try:
            fields = [name for _, name, _, _ in string.Formatter().parse(value) if name]
        except ValueError:
            # A text that is no template; a dict in an expression looks like one with a strange field.
            fields = []
        if any(_LOOKS_INSIDE.fullmatch(name) for name in fields):
            raise AssertionError("the template that the program gave looks at attributes of its values")
    return value


def ending_no_loop(function: Any) -> Any:
    """Return a function that the tests hand to `map` or its like, changed so that its StopIteration ends no loop."""
    if not callable(function):
        return function

    def call(*args: Any) -> Any:
        try:
            return function(*args)
        except StopIteration as error:
            # As in a generator: otherwise the asserts in the loop would never run.
            raise RuntimeError("the program raised StopIteration") from error

    return call
