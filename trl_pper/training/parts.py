"""What a trainer is made of where nothing was handed in: configuration, buffer, judge, collector, loss weights.

Enters: the user's arguments. Leaves: one part each, checked against the others.

What a trainer is refused for before anything is generated, beyond what a configuration alone can tell.

Enters: parts of a trainer that is being made. Leaves: nothing, or an error that names the argument and the remedy.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import datasets
from transformers import TrainerCallback

from trl_pper.generation.beam_search import BeamSearchSource
from trl_pper.generation.local_model import LocalModel
from trl_pper.generation.nucleus import NucleusSource
from trl_pper.generation.scorer import tokenizer_fingerprint
from trl_pper.judge.judge import Judge
from trl_pper.judge.limits import Limits
from trl_pper.replay.buffer import ReplayBuffer
from trl_pper.replay.loss_weights import loss_weights
from trl_pper.replay.priority import FloatArray
from trl_pper.rounds.collector import BeamSampleCollector
from trl_pper.tasks.loading import load_tasks
from trl_pper.tasks.task import CodingTask
from trl_pper.training.config import PPERConfig
from trl_pper.training.dataset import holds_tasks


def config_or_default(args: PPERConfig | None, model: Any) -> PPERConfig:
    """Return the configuration; without one, the defaults with a folder named for the model.

    Raises:
        TypeError: It is another kind of configuration.
    """
    if args is None:
        name = model if isinstance(model, str) else model.config._name_or_path
        return PPERConfig(f"{Path(name).name or 'model'}-PPER")
    if not isinstance(args, PPERConfig):
        raise TypeError(
            f"args: must be a PPERConfig; got {type(args).__name__}. PPERConfig takes every SFTConfig option"
        )
    return args


def build_buffer(args: PPERConfig) -> ReplayBuffer:
    """Return an empty buffer with the settings of a configuration."""
    assert args.priority_exponent is not None  # PPERConfig puts a number in place of None
    return ReplayBuffer(
        args.buffer_capacity,
        seed=args.seed,
        possibility_weight=args.possibility_weight,
        possibility=args.possibility,
        priority=args.priority,
        priority_exponent=args.priority_exponent,
        eviction=args.buffer_eviction,
    )


def build_beam_search(args: PPERConfig, *, num_beam_groups: int = 1) -> BeamSearchSource:
    """Return beam search by the model in training."""
    return BeamSearchSource(
        num_beams=args.num_beams,
        max_completion_length=args.max_completion_length,
        batch_size=args.generation_batch_size,
        length_penalty=1.0 if args.possibility == "mean" else 0.0,
        num_beam_groups=num_beam_groups,
        diversity_penalty=args.diversity_penalty,
    )


def build_source(args: PPERConfig) -> BeamSearchSource | NucleusSource:
    """Return how the model in training writes programs for a collection."""
    if args.decoding == "beam":
        return build_beam_search(args, num_beam_groups=args.num_beam_groups)
    return NucleusSource(
        num_programs=args.num_beams,
        max_completion_length=args.max_completion_length,
        batch_size=args.generation_batch_size,
        temperature=args.temperature,
        top_p=args.top_p,
        seed=args.seed,
    )


def build_loss_weights(args: PPERConfig) -> Callable[[ReplayBuffer], FloatArray]:
    """Return what weighs the loss of each experience of a buffer, as a configuration asks for."""
    return lambda buffer: loss_weights(
        buffer.probabilities(),
        buffer.p2values(),
        importance_exponent=args.importance_exponent,
        weighting=args.loss_weighting,
    )


def build_judge(args: PPERConfig) -> Judge:
    """Return a judge with the limits of a configuration; its workers start on first use."""
    limits = Limits(cpu_seconds=args.judge_cpu_seconds, memory_bytes=args.judge_memory_bytes)
    return Judge(workers=args.judge_workers, isolation=args.judge_isolation, limits=limits)


def find_collector(callbacks: list[TrainerCallback], train: datasets.Dataset) -> BeamSampleCollector | None:
    """Return the collector among the callbacks, or a new one; None for programs that are judged already.

    Raises:
        ValueError: There are several, or one that has no tasks to collect for.
    """
    given = [callback for callback in callbacks if isinstance(callback, BeamSampleCollector)]
    if len(given) > 1:
        raise ValueError(f"callbacks: at most one BeamSampleCollector; got {len(given)}")
    if not holds_tasks(train):
        if given and given[0].tasks is None:
            raise ValueError("callbacks: a BeamSampleCollector needs tasks, but train_dataset holds judged programs")
        return given[0] if given else None
    collector = given[0] if given else BeamSampleCollector()
    if collector.tasks is None:
        collector.tasks = load_tasks(train, format="native")
    return collector


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
