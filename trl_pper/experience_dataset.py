"""Experiences as a `datasets.Dataset`, and back.

Enters: columns, or a data set with the columns of an experience. Leaves: the other. A data set has no type for a
column that holds text in some rows and chat messages in others.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from trl_pper.experience import COLUMNS, Experience, arrow_schema
from trl_pper.experience_arrow import from_arrow, to_arrow
from trl_pper.experience_columns import BLOCK_ROWS, Columns, columns_in_blocks

if TYPE_CHECKING:
    import datasets


def to_dataset(blocks: Iterable[Columns]) -> datasets.Dataset:
    """Return experiences as a data set with the columns `COLUMNS`.

    Args:
        blocks: The experiences in order, each block less than 2 GiB of text.

    Raises:
        ValueError: Some prompts are text and some chat messages.
    """
    import datasets

    batches = [to_arrow(block) for block in blocks]
    chats = sum(batch.column("prompt").null_count for batch in batches)
    if 0 < chats < sum(map(len, batches)):
        raise ValueError(
            "prompt: a data set column holds either text or chat messages; the buffer has both. Write every "
            'prompt as messages ([{"role": "user", "content": text}]), or use save(), which keeps both'
        )
    schema = arrow_schema(chat=chats > 0)
    tables = [_typed(batch, schema, chat=chats > 0) for batch in batches]
    return datasets.Dataset(pa.concat_tables(tables) if tables else schema.empty_table())


def from_dataset(dataset: Iterable[Mapping[str, Any]]) -> Iterator[Columns]:
    """Yield the rows of a data set as columns; `Experience.from_row` says what they may hold.

    Raises:
        ValueError: A row is no experience.
    """
    if not _is_plain(dataset):
        yield from columns_in_blocks(Experience.from_row(row) for row in dataset)
        return
    first_row = 0
    for table in dataset.with_format("arrow").iter(batch_size=BLOCK_ROWS):  # type: ignore[attr-defined]
        yield from from_arrow(table, first_row=first_row)
        first_row += len(table)


def _typed(batch: pa.RecordBatch, schema: pa.Schema, *, chat: bool) -> pa.Table:
    arrays = {name: batch.column(name) for name in COLUMNS}
    if chat:
        prompts = [json.loads(text) for text in batch.column("chat_prompt").to_pylist()]
        arrays["prompt"] = pa.array(prompts, schema.field("prompt").type)
    return pa.table(arrays).cast(schema)


def _is_plain(dataset: object) -> bool:
    """Return whether a data set stores its rows as they are read: text, numbers and lists of text."""
    import datasets

    if not isinstance(dataset, datasets.Dataset):
        return False
    kinds = [kind for name, kind in dataset.features.items() if name in (*COLUMNS, "chat_prompt")]
    return all(isinstance(getattr(kind, "feature", kind), datasets.Value) for kind in kinds)
