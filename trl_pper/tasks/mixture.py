"""Mixtures of data sets: tasks of several sources in given proportions (C4 of arXiv 2410.12236).

Enters: tasks by source, with weights. Leaves: one list of tasks, each of which names its source, and counts by source.
No task is there twice.
"""

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
    """How much of a list of tasks comes from one source.

    Args:
        source: Its name, or None for tasks that name none.
        tasks: Number of its tasks.
        share: Their share of all tasks, in [0, 1].
        difficulties: Number of its tasks of each difficulty; None counts those that state none.
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
        sources: For each name its tasks and its weight. Weights need not add up to anything.
        size: Number of tasks drawn; None takes the most that keep the proportions.
        seed: Seed of which tasks are drawn and of their order.

    Returns:
        The tasks, shuffled, with the name as their `source`.

    Raises:
        ValueError: A weight is not above 0, two tasks have one id, or there are too few tasks for `size` or too few
            drawn for every source to have one.

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
        # Exact, so that thirds and tenths leave no task out.
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
    """Return whole numbers that add up to `size`, by the method of largest remainders."""
    counts = {name: math.floor(share * size) for name, share in shares.items()}
    by_remainder = sorted(shares, key=lambda name: counts[name] - shares[name] * size)
    for name in by_remainder[: size - sum(counts.values())]:
        counts[name] += 1
    for name, count in counts.items():
        if not count:
            raise ValueError(f"sources[{name!r}]: gets none of {size} tasks; give it more weight, or all more tasks")
    return counts
