"""Read ClassEval and BigCodeBench, whose tests are classes of unittest: a class to complete, or a function to write.

Rows may come from FudanSELab/ClassEval and from bigcode/bigcodebench. Each method that unittest would run is a test.
Many rows need libraries: a task whose library is not installed is unsupported, and its verdict names the library.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterable

from trl_pper.tasks.formats.fields import (
    QUESTION_STOPS,
    Row,
    code_stops,
    identifier,
    optional_text,
    parsed,
    question_prompt,
    sequence,
    text,
    texts,
)
from trl_pper.tasks.formats.test_code import check_function
from trl_pper.tasks.syntax import UNREADABLE, Parser, parse, why_unreadable
from trl_pper.tasks.task import CodingTask, FunctionTests


def classeval_task(row: Row) -> CodingTask:
    """Build a task from a row of ClassEval.

    Raises:
        ValueError: A field is missing or malformed; the message begins with its name.
    """
    name = check_function("class_name", text(row, "class_name"))
    imports = _lines(texts(row, "import_statement", required=False))
    solution = optional_text(row, "solution_code")
    return CodingTask(
        task_id=identifier(row, "task_id"),
        prompt=question_prompt(
            f"Complete the class {name}.", starter_code=text(row, "skeleton").strip("\n"), calls=True
        ),
        tests=_unittest(text(row, "test"), entry_point=name, libraries=_imported(imports)),
        reference=f"{imports}{solution}" if solution else None,
        stop=QUESTION_STOPS,
        preamble=imports or None,
    )


def big_code_bench_task(row: Row) -> CodingTask:
    """Build a task from a row of BigCodeBench; its prompt is `complete_prompt`.

    Raises:
        ValueError: A field is missing or malformed; the message begins with its name.
    """
    name = check_function("entry_point", text(row, "entry_point"))
    code_prompt, solution = optional_text(row, "code_prompt"), optional_text(row, "canonical_solution")
    given = (code_prompt or text(row, "complete_prompt")).partition(f"def {name}(")[0].strip("\n")
    named = sequence(parsed(row, "libs"), "libs") if row.get("libs") else ()
    return CodingTask(
        task_id=identifier(row, "task_id"),
        prompt=text(row, "complete_prompt"),
        tests=_unittest(text(row, "test"), entry_point=name, libraries=[*map(str, named), *_imported(given)]),
        reference=f"{code_prompt}{solution}" if code_prompt and solution else None,
        stop=code_stops(name, opened=True),
        # The benchmark's grader puts the code above the function before every program as well.
        preamble=_lines([given]) or None,
    )


def _unittest(code: str, *, entry_point: str, libraries: Iterable[str]) -> FunctionTests:
    """Return the tests of unittest classes, which cannot be judged where one of the libraries is missing."""
    try:
        tree = parse(code)
    except UNREADABLE as error:
        raise ValueError(f"test: must be Python test code; got {why_unreadable(error)}") from error
    methods = [
        method
        for node in tree.body
        if isinstance(node, ast.ClassDef)
        for method in node.body
        if isinstance(method, ast.FunctionDef | ast.AsyncFunctionDef) and method.name.startswith("test")
    ]
    if not methods:
        raise ValueError("test: a task needs at least one test; no class of the test code has a method test*")
    needed = dict.fromkeys(name.partition(".")[0] for name in libraries)
    # An import that the setup needs: a missing module makes the task unsupported, and no program is blamed. The names
    # cannot replace those of the program.
    setup = [
        f"import {name} as _needed_{name}"
        for name in needed
        if name.isidentifier() and name not in sys.stdlib_module_names
    ]
    return FunctionTests(code=code, entry_point=entry_point, setup=_lines(setup))


def _imported(code: str) -> list[str]:
    """Return the modules that code imports at top level; none for code that is not Python."""
    tree = Parser(2 * len(code) + 200).parse(code)[0]
    found: list[str] = []
    for node in tree.body if tree is not None else ():
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module is not None and node.level == 0:
            found.append(node.module)
    return found


def _lines(statements: Iterable[str]) -> str:
    return "".join(f"{statement}\n" for statement in statements if statement.strip())
