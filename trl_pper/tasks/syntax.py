"""Parse Python source, trusted or not, answer questions about its syntax, and drop statements that are no part of it.

Nothing is ever run or compiled to bytecode. It does not promise that a program runs, before or after.
"""

from __future__ import annotations

import ast
import builtins
import io
import re
import symtable
import warnings
from collections.abc import Iterator, Sequence, Set
from importlib import import_module

_NAMES_NUMPY = re.compile(r"\b(?:np|numpy)\b")
_DEFINITIONS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
#: Statements whose names stay as they are.
_FIXED = (*_DEFINITIONS, ast.Import, ast.ImportFrom)
#: Parts of an expression that has no effect.
_IDLE = (
    *(ast.Name, ast.Constant, ast.Tuple, ast.List, ast.Attribute, ast.Starred, ast.UnaryOp, ast.BinOp, ast.Compare),
    *(ast.BoolOp, ast.unaryop, ast.operator, ast.cmpop, ast.boolop, ast.expr_context),
)
_BUILTIN = frozenset(dir(builtins)) | {"__file__"}
#: Names by which a program defines or changes names that its text does not show.
_DYNAMIC = frozenset({"exec", "eval", "globals", "locals", "vars", "setattr", "builtins", "__builtins__"})
#: Longer modules keep their trials, since every statement is compared with every other.
_MOST_STATEMENTS = 500
_TEST_RUNNERS = frozenset({"unittest", "doctest", "pytest"})
#: Modules whose names are looked up after `from module import *`. The modules come with Python and import quietly.
_STARRED = frozenset(
    "bisect cmath collections fractions functools heapq itertools math operator random re string sys typing".split()
)
_MAYBE_PROSE = (ast.Expr, ast.AnnAssign, ast.Assign, ast.Break, ast.Continue)
#: Expressions with an order or a scope of their own are code.
_CODE_ONLY = (ast.comprehension, ast.Lambda, ast.NamedExpr, ast.Await, ast.Yield, ast.YieldFrom)


#: Exceptions of Python's parser, and of passes over its trees, for a text that is no program: wrong syntax; null bytes
#: and lone surrogates; nesting too deep, for which the parser raises a MemoryError as well.
UNREADABLE = (SyntaxError, ValueError, RecursionError, MemoryError)


def why_unreadable(error: BaseException) -> str:
    """Return the reason why a text cannot be read, given an exception of `UNREADABLE`."""
    if isinstance(error, RecursionError | MemoryError):
        return f"it is nested too deep, or too long, for Python's parser ({type(error).__name__})"
    return str(error)


class Parser:
    """Python's parser with a budget: once it is spent, every further text counts as unparsable.

    The budget bounds the time that hostile or very long texts can take.

    Args:
        budget_chars: Number of characters that may be parsed in total.
    """

    def __init__(self, budget_chars: int) -> None:
        self.left_chars = budget_chars

    def parse(self, code: str) -> tuple[ast.Module | None, int]:
        """Parse `code`.

        Returns:
            The tree and 0; or None and the line, counted from 1, where the text stops being Python.
        """
        # Each call costs time even for an empty text.
        self.left_chars -= len(code) + 100
        if self.left_chars < 0:
            return None, 1
        try:
            return parse(code), 0
        except SyntaxError as error:
            return None, max(1, error.lineno or 1)
        except UNREADABLE:
            return None, 1


def parse(code: str) -> ast.Module:
    """Parse `code`, without warnings about invalid escapes."""
    with warnings.catch_warnings():
        # The texts are other people's programs; warnings about them are no use to the user.
        warnings.simplefilter("ignore")
        return ast.parse(code)


def parse_open(text: str, parser: Parser) -> ast.Module | None:
    """Parse code that may end where the body of a function has yet to follow, as prompts do.

    Returns:
        The tree, which holds a function or class; None when the text is not such code.
    """
    # A body on a new line, a body on the same line, or a value, as after `x = `.
    for closing in ("", f"\n{body_indent(text)}pass\n", " pass\n", "0\n"):
        tree = parser.parse(text + closing)[0]
        if tree is not None and any(isinstance(node, _DEFINITIONS) for node in tree.body):
            return tree
    return None


def body_indent(code: str) -> str:
    """Return the indentation of the next line of a body that `code` has begun or is about to begin."""
    last = next((line for line in reversed(code.split("\n")) if line.strip()), "")
    indent = last[: len(last) - len(last.lstrip())]
    # Four spaces where nothing is known: prompts and models follow PEP 8.
    return indent + "    " if last.rstrip().endswith(":") else indent or "    "


