"""The figures of an evaluation: pass rate, accuracy, pass@k, solved@n and compile rate, with their standard errors.

Enters: what the judge said of the programs of each task. Leaves: counts for each task, and figures over tasks.
Programs without a verdict count in no figure but that of such programs; a figure over nothing is None, never a made-up
zero.

Figures for people: a table on a terminal, a line for each group of tasks where the output goes elsewhere.

Enters: the figures of all tasks and of groups of them. Leaves: text.

The names under which evaluations log their figures, taken apart: for the model card and for the report.

Enters: a name in a Trainer's log. Leaves: which figure it is, of which data and difficulty; nothing for other names.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import fmean, stdev
from typing import Any

from rich.console import Console
from rich.table import Table

from trl_pper.judge.verdict import Outcome, Verdict, pass_rates


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
        >>> from trl_pper.judge.verdict import Outcome, Verdict
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


def show(everything: Figures, groups: Mapping[str, Mapping[str, Figures]], *, console: Console | None = None) -> None:
    """Show the figures.

    Args:
        everything: Those over all tasks.
        groups: For "difficulty" and "source" the figures of each group; empty where there is one group alone.
        console: Where to show them; the standard output by default.
    """
    console = console or Console()
    if not console.is_terminal:
        for name, figures in _named(everything, groups):
            # Not the console's: it would break lines where a terminal would end.
            print(f"{name}: {_line(figures)}", file=console.file)
        return
    console.print(_table(everything, groups))


def _named(everything: Figures, groups: Mapping[str, Mapping[str, Figures]]) -> list[tuple[str, Figures]]:
    parts = [(f"{kind} {name}", figures) for kind, group in groups.items() for name, figures in group.items()]
    return [("all tasks", everything), *parts]


def _line(figures: Figures) -> str:
    apart = f"{figures.unjudged} not judged, {figures.without_program} without a program"
    return ", ".join(
        [
            _tasks(figures.tasks),
            f"{figures.programs} programs ({apart})",
            f"pass rate {_share(figures.pass_rate)}",
            *[f"{name} {_shown_estimate(one, figures.tasks)}" for name, one in figures.estimates.items()],
            f"compile rate {_share(figures.compile_rate)}",
        ]
    )


def _table(everything: Figures, groups: Mapping[str, Mapping[str, Figures]]) -> Table:
    table = Table(caption="± standard error over tasks")
    for name in ("", "tasks", "programs", "not judged", "without a program", "pass rate"):
        table.add_column(name, justify="right" if name else "left")
    for name in (*everything.estimates, "compile rate"):
        table.add_column(name, justify="right")
    for kind in ("", *groups):
        rows = groups[kind] if kind else {"all tasks": everything}
        for name, figures in rows.items():
            table.add_row(
                name,
                *map(str, (figures.tasks, figures.programs, figures.unjudged, figures.without_program)),
                _share(figures.pass_rate),
                *[_shown_estimate(one, figures.tasks) for one in figures.estimates.values()],
                _share(figures.compile_rate),
            )
        table.add_section()
    return table


def _share(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def _shown_estimate(one: Estimate, tasks: int) -> str:
    error = "" if one.standard_error is None else f" ± {one.standard_error:.3f}"
    # Tasks that are left out have to be seen: they may well be the hard ones.
    over = "" if one.tasks == tasks else f" (of {_tasks(one.tasks)})"
    return f"{_share(one.value)}{error}{over}"


def _tasks(number: int) -> str:
    return "1 task" if number == 1 else f"{number} tasks"


#: `eval_accuracy`, `eval_<set>_pass@3`, `eval_accuracy_<difficulty>`, `eval_loss`, ...
_LOGGED = re.compile(
    r"eval_(?:(?P<data>.+?)_)?(?P<figure>accuracy|pass_rate|pass@\d+|loss)(?:_(?P<difficulty>.+))?", re.ASCII
)
#: `eval_mean_token_accuracy` is SFTTrainer's, of tokens and not of tasks.
_OF_TOKENS = "mean_token"


@dataclass(frozen=True, kw_only=True)
class FigureName:
    """What a name stands for.

    Args:
        figure: "accuracy", "pass_rate", "pass@<k>" or "loss".
        data: Name of the evaluation data, where there are several.
        difficulty: The difficulty of the tasks it is over; None for all.
    """

    figure: str
    data: str | None
    difficulty: str | None


def figure_named(name: str) -> FigureName | None:
    """Return what the name of a logged number stands for, or None where it is no figure of an evaluation.

    Examples:
        >>> figure_named("eval_easy_pass@3")
        FigureName(figure='pass@3', data='easy', difficulty=None)
        >>> figure_named("eval_mean_token_accuracy"), figure_named("eval_runtime")
        (None, None)
    """
    match = _LOGGED.fullmatch(name)
    return None if match is None or match["data"] == _OF_TOKENS else FigureName(**match.groupdict())
