"""Experiences as columns: Arrow for what is text, NumPy for what is a number.

Enters: experiences. Leaves: columns of them, their keys, their digest, and the same experiences again. Columns are
never changed once made. Whether they hold what an experience may hold was checked before: by `Experience`, or by
`trl_pper.replay.arrow` for rows that never were objects.
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
from trl_pper.replay.experience import COLUMNS, Experience, chat_json

#: Text of experiences. 64-bit offsets, as a million programs may be more than 2 GiB. Of `prompt` and `chat_prompt`
#: (messages as JSON) one is null. Outcomes are positions in `OUTCOMES`, a tenth of the size of their names.
_TEXT_TYPES = {"string": pa.large_string(), "list<string>": pa.large_list(pa.int8())}
TEXT = pa.schema(
    [
        (column, _TEXT_TYPES[kind])
        for name, kind in COLUMNS.items()
        if kind in _TEXT_TYPES
        for column in ((name, "chat_prompt") if name == "prompt" else (name,))
    ]
)

#: Numbers of experiences. NaN is an unknown log-probability or CPU time, 0 an unknown number of tokens.
NUMBER_NAMES = tuple(name for name, kind in COLUMNS.items() if kind in ("float64", "int64"))
NUMBERS = np.dtype([(name, COLUMNS[name]) for name in NUMBER_NAMES])

#: Numbers that may be unknown.
OPTIONAL_NUMBERS = tuple(field.name for field in fields(Experience) if field.default is None)

#: Numbers that are part of a digest: CPU time is measured, and two runs that do the same measure different times.
DIGESTED_NUMBERS = tuple(name for name in NUMBER_NAMES if name != "cpu_seconds")

#: Rows of text that lie together, and that are worked on at a time, so that what is made on the way stays small.
BLOCK_ROWS = 65_536

#: Experiences that exist as objects at a time: they take several times the memory of their columns.
CHUNK = 4096

#: Digests and files hold positions in this tuple: new outcomes go to its end.
OUTCOMES = tuple(Outcome)


@dataclass(frozen=True, kw_only=True)
class Columns:
    """Some experiences, in order.

    Args:
        text: What is text, with the schema `TEXT`.
        numbers: What is a number, shape [n], with the fields `NUMBERS`.
    """

    text: pa.RecordBatch
    numbers: NDArray[np.void]

    def __len__(self) -> int:
        return len(self.numbers)

    def where(self, chosen: NDArray[np.bool_]) -> Columns:
        """Return those experiences for which `chosen`, shape [n], is true."""
        return self if chosen.all() else Columns(text=self.text.filter(pa.array(chosen)), numbers=self.numbers[chosen])


def to_columns(experiences: Sequence[Experience]) -> Columns:
    """Return experiences as columns."""
    values: dict[str, Any] = {name: [getattr(one, name) for one in experiences] for name in COLUMNS}
    prompts = values["prompt"]
    values["prompt"] = [None if isinstance(prompt, list) else prompt for prompt in prompts]
    values["chat_prompt"] = [chat_json(prompt) if isinstance(prompt, list) else None for prompt in prompts]
    outcomes = encode_outcomes(pa.array(values.pop("outcomes"), pa.large_list(pa.large_string())))
    texts = [outcomes if name == "outcomes" else pa.array(values[name], pa.large_string()) for name in TEXT.names]
    numbers = {
        name: [unknown_number(name) if value is None else value for value in values[name]] for name in NUMBER_NAMES
    }
    return Columns(text=pa.record_batch(texts, schema=TEXT), numbers=to_numbers(**numbers))


def unknown_number(name: str) -> float:
    """Return the number that stands for an unknown one in a column: NaN, or 0 among whole numbers."""
    return np.nan if NUMBERS[name].kind == "f" else 0


def columns_in_blocks(experiences: Iterable[Experience]) -> Iterator[Columns]:
    """Yield experiences as columns, `BLOCK_ROWS` at a time.

    Raises:
        TypeError: Something is not an Experience.
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
    """Return the columns `NUMBERS`, shape [n], as one array, with one NaN and one zero."""
    numbers = np.zeros(len(np.asarray(columns["pass_rate"])), NUMBERS)
    for name in NUMBER_NAMES:
        numbers[name] = columns[name]
    numbers["logprob"][np.isnan(numbers["logprob"])] = np.nan
    for name in ("pass_rate", "logprob"):
        numbers[name] += 0.0  # -0.0 equals 0.0, and their digests are to be equal too.
    return numbers


