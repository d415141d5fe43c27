"""Plain values as Python literals and back: numbers, text, lists, tuples, dictionaries, sets and None, nested.

Enters: a value, or text that a program printed. Leaves: source that is the same in every process, or a value. What
cannot be written as a literal (functions, objects, infinities) has no source here.
"""

from __future__ import annotations

import ast
import math
import warnings
from typing import Any

#: Longest literal that becomes part of a test, in characters.
MAX_CHARS = 10_000
_PLAIN = (str, bytes, bool, int, type(None))


class NotLiteral(ValueError):
    """A value has no literal, or a text is none."""


def write(value: Any) -> str:
    """Return the source of a value; sets are written in the order of their items' source.

    Raises:
        NotLiteral: It cannot be written as a literal.
    """
    kind = type(value)
    if kind is float and math.isfinite(value):
        return repr(value)
    if kind in _PLAIN:
        try:
            return repr(value)
        except ValueError as error:
            raise NotLiteral(f"too many digits: {error}") from error
    if kind is list:
        return f"[{', '.join(map(write, value))}]"
    if kind is tuple:
        return f"({', '.join(map(write, value))}{',' * (len(value) == 1)})"
    if kind is set:
        return f"{{{', '.join(sorted(map(write, value)))}}}" if value else "set()"
    if kind is dict:
        return "{" + ", ".join(f"{write(key)}: {write(item)}" for key, item in value.items()) + "}"
    raise NotLiteral(f"a {kind.__name__} cannot be written as a literal: {str(value)[:60]}")


def read(text: str | ast.expr) -> Any:
    """Return the value of a literal.

    Raises:
        NotLiteral: The text is none, or is nested too deeply.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            value = ast.literal_eval(text)
    except (ValueError, SyntaxError, TypeError, RecursionError, MemoryError) as error:
        raise NotLiteral(f"not a literal: {error}") from error
    write(value)
    return value


def holds_float(value: Any) -> bool:
    """Whether there is a float anywhere in a value."""
    if isinstance(value, dict):
        return any(holds_float(item) for pair in value.items() for item in pair)
    if isinstance(value, list | tuple | set):
        return any(map(holds_float, value))
    return isinstance(value, float)
