"""Parse Python source, trusted or not, and answer questions about its syntax.

Nothing is ever run or compiled to bytecode.
"""

from __future__ import annotations

import ast
import io
import re
import warnings
from collections.abc import Iterator

_NAMES_NUMPY = re.compile(r"\b(?:np|numpy)\b")
_DEFINITIONS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)


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
        except (ValueError, RecursionError, MemoryError):  # Null bytes, lone surrogates, nesting too deep.
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
    return [statement for statement in _module_statements(tree.body) if name in bound_names(statement)]


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
    return set().union(*map(bound_names, _module_statements(tree.body)))


def is_stub(statement: ast.stmt) -> bool:
    """Return whether a function's body holds only a docstring, `pass` or an ellipsis."""
    return isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef) and all(
        isinstance(part, ast.Pass) or (isinstance(part, ast.Expr) and isinstance(part.value, ast.Constant))
        for part in statement.body
    )


def is_idle(tree: ast.Module) -> bool:
    """Return whether a program does nothing: it consists of bare names and constants."""
    # A single English word parses as such a program, so that prose would pass for code.
    return all(
        isinstance(statement, ast.Expr)
        and all(isinstance(node, ast.Name | ast.Constant | ast.Tuple | ast.expr_context) for node in _parts(statement))
        for statement in tree.body
    )


def top_level_return(tree: ast.Module) -> int:
    """Return the line of the first `return` outside a function, or 0."""
    # The parser accepts such a `return`; only the compiler rejects it.
    return next(
        (statement.lineno for statement in _module_statements(tree.body) if isinstance(statement, ast.Return)), 0
    )


def _is_future(statement: ast.stmt) -> bool:
    return isinstance(statement, ast.ImportFrom) and statement.module == "__future__"


def _ended(text: str) -> str:
    return text if not text or text.endswith("\n") else text + "\n"


def _parts(statement: ast.Expr) -> Iterator[ast.AST]:
    return ast.walk(statement.value)


def _module_statements(body: list[ast.stmt]) -> Iterator[ast.stmt]:
    for statement in body:
        yield statement
        if isinstance(statement, ast.If | ast.Try | ast.With | ast.For | ast.While):
            for field in ("body", "orelse", "finalbody"):
                yield from _module_statements(getattr(statement, field, []))
            for handler in getattr(statement, "handlers", []):
                yield from _module_statements(handler.body)
