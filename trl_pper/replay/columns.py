"""Hold experiences as columns (Arrow for text, NumPy for numbers), and compute their keys and digests.

Columns are immutable. This module does not check values: `Experience` has checked them or, for rows of files and data
sets, `trl_pper.replay.arrow`.
"""

from __future__ import annotations

import functools
import hashlib
import itertools
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import xxhash
from numpy.typing import ArrayLike, NDArray

from trl_pper.judge.verdict import Outcome
from trl_pper.replay.experience import COLUMNS, REPAIR, Experience, chat_json

#: Types of text columns. Offsets have 64 bits, as a million programs may be more than 2 GiB. Outcomes are stored as
#: positions in `OUTCOMES`, which take a tenth of the size of their names.
_TEXT_TYPES = {
    "string": pa.large_string(),
    "list<string>": pa.large_list(pa.int8()),
    "list<int32>": pa.large_list(pa.int32()),
}
#: Text columns of experiences, and lists. In each row either `prompt` or `chat_prompt` (messages as JSON) is null.
TEXT = pa.schema(
    [
        (column, _TEXT_TYPES[kind])
        for name, kind in COLUMNS.items()
        if kind in _TEXT_TYPES
        for column in ((name, "chat_prompt") if name == "prompt" else (name,))
    ]
)

#: Number columns of experiences, Booleans among them. NaN is an unknown log-probability or CPU time, 0 an unknown
#: number of tokens.
NUMBER_NAMES = tuple(name for name, kind in COLUMNS.items() if kind in ("float64", "int64", "bool"))
NUMBERS = np.dtype([(name, COLUMNS[name]) for name in NUMBER_NAMES])

#: Numbers that may be unknown.
OPTIONAL_NUMBERS = tuple(field.name for field in fields(Experience) if field.default is None)

#: Numbers that are part of a digest. CPU time is not: it is measured, and differs between two runs that do the same.
DIGESTED_NUMBERS = tuple(name for name in NUMBER_NAMES if name != "cpu_seconds")

#: Rows in a block, the unit of storage and of work, so that intermediate arrays stay small.
BLOCK_ROWS = 65_536

#: Number of experiences that exist as objects at a time: they take several times the memory of their columns.
CHUNK = 4096

#: Digests contain positions in this tuple: append new outcomes at its end.
OUTCOMES = tuple(Outcome)


@dataclass(frozen=True, kw_only=True)
class Columns:
    """A sequence of n experiences as columns.

    Args:
        text: The text columns, with the schema `TEXT`.
        numbers: The number columns, shape [n], with the fields `NUMBERS`.
    """

    text: pa.RecordBatch
    numbers: NDArray[np.void]

    def __len__(self) -> int:
        return len(self.numbers)

    def where(self, chosen: NDArray[np.bool_]) -> Columns:
        """Return the experiences for which `chosen`, shape [n], is true."""
        return self if chosen.all() else Columns(text=self.text.filter(pa.array(chosen)), numbers=self.numbers[chosen])


def to_columns(experiences: Sequence[Experience]) -> Columns:
    """Convert experiences to columns."""
    values: dict[str, Any] = {name: [getattr(one, name) for one in experiences] for name in COLUMNS}
    prompts = values["prompt"]
    values["prompt"] = [None if isinstance(prompt, list) else prompt for prompt in prompts]
    values["chat_prompt"] = [chat_json(prompt) if isinstance(prompt, list) else None for prompt in prompts]
    outcomes = encode_outcomes(pa.array(values.pop("outcomes"), pa.large_list(pa.large_string())))
    texts = [outcomes if name == "outcomes" else pa.array(values[name], TEXT.field(name).type) for name in TEXT.names]
    numbers = {
        name: [unknown_number(name) if value is None else value for value in values[name]] for name in NUMBER_NAMES
    }
    return Columns(text=pa.record_batch(texts, schema=TEXT), numbers=to_numbers(**numbers))


def unknown_number(name: str) -> float:
    """Return the number that marks an unknown value in a column: NaN for floats, otherwise 0 or False."""
    return np.nan if NUMBERS[name].kind == "f" else NUMBERS[name].type(0).item()


