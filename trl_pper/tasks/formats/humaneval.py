"""Read HumanEval and HumanEval+: the prompt opens a function, and `check(candidate)` or a list of inputs tests it.

Rows may come from OpenAI's edition, evalplus/humanevalplus, EvalPlus's own files, or data sets in the same layout,
such as LeetCodeDataset.
"""

from __future__ import annotations

import ast
import re

from trl_pper.tasks.formats.evalplus import expand_loop, input_tests
from trl_pper.tasks.formats.fields import (
    QUESTION_STOPS,
    Row,
    code_stops,
    identifier,
    optional_text,
    question_prompt,
    text,
)
from trl_pper.tasks.formats.test_code import called_name, check_function, tests_tree
from trl_pper.tasks.syntax import Parser
from trl_pper.tasks.task import CodingTask, FunctionTests


def humaneval_task(row: Row) -> CodingTask:
    """Build a task from a row with `test`, or with `base_input` and `plus_input`.

    Raises:
        ValueError: A field is missing or malformed; the message begins with its name.
    """
    prompt = text(row, "prompt")
    tests = _check_tests(row, prompt) if row.get("test") is not None else input_tests(row, given_by(row))
    # LeetCodeDataset has the columns of HumanEval, but its question in a column of its own.
    question = optional_text(row, "problem_description")
    if question is not None and row.get("starter_code") is not None:
        return _question_task(row, question, preamble=prompt, tests=tests)
    solution = optional_text(row, "canonical_solution")
    return CodingTask(
        task_id=identifier(row, "task_id"),
        prompt=prompt,
        tests=tests,
        difficulty=optional_text(row, "difficulty"),
        reference=prompt + solution if solution else None,
        stop=code_stops(tests.entry_point, opened=True),
    )


def _question_task(row: Row, question: str, *, preamble: str, tests: FunctionTests) -> CodingTask:
    """Return the task of a LeetCodeDataset row, where the prompt holds only imports and helpers for programs."""
    return CodingTask(
        task_id=identifier(row, "task_id"),
        prompt=question_prompt(question.strip(), starter_code=optional_text(row, "starter_code") or "", calls=True),
        tests=tests,
        difficulty=optional_text(row, "difficulty"),
        reference=optional_text(row, "completion"),
        stop=QUESTION_STOPS,
        preamble=preamble,
    )


def given_by(row: Row) -> str:
    """Return the code that a row's prompt defines for the tests; see `_given_definitions`."""
    return _given_definitions(text(row, "prompt"), text(row, "entry_point"))


def _check_tests(row: Row, prompt: str) -> FunctionTests:
    entry_point, code = check_function("entry_point", text(row, "entry_point")), text(row, "test")
    tree = tests_tree("test", code)
    if entry_point == "check":
        # The program's function and the tests' own have the same name.
        code = ast.unparse(_RenameCheck().visit(tree))
    setup = _given_definitions(prompt, entry_point)
    expanded = expand_loop(tree, entry_point)
    if expanded is not None:
        return FunctionTests(entry_point=entry_point, code=expanded.code, setup=setup + expanded.setup)
    # Some editions of the benchmark call `check` themselves; a second call would count every test twice.
    if not any(isinstance(node, ast.Expr) and called_name(node.value) in ("check", _CHECK) for node in tree.body):
        code = f"{code}\n\n{_CHECK if entry_point == 'check' else 'check'}({entry_point})\n"
    return FunctionTests(entry_point=entry_point, code=code, setup=setup)


_CHECK = "check_candidate"


class _RenameCheck(ast.NodeTransformer):
    """A transformer that gives the tests' own function `check` another name."""

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.FunctionDef:
        self.generic_visit(node)
        node.name = _CHECK if node.name == "check" else node.name
        return node


def _given_definitions(prompt: str, entry_point: str) -> str:
    """Return the finished definitions of a prompt with its imports, or "" when it defines nothing else."""
    parser = Parser(budget_chars=10**6)
    # Prompts end in an open function, with or without a docstring as its body.
    tree = parser.parse(prompt)[0] or parser.parse(f"{prompt}\n    pass\n")[0]
    body = tree.body if tree is not None else []
    # The program defines `Solution` where the entry point is `Solution().solve`.
    asked = re.split(r"\W", entry_point)[0]
    # HumanEval/32, 38 and 50 test a function with another one from the prompt, and tasks on linked lists supply
    # the class of a node. If the program's own versions were used, it could define them so that any answer passes.
    given = [
        node
        for node in body
        if isinstance(node, ast.Assign | ast.AnnAssign)
        or (isinstance(node, ast.FunctionDef | ast.ClassDef) and node.name != asked)
    ]
    if not given:
        return ""
    imports = [node for node in body if isinstance(node, ast.Import | ast.ImportFrom)]
    return "\n".join(ast.unparse(node) for node in [*imports, *given]) + "\n"
