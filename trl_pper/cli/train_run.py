"""Run `trl-pper train` in this process: load tasks and model, train, save, evaluate, push.

Tasks, files and options that are wrong are refused by `prepare`, before anything trains.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import datasets
import numpy as np
from transformers import AutoTokenizer, GenerationConfig
from trl import ModelConfig, get_peft_config, get_quantization_config

from trl_pper.cli.sources import is_mixture, read_tasks
from trl_pper.cli.train_options import DataArguments
from trl_pper.generation.dataset import DatasetSource
from trl_pper.generation.encoding import Encoder
from trl_pper.generation.local_model import end_token_ids
from trl_pper.replay.buffer import ReplayBuffer
from trl_pper.replay.experience import without_padding
from trl_pper.rounds.collector import BeamSampleCollector
from trl_pper.tasks.chat import put_to
from trl_pper.tasks.task import CodingTask
from trl_pper.training.card import evaluations
from trl_pper.training.config import PPERConfig
from trl_pper.training.trainer import PPERTrainer

logger = logging.getLogger(__name__)


def prepare(data: DataArguments, config: PPERConfig, model_config: ModelConfig) -> PPERTrainer:
    """Return the trainer of a run, with its tasks and its model loaded.

    Raises:
        ValueError: Tasks, programs or options cannot be had or do not go together.
        OSError: A file, a model or a data set cannot be read.
    """
    train_dataset = _train_dataset(data)
    eval_dataset = _tasks(data, data.eval_tasks, data.eval_split) if data.eval_tasks else None
    if data.max_prompt_length is not None:
        encoder = _encoder(config, model_config)
        train_dataset = shorten(train_dataset, encoder, data.max_prompt_length, prompts=config.prompts)
        if eval_dataset is not None:
            eval_dataset = shorten(eval_dataset, encoder, data.max_prompt_length, prompts=config.prompts)
    if data.eval_fraction is not None:
        train_dataset, eval_dataset = hold_out(train_dataset, data.eval_fraction, seed=config.seed)
    collector = None
    if data.programs is not None:
        collector = [BeamSampleCollector(source=DatasetSource(data.programs), learn=data.learn)]
    # The trainer loads the model by its name, with these options; model_init_kwargs override them.
    named = {"revision": "model_revision", "attn_implementation": "attn_implementation", "dtype": "dtype"}
    chosen = {name: getattr(model_config, option) for name, option in named.items()}
    chosen = {name: value for name, value in chosen.items() if value is not None}
    config.model_init_kwargs = {**chosen, **(config.model_init_kwargs or {})}
    return PPERTrainer(
        model=model_config.model_name_or_path,
        args=config,
        train_dataset=train_dataset,
        eval_dataset=eval_dataset,
        callbacks=collector,
        peft_config=get_peft_config(model_config),
        quantization_config=get_quantization_config(model_config),
    )


def run(trainer: PPERTrainer) -> None:
    """Train, save, evaluate where there are held-out tasks, and push where that is asked for."""
    config = trainer.args
    resume = config.resume_from_checkpoint
    # The option takes a path; "true" stands for the newest checkpoint, whose path changes.
    trainer.train(resume_from_checkpoint=True if str(resume).lower() == "true" else resume)
    # Not pushed yet: a Hub that is away must not cost the evaluation, and the card is to have it.
    trainer.save_model(_internal_call=True)
    if trainer.eval_dataset is not None:
        trainer.save_metrics("eval", _known_metrics(trainer) or trainer.evaluate())
    if config.push_to_hub:
        trainer.push_to_hub()
    else:
        # A push writes the card, too.
        trainer.create_model_card(model_name=Path(config.output_dir).name)
    trainer.end()


def _known_metrics(trainer: PPERTrainer) -> dict[str, float]:
    """Return the metrics of an evaluation of the final weights during training; empty if there was none."""
    state = trainer.state
    best = state.best_global_step if trainer.args.load_best_model_at_end else None
    step = state.global_step if best is None else best
    logged = [entry for entry in evaluations(state.log_history) if entry.get("step") == step]
    return {name: value for entry in logged for name, value in entry.items() if name != "step"}


def hold_out(tasks: Sequence[CodingTask], fraction: float, *, seed: int) -> tuple[list[CodingTask], list[CodingTask]]:
    """Return the tasks to train on and the tasks to hold out, each in their order; the same for the same seed.

    Args:
        tasks: At least two tasks.
        fraction: Share of the tasks to hold out, in (0, 1), rounded to whole tasks; at least one is on each side.
        seed: Seed of the draw.

    Raises:
        ValueError: There are fewer than two tasks.
    """
    if len(tasks) < 2:
        raise ValueError(f"eval_fraction: needs at least 2 tasks, to train on and to hold out; got {len(tasks)}")
    number = min(max(1, round(fraction * len(tasks))), len(tasks) - 1)
    held = set(np.random.default_rng(seed).permutation(len(tasks))[:number].tolist())
    sides: tuple[list[CodingTask], list[CodingTask]] = ([], [])
    for position, task in enumerate(tasks):
        sides[position in held].append(task)
    return sides


def _encoder(config: PPERConfig, model_config: ModelConfig) -> Encoder:
    """Return the encoder of the model, which is not loaded yet."""
    name, revision = model_config.model_name_or_path, model_config.model_revision
    tokenizer = AutoTokenizer.from_pretrained(name, revision=revision, trust_remote_code=config.trust_remote_code)
    configured = None
    # A base model may have no such file.
    with contextlib.suppress(OSError):
        configured = GenerationConfig.from_pretrained(name, revision=revision)
    return Encoder(
        tokenizer=tokenizer,
        end_token_ids=frozenset(end_token_ids(tokenizer, configured)),
        chat_template_kwargs=dict(config.chat_template_kwargs or {}),  # type: ignore[arg-type]
    )


def shorten(data: Any, encoder: Encoder, max_prompt_length: int, *, prompts: str = "text") -> Any:
    """Return tasks or rows without the ones that have too long a prompt; a warning says how many are left out.

    Args:
        data: A list of tasks, or a data set with a column `prompt`.
        encoder: The encoder of the model.
        max_prompt_length: The most tokens of a prompt.
        prompts: How text prompts of tasks are put to the model, as in `PPERConfig`.

    Raises:
        ValueError: The length is below 1, or no prompt is short enough.
    """
    if max_prompt_length < 1:
        raise ValueError(f"max_prompt_length: must be at least 1; got {max_prompt_length}")
    rows = isinstance(data, datasets.Dataset)
    if rows:
        asked = [without_padding(prompt) for prompt in data["prompt"]]
    else:
        asked = [task.prompt for task in put_to(data, encoder, prompts=prompts).tasks]
    lengths = [len(encoder.prompt(prompt)) for prompt in asked]
    short = [index for index, length in enumerate(lengths) if length <= max_prompt_length]
    if lengths and not short:
        raise ValueError(
            f"max_prompt_length: no prompt has at most {max_prompt_length} tokens, the shortest has {min(lengths)}"
        )
    if len(short) < len(lengths):
        logger.warning(
            "max_prompt_length: %d of %d are left out, because their prompts have more than %d tokens; the longest "
            "has %d", len(lengths) - len(short), len(lengths), max_prompt_length, max(lengths),
        )  # fmt: skip
    return data.select(short) if rows else [data[index] for index in short]


def _train_dataset(data: DataArguments) -> Any:
    if data.buffer is not None:
        return ReplayBuffer.load(data.buffer).to_dataset()
    return _tasks(data, str(data.tasks), data.task_split)


def _tasks(data: DataArguments, source: str, split: str | None) -> list[CodingTask]:
    # Each source of a mixture has its own options; the ones given here are for the other set of tasks.
    options = {} if is_mixture(source) else {**data.task_options(), "split": split}
    # The trainer knows the model, and puts the tasks to it as messages or as text.
    return read_tasks(source, prompts="text", **options)