def columns_in_blocks(experiences: Iterable[Experience]) -> Iterator[Columns]:
    """Convert experiences to columns, and yield them in blocks of `BLOCK_ROWS`.

    Raises:
        TypeError: An element is not an Experience.
    """
    chunks = _columns_in_chunks(experiences)
    while block := list(itertools.islice(chunks, BLOCK_ROWS // CHUNK)):
        yield Columns(
            text=pa.concat_batches([chunk.text for chunk in block]),
            numbers=np.concatenate([chunk.numbers for chunk in block]),
        )


def _columns_in_chunks(experiences: Iterable[Experience]) -> Iterator[Columns]:
    iterator = iter(experiences)
    while chunk := list(itertools.islice(iterator, CHUNK)):
        for item in chunk:
            if not isinstance(item, Experience):
                raise TypeError(
                    f"experiences: must be Experience objects; got {type(item).__name__}. "
                    "Experience.from_row builds one from a mapping"
                )
        yield to_columns(chunk)


def to_numbers(**columns: ArrayLike) -> NDArray[np.void]:
    """Return number columns, each of shape [n], as a structured array with the fields `NUMBERS`."""
    numbers = np.zeros(len(np.asarray(columns["pass_rate"])), NUMBERS)
    for name in NUMBER_NAMES:
        numbers[name] = columns[name]
    # Digests read the bits: NaN has many bit patterns, and -0.0, which equals 0.0, has bits of its own.
    numbers["logprob"][np.isnan(numbers["logprob"])] = np.nan
    for name in ("pass_rate", "logprob"):
        numbers[name] += 0.0
    return numbers


def to_experiences(columns: Columns) -> Iterator[Experience]:
    """Convert columns back to experiences."""
    lists = {name: column.to_pylist() for name, column in zip(TEXT.names, columns.text.columns, strict=True)}
    lists |= {name: columns.numbers[name].tolist() for name in NUMBER_NAMES}
    for name in OPTIONAL_NUMBERS:
        unknown = unknown_number(name)
        # The second comparison finds NaN, which does not equal itself.
        lists[name] = [None if value == unknown or value != value else value for value in lists[name]]
    chats = lists.pop("chat_prompt")
    lists["prompt"] = [
        text if chat is None else json.loads(chat) for text, chat in zip(lists["prompt"], chats, strict=True)
    ]
    # Most programs have one of a few patterns of outcomes: experiences share their tuples.
    patterns: dict[tuple[int, ...], tuple[Outcome, ...]] = {}
    for row, codes in enumerate(map(tuple, lists["outcomes"])):
        if codes not in patterns:
            patterns[codes] = tuple(OUTCOMES[code] for code in codes)
        lists["outcomes"][row] = patterns[codes]
    lists["token_ids"] = list(map(tuple, lists["token_ids"]))
    for values in zip(*(lists[name] for name in COLUMNS), strict=True):
        experience = object.__new__(Experience)
        # These values have passed the checks of the constructor, which would take three times as long.
        experience.__dict__.update(zip(COLUMNS, values, strict=True))
        yield experience


@functools.cache
def _outcome_names() -> pa.Array:
    # Not at import: the first array that Arrow makes from Python objects imports pandas.
    return pa.array([str(outcome) for outcome in OUTCOMES], pa.large_string())


def encode_outcomes(names: pa.Array) -> pa.Array:
    """Convert lists of outcome names to lists of positions in `OUTCOMES`.

    A null becomes an empty list, an unknown name -1.
    """
    codes = pc.fill_null(pc.index_in(names.flatten(), value_set=_outcome_names()), -1).cast(pa.int8())
    lengths = np.diff(names.offsets.to_numpy()).astype(np.int64)
    # A null may span values, which `flatten` has discarded.
    lengths[names.is_null().to_numpy(zero_copy_only=False)] = 0
    offsets = np.concatenate(([0], np.cumsum(lengths)))
    return pa.LargeListArray.from_arrays(pa.array(offsets, pa.int64()), codes)


def decode_outcomes(codes: pa.Array) -> pa.Array:
    """Convert lists of positions in `OUTCOMES` to lists of outcome names."""
    names = pa.DictionaryArray.from_arrays(codes.flatten(), _outcome_names()).cast(pa.string())
    # Offsets of a slice count from the start of the whole array, but `flatten` returns the values of the slice only.
    offsets = codes.offsets.to_numpy()
    return pa.ListArray.from_arrays(pa.array(offsets - offsets[0], pa.int32()), names)


def written_programs(task_ids: pa.Array) -> NDArray[np.bool_]:
    """Return whether each experience is a program that was written for its task, and no repair, shape [n]."""
    return ~np.asarray(pc.match_substring_regex(task_ids, REPAIR).to_numpy(zero_copy_only=False), np.bool_)


def experience_key(task_id: bytes, program: bytes) -> bytes:
    """Return a hash of 16 bytes that identifies a program of a task, both given in UTF-8."""
    # XXH3 is not cryptographic: a collision can be constructed, but is not to be expected in 10**15 programs. The
    # length in front distinguishes ("a", "bc") from ("ab", "c").
    return xxhash.xxh3_128_digest(b"%d:%b%b" % (len(task_id), task_id, program))


def experience_keys(columns: Columns) -> list[bytes]:
    """Return the key of each experience."""
    tasks, programs = (
        columns.text.column(name).cast(pa.large_binary()).to_pylist() for name in ("task_id", "program")
    )
    return list(map(experience_key, tasks, programs))


def content_digest(blocks: Iterable[Columns], numbers: Sequence[str] = DIGESTED_NUMBERS) -> str:
    """Return a digest (64 hexadecimal digits) of experiences in order, independent of their division into blocks.

    The digest does not protect against forgery: XXH3, the hash of the columns, is fast but not cryptographic.

    Args:
        blocks: The experiences.
        numbers: Names of the number columns that count.
    """
    # Two streams for each column, of all lengths and of all bytes, in which no boundary between blocks shows.
    lengths = {name: xxhash.xxh3_128() for name in TEXT.names}
    contents = {name: xxhash.xxh3_128() for name in (*TEXT.names, *numbers)}
    empty = dict.fromkeys(("truncated", "token_ids", "times_drawn"), True)
    for block in filter(len, blocks):
        for name, column in zip(TEXT.names, block.text.columns, strict=True):
            length, content = (_list_stream if pa.types.is_large_list(column.type) else _text_stream)(column)
            lengths[name].update(length.data)
            contents[name].update(content.data)
        for name in numbers:
            contents[name].update(np.ascontiguousarray(block.numbers[name]).data)
        for name in ("truncated", "times_drawn"):
            empty[name] &= not block.numbers[name].any()
        empty["token_ids"] &= not len(block.text.column("token_ids").flatten())
    # Buffers of versions without these columns keep their digests.
    for name in (name for name, is_empty in empty.items() if is_empty):
        lengths.pop(name, None)
        contents.pop(name, None)
    sha = hashlib.sha256()
    for stream in (*lengths.values(), *contents.values()):
        sha.update(stream.digest())
    return sha.hexdigest()


def _text_stream(column: pa.Array) -> tuple[NDArray[np.int64], NDArray[np.uint8]]:
    """Return the lengths of texts, -1 for null, and their concatenated bytes."""
    null = column.is_null().to_numpy(zero_copy_only=False)
    if null.any():
        # Arrow does not define the bytes of a null.
        column = column.fill_null("")
    _, offsets, data = column.buffers()
    bounds = np.frombuffer(offsets, np.int64, count=len(column) + 1, offset=8 * column.offset)
    lengths = np.where(null, -1, np.diff(bounds))
    return lengths, np.frombuffer(data or b"", np.uint8)[bounds[0] : bounds[-1]]


def _list_stream(column: pa.Array) -> tuple[NDArray[np.int64], NDArray[Any]]:
    """Return the lengths of lists and their concatenated values."""
    return np.diff(column.offsets.to_numpy()), column.flatten().to_numpy()
