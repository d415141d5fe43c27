"""Analyse test code, and write the values of a benchmark as Python source.

Code is parsed, never run.
"""

from __future__ import annotations

import ast
import builtins
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from trl_pper.tasks.formats.fields import LongNumber
from trl_pper.tasks.syntax import UNREADABLE, module_names, parse, why_unreadable
from trl_pper.tasks.task import FunctionTests

_FUNCTION = re.compile(r"(?:[^\W\d]\w*(?:\(\))?\.)*[^\W\d]\w*")
_SAME_VALUE = """\
def same_value(got, expected):
    if isinstance(expected, float):
        # As numpy.allclose compares. Its margin around an infinity would hold every number.
        margin = 1e-8 + 1e-5 * abs(expected)
        return isinstance(got, (int, float)) and (
            got == expected
            or expected - margin <= got <= expected + margin
            or (got != got and expected != expected)
        )
    if isinstance(expected, list):
        return (
            isinstance(got, (list, tuple))
            and len(got) == len(expected)
            and all(same_value(one, other) for one, other in zip(got, expected))
        )
    if isinstance(expected, dict):
        return isinstance(got, dict) and same_items(text_keys(got), text_keys(expected))
    if expected is None:
        return got is None
    return isinstance(got, (int, float, str)) and got == expected


def same_items(got, expected):
    return got.keys() == expected.keys() and all(same_value(got[key], expected[key]) for key in expected)


def text_keys(value):
    return {key if isinstance(key, str) else repr(key): item for key, item in value.items()}


def same(got, expected):
"""
#: Compares a function's result with a JSON value: JSON has lists for tuples, only text as keys, and no arrays or sets.
PLAIN_COMPARISON = _SAME_VALUE + "    return same_value(got, expected)\n"
#: The same with the rule of the APPS graders: the expected value may also be the only item of a list.
WRAPPED_COMPARISON = (
    _SAME_VALUE
    + """\
    if same_value(got, expected):
        return True
    return isinstance(expected, list) and len(expected) == 1 and same_value(got, expected[0])
"""
)


def tests_tree(field: str, code: str) -> ast.Module:
    """Parse test code.

    Raises:
        ValueError: The code is not Python or holds no assert; the message begins with `field`.
    """
    try:
        tree = parse(code)
    except UNREADABLE as error:
        raise ValueError(f"{field}: must be Python test code; got {why_unreadable(error)}") from error
    if not any(isinstance(node, ast.Assert) for node in ast.walk(tree)):
        raise ValueError(f"{field}: a task needs at least one test; the test code holds no assert")
    return tree


def called_name(node: ast.AST) -> str | None:
    """Return the plain name that a call calls, or None for other expressions."""
    return node.func.id if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) else None


def infer_entry_point(tests: str, *, setup: str = "", reference: str = "") -> str | None:
    """Find the function under test: the only name that the asserts call and that the program has to define.

    Args:
        tests: Test code.
        setup: Code run before the tests; the program need not define the names that it defines.
        reference: A known solution, or "". With it only names that it defines count, even if they shadow a builtin.

    Returns:
        The name; None when no name fits, or several do.
    """
    asserts = [node for node in ast.walk(parse(tests)) if isinstance(node, ast.Assert)]
    called = {name for test in asserts for node in ast.walk(test) if (name := called_name(node))}
    # MBPP asks for functions such as `sum`; only the solution tells them from builtins that the asserts use.
    wanted = called & _defined(reference) if reference else set()
    wanted = wanted or called - set(dir(builtins))
    wanted -= _defined(setup) | _defined(tests)
    return wanted.pop() if len(wanted) == 1 else None


# Setup and solution only help to guess: code that does not parse defines nothing.
def _defined(code: str) -> set[str]:
    try:
        return module_names(parse(code))
    except UNREADABLE:
        return set()


def check_function(field: str, function: object) -> str:
    """Return the expression that calls a function: a name, or a form such as `Solution().solve`.

    Raises:
        ValueError: The value is neither; the message begins with `field`.
    """
    # The text becomes part of test code, so nothing but names may pass.
    if not isinstance(function, str) or not _FUNCTION.fullmatch(function):
        raise ValueError(f"{field}: must be the name of a function, or like Solution().name; got {function!r:.80}")
    return function


def call_tests(
    function: str, cases: Iterable[tuple[Sequence[Any], Any]], *, comparison: str = PLAIN_COMPARISON
) -> FunctionTests:
    """Return tests with an assert for each call of a function.

    Args:
        function: A name, or an expression such as `Solution().solve`.
        cases: Arguments and expected value of each call, as JSON types.
        comparison: Code that defines `same(got, expected)`.

    Raises:
        ValueError: `function` is not a call expression, or there is no case.
    """
    check_function("fn_name", function)
    lines = [
        f"assert same({function}({', '.join(map(literal, arguments))}), {literal(expected)})"
        for arguments, expected in cases
    ]
    if not lines:
        raise ValueError("inputs: a task needs at least one test; got none. Add one or drop the task")
    return FunctionTests(code="\n".join(lines), entry_point=function, setup=comparison)


def literal(value: Any) -> str:
    """Return Python source for a JSON value, including infinities and numbers of any length."""
    if isinstance(value, LongNumber):
        # Python limits the length of decimal literals, not of hexadecimal ones. Pieces of 4000 digits stay
        # below the limit.
        sign, digits = ("-", value[1:]) if value.startswith("-") else ("", value)
        number = 0
        for start in range(0, len(digits), 4000):
            piece = digits[start : start + 4000]
            number = number * 10 ** len(piece) + int(piece)
        return f"{sign}{number:#x}"
    if isinstance(value, float) and not math.isfinite(value):
        # `repr` gives `inf` and `nan`, which are not Python source.
        return f'float("{value}")'
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{literal(key)}: {literal(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(literal, value)) + "]"
    if isinstance(value, tuple):
        return "(" + "".join(f"{literal(item)}, " for item in value) + ")"
    return repr(value)
