"""Hold what is known of the programs of a buffer as columns, for priority functions.

Columns are computed when they are first read: a priority that needs pass rates alone does not pay for outcomes.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

#: The columns, and the kind of their numbers; "O" for Python objects.
KINDS = {
    "p2value": "f",
    "task": "i",
    "possibility": "f",
    "logprob": "f",
    "num_tokens": "i",
    "pass_rate": "f",
    "outcomes": "O",
    "round_index": "i",
    "age": "i",
    "times_drawn": "i",
    "cpu_seconds": "f",
    "source": "O",
}
_TYPES = {"f": np.float64, "i": np.int64, "O": np.object_}


def _column(name: str, doc: str) -> Any:
    return property(lambda columns: columns._read(name), doc=doc)


class ProgramColumns:
    """A record of columns with a row for each of n programs; the arrays are read-only.

    Columns that are not given are unknown: 0, NaN, an empty tuple or "".

    Args:
        p2value: P2Values (Eq. 6), shape [n], finite, not negative.
        **columns: Further columns by name, each of shape [n], or a function without arguments that returns the column
            when it is first read.

    Raises:
        TypeError: There is no such column.

    Examples:
        >>> programs = ProgramColumns([0.5, 0.9, 0.2], task=[0, 0, 1], age=lambda: [10, 0, 0])
        >>> len(programs), programs.age.tolist()
        (3, [10, 0, 0])
    """

    p2value: NDArray[np.float64] = _column("p2value", "P2Values (Eq. 6), in [0, 1].")
    task: NDArray[np.int64] = _column("task", "Index of each program's task, from 0; a single task if not given.")
    possibility: NDArray[np.float64] = _column("possibility", "Possibilities, in [0, 1]; NaN where unknown.")
    logprob: NDArray[np.float64] = _column("logprob", "Log-probabilities in nats, at most 0; NaN where unknown.")
    num_tokens: NDArray[np.int64] = _column("num_tokens", "Length of each completion in tokens; 0 where unknown.")
    pass_rate: NDArray[np.float64] = _column("pass_rate", "Pass rates, in [0, 1]; the P2Values if not given.")
    outcomes: NDArray[np.object_] = _column("outcomes", "Tuples with the outcome of each test.")
    round_index: NDArray[np.int64] = _column("round_index", "Round that each program was written in, from 0.")
    age: NDArray[np.int64] = _column(
        "age", "Optimizer steps between the round that each program was last written in and the latest round."
    )
    times_drawn: NDArray[np.int64] = _column("times_drawn", "Draws of each program in earlier rounds.")
    cpu_seconds: NDArray[np.float64] = _column("cpu_seconds", "CPU time over all tests; NaN where unknown.")
    source: NDArray[np.object_] = _column("source", "Names of the models or persons that wrote the programs.")

    def __init__(self, p2value: ArrayLike, **columns: ArrayLike | Sequence[Any] | Callable[[], Any] | None) -> None:
        given: dict[str, Any] = {name: column for name, column in columns.items() if column is not None}
        for name in given:
            if name not in KINDS:
                raise TypeError(f"{name}: no column of programs; the columns are {', '.join(KINDS)}")
        self._given = given
        self._read_columns: dict[str, NDArray[Any]] = {}
        self._read_columns["p2value"] = _checked("p2values", "f", p2value, None)

    def __len__(self) -> int:
        return len(self._read_columns["p2value"])

    def _read(self, name: str) -> NDArray[Any]:
        if name not in self._read_columns:
            given = self._given.get(name)
            if given is None:
                given = self._default(name)
            self._read_columns[name] = _checked(name, KINDS[name], given() if callable(given) else given, len(self))
        return self._read_columns[name]

    def _default(self, name: str) -> Any:
        if name == "pass_rate":
            # Equal at `possibility_weight=0`.
            return self.p2value
        if name in ("outcomes", "source"):
            return [() if name == "outcomes" else ""] * len(self)
        return np.full(len(self), np.nan if KINDS[name] == "f" else 0)

    def where(self, chosen: NDArray[np.bool_]) -> ProgramColumns:
        """Return the programs for which `chosen`, shape [n], is true; their tasks are numbered anew, without gaps."""
        if chosen.all():
            return self

        def part(name: str) -> Callable[[], NDArray[Any]]:
            if name == "task":
                # Counts of tasks, as of `np.bincount`, are then above 0.
                return lambda: np.unique(self.task[chosen], return_inverse=True)[1]
            return lambda: self._read(name)[chosen]

        return ProgramColumns(self.p2value[chosen], **{name: part(name) for name in self._given})

    def arguments(self, function: Callable[..., Any]) -> tuple[list[Any], dict[str, Any]]:
        """Return the arguments of a priority function: positional and by keyword.

        The first is the P2Values, unless it is named otherwise; each argument with the name of a column gets the
        column, and `programs` the whole record. Arrays are copies, which the function may change.
        """
        try:
            parameters = inspect.signature(function).parameters
        except (TypeError, ValueError):  # some functions written in C have no signature
            return [self.p2value.copy()], {}
        named = {
            name: self if name == "programs" else self._read(name).copy()
            for name, parameter in parameters.items()
            if parameter.kind is not inspect.Parameter.POSITIONAL_ONLY and (name in KINDS or name == "programs")
        }
        first = next(iter(parameters), None)
        return ([] if first in named else [self.p2value.copy()]), named


def _checked(name: str, kind: str, given: Any, length: int | None) -> NDArray[Any]:
    if kind == "O":
        values = np.empty(len(given), np.object_)
        for index, value in enumerate(given):
            values[index] = value
    else:
        values = np.array(given, dtype=_TYPES[kind])
    if values.ndim != 1:
        raise ValueError(f"{name}: must be one-dimensional; got shape {values.shape}")
    if length is not None and len(values) != length:
        raise ValueError(f"{name}: must hold one value for each of {length} programs; got {len(values)}")
    if name in ("p2values", "pass_rate"):
        highest = np.inf if name == "p2values" else 1.0
        outside = ~(np.isfinite(values) & (values >= 0) & (values <= highest))
        if outside.any():
            required = "finite and not negative" if name == "p2values" else "in [0, 1]"
            remedy = "" if name == "p2values" else "; leave out programs that were not judged"
            raise ValueError(f"{name}: must be {required}; got {values[outside][0]}{remedy}")
    values.setflags(write=False)
    return values
