"""The file of a replay buffer: one Parquet table of experiences, with a JSON object in its schema metadata.

The columns are those of an experience, except that a chat prompt is JSON text in the column `chat_prompt` (and
`prompt` is null), so that one file holds text prompts and chat prompts side by side.

A replay buffer outside of memory: a state, a data set, a file, a data set of the Hub.

Enters: a buffer, or what another one left. Leaves: the other. What a buffer does with experiences while it lives is
in `trl_pper.replay`.

The settings of a replay buffer: their checks, and what of them comes back from a file.

Enters: settings as they were given or saved. Leaves: settings that a buffer can be made with, or an error that names
the one that is wrong.
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
from trl_pper.replay.experience import POSSIBILITIES
from trl_pper.replay.priority import PriorityFunction, draw_probabilities, needs_function, p2value, priority_name

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


#: What a full buffer lets go first: the lowest P2Value, or the earliest round.
EVICTIONS = ("p2value", "age")

_NAMES = ("capacity", "seed", "possibility_weight", "possibility", "priority", "priority_exponent", "eviction")


def settings_of(buffer: Any) -> dict[str, Any]:
    """Return the settings of a buffer as plain values; a priority function is given by its name."""
    return {name: getattr(buffer, name) for name in _NAMES} | {"priority": priority_name(buffer.priority)}


def known_priority(priority: str | PriorityFunction) -> str | PriorityFunction:
    """Return the name of a function of `trl_pper.priority`, so that files know it, and anything else as it is."""
    name = priority_name(priority)
    return priority if name is None or needs_function(name) else name


def check_settings(buffer: Any) -> None:
    """Raise ValueError if a setting of a buffer is out of range; the message names it."""
    if buffer.capacity is not None and buffer.capacity < 1:
        raise ValueError(f"capacity: must be at least 1, or None for no bound; got {buffer.capacity!r}")
    if not 0 <= buffer.seed < 2**64:
        raise ValueError(f"seed: must be in [0, 2**64); got {buffer.seed!r}")
    for name, known in (("possibility", POSSIBILITIES), ("eviction", EVICTIONS)):
        if getattr(buffer, name) not in known:
            raise ValueError(f"{name}: must be one of {', '.join(known)}; got {getattr(buffer, name)!r}")
    if buffer.tokenizer is not None and (not isinstance(buffer.tokenizer, str) or not buffer.tokenizer):
        raise ValueError(f"tokenizer: must be a name or None; got {buffer.tokenizer!r}")
    # No programs, but the same checks of weight, priority and exponent as every later call.
    p2value([], [], possibility_weight=buffer.possibility_weight)
    draw_probabilities([], priority=buffer.priority, exponent=buffer.priority_exponent)


def restored_settings(
    settings: Mapping[str, Any], *, priority: str | PriorityFunction | None, tokenizer: str | None
) -> dict[str, Any]:
    """Return the arguments that make a buffer of saved settings.

    Args:
        settings: What `settings_of` returned.
        priority: The priority function, if the settings name one: they hold no code.
        tokenizer: What was saved with them.

    Raises:
        ValueError: The settings are others than a buffer's, or name a function other than `priority`.
    """
    if set(settings) != set(_NAMES):
        raise ValueError(f"settings: must hold {sorted(_NAMES)}; got {sorted(settings)}")
    chosen = dict(settings) | {"tokenizer": tokenizer}
    if needs_function(str(settings["priority"])):
        if not callable(priority) or priority_name(priority) != settings["priority"]:
            raise ValueError(
                f"priority: the state was written with {settings['priority']!r}, and a state holds no code. "
                f"Pass that function; got {priority_name(priority)!r}"
            )
        chosen["priority"] = priority
    return chosen


def one_tokenizer(*tokenizers: str | None) -> str | None:
    """Return the tokenizer of buffers that are to be one; None only if it is unknown of all.

    Raises:
        ValueError: They are of different tokenizers.
    """
    known = list(dict.fromkeys(name for name in tokenizers if name is not None))
    if len(known) > 1:
        raise ValueError(
            f"tokenizer: buffers of different tokenizers do not mix, as their log-probabilities are of different "
            f"tokens; got {', '.join(map(repr, known))}. Collect anew with one tokenizer, or score the programs again "
            "and set the buffer's tokenizer"
        )
    return known[0] if known else None
