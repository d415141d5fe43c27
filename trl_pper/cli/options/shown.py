"""The options of configurations and commands as they are shown: on a terminal, and as Markdown tables.

Enters: configuration classes and parsers of argparse. Leaves: text, from the one description each option has.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import MISSING, dataclass, fields
from enum import Enum
from typing import Any, get_type_hints

from trl_pper.cli.options.types import Wanted, wanted_of_action, wanted_of_hint

_METAVARS = {"bool": "BOOL", "int": "INT", "float": "FLOAT", "text": "TEXT", "mapping": "JSON"}
_WIDTH = 110


@dataclass(frozen=True, kw_only=True)
class Option:
    """An option as it is shown.

    Args:
        name: As it is typed, with `--` in front unless it is told by its place.
        default: What holds where nobody gives it; None for nothing.
        help: What it means.
        wanted: What it takes.
        required: Whether it has to be given.
    """

    name: str
    default: Any
    help: str
    wanted: Wanted
    required: bool = False

    def metavar(self) -> str:
        """Return what stands behind the name in a list of options."""
        one = self.wanted.items or self.wanted
        kinds = [metavar for kind, metavar in _METAVARS.items() if kind in one.kinds]
        word = f"{{{','.join(one.choices)}}}" if one.choices else "|".join(kinds)
        return f"{word} [{word} ...]" if self.wanted.items and not self.wanted.kinds else word


def list_options(configuration: type[Any]) -> list[Option]:
    """Return the options of a dataclass."""
    hints = get_type_hints(configuration)
    return [
        Option(
            name=field.name,
            default=_default(field),
            help=str(field.metadata.get("help", "")).replace("%%", "%"),
            wanted=wanted_of_hint(hints[field.name], field.metadata.get("choices")),
        )
        for field in fields(configuration)
        if field.init
    ]


def options_of_parser(parser: argparse.ArgumentParser) -> list[Option]:
    """Return the options of a command, without `--help`."""
    return [
        Option(
            name=max(action.option_strings, key=len) if action.option_strings else str(action.dest),
            default=None if action.nargs == 0 else action.default,
            help=str(action.help or "").replace("%%", "%"),
            wanted=wanted_of_action(action),
            required=action.required,
        )
        for action in parser._actions
        if action.dest != "help"
    ]


def markdown(options: Iterable[Option], *, none: str = "`None`") -> str:
    """Return a table of options: name, default, meaning, and the choices that the meaning does not name.

    Args:
        options: What the table lists.
        none: What stands for a default of None.
    """
    rows = ["| option | default | meaning |", "|---|---|---|"]
    for option in options:
        default = none if option.default is None else f"`{_shown(option.default)!r}`"
        help = " ".join(option.help.split()).replace("|", "\\|")
        choices = (option.wanted.items or option.wanted).choices
        if not all(choice in help for choice in choices):
            help = f"{help.removesuffix('.')}. One of {', '.join(f'`{choice}`' for choice in choices)}."
        rows.append(f"| `{option.name}` | {'required' if option.required else default} | {help} |")
    return "\n".join(rows) + "\n"


def help_text(usage: str, description: str, groups: Mapping[str, Sequence[Option]], *, epilog: str) -> str:
    """Return what `--help` shows.

    Args:
        usage: The line of usage.
        description: What the command does.
        groups: Options by the heading they stand under.
        epilog: What stands below.
    """
    parser = argparse.ArgumentParser(
        usage=usage, description=description, epilog=epilog, add_help=False, formatter_class=_Formatter
    )
    for title, options in groups.items():
        group = parser.add_argument_group(title)
        for option in options:
            default = "" if option.default is None else f" [{_shown(option.default)}]"
            # argparse formats help texts with %.
            help = " ".join(option.help.split()).replace("%", "%%") + default.replace("%", "%%")
            group.add_argument(f"--{option.name}", metavar=option.metavar(), help=help)
    return parser.format_help()


class _Formatter(argparse.HelpFormatter):
    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=32, width=_WIDTH)


def _default(field: Any) -> Any:
    if field.default is not MISSING:
        return field.default
    return None if field.default_factory is MISSING else field.default_factory()


def _shown(default: Any) -> Any:
    if isinstance(default, Enum):
        return default.value
    return default if default is None or isinstance(default, bool | int | float | str | list) else str(default)
