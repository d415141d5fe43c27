"""Declare options once: their parser, check, help and documentation come from the declaration.

The commands declare each option as an `Option`; the options of `trl-pper train` are the fields of its dataclasses. A
value is checked alike on the command line and in a YAML file.
"""

from __future__ import annotations

import argparse
import contextlib
import enum
import json
import re
import sys
import types
import typing
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import KW_ONLY, MISSING, dataclass, fields
from difflib import get_close_matches
from functools import cached_property, partial
from pathlib import Path
from typing import Any, Literal, NoReturn, Union

from trl_pper.cli.yaml_file import Entry

#: The kinds of values: the type of each, its name in errors and its placeholder in help.
_KINDS = {
    "bool": (bool, "true or false", "BOOL"), "int": (int, "a whole number", "INT"),
    "float": (float, "a number", "FLOAT"), "path": (Path, "a path", "PATH"), "text": (str, "text", "TEXT"),
    "mapping": (dict, "a mapping", "JSON"),
}  # fmt: skip
_KIND_OF_TYPE = {kind: name for name, (kind, _, _) in _KINDS.items()}
_FLAGS = {
    **dict.fromkeys(("true", "yes", "on", "t", "y", "1"), True),
    **dict.fromkeys(("false", "no", "off", "f", "n", "0"), False),
}


#: An option, and not a negative number.
_OPTION = re.compile(r"-(?!\.?\d)")

#: Names that other programs and other commands have for an option; of each line the first that a command has is meant.
_SYNONYMS = tuple(
    line.split()
    for line in (
        "model_name_or_path model model_name model_id model_path base_model pretrained_model_name_or_path",
        "model_revision revision",
        "tasks dataset_name dataset datasets dataset_path train_dataset train_data train_file data data_path",
        "eval_tasks eval_dataset eval_data eval_file test_dataset test_file validation_file held_out",
        "eval_fraction test_size test_split_size val_size validation_split eval_ratio",
        "task_format format dataset_format",
        "task_subset subset dataset_config dataset_config_name",
        "task_split split dataset_split dataset_train_split train_split",
        "eval_split dataset_test_split test_split",
        "max_tests max_test_cases",
        "dtype torch_dtype precision",
        "output_dir output output_folder save_dir out",
        "buffer replay_buffer",
        "programs completions predictions teacher",
        "learning_rate lr",
        "num_train_epochs epochs num_epochs n_epochs num_rounds rounds",
        "max_steps steps num_steps total_steps",
        "per_device_train_batch_size batch_size train_batch_size micro_batch_size per_gpu_train_batch_size",
        "gradient_accumulation_steps grad_accum accumulation_steps gradient_accumulation",
        "generation_batch_size batch_size",
        "max_length max_seq_length max_seq_len seq_length block_size model_max_length",
        "max_completion_length max_new_tokens max_tokens completion_length",
        "max_prompt_length max_prompt_len prompt_length",
        "num_beams num_programs num_generations num_return_sequences num_samples n_samples beams samples n k",
        "temperature sampling_temperature",
        "eval_strategy evaluation_strategy",
        "lr_scheduler_type lr_scheduler scheduler",
        "lora_r lora_rank rank",
        "lora_target_modules target_modules",
        "use_peft lora use_lora peft",
        "load_in_4bit 4bit load_4bit use_4bit qlora",
        "load_in_8bit 8bit load_8bit use_8bit",
        "attn_implementation attention_implementation attn flash_attention use_flash_attention",
        "resume_from_checkpoint resume resume_from",
        "report_to log_with logger",
        "push_to_hub push push_to upload",
        "hub_model_id hub_id repo_id",
        "seed random_seed sampling_seed",
        "judge_workers workers num_workers",
        "judge_cluster cluster ray ray_address",
        "judge_isolation isolation sandbox",
        "judge_cpu_seconds cpu_seconds timeout time_limit",
        "judge_memory_bytes memory_bytes memory_limit",
        "num_processes nproc_per_node num_gpus n_gpus gpus world_size",
    )
)


class OptionErrors(ValueError):
    """Errors of several options, one in each line."""


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """The values that an option takes.

    Args:
        kinds: The kinds of single values: bool, int, float, path, text, mapping.
        choices: The texts to choose from; empty if any text will do.
        items: The items of a list; None if a list is not taken.
        values: The values of a mapping; None if they are not checked.
        optional: Whether null is taken.
    """

    kinds: frozenset[str] = frozenset()
    choices: tuple[str, ...] = ()
    items: Wanted | None = None
    values: Wanted | None = None
    optional: bool = False

    def __str__(self) -> str:
        names = {kind: name for kind, (_, name, _) in _KINDS.items() if kind in self.kinds}
        if self.choices and "text" in names:
            names["text"] = f"one of {', '.join(self.choices)}"
        lists = [] if self.items is None else [f"a list ({self.items} each)"]
        return " or ".join([*names.values(), *lists, *(["null"] if self.optional else [])])


