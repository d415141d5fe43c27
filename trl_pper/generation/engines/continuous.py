"""Generate samples by the continuous batching of transformers: rows begin and end at any step, in a paged cache."""

from __future__ import annotations

import functools
import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from transformers import GenerationConfig

from trl_pper.generation.engines.token_scores import Completion
from trl_pper.generation.source import keeps_distribution

if TYPE_CHECKING:
    from trl_pper.generation.decoding import PromptBatch
    from trl_pper.generation.local_model import LocalModel

logger = logging.getLogger(__name__)
#: Tokens of a forward pass on a CPU.
_CPU_BATCH_TOKENS = 1024


def check_continuous(local: LocalModel) -> None:
    """Check that a model can generate by continuous batching, and warn where it is slow.

    Raises:
        ValueError: Its weights are sharded over processes.
    """
    if local.is_sharded:
        raise ValueError(
            "generation_engine: must be 'transformers' where weights are sharded over processes (FSDP, ZeRO-3), which "
            "run their forward passes together; got 'continuous_batching'"
        )
    if local.device.type == "cpu":
        warn_of_cpu()


@functools.cache
def warn_of_cpu() -> None:
    """Warn, once in a process, that the engine is slow on a CPU."""
    logger.warning(
        "generation_engine: 'continuous_batching' is made for GPUs; on a CPU it is many times slower than "
        "'transformers'"
    )


def generate_continuously(
    local: LocalModel, batch: PromptBatch, config: GenerationConfig, *, seed: int
) -> list[list[Completion]]:
    """Sample completions for a batch of prompts; stops are not looked for while tokens are written.

    Args:
        local: The model.
        batch: The prompts.
        config: The whole generation configuration.
        seed: Seed of the random numbers.

    Returns:
        For each prompt `config.num_return_sequences` completions, each up to its first end token. They have
        log-probabilities if neither temperature nor truncation changes the model's own.

    Raises:
        RuntimeError: A completion is missing; the message names its task.
    """
    from transformers.generation.configuration_utils import ContinuousBatchingConfig

    own = keeps_distribution(temperature=config.temperature, top_p=config.top_p, top_k=config.top_k)
    options = ContinuousBatchingConfig(return_logprobs=own, seed=seed % 2**31)
    if local.device.type == "cpu":
        # Sized by the memory that is free, the cache would take most of the machine's.
        pages = (-(-(len(ids) + config.max_new_tokens) // options.page_size) + 1 for ids in batch.ids)
        options.num_blocks = config.num_return_sequences * sum(pages)
        options.max_batch_tokens = _CPU_BATCH_TOKENS
    with local.inference() as bare:
        # Results come by the order of the prompts; those that failed, or were not reached, are only logged.
        found = bare.generate_batch(
            list(batch.ids), generation_config=config, continuous_batching_config=options, progress_bar=False
        )
    by_prompt = _by_prompt(found.values(), batch.ids, config.num_return_sequences)
    for task, outputs in zip(batch.tasks, by_prompt, strict=True):
        errors = [str(one.error) for one in outputs if one.error is not None]
        if errors or len(outputs) < config.num_return_sequences:
            raise RuntimeError(
                f"continuous batching: {len(outputs) - len(errors)} of {config.num_return_sequences} completions of "
                f"task {task.task_id!r} were written ({'; '.join(errors) or 'the engine ended early'}). What is "
                "judged is kept: start again, or choose generation_engine='transformers'"
            )
    return [[_completion(one, own) for one in outputs] for outputs in by_prompt]


def _by_prompt(outputs: Any, prompts: Sequence[list[int]], number: int) -> list[list[Any]]:
    """Group outputs by prompt: equal prompts get theirs in turn."""
    waiting: dict[tuple[int, ...], list[Any]] = {}
    for one in outputs:
        waiting.setdefault(tuple(one.prompt_ids), []).append(one)
    groups = []
    for prompt in prompts:
        rest = waiting.get(tuple(prompt), [])
        groups.append(rest[:number])
        waiting[tuple(prompt)] = rest[number:]
    return groups


def _completion(output: Any, own: bool) -> Completion:
    ids = list(output.generated_tokens)
    return Completion(ids, list(output.logprobs) if own and len(output.logprobs) == len(ids) else None)
