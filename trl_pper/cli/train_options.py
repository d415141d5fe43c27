"""Read the options of `trl-pper train`: of its configurations and of `accelerate launch`.

Each option is checked here, before a model or a task is loaded. Importing the configurations takes some seconds.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from transformers import TrainingArguments
from trl import ModelConfig, SFTConfig

from trl_pper.cli.launch import ACCELERATE_CONFIG_HELP, launch_options
from trl_pper.cli.options import Option, list_options, make_parser, read_file, read_line, split_config
from trl_pper.cli.sources import is_mixture
from trl_pper.cli.yaml_file import read_entries
from trl_pper.files import SUFFIXES
from trl_pper.generation.extraction import LEARNED
from trl_pper.tasks.loading import FORMATS
from trl_pper.training.config import PPERConfig

_UNKNOWN = "neither trl-pper train nor accelerate launch has such an option"


def _option(help: str, *, default: str | None = None, choices: Sequence[str] = ()) -> Any:
    """Return a field of a dataclass, as TRL describes it."""
    return field(default=default, metadata={"help": help} | ({"choices": list(choices)} if choices else {}))


@dataclass
class DataArguments:
    """The tasks and the programs of a training run."""

    tasks: str | None = _option(
        "Tasks to write programs for: a file, a folder, a mixture (.yaml) or the id of a data set."
    )
    task_format: str = _option("Format of the tasks.", default="auto", choices=["auto", *FORMATS])
    task_subset: str | None = _option("Configuration of a data set of tasks.")
    task_split: str | None = _option("Split of a data set of tasks.")
    difficulty: list[str] | None = field(default=None, metadata={"help": "Only tasks of these difficulties."})
    max_tests: int | None = _option("Most tests used of each task, the first ones.")
    on_error: str = _option(
        "Malformed rows of tasks: raise an error, or skip them.", default="raise", choices=["raise", "skip"]
    )
    max_prompt_length: int | None = _option(
        "Leave out tasks and programs with a longer prompt, in tokens of the model; a warning says how many."
    )
    eval_tasks: str | None = _option("Held-out tasks, evaluated by generating.")
    eval_split: str | None = _option(
        "Split of a data set of held-out tasks; without eval_tasks, of the data set of the tasks."
    )
    eval_fraction: float | None = _option(
        "Share of the tasks to hold out for evaluation, drawn by seed; at least one is on each side."
    )
    programs: str | None = _option("File of a teacher's programs for the tasks.")
    learn: str = _option(
        "Text to train on, of a teacher's programs: the completion as it was written, or only the program in it.",
        default="completion",
        choices=LEARNED,
    )
    buffer: str | None = _option("Buffer file to replay without collecting.")

    def __post_init__(self) -> None:
        if (self.tasks is None) == (self.buffer is None):
            raise ValueError("tasks: exactly one of tasks and buffer is required; give the file of tasks or a buffer")
        if self.programs is not None and self.tasks is None:
            raise ValueError("programs: needs tasks, whose tests judge the programs; give the file of tasks")
        self._check_held_out()
        splits = {"task_split": (self.tasks, self.task_split), "eval_split": (self.eval_tasks, self.eval_split)}
        for name, (source, split) in splits.items():
            if split is not None and source is not None and is_mixture(source):
                raise ValueError(f"{name}: each source of the mixture {source} has its own; write it there")
        given = [source for source in (self.tasks, self.eval_tasks) if source is not None]
        chosen = any(value not in (None, "auto", "raise") for value in self.task_options().values())
        # Options of tasks may be meant for the one of two sets that is no mixture.
        if chosen and given and all(map(is_mixture, given)):
            raise ValueError(
                "task_format, task_subset, difficulty, max_tests, on_error: each source of a mixture has its own; "
                f"write them into {' and '.join(given)}"
            )

    def _check_held_out(self) -> None:
        share = self.eval_fraction
        if share is None:
            return
        if not 0 < share < 1:
            raise ValueError(f"eval_fraction: must be above 0 and below 1; got {share}")
        if self.tasks is None:
            raise ValueError("eval_fraction: needs tasks to hold some out; got a buffer. Leave it out, or give tasks")
        if self.eval_tasks is not None:
            raise ValueError(
                f"eval_fraction: must be left out with held-out tasks of their own; got {share} and eval_tasks "
                f"{self.eval_tasks}. Give one of them"
            )

    def task_options(self) -> dict[str, Any]:
        """Return the options of tasks by the names that `load_tasks` has for them."""
        return {
            "format": self.task_format, "subset": self.task_subset, "difficulty": self.difficulty,
            "max_tests": self.max_tests, "on_error": self.on_error,
        }  # fmt: skip


@dataclass
class TRLArguments:
    """The names that TRL's scripts have for tasks and weights (`ScriptArguments`, and earlier `ModelConfig`)."""

    dataset_name: str | None = _option("TRL's name of tasks.")
    dataset_config: str | None = _option("TRL's name of task_subset.")
    dataset_train_split: str | None = _option("TRL's name of task_split: 'train' where dataset_name has splits.")
    dataset_test_split: str | None = _option(
        "TRL's name of eval_split, if eval_strategy asks for an evaluation: 'test' where dataset_name has splits."
    )
    dataset_streaming: bool = field(
        default=False, metadata={"help": "Must be false, since every round reads all tasks."}
    )
    torch_dtype: str | None = _option(
        "Earlier TRL's name of dtype.", choices=["auto", "bfloat16", "float16", "float32"]
    )


