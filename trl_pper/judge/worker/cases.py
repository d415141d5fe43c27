"""Run tests that unittest or pytest would collect, and report each of them to a harness.

Methods of `unittest.TestCase` run in unittest's own suites, with everything that unittest does around them. Functions
`test*` and classes `Test*` run as pytest runs them, as far as these go: marks `parametrize`, `skip`, `skipif` and
`xfail`, fixtures of the test code and the fixtures in `BUILT_IN`. `pytest.raises` and `approx` are pytest's own where
it is installed, and `worker.pytest_names` otherwise.
"""

from __future__ import annotations

import contextlib
import inspect
import io
import itertools
import sys
import types
import unittest
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from trl_pper.judge.worker.shared import Harness

_original_equal = unittest.TestCase.assertEqual
#: The harness that runs, for `assertEqual`.
_running: list[Harness] = []


def _assert_equal(self: unittest.TestCase, first: Any, second: Any, msg: Any = None) -> None:
    _original_equal(self, first, second, msg)
    if any(each.is_forged(first, second) or each.is_forged(second, first) for each in _running):
        raise self.failureException("the program gave an object of its own class that claims to equal the value")


def run_collected(harness: Harness, numbers: Sequence[int]) -> None:
    """Run the collected tests with these numbers."""
    _running[:] = [harness]
    unittest.TestCase.assertEqual = _assert_equal  # type: ignore[method-assign]
    pristine = _state()
    tests = harness.plan.collected
    names = harness.namespace
    functions = _Functions(harness, pristine)
    for (kind, owner), group in itertools.groupby(numbers, key=lambda number: tests[number][:2]):
        if kind == "unittest":
            _run_case(harness, names[owner], {tests[number][2]: number for number in group}, pristine)
        else:
            functions.run(owner, list(group))
    functions.end()


def _state() -> dict[str, Any]:
    return dict(vars(unittest.TestCase))


def _run_case(
    harness: Harness, case: type[unittest.TestCase], numbers: dict[str, int], pristine: dict[str, Any]
) -> None:
    suite = unittest.TestSuite(case(name) for name in numbers)
    suite.run(_Result(harness, numbers, pristine))


class _Result(unittest.TestResult):
    """The results of a class, reported as they come in.

    Args:
        harness: The harness to report to.
        numbers: Numbers of the tests by the names of their methods.
        pristine: Attributes of `TestCase` before any test.
    """

    def __init__(self, harness: Harness, numbers: dict[str, int], pristine: dict[str, Any]) -> None:
        super().__init__()
        self.harness = harness
        self.numbers = numbers
        self.pristine = pristine
        self.error: BaseException | None = None

    def startTest(self, test: unittest.TestCase) -> None:
        super().startTest(test)
        self.error = None
        self.harness.start_clock()

    def stopTest(self, test: unittest.TestCase) -> None:
        super().stopTest(test)
        error = self.error
        if _state() != self.pristine:
            error = AssertionError("the program changed unittest")
        self.harness.report(self.numbers[test._testMethodName], error)
        self.harness.start_clock()

    def addError(self, test: Any, err: Any) -> None:
        if isinstance(test, unittest.TestCase):
            self.error = self.error or err[1]
            return
        # `setUpClass` or `setUpModule` failed, and none of the tests of the class has run; or `tearDownClass` failed.
        for number in self.numbers.values():
            self.harness.report(number, err[1])

    def addFailure(self, test: Any, err: Any) -> None:
        self.error = self.error or err[1]

    def addSubTest(self, test: Any, subtest: Any, err: Any) -> None:
        if err is not None:
            self.error = self.error or err[1]

    def addUnexpectedSuccess(self, test: Any) -> None:
        self.error = AssertionError("the test was expected to fail")

    def addSkip(self, test: Any, reason: str) -> None:
        if not isinstance(test, unittest.TestCase):
            # The whole class, skipped by its own `setUpClass`.
            for number in self.numbers.values():
                self.harness.report(number, AssertionError(f"skipped: {reason}"))
        elif not _skips(test):
            # Only the test code may skip a test: a program that does so would leave out what it fails.
            self.error = AssertionError(f"skipped: {reason}")


