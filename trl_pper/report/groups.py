"""Compute the scores of groups of programs, by source, scorer or round, and find the slowest tasks.

Slow tasks show where a run's CPU time goes, and which limits to lower.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from trl_pper.judge.verdict import Outcome
from trl_pper.report.content import OUTCOMES, Content, worst_outcomes

#: Largest number of groups shown; the smallest, or the earliest rounds, are combined.
GROUPS = 20


@dataclass(frozen=True, kw_only=True)
class Group:
    """A group of programs.

    Args:
        name: Common property of the programs.
        programs: Number of programs.
        held: Fraction of the buffer's programs, in [0, 1].
        drawn: Fraction of the draws, in [0, 1]; None if nothing can be drawn.
        pass_rate: Mean pass rate, in [0, 1].
        possibility: Mean of the known possibilities, in [0, 1]; None if none is known.
        solved: Fraction of the group's tasks with a program of the group that passes every test, in [0, 1].
        worst: Fraction of the group's programs by worst outcome.
    """

    name: str
    programs: int
    held: float
    drawn: float | None
    pass_rate: float
    possibility: float | None
    solved: float
    worst: dict[str, float]


def groups_by(content: Content, kind: str) -> list[Group]:
    """Return the groups by "source" or "scorer", the largest first, or by "round", in order."""
    if kind == "round":
        rounds = np.unique(content.rounds)
        return _bounded(content, content.rounds, {int(index): f"round {index}" for index in rounds}, keep_last=True)
    counts = np.bincount(content.named[kind], minlength=len(content.names[kind]))
    order = np.argsort(-counts, kind="stable").tolist()
    names = {place: content.names[kind][place] or "not stated" for place in order}
    return _bounded(content, content.named[kind], names, keep_last=False)


def _bounded(content: Content, places: NDArray[np.int64], names: dict[int, str], *, keep_last: bool) -> list[Group]:
    chosen = list(names)
    rest: list[int] = []
    if len(chosen) > GROUPS:
        cut = GROUPS - 1
        # A place is needed for the combined group. The latest rounds are the interesting ones.
        rest, chosen = (chosen[:-cut], chosen[-cut:]) if keep_last else (chosen[cut:], chosen[:cut])
    groups = [_group(content, names[place], places == place) for place in chosen]
    if not rest:
        return groups
    together = _group(content, f"{len(rest):,} others", np.isin(places, rest))
    return [together, *groups] if keep_last else [*groups, together]


def _group(content: Content, name: str, chosen: NDArray[np.bool_]) -> Group:
    programs = int(chosen.sum())
    possibilities = content.possibilities[chosen]
    known = possibilities[~np.isnan(possibilities)]
    tasks, passing = content.task[chosen], content.pass_rates[chosen] == 1.0
    return Group(
        name=name,
        programs=programs,
        held=programs / len(content),
        drawn=None if content.draws is None else float(content.draws[chosen].sum()),
        pass_rate=float(content.pass_rates[chosen].mean()),
        possibility=float(known.mean()) if len(known) else None,
        solved=len(np.unique(tasks[passing])) / len(np.unique(tasks)),
        worst={name: count / programs for name, count in worst_outcomes(content, chosen).items()},
    )


#: Number of tasks shown.
TASKS = 10


@dataclass(frozen=True, kw_only=True)
class SlowTask:
    """The CPU time of a task's programs; programs of unknown time do not count.

    Args:
        name: Id of the task.
        programs: Number of its programs with known time.
        cpu_seconds: CPU seconds of these programs together.
        share: The same as a fraction of the CPU seconds of all programs in the buffer, in [0, 1].
        longest: CPU seconds of the slowest program.
        timed_out: Fraction of the programs with a timeout as their worst outcome, in [0, 1].
        pass_rate: Mean pass rate, in [0, 1].
    """

    name: str
    programs: int
    cpu_seconds: float
    share: float
    longest: float
    timed_out: float
    pass_rate: float


def slowest_tasks(content: Content, count: int = TASKS) -> list[SlowTask]:
    """Return at most `count` tasks with the most CPU time over all of their programs, the slowest first.

    Tasks of equal time keep the order of their first programs. Tasks without CPU time are left out.
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