#: The options of `TRLArguments` that are other spellings.
_SPELLINGS = {
    "dataset_name": "tasks", "dataset_config": "task_subset", "dataset_train_split": "task_split",
    "torch_dtype": "dtype",
}  # fmt: skip
_TWINS = _SPELLINGS | {name: theirs for theirs, name in _SPELLINGS.items()}


def read_trl_names(given: Mapping[str, Any]) -> dict[str, Any]:
    """Return options without TRL's names for tasks, with the values that TRL's scripts would take in their place.

    Raises:
        ValueError: An option is given by two names with two values, or tasks are to be streamed.
    """
    if given.get("dataset_streaming"):
        raise ValueError("dataset_streaming: must be false, since every round reads all tasks; got true. Leave it out")
    names = {one.name for one in fields(TRLArguments)}
    ours = {name: value for name, value in given.items() if name not in names}
    for theirs, name in _SPELLINGS.items():
        if given.get(theirs) is not None:
            ours[name] = _agreed(theirs, name, given[theirs], ours.get(name))
    source, test_split = ours.get("tasks"), given.get("dataset_test_split")
    # TRL takes these splits where none is named.
    by_trl = given.get("dataset_name") is not None and _has_splits(str(source))
    if by_trl and ours.get("task_split") is None:
        ours["task_split"] = "train"
    others = [name for name in ("eval_tasks", "eval_fraction") if ours.get(name) is not None]
    if test_split is not None and others:
        raise ValueError(
            f"dataset_test_split: names held-out tasks, as {others[0]} does; got both. Leave one of them out"
        )
    # TRL's scripts evaluate only if they are asked to.
    if not others and str(ours.get("eval_strategy") or "no") != "no" and (test_split is not None or by_trl):
        ours["eval_split"] = _agreed("dataset_test_split", "eval_split", test_split or "test", ours.get("eval_split"))
    if ours.get("eval_split") is not None and ours.get("eval_tasks") is None:
        ours["eval_tasks"] = source
    return ours


def _agreed(theirs: str, name: str, value: Any, other: Any) -> Any:
    if other not in (None, value):
        raise ValueError(
            f"{theirs}: must be equal to {name}, its other name; got {value} and {other}. Give one of them"
        )
    return value


def _has_splits(source: str) -> bool:
    return not (Path(source).is_file() or source.endswith(SUFFIXES) or is_mixture(source))


CONFIGURATIONS: tuple[type[Any], ...] = (DataArguments, PPERConfig, ModelConfig, TRLArguments)


