"""What a trainer is made of where nothing was handed in: configuration, buffer, judge, collector, loss weights.

Enters: the user's arguments. Leaves: one part each, checked against the others.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
from transformers import TrainerCallback

from trl_pper.collector import BeamSampleCollector
from trl_pper.config import PPERConfig
from trl_pper.formats import load_tasks
from trl_pper.generation.beam_search import BeamSearchSource
from trl_pper.generation.nucleus import NucleusSource
from trl_pper.judge import Judge, Limits
from trl_pper.loss_weights import loss_weights
from trl_pper.priority import FloatArray
from trl_pper.replay import ReplayBuffer
from trl_pper.training_data import holds_tasks


def config_of(args: PPERConfig | None, model: Any) -> PPERConfig:
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


def buffer_of(args: PPERConfig) -> ReplayBuffer:
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


def beams_of(args: PPERConfig, *, num_beam_groups: int = 1) -> BeamSearchSource:
    """Return beam search by the model in training."""
    return BeamSearchSource(
        num_beams=args.num_beams,
        max_completion_length=args.max_completion_length,
        batch_size=args.generation_batch_size,
        length_penalty=1.0 if args.possibility == "mean" else 0.0,
        num_beam_groups=num_beam_groups,
        diversity_penalty=args.diversity_penalty,
    )


def source_of(args: PPERConfig) -> BeamSearchSource | NucleusSource:
    """Return how the model in training writes programs for a collection."""
    if args.decoding == "beam":
        return beams_of(args, num_beam_groups=args.num_beam_groups)
    return NucleusSource(
        num_programs=args.num_beams,
        max_completion_length=args.max_completion_length,
        batch_size=args.generation_batch_size,
        temperature=args.temperature,
        top_p=args.top_p,
        seed=args.seed,
    )


def weights_of(args: PPERConfig) -> Callable[[ReplayBuffer], FloatArray]:
    """Return what weighs the loss of each experience of a buffer, as a configuration asks for."""
    return lambda buffer: loss_weights(
        buffer.probabilities(),
        buffer.p2values(),
        importance_exponent=args.importance_exponent,
        weighting=args.loss_weighting,
    )


def judge_of(args: PPERConfig) -> Judge:
    """Return a judge with the limits of a configuration; its workers start on first use."""
    limits = Limits(cpu_seconds=args.judge_cpu_seconds, memory_bytes=args.judge_memory_bytes)
    return Judge(workers=args.judge_workers, isolation=args.judge_isolation, limits=limits)


def collector_of(callbacks: list[TrainerCallback], train: datasets.Dataset) -> BeamSampleCollector | None:
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
