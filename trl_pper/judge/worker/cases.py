"""Run tests that unittest or pytest would collect, and report each of them to a harness.

Methods of `unittest.TestCase` run in unittest's own suites, with everything that unittest does around them. Functions
`test*` and classes `Test*` run as pytest runs them, as far as these go: marks `parametrize`, `skip`, `skipif` and
`xfail`, fixtures of the test code and the fixtures in `BUILT_IN`. `pytest.raises` and `approx` are pytest's own where
it is installed, and `worker.pytest_names` otherwise.
"""

from __future__ import annotations

import contextlib
import dataclasses
import inspect
import io
import itertools
import sys
import types
import unittest
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
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
    # Methods that the test code makes while it runs, such as `setattr(Case, "test_1", ...)`, count with the last test.
    names = dict.fromkeys([*numbers, *unittest.defaultTestLoader.getTestCaseNames(case)])
    suite = unittest.TestSuite(map(case, names))
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
        self.harness.report(self.numbers.get(test._testMethodName, max(self.numbers.values())), error)
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
        elif not _skips(test) and not self.is_own_skip():
            # Only the test code may skip a test: a program that does so would leave out what it fails.
            self.error = AssertionError(f"skipped: {reason}")

    def is_own_skip(self) -> bool:
        # unittest reports a skip while it handles the exception.
        error = sys.exception()
        return isinstance(error, unittest.SkipTest) and self.harness.is_raised_by_tests(error)


def _skips(test: unittest.TestCase) -> bool:
    method = getattr(test, test._testMethodName)
    return bool(getattr(type(test), "__unittest_skip__", False) or getattr(method, "__unittest_skip__", False))


#: Fixtures that need no definition.
BUILT_IN = ("tmp_path", "monkeypatch", "capsys", "capfd", "candidate")


class Fixture:
    """A fixture of the test code.

    Args:
        function: The function that makes its value, or yields it.
        scope: "function", or a longer life.
        autouse: Whether every test uses it.
        name: The name that tests ask for.
        parameters: Values of `request.param`, with each of which a test runs; None for a fixture without.
    """

    def __init__(
        self,
        function: Callable[..., Any],
        scope: str,
        autouse: bool,
        name: str | None,
        parameters: Sequence[Any] | None,
    ) -> None:
        self.function = function
        self.scope = scope
        self.autouse = autouse
        self.name = name or function.__name__
        self.parameters = parameters


def supply_pytest() -> None:
    """Make `import pytest` work in test code, with fixtures of this module."""
    try:
        import pytest
    except ImportError:
        from trl_pper.judge.worker import pytest_names as pytest  # type: ignore[no-redef]

        sys.modules["pytest"] = pytest
    pytest.fixture = fixture  # type: ignore[assignment]


def fixture(
    function: Any = None,
    *,
    scope: str = "function",
    params: Iterable[Any] | None = None,
    autouse: bool = False,
    ids: Any = None,
    name: str | None = None,
) -> Any:
    """Mark a function as a fixture, in place of `pytest.fixture`."""
    parameters = None if params is None else list(params)
    if function is None:
        return lambda inner: Fixture(inner, scope, autouse, name, parameters)
    return Fixture(function, scope, autouse, name, parameters)


