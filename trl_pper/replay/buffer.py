"""The replay buffer: every judged program, kept once, and drawn by its P2Value (arXiv 2410.12236, Algorithm 1).

A buffer takes experiences, and gives minibatches of them, a data set, a file or a data set of the Hub. It owns no
mathematics (that is `priority`), no random state (a draw depends on content, settings, round and step), and knows
nothing of how experiences lie in memory (that is `table`).
"""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, TypeVar, overload

import numpy as np
import pyarrow as pa
from numpy.typing import ArrayLike, NDArray

from trl_pper.replay import hub as replay_hub
from trl_pper.replay.arrow import from_arrow, from_dataset, read_columns, to_dataset, write_columns
from trl_pper.replay.columns import CHUNK, Columns, columns_in_blocks, content_digest, to_experiences
from trl_pper.replay.experience import Experience, possibility
from trl_pper.replay.priority import Distribution, FloatArray, PriorityFunction, draw_probabilities, p2value
from trl_pper.replay.settings import BufferSettings, one_tokenizer
from trl_pper.replay.table import ExperienceTable

if TYPE_CHECKING:
    import datasets


T = TypeVar("T")


STATE_VERSION = 4
#: Version 2 lacks the columns `scorer` and `settings`, version 3 `cpu_seconds`.
_READABLE_VERSIONS = (2, 3, STATE_VERSION)


@dataclass(frozen=True, kw_only=True)
class AddReport:
    """What adding experiences did: how many were new, how many refreshed a stored one, how many had to leave."""

    added: int
    refreshed: int
    evicted: int


def _setting(name: str) -> Any:
    """Return a property that reads and replaces a setting of a buffer."""

    def assign(buffer: ReplayBuffer, value: Any) -> None:
        buffer._settings = replace(buffer._settings, **{name: value})

    return property(lambda buffer: getattr(buffer._settings, name), assign)


