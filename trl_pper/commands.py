"""The commands that load a model: `trl-pper train` and `trl-pper collect`.

Enters: parsed options, or a YAML file with overrides. Leaves: a trained model or a buffer on disk. Options are checked
before a model is loaded.
"""

from __future__ import annotations

import argparse
import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from transformers import AutoModelForCausalLM, AutoTokenizer
from trl import ModelConfig, TrlParser, get_peft_config, get_quantization_config

from trl_pper.collector import BeamSampleCollector
from trl_pper.config import PPERConfig
from trl_pper.formats import FORMATS, as_chat, load_tasks
from trl_pper.generation.beam_search import BeamSearchSource
from trl_pper.generation.dataset import DatasetSource
from trl_pper.generation.server import ServerSource
from trl_pper.generation.source import ProgramSource
from trl_pper.judge_rows import make_judge, tasks_of
from trl_pper.replay import ReplayBuffer
from trl_pper.task import CodingTask
from trl_pper.trainer import PPERTrainer


@dataclass
class DataArguments:
    """Which tasks and which programs a training run uses."""

    tasks: str | None = field(
        default=None, metadata={"help": "Tasks to write programs for: a file, a folder or the id of a data set."}
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
    eval_tasks: str | None = field(default=None, metadata={"help": "Held-out tasks, evaluated by generating."})
    eval_split: str | None = field(default=None, metadata={"help": "Split of a data set of held-out tasks."})
    programs: str | None = field(default=None, metadata={"help": "File of a teacher's programs for the tasks."})
    buffer: str | None = field(default=None, metadata={"help": "Buffer file to replay without collecting."})

    def __post_init__(self) -> None:
        if self.prompts not in ("text", "chat"):
            raise ValueError(f"prompts: must be text or chat; got {self.prompts!r}")
        if (self.tasks is None) == (self.buffer is None):
            raise ValueError("tasks: exactly one of tasks and buffer is required; give the file of tasks or a buffer")
        if self.programs is not None and self.tasks is None:
            raise ValueError("programs: needs tasks, whose tests judge the programs; give the file of tasks")


def train(arguments: Sequence[str]) -> int:
    """Run `trl-pper train` and return its exit code."""
    parser = TrlParser((DataArguments, PPERConfig, ModelConfig))
    data, config, model_config = parser.parse_args_and_config(list(arguments))
    if model_config.model_name_or_path is None:
        raise ValueError("model_name_or_path: required; give a model id or a path")
    trainer = PPERTrainer(
        model=model_config.model_name_or_path,
        args=_with_model_options(config, model_config),
        train_dataset=_train_dataset(data),
        eval_dataset=_tasks(data, data.eval_tasks, data.eval_split) if data.eval_tasks else None,
        callbacks=[BeamSampleCollector(source=DatasetSource(data.programs))] if data.programs else None,
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


def _train_dataset(data: DataArguments) -> Any:
    if data.buffer is not None:
        return ReplayBuffer.load(data.buffer).to_dataset()
    return _tasks(data, str(data.tasks), data.task_split)


def _tasks(data: DataArguments, source: str, split: str | None) -> list[CodingTask]:
    tasks = load_tasks(
        source,
        format=data.task_format,
        subset=data.task_subset,
        split=split,
        difficulty=data.difficulty,
        max_tests=data.max_tests,
        on_error=data.on_error,
    )
    return as_chat(tasks) if data.prompts == "chat" else tasks


def _with_model_options(config: PPERConfig, model_config: ModelConfig) -> PPERConfig:
    given = {
        "revision": model_config.model_revision,
        "attn_implementation": model_config.attn_implementation,
        "dtype": model_config.dtype,
    }
    chosen = {name: value for name, value in given.items() if value is not None}
    config.model_init_kwargs = {**chosen, **(config.model_init_kwargs or {})}
    return config


def collect(options: argparse.Namespace) -> int:
    """Run `trl-pper collect` and return its exit code."""
    tasks = tasks_of(options.tasks, options)
    buffer = ReplayBuffer.load(options.output) if options.output.exists() else ReplayBuffer()
    source = _source(options)
    journal_folder = options.output.with_name(f"{options.output.name}.journal")
    try:
        with make_judge(options) as judge:
            collector = BeamSampleCollector(source=source, judge=judge, tasks=tasks, journal_folder=journal_folder)
            collector.buffer = buffer
            report = collector.collect(quiet=False)
    finally:
        if len(buffer):
            buffer.save(options.output)
        if isinstance(source, ServerSource):
            # After an error, too: it was paid for.
            print(f"{source.model}: {source.usage.describe(options.prompt_price, options.completion_price)}")
    if report.unjudged:
        print(f"The programs without a verdict are kept in {journal_folder}; run this again to have them judged")
    else:
        # All of it is in the buffer now; left behind, it would stand for the next collection.
        shutil.rmtree(journal_folder, ignore_errors=True)
    print(
        f"{report.programs} programs for {len(tasks)} tasks: {report.added} new, {report.duplicates} repeated, "
        f"{report.unjudged} not judged, {report.unextracted} without a program; "
        f"mean pass rate {report.pass_rate:.3f}, {report.solved:.1%} of tasks solved; "
        f"{len(buffer)} programs in {options.output}"
    )
    return 0


#: Options that only a server has, by what `ServerSource` calls them; the last ones are not for it.
_SERVER_OPTIONS = {
    "api_key_env": "api_key_env",
    "concurrency": "concurrency",
    "requests_per_minute": "requests_per_minute",
    "max_retries": "max_retries",
    "timeout_seconds": "timeout_seconds",
    "temperature": "temperature",
    "top_p": "top_p",
    "stop": "stop",
    "sampling_seed": "seed",
    "chat": "chat",
}
_OTHER_SERVER_OPTIONS = ("server_model", "extra_body", "prompt_price", "completion_price")


def _source(options: argparse.Namespace) -> ProgramSource:
    given = [name for name in (*_SERVER_OPTIONS, *_OTHER_SERVER_OPTIONS) if getattr(options, name) is not None]
    if given and options.server is None:
        raise ValueError(f"--{given[0]}: only a server has it; give --server, or leave it out")
    if options.programs is not None:
        return DatasetSource(options.programs)
    if options.server is not None:
        return _server(options)
    model = AutoModelForCausalLM.from_pretrained(options.model)
    return BeamSearchSource(
        model.eval(),
        AutoTokenizer.from_pretrained(options.model),
        num_beams=options.num_beams,
        max_completion_length=options.max_completion_length,
        batch_size=options.batch_size,
    )


def _server(options: argparse.Namespace) -> ServerSource:
    if options.server_model is None:
        raise ValueError("server_model: required with --server; name the model to ask for")
    given = {name: getattr(options, option) for option, name in _SERVER_OPTIONS.items()}
    return ServerSource(
        options.server,
        model=options.server_model,
        num_programs=options.num_beams,
        max_completion_length=options.max_completion_length,
        extra_body=_json_object("extra_body", options.extra_body),
        **{name: value for name, value in given.items() if value is not None},
    )


def _json_object(name: str, text: str | None) -> dict[str, Any]:
    try:
        value = json.loads(text or "{}")
    except json.JSONDecodeError:
        value = None
    if not isinstance(value, dict):
        raise ValueError(f"{name}: a JSON object is required; got {text!r}")
    return value