def wanted_of_hint(hint: Any, choices: Iterable[Any] | None = None) -> Wanted:
    """Return the values that an option of this type takes.

    Args:
        hint: The type; types that cannot be written in YAML or on a command line accept no value.
        choices: The values to choose from, where the type does not name them.
    """
    kinds: set[str] = set()
    named = [str(choice) for choice in choices or () if choice is not None]
    items = values = None
    parts = typing.get_args(hint) if typing.get_origin(hint) in (Union, types.UnionType) else (hint,)
    for part in parts:
        origin, arguments = typing.get_origin(part) or part, typing.get_args(part)
        if origin is Literal:
            kinds |= {"bool" if isinstance(value, bool) else "text" for value in arguments}
            named += [value for value in arguments if isinstance(value, str)]
        elif isinstance(origin, type) and issubclass(origin, enum.Enum):
            kinds.add("text")
            named += [str(member.value) for member in origin]
        elif origin is list:
            items = wanted_of_hint(arguments[0] if arguments else str)
        elif origin in _KIND_OF_TYPE:
            kinds.add(_KIND_OF_TYPE[origin])
            if origin is dict and arguments and arguments[1] is not Any:
                values = wanted_of_hint(arguments[1])
    optional = type(None) in parts
    return Wanted(kinds=frozenset(kinds), choices=tuple(named), items=items, values=values, optional=optional)


@dataclass(frozen=True)
class Option:
    """An option of a command, or a field of a configuration.

    Args:
        name: Its name in a file; on the command line it has two dashes in front.
        hint: The type of its values.
        help: Its description.
        default: Its value where it is not given.
        choices: The texts to choose from.
        aliases: Further names.
        required: Whether it has to be given.
        positional: Whether it has no name on the command line, only a place.
        const: Its value where it is named without a value; None if it needs a value, or is a flag without values.
        group: The heading over it in the help.
    """

    name: str
    hint: Any
    help: str
    _: KW_ONLY
    default: Any = None
    choices: tuple[str, ...] = ()
    aliases: tuple[str, ...] = ()
    required: bool = False
    positional: bool = False
    const: Any = None
    group: str | None = None

    @cached_property
    def wanted(self) -> Wanted:
        """The values that it takes."""
        return wanted_of_hint(self.hint, self.choices)

    @property
    def shown_default(self) -> Any:
        """The default as plain data."""
        default = self.default.value if isinstance(self.default, enum.Enum) else self.default
        return default if default is None or isinstance(default, bool | int | float | str | list) else str(default)


def list_options(configuration: type[Any]) -> list[Option]:
    """Return the options of a dataclass, from its fields and their `metadata`."""
    hints = typing.get_type_hints(configuration)
    options = []
    for field in fields(configuration):
        default = field.default if field.default_factory is MISSING else field.default_factory()
        hint = hints[field.name]
        flag = True if bool in (hint, *typing.get_args(hint)) else None
        # Help texts of dataclasses are written for argparse, which formats them with %.
        help = str(field.metadata.get("help", "")).replace("%%", "%")
        option = Option(
            field.name, hint, help, default=None if default is MISSING else default,
            choices=tuple(field.metadata.get("choices") or ()), const=field.metadata.get("const", flag),
        )  # fmt: skip
        options += [option] if field.init else []
    return options


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        """Raise ValueError, so that an error is a single line, like all others."""
        raise ValueError(message)


def make_parser(options: Iterable[Option], **settings: Any) -> argparse.ArgumentParser:
    """Return a parser that knows how options are spelled, and their help; `read_line` checks their values."""
    # No abbreviations: a new option would change the meaning of a short one. No defaults: only given options are in
    # the result, so that the file's values can hold for the others.
    parser = _Parser(
        allow_abbrev=False, argument_default=argparse.SUPPRESS,
        formatter_class=partial(argparse.HelpFormatter, max_help_position=32, width=110), **settings,
    )  # fmt: skip
    groups: dict[str | None, Any] = {None: parser}
    for option in options:
        if option.group not in groups:
            groups[option.group] = parser.add_argument_group(option.group)
        note = "required" if option.required else option.shown_default
        shown = option.help if note is None else f"{option.help} [{note}]"
        # argparse formats help texts with %.
        given: dict[str, Any] = {"help": " ".join(shown.split()).replace("%", "%%")}
        # A flag that took a value would swallow the argument behind it: `rescore --all buffer.parquet`.
        if option.hint is bool and option.const is None:
            given["action"] = "store_true"
        else:
            given["nargs"] = "+" if option.wanted.items else None if option.const is None else "?"
            given |= {"const": option.const, "metavar": None if option.positional else _placeholder(option.wanted)}
        names = [option.name] if option.positional else [f"--{name}" for name in (option.name, *option.aliases)]
        groups[option.group].add_argument(*names, **given)
        if option.const is True and option.default is True:
            # As with TRL's parser.
            parser.add_argument(f"--no_{option.name}", dest=option.name, action="store_false", help=argparse.SUPPRESS)
    return parser


