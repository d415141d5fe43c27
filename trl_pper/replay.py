"""The replay buffer: every judged program, kept once, and drawn by its P2Value (arXiv 2410.12236, Algorithm 1).

Enters: experiences. Leaves: minibatches of them, a data set, a file. The buffer owns no mathematics (that is
`trl_pper.priority`) and no random state: a draw depends on its content, its settings, the round and the step.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from trl_pper.experience import POSSIBILITIES, Experience, arrow_schema
from trl_pper.priority import FloatArray, PriorityFunction, draw_indices, draw_probabilities, p2value
from trl_pper.replay_file import read_experiences, write_experiences

if TYPE_CHECKING:
    import datasets

STATE_VERSION = 1


@dataclass(frozen=True, kw_only=True)
class AddReport:
    """What adding experiences did: how many were new, how many refreshed a stored one, how many had to leave."""

    added: int
    refreshed: int
    evicted: int


class ReplayBuffer:
    """A bounded store of experiences without duplicates, drawn by priority.

    Two experiences of one task with the same program are one. Beyond its capacity the buffer drops the experiences of
    lowest P2Value, among equals the oldest; the others keep their order.

    Args:
        capacity: Largest number of experiences kept, at least 1; None keeps all.
        seed: Seed of the draws, in [0, 2**64).
        possibility_weight: Weight a of the possibility in Eq. 6, in [0, 1].
        possibility: "mean" (geometric mean of token probabilities) or "product" (probability of the completion).
        priority: "proportional", "rank", "uniform" or "filter", or a function from P2Values to priorities.
        priority_exponent: Exponent e of Eq. 7, not negative.

    Raises:
        ValueError: A setting is out of range; the message names it.

    Examples:
        >>> buffer = ReplayBuffer(capacity=100, possibility_weight=0.0)
        >>> good = Experience(task_id="one", prompt="1?", completion="1", program="1", pass_rate=1.0)
        >>> poor = Experience(task_id="one", prompt="1?", completion="2", program="2", pass_rate=0.0)
        >>> buffer.add([good, poor, good])
        AddReport(added=2, refreshed=1, evicted=0)
        >>> [experience.program for experience in buffer.sample(3, round_index=0, step=0)]
        ['1', '1', '1']
    """

    def __init__(
        self,
        capacity: int | None = None,
        *,
        seed: int = 0,
        possibility_weight: float = 0.5,
        possibility: str = "mean",
        priority: str | PriorityFunction = "proportional",
        priority_exponent: float = 1.0,
    ) -> None:
        if capacity is not None and capacity < 1:
            raise ValueError(f"capacity: must be at least 1, or None for no bound; got {capacity!r}")
        if not 0 <= seed < 2**64:
            raise ValueError(f"seed: must be in [0, 2**64); got {seed!r}")
        if possibility not in POSSIBILITIES:
            raise ValueError(f"possibility: must be one of {', '.join(POSSIBILITIES)}; got {possibility!r}")
        # No programs, but the same checks of weight, priority and exponent as every later call.
        p2value([], [], possibility_weight=possibility_weight)
        draw_probabilities([], priority=priority, exponent=priority_exponent)
        self.capacity = capacity
        self.seed = seed
        self.possibility_weight = possibility_weight
        self.possibility = possibility
        self.priority = priority
        self.priority_exponent = priority_exponent
        self._experiences: list[Experience] = []
        self._position: dict[tuple[str, str], int] = {}
        self._cache: dict[tuple[object, ...], FloatArray] = {}

    def __len__(self) -> int:
        return len(self._experiences)

    def __getitem__(self, index: int) -> Experience:
        return self._experiences[index]

    def __iter__(self) -> Iterator[Experience]:
        return iter(self._experiences)

    def __contains__(self, key: object) -> bool:
        """Return whether the program `key = (task_id, program)` is stored."""
        return key in self._position

    def __repr__(self) -> str:
        settings = ", ".join(f"{name}={value!r}" for name, value in self.settings().items())
        return f"ReplayBuffer({len(self)} experiences, {settings})"

    def settings(self) -> dict[str, Any]:
        """Return the settings as plain values; a priority function is given by its name."""
        return {
            "capacity": self.capacity,
            "seed": self.seed,
            "possibility_weight": self.possibility_weight,
            "possibility": self.possibility,
            "priority": _priority_name(self.priority),
            "priority_exponent": self.priority_exponent,
        }

    def add(self, experiences: Iterable[Experience]) -> AddReport:
        """Store experiences; a program already stored is replaced where it stands by the newer experience.

        Args:
            experiences: Judged programs, in order; all are taken before the first one has to leave.

        Returns:
            How many were new, refreshed and evicted. New ones may be among those evicted.

        Raises:
            TypeError: Something is not an Experience; then nothing is stored.
        """
        arriving = list(experiences)
        for item in arriving:
            if not isinstance(item, Experience):
                raise TypeError(
                    f"experiences: must be Experience objects; got {type(item).__name__}. "
                    "Experience.from_row builds one from a mapping"
                )
        before = len(self)
        for experience in arriving:
            position = self._position.setdefault(experience.key, len(self))
            if position == len(self):
                self._experiences.append(experience)
            else:
                self._experiences[position] = experience
        added = len(self) - before
        self._cache.clear()
        return AddReport(added=added, refreshed=len(arriving) - added, evicted=self._evict())

    def pass_rates(self) -> FloatArray:
        """Return the pass rates, shape [len(self)], in [0, 1]; read-only, like every array of the buffer."""
        return self._column("pass_rate", lambda: np.array([item.pass_rate for item in self], dtype=np.float64))

    def round_indices(self) -> FloatArray:
        """Return the round each program was generated in, shape [len(self)]."""
        return self._column("round_index", lambda: np.array([item.round_index for item in self], dtype=np.float64))

    def possibilities(self) -> FloatArray:
        """Return the possibilities, shape [len(self)], in [0, 1], NaN where the log-probability is unknown."""
        kind = self.possibility
        return self._column("possibility", lambda: np.array([item.possibility(kind) for item in self], np.float64))

    def p2values(self) -> FloatArray:
        """Return the P2Values (Eq. 6), shape [len(self)], in [0, 1]."""
        weight = self.possibility_weight
        return self._column(
            "p2value", lambda: p2value(self.possibilities(), self.pass_rates(), possibility_weight=weight)
        )

    def probabilities(self) -> FloatArray:
        """Return the draw probabilities (Eq. 7 and 8), shape [len(self)], sum 1.

        Raises:
            ValueError: The priority is "filter" and no program passes all of its tests.
        """
        return self._column(
            "probability",
            lambda: draw_probabilities(
                self.p2values(),
                priority=self.priority,
                exponent=self.priority_exponent,
                pass_rate=self.pass_rates(),
            ),
        )

    def draw(self, size: int, *, round_index: int, step: int) -> NDArray[np.int64]:
        """Draw positions in the buffer, with replacement.

        Args:
            size: Number of positions.
            round_index: Round of the pipeline, from 0.
            step: Optimizer step, from 0. The same buffer, round and step always give the same draw.

        Returns:
            Positions, int64, shape [size].

        Raises:
            ValueError: The buffer is empty, or its priority leaves nothing to draw.
        """
        if not self._experiences:
            raise ValueError(
                "buffer: got an empty one, there is nothing to draw. Add judged programs with add() first"
            )
        return draw_indices(self.probabilities(), size, seed=self.seed, round_index=round_index, step=step)

    def sample(self, size: int, *, round_index: int, step: int) -> list[Experience]:
        """Draw experiences, with replacement; arguments and errors are those of `draw`."""
        return [self._experiences[index] for index in self.draw(size, round_index=round_index, step=step)]

    def check_valid(self) -> None:
        """Raise AssertionError if an invariant is broken: one place per program, the bound, arrays that fit."""
        positions = {experience.key: index for index, experience in enumerate(self)}
        _require(len(positions) == len(self), "a program is stored twice")
        _require(positions == self._position, "the index does not match the experiences")
        _require(self.capacity is None or len(self) <= self.capacity, "more experiences than the capacity")
        fresh = np.array([item.pass_rate for item in self], dtype=np.float64)
        _require(np.array_equal(self.pass_rates(), fresh), "the cached pass rates are stale")
        _require(self.p2values().shape == (len(self),), "not one P2Value per experience")
        if len(self) and (self.priority != "filter" or bool((fresh >= 1.0).any())):
            _require(abs(float(self.probabilities().sum()) - 1.0) <= 1e-12, "probabilities do not sum to 1")

    def digest(self) -> str:
        """Return the SHA-256 (hex) of the experiences, in order, and of the settings."""
        sha = hashlib.sha256(json.dumps(self.settings(), sort_keys=True).encode())
        for experience in self:
            sha.update(b"\n" + json.dumps(experience.to_row(), sort_keys=True).encode())
        return sha.hexdigest()

    def state_dict(self) -> dict[str, Any]:
        """Return settings and content as plain values that JSON can hold."""
        rows = [experience.to_row() for experience in self]
        return {"version": STATE_VERSION, "settings": self.settings(), "experiences": rows}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Replace settings and content by those of a `state_dict`; on an error the buffer stays as it was.

        Raises:
            ValueError: The state is of another version, is malformed, holds duplicates or more than its capacity, or
                was written with a priority function other than this buffer's.
        """
        if not isinstance(state, Mapping) or state.get("version") != STATE_VERSION:
            version = state.get("version") if isinstance(state, Mapping) else type(state).__name__
            raise ValueError(f"state: must be a state_dict of version {STATE_VERSION}; got {version!r}")
        for key, kind in (("settings", Mapping), ("experiences", list)):
            if not isinstance(state.get(key), kind):
                raise ValueError(f"state.{key}: missing or malformed; got {type(state.get(key)).__name__}")
        restored = _restored(state["settings"], map(Experience.from_row, state["experiences"]), self.priority)
        self.__dict__.update(restored.__dict__)

    def to_dataset(self) -> datasets.Dataset:
        """Return the experiences as a `datasets.Dataset` with the columns of `trl_pper.experience.COLUMNS`.

        Raises:
            ValueError: Some prompts are text and some chat messages; no column type holds both. `save` does.
        """
        import datasets
        import pyarrow as pa

        chat = {isinstance(experience.prompt, list) for experience in self}
        if len(chat) > 1:
            raise ValueError(
                "prompt: a data set column holds either text or chat messages; the buffer has both. Write every "
                'prompt as messages ([{"role": "user", "content": text}]), or use save(), which keeps both'
            )
        rows = [experience.to_row() for experience in self]
        return datasets.Dataset(pa.Table.from_pylist(rows, schema=arrow_schema(chat=chat == {True})))

    @classmethod
    def from_dataset(cls, dataset: datasets.Dataset, **settings: Any) -> ReplayBuffer:
        """Build a buffer from the rows of a data set (see `Experience.from_row`); settings are the constructor's."""
        buffer = cls(**settings)
        buffer.add(Experience.from_row(row) for row in dataset)
        return buffer

    def save(self, path: str | Path) -> None:
        """Write experiences and settings to one Parquet file, which appears complete or not at all."""
        write_experiences(path, self, metadata={"version": STATE_VERSION, "settings": self.settings()})

    @classmethod
    def load(cls, path: str | Path, *, priority: PriorityFunction | None = None) -> ReplayBuffer:
        """Read a buffer written by `save`.

        Args:
            path: The file.
            priority: The priority function the buffer was saved with, if it had one: files hold no code.

        Raises:
            ValueError: The file is not a saved buffer, or needs the priority function.
        """
        metadata, experiences = read_experiences(path)
        if metadata.get("version") != STATE_VERSION:
            raise ValueError(f"{path}: must be a buffer of version {STATE_VERSION}; got {metadata.get('version')!r}")
        return _restored(metadata["settings"], experiences, priority)

    def _column(self, name: str, compute: Callable[[], FloatArray]) -> FloatArray:
        key = (name, self.possibility, self.possibility_weight, self.priority, self.priority_exponent)
        if key not in self._cache:
            column = compute()
            column.setflags(write=False)
            self._cache[key] = column
        return self._cache[key]

    def _evict(self) -> int:
        surplus = 0 if self.capacity is None else max(0, len(self) - self.capacity)
        if surplus:
            # A stable sort: among equal P2Values the oldest, which stands first, leaves first.
            leaving = set(np.argsort(self.p2values(), kind="stable")[:surplus].tolist())
            self._experiences = [item for index, item in enumerate(self) if index not in leaving]
            self._position = {item.key: index for index, item in enumerate(self)}
            self._cache.clear()
        return surplus


