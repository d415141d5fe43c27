"""Decide how to run test code, and rewrite it so that each of its tests is counted and recorded separately.

`plan_tests` reads the text of the tests alone, so that a task is judged in the same way whatever a program does. It
marks the tests (see `tasks.tests`) and finds out whether they can run separate from the program (see
`tasks.separable`). Nothing is executed here.
"""

from __future__ import annotations

import ast
import builtins
import importlib.util
import re
import symtable
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from trl_pper.judge.worker.cases import BUILT_IN
from trl_pper.judge.worker.shared import CALLED, EQUAL, PROGRAM_MODULES, TEXT, SharedPlan
from trl_pper.tasks.scopes import CLASS_NAME, NotSeparable
from trl_pper.tasks.separable import Separable, check_separable
from trl_pper.tasks.syntax import UNREADABLE, why_unreadable
from trl_pper.tasks.tests import Test, folded, mark_tests, parameters, walk, why_no_test

#: Name in rewritten test code of a function that calls the program where the tests do not need the result itself.
OPERATION = "__pper_{}__"
#: Modules that the judge brings along for tests where they are not installed.
_SUPPLIED = frozenset(("pytest",))
_MAX_TEXT_CHARS = 200


class BadTests(ValueError):
    """An error: tests that say nothing about any program; the message says why."""


@dataclass(frozen=True, kw_only=True)
class TestPlan:
    """A module of test code, rewritten and ready to compile.

    Args:
        setup: The code before the tests.
        setup_alone: Whether the setup needs nothing of the program, and so fails by itself or not at all.
        tree: The rewritten test code.
        tests: The tests, in the order of their numbers.
        texts: For each test a short text for people.
        program_names: Global names that the test code uses without defining them; the program must define them.
        module_names: Members of `program_names` that are used as modules of the standard library.
        separable: What separate tests need to know; None for tests that run shared.
        reason: The reason why the tests run shared, or "".
    """

    __test__ = False

    setup: ast.Module
    setup_alone: bool
    tree: ast.Module
    tests: tuple[Test, ...]
    texts: tuple[str, ...]
    program_names: tuple[str, ...]
    # Bound to the real modules, so that a program cannot answer for `math.isclose`.
    module_names: frozenset[str]
    separable: Separable | None
    reason: str

    def shared(self, entry_point: str | None) -> SharedPlan:
        """Return the plan of shared tests for `worker.shared`, which runs them."""
        return SharedPlan(
            setup=compile_setup(self.setup),
            code=compile_tests(self.tree),
            collected=tuple((test.kind, test.owner, test.name, test.number) for test in self.tests),
            texts=self.texts,
            classes=frozenset(filter(CLASS_NAME.fullmatch, _called_names(self.tree))),
            entry_point=entry_point,
            uses_pytest="pytest" in set(_imported([*self.setup.body, *self.tree.body])),
        )


def compile_setup(tree: ast.Module) -> Any:
    """Compile the code before the tests."""
    return compile(tree, "setup.py", "exec", dont_inherit=True)


def compile_tests(tree: ast.Module) -> Any:
    """Compile rewritten test code."""
    return compile(tree, "tests.py", "exec", dont_inherit=True)


def plan_tests(code: str, *, setup: str = "", entry_point: str | None = None, run: str = "auto") -> TestPlan:
    """Decide how to run the tests in `code`, and mark them.

    Args:
        code: Test code, including the calls that start it.
        setup: Code that runs before `code`.
        entry_point: The function that the program must define: a name, or an expression such as `Solution().solve`.
        run: See `FunctionTests`.

    Raises:
        BadTests: The code is not Python, holds no test, imports a module that is missing, or cannot run as asked for.
    """
    # As in files, where Python skips a byte order mark.
    code, setup = code.removeprefix("\ufeff"), setup.removeprefix("\ufeff")
    try:
        tree, before = ast.parse(code, "tests.py"), ast.parse(setup, "setup.py")
        names = _program_names(tree, code, setup, entry_point)
    except UNREADABLE as error:
        raise BadTests(f"the test code cannot be read: {why_unreadable(error)}") from None
    with folded(tree, before):
        # An entry point called `random` or `string` is the program's function, not the module.
        modules = _used_as_modules(tree, _MODULES.intersection(names) - {entry_point})
        separable, reason = _decide(tree, before, names, modules, run)
        if separable is not None:
            for call, operation in separable.operations:
                _replace_call(call, OPERATION.format(operation))
        else:
            _guard(tree)
        tests = tuple(mark_tests(tree, entry_point))
        missing = next(_missing_modules([*before.body, *tree.body]), None)
        fixture = next(_missing_fixtures(tree, tests), None)
        ast.fix_missing_locations(tree)
    if separable is not None and any(test.is_collected for test in tests):
        if run == "separate":
            raise BadTests("run: tests that unittest or pytest collects cannot run separate from the program")
        # Calls were rewritten for separate tests, so the text is read again.
        return plan_tests(code, setup=setup, entry_point=entry_point, run="shared")
    if not tests:
        raise BadTests(why_no_test(tree))
    if missing is not None:
        raise BadTests(f"the tests need the module {missing}, which is not installed here")
    if fixture is not None:
        raise BadTests(f"the tests need the fixture {fixture}, which nothing supplies")
    # Columns of the tree count bytes of UTF-8. `splitlines` would also split at characters that do not end a line.
    lines = [line.encode() for line in re.split(r"\r\n|\r|\n", code)]
    return TestPlan(
        setup=before,
        setup_alone=bool(before.body) and not _needs_program(before, setup),
        tree=tree,
        tests=tests,
        texts=tuple(_text(test, lines)[:_MAX_TEXT_CHARS] for test in tests),
        program_names=names,
        module_names=modules,
        separable=separable,
        reason=reason,
    )