def with_preamble(program: str, preamble: str | None) -> str:
    """Return a program with `preamble` put before it, but after the program's `from __future__` imports.

    The line `import numpy as np` of a preamble is left out where nothing else names numpy.
    """
    if preamble is None:
        return program
    # Benchmarks supply numpy to all programs, few of which use it: its import takes longer than most of them, and it
    # need not be installed.
    others = preamble.replace("import numpy as np\n", "")
    if others != preamble and not _NAMES_NUMPY.search(others) and not _NAMES_NUMPY.search(program):
        preamble = others
    # A byte order mark is legal only at the very beginning of a file.
    head, body = "", program.removeprefix("\ufeff")
    # Python accepts future imports only at the beginning of a file.
    if "__future__" in program and (tree := Parser(2 * len(program) + 200).parse(body)[0]):
        # Python counts lines as files do. `str.splitlines` would also split at form feeds and U+2028.
        lines = io.StringIO(body, newline="").readlines()
        end = max((node.end_lineno or 0 for node in tree.body if _is_future(node)), default=0)
        head, body = "".join(lines[:end]), "".join(lines[end:])
    return f"{_ended(head)}{_ended(preamble)}{body}"


def definitions(tree: ast.Module, name: str) -> list[ast.stmt]:
    """Return the statements that define `name` in a module, in order, also inside `if`, `try` and loops."""
    return [statement for statement in module_statements(tree.body) if name in bound_names(statement)]


def bound_names(statement: ast.stmt) -> set[str]:
    """Return the names that a statement defines, imports or assigns."""
    if isinstance(statement, _DEFINITIONS):
        return {statement.name}
    if isinstance(statement, ast.Import | ast.ImportFrom):
        # `import a.b` binds the name `a`.
        return {(alias.asname or alias.name).partition(".")[0] for alias in statement.names}
    if isinstance(statement, ast.Assign):
        targets = [node for target in statement.targets for node in ast.walk(target)]
        return {node.id for node in targets if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)}
    if isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name) and statement.value:
        return {statement.target.id}
    return set()


def module_names(tree: ast.Module) -> set[str]:
    """Return the names that a module defines, imports or assigns."""
    return set().union(*map(bound_names, module_statements(tree.body)))


def global_names(code: str) -> tuple[set[str], set[str]]:
    """Return the names that a module binds, and the names of the module that it reads or changes, in functions too.

    Raises:
        SyntaxError: The code does not parse, or uses `global` or `nonlocal` in the wrong place.
    """
    bound, read = set[str](), set[str]()
    module = symtable.symtable(code, "program", "exec")
    tables = [module]
    while tables:
        table = tables.pop()
        tables += table.get_children()
        for symbol in table.get_symbols():
            if (table is module or symbol.is_declared_global()) and (symbol.is_assigned() or symbol.is_imported()):
                bound.add(symbol.get_name())
                read |= {symbol.get_name()} if table is not module else set()
            if (table is module or symbol.is_global()) and symbol.is_referenced():
                read.add(symbol.get_name())
    return bound, read


def is_stub(statement: ast.stmt) -> bool:
    """Return whether a function does nothing: its body holds only a docstring, `pass`, an ellipsis or bare names."""
    return isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef) and all(
        isinstance(part, ast.Pass) or _is_idle(part) for part in statement.body
    )


def is_idle(tree: ast.Module) -> bool:
    """Return whether a program does nothing: it consists of operations on names and constants, and of annotations."""
    # A word, a list item and a note such as `Time: O(n)` parse as such programs, so that prose would pass for code.
    return all(_is_idle(statement) for statement in tree.body)


def top_level_return(tree: ast.Module) -> int:
    """Return the line of the first `return` outside a function, or 0."""
    # The parser accepts such a `return`; only the compiler rejects it.
    return next(
        (statement.lineno for statement in module_statements(tree.body) if isinstance(statement, ast.Return)), 0
    )


def _is_future(statement: ast.stmt) -> bool:
    return isinstance(statement, ast.ImportFrom) and statement.module == "__future__"


def _ended(text: str) -> str:
    return text if not text or text.endswith("\n") else text + "\n"


def _is_idle(statement: ast.stmt) -> bool:
    if isinstance(statement, ast.AnnAssign):
        return statement.value is None
    return isinstance(statement, ast.Expr) and all(isinstance(node, _IDLE) for node in ast.walk(statement.value))