class ReplayBuffer:
    """A bounded store of experiences without duplicates, drawn by priority.

    Two experiences of one task with the same program are one. Beyond its capacity the buffer drops those of lowest
    P2Value or those of the earliest rounds, among equals the one stored first; the others keep their order.

    Args:
        capacity: Largest number of experiences kept, at least 1; None keeps all.
        seed: Seed of the draws, in [0, 2**64).
        possibility_weight: Weight a of the possibility in Eq. 6, in [0, 1].
        possibility: "mean" (geometric mean of token probabilities) or "product" (probability of the completion).
        priority: "proportional", "rank", "uniform" or "filter", or a function from P2Values (and, where it has an
            argument of that name, `pass_rate`) to priorities.
        priority_exponent: Exponent e of Eq. 7, not negative.
        eviction: What leaves a full buffer first: "p2value", the lowest P2Value, or "age", the earliest round.
        tokenizer: Which tokenizer log-probabilities and token numbers refer to, as a name or fingerprint; None when
            unknown. It is saved with the buffer; buffers of different tokenizers do not mix.

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

    # Assigning to a setting checks it.
    capacity: int | None = _setting("capacity")
    seed: int = _setting("seed")
    possibility_weight: float = _setting("possibility_weight")
    possibility: str = _setting("possibility")
    priority: str | PriorityFunction = _setting("priority")
    priority_exponent: float = _setting("priority_exponent")
    eviction: str = _setting("eviction")

    def __init__(
        self,
        capacity: int | None = None,
        *,
        seed: int = 0,
        possibility_weight: float = 0.5,
        possibility: str = "mean",
        priority: str | PriorityFunction = "proportional",
        priority_exponent: float = 1.0,
        eviction: str = "p2value",
        tokenizer: str | None = None,
    ) -> None:
        if tokenizer is not None and (not isinstance(tokenizer, str) or not tokenizer):
            raise ValueError(f"tokenizer: must be a name or None; got {tokenizer!r}")
        self._settings = BufferSettings(
            capacity=capacity,
            seed=seed,
            possibility_weight=possibility_weight,
            possibility=possibility,
            priority=priority,
            priority_exponent=priority_exponent,
            eviction=eviction,
        )
        self.tokenizer = tokenizer
        self._table = ExperienceTable()
        self._cache: dict[tuple[object, ...], Any] = {}

    def __len__(self) -> int:
        return len(self._table)

    @overload
    def __getitem__(self, index: int) -> Experience: ...
    @overload
    def __getitem__(self, index: slice) -> list[Experience]: ...
    def __getitem__(self, index: int | slice) -> Experience | list[Experience]:
        if isinstance(index, slice):
            return self.take(range(len(self))[index])
        return self.take([range(len(self))[index]])[0]

    def __iter__(self) -> Iterator[Experience]:
        for block in self._table.blocks(CHUNK):
            yield from to_experiences(block)

    def __contains__(self, key: object) -> bool:
        """Return whether the program `key = (task_id, program)` is stored."""
        return (
            isinstance(key, tuple)
            and len(key) == 2
            and all(isinstance(part, str) for part in key)
            and self._table.holds(*key)
        )

    def __repr__(self) -> str:
        settings = ", ".join(f"{name}={value!r}" for name, value in self.settings().items())
        return f"ReplayBuffer({len(self)} experiences, {settings})"

    def settings(self) -> dict[str, Any]:
        """Return the settings as plain values; a priority function is given by its name."""
        return self._settings.to_dict()

    def add(self, experiences: Iterable[Experience] | ReplayBuffer | pa.Table) -> AddReport:
        """Store experiences; a program already stored is replaced where it stands by the one that comes later.

        Args:
            experiences: Judged programs, in order; all are taken before the first one has to leave. Another buffer and
                an Arrow table with the columns of an experience are taken without making objects.

        Returns:
            How many were new, refreshed and evicted. New ones may be among those evicted.

        Raises:
            TypeError: Something is not an Experience; then nothing is stored.
            ValueError: A row of the table is no experience, or the other buffer is of another tokenizer; then nothing
                is stored.
        """
        tokenizer = self.tokenizer
        if isinstance(experiences, ReplayBuffer):
            tokenizer = one_tokenizer(tokenizer, experiences.tokenizer)
            arriving = list(experiences._table.blocks())
        elif isinstance(experiences, pa.Table):
            arriving = list(from_arrow(experiences))
        else:
            arriving = list(columns_in_blocks(experiences))
        report = self._put(arriving)
        self.tokenizer = tokenizer
        return report

    def merge(self, *others: ReplayBuffer) -> AddReport:
        """Store what other buffers hold; of a program that several hold, the experience of the latest round stays.

        Of equal rounds the buffer named later wins. Order, settings and capacity are those of this buffer: what it
        holds stays where it is, the rest follows in the order of the arguments.

        Returns:
            How many were new, refreshed and evicted; older experiences of programs stored are counted nowhere.

        Raises:
            TypeError: Something is no buffer; then nothing is stored.
            ValueError: The buffers are of different tokenizers; then nothing is stored.
        """
        for other in others:
            if not isinstance(other, ReplayBuffer):
                raise TypeError(f"others: must be replay buffers; got {type(other).__name__}. add() takes experiences")
        tokenizer = one_tokenizer(self.tokenizer, *(other.tokenizer for other in others))
        added = refreshed = 0
        for other in others:
            arriving = [self._table.newer(block) for block in other._table.blocks()]
            new = self._table.put(arriving)
            added, refreshed = added + new, refreshed + sum(map(len, arriving)) - new
        self.tokenizer = tokenizer
        self._cache.clear()
        return AddReport(added=added, refreshed=refreshed, evicted=self._evict())

    def assign(self, other: ReplayBuffer) -> None:
        """Become a copy of another buffer: its content, its settings and its tokenizer."""
        self.__dict__.update(other.__dict__, _table=other._table.copy(), _cache={})

    def take(self, positions: ArrayLike) -> list[Experience]:
        """Return the experiences at some positions, shape [n], in their order; a position may come more than once."""
        return list(to_experiences(self._table.columns(positions)))

    def pass_rates(self) -> FloatArray:
        """Return the pass rates, shape [len(self)], in [0, 1]; read-only, like every array of the buffer."""
        return self._array("pass_rate", lambda: self._table.numbers["pass_rate"].copy())

    def round_indices(self) -> NDArray[np.int64]:
        """Return the round that each program was generated in, shape [len(self)]."""
        return self._array("round_index", lambda: self._table.numbers["round_index"].copy())

    def possibilities(self) -> FloatArray:
        """Return the possibilities, shape [len(self)], in [0, 1], NaN where the log-probability is unknown."""
        numbers = self._table.numbers
        return self._array(
            "possibility", lambda: possibility(numbers["logprob"], numbers["num_tokens"], kind=self.possibility)
        )

    def p2values(self) -> FloatArray:
        """Return the P2Values (Eq. 6), shape [len(self)], in [0, 1]."""
        weight = self.possibility_weight
        return self._array(
            "p2value", lambda: p2value(self.possibilities(), self.pass_rates(), possibility_weight=weight)
        )

    def probabilities(self) -> FloatArray:
        """Return the draw probabilities (Eq. 7 and 8), shape [len(self)], sum 1.

        Raises:
            ValueError: The priority is "filter" and no program passes all of its tests.
        """
        return self._array(
            "probability",
            lambda: draw_probabilities(
                self.p2values(),
                priority=self.priority,
                exponent=self.priority_exponent,
                pass_rate=self.pass_rates(),
            ),
        )

    @property
    def can_draw(self) -> bool:
        """Whether there is a program to draw: "filter" draws only programs that pass every test."""
        return len(self) > 0 and (self.priority != "filter" or bool((self.pass_rates() >= 1.0).any()))

    def distribution(self) -> Distribution:
        """Return what draws are made from as the buffer is now; it stays so when the buffer changes.

        Raises:
            ValueError: The buffer is empty, or its priority leaves nothing to draw.
        """
        if not len(self):
            raise ValueError(
                "buffer: got an empty one, there is nothing to draw. Add judged programs with add() first"
            )
        return self._cached("distribution", lambda: Distribution(self.probabilities()))

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
        return self.distribution().draw(size, seed=self.seed, round_index=round_index, step=step)

    def sample(self, size: int, *, round_index: int, step: int) -> list[Experience]:
        """Draw experiences, with replacement; arguments and errors are those of `draw`."""
        return self.take(self.draw(size, round_index=round_index, step=step))

    def check_valid(self) -> None:
        """Raise AssertionError if an invariant is broken: one place per program, the bound, arrays that fit."""
        self._table.check_valid()
        _require(self.capacity is None or len(self) <= self.capacity, "more experiences than the capacity")
        fresh = self._table.numbers["pass_rate"]
        _require(np.array_equal(self.pass_rates(), fresh), "the cached pass rates are stale")
        _require(self.p2values().shape == (len(self),), "not one P2Value per experience")
        if self.can_draw:
            _require(abs(float(self.probabilities().sum()) - 1.0) <= 1e-12, "probabilities do not sum to 1")

    def digest(self) -> str:
        """Return a digest (64 hexadecimal digits) of the experiences, in order, and of the settings.

        It is the same for the same content, however it came here, and finds any accidental difference; it is no proof
        against forgery.
        """
        content = self._cached("digest", lambda: content_digest(self._table.blocks()))
        return hashlib.sha256(json.dumps([self.settings(), content], sort_keys=True).encode()).hexdigest()

    def state_dict(self) -> dict[str, Any]:
        """Return settings, tokenizer and content as plain values that JSON can hold."""
        rows = [one.to_row() for block in self._table.blocks(CHUNK) for one in to_experiences(block)]
        return self._metadata() | {"experiences": rows}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Replace settings and content by those of a `state_dict`; on an error the buffer stays as it was.

        Raises:
            ValueError: The state is of another version, is malformed, holds duplicates or more than its capacity, or
                was written with a priority function other than this buffer's.
        """
        if not isinstance(state, Mapping):
            raise ValueError(f"state: must be a mapping made by state_dict; got {type(state).__name__}")
        rows = state.get("experiences")
        if not isinstance(rows, list):
            raise ValueError(f"state.experiences: missing or malformed; got {type(rows).__name__}")
        experiences = columns_in_blocks(map(Experience.from_row, rows))
        self.__dict__.update(self._restored("state", state, experiences, self.priority).__dict__)

    def to_dataset(self) -> datasets.Dataset:
        """Return the experiences as a `datasets.Dataset` with the columns of `trl_pper.experience.COLUMNS`.

        Raises:
            ValueError: Some prompts are text and some chat messages; no column type holds both. `save` does.
        """
        return to_dataset(self._table.blocks(CHUNK))

    @classmethod
    def from_dataset(cls, dataset: datasets.Dataset, **settings: Any) -> Self:
        """Build a buffer from the rows of a data set (see `Experience.from_row`); settings are the constructor's."""
        buffer = cls(**settings)
        buffer._put(list(from_dataset(dataset)))
        return buffer

    def save(self, path: str | Path) -> None:
        """Write experiences, settings and tokenizer to one Parquet file, which appears complete or not at all."""
        write_columns(path, self._table.blocks(), metadata=self._metadata())

    @classmethod
    def load(cls, path: str | Path, *, priority: PriorityFunction | None = None) -> Self:
        """Read a buffer written by `save`.

        Args:
            path: The file.
            priority: The priority function the buffer was saved with, if it had one: files hold no code.

        Raises:
            ValueError: The file is not a saved buffer, or needs the priority function.
        """
        metadata, blocks = read_columns(path)
        return cls._restored(str(path), metadata, blocks, priority)

    def contents(self) -> replay_hub.BufferContents:
        """Return what is inside in numbers and names, for cards: nothing of tasks and programs."""
        return replay_hub.count_contents(self._table.blocks())

    def push_to_hub(
        self,
        repo_id: str,
        *,
        private: bool = True,
        token: str | None = None,
        revision: str | None = None,
        message: str = "Upload a replay buffer",
    ) -> str:
        """Upload the buffer as a data set of the Hub, which `datasets.load_dataset` reads; never done by itself.

        Args:
            repo_id: "name/of-the-data-set"; made if there is none. Buffer and card of an earlier push are replaced.
            private: Whether only its owners see it. With False prompts and the programs of a model are published.
            token: Token with the right to write; the one of `hf auth login` if None.
            revision: Branch to commit to; the main branch if None.
            message: The commit's message.

        Returns:
            The address of the commit.

        Raises:
            ValueError: The data set is to be private and exists as a public one.
            PermissionError: The token is missing, wrong or without the right to write.
            FileNotFoundError: There is no such branch.
        """
        card = replay_hub.card(self._table.blocks(), metadata=self._metadata())
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "buffer.parquet"
            self.save(file)
            return replay_hub.upload(
                file, card, repo_id, private=private, token=token, revision=revision, message=message
            )

    @classmethod
    def load_from_hub(
        cls,
        repo_id: str,
        *,
        revision: str | None = None,
        token: str | None = None,
        priority: PriorityFunction | None = None,
    ) -> Self:
        """Download a buffer that `push_to_hub` uploaded.

        Args:
            repo_id: "name/of-the-data-set".
            revision: Branch, tag or commit; the main branch if None.
            token: Token with the right to read; the one of `hf auth login` if None.
            priority: As in `load`.

        Raises:
            FileNotFoundError: There is no such data set, or no buffer in it, or the token may not see it.
            PermissionError: The token is wrong or without the right to read.
        """
        return cls.load(replay_hub.download(repo_id, revision=revision, token=token), priority=priority)

    def _metadata(self) -> dict[str, Any]:
        return {"version": STATE_VERSION, "settings": self.settings(), "tokenizer": self.tokenizer}

    @classmethod
    def _restored(
        cls,
        name: str,
        metadata: Mapping[str, Any],
        blocks: Iterable[Columns],
        priority: str | PriorityFunction | None,
    ) -> Self:
        """Return a buffer of what was saved; `name` is what it is called in errors."""
        if metadata.get("version") not in _READABLE_VERSIONS:
            raise ValueError(
                f"{name}: must be a buffer of version {STATE_VERSION}; got version {metadata.get('version')!r}"
            )
        settings = metadata.get("settings")
        if not isinstance(settings, Mapping):
            raise ValueError(f"{name}.settings: missing or malformed; got {type(settings).__name__}")
        buffer = cls(tokenizer=metadata.get("tokenizer"))
        buffer._settings = BufferSettings.from_dict(settings, priority=priority)
        report = buffer._put(list(blocks))
        if report.refreshed or report.evicted:
            raise ValueError(
                f"{name}.experiences: must hold every program once and no more than the capacity; "
                f"got {report.refreshed} repeated and {report.evicted} too many"
            )
        return buffer

    def _put(self, parts: Sequence[Columns]) -> AddReport:
        added = self._table.put(parts)
        self._cache.clear()
        return AddReport(added=added, refreshed=sum(map(len, parts)) - added, evicted=self._evict())

    def _evict(self) -> int:
        surplus = 0 if self.capacity is None else max(0, len(self) - self.capacity)
        if surplus:
            values = self.p2values() if self.eviction == "p2value" else self.round_indices()
            self._table.keep(~_lowest(values, surplus))
            self._cache.clear()
        return surplus

    def _array(self, name: str, compute: Callable[[], NDArray[Any]]) -> NDArray[Any]:
        def read_only() -> NDArray[Any]:
            array = compute()
            array.setflags(write=False)
            return array

        return self._cached(name, read_only)

    def _cached(self, name: str, compute: Callable[[], T]) -> T:
        key = (name, self.possibility, self.possibility_weight, self.priority, self.priority_exponent)
        if key not in self._cache:
            self._cache[key] = compute()
        value: T = self._cache[key]
        return value


def _lowest(values: NDArray[Any], count: int) -> NDArray[np.bool_]:
    """Return where the `count` lowest values stand, as a mask of shape [n]; of equal ones the first."""
    bound = np.partition(values, count - 1)[count - 1]
    lowest = np.asarray(values < bound)
    lowest[np.flatnonzero(values == bound)[: count - int(lowest.sum())]] = True
    return lowest


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise AssertionError(f"ReplayBuffer: {message}")
