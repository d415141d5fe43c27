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
from trl_pper.judge.limits import Limits
from trl_pper.judge.verdict import Verdict
from trl_pper.tasks.task import CodingTask, StdioTests, tests_to_json


@dataclass(frozen=True, kw_only=True)
class JudgedProgram:
    """A generated program with what was extracted from it and what the judge said.

    Args:
        task: What it was written for.
        generated: The completion and its log-probability.
        program: The program in the completion; it ran after the preamble of its task, if that has one.
        verdict: What the judge said.
        extracted: Whether there was a program in the completion; see `trl_pper.generation.extraction.extract`.
    """

    task: CodingTask
    generated: GeneratedProgram
    program: str
    verdict: Verdict
    extracted: bool = True


def task_identity(task: CodingTask) -> str:
    """Return what makes two tasks the same to a model, whatever their tests: a digest of task id, prompt and stops."""
    # Tasks without stops keep the digest that journals had before there were any; so for the preamble below.
    return digest([task.task_id, task.prompt, *([list(task.stop)] if task.stop else [])])


def judging_identity(task: CodingTask, limits: Limits) -> str | None:
    """Return what makes two verdicts comparable: a digest of the tests, of what a program may use and of the preamble.

    None for tests that compare with a function, of which nobody can tell whether it is still the same.
    """
    if isinstance(task.tests, StdioTests) and callable(task.tests.compare):
        return None
    preamble = [] if task.preamble is None else [task.preamble]
    return digest([tests_to_json(task.tests), limits.for_task(task).to_dict(), *preamble])


def digest(plain: Any) -> str:
    """Return 32 hexadecimal digits that stand for a value of plain types."""
    return hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()[:32]
