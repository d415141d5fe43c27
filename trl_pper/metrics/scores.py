"""Compute the scores of an evaluation, show them, and parse the names under which they are logged.

Scores are pass rate, accuracy, pass@k, solved@n and compile rate. Programs without a verdict count in no score except
their own number. A score over nothing is None, never a made-up zero.
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
    """Counts of the verdicts on a task's programs, sufficient for every score.

    Args:
        task_id: Id of the task.
        difficulty: Difficulty label that the source gives.
        source: Data set the task comes from.
        programs: Number of programs written.
        judged: Number of programs with a verdict.
        accepted: Number of programs that pass every test.
        compiled: Number of judged programs without a syntax error.
        without_program: Number of completions that held no program.
        pass_rate_sum: Sum of the pass rates of the judged programs.
        first_pass_rate: Pass rate of the first program; None if it was not judged or does not exist.
        why_unjudged: Message of the first program without a verdict, or "".
        shared: Whether the tests ran in the program's process, where verdicts can be forged.
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
    shared: bool = False

    @property
    def first_accepted(self) -> bool:
        """Whether the first program passes every test."""
        return self.first_pass_rate == 1.0


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """A mean over tasks.

    Args:
        value: The mean; None for no task.
        standard_error: Standard error of the mean, the standard deviation over tasks divided by the square root of
            their number. It includes the chance in generating programs. None for fewer than two tasks.
        tasks: Number of tasks.
    """

    value: float | None
    standard_error: float | None
    tasks: int


@dataclass(frozen=True, kw_only=True)
class Figures:
    """The scores over a group of tasks; rates are fractions in [0, 1].

    Args:
        num_programs: n of solved@n, the largest number of programs of any task.
        tasks: Number of tasks.
        programs: Number of programs written.
        unjudged: Number of programs without a verdict; they count in no rate.
        without_program: Number of completions that held no program; their text was judged as a program.
        pass_rate: Mean over all judged programs of the fraction of tests passed.
        compile_rate: Fraction of judged programs without a syntax error.
        first_pass_rate: Mean pass rate of the first program of each task, over tasks with a judged first program.
        accuracy: Fraction of tasks with a first program that passes every test, over the same tasks.
        solved: Fraction of tasks with any program that passes every test, over tasks with a judged program.
        pass_at_k: Mean of `pass_at_k` for each k, over tasks with at least k judged programs.
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
        """The means over tasks, by the names shown to users."""
        at_k = {f"pass@{k}": estimate for k, estimate in self.pass_at_k.items()}
        return {"accuracy": self.accuracy, **at_k, f"solved@{self.num_programs}": self.solved}

    def to_dict(self) -> dict[str, Any]:
        """Return the scores by name, with the standard error and the number of tasks of each mean over tasks."""
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
    """Count the verdicts on the programs of a task.

    Args:
        verdicts: Verdict of each program, in the order in which the programs were written.
        task_id: Id of the task.
        difficulty: Difficulty label of the task.
        source: Data set the task comes from.
        without_program: Number of completions that held no program.
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
        # Exact, so that the order of programs cannot change the sum.
        pass_rate_sum=math.fsum(rates),
        first_pass_rate=verdicts[0].pass_rate if verdicts else None,
        why_unjudged=next((verdict.message for verdict in verdicts if verdict.pass_rate is None), ""),
        shared=any(verdict.run == "shared" for verdict in verdicts),
    )


def sum_up(counts: Sequence[TaskCounts], *, k: Sequence[int] = (), num_programs: int | None = None) -> Figures:
    """Return the scores over tasks.

    Args:
        counts: Counts of each task.
        k: Values of k for pass@k.
        num_programs: n of solved@n; by default the largest number of programs of any task.

    Examples:
        >>> from trl_pper.judge.verdict import Outcome, Verdict
        >>> right, wrong = (Verdict.uniform(outcome, 1) for outcome in (Outcome.PASSED, Outcome.WRONG_ANSWER))
        >>> figures = sum_up([count_task([wrong, right]), count_task([wrong, wrong])], k=[1])
        >>> figures.pass_at_k[1].value, figures.solved.value, figures.accuracy.value
        (0.25, 0.5, 0.0)
    """
    judged = sum(one.judged for one in counts)
    # An unjudged first program is unknown, not wrong.
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
    """Return the counts grouped by difficulty or source; empty if all tasks are in the same group.

    Args:
        counts: Counts of each task.
        name: "difficulty" or "source". Tasks without a value form the group "no difficulty" or "no source".
    """
    groups: dict[str, list[TaskCounts]] = {}
    for one in counts:
        value = getattr(one, name)
        groups.setdefault(f"no {name}" if value is None else value, []).append(one)
    # A single group would repeat the scores over all tasks.
    return groups if len(groups) > 1 else {}


