"""MBPP and MBPP+: a sentence and asserts, or a script with a loop over many inputs.

Enters: rows of the full edition (`text`), the sanitized one (`prompt`) or evalplus/mbppplus (`prompt`, `test`).
Leaves: tasks.
"""

from __future__ import annotations

import ast

from trl_pper.tasks.formats.evalplus import expand_loop
from trl_pper.tasks.formats.fields import Row, code_stops, identifier, numbered, optional_text, text, texts, unix
from trl_pper.tasks.formats.test_code import infer_entry_point, tests_tree
from trl_pper.tasks.syntax import Parser
from trl_pper.tasks.task import CodingTask, FunctionTests


def mbpp_task(row: Row) -> CodingTask:
    """Build a task from a row.

    The prompt is a module docstring with the text and the asserts, as base models complete it: without the asserts no
    model could know the function's name. Imports that come with the tests stand before programs too, as they do for
    whoever runs program and tests in one file.

    Raises:
        ValueError: A field is missing or malformed; the message begins with its name.
    """
    question = text(row, "prompt" if row.get("text") is None else "text")
    asserts = [unix(test).strip() for test in texts(row, "test_list")]
    setup = unix(optional_text(row, "test_setup_code") or "\n".join(texts(row, "test_imports", required=False)))
    code = "\n".join(asserts)
    tests_tree("test_list", code)
    described = f"{unix(question).strip()}\n{code}".replace("\\", "\\\\").replace('"""', '\\"\\"\\"')
    reference = optional_text(row, "code")
    entry_point = infer_entry_point(code, setup=setup, reference=reference or "")
    tests = FunctionTests(entry_point=entry_point, code=code, setup=setup)
    return CodingTask(
        task_id=numbered("MBPP", identifier(row, "task_id")),
        prompt=f'"""\n{described}\n"""\n',
        stop=code_stops(entry_point, opened=False),
        preamble=setup if _is_imports(setup) else None,
        tests=_script_tests(row, entry_point) or tests,
        reference=unix(reference) if reference else None,
    )


def _is_imports(code: str) -> bool:
    body = tree.body if (tree := Parser(2 * len(code) + 200).parse(code)[0]) else []
    return bool(body) and all(isinstance(node, ast.Import | ast.ImportFrom) for node in body)


def _script_tests(row: Row, entry_point: str | None) -> FunctionTests | None:
    """Return the tests of MBPP+, which hold those of `test_list` among many more, or None without a script of asserts.

    The script of MBPP+/794 compares and asserts nothing: every program would pass it.
    """
    code = unix(optional_text(row, "test") or "")
    if "assert " not in code:
        return None
    return expand_loop(tests_tree("test", code), entry_point) or FunctionTests(entry_point=entry_point, code=code)
