"""`trl-pper train`: a training run from a YAML file and the command line.

Enters: arguments. Leaves: a trained model on disk. Options are checked before a model is loaded.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import datasets
from transformers import AutoTokenizer
from trl import ModelConfig, TrlParser, get_peft_config, get_quantization_config

from trl_pper.collector import BeamSampleCollector
from trl_pper.config import PPERConfig
from trl_pper.experience import without_padding
from trl_pper.formats import FORMATS
from trl_pper.generation.dataset import DatasetSource
from trl_pper.generation.prompt_length import with_short_prompts
from trl_pper.replay import ReplayBuffer
from trl_pper.task import CodingTask
from trl_pper.task_source import is_mixture, read_tasks
from trl_pper.trainer import PPERTrainer


@dataclass
class DataArguments:
    """Which tasks and which programs a training run uses."""

    tasks: str | None = field(
        default=None,
        metadata={"help": "Tasks to write programs for: a file, a folder, a mixture (.yaml) or the id of a data set."},
    )
    task_format: str = field(default="auto", metadata={"help": f"Format of the tasks: auto, {', '.join(FORMATS)}."})
    task_subset: str | None = field(default=None, metadata={"help": "Configuration of a data set of tasks."})
    task_split: str | None = field(default=None, metadata={"help": "Split of a data set of tasks."})
    difficulty: list[str] | None = field(default=None, metadata={"help": "Only tasks of these difficulties."})
    max_tests: int | None = field(default=None, metadata={"help": "Only the first so many tests of each task."})
    on_error: str = field(default="raise", metadata={"help": "What malformed rows of tasks do: raise or skip."})
    prompts: str = field(
        default="text", metadata={"help": "What the tasks ask: text to continue, or chat, messages to answer."}
    )
    max_prompt_length: int | None = field(
        default=None,
        metadata={"help": "Leave out what has a longer prompt, in tokens of the model; a warning says how many."},
    )
    eval_tasks: str | None = field(default=None, metadata={"help": "Held-out tasks, evaluated by generating."})
    eval_split: str | None = field(default=None, metadata={"help": "Split of a data set of held-out tasks."})
    programs: str | None = field(default=None, metadata={"help": "File of a teacher's programs for the tasks."})
    learn: str = field(
        default="completion",
        metadata={"help": "What is learned of a teacher's programs: each completion as it is, or the program alone."},
    )
    buffer: str | None = field(default=None, metadata={"help": "Buffer file to replay without collecting."})

    def __post_init__(self) -> None:
        if (self.tasks is None) == (self.buffer is None):
            raise ValueError("tasks: exactly one of tasks and buffer is required; give the file of tasks or a buffer")
        if self.programs is not None and self.tasks is None:
            raise ValueError("programs: needs tasks, whose tests judge the programs; give the file of tasks")
        self._check_mixtures()

    def task_options(self) -> dict[str, Any]:
        """Return the options of tasks by the names that `load_tasks` has for them."""
        return {
            "format": self.task_format,
            "subset": self.task_subset,
            "difficulty": self.difficulty,
            "max_tests": self.max_tests,
            "on_error": self.on_error,
        }

    def _check_mixtures(self) -> None:
        splits = {"task_split": (self.tasks, self.task_split), "eval_split": (self.eval_tasks, self.eval_split)}
        for name, (source, split) in splits.items():
            if split is not None and source is not None and is_mixture(source):
                raise ValueError(f"{name}: each source of the mixture {source} has its own; write it there")
        given = [source for source in (self.tasks, self.eval_tasks) if source is not None]
        if (
            given
            and all(map(is_mixture, given))
            and any(value not in (None, "auto", "raise") for value in self.task_options().values())
        ):
            raise ValueError(
                "task_format, task_subset, difficulty, max_tests, on_error: each source of a mixture has its own; "
                f"write them into {' and '.join(given)}"
            )


def train(arguments: Sequence[str]) -> int:
    """Run `trl-pper train` and return its exit code."""
    parser = TrlParser((DataArguments, PPERConfig, ModelConfig))
    data, config, model_config = parser.parse_args_and_config(list(arguments))
    if model_config.model_name_or_path is None:
        raise ValueError("model_name_or_path: required; give a model id or a path")
    train_dataset, eval_dataset = _train_dataset(data), _eval_dataset(data)
    if data.max_prompt_length is not None:
        tokenizer = AutoTokenizer.from_pretrained(
            model_config.model_name_or_path, revision=model_config.model_revision
        )
        train_dataset = _shortened(train_dataset, tokenizer, data.max_prompt_length)
        eval_dataset = _shortened(eval_dataset, tokenizer, data.max_prompt_length)
    trainer = PPERTrainer(
        model=model_config.model_name_or_path,
        args=_with_model_options(config, model_config),
        train_dataset=train_dataset,
        eval_dataset=eval_dataset,
        callbacks=_callbacks(data),
        peft_config=get_peft_config(model_config),
        quantization_config=get_quantization_config(model_config),
    )
    trainer.train(resume_from_checkpoint=_checkpoint(config.resume_from_checkpoint))
    trainer.save_model()
    if data.eval_tasks:
        trainer.save_metrics("eval", trainer.evaluate())
    if config.push_to_hub:
        trainer.push_to_hub()
    trainer.end()
    return 0


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
