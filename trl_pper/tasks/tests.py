"""Find, count, mark and drop the tests in test code.

A test is any of these:

- a statement that checks something, at top level or in a function such as HumanEval's `check` that the top level
  calls once: an assert, a raise, a call of a function that asserts, `pytest.raises`, or a block with one of them;
- a method `test*` of a `unittest.TestCase`, or of a class `Test*` as pytest collects it;
- a function `test*` that nothing calls, as pytest collects it, once for each literal parameter set.

The number of tests follows from the text alone, so that it is the same for every program. Nothing is executed here.
"""

from __future__ import annotations

import ast
import contextlib
from collections import Counter
from collections.abc import Callable, Container, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from trl_pper.tasks.syntax import UNREADABLE, module_statements

#: Names of two context managers in marked test code, unlikely to occur in a program: a test, and a check inside a test
#: whose failure counts even if a block around it swallows the exception.
TEST, CHECK = "__pper_test__", "__pper_check__"

_DEFINITIONS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
_FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)
_TRY = (ast.Try, ast.TryStar)
_WITH = (ast.With, ast.AsyncWith)
_DISPLAYS = (ast.List, ast.Tuple, ast.Set)
_CONTEXTS = (ast.expr_context, ast.operator, ast.unaryop, ast.cmpop, ast.boolop)
_LEAVES = (ast.Constant, *_CONTEXTS)
#: Longer displays are data; longer literals are folded.
_DATA_ITEMS, _FOLDED_ITEMS = 20, 6
_EXPECT = frozenset("raises warns assertRaises assertRaisesRegex assertWarns assertWarnsRegex".split())
_EXITS = frozenset("exit quit _exit".split())
#: Calls that run collected tests. The judge runs them itself.
_RUNNERS = frozenset(("unittest.main", "pytest.main"))


@dataclass(frozen=True, kw_only=True)
class Test:
    """A test of the test code.

    Args:
        node: The statement, or the definition of the function or method.
        kind: "statement"; "unittest" or "class" for a method; "function".
        owner: Name of the class that has the method, or "".
        name: Name of the method or function, or "".
        number: Position of the parameter set, from 0; None where the test is not split by parameters.
    """

    __test__ = False  # Keeps pytest from collecting this class.

    node: ast.stmt
    kind: str = "statement"
    owner: str = ""
    name: str = ""
    number: int | None = None

    @property
    def is_collected(self) -> bool:
        """Whether a runner calls the test, as unittest and pytest do."""
        return self.kind != "statement"


def mark_tests(tree: ast.Module, entry_point: str | None = None) -> list[Test]:
    """Wrap each statement that is a test in `with TEST(number):`, and return all tests.

    Statements come first, in source order. Calls of `unittest.main` and `pytest.main` are dropped. A function `check`
    that nothing calls is called with the entry point.

    Args:
        tree: A module of test code; it is changed.
        entry_point: An expression for the function under test; None for an unknown one.
    """
    return _Marker(tree, entry_point).mark()


def count_tests(code: str, entry_point: str | None = None) -> int:
    """Return the number of tests in `code`; 0 when it cannot be read as Python."""
    try:
        return len(mark_tests(ast.parse(code), entry_point))
    except UNREADABLE:
        return 0


def why_no_test(tree: ast.Module) -> str:
    """Return an error message for test code that holds no test."""
    unused = [node.name for node in tree.body if isinstance(node, _FUNCTIONS) and parameters(node)]
    if unused:
        return f"the test code holds no test that runs: nothing calls {unused[0]}"
    return "the test code holds no test that runs"


def first_tests(code: str, most: int, entry_point: str | None = None) -> tuple[str, int]:
    """Return `code` without the tests after the first `most`, and the number of tests it had.

    Code that cannot be read as Python is returned as it is, with 0 for the number.
    """
    try:
        return _first_tests(code, most, entry_point)
    except UNREADABLE:
        return code, 0


def _first_tests(code: str, most: int, entry_point: str | None) -> tuple[str, int]:
    tree = ast.parse(code)
    # A tree of its own, because marking changes it.
    tests = mark_tests(ast.parse(code), entry_point)
    if len(tests) <= most:
        return code, len(tests)
    kept = {_place(test.node) for test in tests[:most]}
    # Statements of the two trees correspond by position. Parameter sets of a function stay together.
    _Without({_place(test.node) for test in tests[most:]} - kept).visit(tree)
    return ast.unparse(ast.fix_missing_locations(tree)), len(tests)


