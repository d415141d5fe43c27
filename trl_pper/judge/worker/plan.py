"""Rewrite test code so that each of its tests is counted and recorded separately.

A test is a statement that holds an assert, at top level or in the body of a function that the top level calls, such
as HumanEval's `check`. Each test is wrapped in `with TEST(index):`. The context manager of that name records the
outcome and lets the next statement run. `plan_tests` also finds the names that the tests expect from the program.
Nothing is executed here.
"""

from __future__ import annotations

import ast
import builtins
import re
import symtable
from collections.abc import Sequence
from dataclasses import dataclass

from trl_pper.judge.wire.codec import CROSSING_MODULES
from trl_pper.tasks.tests import _wrap_module

#: Name of the function that replaces `is`: the referee cannot tell whether two handles stand for the same object of
#: the program, and `is` itself would answer that they do not.
SAME = "__pper_same__"


@dataclass(frozen=True, kw_only=True)
class TestPlan:
    """A module of test code, rewritten and ready to compile.

    Args:
        tree: The rewritten module.
        tests: The source text of each test, in source order.
        program_names: Global names that the test code uses without defining them; the program must define them.
        module_names: Members of `program_names` that are used as modules of the standard library.
        class_names: Names of the classes that the tests define; the value says whether the class holds nothing but
            attributes.
    """

    tree: ast.Module
    tests: tuple[str, ...]
    program_names: tuple[str, ...]
    # Bound to the real modules, so that a program cannot answer for `math.isclose`.
    module_names: frozenset[str]
    class_names: dict[str, bool]


def plan_tests(code: str, *, setup: str = "", entry_point: str | None = None) -> TestPlan:
    """Find and wrap the tests in `code`.

    Args:
        code: Test code, including the calls that start it.
        setup: Code that runs before `code`.
        entry_point: The function that the program must define: a name, or an expression such as `Solution().solve`.

    Raises:
        SyntaxError: `code` or `setup` is not Python.
    """
    tree = ast.parse(code, "tests.py")
    names = _program_names(tree, code, setup, entry_point)
    tests: list[ast.stmt] = []
    classes = _class_names([*ast.parse(setup).body, *tree.body])
    _wrap_module(tree, tests)
    # Columns of the tree count bytes of UTF-8. `splitlines` would also split at characters that do not end a line.
    lines = [line.encode() for line in re.split(r"\r\n|\r|\n", code)]
    texts = tuple(_text(statement, lines) for statement in tests)
    # The text is searched first: walking the tree of long test data is slow.
    tree = ast.fix_missing_locations(_Identity().visit(tree)) if " is " in code else tree
    # An entry point called `random` or `string` is the program's function, not the module.
    modules = _used_as_modules(tree, CROSSING_MODULES.intersection(names) - {entry_point})
    return TestPlan(tree=tree, tests=texts, program_names=names, module_names=modules, class_names=classes)


def _text(statement: ast.stmt, lines: Sequence[bytes]) -> str:
    """Return the source text of a statement."""
    end_line, end = statement.end_lineno or statement.lineno, statement.end_col_offset
    text = [*lines[statement.lineno - 1 : end_line]]
    # The end first: both cuts may fall on the same line.
    text[-1] = text[-1][:end]
    text[0] = text[0][statement.col_offset :]
    return b"\n".join(text).decode("utf-8", "replace")


class _Identity(ast.NodeTransformer):
    """A transformer that turns `a is b` into a call of SAME."""

    def visit_Compare(self, node: ast.Compare) -> ast.expr:
        self.generic_visit(node)
        sides = (node.left, *node.comparators)
        if len(sides) != 2 or not isinstance(node.ops[0], ast.Is | ast.IsNot):
            return node
        # No object of the program is a constant, so `is` answers rightly.
        if any(isinstance(side, ast.Constant) for side in sides):
            return node
        same = ast.Call(func=ast.Name(id=SAME, ctx=ast.Load()), args=list(sides), keywords=[])
        made = same if isinstance(node.ops[0], ast.Is) else ast.UnaryOp(op=ast.Not(), operand=same)
        return ast.copy_location(made, node)