def _decide(
    tree: ast.Module, setup: ast.Module, names: Sequence[str], modules: frozenset[str], run: str
) -> tuple[Separable | None, str]:
    if run == "shared":
        return None, "the task asks for it"
    try:
        return check_separable(tree, setup, names, modules), ""
    except NotSeparable as error:
        reason = str(error)
    except RecursionError:
        reason = "the test code is nested too deep"
    if run == "separate":
        raise BadTests(f"run: the tests cannot run separate from the program: {reason}")
    return None, reason


def _replace_call(call: ast.Call, name: str) -> None:
    """Turn a call `f(x)` into `name(f, x)`."""
    call.args.insert(0, call.func)
    call.func = ast.copy_location(ast.Name(id=name, ctx=ast.Load()), call)


def _guard(tree: ast.Module) -> None:
    """Rewrite what an answer of a shared program would otherwise decide by itself: see `worker.shared`."""
    for node in list(walk(tree)):
        if isinstance(node, ast.Assert):
            node.test = _guarded(node.test)
        elif isinstance(node, ast.Call):
            function = node.func
            if isinstance(function, ast.Name) and function.id == "eval" and node.args:
                node.args[0] = _passed_to(TEXT, node.args[0])
            elif isinstance(function, ast.Attribute) and function.attr in ("format", "format_map"):
                if not isinstance(function.value, ast.Constant):
                    function.value = _passed_to(TEXT, function.value)
            name = function.id if isinstance(function, ast.Name) else getattr(function, "attr", "")
            if name in _CALL_FROM_ITERATORS and len(node.args) > 1 and not isinstance(node.args[0], ast.Starred):
                node.args[0] = _passed_to(CALLED, node.args[0])


#: Functions that return an iterator which calls its first argument, and ends when that raises StopIteration.
_CALL_FROM_ITERATORS = frozenset("map filter iter starmap takewhile dropwhile filterfalse".split())


def _guarded(node: ast.expr) -> ast.expr:
    """Return the condition of an assert with comparisons of calls with literals rewritten."""
    if isinstance(node, ast.BoolOp):
        node.values = [_guarded(each) for each in node.values]
    elif isinstance(node, ast.Compare) and len(node.ops) == 1 and isinstance(node.ops[0], ast.Eq):
        sides = [node.left, node.comparators[0]]
        for got, want in (sides, sides[::-1]):
            if isinstance(got, ast.Call) and _is_literal(want):
                call = ast.Call(func=ast.Name(id=EQUAL, ctx=ast.Load()), args=[got, want], keywords=[])
                return ast.copy_location(call, node)
    return node


def _passed_to(name: str, node: ast.expr) -> ast.expr:
    """Return a call of a guard with an expression of the tests."""
    call = ast.Call(func=ast.Name(id=name, ctx=ast.Load()), args=[node], keywords=[])
    return ast.copy_location(call, node)


def _is_literal(node: ast.expr) -> bool:
    if isinstance(node, ast.Constant):
        return node.value is not None and node.value is not Ellipsis
    if isinstance(node, ast.UnaryOp):
        return _is_literal(node.operand)
    return isinstance(node, ast.List | ast.Tuple | ast.Set | ast.Dict)


def _called_names(tree: ast.Module) -> set[str]:
    return {node.func.id for node in walk(tree) if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)}


def _imported(body: Sequence[ast.stmt]) -> Iterator[str]:
    """Yield the modules that imports at top level, or in functions, name."""
    for statement in body:
        for node in walk(statement):
            if isinstance(node, ast.Import):
                yield from (alias.name.partition(".")[0] for alias in node.names)
            elif isinstance(node, ast.ImportFrom) and node.module is not None and node.level == 0:
                yield node.module.partition(".")[0]