def pass_at_k(total: int, correct: int, k: int) -> float:
    """Estimate without bias the probability that any of k programs passes (Chen et al. 2021, arXiv 2107.03374, eq. 1).

    The estimate is `1 - C(total - correct, k) / C(total, k)`: the fraction of choices of k programs that hold a
    correct program.

    Args:
        total: Number of programs judged, at least k.
        correct: Number of programs that pass all tests, in [0, total].
        k: Number of programs chosen, at least 1.

    Returns:
        A probability in [0, 1].

    Raises:
        ValueError: An argument is out of range. Fewer than k programs allow no unbiased estimate.

    Examples:
        >>> pass_at_k(4, 1, 2)
        0.5
    """
    if not 1 <= k <= total:
        raise ValueError(f"k: must be in [1, {total}], the number of programs; got {k}")
    if not 0 <= correct <= total:
        raise ValueError(f"correct: must be in [0, {total}], the number of programs; got {correct}")
    # Whole numbers with a single division give the nearest float, however many programs there are.
    choices = math.comb(total, k)
    return (choices - math.comb(total - correct, k)) / choices


def task_rows(counts: Sequence[TaskCounts]) -> list[dict[str, Any]]:
    """Return the counts as plain values, for JSON."""
    return [asdict(one) for one in counts]


def _estimate(values: Sequence[float]) -> Estimate:
    error = stdev(values) / math.sqrt(len(values)) if len(values) > 1 else None
    return Estimate(value=fmean(values) if values else None, standard_error=error, tasks=len(values))


def show(everything: Figures, groups: Mapping[str, Mapping[str, Figures]], *, console: Console | None = None) -> None:
    """Show the scores: a table on a terminal, otherwise a line for each group of tasks.

    Args:
        everything: Scores over all tasks.
        groups: Scores of each group, by "difficulty" and "source"; empty if there is only a single group.
        console: Console to print on; standard output by default.
    """
    console = console or Console()
    if not console.is_terminal:
        for name, figures in _named(everything, groups):
            # `print` of the console would wrap lines at the width of a terminal, and scripts read them.
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
    # Show when tasks are left out of a mean: they may well be the hard tasks.
    over = "" if one.tasks == tasks else f" (of {_tasks(one.tasks)})"
    return f"{_share(one.value)}{error}{over}"


def _tasks(number: int) -> str:
    return "1 task" if number == 1 else f"{number} tasks"


#: Names such as `eval_accuracy`, `eval_<set>_pass@3`, `eval_accuracy_<difficulty>` and `eval_loss`.
_LOGGED = re.compile(
    # Without the lookahead `eval_first_pass_rate` would be the pass rate on data named "first".
    r"eval_(?:(?P<data>(?!first_pass_rate).+?)_)?"
    r"(?P<figure>accuracy|first_pass_rate|pass_rate|pass@\d+|loss)(?:_(?P<difficulty>.+))?",
    re.ASCII,
)
#: TRL's SFTTrainer logs `eval_mean_token_accuracy`, a score over tokens instead of tasks.
_OF_TOKENS = "mean_token"


@dataclass(frozen=True, kw_only=True)
class FigureName:
    """The parts of the name under which a score is logged.

    Args:
        figure: "accuracy", "pass_rate", "first_pass_rate", "pass@<k>" or "loss".
        data: Name of the evaluation data; None if there is a single data set.
        difficulty: Difficulty of the tasks; None for all tasks.
    """

    figure: str
    data: str | None
    difficulty: str | None


def figure_named(name: str) -> FigureName | None:
    """Parse the name of a logged number; return None if the number is not a score of an evaluation.

    Examples:
        >>> figure_named("eval_easy_pass@3")
        FigureName(figure='pass@3', data='easy', difficulty=None)
        >>> figure_named("eval_first_pass_rate")
        FigureName(figure='first_pass_rate', data=None, difficulty=None)
        >>> figure_named("eval_held_first_pass_rate")
        FigureName(figure='first_pass_rate', data='held', difficulty=None)
        >>> figure_named("eval_mean_token_accuracy"), figure_named("eval_runtime")
        (None, None)
    """
    match = _LOGGED.fullmatch(name)
    # Without this check the name would parse as the accuracy on data named "mean_token".
    return None if match is None or match["data"] == _OF_TOKENS else FigureName(**match.groupdict())
