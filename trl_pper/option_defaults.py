"""A file of options for a command of argparse: what stands on the command line goes before it.

Enters: the command's parser, its arguments with `--config FILE`. Leaves: the arguments without it, and a parser that
has the file's values, checked, as its defaults.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from typing import Any

from trl_pper.option_file import read_entries, split_config
from trl_pper.option_types import typed, unknown_option, wanted_of_action


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
