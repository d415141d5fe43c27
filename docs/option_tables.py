"""The pages of the documentation that list options, from the one description each of them has.

Enters: a page with marks. Leaves: the page with the tables between its marks written anew:
`python -m docs.option_tables docs/configuration.md docs/command-line.md`.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Callable
from dataclasses import fields
from functools import partial
from pathlib import Path
from typing import Any

from trl_pper.cli.options.shown import list_options, markdown, options_of_parser

_TABLE = re.compile(r"(<!-- options of ([\w-]+) -->\n).*?(<!-- end of options -->)", re.DOTALL)


def option_table(config: type[Any], *, without: type[Any] | None = None) -> str:
    """Return a table of the options of a dataclass: name, default, meaning, and the choices where there are some.

    Args:
        config: The dataclass.
        without: A class whose options are left out unless their default differs.
    """
    theirs = {} if without is None else {field.name: field.default for field in fields(without)}
    own = {field.name for field in fields(config) if theirs.get(field.name, field) != field.default}
    return markdown(option for option in list_options(config) if option.name in own)


def with_tables(page: str) -> str:
    """Return a page with the tables between its marks written anew."""
    tables = _tables()
    return _TABLE.sub(lambda found: f"{found[1]}{tables[found[2]]()}{found[3]}", page)


def _tables() -> dict[str, Callable[[], str]]:
    from trl import SFTConfig

    from trl_pper.cli.commands import parsers
    from trl_pper.cli.train_options import DataArguments
    from trl_pper.training.config import PPERConfig

    tables = {
        "PPERConfig": lambda: option_table(PPERConfig, without=SFTConfig),
        "DataArguments": lambda: option_table(DataArguments),
    }
    commands = {f"trl-pper-{name}": parser for name, parser in parsers()[1].items() if name != "train"}
    return tables | {name: partial(_of_command, parser) for name, parser in commands.items()}


def _of_command(parser: argparse.ArgumentParser) -> str:
    return markdown(options_of_parser(parser), none="")


if __name__ == "__main__":
    for path in map(Path, sys.argv[1:]):
        path.write_text(with_tables(path.read_text()))
