"""Read the tests of EvalPlus, with a separate test for each input of its loops, so that pass rates are graded.

EvalPlus's own files list inputs without outputs. There the canonical solution, run by the referee, gives the expected
value.
"""

from __future__ import annotations

import ast
import copy
from typing import Any

from trl_pper.tasks.formats.fields import Row, sequence, text
from trl_pper.tasks.formats.test_code import check_function, literal
from trl_pper.tasks.syntax import UNREADABLE, parse, why_unreadable
from trl_pper.tasks.task import FunctionTests

#: EvalPlus's comparison: floats and lists of floats within a tolerance, everything else equal.
_COMPARISON = """\
import copy


def _is_float_like(value):
    return isinstance(value, float) or (
        isinstance(value, (list, tuple)) and all(isinstance(item, float) for item in value)
    )


def _near(got, expected, tolerance):
    if isinstance(expected, (list, tuple)):
        return len(got) == len(expected) and all(_near(a, b, tolerance) for a, b in zip(got, expected))
    # Around an infinity the margin would hold every number.
    margin = tolerance + 1e-7 * abs(expected)
    return got == expected or expected - margin <= got <= expected + margin


def holds(got, expected, tolerance):
    if got == expected or (got != got and expected != expected):
        return True
    if tolerance == 0 and _is_float_like(expected):
        tolerance = 1e-6
    return tolerance != 0 and type(got) is type(expected) and _near(got, expected, tolerance)

"""


def expand_loop(tree: ast.Module, entry_point: str | None) -> FunctionTests | None:
    """Return the tests of a script that ends in a loop over its inputs, at top level or in `check(candidate)`.

    Two forms of the loop are known: `for i, (inp, exp) in enumerate(zip(inputs, results)): assertion(f(*inp), exp,
    0)`, and a loop over the inputs alone that calls a reference of its own.

    Returns:
        The tests, or None when the script has another form.
    """
    body = tree.body
    bindings: dict[str, ast.expr] = {}
    checks = [node for node in body if isinstance(node, ast.FunctionDef) and node.name == "check"]
    if len(checks) == 1 and entry_point is not None and len(checks[0].args.args) == 1:
        # The loop calls `candidate`; at top level the tests call the function itself.
        bindings[checks[0].args.args[0].arg] = ast.parse(entry_point, mode="eval").body
        body = [node for node in body if node is not checks[0] and not isinstance(node, ast.Expr)] + checks[0].body
    loops = [node for node in body if isinstance(node, ast.For)]
    if len(loops) != 1 or body[-1] is not loops[0]:
        return None
    lists = {node.targets[0].id: node.value for node in body if _is_list(node)}  # type: ignore[attr-defined]
    items = _loop_items(loops[0])
    call = loops[0].body[0].value if len(loops[0].body) == 1 and isinstance(loops[0].body[0], ast.Expr) else None
    if not items or not isinstance(call, ast.Call) or not set(items.values()) <= lists.keys():
        return None
    (length, *others) = {len(lists[name].elts) for name in items.values()}
    # `zip` would silently drop the rest of the longer list.
    if others or not length:
        return None
    lines = []
    given = next(iter(items))
    for number in range(length):
        texts = {name: f"{of}[{number}]" for name, of in items.items()}
        # The program may change its arguments, which a reference gets as well.
        texts[given] = f"copy.deepcopy({texts[given]})"
        now = {name: ast.parse(text, mode="eval").body for name, text in texts.items()}
        # `visit` changes the tree, which the next input needs unchanged.
        test = _Replace({**bindings, **now}).visit(copy.deepcopy(call))
        # The script's `assertion` returns None or raises AssertionError.
        lines.append(f"assert {ast.unparse(test)} is None")
    setup = "\n\n".join(["import copy", *(ast.unparse(node) for node in body[:-1])])
    return FunctionTests(entry_point=entry_point, code="\n".join(lines), setup=setup + "\n")


def _is_list(node: ast.stmt) -> bool:
    return isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name) and isinstance(node.value, ast.List)