def _restored(
    settings: Mapping[str, Any], experiences: Iterable[Experience], priority: str | PriorityFunction | None
) -> ReplayBuffer:
    known = set(ReplayBuffer().settings())
    if set(settings) != known:
        raise ValueError(f"settings: must hold {sorted(known)}; got {sorted(settings)}")
    chosen = dict(settings)
    if str(settings["priority"]).startswith(_FUNCTION):
        if not callable(priority) or _priority_name(priority) != settings["priority"]:
            raise ValueError(
                f"priority: the state was written with {settings['priority']!r}, and a state holds no code. "
                f"Pass that function; got {_priority_name(priority)!r}"
            )
        chosen["priority"] = priority
    buffer = ReplayBuffer(**chosen)
    report = buffer.add(experiences)
    if report.refreshed or report.evicted:
        raise ValueError(
            f"experiences: a state holds every program once and no more than its capacity; "
            f"got {report.refreshed} repeated and {report.evicted} too many"
        )
    return buffer


_FUNCTION = "function:"


def _priority_name(priority: str | PriorityFunction | None) -> str | None:
    if not callable(priority):
        return priority
    named = priority if hasattr(priority, "__qualname__") else type(priority)
    return f"{_FUNCTION}{named.__module__}.{named.__qualname__}"


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise AssertionError(f"ReplayBuffer: {message}")