@dataclasses.dataclass
class _Use:
    """A run of a test function: its parameters and the values of its fixtures so far."""

    function: Any
    known: dict[str, Any]
    #: Values of `request.param`, by the names of fixtures.
    parameters: dict[str, Any] = dataclasses.field(default_factory=dict)
    endings: contextlib.ExitStack = dataclasses.field(default_factory=contextlib.ExitStack)
    instance: Any = None


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
        owners = [
            getattr(function, "pytestmark", []),
            getattr(kind, "pytestmark", []),
            self.names.get("pytestmark", []),
        ]
        marks = [mark for each in owners for mark in _marks(each)]
        sets = list(_parameter_sets(marks))
        for values, more in sets if place is None else [sets[place]]:
            self.run_marked(kind, function, values, [*more, *marks])

    def run_marked(self, kind: Any, function: Any, values: dict[str, Any], marks: Sequence[Any]) -> None:
        """Run a test with a parameter set, as its marks ask for."""
        if any(each.name == "skip" or (each.name == "skipif" and self.holds(each)) for each in marks):
            return
        expected = [each for each in marks if each.name == "xfail" and self.holds(each)]
        indirect = _indirect_names(marks, values)
        use = _Use(function, {name: value for name, value in values.items() if name not in indirect})
        used = [name for each in marks if each.name == "usefixtures" for name in each.args]
        try:
            for parameters in self.fixture_parameters([*used, *_needed(function)], {*values}):
                use.parameters = parameters | {name: values[name] for name in indirect}
                self.run_with(kind, use, used)
        except BaseException as error:
            # pytest's skips and failures are no `Exception`.
            if not (expected and isinstance(error, Exception)) and not self.is_own_skip(error):
                raise
        else:
            if any(each.kwargs.get("strict") for each in expected):
                raise AssertionError("the test was expected to fail")

    def holds(self, mark: Any) -> bool:
        """Return whether the condition of a mark, if it has one, holds; a text is evaluated as under pytest."""
        condition = mark.kwargs.get("condition", *mark.args[:1]) if mark.args or "condition" in mark.kwargs else True
        return bool(eval(condition, {"sys": sys, **self.names}) if isinstance(condition, str) else condition)

    def is_own_skip(self, error: BaseException) -> bool:
        """Return whether the test code, not the program, skips the test."""
        return type(error).__name__ in ("Skipped", "SkipTest") and self.harness.is_raised_by_tests(error)

    def fixture_parameters(self, names: Sequence[str], given: Collection[str]) -> Iterator[dict[str, Any]]:
        """Yield a parameter for each parametrized fixture that a test uses, directly or not, in all combinations."""
        waiting = [*names, *(each.name for each in self.fixtures.values() if each.autouse)]
        seen: dict[str, Sequence[Any]] = {}
        known = {*given}
        while waiting:
            name = waiting.pop()
            found = self.fixtures.get(name)
            if found is not None and name not in known:
                known.add(name)
                waiting += inspect.signature(found.function).parameters
                if found.parameters is not None:
                    values = [each.values[0] if _is_set(each) else each for each in found.parameters]
                    seen[name] = values
        for combination in itertools.product(*seen.values()):
            yield dict(zip(seen, combination, strict=True))

    def run_with(self, kind: Any, use: _Use, used: Sequence[str]) -> None:
        with contextlib.ExitStack() as endings:
            instance = kind() if kind is not None else None
            function = use.function
            if instance is not None:
                _call_hook(instance, "setup_method", function)
                endings.callback(_call_hook, instance, "teardown_method", function)
            else:
                self.call("setup_function")
                endings.callback(self.call, "teardown_function")
            here = dataclasses.replace(use, known=dict(use.known), endings=endings, instance=instance)
            for name in [*(each.name for each in self.fixtures.values() if each.autouse), *used]:
                self.value(name, here)
            bound = getattr(instance, function.__name__) if instance is not None else function
            result = bound(**{name: self.value(name, here) for name in _needed(bound)})
            if inspect.iscoroutine(result):
                # Not small, and rarely needed: every candidate is a fork of a process with this module.
                import asyncio

                asyncio.run(result)

    def value(self, name: str, use: _Use) -> Any:
        """Return the value of a parameter or fixture, after making it if need be."""
        if name in use.known or name in self.kept:
            return use.known[name] if name in use.known else self.kept[name]
        found = self.fixtures.get(name)
        if found is None:
            use.known[name] = self.request(use, None) if name == "request" else self.built_in(name, use.endings)
            return use.known[name]
        keep = found.scope != "function" and name not in use.parameters
        endings = self.endings if keep else use.endings
        here = dataclasses.replace(use, endings=endings)
        needed = list(inspect.signature(found.function).parameters)
        special = {"self": use.instance, "cls": type(use.instance), "request": self.request(here, name)}
        arguments = [special[each] if each in special else self.value(each, here) for each in needed]
        made = found.function(*arguments)
        if inspect.isgenerator(made):
            generator = made
            made = next(generator)
            endings.callback(next, generator, None)
        (self.kept if keep else use.known)[name] = made
        return made

    def request(self, use: _Use, name: str | None) -> Any:
        """Return the names of pytest's `request` that tests and fixtures use most."""
        request = types.SimpleNamespace(
            addfinalizer=use.endings.callback,
            getfixturevalue=lambda wanted: self.value(wanted, use),
            function=use.function,
            instance=use.instance,
            cls=None if use.instance is None else type(use.instance),
            module=sys.modules["__main__"],
            node=types.SimpleNamespace(name=use.function.__name__),
        )
        if name in use.parameters:
            request.param = use.parameters[name]
        return request

    def built_in(self, name: str, endings: contextlib.ExitStack) -> Any:
        if name == "tmp_path":
            import pathlib
            import tempfile

            return pathlib.Path(endings.enter_context(tempfile.TemporaryDirectory(dir=".")))
        if name == "candidate" and self.harness.plan.entry_point is not None:
            return eval(self.harness.plan.entry_point, self.names)
        if name in ("capsys", "capfd"):
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
        if isinstance(owner, type) and inspect.isfunction(hook):
            # `def setup_class(cls)` without a decorator.
            arguments = (owner, *arguments)
        hook(*arguments[: len(inspect.signature(hook).parameters)])


