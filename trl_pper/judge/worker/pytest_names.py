"""Supply the names of pytest that test code uses most, for machines without pytest.

`worker.shared` makes this module `pytest` where the real one is not installed. It promises `raises`, `approx`, `mark`,
`param`, `skip`, `fail`, `importorskip`, `warns` and `MonkeyPatch`, for the common forms of their arguments.
"""

from __future__ import annotations

import contextlib
import importlib
import math
import os
import re
import types
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple
from unittest import SkipTest

_ABSENT = object()


class ExceptionInfo:
    """The exception that a block raised, as `value` and `type`."""

    value: Any = None

    @property
    def type(self) -> Any:
        """The class of the exception."""
        return type(self.value)

    def match(self, pattern: str) -> bool:
        """Return True if the exception's text holds `pattern`; raise AssertionError otherwise."""
        assert re.search(pattern, str(self.value)), f"{pattern!r} does not match {str(self.value)!r}"
        return True


class _Raises:
    def __init__(self, expected: Any, match: str | None) -> None:
        self.expected = expected
        self.match = match
        self.info = ExceptionInfo()

    def __enter__(self) -> ExceptionInfo:
        return self.info

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: object) -> bool:
        if error is None:
            raise AssertionError(f"DID NOT RAISE {self.expected!r}")
        if not isinstance(error, self.expected):
            return False
        self.info.value = error
        if self.match is not None:
            self.info.match(self.match)
        return True


def raises(expected: Any, *args: Any, match: str | None = None, **keywords: Any) -> Any:
    """Return a context manager that expects an exception; with a function, call it and expect the exception."""
    context = _Raises(expected, match)
    if not args:
        return context
    function, *rest = args
    with context as info:
        function(*rest, **keywords)
    return info


@contextlib.contextmanager
def warns(expected: Any = Warning, *, match: str | None = None) -> Iterator[list[warnings.WarningMessage]]:
    """Expect a warning in a block."""
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        yield seen
    found = [each for each in seen if issubclass(each.category, expected)]
    assert any(match is None or re.search(match, str(each.message)) for each in found), f"DID NOT WARN {expected!r}"


class approx:
    """A number, sequence or mapping that equals others within a tolerance: max(rel * |expected|, abs)."""

    __array_ufunc__ = None
    __array_priority__ = 100

    def __init__(
        self, expected: Any, rel: float | None = None, abs: float | None = None, nan_ok: bool = False
    ) -> None:
        self.expected = expected
        self.relative = rel
        self.absolute = abs
        self.nan_ok = nan_ok

    def __repr__(self) -> str:
        return f"approx({self.expected!r})"

    def __eq__(self, actual: object) -> bool:
        return self._holds(actual, self.expected)

    __hash__ = None  # type: ignore[assignment]

    def _holds(self, actual: Any, expected: Any) -> bool:
        if isinstance(expected, Mapping):
            return (
                isinstance(actual, Mapping)
                and actual.keys() == expected.keys()
                and all(self._holds(actual[key], expected[key]) for key in expected)
            )
        if hasattr(expected, "tolist"):
            expected = expected.tolist()
        if hasattr(actual, "tolist"):
            actual = actual.tolist()
        if isinstance(expected, Sequence) and not isinstance(expected, str | bytes):
            return len(actual) == len(expected) and all(map(self._holds, actual, expected))
        if isinstance(expected, bool) or not isinstance(expected, int | float):
            return bool(actual == expected)
        if actual == expected:
            return True
        try:
            if math.isnan(expected) or math.isnan(actual):
                return self.nan_ok and math.isnan(expected) and math.isnan(actual)
            if math.isinf(expected) or math.isinf(actual):
                return False
            absolute = 1e-12 if self.absolute is None else self.absolute
            relative = (1e-6 if self.absolute is None else 0.0) if self.relative is None else self.relative
            return bool(abs(actual - expected) <= max(absolute, relative * abs(expected)))
        except TypeError:
            return False


class Mark(NamedTuple):
    """A mark of a test function."""

    name: str
    args: tuple[Any, ...]
    kwargs: dict[str, Any]


class _MarkMaker:
    def __init__(self, mark: Mark) -> None:
        self.mark = mark

    def __call__(self, *args: Any, **keywords: Any) -> Any:
        [function] = args if len(args) == 1 else [None]
        if isinstance(function, types.FunctionType | type) and not keywords:
            function.pytestmark = [*getattr(function, "pytestmark", []), self.mark]  # type: ignore[union-attr]
            return function
        return _MarkMaker(Mark(self.mark.name, (*self.mark.args, *args), self.mark.kwargs | keywords))


class _Marks:
    def __getattr__(self, name: str) -> _MarkMaker:
        return _MarkMaker(Mark(name, (), {}))


mark = _Marks()


class ParameterSet(NamedTuple):
    """The values of a parameter set."""

    values: tuple[Any, ...]
    marks: Any = ()
    id: str | None = None


def param(*values: Any, marks: Any = (), id: str | None = None) -> ParameterSet:
    """Return a parameter set."""
    return ParameterSet(values, marks, id)


def skip(reason: str = "") -> None:
    """Skip the test."""
    raise SkipTest(reason)


def fail(reason: str = "", pytrace: bool = True) -> None:
    """Fail the test."""
    raise AssertionError(reason)


def importorskip(name: str) -> Any:
    """Import a module, or skip the test."""
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise SkipTest(str(error)) from None


class MonkeyPatch:
    """Changes of attributes, items and variables that are undone after the test."""

    def __init__(self) -> None:
        self._undo: list[Callable[[], Any]] = []

    def setattr(self, target: Any, name: str, value: Any) -> None:
        """Set an attribute."""
        old = getattr(target, name, _ABSENT)
        self._undo.append(lambda: delattr(target, name) if old is _ABSENT else setattr(target, name, old))
        setattr(target, name, value)

    def setitem(self, target: Any, key: Any, value: Any) -> None:
        """Set an item."""
        old = target.get(key, _ABSENT)
        self._undo.append(lambda: target.pop(key, None) if old is _ABSENT else target.__setitem__(key, old))
        target[key] = value

    def setenv(self, name: str, value: str) -> None:
        """Set an environment variable."""
        self.setitem(os.environ, name, value)

    def delenv(self, name: str, raising: bool = True) -> None:
        """Remove an environment variable."""
        if raising or name in os.environ:
            self.setitem(os.environ, name, os.environ[name])
            del os.environ[name]

    def undo(self) -> None:
        """Undo all changes, the last first."""
        while self._undo:
            self._undo.pop()()
