"""Write the buffer into checkpoints, and read and check it when a run resumes.

A checkpoint without its buffer, or with another buffer, is an error, since the run's draws could not be continued. A
checkpoint that was being written when the run was killed is skipped.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from transformers.trainer_callback import TrainerState
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from trl_pper.files import atomic_file, remove_abandoned
from trl_pper.replay.buffer import ReplayBuffer

logger = logging.getLogger(__name__)

#: `push_to_hub` uploads no files whose names begin with an underscore.
BUFFER_FILE = Path("_pper") / "buffer.parquet"
STATE_FILE = Path("_pper") / "state.json"
_TRAINER_STATE_FILE = "trainer_state.json"


def save_buffer(
    checkpoint: Path,
    buffer: ReplayBuffer,
    *,
    next_round: int,
    draws: Mapping[str, int],
    num_processes: int,
    first_round: int = 0,
    model_only: bool = False,
) -> None:
    """Write the buffer into a checkpoint folder, which is created if it does not exist.

    Args:
        checkpoint: The folder.
        buffer: The buffer.
        next_round: The first round that is not collected yet.
        draws: The numbers that draws depend on besides the buffer, by name.
        num_processes: Number of processes of the run.
        first_round: The round in the buffer that the first round of the run is.
        model_only: Whether the Trainer writes neither optimizer nor random states, as `save_only_model` asks.
    """
    digest = buffer.digest()
    # The buffer does not change between two collections: checkpoints with the same buffer share its file.
    if not _share_file(checkpoint, digest):
        buffer.save(checkpoint / BUFFER_FILE)
    # A process that was killed may have left a part of either file.
    remove_abandoned((checkpoint / BUFFER_FILE).parent)
    state = {"next_round": next_round, "digest": digest, "draws": dict(draws), "num_processes": num_processes}
    state |= {"model_only": True} if model_only else {}
    state |= {"first_round": first_round} if first_round else {}
    # After the buffer: the state is complete only with it.
    with atomic_file(checkpoint / STATE_FILE) as file:
        file.write(json.dumps(state | {"checksum": _checksum(state)}).encode())


def load_buffer(checkpoint: Path, buffer: ReplayBuffer, *, draws: Mapping[str, int]) -> int:
    """Read the buffer of a checkpoint into `buffer`, and return the first round that is not collected yet.

    On an error `buffer` stays as it was.

    Args:
        checkpoint: The folder.
        buffer: The buffer of this run, with the settings of this run.
        draws: The numbers that the draws of this run depend on besides the buffer, by name.

    Raises:
        ValueError: The folder has no buffer, the buffer is not the one that was saved, or the settings of the saved
            run differ.
    """
    for file in (BUFFER_FILE, STATE_FILE):
        if not (checkpoint / file).is_file():
            raise ValueError(
                f"resume_from_checkpoint: {checkpoint} has no {file}, so its draws cannot be continued; resume from a "
                "checkpoint written by PPERTrainer, or start anew with model=<that checkpoint>"
            )
    state = _read_state(checkpoint)
    priority = buffer.priority if callable(buffer.priority) else None
    stored = ReplayBuffer.load(checkpoint / BUFFER_FILE, priority=priority)
    if stored.digest() != state["digest"]:
        raise ValueError(
            f"resume_from_checkpoint: {checkpoint / BUFFER_FILE} is not the buffer of this checkpoint; restore the "
            "buffer that was saved with it, or resume from another checkpoint"
        )
    # Compared with the other numbers of the draws, below; checkpoints of earlier versions lack it.
    stored.steps_per_round = buffer.steps_per_round
    # None stands for the weight that belongs to the priority, which another run may name.
    if stored._settings.chosen_task_weight == buffer._settings.chosen_task_weight:
        stored.task_weight = buffer.task_weight
    then, now = stored.settings(), buffer.settings()
    if differing := [name for name in now if then[name] != now[name]]:
        written, present = (", ".join(f"{name}={settings[name]!r}" for name in differing) for settings in (then, now))
        raise ValueError(
            f"resume_from_checkpoint: {checkpoint}: the buffer was written with {written}; this run has "
            f"{present}. Resume with the same settings, or start anew with model=<that checkpoint>"
        )
    if state["draws"] != dict(draws):
        raise ValueError(
            f"resume_from_checkpoint: {checkpoint}: its minibatches were drawn with other options: "
            f"{_differences(state['draws'], draws)}. Resume with the same options, or start anew with "
            "model=<that checkpoint>"
        )
    if stored.tokenizer != buffer.tokenizer:
        raise ValueError(
            f"resume_from_checkpoint: the buffer in {checkpoint} was filled with another tokenizer than this run's; "
            "pass the processing_class the run was started with"
        )
    buffer.assign(stored)
    return int(state["next_round"])


def read_first_round(checkpoint: Path) -> int:
    """Return the round in the buffer of a checkpoint that the first round of its run is.

    Raises:
        ValueError: The state of the checkpoint is damaged.
    """
    return int(_read_state(checkpoint).get("first_round", 0))


#: The numbers that draws depend on, and the options that set them.
_DRAW_OPTIONS = {
    "draws_per_step": (
        "programs per optimizer step",
        "per_device_train_batch_size * gradient_accumulation_steps * number of processes",
    ),
    "steps_per_round": (
        "optimizer steps per round",
        "steps_per_round; without it, tasks * num_beams / programs per optimizer step",
    ),
    "seed": ("seed of the draws", "data_seed; without it, seed"),
    "grouping_steps": ("optimizer steps sorted by length together", "length_grouping_steps"),
    "micro_batch_size": ("programs per micro-batch", "per_device_train_batch_size; 1 without length_grouping_steps"),
}


def _differences(then: Mapping[str, int], now: Mapping[str, int]) -> str:
    found = []
    for name in [*now, *(name for name in then if name not in now)]:
        before, after = then.get(name), now.get(name)
        if before != after:
            noun, options = _DRAW_OPTIONS.get(name, (name, name))
            found.append(f"{noun} ({options}): {before}, in this run {after}")
    return "; ".join(found)


def last_complete_checkpoint(output_dir: str | Path) -> Path:
    """Return the newest complete checkpoint of a run.

    Raises:
        ValueError: The run has no complete checkpoint.
    """
    checkpoint = newest_complete_checkpoint(output_dir)
    if checkpoint is None:
        raise ValueError(
            f"resume_from_checkpoint: {output_dir} holds no complete checkpoint; start without it. Programs that were "
            "judged already are read from the run's journal"
        )
    return checkpoint


def newest_complete_checkpoint(output_dir: str | Path) -> Path | None:
    """Return the newest complete checkpoint of a run; None if it has no complete checkpoint."""
    for folder in _checkpoints(Path(output_dir)):
        if _is_complete(folder):
            return folder
        logger.warning("%s: skipped, since the run was killed while writing it, or another trainer wrote it", folder)
    return None


def _checkpoints(output_dir: Path) -> list[Path]:
    """Return the checkpoints of a run, newest first."""
    named = [
        (folder.name.removeprefix(f"{PREFIX_CHECKPOINT_DIR}-"), folder)
        for folder in output_dir.glob(f"{PREFIX_CHECKPOINT_DIR}-*")
    ]
    return [
        folder for _, folder in sorted(((int(step), folder) for step, folder in named if step.isdigit()), reverse=True)
    ]


def _is_complete(checkpoint: Path) -> bool:
    """Return whether a checkpoint was written to its end."""
    # The last files are the random state of each process, unless only the model is saved, and the Trainer's state.
    try:
        state = _read_state(checkpoint)
        TrainerState.load_from_json(str(checkpoint / _TRAINER_STATE_FILE))
    # The Trainer's state may be any JSON that a damaged file happens to hold.
    except (OSError, ValueError, TypeError, RecursionError):
        return False
    if state.get("model_only"):
        return True
    num_processes = state["num_processes"]
    if num_processes == 1:
        return (checkpoint / "rng_state.pth").is_file()
    return all((checkpoint / f"rng_state_{index}.pth").is_file() for index in range(num_processes))


def _share_file(checkpoint: Path, digest: str) -> bool:
    for other in _checkpoints(checkpoint.parent):
        with contextlib.suppress(OSError, ValueError):
            if other != checkpoint and _read_state(other)["digest"] == digest:
                (checkpoint / BUFFER_FILE).parent.mkdir(parents=True, exist_ok=True)
                (checkpoint / BUFFER_FILE).unlink(missing_ok=True)
                # A hard link is safe, since buffer files are never modified: `save` replaces them by new files.
                os.link(other / BUFFER_FILE, checkpoint / BUFFER_FILE)
                return True
    return False


#: More rounds and processes than any run has.
_MAX_COUNT = 2**31
_STATE_TYPES = {"next_round": int, "digest": str, "draws": dict, "num_processes": int}


def _read_state(checkpoint: Path) -> dict[str, Any]:
    """Return the state of a checkpoint.

    Raises:
        OSError: The file cannot be read.
        ValueError: The file is damaged.
    """
    path = checkpoint / STATE_FILE
    try:
        state = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise _damaged(path, f"no JSON: {error}") from error
    if not isinstance(state, dict):
        raise _damaged(path, type(state).__name__)
    # Checkpoints of earlier versions have no checksum.
    known = state.pop("checksum", None)
    wrong = [name for name, kind in _STATE_TYPES.items() if type(state.get(name)) is not kind]
    if not wrong:
        counts = {"next_round": state["next_round"], "num_processes": state["num_processes"] - 1}
        counts |= {"first_round": state.get("first_round", 0)}
        wrong = [name for name, count in counts.items() if type(count) is not int or not 0 <= count < _MAX_COUNT]
        wrong += ["draws"] * any(type(value) is not int for value in state["draws"].values())
    if wrong:
        raise _damaged(path, f"a wrong value of {', '.join(wrong)}")
    if known is not None and known != _checksum(state):
        raise _damaged(path, "values of another checksum")
    return state


def _damaged(path: Path, found: str) -> ValueError:
    return ValueError(
        f"resume_from_checkpoint: {path}: must be the state that PPERTrainer saved; got {found}. "
        "Restore the file from a copy, or resume from another checkpoint"
    )


def _checksum(state: Mapping[str, Any]) -> str:
    return f"{zlib.crc32(json.dumps(state, sort_keys=True).encode()):08x}"
