"""What the evaluations of a run say, first against last: for the model card and for what the Hub reads.

Enters: the entries of a Trainer's log. Leaves: a `Change` per figure, the card's `model-index` and the entries of
`.eval_results/`. Nothing is computed anew: every number was logged.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from huggingface_hub import EvalResult, EvalResultEntry

from trl_pper.metrics.scores import FigureName, figure_named


@dataclass(frozen=True, kw_only=True)
class Change(FigureName):
    """A figure when it was first and when it was last taken.

    Args:
        figure: As in `FigureName`, and so are data and difficulty.
        data: Name of the evaluation data.
        difficulty: The difficulty of the tasks.
        first: The first value.
        first_step: The optimizer step it was taken at; 0 is before training.
        last: The last value, of the weights that were kept.
        last_step: The optimizer step it was taken at.
    """

    first: float
    first_step: int
    last: float
    last_step: int

    @property
    def name(self) -> str:
        """The figure with the data and the difficulty it is of."""
        of = ", ".join(part for part in (self.data, self.difficulty) if part)
        return f"{self.figure} ({of})" if of else self.figure


def evaluations(log_history: Iterable[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Return the entries of a log that were written by an evaluation."""
    return [entry for entry in log_history if any(name.startswith("eval_") for name in entry)]


def changes(logged: Sequence[Mapping[str, Any]], *, kept_step: int | None = None) -> list[Change]:
    """Return how every figure changed, in the order in which the figures were logged.

    Args:
        logged: What `evaluations` returned.
        kept_step: The step whose weights were kept, if not the last.

    Examples:
        >>> found = changes([{"eval_accuracy": 0.25, "step": 0}, {"eval_accuracy": 0.5, "step": 8}])
        >>> [(change.name, change.first, change.last, change.last_step) for change in found]
        [('accuracy', 0.25, 0.5, 8)]
    """
    values: dict[str, list[tuple[int, float]]] = {}
    for entry in logged:
        for name, value in entry.items():
            values.setdefault(name, []).append((int(entry.get("step", 0)), value))
    found = []
    for name, taken in values.items():
        named = figure_named(name)
        if named is None:
            continue
        first_step, first = taken[0]
        last_step, last = next((one for one in reversed(taken) if one[0] == kept_step), taken[-1])
        found.append(Change(**asdict(named), first=first, first_step=first_step, last=last, last_step=last_step))
    return found


def eval_results(found: Sequence[Change], *, benchmark: str | None = None) -> list[EvalResult]:
    """Return the last figures on tasks for the `model-index` of a model card.

    Args:
        found: What `changes` returned.
        benchmark: The data set of the Hub that the evaluation tasks are, as `PPERConfig.eval_benchmark` has it.
    """
    dataset = None if benchmark is None else benchmark.partition(":")[0]
    return [
        EvalResult(
            task_type="text-generation",
            task_name="Code generation",
            dataset_type=dataset or change.data or "coding-tasks",
            dataset_name=dataset or change.data or "Coding tasks",
            metric_type=change.figure,
            metric_name=change.name,
            metric_value=change.last,
        )
        for change in found
        if change.figure != "loss" and change.difficulty is None
    ]


def benchmark_entries(found: Sequence[Change], *, benchmark: str | None) -> list[EvalResultEntry]:
    """Return what goes into `.eval_results/`: the accuracy on a benchmark of the Hub, in percent.

    Args:
        found: What `changes` returned.
        benchmark: "name/of-the-data-set" or "name/of-the-data-set:task"; None where the tasks are none of the Hub's.
    """
    if benchmark is None:
        return []
    dataset, _, task = benchmark.partition(":")
    return [
        EvalResultEntry(
            dataset_id=dataset,
            task_id=task or "default",
            value=round(100 * change.last, 2),
            notes="share of tasks whose most probable program, by beam search, passes every test",
        )
        for change in found
        if change.name == "accuracy"
    ]
