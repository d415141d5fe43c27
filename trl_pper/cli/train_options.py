"""The options of `trl-pper train`: those of its configurations, and those that go to `accelerate launch`.

Enters: arguments, and the YAML file among them. Leaves: configurations, or what to launch; each option is
checked here, before a model or a task is loaded.

What `trl-pper train --help` shows: every option with its one description, ours first.

Enters: nothing. Leaves: text. It needs the configuration classes, and so takes the seconds in which they are imported.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

from transformers import TrainingArguments
from trl import ModelConfig, SFTConfig, TrlParser

from trl_pper.cli.launch import ACCELERATE_CONFIG, ACCELERATE_CONFIG_HELP, launch_actions
from trl_pper.cli.options.file import Entry, read_entries, split_config
from trl_pper.cli.options.shown import Option, help_text, list_options
from trl_pper.cli.options.types import Wanted, option_actions, typed, unknown_option, wanted_of_action
from trl_pper.cli.tasks import PROMPTS, is_mixture
from trl_pper.generation.extraction import LEARNED
from trl_pper.tasks.loading import FORMATS
from trl_pper.training.config import PPERConfig

_UNKNOWN = "neither trl-pper train nor accelerate launch has such an option"
_NUMBER = re.compile(r"-\.?\d")


@dataclass
class DataArguments:
    """Which tasks and which programs a training run uses."""

    tasks: str | None = field(
        default=None,
        metadata={"help": "Tasks to write programs for: a file, a folder, a mixture (.yaml) or the id of a data set."},
    )
    task_format: str = field(default="auto", metadata={"help": "Format of the tasks.", "choices": ["auto", *FORMATS]})
    task_subset: str | None = field(default=None, metadata={"help": "Configuration of a data set of tasks."})
    task_split: str | None = field(default=None, metadata={"help": "Split of a data set of tasks."})
    difficulty: list[str] | None = field(default=None, metadata={"help": "Only tasks of these difficulties."})
    max_tests: int | None = field(default=None, metadata={"help": "Only the first so many tests of each task."})
    on_error: str = field(
        default="raise", metadata={"help": "What malformed rows of tasks do.", "choices": ["raise", "skip"]}
    )
    prompts: str = field(
        default="text",
        metadata={
            "help": "What the tasks ask: text to continue, or chat, messages to answer.",
            "choices": list(PROMPTS),
        },
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
        metadata={
            "help": "What is learned of a teacher's programs: each completion as it is, or the program alone.",
            "choices": list(LEARNED),
        },
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


#: In the order of what a run's configurations are made of.
CONFIGURATIONS: tuple[type[Any], ...] = (DataArguments, PPERConfig, ModelConfig)


@dataclass(frozen=True, kw_only=True)
class TrainOptions:
    """What a command line of `trl-pper train` asks for.

    Args:
        given: The options of the configurations that somebody gave, with values of the right types.
        arguments: What a process of the launch is to be given: everything but the options of the launch.
        launch: The options of `accelerate launch`, those of the file in front.
        typed_launch: The first of them on the command line, if there is one.
    """

    given: dict[str, Any]
    arguments: list[str]
    launch: list[str]
    typed_launch: str | None

    def check(self) -> None:
        """Refuse what can be told without setting up a device: which tasks and which model.

        Raises:
            ValueError: One of them is missing, or contradicts another.
        """
        self._made(DataArguments)
        if self.given.get("model_name_or_path") is None:
            raise ValueError("model_name_or_path: required; give a model id or a path")

    def configurations(self) -> tuple[DataArguments, PPERConfig, Any]:
        """Return the configurations of tasks, training and model.

        Raises:
            ValueError: An option is out of range, missing, or contradicts another.
        """
        self.check()
        return self._made(DataArguments), self._made(PPERConfig), self._made(ModelConfig)

    def _made(self, configuration: type[Any]) -> Any:
        names = {one.name for one in fields(configuration)}
        return configuration(**{name: value for name, value in self.given.items() if name in names})


def train_options(arguments: Sequence[str]) -> TrainOptions:
    """Return what a command line asks for: what stands on it goes before what is in its file.

    Raises:
        ValueError: An option does not exist, or gets a value that it does not take.
        OSError: The file cannot be read.
    """
    path, typed_in = split_config(arguments)
    parser, launched, wanted = _parser(), launch_actions(), wanted_of_options()
    configured, launch = _dealt_out(typed_in, option_actions(parser), launched)
    try:
        from_line, left = parser.parse_known_args(configured)
    except argparse.ArgumentError as error:
        raise ValueError(str(error)) from error
    if left:
        raise ValueError(f"{left[0]}: must be the value of an option; the one before it takes no more")
    from_file, launch_of_file = _split_file({} if path is None else read_entries(path), wanted, launched)
    return TrainOptions(
        given={
            **from_file,
            **{name: _from_line(name, value, wanted[name]) for name, value in vars(from_line).items()},
        },
        arguments=[*(["--config", str(path)] if path else []), *configured],
        launch=[*launch_of_file, *launch],
        typed_launch=launch[0].partition("=")[0] if launch else None,
    )


def wanted_of_options() -> dict[str, Wanted]:
    """Return what each option of the configurations takes, by name."""
    return {option.name: option.wanted for one in CONFIGURATIONS for option in list_options(one)}


def _parser() -> Any:
    """Return TRL's parser, which knows how options are spelled; what they take is checked as that of files is."""
    parser = TrlParser(CONFIGURATIONS, prog="trl-pper train", allow_abbrev=False, exit_on_error=False)
    for action in option_actions(parser).values():
        action.type, action.choices, action.default = None, None, argparse.SUPPRESS
    return parser


