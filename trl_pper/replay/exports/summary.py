"""Count what an export of a buffer would hold: pairs of each task, their distances, and the balance of the labels.

The numbers are those of the exports with their default options, without repairs, which are in no pair and always
desirable. They contain no task and no program.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from trl_pper.replay.experience import Experience
from trl_pper.replay.exports.pairs import PairRule, group_pairs

#: Tasks whose closest pair is looked for. It takes time in proportion to the pairs, and so many tell enough.
SEARCHED = 50


@dataclass(frozen=True, kw_only=True)
class ExportSummary:
    """A record of what exports would hold.

    Args:
        pairs: Number of pairs of a passing and a failing program, shape [tasks], for every task with a whole program.
        distances: Levenshtein distances of the closest pair, in characters, of at most `SEARCHED` tasks that have one,
            evenly chosen; shape [searched], above 0.
        desirable: Number of completions that pass every test, for KTO.
        undesirable: Number of the others.
    """

    pairs: NDArray[np.int64]
    distances: NDArray[np.int64]
    desirable: int
    undesirable: int

    @property
    def tasks_with_pairs(self) -> int:
        """Number of tasks with at least one pair."""
        return int((self.pairs > 0).sum())

    def balance(self) -> str:
        """Return the numbers of the two labels in words."""
        return f"{self.desirable:,} completions pass every test (desirable, for KTO), and {self.undesirable:,} do not"

    def pairs_in_words(self) -> str:
        """Return the number of pairs, and how far apart the closest are, in words."""
        tasks, having = len(self.pairs), self.tasks_with_pairs
        if not having:
            return f"none of {tasks:,} tasks has a passing and a failing completion of the same prompt"
        few = "" if len(self.distances) == having else f", of {len(self.distances):,} tasks looked at,"
        low, median, high = (f"{value:,.0f}" for value in np.quantile(self.distances, [0.25, 0.5, 0.75]))
        return (
            f"{having:,} of {tasks:,} tasks have a passing and a failing completion of the same prompt, in "
            f"{int(self.pairs.sum()):,} pairs; the distance of the closest{few} is {median} characters in the median "
            f"(quartiles {low} and {high})"
        )


def summarise_exports(experiences: Iterable[Experience]) -> ExportSummary:
    """Count what exports of experiences would hold; truncated completions and repairs are in none of the counts.

    Examples:
        >>> good = Experience(task_id="a", prompt="p", completion="1", program="1", pass_rate=1.0)
        >>> poor = Experience(task_id="a", prompt="p", completion="12", program="12", pass_rate=0.0)
        >>> summarise_exports([good, poor]).pairs_in_words()[:44]
        '1 of 1 tasks have a passing and a failing co'
    """
    grouped = group_pairs(experiences, PairRule())
    having = [candidates for candidates in grouped.candidates if candidates.total]
    chosen = np.unique(np.linspace(0, len(having) - 1, min(len(having), SEARCHED)).astype(np.int64))
    rates = [one.pass_rate for prompts in grouped.tasks.values() for programs in prompts.values() for one in programs]
    desirable = sum(rate >= 1.0 for rate in rates)
    return ExportSummary(
        pairs=np.array([candidates.total for candidates in grouped.candidates], np.int64),
        distances=np.array([having[int(place)].smallest_distance() for place in chosen], np.int64),
        desirable=desirable,
        undesirable=len(rates) - desirable,
    )


def doubling_classes(values: NDArray[np.int64]) -> tuple[list[str], NDArray[np.int64]]:
    """Count whole numbers in classes that double: 0, 1, 2 to 3, 4 to 7 and so on, up to the largest number.

    Returns:
        The names of the classes, and the counts, shape [classes].

    Examples:
        >>> doubling_classes(np.array([0, 1, 3, 3]))
        (['0', '1', '2 to 3'], array([1, 1, 2]))
    """
    # The number of binary digits is the place of the class.
    places = [int(value).bit_length() for value in values]
    counts = np.bincount(np.array(places, np.int64), minlength=1)
    names = ["0", "1", *(f"{1 << (place - 1):,} to {(1 << place) - 1:,}" for place in range(2, len(counts)))]
    return names[: len(counts)], counts
