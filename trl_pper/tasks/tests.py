"""Find, count and drop the tests in test code.

A test is a statement that holds an assert or a `with pytest.raises(...)`, at top level or in a function that the top
level reaches.
"""

from __future__ import annotations

import ast
from collections.abc import Sequence

#: Name of the context manager in rewritten test code, unlikely to occur in a program.
TEST = "__pper_test__"


_DEFINITIONS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
#: Fields of compound statements with statements in them, or with handlers and cases that hold statements.
_BLOCKS = ("body", "orelse", "finalbody", "handlers", "cases")


def why_no_test(tree: ast.Module) -> str:
    """Return an error message for test code that holds no test."""
    for node in tree.body:
        bases = [ast.unparse(base) for base in node.bases] if isinstance(node, ast.ClassDef) else []
        if any(base.endswith("TestCase") for base in bases):
            return (
                "unittest.TestCase is not supported: write plain asserts, or functions that hold them and are called"
            )
    return "the test code holds no test that runs"


def count_tests(code: str) -> int:
    """Return the number of tests in `code`; 0 when it is not Python."""
    try:
        tests: list[ast.stmt] = []
        _wrap_module(ast.parse(code), tests)
        return len(tests)
    except (SyntaxError, ValueError, RecursionError):
        return 0


def first_tests(code: str, most: int) -> tuple[str, int]:
    """Return `code` without the tests after the first `most`, and the number of tests it had.

    Raises:
        SyntaxError: `code` is not Python.
    """
    tree = ast.parse(code)
    tests: list[ast.stmt] = []
    # A tree of its own, because wrapping changes it.
    _wrap_module(ast.parse(code), tests)
    if len(tests) <= most:
        return code, len(tests)
    # Statements of the two trees correspond by position.
    _Without({(test.lineno, test.col_offset) for test in tests[most:]}).visit(tree)
    return ast.unparse(ast.fix_missing_locations(tree)), len(tests)


class _Without(ast.NodeTransformer):
    """A transformer that drops the statements at the given positions."""

    def __init__(self, places: set[tuple[int, int]]) -> None:
        self.places = places

    def visit(self, node: ast.AST) -> ast.AST | None:
        # Expressions hold no statements, and test data can be very large.
        if isinstance(node, ast.expr):
            return node
        if isinstance(node, ast.stmt) and (node.lineno, node.col_offset) in self.places:
            return None
        self.generic_visit(node)
        if isinstance(node, ast.FunctionDef) and not node.body:
            # A function needs a body.
            node.body = [ast.Pass()]
        return node


def _wrap_module(tree: ast.Module, tests: list[ast.stmt]) -> None:
    functions = {node.name: node for node in tree.body if isinstance(node, ast.FunctionDef)}
    reached = _reached(functions, [node for node in tree.body if not isinstance(node, _DEFINITIONS)])
    tree.body = _wrap_body(tree.body, reached, tests)


def _reached(functions: dict[str, ast.FunctionDef], roots: Sequence[ast.stmt]) -> set[str]:
    """Return the names of the functions that `roots` mention, directly or through each other."""
    reached: set[str] = set()
    waiting: list[ast.AST] = list(roots)
    while waiting and len(reached) < len(functions):
        for node in ast.walk(waiting.pop()):
            if isinstance(node, ast.Name) and node.id in functions and node.id not in reached:
                reached.add(node.id)
                waiting.extend(functions[node.id].body)
    return reached


def _wrap_body(body: Sequence[ast.stmt], reached: set[str], tests: list[ast.stmt]) -> list[ast.stmt]:
    wrapped: list[ast.stmt] = []
    for statement in body:
        if isinstance(statement, ast.FunctionDef):
            if statement.name in reached:
                # Functions inside a function are tests only if its own statements reach them.
                inner = {node.name: node for node in statement.body if isinstance(node, ast.FunctionDef)}
                roots = [node for node in statement.body if not isinstance(node, _DEFINITIONS)]
                statement.body = _wrap_body(statement.body, _reached(inner, roots), tests)
            wrapped.append(statement)
        elif _holds_test(statement):
            wrapped.append(_wrap(statement, len(tests)))
            tests.append(statement)
        else:
            wrapped.append(statement)
    return wrapped


def _holds_test(statement: ast.AST) -> bool:
    """Return whether a test runs as part of `statement`."""
    if isinstance(statement, ast.Assert):
        return _counts(statement)
    if isinstance(statement, _DEFINITIONS):
        # Definitions run elsewhere, if at all.
        return False
    if isinstance(statement, ast.With) and any(_expects_exception(item.context_expr) for item in statement.items):
        return True
    # Expressions, which may be long literals, hold no asserts: only blocks of statements are searched.
    return any(
        _holds_test(part) for field in _BLOCKS for part in getattr(statement, field, ()) if isinstance(part, ast.AST)
    )


def _expects_exception(expression: ast.expr) -> bool:
    """Return whether an expression is `pytest.raises(...)`, which fails when its block raises nothing."""
    function = expression.func if isinstance(expression, ast.Call) else None
    return isinstance(function, ast.Attribute) and function.attr == "raises"


def _counts(node: ast.Assert) -> bool:
    # `assert True, "..."` says nothing about the program; `assert False` after a call that must raise does.
    return not (isinstance(node.test, ast.Constant) and node.test.value)


def _wrap(statement: ast.stmt, index: int) -> ast.stmt:
    name = ast.copy_location(ast.Name(id=TEST, ctx=ast.Load()), statement)
    number = ast.copy_location(ast.Constant(index), statement)
    call = ast.copy_location(ast.Call(func=name, args=[number], keywords=[]), statement)
    return ast.copy_location(ast.With(items=[ast.withitem(context_expr=call)], body=[statement]), statement)
