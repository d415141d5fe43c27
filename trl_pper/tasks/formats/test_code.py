"""Test code as text: what it asks for, and how values of a benchmark are written in it.

Enters: test code and plain values. Leaves: facts about the code, and Python source. Nothing is run.
"""

from __future__ import annotations

import ast
import builtins
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from trl_pper.tasks.formats.fields import LongNumber
from trl_pper.tasks.syntax import module_names, parse
from trl_pper.tasks.task import FunctionTests

_FUNCTION = re.compile(r"(?:[^\W\d]\w*(?:\(\))?\.)*[^\W\d]\w*")
_AS_JSON = """\
def as_json(value):
    if isinstance(value, (list, tuple)):
        return [as_json(item) for item in value]
    if isinstance(value, dict):
        return {key if isinstance(key, str) else repr(key): as_json(item) for key, item in value.items()}
    return value


def same(got, expected):
"""
#: Compares what a function returns with what JSON can say: tuples are lists there, and keys are text.
PLAIN_COMPARISON = _AS_JSON + "    return as_json(got) == as_json(expected)\n"
#: The same, as the graders of APPS have it: what is expected may also stand alone in a list.
WRAPPED_COMPARISON = (
    _AS_JSON
    + """\
    got, expected = as_json(got), as_json(expected)
    return got == expected or (isinstance(expected, list) and len(expected) == 1 and got == expected[0])
"""
)


def tests_tree(field: str, code: str) -> ast.Module:
    """Parse test code.

    Raises:
        ValueError: It is not Python or holds no assert; the message begins with `field`.
    """
    try:
        tree = parse(code)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise ValueError(f"{field}: must be Python test code; got {error}") from error
    if not any(isinstance(node, ast.Assert) for node in ast.walk(tree)):
        raise ValueError(f"{field}: a task needs at least one test; the test code holds no assert")
    return tree


def called_name(node: ast.AST) -> str | None:
    """Return the name that a call calls, or None."""
    return node.func.id if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) else None


def infer_entry_point(tests: str, *, setup: str = "", reference: str = "") -> str | None:
    """Find the function that asserts are about: the one name they call that the program has to define.

    Args:
        tests: Test code.
        setup: Code run before it; what it defines or imports is not asked of the program.
        reference: A solution, if one is known: then only a name it defines counts, also one that shadows a builtin.

    Returns:
        The name, or None when there is none or more than one.
    """
    asserts = [node for node in ast.walk(parse(tests)) if isinstance(node, ast.Assert)]
    called = {name for test in asserts for node in ast.walk(test) if (name := called_name(node))}
    wanted = called & _defined(reference) if reference else set()
    wanted = wanted or called - set(dir(builtins))
    wanted -= _defined(setup) | _defined(tests)
    return wanted.pop() if len(wanted) == 1 else None


def _defined(code: str) -> set[str]:
    try:
        return module_names(parse(code))
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return set()


def check_function(field: str, function: object) -> str:
    """Return how a function is called: by a name, or as in `Solution().solve`.

    Raises:
        ValueError: It is neither; the message begins with `field`.
    """
    if not isinstance(function, str) or not _FUNCTION.fullmatch(function):
        raise ValueError(f"{field}: must be the name of a function, or like Solution().name; got {function!r:.80}")
    return function


def call_tests(
    function: str, cases: Iterable[tuple[Sequence[Any], Any]], *, comparison: str = PLAIN_COMPARISON
) -> FunctionTests:
    """Return one assert per call of a function.

    Args:
        function: A name, or an expression such as `Solution().solve`.
        cases: Arguments and expected value of each call, of the types that JSON has.
        comparison: Code that defines `same(got, expected)`.

    Raises:
        ValueError: `function` is neither, or there is no case.
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
    """Return Python source of a value as JSON has it; `float("inf")` and numbers of any length included."""
    if isinstance(value, LongNumber):
        # Hexadecimal digits have no limit; decimal ones are converted in pieces that stay below it.
        sign, digits = ("-", value[1:]) if value.startswith("-") else ("", value)
        number = 0
        for start in range(0, len(digits), 4000):
            piece = digits[start : start + 4000]
            number = number * 10 ** len(piece) + int(piece)
        return f"{sign}{number:#x}"
    if isinstance(value, float) and not math.isfinite(value):
        return f'float("{value}")'
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{literal(key)}: {literal(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(literal, value)) + "]"
    if isinstance(value, tuple):
        return "(" + "".join(f"{literal(item)}, " for item in value) + ")"
    return repr(value)
