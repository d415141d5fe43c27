"""Find calls with literal arguments in test code, and write the same tests for other arguments.

Values are written as literals that are the same in every process. Functions, objects and infinities have no literal.
Nothing is run.
"""

from __future__ import annotations

import ast
import copy
import math
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from trl_pper.amplify.shape import Record
from trl_pper.tasks.syntax import UNREADABLE, parse
from trl_pper.tasks.task import FunctionTests

_CALL, _EXPECTED = "CALL_OF_THE_PROGRAM", "EXPECTED_OF_THE_REFERENCE"
#: Tolerance of `near_reference` for floats, used where the task's own tests compare exactly. It equals that of the
#: `tokens` comparison for programs that print.
TOLERANCE = 1e-6
NEAR = "near_reference"
NEAR_SETUP = f"""\
def {NEAR}(got, expected):
    if isinstance(expected, (list, tuple)) and isinstance(got, (list, tuple)):
        return len(got) == len(expected) and all(map({NEAR}, got, expected))
    if isinstance(expected, dict) and isinstance(got, dict):
        return got.keys() == expected.keys() and all({NEAR}(got[key], expected[key]) for key in expected)
    if isinstance(expected, float) and isinstance(got, (int, float)):
        return abs(got - expected) <= max({TOLERANCE}, {TOLERANCE} * abs(expected))
    return got == expected
"""


@dataclass(frozen=True, kw_only=True)
class TestCall:
    """A test of a function.

    Args:
        arguments: Values of the arguments, keyword arguments last.
        keywords: Names of the keyword arguments.
        template: Expression of the assert, with placeholders for the call and for the expected value.
        kind: How the test compares: "equal" for exact equality, "near" for a tolerance in the assert, "function" for a
            comparison function of the tests, "true" for truth.
    """

    # pytest would collect classes named Test*.
    __test__ = False

    arguments: Record
    keywords: tuple[str, ...]
    template: str
    kind: str

    @property
    def signature(self) -> tuple[int, tuple[str, ...]]:
        """Number of arguments and keyword names; calls that share them have arguments of the same meaning."""
        return len(self.arguments), self.keywords


def test_calls(tests: FunctionTests) -> list[TestCall]:
    """Return the tests that call the entry point exactly once, with literal arguments."""
    try:
        tree = parse(tests.code)
    except UNREADABLE:
        return []
    if tests.entry_point is None:
        return []
    # Inside `check(candidate)` the function goes by the name of the parameter.
    names = {tests.entry_point, *_parameters(tree, tests.entry_point)}
    found = [_test_call(node, names) for node in ast.walk(tree) if isinstance(node, ast.Assert)]
    # Any other assert is no model for new tests, and stays as it is.
    return [call for call in found if call is not None]


test_calls.__test__ = False  # type: ignore[attr-defined]


def assertion(function: str, call: TestCall, arguments: Record, output: Any, *, near: TestCall | None) -> str:
    """Return an assert that the function returns `output` for new arguments.

    Args:
        function: Expression that calls the function.
        call: Known test from which the arguments derive.
        arguments: New arguments.
        output: Result of the reference for them.
        near: A test of the same task that compares floats within a tolerance, or None.

    Raises:
        NotLiteral: The output has no literal.
    """
    places = len(arguments) - len(call.keywords)
    given = [write(value) for value in arguments[:places]]
    given += [f"{name}={write(value)}" for name, value in zip(call.keywords, arguments[places:], strict=True)]
    template, expected = call.template, write(output)
    if call.kind == "true":
        template = _CALL if output else f"not {_CALL}"
    elif isinstance(output, float) and near is not None:
        template = near.template
    # Another right program may round differently, even where the known tests happen to compare exactly.
    elif holds_float(output) and (call.kind == "function" or template == f"{_CALL} == {_EXPECTED}"):
        template = f"{NEAR}({_CALL}, {_EXPECTED})"
    # `abs(got - expected)` needs numbers.
    elif call.kind == "near" and not isinstance(output, float | int):
        template = f"{_CALL} == {_EXPECTED}"
    return f"assert {template}".replace(_CALL, f"{function}({', '.join(given)})").replace(_EXPECTED, expected)


def with_assertions(tests: FunctionTests, assertions: list[str]) -> FunctionTests:
    """Return tests with more asserts at their end."""
    return FunctionTests(
        entry_point=tests.entry_point,
        setup=_setup(tests.setup, assertions),
        code=tests.code.rstrip() + "\n\n" + "\n".join(assertions) + "\n",
    )


def only_assertions(tests: FunctionTests, assertions: list[str]) -> FunctionTests:
    """Return new tests with the given asserts only, and the setup of the old tests."""
    setup = _setup(tests.setup, assertions)
    return FunctionTests(entry_point=tests.entry_point, setup=setup, code="\n".join(assertions) + "\n")


def _setup(setup: str, assertions: list[str]) -> str:
    if not any(NEAR in line for line in assertions) or NEAR_SETUP in setup:
        return setup
    return f"{setup.rstrip()}\n\n{NEAR_SETUP}".lstrip()