def _used_as_modules(tree: ast.Module, modules: frozenset[str]) -> frozenset[str]:
    """Return the members of `modules` that the code uses, and uses only before a dot."""
    if not modules:
        return modules
    names = [node for node in ast.walk(tree) if isinstance(node, ast.Name) and node.id in modules]
    bases = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    return frozenset(node.id for node in names) - {node.id for node in names if id(node) not in bases}


#: Methods that a class may have and still hold nothing but attributes for a program, which only receives instances.
_ATTRIBUTES_ONLY = frozenset(("__init__", "__repr__", "__str__"))
_CLASS_MAKERS = frozenset(
    ("namedtuple", "NamedTuple", "Enum", "IntEnum", "StrEnum", "Flag", "IntFlag", "make_dataclass")
)


def _class_names(body: Sequence[ast.stmt]) -> dict[str, bool]:
    """Return the names of the classes that module-level statements define.

    The value says whether the class holds nothing but attributes.
    """
    names: dict[str, bool] = {}
    for node in body:
        if isinstance(node, ast.ClassDef):
            names[node.name] = _is_bare(node)
        elif isinstance(node, ast.Assign) and isinstance(node.value, ast.Call):
            function = node.value.func
            maker = function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")
            if maker in _CLASS_MAKERS:
                # Such a class has behaviour of its own, which its attributes alone do not carry over.
                names.update({target.id: False for target in node.targets if isinstance(target, ast.Name)})
    return names


def _is_bare(node: ast.ClassDef) -> bool:
    # A base or a decorator may add methods that this text does not show.
    if node.bases or node.keywords or node.decorator_list:
        return False
    return all(
        statement.name in _ATTRIBUTES_ONLY
        if isinstance(statement, ast.FunctionDef)
        else isinstance(statement, ast.Expr | ast.Pass | ast.AnnAssign)
        for statement in node.body
    )


def _program_names(tree: ast.Module, code: str, setup: str, entry_point: str | None) -> tuple[str, ...]:
    used, defined = _module_names(code)
    setup_used, setup_defined = _module_names(setup)
    defined |= setup_defined
    names = [name for name in (*setup_used, *used) if name not in defined and not hasattr(builtins, name)]
    if entry_point is not None:
        root = next(node.id for node in ast.walk(ast.parse(entry_point)) if isinstance(node, ast.Name))
        if root not in defined:
            names.append(root)
    elif not names and (shadowed := _first_called(tree)) is not None:
        # The tests use nothing but builtins, so the function under test must have the name of a builtin.
        names.append(shadowed)
    # A dict keeps the order, which a set would not.
    return tuple(dict.fromkeys(names))


def _module_names(source: str) -> tuple[list[str], set[str]]:
    """Return the global names that `source` uses, and the set of global names that it defines."""
    top = symtable.symtable(source, "tests.py", "exec")
    used: list[str] = []
    scopes = [top]
    while scopes:
        scope = scopes.pop()
        scopes.extend(scope.get_children())
        for symbol in scope.get_symbols():
            if symbol.is_referenced() and (scope is top or symbol.is_global()):
                used.append(symbol.get_name())
    defined = {symbol.get_name() for symbol in top.get_symbols() if symbol.is_assigned() or symbol.is_imported()}
    return used, defined | {"__name__", "__file__", "__doc__"}


def _first_called(tree: ast.Module) -> str | None:
    """Return the name that the first assert calls, such as `sum` in `assert sum(1, 2) == 3`."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Assert):
            # Breadth first, so that the outermost call comes first.
            for inner in ast.walk(node.test):
                if isinstance(inner, ast.Call) and isinstance(inner.func, ast.Name):
                    return inner.func.id
    return None