@dataclass(frozen=True, kw_only=True)
class TrainOptions:
    """The options of a command line of `trl-pper train` and of its file.

    Args:
        given: The options of the configurations that are given, with values of the right types.
        arguments: The arguments for each process of a launch: all but the options of the launch.
        launch: The options of `accelerate launch`; the command line stands behind the file, and so overrides it.
        typed_launch: The first of them on the command line; None if there is none.
    """

    given: dict[str, Any]
    arguments: list[str]
    launch: list[str]
    typed_launch: str | None

    def check(self) -> None:
        """Check tasks and model, as far as no device has to be set up for it.

        Raises:
            ValueError: An option is missing, or contradicts another.
        """
        self._make(DataArguments)
        if self.given.get("model_name_or_path") is None:
            raise ValueError("model_name_or_path: required; give a model id or a path")

    # Apart from `check`, since a training configuration sets up the device when it is made.
    def configurations(self) -> tuple[DataArguments, PPERConfig, Any]:
        """Return the configurations of tasks, training and model.

        Raises:
            ValueError: An option is out of range, missing, or contradicts another.
        """
        self.check()
        return self._make(DataArguments), self._make(PPERConfig), self._make(ModelConfig)

    def _make(self, configuration: type[Any]) -> Any:
        names = {one.name for one in fields(configuration)}
        given = read_trl_names(self.given)
        return configuration(**{name: value for name, value in given.items() if name in names})


def train_options(arguments: Sequence[str]) -> TrainOptions:
    """Return the options of a command line and of its YAML file; options on the command line override the file.

    Raises:
        ValueError: An option does not exist, or gets a value that it does not take.
        OSError: The file cannot be read.
    """
    path, words = split_config(arguments)
    options = [option for configuration in CONFIGURATIONS for option in list_options(configuration)]
    names, elsewhere = [option.name for option in options], launch_options()
    on_line, left = read_line(words, options, make_parser(options), elsewhere=elsewhere, message=_UNKNOWN)
    entries = {} if path is None else read_entries(path)
    # Set already, in train.py. The launch has an option of that name, with another meaning.
    entries.pop("env", None)
    in_file = read_file(entries, options, elsewhere=elsewhere, message=_UNKNOWN)
    of_launch = {name: in_file.pop(name) for name in [*in_file] if name not in names}
    launch = [word for name, value in of_launch.items() for word in _as_words(name, value)]
    # By its other name, too, an option on the command line overrides the file.
    in_file = {name: value for name, value in in_file.items() if _TWINS.get(name) not in on_line}
    if on_line.keys() & {"eval_tasks", "eval_split", "eval_fraction"}:
        in_file.pop("dataset_test_split", None)
    return TrainOptions(
        given=in_file | on_line,
        arguments=[*(["--config", str(path)] if path else []), *_without(words, left)],
        launch=[*launch, *left],
        typed_launch=left[0].partition("=")[0] if left else None,
    )


def _without(arguments: Sequence[str], left: Sequence[str]) -> list[str]:
    """Return arguments without the ones in `left`, which stand among them in the same order."""
    rest = list(left)
    return [argument for argument in arguments if not (rest and rest[0] == argument and rest.pop(0))]


def _as_words(name: str, value: Any) -> list[str]:
    """Return an option of the launch as arguments."""
    # false and null stand for an option that is not given; Accelerate has no word for either.
    values = value if isinstance(value, list) else [] if value in (None, False) else [value]
    return [f"--{name}" if one is True else f"--{name}={one}" for one in values]


def train_help() -> str:
    """Return the text of `trl-pper train --help`: every option with its description, our own first."""
    theirs, base = ({one.name for one in fields(kind)} for kind in (SFTConfig, TrainingArguments))
    trained = list_options(PPERConfig)
    # A person looks for our options: the 100 of TrainingArguments stand last.
    groups = {
        "tasks and programs": [Option("config", Path, "YAML file of these options."), *list_options(DataArguments)],
        "prioritised experience replay": [one for one in trained if one.name not in theirs],
        "model and adapter (TRL's ModelConfig)": list_options(ModelConfig),
        "tasks and weights by TRL's names": list_options(TRLArguments),
        "several processes": [Option("accelerate_config", str, ACCELERATE_CONFIG_HELP)],
        "fine-tuning (TRL's SFTConfig)": [one for one in trained if one.name in theirs - base],
        "training (TrainingArguments)": [one for one in trained if one.name in base],
    }
    parser = make_parser(
        [replace(option, group=title) for title, options in groups.items() for option in options],
        usage="trl-pper train [--config FILE.yaml] [--option value ...]",
        description="Fine-tune a code model by prioritised experience replay of the programs it writes. In the YAML "
        "file options are 'name: value'; options on the command line override it.",
        epilog="--num_processes, --num_machines, --gpu_ids and all further options of `accelerate launch` are taken, "
        "too; `accelerate launch --help` lists them. Defaults are in square brackets.",
        add_help=False,
    )
    return parser.format_help()
