"""The programs of a buffer by who wrote them, whose their log-probability is, and when they were written.

Enters: what a buffer holds. Leaves: one row of figures for each group.

The tasks whose programs took the judge longest: where a run's CPU time goes, and which limits to lower.

Enters: what a buffer holds. Leaves: one row of figures for each of the slowest tasks.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from trl_pper.judge.verdict import Outcome
from trl_pper.report.content import OUTCOMES, Content, worst_outcomes

#: Groups shown; the smallest of more are put together.
GROUPS = 20


@dataclass(frozen=True, kw_only=True)
class Group:
    """Programs that have something in common.

    Args:
        name: What they have in common.
        programs: How many they are.
        held: Their share of the buffer, in [0, 1].
        drawn: Their share of the draws, in [0, 1]; None where nothing can be drawn.
        pass_rate: Mean pass rate, in [0, 1].
        possibility: Mean of the possibilities known, in [0, 1]; None where none is.
        solved: Share of their tasks with a program of theirs that passes every test, in [0, 1].
        worst: Share of programs by their worst outcome.
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
    """Return the groups by "source", "scorer" or "round"; the largest first, rounds in their order."""
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
