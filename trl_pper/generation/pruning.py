"""Drop prose that parses, and trials of the finished function, from a program.

Only whole statements at the level of the module are dropped; the other lines stay as they were written. It does not
promise that the program that is left runs.
"""

from __future__ import annotations

import ast
import builtins
import io
from collections.abc import Sequence, Set
from importlib import import_module

from trl_pper.tasks.syntax import Parser, definitions, global_names

_BUILTIN = frozenset(dir(builtins)) | {"__file__"}
#: Names by which a program defines or changes names that its text does not show.
_DYNAMIC = frozenset({"exec", "eval", "globals", "locals", "vars", "setattr", "builtins", "__builtins__"})
_TEST_RUNNERS = frozenset({"unittest", "doctest", "pytest"})
#: Modules whose names are looked up after `from module import *`. The modules come with Python and import quietly.
_STARRED = frozenset(
    "bisect cmath collections fractions functools heapq itertools math operator random re string sys typing".split()
)
_MAYBE_PROSE = (ast.Expr, ast.AnnAssign, ast.Assign, ast.Break, ast.Continue)
_DEFINITIONS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Import, ast.ImportFrom)
#: Expressions with an order or a scope of their own are code.
_CODE_ONLY = (ast.comprehension, ast.Lambda, ast.NamedExpr, ast.Await, ast.Yield, ast.YieldFrom)


def prune(program: str, parser: Parser, *, entry_point: str | None = None, given: str = "") -> str:
    r"""Return a program without prose that parses and without trials of its function.

    Prose is a statement that has no effect and evaluates names that nothing defines. A trial is a statement behind the
    last definition of the entry point that asserts or runs it, and on which the entry point does not depend.

    Args:
        program: The program; it stays as it is if it does not parse.
        parser: A parser with a budget.
        entry_point: The name that the program must define; None keeps all trials.
        given: The lines at the beginning of the program that stay.

    Examples:
        >>> prune("print(1)\nComplexity: O(n)\n", Parser(1000))
        'print(1)\n'
        >>> prune("def f(x):\n    return x\nassert f(1) == 2\n", Parser(1000), entry_point="f")
        'def f(x):\n    return x\n'
    """
    tree = parser.parse(program)[0]
    if tree is None:
        return program
    # The completion may begin in the middle of a line.
    given_lines = given.count("\n") + (given[-1:] not in ("", "\n"))
    body = [statement for statement in tree.body if statement.lineno > given_lines]
    try:
        dropped = _prose(body, tree, program, entry_point)
        if entry_point is not None:
            dropped += _trials(tree, [statement for statement in body if statement not in dropped], entry_point)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        # The symbol table is stricter than the parser, and as limited in depth.
        return program
    return _without(program, dropped, tree) if dropped else program


def _prose(body: Sequence[ast.stmt], tree: ast.Module, program: str, entry_point: str | None) -> list[ast.stmt]:
    suspects: list[ast.stmt] = [statement for statement in body if isinstance(statement, _MAYBE_PROSE)]
    if all(isinstance(each, ast.Expr) and isinstance(each.value, ast.Constant) for each in suspects):
        return []
    bound, read = global_names(program)
    starred = _starred_names(tree)
    dropped = [statement for statement in suspects if _cannot_run(statement)]
    if starred is None or read & _DYNAMIC:
        return dropped
    known = _BUILTIN | bound | starred
    dropped += [each for each in suspects if each not in dropped and _evaluates_nothing_known(each, known)]
    # An assignment between other statements is a mistake of the program. Prose stands before or behind it.
    rest = [statement for statement in body if statement not in dropped]
    unread = known - read - {entry_point}
    return dropped + [each for each in {*rest[:1], *rest[-1:]} if _assigns_nothing_known(each, known, unread)]


def _cannot_run(statement: ast.stmt) -> bool:
    """Return whether a statement is no code whatever its names mean: a word, a list item, or a note behind a colon."""
    match statement:
        case ast.Expr(value=ast.Starred()) | ast.Break() | ast.Continue():
            return True
        case ast.AnnAssign(value=None, annotation=annotation):
            types = (ast.Name, ast.Attribute, ast.Subscript, ast.BinOp)
            text = isinstance(annotation, ast.Constant) and isinstance(annotation.value, str | None)
            return not text and not isinstance(annotation, types)
    return False


def _evaluates_nothing_known(statement: ast.stmt, known: Set[str]) -> bool:
    match statement:
        case ast.Expr(value=ast.Call() as call):
            # A call of an unknown name is a mistake of the program, unless its arguments are unknown too: `O(n)`.
            return bool(call.args) and all(_is_unknown(part, known, entirely=True) for part in (call, *call.args))
        case ast.Expr(value=part) | ast.AnnAssign(value=None, annotation=part):
            return _is_unknown(part, known)
    return False


def _assigns_nothing_known(statement: ast.stmt, known: Set[str], unread: Set[str]) -> bool:
    match statement:
        case ast.AnnAssign(target=ast.Name(id=target), annotation=annotation):
            return target in unread and _is_unknown(annotation, known)
        case ast.Assign(targets=[ast.Name(id=target)], value=value):
            return target in unread and _is_unknown(value, known, entirely=True)
    return False