def _from_line(name: str, value: Any, wanted: Wanted) -> Any:
    """Return a value of the command line as the type that is wanted; true and false are of options without a value."""
    return value if isinstance(value, bool) else typed(_entry(f"--{name}", value), wanted)


def _entry(where: str, value: str | list[str]) -> Entry:
    if isinstance(value, str):
        return Entry(where=where, text=value, value=value, items=None)
    return Entry(where=where, text=None, value=value, items=tuple(_entry(where, item) for item in value))


def _dealt_out(
    arguments: Sequence[str], ours: Mapping[str, Any], launch: Mapping[str, Any]
) -> tuple[list[str], list[str]]:
    """Return arguments of the run and of the launch: a value goes where its option went."""
    run_arguments: list[str] = []
    launch_arguments: list[str] = []
    chosen: list[str] | None = None
    for argument in arguments:
        if argument.startswith("-") and not _NUMBER.match(argument):
            option = argument.partition("=")[0]
            name = option.removeprefix("--")
            if name not in ours and name not in launch:
                raise ValueError(unknown_option(option, _underscored(ours, launch, "--"), where=option, said=_UNKNOWN))
            chosen = run_arguments if name in ours else launch_arguments
        if chosen is None:
            raise ValueError(f"{argument}: must be the value of an option; got it before any")
        chosen.append(argument)
    return run_arguments, launch_arguments


def _underscored(ours: Iterable[str], launch: Iterable[str], start: str = "") -> list[str]:
    """Return names of options without their second spelling, with hyphens."""
    return [start + name for name in (*ours, *launch) if "-" not in name]


def _split_file(
    entries: Mapping[str, Entry], wanted: Mapping[str, Wanted], launch: Mapping[str, argparse.Action]
) -> tuple[dict[str, Any], list[str]]:
    """Return the options of a run that a file gives, and those of the launch as arguments."""
    given: dict[str, Any] = {}
    arguments: list[str] = []
    for name, entry in entries.items():
        if name in wanted:
            given[name] = typed(entry, wanted[name])
        elif name in launch and name != "env":
            arguments += _as_arguments(name, typed(entry, wanted_of_action(launch[name])))
        elif name != "env":
            raise ValueError(unknown_option(name, _underscored(wanted, launch), where=entry.where, said=_UNKNOWN))
    return given, arguments


def _as_arguments(name: str, value: Any) -> list[str]:
    if value is None or value is False:
        return []
    values = value if isinstance(value, list) else [value]
    return [f"--{name}" if one is True else f"--{name}={one}" for one in values]


_USAGE = "trl-pper train [--config FILE.yaml] [--option value ...]"
_DESCRIPTION = (
    "Fine-tune a code model by prioritised experience replay of the programs it writes. In the YAML file options are "
    "'name: value'; the command line goes before it."
)
_EPILOG = (
    "--num_processes, --num_machines, --gpu_ids and all further options of `accelerate launch` are taken as well; "
    "`accelerate launch --help` lists them. In square brackets stands what holds where an option is not given."
)
_TEXT = Wanted(kinds=frozenset({"text"}))


def train_help() -> str:
    """Return the text of `trl-pper train --help`."""
    base = {field.name for field in fields(TrainingArguments)}
    trained = list_options(PPERConfig)
    theirs = {field.name for field in fields(SFTConfig)}
    config = Option(name="config", default=None, help="YAML file of these options.", wanted=_TEXT)
    launch = Option(name=ACCELERATE_CONFIG, default=None, help=ACCELERATE_CONFIG_HELP, wanted=_TEXT)
    groups = {
        "tasks and programs": [config, *list_options(DataArguments)],
        "prioritised experience replay": [option for option in trained if option.name not in theirs],
        "model and adapter (TRL's ModelConfig)": list_options(ModelConfig),
        "several processes": [launch],
        "fine-tuning (TRL's SFTConfig)": [one for one in trained if one.name in theirs - base],
        "training (TrainingArguments)": [one for one in trained if one.name in base],
    }
    return help_text(_USAGE, _DESCRIPTION, groups, epilog=_EPILOG)
