"""Write the tables of options in the documentation anew, from the declarations of the options.

`python -m docs.option_tables docs/configuration.md docs/command-line.md docs/from-sfttrainer.md` replaces what stands
between the marks `<!-- options of NAME -->` and `<!-- end of options -->` of each page.
"""

from __future__ import annotations

import re
import sys
from dataclasses import fields
from pathlib import Path
from typing import Any

from trl import SFTConfig

from docs.swap_table import TABLES
from trl_pper.cli.commands import COMMANDS, CONFIG
from trl_pper.cli.options import list_options, markdown
from trl_pper.cli.train_options import DataArguments, TRLArguments
from trl_pper.training.config import PPERConfig

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
    return _TABLE.sub(lambda found: f"{found[1]}{_table(found[2])}{found[3]}", page)


def _table(name: str) -> str:
    if name == "PPERConfig":
        return option_table(PPERConfig, without=SFTConfig)
    if name in TABLES:
        return TABLES[name]()
    for arguments in (DataArguments, TRLArguments):
        if name == arguments.__name__:
            return option_table(arguments)
    return markdown((*COMMANDS[name.removeprefix("trl-pper-")][1], CONFIG), command=True)


if __name__ == "__main__":
    for path in map(Path, sys.argv[1:]):
        path.write_text(with_tables(path.read_text()))