def _place(node: ast.stmt) -> tuple[int, int]:
    return node.lineno, node.col_offset


class _Without(ast.NodeTransformer):
    """A transformer that drops the statements at the given positions."""

    def __init__(self, places: set[tuple[int, int]]) -> None:
        self.places = places

    def visit(self, node: ast.AST) -> ast.AST | None:
        # Expressions hold no statements, and test data can be very large.
        if isinstance(node, ast.expr):
            return node
        if isinstance(node, ast.stmt) and _place(node) in self.places:
            return None
        self.generic_visit(node)
        if isinstance(node, _DEFINITIONS) and not node.body:
            # A definition needs a body.
            node.body = [ast.Pass()]
        return node


class _Marker:
    """The search for the tests of a module.

    Args:
        tree: The module; it is changed.
        entry_point: See `mark_tests`.
    """

    def __init__(self, tree: ast.Module, entry_point: str | None) -> None:
        self.tree = tree
        self.tests: list[Test] = []
        nodes = list(walk(tree))
        definitions = [node for node in nodes if isinstance(node, _FUNCTIONS)]
        self.runners = _runners(tree.body)
        self.uses = Counter(node.id for node in nodes if isinstance(node, ast.Name))
        #: Names that calls look up on objects, such as `test_one` in `tests.test_one()`.
        self.looked_up = {
            node.func.attr for node in nodes if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)
        }
        checker = next((node for node in tree.body if isinstance(node, _FUNCTIONS) and node.name == "check"), None)
        if (
            entry_point is not None
            and checker is not None
            and not self.uses["check"]
            and len(parameters(checker)) == 1
        ):
            called = ast.parse(f"check({entry_point})").body[0]
            for node in ast.walk(called):
                ast.copy_location(node, tree.body[-1])
            tree.body.append(called)
            self.uses["check"] += 1
        #: Names of functions that assert, and of functions that assert or raise, by themselves or in others.
        self.asserting = _closure(definitions, self._asserts)
        others = [node for node in definitions if node.name not in self.asserting]
        self.failing = self.asserting | _closure(others, self._raises)

    def mark(self) -> list[Test]:
        """Mark the statements, and return the tests."""
        functions = {node.name: node for node in self.tree.body if isinstance(node, _FUNCTIONS)}
        self.tree.body = self._block(self.tree.body, functions, top=True)
        self.tests.extend(self._collected())
        return self.tests

    def _block(
        self,
        body: Sequence[ast.stmt],
        functions: dict[str, ast.FunctionDef | ast.AsyncFunctionDef],
        *,
        top: bool = False,
    ) -> list[ast.stmt]:
        """Return `body` with its tests marked; bodies of functions that it calls once are marked, too."""
        opened = {id(node) for each in body if (node := self._opened(each, functions)) is not None}
        marked: list[ast.stmt] = []
        for statement in body:
            if isinstance(statement, _DEFINITIONS):
                if id(statement) in opened and isinstance(statement, _FUNCTIONS):
                    inner = {node.name: node for node in statement.body if isinstance(node, _FUNCTIONS)}
                    statement.body = self._block(statement.body, inner)
                marked.append(statement)
            elif _is_runner(statement, self.runners):
                marked.append(ast.copy_location(ast.Pass(), statement))
            elif top and isinstance(statement, ast.If) and _is_main_guard(statement):
                # The bodies of functions that a guard calls were marked where they are defined.
                opened_here = {node.name: node for node in functions.values() if self.uses[node.name] == 1}
                for each in statement.body:
                    if (node := self._opened(each, opened_here)) is not None and id(node) not in opened:
                        inner = {each.name: each for each in node.body if isinstance(each, _FUNCTIONS)}
                        node.body = self._block(node.body, inner)
                statement.body = self._block(statement.body, opened_here)
                marked.append(statement)
            elif self._opened(statement, functions) is None and self._is_test(statement):
                marked.append(self._marked(statement))
            else:
                marked.append(statement)
        return marked

    def _opened(
        self, statement: ast.stmt, functions: dict[str, ast.FunctionDef | ast.AsyncFunctionDef]
    ) -> ast.FunctionDef | ast.AsyncFunctionDef | None:
        """Return the function with the tests that a statement such as `check(f)` runs, else None."""
        value = statement.value if isinstance(statement, ast.Expr) else None
        value = value.value if isinstance(value, ast.Await) else value
        if isinstance(value, ast.Call) and ast.unparse(value.func) in ("asyncio.run", "run") and len(value.args) == 1:
            [value] = value.args
        if not isinstance(value, ast.Call) or not isinstance(value.func, ast.Name):
            return None
        function = functions.get(value.func.id)
        # A function that is called again checks the same statements once more: there each call is a test.
        if function is None or function.decorator_list or self.uses[function.name] != 1:
            return None
        return function if function.name in self.failing and not _yields(function) else None

    def _is_test(self, statement: ast.stmt) -> bool:
        if isinstance(statement, ast.Assert):
            return _counts(statement)
        return self._asserts(statement, self.asserting) or self._raises(statement, self.failing)

    def _asserts(self, statement: ast.AST, known: Container[str]) -> bool:
        """Return whether an assert runs as part of `statement`, given the names of functions that assert."""
        for node in _own(statement):
            if isinstance(node, ast.Assert) and _counts(node):
                return True
            if isinstance(node, ast.Call):
                name = _last_name(node.func)
                if name in _EXPECT or name.lstrip("_").startswith("assert"):
                    return True
                if isinstance(node.func, ast.Name) and (name in known or name == "exec"):
                    return True
        return False

    def _raises(self, statement: ast.AST, known: Container[str]) -> bool:
        """Return whether `statement` may raise or exit on purpose, given the names of functions that may."""
        compound = not isinstance(statement, ast.Expr | ast.Assign | ast.AnnAssign | ast.AugAssign)
        for node in _own(statement):
            if isinstance(node, ast.Raise):
                return True
            if isinstance(node, ast.Expr) and isinstance(node.value, ast.Call):
                call = node.value
                if isinstance(call.func, ast.Name) and call.func.id in known:
                    return True
                if isinstance(call.func, ast.Attribute) and call.func.attr in known and call.func.attr[:4] == "test":
                    return True
                # `if f(2) != 2: sys.exit(1)`; by itself an exit is the end of the test code.
                if compound and _last_name(call.func) in _EXITS:
                    return True
        return False

    def _marked(self, statement: ast.stmt) -> ast.stmt:
        number = len(self.tests)
        self.tests.append(Test(node=statement))
        if isinstance(statement, (*_WITH, *_TRY)):
            _mark_checks(statement, number)
        return _wrapped(statement, TEST, number)

    def _collected(self) -> Iterator[Test]:
        definitions = [node for node in module_statements(self.tree.body) if isinstance(node, _DEFINITIONS)]
        classes = {node.name: node for node in definitions if isinstance(node, ast.ClassDef)}
        for node in definitions:
            if isinstance(node, ast.ClassDef):
                case = _is_test_case(node, classes)
                if case or (node.name.startswith("Test") and not _has_constructor(node) and not _opts_out(node)):
                    yield from self._methods(node, classes, "unittest" if case else "class")
            elif node.name.startswith("test") and not self.uses[node.name]:
                numbers = _parameter_sets(node.decorator_list)
                for number in range(numbers) if numbers is not None else [None]:
                    yield Test(node=node, kind="function", name=node.name, number=number)

    def _methods(self, node: ast.ClassDef, classes: dict[str, ast.ClassDef], kind: str) -> Iterator[Test]:
        seen: set[str] = set()
        waiting = [node]
        while waiting:
            each = waiting.pop(0)
            for method in each.body:
                if not isinstance(method, _FUNCTIONS) or not method.name.startswith("test") or method.name in seen:
                    continue
                seen.add(method.name)
                # Test code that calls the methods of its own class runs them by itself.
                if kind == "class" and method.name in self.looked_up:
                    continue
                if any(ast.unparse(one).startswith("unittest.skip(") for one in method.decorator_list):
                    continue
                marks = [*method.decorator_list, *node.decorator_list]
                numbers = _parameter_sets(marks) if kind == "class" else None
                for number in range(numbers) if numbers is not None else [None]:
                    yield Test(node=method, kind=kind, owner=node.name, name=method.name, number=number)
            bases = [base.id for base in each.bases if isinstance(base, ast.Name)]
            waiting.extend(classes[name] for name in bases if name in classes and classes[name] is not each)


