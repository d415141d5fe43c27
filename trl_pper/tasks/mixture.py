"""Mix tasks of several data sets in given proportions, without repetition (C4 of arXiv 2410.12236)."""

from __future__ import annotations

import logging
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction

import numpy as np

from trl_pper.tasks.task import CodingTask

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class SourceCount:
    """The number of tasks of one source in a list of tasks.

    Args:
        source: Name of the source; None for tasks without a source.
        tasks: Number of its tasks.
        share: Number of its tasks divided by the number of all tasks, in [0, 1].
        difficulties: Number of its tasks by difficulty; the key None counts tasks without a difficulty.
    """

    source: str | None
    tasks: int
    share: float
    difficulties: dict[str | None, int]


def mix_tasks(
    sources: Mapping[str, tuple[Sequence[CodingTask], float]], *, size: int | None = None, seed: int = 0
) -> list[CodingTask]:
    """Draw tasks of several sources, in proportion to weights and without repetition.

    Args:
        sources: Tasks and weight of each source, by name. Weights need not add up to 1.
        size: Number of tasks to draw; None draws as many as the proportions allow.
        seed: Seed of the draw and of the order.

    Returns:
        The tasks, shuffled, with the source's name as `source`.

    Raises:
        ValueError: A weight is not above 0, two tasks have the same id, a source has too few tasks for `size`, or
            `size` is too small for every source to get a task.

    Examples:
        >>> from trl_pper import FunctionTests
        >>> tests = FunctionTests(code="assert f()")
        >>> tasks = [CodingTask(task_id=str(n), prompt="p", tests=tests) for n in range(9)]
        >>> mixed = mix_tasks({"mine": (tasks[:3], 1), "yours": (tasks[3:], 1)})
        >>> [(count.source, count.tasks) for count in count_by_source(sorted(mixed, key=lambda task: task.task_id))]
        [('mine', 3), ('yours', 3)]
    """
    shares = _shares(sources)
    _check_ids(sources)
    # The source that runs out first bounds the mixture.
    most = math.floor(min(len(tasks) / shares[name] for name, (tasks, _) in sources.items()))
    if size is not None and (isinstance(size, bool) or not isinstance(size, int) or not 1 <= size <= most):
        raise ValueError(f"size: must be a whole number in 1..{most}, so that no task repeats; got {size!r}")
    counts = _apportion(shares, most if size is None else size)
    generator = np.random.default_rng(seed)
    mixed = [
        replace(sources[name][0][index], source=name)
        for name, count in counts.items()
        for index in generator.permutation(len(sources[name][0]))[:count]
    ]
    # Sources would otherwise follow each other, and training would see them in blocks.
    mixed = [mixed[index] for index in generator.permutation(len(mixed))]
    for name, count in counts.items():
        logger.info(
            "%s: %d of %d tasks, %.1f%% of the mixture", name, count, len(sources[name][0]), 100 * count / len(mixed)
        )
    return mixed


def count_by_source(tasks: Sequence[CodingTask]) -> list[SourceCount]:
    """Count tasks by source and difficulty, in the order in which the sources first appear."""
    difficulties: dict[str | None, Counter[str | None]] = {}
    for task in tasks:
        difficulties.setdefault(task.source, Counter())[task.difficulty] += 1
    return [
        SourceCount(source=source, tasks=found.total(), share=found.total() / len(tasks), difficulties=dict(found))
        for source, found in difficulties.items()
    ]


def _shares(sources: Mapping[str, tuple[Sequence[CodingTask], float]]) -> dict[str, Fraction]:
    if not sources:
        raise ValueError("sources: must hold at least one; got none")
    weights: dict[str, Fraction] = {}
    for name, (_, weight) in sources.items():
        if isinstance(weight, bool) or not isinstance(weight, int | float) or not 0 < weight < math.inf:
            raise ValueError(f"sources[{name!r}]: the weight must be a finite number above 0; got {weight!r}")
        # Fractions are exact: rounded thirds or tenths could cost a task.
        weights[name] = Fraction(weight).limit_denominator(10**9)
    return {name: weight / sum(weights.values()) for name, weight in weights.items()}


def _check_ids(sources: Mapping[str, tuple[Sequence[CodingTask], float]]) -> None:
    owners: dict[str, str] = {}
    for name, (tasks, _) in sources.items():
        for task in tasks:
            if task.task_id in owners:
                raise ValueError(
                    f"sources[{name!r}]: task_id: {task.task_id!r} is already a task of {owners[task.task_id]!r}. "
                    "Leave one of them out, or rename it with dataclasses.replace(task, task_id=...)"
                )
            owners[task.task_id] = name


def _apportion(shares: Mapping[str, Fraction], size: int) -> dict[str, int]:
    """Return the number of tasks of each source, adding up to `size`, by the method of largest remainders."""
    counts = {name: math.floor(share * size) for name, share in shares.items()}
    # Negative remainders in ascending order: the largest remainder comes first.
    by_remainder = sorted(shares, key=lambda name: counts[name] - shares[name] * size)
    for name in by_remainder[: size - sum(counts.values())]:
        counts[name] += 1
    for name, count in counts.items():
        if not count:
            raise ValueError(f"sources[{name!r}]: gets none of {size} tasks; give it more weight, or all more tasks")
    return counts
