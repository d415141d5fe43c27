"""Draw positions from a distribution, by random numbers that depend on seed, round and step alone."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import ArrayLike, NDArray

from trl_pper.replay.priority import FloatArray, not_negative


@dataclass(frozen=True, eq=False)
class Distribution:
    """A distribution over positions, from which draws are made.

    Args:
        probabilities: Probability of each position, shape [n], n at least 1, sum 1. The distribution holds a read-only
            copy, so that it does not change with a buffer.

    Raises:
        ValueError: There are no probabilities, or they are negative or do not sum to 1.

    Examples:
        >>> distribution = Distribution(np.array([0.5, 0.0, 0.5]))
        >>> distribution.draw(6, seed=0, round_index=0, step=0)
        array([0, 0, 0, 2, 2, 0])
    """

    probabilities: FloatArray
    _cumulative: FloatArray = field(init=False, repr=False)

    def __post_init__(self) -> None:
        values = not_negative("probabilities", self.probabilities).copy()
        if values.size == 0:
            raise ValueError("probabilities: must hold at least one; got none, so there is nothing to draw from")
        if abs(float(values.sum()) - 1.0) > 1e-9:
            raise ValueError(f"probabilities: must sum to 1; got a sum of {values.sum()!r}. Use draw_probabilities")
        # The cumulative sum is computed once: a draw is a binary search in it, not a pass over all positions.
        for name, array in (("probabilities", values), ("_cumulative", np.cumsum(values))):
            array.setflags(write=False)
            object.__setattr__(self, name, array)

    def __len__(self) -> int:
        return self.probabilities.size

    def draw(self, size: int, *, seed: int, round_index: int, step: int) -> NDArray[np.int64]:
        """Draw positions, with replacement, by random numbers that depend on the arguments alone.

        Therefore a resumed run and every process of a distributed run draw the same. The random numbers of different
        (seed, round, step) are independent; they come from Philox, a counter-based generator (Salmon et al. 2011). A
        shorter draw is a prefix of a longer draw.

        Args:
            size: Number of positions to draw.
            seed: Seed of the run, in [0, 2**64).
            round_index: Round of the BTP pipeline, in [0, 2**64).
            step: Optimizer step, in [0, 2**64).

        Returns:
            Positions, int64, shape [size], in [0, n). A position of probability 0 is never drawn.

        Raises:
            ValueError: An argument is out of range.
        """
        if size < 0:
            raise ValueError(f"size: must not be negative; got {size!r}")
        for name, value in (("seed", seed), ("round_index", round_index), ("step", step)):
            if not 0 <= value < 2**64:
                raise ValueError(f"{name}: must be in [0, 2**64); got {value!r}")
        uniforms = _uniforms(size, seed=seed, round_index=round_index, step=step)
        # `side="right"` skips positions of probability 0. A uniform number is below 1, so that its product with the
        # total stays below the total.
        found = np.searchsorted(self._cumulative, uniforms * self._cumulative[-1], side="right")
        return np.asarray(found, dtype=np.int64)


def effective_sample_size(probabilities: ArrayLike) -> float:
    """Return the effective sample size `1 / sum(p ** 2)` of draws (Kish 1965).

    It is the number of equally likely programs that would give draws of the same variety.

    Args:
        probabilities: Probabilities, shape [n], sum 1.

    Returns:
        A number in [1, n], or 0.0 without programs.
    """
    values = not_negative("probabilities", probabilities)
    return 1.0 / float(values @ values) if values.size else 0.0


def _uniforms(size: int, *, seed: int, round_index: int, step: int) -> FloatArray:
    # Seed and round are the key, and the step is the second word of the counter: streams of different arguments never
    # overlap, since a step has 2**64 blocks before it reaches the stream of the next step, and nothing has to be
    # remembered between calls.
    # Raw bits, because NumPy keeps bit generators stable between versions but not the methods of `Generator`.
    stream = np.random.Philox(
        key=np.array([seed, round_index], dtype=np.uint64), counter=np.array([0, step, 0, 0], dtype=np.uint64)
    )
    bits: NDArray[np.uint64] = np.asarray(stream.random_raw(size), dtype=np.uint64)
    return np.asarray((bits >> np.uint64(11)) * 2.0**-53, dtype=np.float64)
