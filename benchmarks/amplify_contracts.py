"""EvalPlus' contracts as tests: whether the inputs of added tests are some that a function has to take.

Enters: amplified tasks and the contract of each. Leaves: for each task one test per input, and the program that checks
its contract, so that it runs inside the judge like any other.
"""

from __future__ import annotations

import ast
from collections.abc import Mapping, Sequence

from trl_pper import FunctionTests
from trl_pper.amplify.calls import test_calls, write
from trl_pper.amplify.tasks import AmplifiedTask
from trl_pper.tasks.task import CodingTask


def contract_tasks(
    amplified: Sequence[AmplifiedTask], contracts: Mapping[str, str]
) -> dict[str, tuple[CodingTask, str]]:
    """Return, by task id, a task whose tests are inputs and the program that passes those within the contract."""
    found = {}
    for one in amplified:
        if isinstance(one.added, FunctionTests) and one.task.task_id in contracts:
            name = str(one.added.entry_point)
            calls = test_calls(one.added)
            assert len(calls) == one.added_tests
            lines = [f"assert {name}({', '.join(map(write, call.arguments))}) == 'allowed'" for call in calls]
            tests = FunctionTests(entry_point=name, code="\n".join(lines) + "\n")
            task = CodingTask(task_id=one.task.task_id, prompt=one.task.prompt, tests=tests)
            found[one.task.task_id] = (task, checking_program(str(one.task.prompt), name, contracts[one.task.task_id]))
    return found


def checking_program(prompt: str, name: str, contract: str) -> str:
    """Return a program whose function has the contract for its body."""
    tree = ast.parse(f"{prompt}\n    pass\n")
    for node in tree.body:
        if isinstance(node, ast.FunctionDef) and node.name == name:
            checks = ast.parse(f"def body():\n{contract}\n    return 'allowed'\n").body[0]
            assert isinstance(checks, ast.FunctionDef)
            node.body = checks.body
    return ast.unparse(tree)