def _closure(
    definitions: Sequence[ast.FunctionDef | ast.AsyncFunctionDef], fails: Callable[[ast.AST, set[str]], bool]
) -> set[str]:
    """Return the names of the functions for which `fails` holds, given the names found so far."""
    found: set[str] = set()
    waiting, before = list(definitions), -1
    while len(waiting) != before:
        before = len(waiting)
        for node in list(waiting):
            if any(fails(each, found) for each in node.body):
                found.add(node.name)
                waiting.remove(node)
    return found


def walk(node: ast.AST) -> Iterator[ast.AST]:
    """Yield a node and its descendants without constants, contexts and the items of long displays.

    Long displays are data, of which test code may hold megabytes.
    """
    waiting = [node]
    while waiting:
        each = waiting.pop()
        yield each
        waiting.extend(_children(each))


def _own(statement: ast.AST) -> Iterator[ast.AST]:
    """Yield as `walk` does, without the bodies of definitions in the statement, which run elsewhere."""
    waiting = [statement]
    while waiting:
        each = waiting.pop()
        if not isinstance(each, (*_DEFINITIONS, ast.Lambda)):
            yield each
            waiting.extend(_children(each))


def _children(node: ast.AST) -> list[ast.AST]:
    if isinstance(node, _DISPLAYS):
        return [] if len(node.elts) > _DATA_ITEMS else [each for each in node.elts if type(each) is not ast.Constant]
    children: list[ast.AST] = []
    for field in node._fields:
        value = getattr(node, field, None)
        if isinstance(value, list):
            children.extend([each for each in value if isinstance(each, ast.AST) and type(each) is not ast.Constant])
        elif isinstance(value, ast.AST) and not isinstance(value, _LEAVES):
            children.append(value)
    return children


