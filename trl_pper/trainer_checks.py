"""What a trainer is refused for before anything is generated, beyond what a configuration alone can tell.

Enters: parts of a trainer that is being made. Leaves: nothing, or an error that names the argument and the remedy.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from trl_pper.generation.fingerprint import tokenizer_fingerprint
from trl_pper.generation.local_model import LocalModel
from trl_pper.replay import ReplayBuffer
from trl_pper.task import CodingTask


def claim_buffer(buffer: ReplayBuffer, processing_class: Any) -> None:
    """Note the tokenizer in a buffer that knows none.

    Raises:
        ValueError: The buffer was filled with another one.
    """
    fingerprint = tokenizer_fingerprint(processing_class)
    if buffer.tokenizer not in (None, fingerprint):
        raise ValueError(
            f"buffer: was filled with the tokenizer {buffer.tokenizer}, and this model has {fingerprint}, so its "
            "log-probabilities are of other tokens. Pass a new buffer, or train on buffer.to_dataset() without its "
            "columns logprob and num_tokens"
        )
    buffer.tokenizer = fingerprint


def check_sharding(accelerator: Any) -> None:
    """Raise ValueError for a way to shard the model that cannot generate."""
    plugin = getattr(accelerator.state, "fsdp_plugin", None)
    if plugin is not None and plugin.fsdp_version == 1:
        raise ValueError(
            "fsdp_version: must be 2, since FSDP1 puts weights together only for whole forward passes, not for "
            "`generate`; got 1. Set it in the file for `accelerate launch` (examples/accelerate/fsdp.yaml)"
        )


def check_weighing(accelerator: Any, compute_loss_func: Any) -> None:
    """Raise ValueError where loss weights would go wrong without a word."""
    parallelism = accelerator.parallelism_config
    if compute_loss_func is not None:
        raise ValueError(
            "compute_loss_func: must be None with importance_exponent or loss_weighting, which scale TRL's loss"
        )
    if parallelism is not None and (parallelism.cp_enabled or parallelism.sp_enabled):
        raise ValueError(
            "parallelism_config: importance_exponent and loss_weighting know no context or sequence parallelism, "
            "which splits rows; turn one of them off"
        )


def check_prompt_room(
    tasks: Sequence[CodingTask], local: LocalModel, *, max_length: int | None, max_completion_length: int
) -> None:
    """Raise ValueError unless `max_length` holds every prompt with a longest completion."""
    if max_length is None:
        return
    longest = max(map(len, local.encode([task.prompt for task in tasks])), default=0)
    if longest + max_completion_length > max_length:
        raise ValueError(
            f"max_length: must hold the longest prompt ({longest} tokens) and max_completion_length "
            f"({max_completion_length}); got {max_length}. Raise it, set it to None, or drop the longest tasks"
        )
