"""Read MBPP and MBPP+: a sentence with asserts, or a script with a loop over many inputs.

Rows may come from the full edition (`text`), the sanitized edition (`prompt`) or evalplus/mbppplus (`prompt`, `test`).
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

    The prompt is a module docstring with the text and the asserts. Imports that come with the tests become the
    preamble.

    Raises:
        ValueError: A field is missing or malformed; the message begins with its name.
    """
    question = text(row, "prompt" if row.get("text") is None else "text")
    asserts = [unix(test).strip() for test in texts(row, "test_list")]
    setup = unix(optional_text(row, "test_setup_code") or "\n".join(texts(row, "test_imports", required=False)))
    code = "\n".join(asserts)
    tests_tree("test_list", code)
    # Without the asserts the model could not know the function's name. The escapes keep the docstring valid.
    described = f"{unix(question).strip()}\n{code}".replace("\\", "\\\\").replace('"""', '\\"\\"\\"')
    reference = optional_text(row, "code")
    entry_point = infer_entry_point(code, setup=setup, reference=reference or "")
    tests = FunctionTests(entry_point=entry_point, code=code, setup=setup)
    return CodingTask(
        task_id=numbered("MBPP", identifier(row, "task_id")),
        prompt=f'"""\n{described}\n"""\n',
        stop=code_stops(entry_point, opened=False),
        # Most harnesses run program and tests in a single file, so that programs may rely on the tests'
        # imports.
        preamble=setup if _is_imports(setup) else None,
        tests=_script_tests(row, entry_point) or tests,
        reference=unix(reference) if reference else None,
    )


def _is_imports(code: str) -> bool:
    body = tree.body if (tree := Parser(2 * len(code) + 200).parse(code)[0]) else []
    return bool(body) and all(isinstance(node, ast.Import | ast.ImportFrom) for node in body)


def _script_tests(row: Row, entry_point: str | None) -> FunctionTests | None:
    """Return the tests of MBPP+, a superset of `test_list`; None when the row has no script with asserts."""
    code = unix(optional_text(row, "test") or "")
    # The script of MBPP+/794 compares without asserting: every program would pass.
    if "assert " not in code:
        return None
    return expand_loop(tests_tree("test", code), entry_point) or FunctionTests(entry_point=entry_point, code=code)
