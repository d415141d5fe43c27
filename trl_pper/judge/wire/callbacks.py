"""Offer functions of the test code to the program; a call of such a function runs in the referee.

A callable crosses as a number that the program can call back, or as the name of a function that both sides have.
A hostile program may call it with any plain data. So only code of the tests themselves and methods of plain containers
are offered, never a function that could do more than compute. Whether code of the tests is harmless when called with
such data is not checked.
"""

from __future__ import annotations

import functools
import operator
import sys
import types
from collections.abc import Callable
from typing import Any

from trl_pper.judge.wire.rules import COUNT, CROSSING_MODULES, SAFE_TYPES, CodecError

_MAX_CALLBACKS = 10_000
_GETTERS = (operator.itemgetter, operator.attrgetter, operator.methodcaller)
#: Types whose bound methods only read or change the object itself.
_CONTAINERS = frozenset((list, dict, set, frozenset, tuple, str, bytes, bytearray, int, float))
_CODE_OF_TESTS = frozenset(("tests.py", "setup.py"))


class Callbacks:
    """A numbered list of the callables offered to a program; a callable keeps its number."""

    def __init__(self) -> None:
        self.offered: list[Callable[..., Any]] = []
        self.number_by_id: dict[tuple[int, int], int] = {}

    def encode(self, value: Any) -> bytes:
        """Return the bytes that stand for `value`.

        Raises:
            CodecError: The program may not call `value`.
        """
        name = _library_name(value)
        if name is not None:
            data = name.encode()
            return b"L" + COUNT.pack(len(data)) + data
        if not _is_harmless(value):
            raise CodecError(f"a {type(value).__name__} object cannot be sent to the program")
        return b"g" + COUNT.pack(self._number(value))

    def _number(self, value: Any) -> int:
        # Each look-up of a bound method makes a new object, so its id would never repeat.
        method = isinstance(value, types.MethodType)
        key = (id(value.__self__), id(value.__func__)) if method else (id(value), 0)
        number = self.number_by_id.setdefault(key, len(self.offered))
        if number == len(self.offered):
            if number >= _MAX_CALLBACKS:
                del self.number_by_id[key]
                raise CodecError(f"more than {_MAX_CALLBACKS} functions for the program to call")
            # The list keeps the callable alive; otherwise its id could be given to another object.
            self.offered.append(value)
        return number

    def find(self, number: object) -> Callable[..., Any]:
        """Return the callable with `number`.

        Raises:
            CodecError: No callable was offered under that number.
        """
        if type(number) is not int or not 0 <= number < len(self.offered):
            raise CodecError("the program called a function it was never given")
        return self.offered[number]


def _is_harmless(value: Any) -> bool:
    """Return whether a call of `value` runs only code of the tests or of a plain container, whatever its arguments."""
    if isinstance(value, types.FunctionType):
        # The file names that the referee compiles the code of the task under.
        return value.__code__.co_filename in _CODE_OF_TESTS
    if isinstance(value, types.MethodType):
        return isinstance(value.__func__, types.FunctionType) and _is_harmless(value.__func__)
    if isinstance(value, types.BuiltinMethodType | types.MethodWrapperType):
        return type(value.__self__) in _CONTAINERS
    if type(value) is functools.partial:
        return _is_harmless(value.func) or (
            isinstance(value.func, types.BuiltinFunctionType) and bool(_library_name(value.func))
        )
    if isinstance(value, type):
        # The referee runs the test code as module `__main__`.
        return value.__module__ == "__main__"
    if type(value) in _GETTERS:
        return True
    # `functools.lru_cache` and `functools.cache` wrap in an object that is no Python function.
    wrapped = getattr(value, "__wrapped__", None)
    if wrapped is not None and type(value).__module__ == "functools":
        return _is_harmless(wrapped)
    return type(value).__module__ == "__main__" and callable(value)


def _library_name(value: Any) -> str | None:
    """Return "module:name" of a standard library function that the candidate can import itself, or None."""
    if isinstance(value, types.MethodDescriptorType | types.WrapperDescriptorType):
        kind = value.__objclass__
        # A class of the tests may be called `list` too, so only the very same type counts.
        known = SAFE_TYPES.get(kind.__name__) is kind and getattr(kind, value.__name__, None) is value
        return f"builtins:{kind.__name__}.{value.__name__}" if known else None
    if not isinstance(value, types.BuiltinFunctionType | types.FunctionType | type):
        return None
    # Some functions are written in C under a private name, such as `_operator`.
    home, name = value.__module__ or "", value.__qualname__
    for module in (home, home.removeprefix("_")):
        if module in CROSSING_MODULES and getattr(sys.modules.get(module), name, None) is value:
            return f"{module}:{name}"
    return None


def find_in_library(name: str) -> Any:
    """Return the function that `_library_name` named; called by the candidate.

    Raises:
        CodecError: The module may not cross, or it has no such function.
    """
    module, _, path = name.partition(":")
    if module not in CROSSING_MODULES | {"builtins"}:
        raise CodecError(f"module {module!r} cannot cross")
    try:
        return functools.reduce(getattr, path.split("."), __import__(module))
    except AttributeError:
        raise CodecError(f"{name} is not there") from None
