"""Reads test code and rewrites it so that every test in it is counted and recorded on its own.

A test is a statement that holds an assert, at top level or in the body of a function such as HumanEval's `check` that
the top level calls. Each is wrapped in `with TEST(index):`, whose manager records the outcome and lets the next
statement run. Enters: source text. Leaves: a tree to compile and the names the tests expect from the program. Nothing
is executed here.
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

#: Name of the function that `is` becomes, since two objects of the program cannot be told apart here.
SAME = "__pper_same__"


@dataclass(frozen=True, kw_only=True)
class TestPlan:
    """Test code ready to run.

    Args:
        tree: The rewritten module.
        tests: The text of each test, in source order.
        program_names: Global names the test code uses without defining them.
        module_names: Those of them that are used as modules of the standard library. They are bound to the real
            module, so that a program cannot answer for `math.isclose`.
        class_names: Classes that the tests define; the value says whether one holds nothing but attributes.
    """

    tree: ast.Module
    tests: tuple[str, ...]
    program_names: tuple[str, ...]
    module_names: frozenset[str]
    class_names: dict[str, bool]


def plan_tests(code: str, *, setup: str = "", entry_point: str | None = None) -> TestPlan:
    """Find and wrap the tests in `code`.

    Args:
        code: Test code that calls itself.
        setup: Code that runs before it.
        entry_point: What the program must define: a name, or an expression such as `Solution().solve`.

    Raises:
        SyntaxError: `code` or `setup` is not Python.
    """
    tree = ast.parse(code, "tests.py")
    names = _program_names(tree, code, setup, entry_point)
    tests: list[ast.stmt] = []
    classes = _class_names([*ast.parse(setup).body, *tree.body])
    _wrap_module(tree, tests)
    lines = [line.encode() for line in re.split(r"\r\n|\r|\n", code)]
    texts = tuple(_text(statement, lines) for statement in tests)
    # The text is looked at first, as the tree may be long.
    tree = ast.fix_missing_locations(_Identity().visit(tree)) if " is " in code else tree
    modules = _used_as_modules(tree, CROSSING_MODULES.intersection(names) - {entry_point})
    return TestPlan(tree=tree, tests=texts, program_names=names, module_names=modules, class_names=classes)


def _text(statement: ast.stmt, lines: Sequence[bytes]) -> str:
    """Return the source text of a statement."""
    end_line, end = statement.end_lineno or statement.lineno, statement.end_col_offset
    text = [*lines[statement.lineno - 1 : end_line]]
    text[-1] = text[-1][:end]
    text[0] = text[0][statement.col_offset :]
    return b"\n".join(text).decode("utf-8", "replace")


class _Identity(ast.NodeTransformer):
    """Makes `a is b` a call of SAME, but for constants, which no object of the program is."""

    def visit_Compare(self, node: ast.Compare) -> ast.expr:
        self.generic_visit(node)
        sides = (node.left, *node.comparators)
        if len(sides) != 2 or not isinstance(node.ops[0], ast.Is | ast.IsNot):
            return node
        if any(isinstance(side, ast.Constant) for side in sides):
            return node
        same = ast.Call(func=ast.Name(id=SAME, ctx=ast.Load()), args=list(sides), keywords=[])
        made = same if isinstance(node.ops[0], ast.Is) else ast.UnaryOp(op=ast.Not(), operand=same)
        return ast.copy_location(made, node)


def _used_as_modules(tree: ast.Module, modules: frozenset[str]) -> frozenset[str]:
    """Return those of the names `modules` that are only ever followed by a dot."""
    if not modules:
        return modules
    names = [node for node in ast.walk(tree) if isinstance(node, ast.Name) and node.id in modules]
    bases = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    return frozenset(node.id for node in names) - {node.id for node in names if id(node) not in bases}


#: Methods that a class may have and still be nothing but its attributes to whoever did not make it.
_ATTRIBUTES_ONLY = frozenset(("__init__", "__repr__", "__str__"))
_CLASS_MAKERS = frozenset(
    ("namedtuple", "NamedTuple", "Enum", "IntEnum", "StrEnum", "Flag", "IntFlag", "make_dataclass")
)


def _class_names(body: Sequence[ast.stmt]) -> dict[str, bool]:
    """Return the classes that module-level statements define, each with whether it holds nothing but attributes."""
    names: dict[str, bool] = {}
    for node in body:
        if isinstance(node, ast.ClassDef):
            names[node.name] = _is_bare(node)
        elif isinstance(node, ast.Assign) and isinstance(node.value, ast.Call):
            function = node.value.func
            maker = function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")
            if maker in _CLASS_MAKERS:
                names.update({target.id: False for target in node.targets if isinstance(target, ast.Name)})
    return names


def _is_bare(node: ast.ClassDef) -> bool:
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
        # The tests name nothing but builtins: the program's function must be one that shadows a builtin.
        names.append(shadowed)
    return tuple(dict.fromkeys(names))


def _module_names(source: str) -> tuple[list[str], set[str]]:
    """Return the global names that `source` uses and those that it defines."""
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
    """Return the outermost name that the first assert calls, as in `assert sum(1, 2) == 3`."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Assert):
            for inner in ast.walk(node.test):
                if isinstance(inner, ast.Call) and isinstance(inner.func, ast.Name):
                    return inner.func.id
    return None