def to_experiences(columns: Columns) -> Iterator[Experience]:
    """Yield columns as experiences."""
    lists = {name: column.to_pylist() for name, column in zip(TEXT.names, columns.text.columns, strict=True)}
    lists |= {name: columns.numbers[name].tolist() for name in NUMBER_NAMES}
    for name in OPTIONAL_NUMBERS:
        unknown = unknown_number(name)
        # NaN equals nothing, itself neither.
        lists[name] = [None if value == unknown or value != value else value for value in lists[name]]
    chats = lists.pop("chat_prompt")
    lists["prompt"] = [
        text if chat is None else json.loads(chat) for text, chat in zip(lists["prompt"], chats, strict=True)
    ]
    # Most programs of a collection share a few patterns of outcomes: each is made once.
    patterns: dict[tuple[int, ...], tuple[Outcome, ...]] = {}
    for row, codes in enumerate(map(tuple, lists["outcomes"])):
        if codes not in patterns:
            patterns[codes] = tuple(OUTCOMES[code] for code in codes)
        lists["outcomes"][row] = patterns[codes]
    for values in zip(*(lists[name] for name in COLUMNS), strict=True):
        experience = object.__new__(Experience)
        # Not through the constructor, whose checks these values have passed: that would take three times as long.
        experience.__dict__.update(zip(COLUMNS, values, strict=True))
        yield experience


@functools.cache
def _outcome_names() -> pa.Array:
    # Not when the module is loaded: the first array that Arrow makes of Python's objects loads pandas.
    return pa.array([str(outcome) for outcome in OUTCOMES], pa.large_string())


def encode_outcomes(names: pa.Array) -> pa.Array:
    """Return lists of outcomes' names as lists of their positions in `OUTCOMES`.

    A null is an empty list; -1 stands for a name that no outcome has.
    """
    codes = pc.fill_null(pc.index_in(names.flatten(), value_set=_outcome_names()), -1).cast(pa.int8())
    lengths = np.diff(names.offsets.to_numpy()).astype(np.int64)
    lengths[names.is_null().to_numpy(zero_copy_only=False)] = 0
    offsets = np.concatenate(([0], np.cumsum(lengths)))
    return pa.LargeListArray.from_arrays(pa.array(offsets, pa.int64()), codes)


def decode_outcomes(codes: pa.Array) -> pa.Array:
    """Return what `encode_outcomes` encoded, as lists of names."""
    names = pa.DictionaryArray.from_arrays(codes.flatten(), _outcome_names()).cast(pa.string())
    offsets = codes.offsets.to_numpy()
    return pa.ListArray.from_arrays(pa.array(offsets - offsets[0], pa.int32()), names)


def experience_key(task_id: bytes, program: bytes) -> bytes:
    """Return 16 bytes that name a program of a task, both in UTF-8.

    XXH3 is no cryptographic hash: two programs with one key could be made, but two are not met in 10**15 programs.
    """
    # The length in front keeps ("a", "bc") and ("ab", "c") apart.
    return xxhash.xxh3_128_digest(b"%d:%b%b" % (len(task_id), task_id, program))


def experience_keys(columns: Columns) -> list[bytes]:
    """Return the key of each experience."""
    tasks, programs = (
        columns.text.column(name).cast(pa.large_binary()).to_pylist() for name in ("task_id", "program")
    )
    return list(map(experience_key, tasks, programs))


def content_digest(blocks: Iterable[Columns]) -> str:
    """Return a digest (64 hexadecimal digits) of experiences in order, however they are dealt out to blocks.

    It tells different experiences apart, not forged ones: the hash of the columns, XXH3, is fast, not cryptographic.
    """
    # Two streams a column, all lengths and all bytes: so no boundary between blocks is seen.
    lengths = {name: xxhash.xxh3_128() for name in TEXT.names}
    contents = {name: xxhash.xxh3_128() for name in (*TEXT.names, *DIGESTED_NUMBERS)}
    for block in filter(len, blocks):
        for name, column in zip(TEXT.names, block.text.columns, strict=True):
            length, content = (_list_stream if name == "outcomes" else _text_stream)(column)
            lengths[name].update(length.data)
            contents[name].update(content.data)
        for name in DIGESTED_NUMBERS:
            contents[name].update(np.ascontiguousarray(block.numbers[name]).data)
    sha = hashlib.sha256()
    for stream in (*lengths.values(), *contents.values()):
        sha.update(stream.digest())
    return sha.hexdigest()


def _text_stream(column: pa.Array) -> tuple[NDArray[np.int64], NDArray[np.uint8]]:
    """Return the lengths of texts, -1 for null, and their bytes one behind the other."""
    null = column.is_null().to_numpy(zero_copy_only=False)
    if null.any():
        # What lies behind a null is not defined.
        column = column.fill_null("")
    _, offsets, data = column.buffers()
    bounds = np.frombuffer(offsets, np.int64, count=len(column) + 1, offset=8 * column.offset)
    lengths = np.where(null, -1, np.diff(bounds))
    return lengths, np.frombuffer(data or b"", np.uint8)[bounds[0] : bounds[-1]]


def _list_stream(column: pa.Array) -> tuple[NDArray[np.int64], NDArray[np.int8]]:
    """Return the lengths of lists and their values one behind the other."""
    return np.diff(column.offsets.to_numpy()), column.flatten().to_numpy()
