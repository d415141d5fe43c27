"""The file of a replay buffer: one Parquet table of experiences, with a JSON object in its schema metadata.

The columns are those of an experience, except that a chat prompt is JSON text in the column `chat_prompt` (and
`prompt` is null), so that one file holds text prompts and chat prompts side by side.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from trl_pper.atomic_file import atomic_file
from trl_pper.experience import Experience, arrow_schema

_METADATA_KEY = b"trl_pper"


def write_experiences(path: str | Path, experiences: Iterable[Experience], *, metadata: Mapping[str, Any]) -> None:
    """Write experiences to `path`; readers see the old file or the new one, never a part of it.

    Args:
        path: The file to write; its folder is created.
        experiences: What to write, in order.
        metadata: A JSON object to keep with them.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    schema = arrow_schema().append(pa.field("chat_prompt", pa.string()))
    schema = schema.with_metadata({_METADATA_KEY: json.dumps(dict(metadata)).encode()})
    table = pa.Table.from_pylist([_file_row(experience) for experience in experiences], schema=schema)
    with atomic_file(path) as file:
        pq.write_table(table, file, compression="zstd")


def read_experiences(path: str | Path) -> tuple[dict[str, Any], list[Experience]]:
    """Read what `write_experiences` wrote.

    Returns:
        The metadata and the experiences, in order.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: The file is not a saved buffer.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        # Not `read_table`, which would make columns of folders named like `seed=1`.
        table = pq.ParquetFile(path).read()
    except pa.ArrowInvalid as error:
        raise ValueError(f"{path}: must be a Parquet file written by ReplayBuffer.save; got {error}") from error
    raw = (table.schema.metadata or {}).get(_METADATA_KEY)
    if raw is None:
        raise ValueError(
            f"{path}: holds no buffer settings, so ReplayBuffer.save did not write it. "
            "Load it with datasets and use ReplayBuffer.from_dataset"
        )
    return json.loads(raw), [_experience(row) for row in table.to_pylist()]


def _file_row(experience: Experience) -> dict[str, Any]:
    row = experience.to_row()
    if isinstance(row["prompt"], list):
        row |= {"prompt": None, "chat_prompt": json.dumps(row["prompt"])}
    return row


def _experience(row: dict[str, Any]) -> Experience:
    chat = row.pop("chat_prompt")
    return Experience.from_row(row if chat is None else row | {"prompt": json.loads(chat)})
