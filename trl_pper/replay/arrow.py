"""Convert columns of experiences to Arrow tables, Parquet files and data sets, and read and check them.

Rows from files, data sets and users are checked as `Experience.from_row` does, with the same defaults and errors, but
for all rows at once.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from trl_pper.files import atomic_file, parquet_errors
from trl_pper.generation.source import LOGPROB_TOLERANCE
from trl_pper.replay.columns import (
    BLOCK_ROWS,
    NUMBER_NAMES,
    OPTIONAL_NUMBERS,
    TEXT,
    Columns,
    columns_in_blocks,
    decode_outcomes,
    encode_outcomes,
    to_numbers,
    unknown_number,
)
from trl_pper.replay.experience import COLUMNS, Experience, arrow_schema, chat_json, prompt_name, without_padding
from trl_pper.tasks.task import check_prompt

if TYPE_CHECKING:
    import datasets

#: Columns of a file of experiences: the columns of a data set, and `chat_prompt`, which holds chat messages as JSON
#: text where `prompt` is null. A file can therefore mix text and chat prompts, which a data set cannot.
FILE = pa.schema(
    [
        (field.name, pa.large_string() if field.type == pa.string() else field.type)
        for field in arrow_schema().append(pa.field("chat_prompt", pa.string()))
    ]
)


def to_arrow(columns: Columns) -> pa.RecordBatch:
    """Convert columns to a record batch with the schema `FILE`."""
    arrays = dict(zip(TEXT.names, columns.text.columns, strict=True))
    arrays["outcomes"] = decode_outcomes(arrays["outcomes"])
    arrays["token_ids"] = arrays["token_ids"].cast(FILE.field("token_ids").type)
    for name in NUMBER_NAMES:
        column = columns.numbers[name]
        unknown = np.isnan(column) if np.isnan(unknown_number(name)) else column == unknown_number(name)
        arrays[name] = pa.array(column, mask=unknown if name in OPTIONAL_NUMBERS else None)
    return pa.record_batch([arrays[name] for name in FILE.names], schema=FILE)


def from_arrow(table: pa.Table, *, first_row: int = 0) -> Iterator[Columns]:
    """Check the rows of a table, and yield them as columns, block by block.

    Args:
        table: Columns of an experience: `prompt` as text or as a list of messages, or `chat_prompt` as JSON;
            `completion`; `pass_rate`. The others are optional, as a whole or in single rows, as in
            `Experience.from_row`.
        first_row: Number of the first row in errors.

    Raises:
        ValueError: A column has a wrong type, or a row is no valid experience; the message is that of `Experience`,
            with a note that names the row.
    """
    for batch in table.to_batches(max_chunksize=BLOCK_ROWS):
        yield _checked(batch, first_row)
        first_row += len(batch)


def _checked(batch: pa.RecordBatch, start: int) -> Columns:
    given = {name: _typed(batch, name) for name in FILE.names}
    chats, malformed = _canonical_chats(given["chat_prompt"])
    numbers = to_numbers(**{name: _array(given[name], unknown_number(name)) for name in NUMBER_NAMES})
    texts = {
        "task_id": given["task_id"],
        "prompt": pc.if_else(chats.is_valid(), None, given["prompt"]),
        "chat_prompt": chats,
        "completion": given["completion"],
        "program": pc.coalesce(given["program"], given["completion"]),
        "outcomes": encode_outcomes(given["outcomes"]),
        "token_ids": _filled(given["token_ids"]),
        **{name: given[name].fill_null("") for name in ("source", "scorer", "settings")},
    }
    wrong = malformed | _wrong(texts, numbers, given)
    if wrong.any():
        _refuse(batch, int(np.argmax(wrong)), start)
    # Only now: the names of tasks without an id are derived from their prompts, which have to be valid.
    texts["task_id"] = _named(texts)
    return Columns(text=pa.record_batch([texts[name] for name in TEXT.names], schema=TEXT), numbers=numbers)


def _wrong(texts: dict[str, pa.Array], numbers: NDArray[np.void], given: dict[str, pa.Array]) -> NDArray[np.bool_]:
    """Return a mask of invalid rows, shape [n], from all checks of `Experience` except the checks of chat messages."""
    empty = [pc.fill_null(pc.equal(texts[name], ""), False) for name in ("task_id", "prompt")]
    lacking = [given["completion"].is_null(), pc.and_(given["prompt"].is_null(), given["chat_prompt"].is_null())]
    pass_rate, logprob, num_tokens = (numbers[name] for name in ("pass_rate", "logprob", "num_tokens"))
    unknown = np.isnan(logprob)
    # Negated comparisons (`~(x <= 1)` instead of `x > 1`), so that NaN fails, too.
    checks = [
        ~((pass_rate >= 0) & (pass_rate <= 1)),
        _mask(given["num_tokens"].is_valid()) & (num_tokens < 1),
        _mask(given["logprob"].is_valid()) & ((num_tokens == 0) | ~(logprob <= LOGPROB_TOLERANCE) | unknown),
        numbers["round_index"] < 0,
        numbers["times_drawn"] < 0,
        _mask(given["cpu_seconds"].is_valid()) & ~((numbers["cpu_seconds"] >= 0) & (numbers["cpu_seconds"] < np.inf)),
        _holds_negative(texts["outcomes"]),
        _holds_negative(texts["token_ids"]),
        *map(_mask, empty),
        *map(_mask, lacking),
    ]
    return np.asarray(np.logical_or.reduce(checks))


def _holds_negative(lists: pa.Array) -> NDArray[np.bool_]:
    """Return whether each list holds a negative number: the code of an unknown outcome, or no token id."""
    negative = lists.flatten().to_numpy() < 0
    # The number of negative numbers before each value; it grows within a list that holds any.
    before = np.concatenate(([0], np.cumsum(negative)))
    offsets = lists.offsets.to_numpy()
    return np.asarray(np.diff(before[offsets - offsets[0]]) > 0)


def _filled(ids: pa.Array) -> pa.Array:
    """Return lists of token ids with empty lists for nulls, and -1 for nulls in lists."""
    lengths = np.diff(ids.offsets.to_numpy()).astype(np.int64)
    # A null may span values, which `flatten` discards.
    lengths[ids.is_null().to_numpy(zero_copy_only=False)] = 0
    offsets = pa.array(np.concatenate(([0], np.cumsum(lengths))), pa.int64())
    return pa.LargeListArray.from_arrays(offsets, ids.flatten().fill_null(-1).cast(pa.int32()))


def _refuse(batch: pa.RecordBatch, index: int, start: int) -> None:
    """Raise the error of `Experience.from_row` for an invalid row."""
    # The masks tell which row is invalid, but not why.
    row = batch.slice(index, 1).to_pylist()[0]
    try:
        chat = row.pop("chat_prompt", None)
        # Messages in `prompt` are what was checked, as in `_typed`.
        chat = None if _holds_messages(batch) else chat
        Experience.from_row(row if chat is None else row | {"prompt": _parsed(chat)})
    except ValueError as error:
        error.add_note(f"row {start + index}, counted from 0")
        raise
    raise AssertionError(f"row {start + index}: refused by the checks of columns, not by those of an experience")


def _typed(batch: pa.RecordBatch, name: str) -> pa.Array:
    """Return a column, cast to its type in `FILE` and checked for valid UTF-8; nulls if the batch lacks the column."""
    if name == "chat_prompt" and _holds_messages(batch):
        return _chats_of_messages(batch.column("prompt"))
    if name not in batch.schema.names or (name == "prompt" and _holds_messages(batch)):
        return pa.nulls(len(batch), FILE.field(name).type)
    column, wanted = batch.column(name), FILE.field(name).type
    # Arrow would cast numbers to text or Booleans, and back: a wrong column would pass.
    differs = any(kind(column.type) != kind(wanted) for kind in (_is_text, pa.types.is_boolean))
    if differs and column.type != pa.null():
        raise ValueError(f"{name}: must be a column of {wanted}; got a column of {column.type}")
    try:
        # Before anything reads it: Arrow follows damaged lengths without a check.
        column.validate(full=True)
        column = column.cast(wanted)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise ValueError(f"{name}: must be a column of {wanted}; got {error}") from error
    return column


def _is_text(kind: pa.DataType) -> bool:
    kind = kind.value_type if pa.types.is_dictionary(kind) else kind
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind))


def _holds_messages(batch: pa.RecordBatch) -> bool:
    return "prompt" in batch.schema.names and pa.types.is_nested(batch.schema.field("prompt").type)


def _chats_of_messages(prompts: pa.Array) -> pa.Array:
    texts = [None if prompt is None else chat_json(without_padding(prompt)) for prompt in prompts.to_pylist()]
    return pa.array(texts, pa.large_string())


def _canonical_chats(chats: pa.Array) -> tuple[pa.Array, NDArray[np.bool_]]:
    """Return chat prompts in the form of `chat_json`, and a mask of invalid prompts."""
    if chats.null_count == len(chats):
        return chats, np.zeros(len(chats), np.bool_)
    # All programs of a task have the same prompt, which has to be parsed once only.
    encoded = chats.dictionary_encode()
    texts, valid = [], []
    for text in encoded.dictionary.to_pylist():
        try:
            prompt = _parsed(text)
            check_prompt(prompt)
            texts.append(chat_json(prompt))
            # Fails for lone surrogates, which JSON can spell as escapes.
            texts[-1].encode()
            valid.append(True)
        except ValueError:
            texts.append(text)
            valid.append(False)
    canonical = pa.array(texts, pa.large_string()).take(encoded.indices)
    return canonical, _mask(pc.fill_null(pc.invert(pa.array(valid, pa.bool_()).take(encoded.indices)), False))


def _parsed(chat: str) -> Any:
    try:
        prompt = json.loads(chat)
    # Brackets nested too deep raise RecursionError.
    except (ValueError, RecursionError) as error:
        raise ValueError(f"chat_prompt: must be chat messages as JSON; got {error}") from error
    if not isinstance(prompt, list):
        raise ValueError(f"chat_prompt: must be a list of chat messages as JSON; got {chat[:200]}")
    return prompt


def _named(texts: dict[str, pa.Array]) -> pa.Array:
    """Return the task ids; a missing id is derived from the prompt, as in `Experience.from_row`."""
    task_id = texts["task_id"]
    if not task_id.null_count:
        return task_id
    chats, prompts = texts["chat_prompt"].to_pylist(), texts["prompt"].to_pylist()
    names = [
        name if name is not None else prompt_name(prompt if chat is None else json.loads(chat))
        for name, prompt, chat in zip(task_id.to_pylist(), prompts, chats, strict=True)
    ]
    return pa.array(names, pa.large_string())


def _array(column: pa.Array, absent: float) -> NDArray[Any]:
    return np.asarray(column.fill_null(absent).to_numpy(zero_copy_only=False))


def _mask(column: pa.Array) -> NDArray[np.bool_]:
    return np.asarray(column.to_numpy(zero_copy_only=False))


def to_dataset(blocks: Iterable[Columns]) -> datasets.Dataset:
    """Convert experiences to a data set with the columns `COLUMNS`.

    Args:
        blocks: The experiences in order, each block less than 2 GiB of text.

    Raises:
        ValueError: Some prompts are text and some are chat messages: no column type of a data set can hold both.
    """
    # Imported late, as everywhere in this module: it takes seconds, and files need only Arrow.
    import datasets

    batches = [to_arrow(block) for block in blocks]
    chats = sum(batch.column("prompt").null_count for batch in batches)
    if 0 < chats < sum(map(len, batches)):
        raise ValueError(
            "prompt: a data set column holds either text or chat messages; the buffer has both. Write every "
            'prompt as messages ([{"role": "user", "content": text}]), or use save(), which keeps both'
        )
    schema = arrow_schema(chat=chats > 0)
    tables = [_typed_table(batch, schema, chat=chats > 0) for batch in batches]
    return datasets.Dataset(pa.concat_tables(tables) if tables else schema.empty_table())


def from_dataset(dataset: Iterable[Mapping[str, Any]]) -> Iterator[Columns]:
    """Check the rows of a data set, and yield them as columns; `Experience.from_row` describes valid rows.

    Args:
        dataset: A `datasets.Dataset`, or any iterable of rows.

    Raises:
        ValueError: A row is no valid experience.
    """
    # Only rows that are stored as they are read can be checked as Arrow tables; others have to be decoded.
    if not _is_plain(dataset):
        yield from columns_in_blocks(Experience.from_row(row) for row in dataset)
        return
    first_row = 0
    for table in dataset.with_format("arrow").iter(batch_size=BLOCK_ROWS):  # type: ignore[attr-defined]
        yield from from_arrow(table, first_row=first_row)
        first_row += len(table)


def _typed_table(batch: pa.RecordBatch, schema: pa.Schema, *, chat: bool) -> pa.Table:
    arrays = {name: batch.column(name) for name in COLUMNS}
    if chat:
        prompts = [json.loads(text) for text in batch.column("chat_prompt").to_pylist()]
        arrays["prompt"] = pa.array(prompts, schema.field("prompt").type)
    return pa.table(arrays).cast(schema)


def _is_plain(dataset: object) -> bool:
    """Return whether a data set stores values of experiences as they are read: text, numbers and lists of text."""
    import datasets

    if not isinstance(dataset, datasets.Dataset):
        return False
    kinds = [kind for name, kind in dataset.features.items() if name in (*COLUMNS, "chat_prompt")]
    return all(isinstance(getattr(kind, "feature", kind), datasets.Value) for kind in kinds)


_METADATA_KEY = b"trl_pper"
#: Columns with repeated values, each of which is written once in a row group. Programs are all different.
_REPEATING = ["task_id", "prompt", "chat_prompt", "outcomes.list.element", "source", "scorer", "settings"]


def write_columns(path: str | Path, blocks: Iterable[Columns], *, metadata: Mapping[str, Any]) -> None:
    """Write experiences to a Parquet file; readers see the old or the new file, never an incomplete file.

    Args:
        path: The file to write; its folder is created.
        blocks: The experiences in order; each block becomes a row group.
        metadata: A JSON object to store in the file.
    """
    schema = FILE.with_metadata({_METADATA_KEY: json.dumps(dict(metadata)).encode()})
    with (
        atomic_file(path) as file,
        pq.ParquetWriter(
            file, schema, compression="zstd", use_dictionary=_REPEATING, write_page_checksum=True
        ) as writer,
    ):
        for block in blocks:
            writer.write_batch(to_arrow(block))


def read_columns(path: str | Path) -> tuple[dict[str, Any], Iterator[Columns]]:
    """Open a file that `write_columns` wrote.

    Returns:
        The metadata, and an iterator over the experiences in order, which reads and checks a row group at a time.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: The file is not a saved buffer. The iterator raises the same error for a damaged file.
    """
    if not Path(path).exists():
        raise FileNotFoundError(
            f"{path}: no such file. trl-pper collect and ReplayBuffer.save write buffers, and a run has one in each "
            "checkpoint"
        )
    with parquet_errors(path, _SAVED):
        # Not `read_table`, which would add columns for folders with names such as `seed=1`.
        file = pq.ParquetFile(path, page_checksum_verification=True)
        raw = (file.schema_arrow.metadata or {}).get(_METADATA_KEY)
    try:
        if raw is None:
            raise ValueError(
                f"{path}: must be a file written by ReplayBuffer.save; it has no buffer settings. "
                "Load it with datasets and use ReplayBuffer.from_dataset"
            )
        _check_columns(path, file.schema_arrow.names)
        metadata = _metadata(path, raw)
    except ValueError:
        file.close()
        raise
    return metadata, _row_groups(path, file)


_SAVED = "must be a Parquet file written by ReplayBuffer.save, and whole"
#: Columns that files of earlier versions lack.
_LATER_COLUMNS = ("scorer", "settings", "cpu_seconds", "truncated", "token_ids", "times_drawn")


def _check_columns(path: str | Path, names: Sequence[str]) -> None:
    missing = sorted(set(FILE.names) - {*names, *_LATER_COLUMNS})
    if missing:
        # Without this check the column would read as empty.
        raise ValueError(f"{path}: must have the columns of a buffer; {', '.join(missing)} is missing. {_RESTORE}")


_RESTORE = "Restore the file from a copy; rows of another origin are read by ReplayBuffer.from_dataset"


def _metadata(path: str | Path, raw: bytes) -> dict[str, Any]:
    try:
        metadata = json.loads(raw)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: must have buffer settings as JSON; got {error}. {_RESTORE}") from error
    if not isinstance(metadata, dict):
        raise ValueError(f"{path}: must have a JSON object as settings; got {type(metadata).__name__}. {_RESTORE}")
    return metadata


def _row_groups(path: str | Path, file: pq.ParquetFile) -> Iterator[Columns]:
    first_row = 0
    with file:
        for group in range(file.num_row_groups):
            with parquet_errors(path, f"damaged in row group {group}"):
                table = file.read_row_group(group)
            try:
                yield from from_arrow(table, first_row=first_row)
            except ValueError as error:
                rows = "".join(f" ({note})" for note in getattr(error, "__notes__", ()))
                raise ValueError(f"{path}: {error}{rows}") from error
            first_row += len(table)