def _is_unknown(expression: ast.expr, known: Set[str], *, entirely: bool = False) -> bool:
    """Return whether an expression evaluates unknown names, or them alone, and calls nothing that is known."""
    nodes = list(ast.walk(expression))
    names = {node.id for node in nodes if isinstance(node, ast.Name)}
    callees = [node.func for node in nodes if isinstance(node, ast.Call)]
    return (
        not any(isinstance(node, _CODE_ONLY) for node in nodes)
        and bool(names - known if not entirely else names and not names & known)
        and all(isinstance(callee, ast.Name) and callee.id not in known for callee in callees)
    )


def _trials(tree: ast.Module, body: Sequence[ast.stmt], entry_point: str) -> list[ast.stmt]:
    found = definitions(tree, entry_point)
    behind = [statement for statement in body if found and statement.lineno > (found[-1].end_lineno or 0)]
    if all(isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef) for statement in behind):
        return []
    module = _Module(tree.body, entry_point)
    dropped = [statement for statement in behind if module.is_trial(statement)]
    # The input of a trial goes with it: nothing else may be there to be read.
    while more := [each for each in behind if each not in dropped and module.is_input_of(each, dropped)]:
        dropped += more
    return dropped


class _Module:
    """The names that each statement of a module defines and reads, and the names on which the entry point depends.

    Args:
        body: The statements of the module.
        entry_point: The name of the function or class that the tests use.
    """

    def __init__(self, body: Sequence[ast.stmt], entry_point: str) -> None:
        self._entry_point = entry_point
        self._bound: dict[ast.stmt, set[str]] = {}
        self._read: dict[ast.stmt, set[str]] = {}
        self._reads_of: dict[str, set[str]] = {}
        for statement in body:
            bound, read = global_names(ast.unparse(statement))
            # Attributes of the entry point are state, such as a cache.
            read |= {name for name in map(_attribute_owner, ast.walk(statement)) if name == f"{entry_point}."}
            self._bound[statement], self._read[statement] = bound, read
            for name in bound:
                self._reads_of.setdefault(name, set()).update(read)
        self._needed = self._reached(self._reads_of[entry_point]) | {entry_point}
        defined = set().union(*(self._bound[each] for each in body if isinstance(each, _DEFINITIONS)))
        self._state = (self._needed & set(self._reads_of) - defined) | _DYNAMIC | {f"{entry_point}."}

    def is_trial(self, statement: ast.stmt) -> bool:
        """Return whether a statement asserts or runs the entry point, which does not depend on the statement."""
        bound, read = self._bound[statement], self._read[statement]
        if isinstance(statement, ast.Assert):
            # Python itself leaves assertions out under `-O`.
            return True
        if bound & self._needed:
            return False
        if isinstance(statement, _DEFINITIONS):
            return bool((bound | read) & _TEST_RUNNERS)
        if isinstance(statement, ast.Assign | ast.AnnAssign) and not _calls(statement):
            # Another name of the entry point.
            return False
        reached = self._reached(read)
        return bool(reached & {self._entry_point, *_TEST_RUNNERS}) and not reached & self._state

    def is_input_of(self, statement: ast.stmt, trials: Sequence[ast.stmt]) -> bool:
        """Return whether a statement assigns names that only trials read."""
        bound = self._bound[statement]
        if not isinstance(statement, ast.Assign | ast.AnnAssign) or bound & self._needed:
            return False
        others = set().union(*(read for each, read in self._read.items() if each not in trials))
        return any(bound & self._read[trial] for trial in trials) and not bound & others

    def _reached(self, names: Set[str]) -> set[str]:
        """Return the names that the definitions of `names` read in turn, but not through the entry point."""
        reached, open_names = set(names), list(names)
        while open_names:
            name = open_names.pop()
            new = self._reads_of.get(name, set()) - reached if name != self._entry_point else set()
            reached |= new
            open_names += new
        return reached


def _starred_names(tree: ast.Module) -> set[str] | None:
    """Return the names that `import *` brings; None if its module is not known."""
    modules = {
        statement.module
        for statement in ast.walk(tree)
        if isinstance(statement, ast.ImportFrom) and any(alias.name == "*" for alias in statement.names)
    }
    if not modules <= _STARRED:
        return None
    return {name for module in modules if module for name in dir(import_module(module))}


def _attribute_owner(node: ast.AST) -> str | None:
    return f"{node.value.id}." if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) else None


def _calls(statement: ast.stmt) -> bool:
    return any(isinstance(node, ast.Call) for node in ast.walk(statement))


def _without(program: str, dropped: Sequence[ast.stmt], tree: ast.Module) -> str:
    # Python counts lines as files do. `str.splitlines` would also split at form feeds and U+2028.
    lines = io.StringIO(program, newline="").readlines()
    kept_lines = {line for each in tree.body if each not in dropped for line in _lines(each)}
    cut = {line for each in dropped for line in _lines(each)} - kept_lines
    text = "".join(line for number, line in enumerate(lines, 1) if number not in cut)
    if tree.body[0] in dropped:
        text = text.lstrip("\n")
    return text.rstrip() + "\n" if tree.body[-1] in dropped else text


def _lines(statement: ast.stmt) -> range:
    first = min([statement.lineno, *(each.lineno for each in getattr(statement, "decorator_list", []))])
    return range(first, (statement.end_lineno or first) + 1)