@contextlib.contextmanager
def folded(*trees: ast.AST) -> Iterator[None]:
    """Empty long literals in trees for a while, except for a few items of each kind, so that searches are quick."""
    kept: list[tuple[Any, str, list[Any]]] = []
    for tree in trees:
        _fold(tree, kept)
    try:
        yield
    finally:
        for node, field, items in kept:
            setattr(node, field, items)


def _fold(node: ast.AST, kept: list[tuple[Any, str, list[Any]]]) -> bool:
    """Fold the literals in `node`; return whether it is a literal itself."""
    if isinstance(node, ast.Constant):
        return True
    if isinstance(node, _DISPLAYS):
        items = [each for each in node.elts if type(each) is not ast.Constant]
        literal = [_fold(each, kept) for each in items]
        if len(node.elts) > _FOLDED_ITEMS and all(literal):
            kept.append((node, "elts", node.elts))
            node.elts = [*node.elts[:2], *items[:2], node.elts[-1]]
        return all(literal)
    if isinstance(node, ast.Dict):
        literal = [each is not None and _fold(each, kept) for each in (*node.keys, *node.values)]
        if len(node.keys) > _FOLDED_ITEMS and all(literal):
            kept += [(node, "keys", node.keys), (node, "values", node.values)]
            node.keys, node.values = node.keys[:2], node.values[:2]
        return all(literal)
    literal = [_fold(each, kept) for each in ast.iter_child_nodes(node) if not isinstance(each, _CONTEXTS)]
    return isinstance(node, ast.UnaryOp) and all(literal)


def _last_name(function: ast.expr) -> str:
    if isinstance(function, ast.Attribute):
        return function.attr
    return function.id if isinstance(function, ast.Name) else ""


def _counts(node: ast.Assert) -> bool:
    # `assert True, "..."` says nothing about the program; `assert False` after a call that must raise does.
    return not (isinstance(node.test, ast.Constant) and node.test.value)


def _yields(function: ast.FunctionDef | ast.AsyncFunctionDef) -> bool:
    return any(isinstance(node, ast.Yield | ast.YieldFrom) for each in function.body for node in _own(each))


