"""Convert what is known of the programs of a buffer to draw probabilities: Eq. 7 of arXiv 2410.12236, and more.

Eq. 7 draws from all programs alike. A rule can also give each task a share of the draws, prefer fresh, probable or
fast programs, and bound the number of programs of a task. All weights are logarithms: products of small factors
would underflow.
"""

from __future__ import annotations

import contextlib
import sys
from dataclasses import dataclass
from numbers import Integral, Real
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from trl_pper.replay.priority import (
    PRIORITIES,
    FloatArray,
    PriorityFunction,
    filter,
    not_negative,
    priority_name,
    shared_by_ties,
)
from trl_pper.replay.program_columns import ProgramColumns

#: How draws are divided among tasks; "pooled" does not look at tasks.
TASK_WEIGHTS = ("pooled", "equal", "best", "unsolved", "learnability")

#: CPU times below this are noise, in seconds.
_CPU_RESOLUTION = 1e-3

#: The largest logarithm of a factor of a weight; no option in use comes near it.
_MOST = 1e307

_NUMBER_FIELDS = (
    "priority_exponent", "priority_temperature", "task_exponent", "programs_per_task", "age_decay",
    "possibility_exponent", "cpu_time_exponent",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class DrawRule:
    """A rule that gives each program the probability to be drawn.

    `P(i) ~ task_weight(task of i) * w(i) / (sum of w over the task) * exp(-age(i) / age_decay)`, where `w(i)` is
    `priority ** exponent * possibility ** possibility_exponent * relative CPU time ** -cpu_time_exponent`. With
    "pooled" task weights the division and the task weight are left out: without further options that is Eq. 7.

    Args:
        priority: The priority of a program, one of `PRIORITIES` or a function; `draw_probabilities` describes them.
        priority_exponent: The exponent e of Eq. 7, finite, not negative, for "proportional", "rank" and functions.
        priority_temperature: The temperature of "best", finite, not negative.
        task_weight: How draws are divided among the tasks that have a program to draw.
            "pooled": not at all; programs of all tasks compete, as in the paper.
            "equal": all tasks alike; with "filter" that is the mean over a task's passing programs (MaxRL,
            arXiv 2602.02710).
            "best": the best pass rate of the task ** `task_exponent`, 0 where nothing passes any test; in the last
            round of a training 0 where no program passes every test, if there is a task where one does.
            "unsolved": the share of the task's programs that fail (Prop2Diff of DART-Math, arXiv 2407.13690).
            "learnability": p * (1 - p), where p is the share of the task's programs that pass (arXiv 2502.12272).
            None: "best" for the priority "best", otherwise "pooled". If all weights are 0, tasks weigh the same.
        task_exponent: The exponent of the task weight "best", finite, not negative.
        programs_per_task: Largest number of a task's programs that can be drawn, those of largest w; of equals those
            of highest P2Value, then those of the latest round, then those stored first (the cut-off of ReST-EM,
            arXiv 2312.06585). None for no bound.
        age_decay: Optimizer steps after which a program's probability has fallen to 1/e, above 0 (FreshPER,
            arXiv 2604.16918); None for no decay.
        possibility_exponent: Signed exponent of the possibility: above 0 for probable programs (ExGRPO,
            arXiv 2510.02245), below 0 for improbable programs (arXiv 2506.02355).
        cpu_time_exponent: Exponent, not negative, of the CPU time of a passing program, relative to the task's fastest
            passing program; failing programs are not affected.

    Raises:
        ValueError: A field is out of range, or the function fails on made-up programs; the message names the field.

    Examples:
        >>> programs = ProgramColumns([1.0, 1.0, 1.0, 0.4], task=[0, 0, 1, 2])
        >>> DrawRule(priority="filter", task_weight="equal").probabilities(programs)
        array([0.25, 0.25, 0.5 , 0.  ])
    """

    priority: str | PriorityFunction = "best"
    priority_exponent: float = 1.0
    priority_temperature: float = 0.01
    task_weight: str | None = None
    task_exponent: float = 20.0
    programs_per_task: int | None = None
    age_decay: float | None = None
    possibility_exponent: float = 0.0
    cpu_time_exponent: float = 0.0

    def __post_init__(self) -> None:
        if not isinstance(self.priority, str) and not callable(self.priority):
            raise ValueError(f"priority: must be a name or a function; got {self.priority!r:.80}")
        if isinstance(self.priority, str) and self.priority not in PRIORITIES:
            raise ValueError(
                f"priority: must be one of {', '.join(PRIORITIES)}, or a function; got {self.priority!r:.80}"
            )
        if self.task_weight is not None and self.task_weight not in TASK_WEIGHTS:
            raise ValueError(
                f"task_weight: must be None or one of {', '.join(TASK_WEIGHTS)}; got {self.task_weight!r:.80}"
            )
        # Before the comparisons below, in which small kinds of NumPy's numbers overflow.
        plain_fields(self, *_NUMBER_FIELDS)
        for name in ("priority_exponent", "priority_temperature", "task_exponent", "cpu_time_exponent"):
            value = getattr(self, name)
            # NumPy cannot look at whole numbers that no float holds, and neither do powers of them.
            if not (is_number(value, Real) and 0 <= value <= sys.float_info.max):
                raise ValueError(f"{name}: must be a number, finite and not negative; got {value!r:.80}")
        exponent, decay, bound = self.possibility_exponent, self.age_decay, self.programs_per_task
        if not (is_number(exponent, Real) and abs(exponent) <= sys.float_info.max):
            raise ValueError(f"possibility_exponent: must be a finite number; got {exponent!r:.80}")
        if decay is not None and not (is_number(decay, Real) and 0 < decay <= sys.float_info.max):
            raise ValueError(f"age_decay: must be a number of steps above 0, or None; got {decay!r:.80}")
        if bound is not None and not (is_number(bound, Integral) and bound >= 1):
            raise ValueError(f"programs_per_task: must be a whole number of at least 1, or None; got {bound!r:.80}")
        if (known := priority_name(self.priority)) in PRIORITIES:
            # A function of the module `priority` is replaced by its name, which files can store.
            object.__setattr__(self, "priority", known)
        else:
            self._try_function()

    @property
    def chosen_task_weight(self) -> str:
        """The task weight, where None has become the weight that it stands for."""
        return self.task_weight or ("best" if self.priority == "best" else "pooled")

    def probabilities(self, programs: ProgramColumns, *, last_round: bool = False) -> FloatArray:
        """Return the probability of each program to be drawn, float64, shape [n], sum 1; empty without programs.

        Args:
            programs: The programs.
            last_round: Whether they are drawn for the last round of a training, after which nothing is collected.

        Raises:
            ValueError: A column has other values than the rule needs, the function returns no priorities, or the
                priority is "filter" and no program passes all of its tests.
        """
        if not len(programs):
            return np.empty(0)
        tasks = _Tasks(programs.task)
        weights = self._priorities(programs, tasks)
        if not np.isfinite(weights).any():
            # Eq. 7 is undefined.
            weights = np.zeros(len(programs))
        weights = weights + self._possibility_factors(programs) + self._cpu_time_factors(programs, tasks)
        if self.programs_per_task is not None:
            weights[tasks.ranks(weights, programs.p2value, programs.round_index) >= self.programs_per_task] = -np.inf
        if self.chosen_task_weight != "pooled":
            highest = tasks.highest(weights)
            share = self._task_weights(programs, tasks, drawable=np.isfinite(highest), last_round=last_round)
            # Relative to the best of the task first: beside large numbers a task's share would be lost to rounding.
            weights = weights - np.where(np.isfinite(highest), highest, 0.0)[tasks.group]
            weights = weights + (share - tasks.log_sum_exp(weights))[tasks.group]
        if self.age_decay is not None:
            # Relative to the youngest program, and bounded, so that no short decay leaves nothing to draw.
            youngest = programs.age[np.isfinite(weights)].min()
            weights = weights - _bounded((programs.age - youngest).astype(np.float64), np.divide, self.age_decay)
        shares = np.exp(weights - weights.max())
        return np.asarray(shares / shares.sum(), dtype=np.float64)

    def _priorities(self, programs: ProgramColumns, tasks: _Tasks) -> FloatArray:
        """Return the logarithm of each priority to the power of the exponent, shape [n]; -inf for priority 0."""
        values = programs.p2value
        if self.priority == "best":
            # Not the logarithm of the function `best`, which underflows.
            below = values - tasks.highest(values)[tasks.group]
            if self.priority_temperature == 0:
                return np.where(below == 0, 0.0, -np.inf)
            return _bounded(below, np.divide, self.priority_temperature)
        if self.priority == "uniform":
            return np.zeros(values.size)
        if self.priority == "filter":
            return _log(filter(values, pass_rate=programs.pass_rate))
        if self.priority == "rank":
            # Powers of the ranks before ties are averaged: tied programs share probability, not priority.
            with np.errstate(over="ignore"):
                by_rank = np.exp(-self.priority_exponent * np.log(np.arange(1, values.size + 1)))
            return _log(shared_by_ties(values, by_rank))
        priorities = values if self.priority == "proportional" else self._called(programs)
        if self.priority_exponent == 0 or not priorities.any():
            # 0 ** 0 is 1, as in Python.
            return np.zeros(values.size)
        # Relative to the largest priority, so that no large exponent overflows it.
        with np.errstate(over="ignore"):
            return np.asarray(self.priority_exponent * (_log(priorities) - np.log(priorities.max())))

    def _possibility_factors(self, programs: ProgramColumns) -> FloatArray:
        if self.possibility_exponent == 0:
            return np.zeros(len(programs))
        believed = _known("possibility_exponent", "log-probabilities", programs.possibility, "rescore the buffer")
        # A product of token probabilities may have underflowed to 0.
        return _bounded(np.log(np.maximum(believed, sys.float_info.min)), np.multiply, self.possibility_exponent)

    def _cpu_time_factors(self, programs: ProgramColumns, tasks: _Tasks) -> FloatArray:
        passing = programs.pass_rate >= 1.0
        if self.cpu_time_exponent == 0 or not passing.any():
            return np.zeros(len(programs))
        seconds = programs.cpu_seconds
        _known("cpu_time_exponent", "CPU times", seconds[passing], "judge the programs again")
        speed = np.where(passing, -np.log(np.maximum(seconds, _CPU_RESOLUTION)), -np.inf)
        fastest = tasks.highest(speed)[tasks.group]
        factors = np.zeros(len(programs))
        factors[passing] = _bounded(speed[passing] - fastest[passing], np.multiply, self.cpu_time_exponent)
        return factors

    def _task_weights(
        self, programs: ProgramColumns, tasks: _Tasks, *, drawable: NDArray[np.bool_], last_round: bool
    ) -> FloatArray:
        """Return the logarithm of each task's weight, shape [tasks]; `drawable` tasks have a program to draw."""
        rates = programs.pass_rate
        match self.chosen_task_weight:
            case "best":
                highest = tasks.highest(rates)
                # 0 to the power of 0 stays 0 here: nothing is to be learned from a task without a passing test.
                powers = _bounded(_log(np.where(highest > 0, highest, 1.0)), np.multiply, self.task_exponent)
                weights = np.where(highest > 0, powers, -np.inf)
                if last_round and (highest[drawable] >= 1.0).any():
                    # A near miss is learned for the sake of later collections.
                    weights[highest < 1.0] = -np.inf
            case "unsolved":
                weights = _log(1.0 - tasks.mean(rates >= 1.0))
            case "learnability":
                share = tasks.mean(rates >= 1.0)
                weights = _log(share * (1.0 - share))
            case _:
                weights = np.zeros(tasks.number)
        weights[~drawable] = -np.inf
        return weights if np.isfinite(weights).any() else np.where(drawable, 0.0, -np.inf)

    def _called(self, programs: ProgramColumns) -> FloatArray:
        assert callable(self.priority)
        positional, named = programs.arguments(self.priority)
        priorities = not_negative("priority", self.priority(*positional, **named))
        if len(priorities) != len(programs):
            raise ValueError(f"priority: the function must return {len(programs)} priorities; got {priorities.size}")
        return priorities

    def _try_function(self) -> None:
        """Raise ValueError if the function fails on made-up programs."""
        # The error would otherwise come after hours of generating and judging.
        try:
            self._called(_MADE_UP)
        except Exception as error:
            reason = str(error).removeprefix("priority: ")
            raise ValueError(
                f"priority: the function {priority_name(self.priority)} failed on {len(_MADE_UP)} made-up programs: "
                f"{type(error).__name__}: {reason}. It gets P2Values, shape [n], and each column that it has an "
                "argument for, and returns n numbers, finite and not negative"
            ) from error


def draw_probabilities(
    p2values: ArrayLike | ProgramColumns,
    *,
    priority: str | PriorityFunction = "proportional",
    exponent: float = 1.0,
    pass_rate: ArrayLike | None = None,
    **options: Any,
) -> FloatArray:
    """Convert P2Values to the probability of each program to be drawn: Eq. 7 and 8 of arXiv 2410.12236.

    `P(i) = p_i ** e / sum_k p_k ** e` (Eq. 7), where the priority p_i is (Eq. 8)

    - "best": for programs of highest P2Value within their task, see `trl_pper.replay.priority.best`; tasks are weighed
      by their best pass rate, and the exponent has no effect;
    - "proportional": the P2Value itself;
    - "rank": 1 / rank, where the largest P2Value has rank 1. Tied programs share the probability of the ranks that
      they occupy together in equal parts;
    - "uniform": 1 for every program (the baseline without priorities); the exponent has no effect;
    - "filter": 1 for programs that pass every test, else 0 (rejection sampling); the exponent has no effect;
    - a function: its result for the P2Values; the exponent applies to it. A function of the module `priority` is the
      same as its name. Functions of the user may call the functions of that module.

    With exponent 0 all programs are equally likely, including programs of priority 0. If every priority is 0, Eq. 7 is
    undefined, and all programs are equally likely as well.

    Args:
        p2values: P2Values, shape [n], finite, not negative; or all columns of the programs.
        priority: One of `PRIORITIES`, or a function from P2Values to priorities of the same shape, not negative. It
            also gets each column of `ProgramColumns` that it has an argument for, such as `pass_rate` or `age`, and
            all of them in an argument `programs`.
        exponent: The exponent e, finite, not negative (the paper's second alpha). Large exponents prefer the largest
            priorities more strongly.
        pass_rate: Pass rates, shape [n], for "best", "filter" and functions with such an argument. If omitted, the
            P2Values are used as pass rates, to which they are equal at `possibility_weight=0`.
        **options: Further fields of `DrawRule`.

    Returns:
        Probabilities, float64, shape [n], sum 1; an empty array without programs.

    Raises:
        TypeError: There is no such option.
        ValueError: An argument is out of range, or the priority is "filter" and no program passes all of its tests.

    Examples:
        >>> draw_probabilities([0.75, 0.25])
        array([0.75, 0.25])
        >>> draw_probabilities([0.2, 0.9, 0.2], priority="rank").round(3)
        array([0.227, 0.545, 0.227])
        >>> draw_probabilities([0.5, 0.5], priority=lambda p2values, pass_rate: pass_rate, pass_rate=[0.75, 0.25])
        array([0.75, 0.25])
    """
    if not (is_number(exponent, Real) and 0 <= exponent <= sys.float_info.max):
        raise ValueError(f"exponent: must be finite and not negative; got {exponent!r:.80}")
    rule = DrawRule(priority=priority, priority_exponent=exponent, **options)
    if isinstance(p2values, ProgramColumns):
        if pass_rate is not None:
            raise ValueError("pass_rate: must be left out with ProgramColumns, which hold the pass rates")
        return rule.probabilities(p2values)
    return rule.probabilities(ProgramColumns(p2values, pass_rate=pass_rate))


class _Tasks:
    """The tasks of n programs, for sums and maxima over each task.

    Args:
        task: Index of each program's task, shape [n].
    """

    def __init__(self, task: NDArray[np.int64]) -> None:
        _, self.group, self.sizes = np.unique(task, return_inverse=True, return_counts=True)
        self.number = len(self.sizes)
        # Sorted once: `reduceat` over neighbours is many times faster than `ufunc.at`.
        self._order = np.argsort(self.group, kind="stable")
        self._starts = np.cumsum(self.sizes) - self.sizes

    def highest(self, values: NDArray[Any]) -> FloatArray:
        return np.asarray(np.maximum.reduceat(values[self._order], self._starts), dtype=np.float64)

    def mean(self, values: NDArray[Any]) -> FloatArray:
        return np.asarray(np.add.reduceat(values[self._order].astype(np.float64), self._starts) / self.sizes)

    def log_sum_exp(self, weights: FloatArray) -> FloatArray:
        """Return log(sum(exp(weights))) of each task; 0 for a task without a finite weight."""
        highest = self.highest(weights)
        highest = np.where(np.isfinite(highest), highest, 0.0)
        total = np.add.reduceat(np.exp(weights - highest[self.group])[self._order], self._starts)
        return np.asarray(highest + np.log(np.where(total > 0, total, 1.0)), dtype=np.float64)

    def ranks(self, *keys: NDArray[Any]) -> NDArray[np.int64]:
        """Return the rank of each program within its task, from 0, by descending keys, then by position."""
        order = np.lexsort((*(-key for key in reversed(keys)), self.group))
        ranks = np.empty(len(order), np.int64)
        ranks[order] = np.arange(len(order)) - np.repeat(self._starts, self.sizes)
        return ranks


def is_number(value: object, kind: type) -> bool:
    """Return whether a value is a number of a kind of `numbers`; a Boolean is none, though Python counts it as 1."""
    # JSON and YAML files may hold `true`.
    return isinstance(value, kind) and not isinstance(value, bool)


def plain_fields(record: object, *names: str) -> None:
    """Replace numbers in fields of a frozen dataclass by numbers of Python, which JSON can hold."""
    for name in names:
        value = getattr(record, name)
        if isinstance(value, Integral) and not isinstance(value, bool):
            object.__setattr__(record, name, int(value))
        elif isinstance(value, Real) and not isinstance(value, bool):
            # A fraction may be beyond every float, as whole numbers may: its checks then refuse it.
            with contextlib.suppress(OverflowError):
                object.__setattr__(record, name, float(value))


def _bounded(values: FloatArray, operation: np.ufunc, option: float) -> FloatArray:
    """Return logarithms of weights by an operation with an option, within bounds that sums of them do not overflow."""
    with np.errstate(over="ignore"):
        return np.asarray(np.clip(operation(values, option), -_MOST, _MOST), dtype=np.float64)


def _log(values: FloatArray) -> FloatArray:
    with np.errstate(divide="ignore"):
        return np.asarray(np.log(values), dtype=np.float64)


def _known(name: str, noun: str, values: FloatArray, remedy: str) -> FloatArray:
    unknown = int(np.isnan(values).sum())
    if unknown:
        raise ValueError(
            f"{name}: needs the {noun} of the programs, and {unknown} of {len(values)} have none; {remedy}, or leave "
            "the option out"
        )
    return values


_MADE_UP = ProgramColumns(
    [0.9, 0.55, 0.25, 0.75],
    task=[0, 0, 1, 1],
    possibility=[0.8, 0.6, 0.5, 0.5],
    logprob=[-2.0, -4.0, -6.0, -6.0],
    num_tokens=[9, 8, 9, 9],
    pass_rate=[1.0, 0.5, 0.0, 1.0],
    outcomes=[("passed", "passed"), ("passed", "wrong_answer"), ("timeout", "not_run"), ("passed", "passed")],
    round_index=[0, 1, 1, 1],
    age=[50, 0, 0, 0],
    times_drawn=[3, 0, 0, 0],
    cpu_seconds=[0.1, 0.2, 10.0, 0.1],
    source=["student", "student", "student", "teacher"],
)
