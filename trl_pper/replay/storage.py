"""Write a replay buffer to a file, and read it: one Parquet table, with a JSON object in its schema metadata.

The columns are those of an experience, except that a chat prompt is JSON text in the column `chat_prompt` (and
`prompt` is null), so that one file holds text prompts and chat prompts side by side.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from trl_pper.files import atomic_file
from trl_pper.replay.arrow import FILE, from_arrow, to_arrow
from trl_pper.replay.columns import Columns

_METADATA_KEY = b"trl_pper"
#: Columns that repeat themselves: their values are written once a row group. Programs are all different.
_REPEATING = ["task_id", "prompt", "chat_prompt", "outcomes.list.element", "source", "scorer", "settings"]


def write_columns(path: str | Path, blocks: Iterable[Columns], *, metadata: Mapping[str, Any]) -> None:
    """Write experiences to `path`; readers see the old file or the new one, never a part of it.

    Args:
        path: The file to write; its folder is created.
        blocks: What to write, in order, a row group each.
        metadata: A JSON object to keep with them.
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
    """Open what `write_columns` wrote.

    Returns:
        The metadata, and the experiences in order, read and checked a row group at a time.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: The file is not a saved buffer; while the experiences are read, it is damaged.
    """
    try:
        # Not `read_table`, which would make columns of folders named like `seed=1`.
        file = pq.ParquetFile(path, page_checksum_verification=True)
    except pa.ArrowInvalid as error:
        raise ValueError(f"{path}: must be a Parquet file written by ReplayBuffer.save; got {error}") from error
    raw = (file.schema_arrow.metadata or {}).get(_METADATA_KEY)
    if raw is None:
        file.close()
        raise ValueError(
            f"{path}: holds no buffer settings, so ReplayBuffer.save did not write it. "
            "Load it with datasets and use ReplayBuffer.from_dataset"
        )
    return json.loads(raw), _row_groups(path, file)


def _row_groups(path: str | Path, file: pq.ParquetFile) -> Iterator[Columns]:
    first_row = 0
    with file:
        for group in range(file.num_row_groups):
            try:
                table = file.read_row_group(group)
            except (pa.ArrowInvalid, OSError) as error:
                raise ValueError(f"{path}: damaged in row group {group}; got {error}") from error
            yield from from_arrow(table, first_row=first_row)
            first_row += len(table)