def _placeholder(wanted: Wanted) -> str:
    one = wanted.items or wanted
    kinds = [placeholder for kind, (_, _, placeholder) in _KINDS.items() if kind in one.kinds]
    return f"{{{','.join(one.choices)}}}" if one.choices else "|".join(kinds)


def read_line(
    words: Sequence[str],
    options: Sequence[Option],
    parser: argparse.ArgumentParser,
    *,
    elsewhere: Iterable[str] = (),
    message: str,
) -> tuple[dict[str, Any], list[str]]:
    """Return the values that a command line gives to options, by name, and the words of options that are elsewhere.

    Raises:
        ValueError: An option is unknown, here and elsewhere (`message` says so), or does not take its value.
    """
    # argparse only tells options from values, and knows no types: `typed` checks a file in the same words.
    found, left = parser.parse_known_args(words)
    passed = [f"--{name}" for name in elsewhere]
    for name in (word.partition("=")[0] for word in left if _OPTION.match(word)):
        if name not in passed:
            raise _unknown(name, name, [*(f"--{one.name}" for one in options), *passed], message)
    if left and not _OPTION.match(left[0]):
        place = "got it before any" if left[0] == words[0] else "the one before it takes no more"
        raise ValueError(f"{left[0]}: must be the value of an option; {place}")
    given = vars(found)
    for option in options:
        # argparse has set flags.
        if option.name in given and not isinstance(given[option.name], bool):
            where = option.name if option.positional else f"--{option.name}"
            given[option.name] = typed(_entry(where, given[option.name]), option.wanted)
    return given, left


def _entry(where: str, value: str | list[str]) -> Entry:
    if isinstance(value, str):
        return Entry(where=where, text=value, value=value)
    return Entry(where=where, text=None, value=value, items=tuple(_entry(where, item) for item in value))


def typed(entry: Entry, wanted: Wanted) -> Any:
    """Return the value of an entry, converted to a type that is wanted.

    A whole number serves as a number, a single item as a list of it, a quoted number as the number. Text is taken
    literally: `no` and `1.10` stay texts.

    Raises:
        ValueError: The value is of another type, or not among the choices.
    """
    # TRL takes the words for null, too, where they cannot be text.
    none = str(entry.text).lower() in ("none", "null") and "text" not in wanted.kinds and wanted.items is None
    if entry.items is not None:
        if wanted.items is not None:
            return [typed(item, wanted.items) for item in entry.items]
    elif isinstance(entry.value, Mapping):
        if "mapping" in wanted.kinds and _has(entry.value, wanted.values):
            return entry.value
    elif wanted.optional and (entry.value is None or none):
        return None
    elif entry.value is not None:
        found = _scalar(entry, wanted)
        if found is not None:
            return found
        if wanted.items is not None:
            return [typed(entry, wanted.items)]
    got = entry.text if entry.text is not None else json.dumps(entry.value, default=str)
    raise ValueError(f"{entry.where}: must be {wanted}; got {got or repr(got)}")


def _scalar(entry: Entry, wanted: Wanted) -> Any:
    """Return a value that is neither list nor mapping nor null; None if it is of no kind that is wanted."""
    kinds, value, text = wanted.kinds, entry.value, str(entry.text)
    if isinstance(value, bool) and "bool" in kinds:
        return value
    # A bool is an int in Python, not in a file.
    if isinstance(value, int | float) and not isinstance(value, bool):
        if "int" in kinds and isinstance(value, int):
            return value
        if "float" in kinds:
            # Whole numbers may be beyond every float.
            return float(value) if isinstance(value, float) or abs(value) <= sys.float_info.max else None
    if "path" in kinds:
        return Path(text)
    if "text" in kinds:
        # Where a mapping may stand, too, an unquoted number is more likely a mistake than a path.
        is_text = isinstance(value, str) if "mapping" in kinds else not wanted.choices or text in wanted.choices
        return text if is_text else None
    if not isinstance(value, str):
        return None
    # Quoted, or from the command line: it can only be meant as the value that it spells.
    if "bool" in kinds and text.lower() in _FLAGS:
        return _FLAGS[text.lower()]
    with contextlib.suppress(ValueError):
        if kinds & {"int", "float"}:
            return int(text) if "int" in kinds else float(text)
        if "mapping" in kinds and isinstance(found := json.loads(text), dict) and _has(found, wanted.values):
            return found
    return None