def _parameters(tree: ast.Module, entry_point: str) -> Iterator[str]:
    """Yield the parameter names under which functions such as `check(candidate)` receive the entry point."""
    functions = {node.name: node.args.args for node in tree.body if isinstance(node, ast.FunctionDef)}
    for node in tree.body:
        call = node.value if isinstance(node, ast.Expr) else None
        if isinstance(call, ast.Call) and isinstance(call.func, ast.Name) and call.func.id in functions:
            for parameter, value in zip(functions[call.func.id], call.args, strict=False):
                if ast.unparse(value) == entry_point:
                    yield parameter.arg


def _test_call(node: ast.Assert, names: set[str]) -> TestCall | None:
    calls = [part for part in ast.walk(node.test) if isinstance(part, ast.Call) and ast.unparse(part.func) in names]
    if len(calls) != 1:
        return None
    try:
        arguments = [value for part in calls[0].args for value in _argument(part)]
        keywords = [(part.arg or "", read(part.value)) for part in calls[0].keywords]
    except NotLiteral:
        return None
    template = _template(node.test, calls[0])
    if template is None or not all(name for name, _ in keywords):
        return None
    return TestCall(
        arguments=Record([*arguments, *(value for _, value in keywords)]),
        keywords=tuple(name for name, _ in keywords),
        template=ast.unparse(template[0]),
        kind=template[1],
    )


def _argument(node: ast.expr) -> list[Any]:
    if isinstance(node, ast.Starred):
        values = read(node.value)
        if not isinstance(values, list | tuple):
            raise NotLiteral("only a list can be spread over the arguments")
        return list(values)
    return [read(node)]


def _template(test: ast.expr, call: ast.Call) -> tuple[ast.expr, str] | None:
    """Return the template and the kind of an assert, or None for a form that is not known."""
    match test:
        case ast.Call() if test is call:
            return ast.Name(id=_CALL), "true"
        case ast.UnaryOp(op=ast.Not(), operand=operand) if operand is call:
            return ast.Name(id=_CALL), "true"
        case ast.Compare(left=ast.Call() as left, ops=[ast.Is()], comparators=[ast.Constant(value=None)]) if (
            left is not call and (inner := _two_arguments(left, call))
        ):
            return ast.Compare(left=inner, ops=[ast.Is()], comparators=[ast.Constant(value=None)]), "function"
        case ast.Compare(left=left, ops=[ast.Eq() | ast.Is()], comparators=[right]):
            side, other = (left, right) if _within(call, left) else (right, left)
            if _within(call, other):
                return None
            # An assert such as `set(f(x)) == set(y)` treats both sides alike, and so must the new one.
            mine, theirs = _replaced(side, (call, _CALL)), _replaced(side, (call, _EXPECTED))
            return ast.Compare(left=mine, ops=[ast.Eq()], comparators=[theirs]), "equal"
        case ast.Compare(
            left=ast.Call(func=ast.Name(id="abs"), args=[ast.BinOp(op=ast.Sub(), left=one, right=other)]),
            ops=[ast.Lt() | ast.LtE()],
            comparators=[bound],
        ) if call in (one, other) and _is_literal(bound):
            return _replaced(test, (call, _CALL), (other if call is one else one, _EXPECTED)), "near"
        case ast.Call(func=function) if made := _two_arguments(test, call):
            return made, "near" if ast.unparse(function).endswith("isclose") else "function"
    return None


def _two_arguments(test: ast.Call, call: ast.Call) -> ast.expr | None:
    """Return the template of `same(call, literal, ...)`, or None for another form."""
    if len(test.args) < 2 or call not in test.args[:2]:
        return None
    value = test.args[1 - test.args.index(call)]
    return _replaced(test, (call, _CALL), (value, _EXPECTED)) if _is_literal(value) else None


def _replaced(node: ast.expr, *parts: tuple[ast.expr, str]) -> ast.expr:
    """Return a copy of an expression with placeholder names in place of some parts."""
    # `deepcopy` returns the memo's entry for an object that it counts as copied already.
    memo: dict[int, object] = {id(part): ast.Name(id=name) for part, name in parts}
    return copy.deepcopy(node, memo)


def _is_literal(node: ast.expr) -> bool:
    try:
        read(node)
    except NotLiteral:
        return False
    return True


def _within(part: ast.AST, whole: ast.AST) -> bool:
    return any(node is part for node in ast.walk(whole))


#: Longest assert that is added to a test, in characters.
MAX_CHARS = 10_000
_PLAIN = (str, bytes, bool, int, type(None))


class NotLiteral(ValueError):
    """Raised for a value without a literal, and for text that is not a literal."""


def write(value: Any) -> str:
    """Return the literal of a value; items of sets are sorted by their literals.

    Raises:
        NotLiteral: The value has no literal.
    """
    kind = type(value)
    if kind is float and math.isfinite(value):
        return repr(value)
    if kind in _PLAIN:
        try:
            # `repr` raises ValueError for whole numbers of more than 4300 digits.
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
        NotLiteral: The text is not a literal, or is nested too deeply.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            value = ast.literal_eval(text)
    except (ValueError, SyntaxError, TypeError, RecursionError, MemoryError) as error:
        raise NotLiteral(f"not a literal: {error}") from error
    # `literal_eval` also accepts values without a literal here, such as complex numbers.
    write(value)
    return value


def holds_float(value: Any) -> bool:
    """Return whether a value is a float or holds a float at any depth."""
    if isinstance(value, dict):
        return any(holds_float(item) for pair in value.items() for item in pair)
    if isinstance(value, list | tuple | set):
        return any(map(holds_float, value))
    return isinstance(value, float)