def _missing_modules(body: Sequence[ast.stmt]) -> Iterator[str]:
    """Yield the modules that the tests import for certain and that are not installed."""
    for name in _imported([node for node in body if isinstance(node, ast.Import | ast.ImportFrom)]):
        if name not in PROGRAM_MODULES | _SUPPLIED and importlib.util.find_spec(name) is None:
            yield name


def _missing_fixtures(tree: ast.Module, tests: Sequence[Test]) -> Iterator[str]:
    """Yield the parameters of collected functions that nothing supplies."""
    known = {"self", "cls", "request", *BUILT_IN}
    owners = {node.name: node.decorator_list for node in tree.body if isinstance(node, ast.ClassDef)}
    for node in walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            for each in node.decorator_list:
                if "fixture" in ast.unparse(each):
                    named = (
                        [one.value for one in each.keywords if one.arg == "name"] if isinstance(each, ast.Call) else []
                    )
                    known |= {node.name, *(str(one.value) for one in named if isinstance(one, ast.Constant))}
    for test in tests:
        if test.kind in ("function", "class") and isinstance(test.node, ast.FunctionDef | ast.AsyncFunctionDef):
            if any("mark" not in ast.unparse(each) for each in test.node.decorator_list):
                # Decorators such as `patch` and `given` supply parameters, too.
                continue
            given = {
                name.strip()
                for each in (*test.node.decorator_list, *owners.get(test.owner, []))
                if isinstance(each, ast.Call)
                for argument in (*each.args[:1], *(one.value for one in each.keywords if one.arg == "argnames"))
                for constant in ast.walk(argument)
                if isinstance(constant, ast.Constant) and isinstance(constant.value, str)
                for name in constant.value.split(",")
            }
            yield from (name for name in parameters(test.node) if name not in known | given)


def _text(test: Test, lines: Sequence[bytes]) -> str:
    """Return a text for people: the source of a statement, or the name of a collected test."""
    if test.is_collected:
        name = f"{test.owner}.{test.name}" if test.owner else test.name
        return name if test.number is None else f"{name}[{test.number}]"
    statement = test.node
    end_line, end = statement.end_lineno or statement.lineno, statement.end_col_offset
    text = [*lines[statement.lineno - 1 : end_line]]
    # The end first: both cuts may fall on the same line.
    text[-1] = text[-1][:end]
    text[0] = text[0][statement.col_offset :]
    return b"\n".join(text).decode("utf-8", "replace")


#: Names by which code reaches a program that its text does not name.
_DYNAMIC = frozenset("eval exec globals locals vars __main__ modules _getframe".split())


def _needs_program(tree: ast.Module, source: str) -> bool:
    """Return whether a setup may use what a program defines."""
    used, defined = _module_names(source)
    if any(name not in defined and not hasattr(builtins, name) for name in used):
        return True
    reached = {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)} | set(used)
    return not _DYNAMIC.isdisjoint(reached) or not PROGRAM_MODULES.isdisjoint(_imported(tree.body))


#: Modules of pure functions that test code may use without importing them.
_MODULES = frozenset(
    "bisect cmath collections copy datetime decimal fractions functools heapq itertools json math operator random re"
    " statistics string time typing".split()
)


def _used_as_modules(tree: ast.Module, modules: frozenset[str]) -> frozenset[str]:
    """Return the members of `modules` that the code uses, and uses only before a dot."""
    if not modules:
        return modules
    names = [node for node in ast.walk(tree) if isinstance(node, ast.Name) and node.id in modules]
    bases = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    return frozenset(node.id for node in names) - {node.id for node in names if id(node) not in bases}


def _program_names(tree: ast.Module, code: str, setup: str, entry_point: str | None) -> tuple[str, ...]:
    used, defined = _module_names(code)
    setup_used, setup_defined = _module_names(setup)
    defined |= setup_defined
    names = [name for name in (*setup_used, *used) if name not in defined and not hasattr(builtins, name)]
    if entry_point is not None:
        parsed = ast.parse(entry_point)
        root = next((node.id for node in ast.walk(parsed) if isinstance(node, ast.Name)), None)
        if root is None:
            raise ValueError(f"entry_point: must name what the program defines; got {entry_point!r:.80}")
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


#: Builtins that no task asks for.
_NEVER_ASKED = frozenset("eval exec compile globals locals vars dir open getattr setattr hasattr isinstance".split())


def _first_called(tree: ast.Module) -> str | None:
    """Return the name that the first assert calls, such as `sum` in `assert sum(1, 2) == 3`."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Assert):
            # Breadth first, so that the outermost call comes first.
            for inner in ast.walk(node.test):
                if (
                    isinstance(inner, ast.Call)
                    and isinstance(inner.func, ast.Name)
                    and inner.func.id not in _NEVER_ASKED
                ):
                    return inner.func.id
    return None
