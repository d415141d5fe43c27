"""Compute P2Values and draw probabilities, and draw positions: Eq. 6 to 8 of arXiv 2410.12236 as pure functions.

The paper is "Possibility and Pass-rate Prioritized Experience Replay". Possibilities and pass rates give P2Values,
P2Values give draw probabilities, and a `Distribution` draws positions. The same arguments give the same result on
every machine.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

FloatArray: TypeAlias = NDArray[np.float64]
PriorityFunction: TypeAlias = Callable[..., ArrayLike]


def p2value(possibility: ArrayLike, pass_rate: ArrayLike, *, possibility_weight: float = 0.5) -> FloatArray:
    """Return the weighted mean of the possibility and the pass rate of each program: Eq. 6 of arXiv 2410.12236.

    `P2Value = a * possibility + (1 - a) * pass_rate`, where the paper's alpha is `possibility_weight`.

    Args:
        possibility: Probability of each program, shape [n], in [0, 1]. NaN where the log-probability is unknown
            (a teacher's program, for instance): the P2Value of that program is its pass rate alone.
        pass_rate: Fraction of the tests that each program passes, shape [n], in [0, 1].
        possibility_weight: The weight a, in [0, 1]; 0 for the pass rate alone, 1 for the possibility alone.

    Returns:
        P2Values, float64, shape [n], in [0, 1].

    Raises:
        ValueError: Shapes differ or a value is out of range; the message names the argument.

    Examples:
        >>> p2value([0.5, 0.25], [1.0, 0.0], possibility_weight=0.5)
        array([0.75 , 0.125])
    """
    if not 0.0 <= possibility_weight <= 1.0:
        raise ValueError(f"possibility_weight: must be in [0, 1]; got {possibility_weight!r}")
    believed = _vector("possibility", possibility)
    passed = _vector("pass_rate", pass_rate)
    if believed.shape != passed.shape:
        raise ValueError(
            f"possibility and pass_rate: must have the same length; got {believed.size} possibilities "
            f"and {passed.size} pass rates"
        )
    unknown = np.isnan(believed)
    _check_share("possibility", believed[~unknown], remedy="exponentiate log-probabilities first")
    _check_share("pass_rate", passed, remedy="leave out programs that were not judged")
    mixed = possibility_weight * believed + (1.0 - possibility_weight) * passed
    # Rounding may lift a * 1 + (1 - a) * 1 above 1.
    return np.where(unknown, passed, np.minimum(mixed, 1.0))


def proportional(p2values: ArrayLike) -> FloatArray:
    """Return the P2Values themselves, the priorities of proportional replay (Eq. 8), shape [n]."""
    return _not_negative("p2values", p2values).copy()


def rank(p2values: ArrayLike) -> FloatArray:
    """Return 1 / rank, the priorities of rank-based replay (Eq. 8), shape [n]; the largest P2Value has rank 1.

    Tied programs get the mean of 1 / rank over the ranks that they occupy together.

    Examples:
        >>> rank([0.5, 0.9, 0.5]).round(3)
        array([0.417, 1.   , 0.417])
    """
    values = _not_negative("p2values", p2values)
    return _shared_by_ties(values, 1.0 / np.arange(1, values.size + 1))


def uniform(p2values: ArrayLike) -> FloatArray:
    """Return priority 1 for every program, shape [n]: replay without priorities, as a baseline."""
    return np.ones(_vector("p2values", p2values).shape)


def filter(p2values: ArrayLike, *, pass_rate: ArrayLike | None = None) -> FloatArray:
    """Return priority 1 for programs that pass every test, else 0, shape [n]: rejection sampling.

    Args:
        p2values: P2Values, shape [n], used as pass rates if `pass_rate` is omitted.
        pass_rate: Pass rates, shape [n].

    Raises:
        ValueError: No program passes every test.
    """
    values = _not_negative("p2values", p2values)
    rates = values if pass_rate is None else _matching_pass_rate(pass_rate, values)
    passing = rates >= 1.0
    if rates.size and not passing.any():
        raise ValueError(
            f'priority: "filter" draws only programs that pass every test, and none of {rates.size} does '
            f'(best pass rate {rates.max():.3f}). Collect more programs, or use priority="proportional"'
        )
    return passing.astype(np.float64)


_NAMED: dict[str, PriorityFunction] = {
    "proportional": proportional,
    "rank": rank,
    "uniform": uniform,
    "filter": filter,
}
PRIORITIES = tuple(_NAMED)
_FUNCTION = "function:"


def priority_name(priority: str | PriorityFunction | None) -> str | None:
    """Return the name of a priority; for a function of another module, "function:" and its qualified name.

    Examples:
        >>> priority_name(rank), priority_name("rank"), priority_name(np.sqrt)
        ('rank', 'rank', 'function:numpy.sqrt')
    """
    if not callable(priority):
        return priority
    for name, function in _NAMED.items():
        if priority is function:
            return name
    # Functions written in C have only `__name__` in NumPy before 2.2, without a qualified name or a module.
    named = priority if hasattr(priority, "__name__") else type(priority)
    module = getattr(named, "__module__", None) or type(named).__module__
    return f"{_FUNCTION}{module}.{getattr(named, '__qualname__', named.__name__)}"


def needs_function(name: str) -> bool:
    """Return whether a name from `priority_name` names a function of another module, which the caller has to pass."""
    return name.startswith(_FUNCTION)


def draw_probabilities(
    p2values: ArrayLike,
    *,
    priority: str | PriorityFunction = "proportional",
    exponent: float = 1.0,
    pass_rate: ArrayLike | None = None,
) -> FloatArray:
    """Convert P2Values to the probability of each program to be drawn: Eq. 7 and 8 of arXiv 2410.12236.

    `P(i) = p_i ** e / sum_k p_k ** e` (Eq. 7), where the priority p_i is (Eq. 8)

    - "proportional": the P2Value itself;
    - "rank": 1 / rank, where the largest P2Value has rank 1. Tied programs share the probability of the ranks that
      they occupy together in equal parts;
    - "uniform": 1 for every program (the baseline without priorities); the exponent has no effect;
    - "filter": 1 for programs that pass every test, else 0 (rejection sampling); the exponent has no effect;
    - a function: its result for the P2Values; the exponent applies to it. A function of this module is the same as its
      name. Functions of the user may call the functions of this module.

    With exponent 0 all programs are equally likely, including programs of priority 0. If every priority is 0, Eq. 7 is
    undefined, and all programs are equally likely as well.

    Args:
        p2values: P2Values, shape [n], finite, not negative.
        priority: One of `PRIORITIES`, or a function from P2Values to priorities of the same shape, not negative. A
            function with an argument named `pass_rate` receives the pass rates by that keyword.
        exponent: The exponent e, finite, not negative (the paper's second alpha). Large exponents prefer the largest
            priorities more strongly.
        pass_rate: Pass rates, shape [n], for "filter" and for functions with such an argument. If omitted, the
            P2Values are used as pass rates, to which they are equal at `possibility_weight=0`.

    Returns:
        Probabilities, float64, shape [n], sum 1; an empty array without programs.

    Raises:
        ValueError: An argument is out of range, or the priority is "filter" and no program passes all of its tests.

    Examples:
        >>> draw_probabilities([0.75, 0.25])
        array([0.75, 0.25])
        >>> draw_probabilities([0.2, 0.9, 0.2], priority="rank").round(3)
        array([0.227, 0.545, 0.227])
        >>> draw_probabilities([0.5, 0.5], priority=lambda p2values, pass_rate: pass_rate, pass_rate=[0.75, 0.25])
        array([0.75, 0.25])
    """
    # NumPy cannot look at whole numbers that no float holds, and neither do powers of them.
    if not 0 <= exponent <= sys.float_info.max:
        raise ValueError(f"exponent: must be finite and not negative; got {exponent!r:.80}")
    exponent = float(exponent)
    if not callable(priority) and priority not in PRIORITIES:
        raise ValueError(f"priority: must be one of {', '.join(PRIORITIES)}, or a function; got {priority!r}")
    values = _not_negative("p2values", p2values)
    if values.size == 0:
        return values
    name = priority_name(priority)
    if name == "proportional":
        return _powers(values, exponent)
    if name == "rank":
        # Powers of the ranks before ties are averaged: tied programs share probability, not priority.
        with np.errstate(over="ignore"):
            by_rank = np.exp(-exponent * np.log(np.arange(1, values.size + 1)))
        return _normalized(_shared_by_ties(values, by_rank))
    if name == "uniform":
        return _normalized(uniform(values))
    rates = values if pass_rate is None else _matching_pass_rate(pass_rate, values)
    if name == "filter":
        return _normalized(filter(values, pass_rate=rates))
    assert callable(priority)
    return _powers(_called(priority, values, rates), exponent)


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
        values = _not_negative("probabilities", self.probabilities).copy()
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
    values = _not_negative("probabilities", probabilities)
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


def _powers(priorities: FloatArray, exponent: float) -> FloatArray:
    """Return the draw probabilities of priorities (Eq. 7)."""
    largest = priorities.max()
    # 0 ** 0 is 1, as in Python.
    if exponent == 0.0 or largest == 0.0:
        return _normalized(np.ones(priorities.size))
    # Logarithms relative to the largest priority: a large exponent would underflow every power, and their sum, to 0.
    with np.errstate(divide="ignore", over="ignore"):
        return _normalized(np.exp(exponent * (np.log(priorities) - np.log(largest))))


def _normalized(weights: FloatArray) -> FloatArray:
    return np.asarray(weights / weights.sum(), dtype=np.float64)


def _shared_by_ties(values: FloatArray, by_rank: FloatArray) -> FloatArray:
    """Return the weight of the rank of each value; tied values get the mean weight of their ranks."""
    # Pass rates tie often: without the mean, the order in which tied programs were stored would decide.
    if values.size == 0:
        return values
    _, group, members = np.unique(-values, return_inverse=True, return_counts=True)
    first_rank = np.concatenate(([0], np.cumsum(members)[:-1]))
    return np.asarray((np.add.reduceat(by_rank, first_rank) / members)[group], dtype=np.float64)


def _called(priority: PriorityFunction, values: FloatArray, pass_rate: FloatArray) -> FloatArray:
    # Copies, since the function may sort or scale its arguments in place.
    keywords = {"pass_rate": pass_rate.copy()} if _takes_pass_rate(priority) else {}
    priorities = _not_negative("priority", priority(values.copy(), **keywords))
    if priorities.shape != values.shape:
        raise ValueError(f"priority: the function must return {values.size} priorities; got {priorities.size}")
    return priorities


def _takes_pass_rate(priority: PriorityFunction) -> bool:
    try:
        parameter = inspect.signature(priority).parameters.get("pass_rate")
    except (TypeError, ValueError):  # some functions written in C have no signature
        return False
    return parameter is not None and parameter.kind is not inspect.Parameter.POSITIONAL_ONLY


def _matching_pass_rate(pass_rate: ArrayLike, values: FloatArray) -> FloatArray:
    rates = _vector("pass_rate", pass_rate)
    if rates.shape != values.shape:
        raise ValueError(f"pass_rate: must hold one value for each of {values.size} P2Values; got {rates.size}")
    _check_share("pass_rate", rates, remedy="leave out programs that were not judged")
    return rates


def _vector(name: str, values: ArrayLike) -> FloatArray:
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != 1:
        raise ValueError(f"{name}: must be one-dimensional; got shape {array.shape}")
    return array


def _not_negative(name: str, values: ArrayLike) -> FloatArray:
    array = _vector(name, values)
    if not np.all(np.isfinite(array) & (array >= 0)):
        raise ValueError(f"{name}: must be finite and not negative; got a range of {array.min()} to {array.max()}")
    return array


def _check_share(name: str, values: FloatArray, *, remedy: str) -> None:
    # `not all(...)` instead of `any(outside)`, so that NaN fails, too.
    if not np.all((values >= 0) & (values <= 1)):
        raise ValueError(f"{name}: must be in [0, 1]; got {values[~((values >= 0) & (values <= 1))][0]}; {remedy}")
