"""Store experiences without duplicates in a growing table of columns, for up to millions of programs.

The table does not decide which experiences to evict.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import ArrayLike, NDArray

from trl_pper.replay.columns import BLOCK_ROWS, NUMBER_NAMES, NUMBERS, TEXT, Columns, experience_key, experience_keys

#: Fields of each position: its numbers, the row of its text, and its entry, a number that each program gets when it is
#: first stored. Entries ascend with the position, so that an index from keys to entries stays valid when experiences
#: are removed; positions would change.
_PLACES = np.dtype([*NUMBERS.descr, ("row", np.int64), ("entry", np.int64)])


class ExperienceTable:
    """A table of experiences, in the order in which their programs were first stored."""

    def __init__(self) -> None:
        # Text is only appended: a replaced experience points to a newer row, and `_drop_garbage` removes the old rows.
        self._texts: list[pa.RecordBatch] = []
        self._starts = np.zeros(1, np.int64)
        self._room = np.empty(0, _PLACES)
        self._length = 0
        self._entries: dict[bytes, int] = {}
        self._next_entry = 0

    def __len__(self) -> int:
        return self._length

    @property
    def numbers(self) -> NDArray[np.void]:
        """The numbers at each position, shape [len(self)]; a view that the next change may overwrite."""
        return self._room[: self._length]

    def holds(self, task_id: str, program: str) -> bool:
        """Return whether a program is stored."""
        try:
            return experience_key(task_id.encode(), program.encode()) in self._entries
        except UnicodeEncodeError:
            # No experience has lone surrogates in its text.
            return False

    def newer(self, columns: Columns) -> Columns:
        """Return the experiences whose program is not stored, or stored from an earlier or equal round.

        Args:
            columns: Experiences of different programs.
        """
        entries = np.array([self._entries.get(key, -1) for key in experience_keys(columns)], np.int64)
        here = np.flatnonzero(entries >= 0)
        stored = self.numbers[np.searchsorted(self.numbers["entry"], entries[here])]
        chosen = np.ones(len(columns), np.bool_)
        chosen[here] = columns.numbers["round_index"][here] >= stored["round_index"]
        return columns.where(chosen)

    def note_draws(self, columns: Columns) -> None:
        """Raise the numbers of draws of stored programs to those of the same programs among experiences.

        Args:
            columns: Experiences of different programs.
        """
        entries = np.array([self._entries.get(key, -1) for key in experience_keys(columns)], np.int64)
        here = np.flatnonzero(entries >= 0)
        drawn, place = self.numbers["times_drawn"], np.searchsorted(self.numbers["entry"], entries[here])
        drawn[place] = np.maximum(drawn[place], columns.numbers["times_drawn"][here])

    def put(self, parts: Sequence[Columns]) -> int:
        """Store experiences in order: a new program at the end, a stored program at its position.

        A stored program keeps its number of draws, unless the arriving number is larger.

        Returns:
            How many programs are new.
        """
        keys = [key for part in parts for key in experience_keys(part)]
        if not keys:
            return 0
        new: dict[bytes, int] = {}
        entries = np.empty(len(keys), np.int64)
        for index, key in enumerate(keys):
            entry = self._entries.get(key)
            entries[index] = new.setdefault(key, self._next_entry + len(new)) if entry is None else entry
        arriving = np.empty(len(keys), _PLACES)
        for name in NUMBER_NAMES:
            arriving[name] = np.concatenate([part.numbers[name] for part in parts])
        arriving["entry"] = entries
        arriving["row"] = self._starts[-1] + np.arange(len(keys))
        # Entries ascend with the position: a binary search finds stored programs, and new programs follow the others.
        place = np.searchsorted(self.numbers["entry"], entries)
        place = np.where(entries < self._next_entry, place, self._length + entries - self._next_entry)
        # A program that is written again has still been drawn.
        here = np.flatnonzero(entries < self._next_entry)
        arriving["times_drawn"][here] = np.maximum(
            arriving["times_drawn"][here], self.numbers["times_drawn"][place[here]]
        )
        if len(set(keys)) < len(keys):
            # A program may arrive several times, of which the last is stored below.
            _, group = np.unique(entries, return_inverse=True)
            most = np.zeros(group.max() + 1, np.int64)
            np.maximum.at(most, group, arriving["times_drawn"])
            arriving["times_drawn"] = most[group]
        for part in parts:
            self._append_text(part.text)
        self._grow(self._length + len(new))
        # If a program arrives several times, NumPy stores the last value.
        self.numbers[place] = arriving
        self._entries.update(new)
        self._next_entry += len(new)
        self._drop_garbage()
        return len(new)

    def keep(self, chosen: NDArray[np.bool_]) -> None:
        """Remove the experiences for which `chosen`, shape [len(self)], is false; the others close the gaps."""
        for key in experience_keys(self.columns(np.flatnonzero(~chosen))):
            del self._entries[key]
        kept = self.numbers[chosen]
        self._room[: len(kept)] = kept
        self._length = len(kept)
        self._drop_garbage()

    def columns(self, positions: ArrayLike) -> Columns:
        """Return the experiences at positions in [0, len(self)), in the order of the positions."""
        chosen = self.numbers[np.asarray(positions, np.int64)]
        numbers = np.empty(len(chosen), NUMBERS)
        for name in NUMBER_NAMES:
            numbers[name] = chosen[name]
        return Columns(text=self._text(chosen["row"]), numbers=numbers)

    def blocks(self, rows: int = BLOCK_ROWS) -> Iterator[Columns]:
        """Yield all experiences in order, in blocks of `rows`."""
        for start in range(0, len(self), rows):
            yield self.columns(np.arange(start, min(start + rows, len(self))))

    def copy(self) -> ExperienceTable:
        """Return an independent table with the same content; both share the immutable text."""
        twin = ExperienceTable()
        twin.__dict__.update(
            self.__dict__, _texts=list(self._texts), _room=self.numbers.copy(), _entries=dict(self._entries)
        )
        return twin

    def check_valid(self) -> None:
        """Raise AssertionError if an invariant is broken."""
        entries, rows = self.numbers["entry"], self.numbers["row"]
        _require(len(np.unique(rows)) == len(self), "two experiences share a row of text")
        _require(bool(np.all(np.diff(entries) > 0)), "the entries do not ascend")
        _require(sum(map(len, self._texts)) == self._starts[-1], "the rows of text are miscounted")
        _require(bool(np.all((rows >= 0) & (rows < self._starts[-1]))), "a row of text is missing")
        _require(self._starts[-1] <= 2 * len(self), "more garbage than experiences")
        keys = [key for block in self.blocks() for key in experience_keys(block)]
        _require(len(set(keys)) == len(keys), "a program is stored twice")
        _require(self._entries == dict(zip(keys, entries.tolist(), strict=True)), "the index does not match")

    def texts(self, name: str) -> pa.Array:
        """Return a column of text of all experiences."""
        return self._text(self.numbers["row"], [name]).column(0)

    def count_draws(self, positions: NDArray[np.int64]) -> None:
        """Add draws to the numbers of draws, one for each position; positions may repeat."""
        self.numbers["times_drawn"] += np.bincount(positions, minlength=len(self))

    def _grow(self, length: int) -> None:
        if length > len(self._room):
            # Doubled, so that a table filled by few programs at a time copies each program about once.
            room = np.empty(max(length, 2 * len(self._room)), _PLACES)
            room[: self._length] = self.numbers
            self._room = room
        self._length = length

    def _append_text(self, text: pa.RecordBatch) -> None:
        """Append rows of text."""
        if not len(text):
            return
        self._texts.append(text)
        # Small batches at the end are joined, so that there are never many: each read looks at every batch it needs.
        while len(self._texts) > 1:
            before, last = map(len, self._texts[-2:])
            if before > 2 * last or before + last > BLOCK_ROWS:
                break
            self._texts[-2:] = [pa.concat_batches(self._texts[-2:])]
        self._count()

    def _count(self) -> None:
        self._starts = np.cumsum([0, *map(len, self._texts)], dtype=np.int64)

    def _text(self, rows: NDArray[np.int64], names: Sequence[str] = TEXT.names) -> pa.RecordBatch:
        """Return rows of text columns, in the order of `rows`."""
        if not len(rows):
            return pa.RecordBatch.from_pylist([], schema=pa.schema([TEXT.field(name) for name in names]))
        # Sorted, so that each batch is read once; the last line restores the order.
        ascending = bool(np.all(np.diff(rows) >= 0))
        order = None if ascending else np.argsort(rows, kind="stable")
        ordered = rows if order is None else rows[order]
        batches = np.searchsorted(self._starts, ordered, side="right") - 1
        first = np.flatnonzero(np.diff(batches, prepend=-1))
        pieces = [
            _taken(self._texts[batches[start]].select(list(names)), ordered[start:end] - self._starts[batches[start]])
            for start, end in zip(first, [*first[1:], len(rows)], strict=True)
        ]
        text = pieces[0] if len(pieces) == 1 else pa.concat_batches(pieces)
        return text if order is None else text.take(pa.array(np.argsort(order)))

    def _drop_garbage(self) -> None:
        # Only once most rows are garbage, so that the cost of copying the others is spread over many changes.
        if self._starts[-1] <= 2 * len(self):
            return
        used = np.zeros(self._starts[-1], np.bool_)
        used[self.numbers["row"]] = True
        texts, starts = self._texts, self._starts
        self._texts, self._starts = [], np.zeros(1, np.int64)
        for text, start in zip(texts, starts[:-1], strict=True):
            self._append_text(text.filter(pa.array(used[start : start + len(text)])))
        self.numbers["row"] = (np.cumsum(used) - 1)[self.numbers["row"]]


def _taken(text: pa.RecordBatch, rows: NDArray[np.int64]) -> pa.RecordBatch:
    # A slice shares memory with the batch, `take` copies.
    if rows[-1] - rows[0] == len(rows) - 1 and np.all(np.diff(rows) == 1):
        return text.slice(int(rows[0]), len(rows))
    return text.take(pa.array(rows))


def _require(condition: Any, message: str) -> None:
    if not condition:
        raise AssertionError(f"ExperienceTable: {message}")