def parameters(function: ast.FunctionDef | ast.AsyncFunctionDef) -> list[str]:
    """Return the names of the positional parameters that have no default value."""
    names = [each.arg for each in (*function.args.posonlyargs, *function.args.args)]
    return names[: len(names) - len(function.args.defaults)]


def _runners(body: Sequence[ast.stmt]) -> frozenset[str]:
    """Return the names by which code may call the runners of collected tests."""
    found = set(_RUNNERS)
    for node in body:
        for alias in node.names if isinstance(node, ast.Import | ast.ImportFrom) else []:
            module = node.module if isinstance(node, ast.ImportFrom) else alias.name
            if module in ("unittest", "pytest") and alias.asname is not None and isinstance(node, ast.Import):
                found.add(f"{alias.asname}.main")
            elif module in ("unittest", "pytest") and alias.name == "main":
                found.add(alias.asname or alias.name)
    return frozenset(found)


def _is_runner(statement: ast.stmt, runners: frozenset[str]) -> bool:
    value = statement.value if isinstance(statement, ast.Expr) else None
    if isinstance(value, ast.Call) and _last_name(value.func) in _EXITS and len(value.args) == 1:
        [value] = value.args
    return isinstance(value, ast.Call) and ast.unparse(value.func) in runners


def _is_main_guard(statement: ast.stmt) -> bool:
    return isinstance(statement, ast.If) and ast.unparse(statement.test) in (
        "__name__ == '__main__'",
        "'__main__' == __name__",
    )


def _is_test_case(node: ast.ClassDef, classes: dict[str, ast.ClassDef]) -> bool:
    for base in node.bases:
        name = _last_name(base)
        if name.endswith("TestCase") and name not in classes:
            return True
        if (
            isinstance(base, ast.Name)
            and name in classes
            and name != node.name
            and _is_test_case(classes[name], classes)
        ):
            return True
    return False


def _has_constructor(node: ast.ClassDef) -> bool:
    return any(isinstance(each, ast.FunctionDef) and each.name == "__init__" for each in node.body)


def _opts_out(node: ast.ClassDef) -> bool:
    return any(ast.unparse(each) == "__test__ = False" for each in node.body)


def _parameter_sets(decorators: Sequence[ast.expr]) -> int | None:
    """Return the number of parameter sets that decorators list literally; None where there are none."""
    total = None
    for each in decorators:
        if not isinstance(each, ast.Call) or _last_name(each.func) != "parametrize":
            continue
        named = [one.value for one in each.keywords if one.arg == "argvalues"]
        values = next(iter([*each.args[1:2], *named]), None)
        if not isinstance(values, ast.List | ast.Tuple) or any(isinstance(one, ast.Starred) for one in values.elts):
            return None
        total = (total or 1) * len(values.elts)
    return total


def _mark_checks(statement: ast.stmt, number: int) -> None:
    """Wrap the asserts in blocks of `statement` that may swallow their exceptions in `with CHECK(number):`."""
    swallows = False
    if isinstance(statement, _WITH):
        swallows = not any(_last_name(_function(item.context_expr)) in _EXPECT for item in statement.items)
    elif isinstance(statement, _TRY):
        # A handler that names AssertionError expects a failure of the code inside.
        named = [ast.unparse(each.type) if each.type is not None else "" for each in statement.handlers]
        swallows = not any("AssertionError" in each for each in named)
    if not swallows:
        return
    body: list[ast.stmt] = statement.body  # type: ignore[attr-defined]
    for place, each in enumerate(body):
        if isinstance(each, (*_WITH, *_TRY)):
            _mark_checks(each, number)
        elif isinstance(each, ast.Assert) and _counts(each):
            body[place] = _wrapped(each, CHECK, number)


def _function(expression: ast.expr) -> ast.expr:
    return expression.func if isinstance(expression, ast.Call) else expression


def _wrapped(statement: ast.stmt, name: str, index: int) -> ast.stmt:
    function = ast.copy_location(ast.Name(id=name, ctx=ast.Load()), statement)
    number = ast.copy_location(ast.Constant(index), statement)
    call = ast.copy_location(ast.Call(func=function, args=[number], keywords=[]), statement)
    return ast.copy_location(ast.With(items=[ast.withitem(context_expr=call)], body=[statement]), statement)
