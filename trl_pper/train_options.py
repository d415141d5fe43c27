"""The options of `trl-pper train`: those of its configurations, and those that go to `accelerate launch`.

Enters: arguments, and the YAML file among them. Leaves: configurations, or what to launch; each option is
checked here, before a model or a task is loaded.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, get_type_hints

from trl import ModelConfig, TrlParser

from trl_pper.config import PPERConfig
from trl_pper.formats import FORMATS
from trl_pper.launch import launch_actions
from trl_pper.option_defaults import option_actions
from trl_pper.option_file import Entry, read_entries, split_config
from trl_pper.option_types import Wanted, typed, unknown_option, wanted_of_action, wanted_of_hint
from trl_pper.plain_completion import LEARNED
from trl_pper.task_source import PROMPTS, is_mixture

_OWNER = "neither trl-pper train nor accelerate launch has"
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
        arguments: What a process of the launch is to be given: everything but the options of the launch.
        launch: The options of `accelerate launch`, those of the file in front.
        typed_launch: The first of them on the command line, if there is one.
        parser: What makes the configurations; the file's values are its defaults.
        configured: The arguments of the parser.
    """

    arguments: list[str]
    launch: list[str]
    typed_launch: str | None
    parser: Any
    configured: list[str]

    def use_cpu(self) -> bool:
        """Return whether the run is told to leave GPUs alone."""
        return bool(self.parser.parse_args(self.configured).use_cpu)

    def check(self) -> None:
        """Refuse what can be told without setting up a device: types, choices, and which tasks and model.

        Raises:
            ValueError: An option is wrong, or missing.
        """
        given = vars(self.parser.parse_args(self.configured))
        DataArguments(**{one.name: given[one.name] for one in fields(DataArguments)})
        _check_model(given["model_name_or_path"])

    def configurations(self) -> tuple[DataArguments, PPERConfig, Any]:
        """Return the configurations of tasks, training and model.

        Raises:
            ValueError: An option is wrong, or missing.
        """
        data, config, model = self.parser.parse_args_into_dataclasses(self.configured, look_for_args_file=False)
        _check_model(model.model_name_or_path)
        return data, config, model


def train_options(arguments: Sequence[str]) -> TrainOptions:
    """Return what a command line asks for.

    Raises:
        ValueError: An option does not exist, or the file gives one a value that it does not take.
        OSError: The file cannot be read.
    """
    parser = TrlParser(CONFIGURATIONS, prog="trl-pper train", allow_abbrev=False, exit_on_error=False)
    path, typed_in = split_config(arguments)
    launched = launch_actions()
    configured, launch = _dealt_out(typed_in, _spellings(option_actions(parser)), _spellings(launched))
    from_file: list[str] = []
    if path is not None:
        from_file = _set_defaults(parser, read_entries(path), launched)
    return TrainOptions(
        arguments=[*(["--config", str(path)] if path else []), *configured],
        launch=[*from_file, *launch],
        typed_launch=launch[0].partition("=")[0] if launch else None,
        parser=parser,
        configured=configured,
    )


def wanted_of_options() -> dict[str, Wanted]:
    """Return what each option of the configurations takes, by name."""
    return {
        one.name: wanted_of_hint(hints[one.name], one.metadata.get("choices"))
        for configuration in CONFIGURATIONS
        for hints in [get_type_hints(configuration)]
        for one in fields(configuration)
        if one.init
    }


def _spellings(actions: Mapping[str, Any]) -> set[str]:
    return {f"--{name}" for name in actions}


def _dealt_out(arguments: Sequence[str], ours: Iterable[str], launch: Iterable[str]) -> tuple[list[str], list[str]]:
    """Return arguments of the run and of the launch: a value goes where its option went."""
    dealt: dict[str, list[str]] = {"run": [], "launch": []}
    owner: str | None = None
    for argument in arguments:
        if argument.startswith("-") and not _NUMBER.match(argument):
            name = argument.partition("=")[0]
            owner = "run" if name in ours else "launch" if name in launch else None
            if owner is None:
                known = {one for one in (*ours, *launch) if "-" not in one[2:]}
                raise ValueError(unknown_option(name, known, where=name, owner=_OWNER))
        elif owner is None:
            raise ValueError(f"{argument}: must be a value of an option; got it before any")
        dealt[owner].append(argument)
    return dealt["run"], dealt["launch"]


def _set_defaults(parser: Any, entries: Mapping[str, Entry], launch: Mapping[str, Any]) -> list[str]:
    """Give the parser the values of a file, and return those for the launch as arguments."""
    wanted = wanted_of_options()
    arguments: list[str] = []
    for name, entry in entries.items():
        if name == "env":
            continue
        if name in wanted:
            parser.set_defaults(**{name: typed(entry, wanted[name])})
        elif name in launch:
            arguments += _as_arguments(name, typed(entry, wanted_of_action(launch[name])))
        else:
            known = [one for one in (*wanted, *launch) if "-" not in one]
            raise ValueError(unknown_option(name, known, where=entry.where, owner=_OWNER))
    return arguments


def _as_arguments(name: str, value: Any) -> list[str]:
    if value is None or value is False:
        return []
    values = value if isinstance(value, list) else [value]
    return [f"--{name}" if one is True else f"--{name}={one}" for one in values]


def _check_model(name: str | None) -> None:
    if name is None:
        raise ValueError("model_name_or_path: required; give a model id or a path")
