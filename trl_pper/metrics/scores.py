"""The figures of an evaluation: pass rate, accuracy, pass@k, solved@n and compile rate, with their standard errors.

Enters: what the judge said of the programs of each task. Leaves: counts for each task, and figures over tasks.
Programs without a verdict count in no figure but that of such programs; a figure over nothing is None, never a made-up
zero.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from statistics import fmean, stdev
from typing import Any

from trl_pper.verdict import Outcome, Verdict, pass_rates


@dataclass(frozen=True, kw_only=True)
class TaskCounts:
    """What the programs of one task came to: all that any figure needs of them.

    Args:
        task_id: The task.
        difficulty: How hard it is, in the words of its source.
        source: The data set it comes from.
        programs: Programs written.
        judged: Programs with a verdict.
        accepted: Programs that pass every test.
        compiled: Judged programs without a syntax error.
        without_program: Completions in which there was no program.
        pass_rate_sum: Sum of the pass rates of the judged programs.
        first_pass_rate: Pass rate of the first program; None where it was not judged, or there is none.
        why_unjudged: What was said of the first program without a verdict.
    """

    task_id: str
    difficulty: str | None = None
    source: str | None = None
    programs: int
    judged: int
    accepted: int
    compiled: int
    without_program: int
    pass_rate_sum: float
    first_pass_rate: float | None
    why_unjudged: str = ""

    @property
    def first_accepted(self) -> bool:
        """Whether the first program passes every test."""
        return self.first_pass_rate == 1.0


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """A mean over tasks.

    Args:
        value: The mean; None over no task.
        standard_error: How far it would lie from that of ever more such tasks: the standard deviation over tasks,
            divided by the root of their number. It holds the chance in the programs, too; None below two tasks.
        tasks: Number of tasks it is over.
    """

    value: float | None
    standard_error: float | None
    tasks: int


@dataclass(frozen=True, kw_only=True)
class Figures:
    """The figures over some tasks; rates are shares in [0, 1].

    Args:
        num_programs: n of solved@n, the most programs any task has.
        tasks: Number of tasks.
        programs: Programs written.
        unjudged: Programs without a verdict; they count in no rate.
        without_program: Completions in which there was no program; what stands for one was judged.
        pass_rate: Mean over all judged programs of the share of tests they pass.
        compile_rate: Share of judged programs without a syntax error.
        first_pass_rate: Mean pass rate of the first program of each task, where that was judged.
        accuracy: Share of tasks whose first program passes every test, of those where it was judged.
        solved: Share of tasks with a program that passes every test, of those with a judged program.
        pass_at_k: For each k the mean of `pass_at_k` over the tasks with at least k judged programs.
    """

    num_programs: int
    tasks: int
    programs: int
    unjudged: int
    without_program: int
    pass_rate: float | None
    compile_rate: float | None
    first_pass_rate: Estimate
    accuracy: Estimate
    solved: Estimate
    pass_at_k: dict[int, Estimate]

    @property
    def estimates(self) -> dict[str, Estimate]:
        """The shares of tasks, by the names they are shown with."""
        at_k = {f"pass@{k}": estimate for k, estimate in self.pass_at_k.items()}
        return {"accuracy": self.accuracy, **at_k, f"solved@{self.num_programs}": self.solved}

    def to_dict(self) -> dict[str, Any]:
        """Return the figures by name, with the standard errors and the number of tasks of those that are means."""
        counts = ("tasks", "programs", "unjudged", "without_program", "pass_rate", "compile_rate")
        return {
            **{name: getattr(self, name) for name in counts},
            **{name: estimate.value for name, estimate in self.estimates.items()},
            "standard_errors": {name: estimate.standard_error for name, estimate in self.estimates.items()},
            "over_tasks": {name: estimate.tasks for name, estimate in self.estimates.items()},
        }


def count_task(
    verdicts: Sequence[Verdict],
    *,
    task_id: str = "",
    difficulty: str | None = None,
    source: str | None = None,
    without_program: int = 0,
) -> TaskCounts:
    """Count what the verdicts on the programs of one task say.

    Args:
        verdicts: One for each program, in the order in which they were written.
        task_id: The task.
        difficulty: How hard it is.
        source: Where it comes from.
        without_program: In how many completions there was no program.
    """
    rates = pass_rates(verdicts)
    judged = [verdict for verdict in verdicts if verdict.pass_rate is not None]
    return TaskCounts(
        task_id=task_id,
        difficulty=difficulty,
        source=source,
        programs=len(verdicts),
        judged=len(judged),
        accepted=sum(verdict.accepted for verdict in judged),
        compiled=sum(Outcome.SYNTAX_ERROR not in verdict.outcomes for verdict in judged),
        without_program=without_program,
        pass_rate_sum=math.fsum(rates),
        first_pass_rate=verdicts[0].pass_rate if verdicts else None,
        why_unjudged=next((verdict.message for verdict in verdicts if verdict.pass_rate is None), ""),
    )


def sum_up(counts: Sequence[TaskCounts], *, k: Sequence[int] = (), num_programs: int | None = None) -> Figures:
    """Return the figures over tasks.

    Args:
        counts: What the programs of each task came to.
        k: For which k to give pass@k.
        num_programs: n of solved@n; the most programs any of the tasks has by default.

    Examples:
        >>> from trl_pper.verdict import Outcome, Verdict
        >>> right, wrong = (Verdict.uniform(outcome, 1) for outcome in (Outcome.PASSED, Outcome.WRONG_ANSWER))
        >>> figures = sum_up([count_task([wrong, right]), count_task([wrong, wrong])], k=[1])
        >>> figures.pass_at_k[1].value, figures.solved.value, figures.accuracy.value
        (0.25, 0.5, 0.0)
    """
    judged = sum(one.judged for one in counts)
    with_first = [one for one in counts if one.first_pass_rate is not None]
    return Figures(
        num_programs=max((one.programs for one in counts), default=0) if num_programs is None else num_programs,
        tasks=len(counts),
        programs=sum(one.programs for one in counts),
        unjudged=sum(one.programs - one.judged for one in counts),
        without_program=sum(one.without_program for one in counts),
        pass_rate=math.fsum(one.pass_rate_sum for one in counts) / judged if judged else None,
        compile_rate=sum(one.compiled for one in counts) / judged if judged else None,
        first_pass_rate=_estimate([one.first_pass_rate or 0.0 for one in with_first]),
        accuracy=_estimate([float(one.first_accepted) for one in with_first]),
        solved=_estimate([float(one.accepted > 0) for one in counts if one.judged]),
        pass_at_k={
            number: _estimate([pass_at_k(one.judged, one.accepted, number) for one in counts if one.judged >= number])
            for number in k
        },
    )


def group_by(counts: Sequence[TaskCounts], name: str) -> dict[str, list[TaskCounts]]:
    """Return the counts of each difficulty or each source; nothing where all tasks have the same.

    Args:
        counts: What the programs of each task came to.
        name: "difficulty" or "source". Tasks that state none are a group of their own, "no difficulty" or "no source".
    """
    groups: dict[str, list[TaskCounts]] = {}
    for one in counts:
        value = getattr(one, name)
        groups.setdefault(f"no {name}" if value is None else value, []).append(one)
    return groups if len(groups) > 1 else {}


def pass_at_k(total: int, correct: int, k: int) -> float:
    """Estimate without bias the probability that one of k programs passes (Chen et al. 2021, arXiv 2107.03374, eq. 1).

    `1 - C(total - correct, k) / C(total, k)`: the share of choices of k programs that hold a correct one. Computed in
    whole numbers and divided once, so that it is the nearest float, however many programs there are.

    Args:
        total: Programs judged, at least k.
        correct: Programs that pass all tests, in [0, total].
        k: Programs allowed, at least 1.

    Returns:
        A number in [0, 1].

    Raises:
        ValueError: An argument is out of range; with fewer than k programs there is no unbiased estimate.

    Examples:
        >>> pass_at_k(4, 1, 2)
        0.5
    """
    if not 1 <= k <= total:
        raise ValueError(f"k: must be in [1, {total}], the number of programs; got {k}")
    if not 0 <= correct <= total:
        raise ValueError(f"correct: must be in [0, {total}], the number of programs; got {correct}")
    choices = math.comb(total, k)
    return (choices - math.comb(total - correct, k)) / choices


def task_rows(counts: Sequence[TaskCounts]) -> list[dict[str, Any]]:
    """Return the counts as plain values, for JSON."""
    return [asdict(one) for one in counts]


def _estimate(values: Sequence[float]) -> Estimate:
    error = stdev(values) / math.sqrt(len(values)) if len(values) > 1 else None
    return Estimate(value=fmean(values) if values else None, standard_error=error, tasks=len(values))
