"""A growing table of experiences without duplicates: columns that a million programs fit in.

Enters: columns. Leaves: columns, by position. Text is appended and stays: a refreshed experience points to a newer
row, and rows that nothing points to are dropped once they are the greater part. Which experiences stay is decided
elsewhere.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import ArrayLike, NDArray

from trl_pper.replay.columns import BLOCK_ROWS, NUMBER_NAMES, NUMBERS, TEXT, Columns, experience_key, experience_keys

#: What is kept of each position beside its numbers: the row of its text, and the entry, a number given once to each
#: program when it is first stored. Entries ascend with the position, so that removing some leaves the index as it is.
_PLACES = np.dtype([*NUMBERS.descr, ("row", np.int64), ("entry", np.int64)])


class ExperienceTable:
    """Experiences in the order in which their programs were first stored."""

    def __init__(self) -> None:
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
        """The numbers by position, shape [len(self)]; a view that the next change may overwrite."""
        return self._room[: self._length]

    def holds(self, task_id: str, program: str) -> bool:
        """Return whether a program is here."""
        try:
            return experience_key(task_id.encode(), program.encode()) in self._entries
        except UnicodeEncodeError:
            return False

    def newer(self, columns: Columns) -> Columns:
        """Return those experiences, of different programs, that are not here or here of an earlier or equal round."""
        entries = np.array([self._entries.get(key, -1) for key in experience_keys(columns)], np.int64)
        here = np.flatnonzero(entries >= 0)
        stored = self.numbers[np.searchsorted(self.numbers["entry"], entries[here])]
        chosen = np.ones(len(columns), np.bool_)
        chosen[here] = columns.numbers["round_index"][here] >= stored["round_index"]
        return columns.where(chosen)

    def put(self, parts: Sequence[Columns]) -> int:
        """Store experiences in order: a program not yet here at the end, any other where it stands.

        Returns:
            How many programs were not here before.
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
        place = np.searchsorted(self.numbers["entry"], entries)
        place = np.where(entries < self._next_entry, place, self._length + entries - self._next_entry)
        for part in parts:
            self._append_text(part.text)
        self._grow(self._length + len(new))
        # Of several values for one place, NumPy keeps the last.
        self.numbers[place] = arriving
        self._entries.update(new)
        self._next_entry += len(new)
        self._drop_garbage()
        return len(new)

    def keep(self, chosen: NDArray[np.bool_]) -> None:
        """Keep only the positions for which `chosen`, shape [len(self)], is true; they move up."""
        for key in experience_keys(self.columns(np.flatnonzero(~chosen))):
            del self._entries[key]
        kept = self.numbers[chosen]
        self._room[: len(kept)] = kept
        self._length = len(kept)
        self._drop_garbage()

    def columns(self, positions: ArrayLike) -> Columns:
        """Return the experiences at some positions, each in [0, len(self)), in the order given."""
        chosen = self.numbers[np.asarray(positions, np.int64)]
        numbers = np.empty(len(chosen), NUMBERS)
        for name in NUMBER_NAMES:
            numbers[name] = chosen[name]
        return Columns(text=self._text(chosen["row"]), numbers=numbers)

    def blocks(self, rows: int = BLOCK_ROWS) -> Iterator[Columns]:
        """Yield all experiences in order, some at a time."""
        for start in range(0, len(self), rows):
            yield self.columns(np.arange(start, min(start + rows, len(self))))

    def copy(self) -> ExperienceTable:
        """Return an independent table with the same content; text is shared."""
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

    def _grow(self, length: int) -> None:
        if length > len(self._room):
            # Doubling: a table filled a few programs at a time copies each of them about once.
            room = np.empty(max(length, 2 * len(self._room)), _PLACES)
            room[: self._length] = self.numbers
            self._room = room
        self._length = length

    def _append_text(self, text: pa.RecordBatch) -> None:
        """Append rows, and join small batches at the end, so that there are never many."""
        if not len(text):
            return
        self._texts.append(text)
        while len(self._texts) > 1:
            before, last = map(len, self._texts[-2:])
            if before > 2 * last or before + last > BLOCK_ROWS:
                break
            self._texts[-2:] = [pa.concat_batches(self._texts[-2:])]
        self._count()

    def _count(self) -> None:
        self._starts = np.cumsum([0, *map(len, self._texts)], dtype=np.int64)

    def _text(self, rows: NDArray[np.int64]) -> pa.RecordBatch:
        """Return rows of text in the order given."""
        if not len(rows):
            return pa.RecordBatch.from_pylist([], schema=TEXT)
        ascending = bool(np.all(np.diff(rows) >= 0))
        order = None if ascending else np.argsort(rows, kind="stable")
        ordered = rows if order is None else rows[order]
        batches = np.searchsorted(self._starts, ordered, side="right") - 1
        first = np.flatnonzero(np.diff(batches, prepend=-1))
        pieces = [
            _taken(self._texts[batches[start]], ordered[start:end] - self._starts[batches[start]])
            for start, end in zip(first, [*first[1:], len(rows)], strict=True)
        ]
        text = pieces[0] if len(pieces) == 1 else pa.concat_batches(pieces)
        return text if order is None else text.take(pa.array(np.argsort(order)))

    def _drop_garbage(self) -> None:
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
    if rows[-1] - rows[0] == len(rows) - 1 and np.all(np.diff(rows) == 1):
        return text.slice(int(rows[0]), len(rows))
    return text.take(pa.array(rows))


def _require(condition: Any, message: str) -> None:
    if not condition:
        raise AssertionError(f"ExperienceTable: {message}")
