"""Where a report's content lies: a buffer file, a checkpoint, or the output folder of a run.

Enters: a path. Leaves: the buffer and the history that lie there.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from trl_pper.replay import ReplayBuffer
from trl_pper.report.history import History, history_of

_STATE_FILE = "trainer_state.json"


@dataclass(frozen=True, kw_only=True)
class Run:
    """What a report is about.

    Args:
        path: The file or folder that was found; of a run its newest complete checkpoint.
        buffer: The buffer.
        history: What the run logged so far; empty for a buffer file.
    """

    path: Path
    buffer: ReplayBuffer
    history: History


def find_run(path: str | Path) -> Run:
    """Read a buffer and, where it lies in a checkpoint, what the run had logged by then.

    Args:
        path: A buffer file (.parquet), a checkpoint folder, or the output folder of a run, of which the newest
            complete checkpoint is taken.

    Raises:
        ValueError: There is no buffer, or it is malformed.
        OSError: There is nothing, or it cannot be read.
    """
    source = Path(path)
    if not source.is_dir():
        return Run(path=source, buffer=ReplayBuffer.load(source), history=History())
    # Loads transformers, which takes seconds; a buffer file does without.
    from trl_pper.checkpoint import BUFFER_FILE, newest_complete_checkpoint

    checkpoint = source if (source / BUFFER_FILE).is_file() else newest_complete_checkpoint(source)
    if checkpoint is None:
        raise ValueError(
            f"{source}: must be a buffer file, or a folder with {BUFFER_FILE} or a complete checkpoint. "
            "Runs save checkpoints unless save_strategy is 'no'"
        )
    return Run(path=checkpoint, buffer=ReplayBuffer.load(checkpoint / BUFFER_FILE), history=_logged(checkpoint))


def _logged(checkpoint: Path) -> History:
    file = checkpoint / _STATE_FILE
    if not file.is_file():
        return History()
    try:
        return history_of(log=json.loads(file.read_text(encoding="utf-8"))["log_history"])
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{file}: must be the state of a Trainer with its log_history; got {error!r}") from error
