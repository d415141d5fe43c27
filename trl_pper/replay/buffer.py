"""Store judged programs in a replay buffer, and draw them by their P2Value (arXiv 2410.12236, Algorithm 1).

A buffer has no random state: a draw depends on content, settings, round and step alone. The mathematics is in
`priority`, the memory layout in `table`.
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
import pyarrow.compute as pc
from numpy.typing import ArrayLike, NDArray

from trl_pper.judge.verdict import Outcome
from trl_pper.replay import hub as replay_hub
from trl_pper.replay.arrow import from_arrow, from_dataset, read_columns, to_dataset, write_columns
from trl_pper.replay.columns import (
    CHUNK,
    NUMBER_NAMES,
    OUTCOMES,
    Columns,
    columns_in_blocks,
    content_digest,
    to_experiences,
    written_programs,
)
from trl_pper.replay.distribution import Distribution
from trl_pper.replay.experience import Experience, possibility
from trl_pper.replay.exports import trainers
from trl_pper.replay.exports.pairs import PairRule
from trl_pper.replay.priority import FloatArray, PriorityFunction, p2value
from trl_pper.replay.program_columns import ProgramColumns
from trl_pper.replay.settings import BufferSettings, one_tokenizer
from trl_pper.replay.table import ExperienceTable

if TYPE_CHECKING:
    import datasets

    from trl_pper.tasks.task import CodingTask


T = TypeVar("T")


STATE_VERSION = 6
#: Version 2 lacks the columns `scorer` and `settings`, version 3 `cpu_seconds`, version 4 `truncated`, version 5
#: `times_drawn`.
_READABLE_VERSIONS = (2, 3, 4, 5, STATE_VERSION)


@dataclass(frozen=True, kw_only=True)
class AddReport:
    """Counts of an addition to a buffer: new experiences, replaced experiences, and experiences that were evicted."""

    added: int
    refreshed: int
    evicted: int


def _setting(name: str) -> Any:
    """Return a property that reads and replaces a setting of a buffer."""

    def assign(buffer: ReplayBuffer, value: Any) -> None:
        buffer._settings = replace(buffer._settings, **{name: value})
        # Arrays computed with other settings must not be returned.
        buffer._cache.clear()

    return property(lambda buffer: getattr(buffer._settings, name), assign)


class ReplayBuffer:
    """A bounded store of experiences without duplicates, drawn by priority.

    Experiences with the same task and the same program are duplicates. A buffer above its capacity evicts experiences
    of lowest P2Value or of the earliest rounds, among equals the earliest stored; the others keep their order.

    Args:
        capacity: Largest number of experiences, at least 1; None for no limit.
        seed: Seed of the draws, in [0, 2**64).
        possibility_weight: Weight a of the possibility in Eq. 6, in [0, 1].
        possibility: "mean" (geometric mean of token probabilities) or "product" (probability of the completion).
        priority: "best", "proportional", "rank", "uniform" or "filter", or a function from P2Values to priorities;
            see `draw_probabilities`.
        priority_exponent: Exponent e of Eq. 7, not negative; without effect on "best", "uniform" and "filter".
        priority_temperature: Temperature of "best", not negative.
        task_weight: How draws are divided among tasks: "pooled", "equal", "best", "unsolved" or "learnability"; None
            for "best" with the priority "best", and otherwise "pooled". `DrawRule` describes this and the next five.
        task_exponent: Exponent of the task weight "best", not negative.
        programs_per_task: Largest number of a task's programs that can be drawn; None for no bound.
        age_decay: Optimizer steps after which a program's probability has fallen to 1/e; None for no decay.
        possibility_exponent: Signed exponent of the possibility, a further factor of the priority.
        cpu_time_exponent: Exponent, not negative, of the relative CPU time of passing programs.
        eviction: Which experiences a full buffer evicts first: "p2value" for the lowest P2Value, "age" for the
            earliest round.
        mask_truncated_completions: Whether truncated completions are never drawn. Truncated completions without any
            text are never drawn in any case, as there is nothing to learn in them.
        steps_per_round: Optimizer steps of a round, the unit of ages; `PPERTrainer` sets it.
        tokenizer: Name or fingerprint of the tokenizer behind log-probabilities and token numbers; None if unknown.
            It is saved with the buffer. Buffers with different tokenizers cannot be merged.

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

    # Properties, so that a setting is checked on assignment as in the constructor.
    capacity: int | None = _setting("capacity")
    seed: int = _setting("seed")
    possibility_weight: float = _setting("possibility_weight")
    possibility: str = _setting("possibility")
    priority: str | PriorityFunction = _setting("priority")
    priority_exponent: float = _setting("priority_exponent")
    priority_temperature: float = _setting("priority_temperature")
    task_weight: str | None = _setting("task_weight")
    task_exponent: float = _setting("task_exponent")
    programs_per_task: int | None = _setting("programs_per_task")
    age_decay: float | None = _setting("age_decay")
    possibility_exponent: float = _setting("possibility_exponent")
    cpu_time_exponent: float = _setting("cpu_time_exponent")
    eviction: str = _setting("eviction")
    mask_truncated_completions: bool = _setting("mask_truncated_completions")
    steps_per_round: int = _setting("steps_per_round")

    def __init__(
        self,
        capacity: int | None = None,
        *,
        seed: int = 0,
        possibility_weight: float = 0.5,
        possibility: str = "mean",
        priority: str | PriorityFunction = "best",
        priority_exponent: float = 1.0,
        priority_temperature: float = 0.01,
        task_weight: str | None = None,
        task_exponent: float = 20.0,
        programs_per_task: int | None = None,
        age_decay: float | None = None,
        possibility_exponent: float = 0.0,
        cpu_time_exponent: float = 0.0,
        eviction: str = "p2value",
        mask_truncated_completions: bool = False,
        steps_per_round: int = 1,
        tokenizer: str | None = None,
    ) -> None:
        if tokenizer is not None and (not isinstance(tokenizer, str) or not tokenizer):
            raise ValueError(f"tokenizer: must be a name or None; got {tokenizer!r:.80}")
        self._settings = BufferSettings(
            capacity=capacity,
            seed=seed,
            possibility_weight=possibility_weight,
            possibility=possibility,
            priority=priority,
            priority_exponent=priority_exponent,
            priority_temperature=priority_temperature,
            task_weight=task_weight,
            task_exponent=task_exponent,
            programs_per_task=programs_per_task,
            age_decay=age_decay,
            possibility_exponent=possibility_exponent,
            cpu_time_exponent=cpu_time_exponent,
            eviction=eviction,
            mask_truncated_completions=mask_truncated_completions,
            steps_per_round=steps_per_round,
        )
        self.tokenizer = tokenizer
        self._table = ExperienceTable()
        self._cache: dict[str, Any] = {}
        self._last_round = False

    def __len__(self) -> int:
        return len(self._table)

    def __getstate__(self) -> dict[str, Any]:
        # Cached columns hold functions, which cannot be pickled.
        return self.__dict__ | {"_cache": {}}

    @overload
    def __getitem__(self, index: int) -> Experience: ...
    @overload
    def __getitem__(self, index: slice) -> list[Experience]: ...
    def __getitem__(self, index: int | slice) -> Experience | list[Experience]:
        # Indexing a range resolves negative indices and slices, and checks the bounds.
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
        """Store experiences; the experience of a program already stored is replaced at its position.

        On an error nothing is stored.

        Args:
            experiences: Judged programs, in order: experiences, another buffer, or an Arrow table with the columns of
                an experience. All are stored before any experience is evicted.

        Returns:
            How many were new, refreshed and evicted. New experiences may be among the evicted.

        Raises:
            TypeError: An element is not an Experience.
            ValueError: A row of the table is no experience, or the other buffer has another tokenizer.
        """
        tokenizer = self.tokenizer
        # Buffers and tables go from columns to columns: objects would take several times their memory.
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
        """Store the experiences of other buffers; for a program in several buffers, the latest round is stored.

        Of equal rounds the later argument wins. This buffer keeps its settings, its capacity and the positions of its
        experiences; new programs follow in the order of the arguments. On an error nothing is stored.

        Args:
            *others: The other buffers, which stay as they are.

        Returns:
            How many were new, refreshed and evicted; older experiences of stored programs are not counted.

        Raises:
            TypeError: An argument is no buffer.
            ValueError: The buffers have different tokenizers.
        """
        for other in others:
            if not isinstance(other, ReplayBuffer):
                raise TypeError(f"others: must be replay buffers; got {type(other).__name__}. add() takes experiences")
        tokenizer = one_tokenizer(self.tokenizer, *(other.tokenizer for other in others))
        added = refreshed = 0
        for other in others:
            # An older experience of a program is left out, but its draws were draws of the program.
            for block in other._table.blocks():
                self._table.note_draws(block)
            # `newer` compares rounds with the table as it is: each buffer has to be stored before the next.
            arriving = [self._table.newer(block) for block in other._table.blocks()]
            new = self._table.put(arriving)
            added, refreshed = added + new, refreshed + sum(map(len, arriving)) - new
        self.tokenizer = tokenizer
        self._cache.clear()
        return AddReport(added=added, refreshed=refreshed, evicted=self._evict())

    def assign(self, other: ReplayBuffer) -> None:
        """Become a copy of another buffer: its content, its settings and its tokenizer."""
        self.__dict__.update(other.__dict__, _table=other._table.copy(), _cache={})

    def without_repairs(self) -> ReplayBuffer:
        """Return the buffer without repair experiences, for numbers of programs and tasks; itself if it has none."""
        written = written_programs(self._table.texts("task_id"))
        if written.all():
            return self
        other = ReplayBuffer()
        other.assign(self)
        other._table.keep(written)
        return other

    def take(self, positions: ArrayLike) -> list[Experience]:
        """Return the experiences at positions, shape [n], in the same order; positions may repeat."""
        return list(to_experiences(self._table.columns(positions)))

    def pass_rates(self) -> FloatArray:
        """Return the pass rates, shape [len(self)], in [0, 1]; read-only, like every array of the buffer."""
        # A copy: the next change of the table may overwrite its view.
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
            ValueError: Every program is truncated and left out, or the priority is "filter" and none of the others
                passes all of its tests.
        """
        return self._array("probability", self._probabilities)

    def _probabilities(self) -> FloatArray:
        learnable = self._learnable()
        if len(self) and not learnable.any():
            raise ValueError(
                f"buffer: all of its {len(self)} completions are truncated and left out, so there is nothing to draw. "
                "Raise max_completion_length, give stops, or set mask_truncated_completions=False"
            )
        probabilities = np.zeros(len(self))
        # Ranks and passing programs are counted among the programs that can be drawn.
        programs = self.columns().where(learnable)
        probabilities[learnable] = self._settings.probabilities(programs, last_round=self._last_round)
        return probabilities

    @property
    def last_round(self) -> bool:
        """Whether draws are those of the last round of a training; `PPERTrainer` sets it, and files do not hold it."""
        return self._last_round

    @last_round.setter
    def last_round(self, value: bool) -> None:
        if value != self._last_round:
            self._last_round = value
            self._cache.clear()

    def columns(self) -> ProgramColumns:
        """Return all that a priority may look at, a row for each program."""

        def computed() -> ProgramColumns:
            numbers = {
                # Copies, as the next change of the table may overwrite its view.
                name: self._table.numbers[name].copy()
                for name in ("logprob", "num_tokens", "round_index", "times_drawn", "cpu_seconds")
            }
            return ProgramColumns(
                self.p2values(),
                task=self.task_indices,
                possibility=self.possibilities,
                pass_rate=self.pass_rates,
                age=self.ages,
                outcomes=lambda: _outcomes(self._table.texts("outcomes")),
                source=lambda: self._table.texts("source").to_pylist(),
                **numbers,
            )

        return self._cached("columns", computed)

    def task_indices(self) -> NDArray[np.int64]:
        """Return the index of each program's task, shape [len(self)]; tasks are numbered as they were first stored."""

        def compute() -> NDArray[np.int64]:
            indices = self._table.texts("task_id").dictionary_encode().indices
            return np.asarray(indices.to_numpy(zero_copy_only=False), np.int64)

        return self._array("task", compute)

    def ages(self) -> NDArray[np.int64]:
        """Return the optimizer steps from the round of each program to the latest round, shape [len(self)]."""
        rounds = self.round_indices()
        return self._array("age", lambda: (rounds.max(initial=0) - rounds) * self.steps_per_round)

    def times_drawn(self) -> NDArray[np.int64]:
        """Return how often each program was drawn in rounds that are over, shape [len(self)]."""
        return self._array("times_drawn", lambda: self._table.numbers["times_drawn"].copy())

    def count_draws(self, positions: ArrayLike) -> None:
        """Count draws of a round that is over.

        Args:
            positions: Positions that were drawn, of any shape; they may repeat.
        """
        self._table.count_draws(np.asarray(positions, np.int64).ravel())
        self._cache.clear()

    def _learnable(self) -> NDArray[np.bool_]:
        """Return whether each program may be drawn, whatever its priority, shape [len(self)]."""

        def compute() -> NDArray[np.bool_]:
            truncated = self.truncated()
            if self.mask_truncated_completions or not truncated.any():
                return ~truncated
            # Chat templates strip white space: a truncated completion without any other text has no token to learn.
            positions = np.flatnonzero(truncated)
            texts = self._table.columns(positions).text.column("completion")
            learnable = np.ones(len(self), np.bool_)
            learnable[positions] = pc.not_equal(pc.utf8_trim_whitespace(texts), "").to_numpy(zero_copy_only=False)
            return learnable

        return self._array("learnable", compute)

    @property
    def can_draw(self) -> bool:
        """Whether there is a program to draw: "filter" draws only programs that pass every test."""
        learnable = self._learnable()
        return bool(learnable.any() and (self.priority != "filter" or (self.pass_rates()[learnable] >= 1.0).any()))

    def truncated(self) -> NDArray[np.bool_]:
        """Return whether each completion is truncated, shape [len(self)]."""
        return self._array("truncated", lambda: self._table.numbers["truncated"].copy())

    def text_prompts(self) -> int:
        """Count the programs that answer a text prompt, and no chat messages."""
        return int(self._table.texts("chat_prompt").null_count)

    def distribution(self) -> Distribution:
        """Return the distribution of draws from the buffer's present content; later changes do not affect it.

        Raises:
            ValueError: The buffer is empty, or its priority leaves nothing to draw.
        """
        if not len(self):
            raise ValueError(
                "buffer: must hold at least one program to draw; got an empty buffer. Add judged programs with add(), "
                "or collect some with trainer.collector.collect()"
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
        """Raise AssertionError if an invariant is broken: duplicates, too many experiences, stale arrays."""
        self._table.check_valid()
        _require(self.capacity is None or len(self) <= self.capacity, "more experiences than the capacity")
        fresh = self._table.numbers["pass_rate"]
        _require(np.array_equal(self.pass_rates(), fresh), "the cached pass rates are stale")
        _require(self.p2values().shape == (len(self),), "not one P2Value per experience")
        if self.can_draw:
            _require(abs(float(self.probabilities().sum()) - 1.0) <= 1e-12, "probabilities do not sum to 1")

    def digest(self) -> str:
        """Return a digest (64 hexadecimal digits) of the experiences, in order, and of the settings.

        Buffers with equal content have equal digests, however they were filled. The digest detects accidental
        differences but does not protect against forgery.
        """
        content = self._cached("digest", lambda: content_digest(self._table.blocks()))
        # Buffers of versions without later settings keep their digests.
        settings = self._settings.changed()
        return hashlib.sha256(json.dumps([settings, content], sort_keys=True).encode()).hexdigest()

    def state_dict(self) -> dict[str, Any]:
        """Return settings, tokenizer and content as plain values that can be written as JSON."""
        rows = [one.to_row() for block in self._table.blocks(CHUNK) for one in to_experiences(block)]
        return self._metadata() | {"experiences": rows}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore settings, tokenizer and content from a `state_dict`; on an error the buffer stays as it was.

        Args:
            state: The value that `state_dict` returned.

        Raises:
            ValueError: The state has another version, is malformed, contains duplicates or exceeds its capacity, or
                was written with a priority function other than this buffer's.
        """
        if not isinstance(state, Mapping):
            raise ValueError(f"state: must be a mapping made by state_dict; got {type(state).__name__}")
        rows = state.get("experiences")
        if not isinstance(rows, list):
            raise ValueError(f"state.experiences: missing or malformed; got {type(rows).__name__}")
        experiences = columns_in_blocks(_numbered(rows))
        # Into a new buffer first, so that an error leaves this buffer unchanged.
        self.__dict__.update(self._restored("state", state, experiences, self.priority).__dict__)

    def to_dataset(self) -> datasets.Dataset:
        """Return the experiences as a `datasets.Dataset` with the columns of `trl_pper.replay.experience.COLUMNS`.

        Raises:
            ValueError: Some prompts are text and some are chat messages, which no column type can hold together. Use
                `save`, which stores both.
        """
        # Chunks instead of blocks: each has to stay below 2 GiB of text.
        return to_dataset(self._table.blocks(CHUNK))

    @classmethod
    def from_dataset(cls, dataset: datasets.Dataset, **settings: Any) -> Self:
        """Build a buffer from the rows of a data set.

        Args:
            dataset: The data set; `Experience.from_row` describes the columns.
            **settings: Arguments of the constructor.
        """
        buffer = cls(**settings)
        buffer._put(list(from_dataset(dataset)))
        return buffer

    def to_sft(self, min_pass_rate: float = 1.0) -> datasets.Dataset:
        """Return the completions with a sufficient pass rate, for `SFTTrainer`, repairs among them.

        Args:
            min_pass_rate: Smallest pass rate to include, in [0, 1]; 1 includes only programs that pass every test.

        Returns:
            A data set with the columns `prompt` and `completion`: text, or messages where the prompts are messages.

        Raises:
            ValueError: `min_pass_rate` is out of range, no whole program reaches it, or some prompts are text and
                some are chat messages.
        """
        return trainers.sft_dataset(self, min_pass_rate=min_pass_rate)

    def to_preferences(
        self,
        strategy: str = "closest",
        *,
        pairs_per_task: int = 1,
        min_gap: float = 0.0,
        min_pass_rate: float = 1.0,
        seed: int = 0,
    ) -> datasets.Dataset:
        """Return pairs of a passing and a failing completion of the same prompt, for `DPOTrainer` and its like.

        Truncated completions and repairs are left out, and completions that are equal are no pair.

        Args:
            strategy: "closest" for the pairs of the smallest Levenshtein distance, of equal ones those stored first;
                "random"; or "mixed", half of each.
            pairs_per_task: Largest number of pairs of a task, at least 1.
            min_gap: Smallest difference of the two pass rates, in [0, 1]; any difference above 0 will do for 0.
            min_pass_rate: Smallest pass rate of the chosen completion, in [0, 1].
            seed: Seed of the random choices. They are the same whatever other tasks there are.

        Returns:
            A data set with the columns `prompt`, `chosen` and `rejected`.

        Raises:
            ValueError: An argument is out of range, there is no pair (the message counts what the tasks have), or
                some prompts are text and some are chat messages.

        Examples:
            >>> buffer = ReplayBuffer()
            >>> task = {"task_id": "one", "prompt": "1?"}
            >>> rows = [("return 1", 1.0), ("return 2", 0.0), ("print('no')", 0.0)]
            >>> buffer.add(Experience(**task, completion=text, program=text, pass_rate=rate) for text, rate in rows)
            AddReport(added=3, refreshed=0, evicted=0)
            >>> buffer.to_preferences()[0]
            {'prompt': '1?', 'chosen': 'return 1', 'rejected': 'return 2'}
        """
        rule = PairRule(
            strategy=strategy,
            pairs_per_task=pairs_per_task,
            min_gap=min_gap,
            min_pass_rate=min_pass_rate,
            seed=seed,
        )
        return trainers.preference_dataset(self, rule)

    def to_unpaired(self, min_pass_rate: float = 1.0, *, seed: int = 0) -> datasets.Dataset:
        """Return every whole completion with a label, for `KTOTrainer`, repairs among them.

        `KTOTrainer` does not shuffle, and estimates its KL term from each prompt with the completion of the row
        before. The rows are in a random order that spreads the rows of each prompt evenly.

        Args:
            min_pass_rate: Smallest pass rate of a completion with the label True (desirable), in [0, 1].
            seed: Seed of the order, at least 0.

        Returns:
            A data set with the columns `prompt`, `completion` and `label`. `label_weights(dataset["label"])` are the
            weights of `KTOConfig` that make up for unequal numbers of the labels.

        Raises:
            ValueError: An argument is out of range, the buffer holds no whole program, or some prompts are text and
                some are chat messages.
        """
        return trainers.unpaired_dataset(self, min_pass_rate=min_pass_rate, seed=seed)

    def to_reward_model(
        self,
        strategy: str = "closest",
        *,
        pairs_per_task: int = 1,
        min_gap: float = 0.0,
        min_pass_rate: float = 0.0,
        seed: int = 0,
    ) -> datasets.Dataset:
        """Return pairs of completions with the difference of their pass rates, for `RewardTrainer`.

        `RewardTrainer` takes pairs and no graded targets. Pass rates are graded nevertheless: any two programs with
        different pass rates may be a pair, and the reward of the better one has to lead by the difference.

        Args:
            strategy: As for `to_preferences`.
            pairs_per_task: As for `to_preferences`.
            min_gap: As for `to_preferences`.
            min_pass_rate: As for `to_preferences`; 1 chooses only programs that pass every test.
            seed: As for `to_preferences`.

        Returns:
            A data set with the columns `prompt`, `chosen`, `rejected` and `margin`, which is in (0, 1].

        Raises:
            ValueError: As for `to_preferences`.
        """
        rule = PairRule(
            strategy=strategy,
            pairs_per_task=pairs_per_task,
            min_gap=min_gap,
            min_pass_rate=min_pass_rate,
            seed=seed,
        )
        return trainers.reward_dataset(self, rule)

    def to_verl(self, tasks: Iterable[CodingTask]) -> datasets.Dataset:
        """Return the prompts with the tests of their tasks, in the layout that verl and rLLM read from Parquet files.

        Args:
            tasks: The tasks that the programs were written for. A buffer holds no tests.

        Returns:
            A data set with a row for each prompt and the columns `data_source`, `prompt`, `ability`, `reward_model`
            (its `ground_truth` is the native row of the task as JSON) and `extra_info` (with the mean pass rate and
            the number of the prompt's programs; a task of rLLM).

        Raises:
            ValueError: A prompt is text, since both ask by a chat template; the tests of a task are missing, or
                compare with a function that is not registered; or the buffer is empty.
        """
        return trainers.verl_dataset(self, tasks)

    def save(self, path: str | Path) -> None:
        """Write experiences, settings and tokenizer to a Parquet file, which appears complete or not at all."""
        metadata = self._metadata()
        # Pages of the file have checksums of their own; the names, types and settings around them have none.
        write_columns(path, self._table.blocks(), metadata=metadata | {"checksum": self._checksum(metadata)})

    @classmethod
    def load(cls, path: str | Path, *, priority: PriorityFunction | None = None) -> Self:
        """Read a buffer written by `save`.

        Args:
            path: The file.
            priority: The priority function that the buffer was saved with, if any: files contain no code.

        Raises:
            ValueError: The file is not a saved buffer, or needs the priority function.
        """
        metadata, blocks = read_columns(path)
        buffer = cls._restored(str(path), metadata, blocks, priority)
        known = metadata.pop("checksum", None)
        # Files of earlier versions have no checksum.
        if known is not None and known != buffer._checksum(metadata):
            raise ValueError(
                f"{path}: differs from the buffer that was saved, as its checksum tells. Restore it from a copy; "
                "rows that were changed on purpose are read by ReplayBuffer.from_dataset"
            )
        return buffer

    def contents(self) -> replay_hub.BufferContents:
        """Return a summary for model and data cards, which contains no tasks and no programs."""
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
        """Upload the buffer to the Hub as a data set, which `datasets.load_dataset` reads.

        The buffer is uploaded on this call only, never automatically.

        Args:
            repo_id: "owner/name"; created if it does not exist. Buffer and card of an earlier push are
                replaced.
            private: Whether only the owners see the data set. False publishes prompts and generated programs.
            token: Token with the right to write; None for the token of `hf auth login`.
            revision: Branch to commit to; None for the main branch.
            message: The commit's message.

        Returns:
            The address of the commit.

        Raises:
            ValueError: `private` is True, and the data set exists and is public.
            PermissionError: The token is missing or invalid, or lacks the right to write.
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
            repo_id: "owner/name".
            revision: Branch, tag or commit; None for the main branch.
            token: Token with the right to read; None for the token of `hf auth login`.
            priority: As in `load`.

        Raises:
            FileNotFoundError: There is no such data set, it contains no buffer, or the token has no access to it.
            PermissionError: The token is invalid or lacks the right to read.
        """
        return cls.load(replay_hub.download(repo_id, revision=revision, token=token), priority=priority)

    def _checksum(self, metadata: Mapping[str, Any]) -> str:
        """Return a digest of everything in a file of this buffer."""
        content = content_digest(self._table.blocks(), NUMBER_NAMES)
        return hashlib.sha256(json.dumps([metadata, content], sort_keys=True).encode()).hexdigest()

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
        """Build a buffer from saved metadata and experiences.

        Args:
            name: The name of the file or state in errors.
            metadata: Version, settings and tokenizer.
            blocks: The experiences.
            priority: The priority function, if the settings name a function.
        """
        if metadata.get("version") not in _READABLE_VERSIONS:
            raise ValueError(
                f"{name}: must be a buffer of version {STATE_VERSION}; got version {metadata.get('version')!r:.80}"
            )
        settings = metadata.get("settings")
        if not isinstance(settings, Mapping):
            raise ValueError(f"{name}.settings: missing or malformed; got {type(settings).__name__}")
        try:
            saved = BufferSettings.from_dict(settings, priority=priority)
            # Through the constructor, since a subclass may derive things of its own from the settings.
            buffer = cls(**vars(saved), tokenizer=metadata.get("tokenizer"))
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from error
        report = buffer._put(list(blocks))
        # `_put` joins duplicates and evicts silently, but a saved buffer needs neither.
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
        if name not in self._cache:
            self._cache[name] = compute()
        value: T = self._cache[name]
        return value


def _numbered(rows: Iterable[Any]) -> Iterator[Experience]:
    for number, row in enumerate(rows):
        place = f"state.experiences[{number}]"
        if not isinstance(row, Mapping):
            raise ValueError(f"{place}: must be a mapping made by state_dict; got {type(row).__name__}")
        try:
            yield Experience.from_row(row)
        except ValueError as error:
            raise ValueError(f"{place}: {error}") from error


def _outcomes(codes: pa.Array) -> list[tuple[Outcome, ...]]:
    # Most programs have one of a few patterns of outcomes.
    patterns: dict[tuple[int, ...], tuple[Outcome, ...]] = {}
    return [patterns.setdefault(tuple(row), tuple(OUTCOMES[code] for code in row)) for row in codes.to_pylist()]


def _lowest(values: NDArray[Any], count: int) -> NDArray[np.bool_]:
    """Return a mask, shape [n], of the `count` lowest values; of equal values the first are chosen."""
    # A partition instead of a sort: linear time, and ties at the bound are resolved by position.
    bound = np.partition(values, count - 1)[count - 1]
    lowest = np.asarray(values < bound)
    lowest[np.flatnonzero(values == bound)[: count - int(lowest.sum())]] = True
    return lowest


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise AssertionError(f"ReplayBuffer: {message}")
