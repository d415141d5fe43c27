"""A judged program: what a model wrote for a task, the program in it, and what the judge said.

Enters: a generated program and its verdict. Leaves: a frozen record. An experience is made of one that has a pass
rate; one without is kept in the journal alone.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import Any

from trl_pper.generation.source import GeneratedProgram
from trl_pper.judge import Limits
from trl_pper.task import CodingTask, StdioTests, tests_to_json
from trl_pper.verdict import Verdict


@dataclass(frozen=True, kw_only=True)
class JudgedProgram:
    """A generated program with what was extracted from it and what the judge said.

    Args:
        task: What it was written for.
        generated: The completion and its log-probability.
        program: The program in the completion, the one that ran.
        verdict: What the judge said.
    """

    task: CodingTask
    generated: GeneratedProgram
    program: str
    verdict: Verdict


def task_identity(task: CodingTask) -> str:
    """Return what makes two tasks the same to a model, whatever their tests: a digest of task id and prompt."""
    return digest([task.task_id, task.prompt])


def judging_identity(task: CodingTask, limits: Limits) -> str | None:
    """Return what makes two verdicts comparable: a digest of the tests and of what a program may use.

    None for tests that compare with a function, of which nobody can tell whether it is still the same.
    """
    if isinstance(task.tests, StdioTests) and callable(task.tests.compare):
        return None
    return digest([tests_to_json(task.tests), limits.for_task(task).to_dict()])


def digest(plain: Any) -> str:
    """Return 32 hexadecimal digits that stand for a value of plain types."""
    return hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()[:32]