def _skips(test: unittest.TestCase) -> bool:
    method = getattr(test, test._testMethodName)
    return bool(getattr(type(test), "__unittest_skip__", False) or getattr(method, "__unittest_skip__", False))


#: Fixtures that need no definition.
BUILT_IN = ("tmp_path", "monkeypatch", "capsys", "candidate")


class Fixture:
    """A fixture of the test code.

    Args:
        function: The function that makes its value, or yields it.
        scope: "function", or a longer life.
        autouse: Whether every test uses it.
        name: The name that tests ask for.
    """

    def __init__(self, function: Callable[..., Any], scope: str, autouse: bool, name: str | None) -> None:
        self.function = function
        self.scope = scope
        self.autouse = autouse
        self.name = name or function.__name__


def supply_pytest() -> None:
    """Make `import pytest` work in test code, with fixtures of this module."""
    try:
        import pytest
    except ImportError:
        from trl_pper.judge.worker import pytest_names as pytest  # type: ignore[no-redef]

        sys.modules["pytest"] = pytest
    pytest.fixture = fixture  # type: ignore[assignment]


def fixture(function: Any = None, *, scope: str = "function", autouse: bool = False, name: str | None = None) -> Any:
    """Mark a function as a fixture, in place of `pytest.fixture`."""
    if function is None:
        return lambda inner: Fixture(inner, scope, autouse, name)
    return Fixture(function, scope, autouse, name)


