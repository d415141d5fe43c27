"""The buffer inside a checkpoint: written whole, and checked when a run goes on from it.

Enters: a buffer and the next round. Leaves: two files under `_pper/`, a name that `push_to_hub` leaves out. A
checkpoint without its buffer, or with another, is refused, since its draws could not be continued.
"""

from __future__ import annotations

import json
from pathlib import Path

from trl_pper.replay import ReplayBuffer

BUFFER_FILE = Path("_pper") / "buffer.parquet"
STATE_FILE = Path("_pper") / "state.json"


def save_buffer(checkpoint: Path, buffer: ReplayBuffer, *, next_round: int) -> None:
    """Write the buffer into a checkpoint folder, which is made if need be.

    Args:
        checkpoint: The folder.
        buffer: What to write.
        next_round: The first round that is not collected yet.
    """
    buffer.save(checkpoint / BUFFER_FILE)
    state = {"next_round": next_round, "digest": buffer.digest()}
    (checkpoint / STATE_FILE).write_text(json.dumps(state), encoding="utf-8")


def load_buffer(checkpoint: Path, buffer: ReplayBuffer) -> int:
    """Fill `buffer` from a checkpoint folder and return the first round that is not collected yet.

    Raises:
        ValueError: The folder holds no buffer, not the one it was written with, or one of other settings; then
            `buffer` stays as it was.
    """
    for file in (BUFFER_FILE, STATE_FILE):
        if not (checkpoint / file).is_file():
            raise ValueError(
                f"resume_from_checkpoint: {checkpoint} has no {file}, so its draws cannot be continued; resume from a "
                "checkpoint written by PPERTrainer, or start anew with model=<that checkpoint>"
            )
    state = json.loads((checkpoint / STATE_FILE).read_text(encoding="utf-8"))
    priority = buffer.priority if callable(buffer.priority) else None
    stored = ReplayBuffer.load(checkpoint / BUFFER_FILE, priority=priority)
    if stored.digest() != state["digest"]:
        raise ValueError(f"resume_from_checkpoint: {checkpoint / BUFFER_FILE} is not the buffer of this checkpoint")
    if stored.settings() != buffer.settings():
        raise ValueError(
            f"resume_from_checkpoint: the buffer was written with {stored.settings()}; this run has "
            f"{buffer.settings()}. Resume with the same settings"
        )
    buffer.load_state_dict(stored.state_dict())
    return int(state["next_round"])
