"""What values an option takes, and the check of those that a file gives it.

Enters: the type of a field, or an argument of argparse; an entry of a file. Leaves: a value of the right type, or an
error that names file, line, option, what is required and what came. Every command's `--config` is checked here.

A file of options for a command of argparse: what stands on the command line goes before it.

Enters: the command's parser, its arguments with `--config FILE`. Leaves: the arguments without it, and a parser that
has the file's values, checked, as its defaults.
"""

from __future__ import annotations

import argparse
import enum
import json
import types
import typing
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any, Literal, Union

from trl_pper.cli.options.file import Entry, read_entries, split_config

_NAMES = {
    "bool": "true or false", "int": "a whole number", "float": "a number", "text": "text", "mapping": "a mapping",
}  # fmt: skip
_TRUE, _FALSE = ("true", "yes", "on", "t", "y", "1"), ("false", "no", "off", "f", "n", "0")


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """What an option takes.

    Args:
        kinds: Those of bool, int, float, text and mapping that it may be.
        choices: The texts it is one of, if it is.
        items: What the items of a list are, if it may be one.
        values: What the values of a mapping are, if that matters.
        optional: Whether it may be null.
    """

    kinds: frozenset[str] = frozenset()
    choices: tuple[str, ...] = ()
    items: Wanted | None = None
    values: Wanted | None = None
    optional: bool = False

    def __str__(self) -> str:
        said = [name for kind, name in _NAMES.items() if kind in self.kinds and not (kind == "text" and self.choices)]
        if "text" in self.kinds and self.choices:
            said.append(f"one of {', '.join(self.choices)}")
        if self.items is not None:
            said.append(f"a list ({self.items} each)")
        return " or ".join([*said, *(["null"] if self.optional else [])])


def json_text(text: str) -> str:
    """Return a text as it is: the type of an argument that is JSON, which a file may give as a mapping."""
    return text


def wanted_of_hint(hint: Any, choices: Iterable[Any] | None = None) -> Wanted:
    """Return what a field of this type takes.

    Args:
        hint: The type; of what neither a file nor a command line can say, nothing is taken.
        choices: The values it is one of.
    """
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    named = tuple(str(choice) for choice in choices or () if choice is not None)
    if origin in (Union, types.UnionType):
        parts = [wanted_of_hint(part) for part in arguments]
        return Wanted(
            kinds=frozenset().union(*(part.kinds for part in parts)),
            choices=named or tuple(choice for part in parts for choice in part.choices),
            items=next((part.items for part in parts if part.items), None),
            values=next((part.values for part in parts if part.values), None),
            optional=any(part.optional for part in parts),
        )
    if hint is type(None):
        return Wanted(optional=True)
    if origin is Literal:
        kinds = {"bool" if isinstance(one, bool) else "text" for one in arguments}
        return Wanted(kinds=frozenset(kinds), choices=tuple(one for one in arguments if isinstance(one, str)))
    if isinstance(hint, type) and issubclass(hint, enum.Enum):
        return Wanted(kinds=frozenset({"text"}), choices=tuple(str(one.value) for one in hint))
    if list in (hint, origin):
        return Wanted(items=wanted_of_hint(arguments[0] if arguments else str))
    if dict in (hint, origin):
        plain = len(arguments) != 2 or arguments[1] is Any
        return Wanted(kinds=frozenset({"mapping"}), values=None if plain else wanted_of_hint(arguments[1]))
    kind = {bool: "bool", int: "int", float: "float", str: "text"}.get(hint)
    return Wanted(kinds=frozenset({kind} if kind else ()), choices=named)


def wanted_of_action(action: argparse.Action) -> Wanted:
    """Return what an argument of argparse takes; null stands for one that is not given."""
    if action.nargs == 0:
        return Wanted(kinds=frozenset({"bool"}), optional=True)
    named = {int: "int", float: "float", bool: "bool"}
    kinds = {"text", "mapping"} if action.type is json_text else {named.get(action.type, "text")}  # type: ignore[call-overload]
    one = Wanted(kinds=frozenset(kinds), choices=tuple(map(str, action.choices or ())))
    several = action.nargs in ("+", "*") or isinstance(action, argparse._AppendAction)
    return Wanted(items=one, optional=True) if several else Wanted(kinds=one.kinds, choices=one.choices, optional=True)