class _Functions:
    """The functions and methods of a test code that run as under pytest."""

    def __init__(self, harness: Harness, pristine: dict[str, Any]) -> None:
        self.harness = harness
        self.pristine = pristine
        self.names = harness.namespace
        values = list(self.names.values())
        self.fixtures = {each.name: each for each in values if isinstance(each, Fixture)}
        #: Values of fixtures that live longer than a test, and what ends them.
        self.kept: dict[str, Any] = {}
        self.endings = contextlib.ExitStack()
        self.started = False

    def run(self, owner: str, numbers: Sequence[int]) -> None:
        """Run the functions, or the methods of class `owner`, with these numbers."""
        if not self.started:
            self.started = True
            self.call("setup_module")
        kind = self.names[owner] if owner else None
        fixtures = dict(self.fixtures)
        if kind is not None:
            self.fixtures |= {each.name: each for each in vars(kind).values() if isinstance(each, Fixture)}
            _call_hook(kind, "setup_class")
        for number in numbers:
            _, _, name, place = self.harness.plan.collected[number]
            with self.harness.test(number):
                self.run_one(kind, name, place)
                if _state() != self.pristine:
                    raise AssertionError("the program changed unittest")
        if kind is not None:
            _call_hook(kind, "teardown_class")
        self.fixtures = fixtures

    def end(self) -> None:
        """End the fixtures that live longer than a test."""
        self.endings.close()
        if self.started:
            self.call("teardown_module")

    def call(self, name: str) -> None:
        """Call a hook of the module, if it defines it."""
        hook = self.names.get(name)
        if callable(hook):
            # A hook may ask for the module.
            hook(*[sys.modules["__main__"]][: len(inspect.signature(hook).parameters)])

    def run_one(self, kind: Any, name: str, place: int | None) -> None:
        function = getattr(kind, name) if kind is not None else self.names[name]
        marks = list(getattr(function, "pytestmark", []))
        for mark in marks:
            if mark.name == "skip" or (mark.name == "skipif" and mark.args and mark.args[0]):
                return
        sets = list(_parameter_sets(marks))
        expected_to_fail = any(mark.name == "xfail" for mark in marks)
        try:
            for values in sets if place is None else [sets[place]]:
                self.run_with(kind, function, values)
        except Exception:
            if not expected_to_fail:
                raise

    def run_with(self, kind: Any, function: Callable[..., Any], values: dict[str, Any]) -> None:
        with contextlib.ExitStack() as endings:
            instance = kind() if kind is not None else None
            if instance is not None:
                _call_hook(instance, "setup_method", function)
                endings.callback(_call_hook, instance, "teardown_method", function)
            else:
                self.call("setup_function")
                endings.callback(self.call, "teardown_function")
            known = dict(values)
            for each in self.fixtures.values():
                if each.autouse:
                    self.value(each.name, known, endings, instance)
            bound = getattr(instance, function.__name__) if instance is not None else function
            needed = [name for name, one in inspect.signature(bound).parameters.items() if one.default is one.empty]
            result = bound(**{name: self.value(name, known, endings, instance) for name in needed})
            if inspect.iscoroutine(result):
                # Not small, and rarely needed: every candidate is a fork of a process with this module.
                import asyncio

                asyncio.run(result)

    def value(self, name: str, known: dict[str, Any], endings: contextlib.ExitStack, instance: Any) -> Any:
        """Return the value of a parameter or fixture, after making it if need be."""
        if name in known or name in self.kept:
            return known[name] if name in known else self.kept[name]
        found = self.fixtures.get(name)
        if found is None:
            known[name] = self.built_in(name, endings)
            return known[name]
        keep = found.scope != "function"
        endings = self.endings if keep else endings
        needed = list(inspect.signature(found.function).parameters)
        arguments = [
            instance if each == "self" else self.value(each, known, endings, instance)
            for each in needed
            if each != "request"
        ]
        made = found.function(*arguments)
        if inspect.isgenerator(made):
            generator = made
            made = next(generator)
            endings.callback(next, generator, None)
        (self.kept if keep else known)[name] = made
        return made

    def built_in(self, name: str, endings: contextlib.ExitStack) -> Any:
        if name == "tmp_path":
            import pathlib
            import tempfile

            return pathlib.Path(endings.enter_context(tempfile.TemporaryDirectory(dir=".")))
        if name == "candidate" and self.harness.plan.entry_point is not None:
            return eval(self.harness.plan.entry_point, self.names)
        if name == "capsys":
            output, errors = io.StringIO(), io.StringIO()
            endings.enter_context(contextlib.redirect_stdout(output))
            endings.enter_context(contextlib.redirect_stderr(errors))
            return types.SimpleNamespace(readouterr=lambda: _read_and_clear(output, errors))
        if name == "monkeypatch":
            patch = sys.modules["pytest"].MonkeyPatch()
            endings.callback(patch.undo)
            return patch
        raise LookupError(f"no fixture {name!r}")


class _Captured(tuple[str, str]):
    out = property(lambda self: self[0])
    err = property(lambda self: self[1])


def _read_and_clear(output: io.StringIO, errors: io.StringIO) -> _Captured:
    captured = _Captured((output.getvalue(), errors.getvalue()))
    for each in (output, errors):
        each.seek(0)
        each.truncate()
    return captured


def _call_hook(owner: Any, name: str, *arguments: Any) -> None:
    hook = getattr(owner, name, None)
    if hook is not None:
        hook(*arguments[: len(inspect.signature(hook).parameters)])


def _parameter_sets(marks: Sequence[Any]) -> Iterator[dict[str, Any]]:
    """Yield the arguments of each parameter set; a single empty set where there are no parameters."""
    axes: list[list[dict[str, Any]]] = []
    for mark in marks:
        if mark.name != "parametrize":
            continue
        names, values = mark.args[0], mark.args[1]
        names = [each.strip() for each in names.split(",")] if isinstance(names, str) else list(names)
        axis = []
        for each in values:
            # `pytest.param` wraps the values of a set.
            each = each.values if type(each).__name__ == "ParameterSet" else each if len(names) > 1 else (each,)
            axis.append(dict(zip(names, each, strict=True)))
        axes.append(axis)
    for combination in itertools.product(*axes):
        yield {name: value for part in combination for name, value in part.items()}
