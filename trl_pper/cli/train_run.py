"""A training run of `trl-pper train`, from its configurations to a trained model on disk.

Enters: checked options. Leaves: a trained model on disk. What is wrong with tasks, files or options is said by
`prepare`, before anything trains.

Tasks whose prompts leave room for a program: the others are left out, and said to be.

Enters: tasks and a tokenizer. Leaves: those with short enough prompts.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any, TypeVar

import datasets
from transformers import AutoTokenizer
from trl import ModelConfig, get_peft_config, get_quantization_config

from trl_pper.cli.tasks import is_mixture, read_tasks
from trl_pper.cli.train_options import DataArguments
from trl_pper.generation.dataset import DatasetSource
from trl_pper.generation.local_model import LocalModel
from trl_pper.replay.buffer import ReplayBuffer
from trl_pper.replay.experience import without_padding
from trl_pper.rounds.collector import BeamSampleCollector
from trl_pper.tasks.task import CodingTask, Prompt
from trl_pper.training.config import PPERConfig
from trl_pper.training.trainer import PPERTrainer


def prepare(data: DataArguments, config: PPERConfig, model_config: ModelConfig) -> PPERTrainer:
    """Return the trainer of a run, with its tasks and its model loaded.

    Raises:
        ValueError: Tasks, programs or options cannot be had or do not go together.
        OSError: A file, a model or a data set cannot be read.
    """
    train_dataset, eval_dataset = _train_dataset(data), _eval_dataset(data)
    if data.max_prompt_length is not None:
        tokenizer = AutoTokenizer.from_pretrained(
            model_config.model_name_or_path, revision=model_config.model_revision
        )
        train_dataset = _shortened(train_dataset, tokenizer, data.max_prompt_length)
        eval_dataset = _shortened(eval_dataset, tokenizer, data.max_prompt_length)
    return PPERTrainer(
        model=model_config.model_name_or_path,
        args=_with_model_options(config, model_config),
        train_dataset=train_dataset,
        eval_dataset=eval_dataset,
        callbacks=_callbacks(data),
        peft_config=get_peft_config(model_config),
        quantization_config=get_quantization_config(model_config),
    )


def run(trainer: PPERTrainer) -> None:
    """Train, save, evaluate where there are held-out tasks, and push where that is asked for."""
    config = trainer.args
    trainer.train(resume_from_checkpoint=_checkpoint(config.resume_from_checkpoint))
    # Not pushed yet: a Hub that is away must not cost the evaluation, and the card is to have it.
    trainer.save_model(_internal_call=True)
    if trainer.eval_dataset is not None:
        trainer.save_metrics("eval", trainer.evaluate())
    if config.push_to_hub:
        trainer.push_to_hub()
    trainer.end()


def _checkpoint(given: str | bool | None) -> str | bool | None:
    """Return True for "true": the option is a path for the parser, and the newest checkpoint has no fixed one."""
    return True if str(given).lower() == "true" else given


def _shortened(data: Any, tokenizer: Any, max_prompt_length: int) -> Any:
    """Return tasks or judged programs without those whose prompt is too long."""
    if data is None:
        return None
    if isinstance(data, datasets.Dataset):
        prompts = [without_padding(prompt) for prompt in data["prompt"]]
        return data.select(
            with_short_prompts(range(len(data)), prompts, tokenizer, max_prompt_length=max_prompt_length)
        )
    return with_short_prompts(data, [task.prompt for task in data], tokenizer, max_prompt_length=max_prompt_length)


def _callbacks(data: DataArguments) -> list[BeamSampleCollector] | None:
    if data.programs is None:
        return None
    return [BeamSampleCollector(source=DatasetSource(data.programs), learn=data.learn)]


def _eval_dataset(data: DataArguments) -> list[CodingTask] | None:
    return _tasks(data, data.eval_tasks, data.eval_split) if data.eval_tasks else None


def _train_dataset(data: DataArguments) -> Any:
    if data.buffer is not None:
        return ReplayBuffer.load(data.buffer).to_dataset()
    return _tasks(data, str(data.tasks), data.task_split)


def _tasks(data: DataArguments, source: str, split: str | None) -> list[CodingTask]:
    # A mixture has options of its own; those given here are of the other set of tasks.
    options = {} if is_mixture(source) else {**data.task_options(), "split": split}
    return read_tasks(source, prompts=data.prompts, **options)


def _with_model_options(config: PPERConfig, model_config: ModelConfig) -> PPERConfig:
    given = {
        "revision": model_config.model_revision,
        "attn_implementation": model_config.attn_implementation,
        "dtype": model_config.dtype,
    }
    chosen = {name: value for name, value in given.items() if value is not None}
    config.model_init_kwargs = {**chosen, **(config.model_init_kwargs or {})}
    return config


logger = logging.getLogger(__name__)

T = TypeVar("T")


def with_short_prompts(
    things: Sequence[T], prompts: Sequence[Prompt], tokenizer: Any, *, max_prompt_length: int
) -> list[T]:
    """Return those things whose prompt has no more tokens than allowed, and warn of the others.

    Args:
        things: Tasks, or whatever has a prompt.
        prompts: The prompt of each.
        tokenizer: What counts the tokens; chat messages go through its template.
        max_prompt_length: The most tokens a prompt may have.

    Raises:
        ValueError: The length is below 1, or no prompt is short enough.
    """
    if max_prompt_length < 1:
        raise ValueError(f"max_prompt_length: must be at least 1; got {max_prompt_length}")
    lengths = list(map(len, LocalModel(model=None, processing_class=tokenizer).encode(prompts)))
    kept = [thing for thing, length in zip(things, lengths, strict=True) if length <= max_prompt_length]
    if things and not kept:
        raise ValueError(
            f"max_prompt_length: no prompt has at most {max_prompt_length} tokens, the shortest has {min(lengths)}"
        )
    if len(kept) < len(things):
        logger.warning(
            "max_prompt_length: %d of %d are left out, whose prompts have more than %d tokens; the longest has %d",
            len(things) - len(kept), len(things), max_prompt_length, max(lengths),
        )  # fmt: skip
    return kept
