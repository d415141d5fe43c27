"""Which programs pass the old tests of a task and fail the new ones.

Enters: amplified tasks and programs. Leaves: counts per task. Programs of tasks without new tests are judged by the
old ones alone; one that could not be judged counts as neither.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from trl_pper.amplify.tasks import AmplifiedTask
from trl_pper.judge import Judge
from trl_pper.task import CodingTask
from trl_pper.verdict import Verdict


@dataclass(frozen=True, kw_only=True)
class Exposure:
    """What new tests say of the programs of one task.

    Args:
        task_id: The task.
        programs: How many there are.
        passed_before: How many pass every old test.
        exposed: How many of these fail a new test.
        unjudged: How many of these the new tests could not be run on.
        verdicts: For each program what the new tests alone say; None for one that failed an old test.
    """

    task_id: str
    programs: int
    passed_before: int
    exposed: int
    unjudged: int
    verdicts: tuple[Verdict | None, ...]


def expose(
    before: Sequence[CodingTask],
    amplified: Sequence[AmplifiedTask],
    programs: Sequence[Sequence[str]],
    judge: Judge,
) -> list[Exposure]:
    """Judge programs by the old tests, and those that pass by the new ones.

    Args:
        before: The tasks as they were.
        amplified: What became of them, in the same order.
        programs: The programs of each.
        judge: Who runs them.
    """
    old = judge.run(list(zip(before, programs, strict=True)))
    passing = [
        [program for program, verdict in zip(some, verdicts, strict=True) if verdict.accepted]
        for some, verdicts in zip(programs, old, strict=True)
    ]
    jobs = [
        (replace(task, tests=one.added), some)
        for task, one, some in zip(before, amplified, passing, strict=True)
        if one.added is not None
    ]
    new = iter(judge.run(jobs))
    return [
        _exposure(task, verdicts, next(new) if one.added is not None else None)
        for task, one, verdicts in zip(before, amplified, old, strict=True)
    ]


def _exposure(task: CodingTask, old: Sequence[Verdict], new: Sequence[Verdict] | None) -> Exposure:
    found = iter(new if new is not None else ())
    verdicts = [next(found, None) if verdict.accepted else None for verdict in old]
    judged = [verdict for verdict in verdicts if verdict is not None]
    return Exposure(
        task_id=task.task_id,
        programs=len(old),
        passed_before=sum(verdict.accepted for verdict in old),
        exposed=sum(verdict.pass_rate is not None and not verdict.accepted for verdict in judged),
        unjudged=sum(verdict.pass_rate is None for verdict in judged),
        verdicts=tuple(verdicts),
    )