def _loop_items(loop: ast.For) -> dict[str, str]:
    """Return, by loop variable, the name of the list that it iterates over; empty for a loop of another form."""
    match (loop.target, loop.iter):
        case (
            ast.Tuple(elts=[ast.Name(), ast.Tuple(elts=[ast.Name(id=given), ast.Name(id=expected)])]),
            ast.Call(
                func=ast.Name(id="enumerate"),
                args=[ast.Call(func=ast.Name(id="zip"), args=[ast.Name(id=inputs), ast.Name(id=results)])],
            ),
        ):
            return {given: inputs, expected: results}
        case (
            ast.Tuple(elts=[ast.Name(), ast.Name(id=given)]),
            ast.Call(func=ast.Name(id="enumerate"), args=[ast.Name(id=inputs)]),
        ):
            return {given: inputs}
    return {}


class _Replace(ast.NodeTransformer):
    def __init__(self, by: dict[str, ast.expr]) -> None:
        self.by = by

    def visit_Name(self, node: ast.Name) -> ast.expr:
        return self.by.get(node.id, node)


def input_tests(row: Row, given: str) -> FunctionTests:
    """Return a test for each of `base_input` and `plus_input`, with the answers of `canonical_solution`.

    Args:
        row: A row of EvalPlus's own file of HumanEval+.
        given: Code that the prompt defines besides the requested function.

    Raises:
        ValueError: A field is missing or malformed, or the row is from MBPP+, where JSON turned tuples into lists.
    """
    if str(row.get("task_id")).lower().startswith("mbpp/"):
        raise ValueError(
            "base_input: as JSON the inputs of MBPP+ are no longer what the functions take, since tuples and sets "
            "became lists; use the edition evalplus/mbppplus, whose rows have test_list and test"
        )
    name = check_function("entry_point", text(row, "entry_point"))
    inputs: list[Any] = []
    for field in ("base_input", "plus_input"):
        for number, arguments in enumerate(sequence(row.get(field, []) or [], field)):
            inputs.append(list(sequence(arguments, f"{field}[{number}]")))
    if not inputs:
        raise ValueError("base_input: a task needs at least one test; got none. Add one or drop the task")
    tolerance = literal(row.get("atol") or 0)
    # The inputs are in the setup once, and each test refers to its own by index: some are very long.
    setup = f"{_COMPARISON}\n{_reference(row, name)}\n\n{given}\ninputs = {literal(inputs)}\n"
    return FunctionTests(
        entry_point=name,
        code="\n".join(_input_test(name, number, tolerance) for number in range(len(inputs))),
        setup=setup,
    )


def _input_test(name: str, number: int, tolerance: str) -> str:
    # The program may change its arguments, which the reference gets as well.
    got = f"{name}(*copy.deepcopy(inputs[{number}]))"
    if name == "find_zero":
        # HumanEval/32: a polynomial may have several zeros, and any of them is right.
        return f"assert abs(poly(inputs[{number}][0], {got})) <= {tolerance}"
    return f"assert holds({got}, reference(*copy.deepcopy(inputs[{number}])), {tolerance})"


def _reference(row: Row, name: str) -> str:
    """Return the canonical solution, with the code of the prompt that it needs, under the name `reference`."""
    program = text(row, "prompt") + text(row, "canonical_solution")
    try:
        tree = parse(program)
    except UNREADABLE as error:
        raise ValueError(
            f"canonical_solution: must be Python once it follows the prompt; got {why_unreadable(error)}"
        ) from error
    if not any(isinstance(node, ast.FunctionDef) and node.name == name for node in tree.body):
        raise ValueError(f"canonical_solution: must define the function {name}, whose results the tests compare with")
    return ast.unparse(_Rename(name).visit(tree))


class _Rename(ast.NodeTransformer):
    def __init__(self, name: str) -> None:
        self.name = name

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.FunctionDef:
        self.generic_visit(node)
        node.name = "reference" if node.name == self.name else node.name
        return node

    def visit_Name(self, node: ast.Name) -> ast.Name:
        node.id = "reference" if node.id == self.name else node.id
        return node