def _needed(function: Any) -> list[str]:
    """Return the names of the parameters for which a test needs values, without those that `mock.patch` fills."""
    names = [name for name, one in inspect.signature(function).parameters.items() if one.default is one.empty]
    patched = [
        each
        for each in getattr(function, "patchings", [])
        if not each.attribute_name and type(each.new).__name__ == "_SentinelObject"
    ]
    names = [name for name in names if name not in ("self", "cls")]
    return names[len(patched) :]


def _is_set(value: Any) -> bool:
    # `pytest.param` wraps the values of a set.
    return type(value).__name__ == "ParameterSet"


def _axis(mark: Any) -> tuple[list[str], Iterable[Any]]:
    """Return the names and the values of a mark `parametrize`."""
    arguments = dict(zip(("argnames", "argvalues"), mark.args, strict=False)) | mark.kwargs
    names = arguments["argnames"]
    names = [each.strip() for each in names.split(",") if each.strip()] if isinstance(names, str) else list(names)
    return names, arguments["argvalues"]


def _indirect_names(marks: Sequence[Any], values: Collection[str]) -> set[str]:
    """Return the parameters that are handed to the fixtures with their names."""
    found: set[str] = set()
    for mark in marks:
        indirect = mark.kwargs.get("indirect", False) if mark.name == "parametrize" else False
        found |= {*_axis(mark)[0]} if indirect is True else {*(indirect or ())}
    return found & {*values}


def _parameter_sets(marks: Sequence[Any]) -> Iterator[tuple[dict[str, Any], list[Any]]]:
    """Yield the arguments and marks of each parameter set; a single empty set where there are no parameters."""
    axes: list[list[tuple[dict[str, Any], list[Any]]]] = []
    for mark in marks:
        if mark.name != "parametrize":
            continue
        names, values = _axis(mark)
        axis = []
        for each in values:
            more = each.marks if _is_set(each) else []
            each = each.values if _is_set(each) else each if len(names) > 1 else (each,)
            axis.append((dict(zip(names, each, strict=True)), _marks(more)))
        axes.append(axis)
    for combination in itertools.product(*axes):
        values = {name: value for part, _ in combination for name, value in part.items()}
        yield values, [mark for _, more in combination for mark in more]


def _marks(marks: Any) -> list[Any]:
    """Return the marks in `marks`, which may be one or several, called or not."""
    several = marks if isinstance(marks, list | tuple) and not hasattr(marks, "name") else [marks]
    return [getattr(each, "mark", each) for each in several]