def _has(mapping: Mapping[Any, Any], values: Wanted | None) -> bool:
    """Return whether the keys are texts and the values of a kind that is wanted."""
    kinds = tuple(_KINDS[kind][0] for kind in values.kinds) if values else (object,)
    return all(isinstance(name, str) and isinstance(value, kinds) for name, value in mapping.items())


def read_file(
    entries: Mapping[str, Entry],
    options: Iterable[Option],
    *,
    elsewhere: Mapping[str, Wanted] | None = None,
    message: str,
) -> dict[str, Any]:
    """Return the values that a YAML file gives to options, by name, and to options elsewhere.

    Args:
        entries: The entries of the file.
        options: The options of the command.
        elsewhere: The values that further options take, by name.
        message: The words for an option that is unknown, here and elsewhere.

    Raises:
        OptionErrors: Options are unknown or do not take their values; each has its line.
    """
    named = {name: one for one in options if not one.positional for name in (one.name, *one.aliases)}
    others = elsewhere or {}
    given: dict[str, Any] = {}
    spelled: dict[str, str] = {}
    errors: list[str] = []
    for name, entry in entries.items():
        option = named[name].name if name in named else name
        wanted = named[name].wanted if name in named else others.get(name)
        try:
            if wanted is None:
                raise _unknown(entry.where, name, (*named, *others), message)
            if option in spelled:
                raise ValueError(f"{entry.where}: must be given once; {spelled[option]} is the same option")
            spelled[option] = name
            given[option] = typed(entry, wanted)
        except ValueError as error:
            # All at once: a file of another trainer has several.
            errors.append(" ".join(str(error).split()))
    if errors:
        raise OptionErrors("\n".join(errors))
    return given


def _unknown(where: str, name: str, known: Iterable[str], message: str) -> ValueError:
    names = list(known)
    dashes, bare = ("--", name[2:]) if name.startswith("--") else ("", name)
    meant = [f"{dashes}{one}" for line in _SYNONYMS if bare in line for one in line]
    near = [one for one in meant if one in names] or get_close_matches(name, names, n=1)
    return ValueError(f"{where}: {message}" + (f"; the nearest is {near[0]}" if near else ""))


def split_config(arguments: Sequence[str]) -> tuple[Path | None, list[str]]:
    """Return the file of `--config`, if it is given, and the other arguments, with underscores for hyphens in names.

    Raises:
        ValueError: `--config` has no value, or stands there twice.
    """
    rest, others, files = list(arguments), [], []
    while rest:
        argument = rest.pop(0)
        name, equals, value = argument.partition("=")
        if name == "--config":
            if not (value or (rest and not equals)):
                raise ValueError("--config: a YAML file is required; got nothing")
            files.append(value or rest.pop(0))
        else:
            # Hyphens in names are a second spelling, with TRL and with Accelerate.
            others.append(f"--{name[2:].replace('-', '_')}{equals}{value}" if name.startswith("--") else argument)
    if len(files) > 1:
        raise ValueError(f"--config: must be one file; got {' and '.join(files)}")
    return (Path(files[0]) if files else None), others


def markdown(options: Iterable[Option], *, command: bool = False) -> str:
    """Return a table of options: name, default, meaning, and the choices that the meaning does not name.

    Args:
        options: The options of the table.
        command: Whether they are a command's: written with dashes, and without the default None.
    """
    rows = ["| option | default | meaning |", "|---|---|---|"]
    for option in options:
        default = "" if command and option.default is None else f"`{option.shown_default!r}`"
        help = " ".join(option.help.split()).replace("|", "\\|")
        choices = (option.wanted.items or option.wanted).choices
        if not all(choice in help for choice in choices):
            help = f"{help.removesuffix('.')}. One of {', '.join(f'`{choice}`' for choice in choices)}."
        name = f"--{option.name}" if command and not option.positional else option.name
        rows.append(f"| `{name}` | {'required' if option.required or option.positional else default} | {help} |")
    return "\n".join(rows) + "\n"