def typed(entry: Entry, wanted: Wanted) -> Any:
    """Return the value of an entry, of a type that is wanted.

    A whole number serves as a number, one item as a list of it, a quoted number as the number. Text is what stands in
    the file, as if it had been typed: `no` and `1.10` stay so.

    Raises:
        ValueError: It is of another type, or not one of the choices.
    """
    if entry.items is not None:
        if wanted.items is not None:
            return [typed(item, wanted.items) for item in entry.items]
    elif isinstance(entry.value, Mapping):
        if "mapping" in wanted.kinds and _has(entry.value, wanted.values):
            return entry.value
    elif entry.value is None or _says_none(entry, wanted):
        if wanted.optional:
            return None
    else:
        for read in (_flag, _number, _text, _json):
            found = read(entry, wanted)
            if found is not None:
                return found
        if wanted.items is not None:
            return [typed(entry, wanted.items)]
    got = entry.text if entry.text is not None else json.dumps(entry.value, default=str)
    raise ValueError(f"{entry.where}: must be {wanted}; got {got or repr(got)}")


def unknown_option(name: str, known: Iterable[str], *, where: str, said: str) -> str:
    """Return the line that refuses an option nobody has, with the nearest one that there is.

    Args:
        name: The option.
        known: Those that there are.
        where: How the line begins.
        said: Who has no such option.
    """
    near = get_close_matches(name, list(known), n=1)
    return f"{where}: {said}" + (f"; the nearest is {near[0]}" if near else "")


def _says_none(entry: Entry, wanted: Wanted) -> bool:
    """Return whether it is the word none where that can be no text, which TRL takes for null, too."""
    return str(entry.text).lower() in ("none", "null") and "text" not in wanted.kinds and wanted.items is None


def _flag(entry: Entry, wanted: Wanted) -> bool | None:
    if "bool" not in wanted.kinds:
        return None
    if isinstance(entry.value, bool):
        return entry.value
    word = str(entry.value).lower()
    # As text where it may be text, and a number is none of the words.
    if isinstance(entry.value, str) and word in _TRUE + _FALSE and "text" not in wanted.kinds:
        return word in _TRUE
    return None


def _number(entry: Entry, wanted: Wanted) -> int | float | None:
    if isinstance(entry.value, bool) or not wanted.kinds & {"int", "float"}:
        return None
    kind: type[int] | type[float] = int if "int" in wanted.kinds else float
    if isinstance(entry.value, int) or (isinstance(entry.value, float) and kind is float):
        return kind(entry.value)
    if isinstance(entry.value, float) or "text" in wanted.kinds:
        return None
    try:
        return kind(str(entry.text))
    except ValueError:
        return None


def _text(entry: Entry, wanted: Wanted) -> str | None:
    if "text" not in wanted.kinds or (wanted.choices and entry.text not in wanted.choices):
        return None
    if "mapping" in wanted.kinds and not isinstance(entry.value, str):
        return None
    return entry.text


def _json(entry: Entry, wanted: Wanted) -> dict[str, Any] | None:
    if "mapping" not in wanted.kinds or "text" in wanted.kinds:
        return None
    try:
        found = json.loads(str(entry.text))
    except json.JSONDecodeError:
        return None
    return found if isinstance(found, dict) and _has(found, wanted.values) else None


def _has(mapping: Mapping[Any, Any], values: Wanted | None) -> bool:
    """Return whether a mapping has names, and values of the type that is wanted of them."""
    kinds = {"bool": bool, "int": int, "float": int | float, "text": str}
    named = all(isinstance(name, str) for name in mapping)
    return named and (
        values is None
        or all(any(isinstance(value, kinds[kind]) for kind in values.kinds) for value in mapping.values())
    )


def with_file(parser: argparse.ArgumentParser, arguments: Sequence[str]) -> list[str]:
    """Return arguments without `--config FILE`, whose values the parser now has as defaults.

    Args:
        parser: The parser of the command.
        arguments: Its arguments. In the file a list gives an option its values, true stands for an option without a
            value, false and null for one that is not given, a mapping for its JSON.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: The file holds no mapping of names to values, a name that the command does not have, or a value
            that its option does not take.
    """
    path, rest = split_config(arguments)
    if path is None:
        return rest
    actions = option_actions(parser)
    given: dict[str, str] = {}
    for name, entry in read_entries(path).items():
        if name not in actions:
            raise ValueError(
                unknown_option(name, actions, where=entry.where, said=f"{parser.prog} has no such option")
            )
        action = actions[name]
        if action.dest in given:
            raise ValueError(f"{entry.where}: must be given once; {given[action.dest]} is the same option")
        given[action.dest] = name
        value = typed(entry, wanted_of_action(action))
        if value is None or value is False:
            continue
        parser.set_defaults(**{action.dest: _default(action, value)})
        action.required = False
    return rest


def option_actions(parser: argparse.ArgumentParser) -> dict[str, argparse.Action]:
    """Return the arguments of a parser by the names that their options have, without `--help` and `--config`."""
    named = {text[2:]: action for action in parser._actions for text in action.option_strings if text[:2] == "--"}
    return {name: action for name, action in named.items() if name not in ("help", "config", "version")}


def _default(action: argparse.Action, value: Any) -> Any:
    if action.nargs == 0:
        return action.const
    return json.dumps(value) if isinstance(value, Mapping) else value
