"""The tasks whose programs took the judge longest: where a run's CPU time goes, and which limits to lower.

Enters: what a buffer holds. Leaves: one row of figures for each of the slowest tasks.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from trl_pper.report.content import OUTCOMES, Content
from trl_pper.verdict import Outcome

#: Tasks shown.
TASKS = 10


@dataclass(frozen=True, kw_only=True)
class SlowTask:
    """The CPU time of a task's programs; programs of unknown time do not count.

    Args:
        name: The task.
        programs: How many of its programs have a known time.
        cpu_seconds: What they used together.
        share: The same as a share of what all programs of the buffer used, in [0, 1].
        longest: What the slowest of them used, in seconds.
        timed_out: Share of them that ran out of time in some test, in [0, 1].
        pass_rate: Their mean pass rate, in [0, 1].
    """

    name: str
    programs: int
    cpu_seconds: float
    share: float
    longest: float
    timed_out: float
    pass_rate: float


def slowest_tasks(content: Content, count: int = TASKS) -> list[SlowTask]:
    """Return the tasks whose programs used most CPU time together, at most `count`, the slowest first.

    Tasks that are equally slow come in the order of their first program; those without any time are left out.
    """
    known = ~np.isnan(content.cpu_seconds)
    seconds = np.bincount(content.task[known], content.cpu_seconds[known], minlength=len(content.tasks))
    order = np.argsort(-seconds, kind="stable")[:count]
    return [_figures(content, int(task), float(seconds.sum())) for task in order if seconds[task] > 0]


def _figures(content: Content, task: int, total: float) -> SlowTask:
    chosen = (content.task == task) & ~np.isnan(content.cpu_seconds)
    seconds = content.cpu_seconds[chosen]
    return SlowTask(
        name=content.tasks[task],
        programs=int(chosen.sum()),
        cpu_seconds=float(seconds.sum()),
        share=float(seconds.sum()) / total,
        longest=float(seconds.max()),
        timed_out=float((content.worst[chosen] == OUTCOMES.index(Outcome.TIMEOUT)).mean()),
        pass_rate=float(content.pass_rates[chosen].mean()),
    )