def module_statements(body: Sequence[ast.stmt]) -> Iterator[ast.stmt]:
    """Yield the statements of a module, also inside `if`, `try`, `with` and loops, but not inside definitions."""
    for statement in body:
        yield statement
        if isinstance(statement, ast.If | ast.Try | ast.With | ast.For | ast.While):
            for field in ("body", "orelse", "finalbody"):
                yield from module_statements(getattr(statement, field, []))
            for handler in getattr(statement, "handlers", []):
                yield from module_statements(handler.body)


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
        if entry_point is not None and len(body) <= _MOST_STATEMENTS:
            dropped |= _trials(tree, [statement for statement in body if statement not in dropped], entry_point)
    except UNREADABLE:
        # The symbol table is stricter than the parser, and as limited in depth.
        return program
    return _without(program, dropped, tree) if dropped else program


def _prose(body: Sequence[ast.stmt], tree: ast.Module, program: str, entry_point: str | None) -> set[ast.stmt]:
    suspects: list[ast.stmt] = [statement for statement in body if isinstance(statement, _MAYBE_PROSE)]
    if all(isinstance(each, ast.Expr) and isinstance(each.value, ast.Constant) for each in suspects):
        return set()
    bound, read = global_names(program)
    starred = _starred_names(tree)
    dropped = {statement for statement in suspects if _cannot_run(statement)}
    if starred is None or read & _DYNAMIC:
        return dropped
    known = _BUILTIN | bound | starred
    dropped |= {each for each in suspects if _evaluates_nothing_known(each, known)}
    # An assignment between other statements is a mistake of the program. Prose stands before or behind it.
    rest = [statement for statement in body if statement not in dropped]
    unread = known - read - {entry_point}
    return dropped | {each for each in (*rest[:1], *rest[-1:]) if _assigns_nothing_known(each, known, unread)}


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
        case ast.Expr(value=ast.Call(func=ast.Name(id="O"))):
            return "O" not in known
        case ast.Expr(value=ast.Call() as call):
            # A call of an unknown name is a mistake of the program, unless its arguments are unknown too.
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


def _trials(tree: ast.Module, body: Sequence[ast.stmt], entry_point: str) -> set[ast.stmt]:
    found = definitions(tree, entry_point)
    behind = [statement for statement in body if found and statement.lineno > (found[-1].end_lineno or 0)]
    if all(isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef) for statement in behind):
        return set()
    module = _Module(tree.body, entry_point)
    dropped = [statement for statement in behind if module.is_trial(statement)]
    # The input of a trial goes with it: nothing may be there to be read. The list grows while it is read.
    for trial in dropped:
        dropped += [each for each in behind if each not in dropped and module.is_input(each, trial, dropped)]
    return set(dropped)


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
        self._readers: dict[str, set[ast.stmt]] = {}
        for statement in body:
            bound, read = global_names(ast.unparse(statement))
            # Attributes of the entry point are state, such as a cache.
            read |= {name for name in map(_attribute_owner, ast.walk(statement)) if name == f"{entry_point}."}
            self._bound[statement], self._read[statement] = bound, read
            for name in bound:
                self._reads_of.setdefault(name, set()).update(read)
            for name in read:
                self._readers.setdefault(name, set()).add(statement)
        self._needed = self._reached(self._reads_of[entry_point]) | {entry_point}
        defined = set().union(*(bound_names(each) for each in body if isinstance(each, _FIXED)))
        self._state = (self._needed & set(self._reads_of) - defined) | _DYNAMIC | {f"{entry_point}."}

    def is_trial(self, statement: ast.stmt) -> bool:
        """Return whether a statement asserts or runs the entry point, which does not depend on the statement."""
        bound, read = self._bound[statement], self._read[statement]
        if isinstance(statement, ast.Assert):
            # Python itself leaves assertions out under `-O`.
            return True
        if bound & self._needed:
            return False
        if isinstance(statement, _FIXED):
            return bool((bound | read) & _TEST_RUNNERS)
        if isinstance(statement, ast.Assign | ast.AnnAssign) and not _calls(statement):
            # Another name of the entry point.
            return False
        reached = self._reached(read)
        return bool(reached & {self._entry_point, *_TEST_RUNNERS}) and not reached & self._state

    def is_input(self, statement: ast.stmt, trial: ast.stmt, trials: Sequence[ast.stmt]) -> bool:
        """Return whether a statement assigns names that a trial reads and that only trials read."""
        bound = self._bound[statement]
        if not bound & self._read[trial] or bound & self._needed:
            return False
        readers = set().union(*(self._readers.get(name, set()) for name in bound)) - {statement}
        return isinstance(statement, ast.Assign | ast.AnnAssign) and readers <= set(trials)

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


def _without(program: str, dropped: Set[ast.stmt], tree: ast.Module) -> str:
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
