"""Compute P2Values and the priorities of programs: Eq. 6 and 8 of arXiv 2410.12236 as pure functions.

The paper is "Possibility and Pass-rate Prioritized Experience Replay". Possibilities and pass rates give P2Values, and
P2Values give priorities; `draw_rule` makes draw probabilities of them.
"""

from __future__ import annotations

from collections.abc import Callable
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
    return not_negative("p2values", p2values).copy()


def rank(p2values: ArrayLike) -> FloatArray:
    """Return 1 / rank, the priorities of rank-based replay (Eq. 8), shape [n]; the largest P2Value has rank 1.

    Tied programs get the mean of 1 / rank over the ranks that they occupy together.

    Examples:
        >>> rank([0.5, 0.9, 0.5]).round(3)
        array([0.417, 1.   , 0.417])
    """
    values = not_negative("p2values", p2values)
    return shared_by_ties(values, 1.0 / np.arange(1, values.size + 1))


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
    values = not_negative("p2values", p2values)
    rates = values if pass_rate is None else _matching_pass_rate(pass_rate, values)
    passing = rates >= 1.0
    if rates.size and not passing.any():
        raise ValueError(
            f'priority: "filter" draws only programs that pass every test, and none of {rates.size} does '
            f'(best pass rate {rates.max():.3f}). Collect more programs, or use priority="best"'
        )
    return passing.astype(np.float64)


def best(p2values: ArrayLike, *, task: ArrayLike | None = None, temperature: float = 0.01) -> FloatArray:
    """Return exp((P2Value - best P2Value of the task) / temperature), shape [n]: the best programs of each task.

    Divided by its sum over a task, it is the softmax of the task's P2Values.

    Args:
        p2values: P2Values, shape [n].
        task: Index of each program's task, shape [n]; a single task if omitted.
        temperature: Difference of P2Values, not negative, by which a program has 1/e of the priority of the best. At
            0 only the best programs of a task have a priority, ties alike.

    Raises:
        ValueError: An argument is out of range.

    Examples:
        >>> best([0.9, 0.89, 0.2], task=[0, 0, 1]).round(3)
        array([1.   , 0.368, 1.   ])
    """
    if not 0 <= temperature < np.inf:
        raise ValueError(f"temperature: must be finite and not negative; got {temperature!r:.80}")
    values = not_negative("p2values", p2values)
    _, group = np.unique(np.zeros(values.size) if task is None else np.asarray(task), return_inverse=True)
    if group.shape != values.shape:
        raise ValueError(f"task: must hold one index for each of {values.size} P2Values; got {group.size}")
    highest = np.full(group.max(initial=-1) + 1, -np.inf)
    np.maximum.at(highest, group, values)
    below = values - highest[group]
    if temperature == 0:
        return np.asarray(below == 0, dtype=np.float64)
    return np.asarray(np.exp(below / temperature), dtype=np.float64)


_NAMED: dict[str, PriorityFunction] = {
    "best": best,
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


def shared_by_ties(values: FloatArray, by_rank: FloatArray) -> FloatArray:
    """Return the weight of the rank of each value; tied values get the mean weight of their ranks."""
    # Pass rates tie often: without the mean, the order in which tied programs were stored would decide.
    if values.size == 0:
        return values
    _, group, members = np.unique(-values, return_inverse=True, return_counts=True)
    first_rank = np.concatenate(([0], np.cumsum(members)[:-1]))
    return np.asarray((np.add.reduceat(by_rank, first_rank) / members)[group], dtype=np.float64)


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


def not_negative(name: str, values: ArrayLike) -> FloatArray:
    """Return values as an array of floats, shape [n], or raise ValueError unless they are finite and not negative."""
    array = _vector(name, values)
    if not np.all(np.isfinite(array) & (array >= 0)):
        raise ValueError(f"{name}: must be finite and not negative; got a range of {array.min()} to {array.max()}")
    return array


def _check_share(name: str, values: FloatArray, *, remedy: str) -> None:
    # `not all(...)` instead of `any(outside)`, so that NaN fails, too.
    if not np.all((values >= 0) & (values <= 1)):
        raise ValueError(f"{name}: must be in [0, 1]; got {values[~((values >= 0) & (values <= 1))][0]}; {remedy}")
