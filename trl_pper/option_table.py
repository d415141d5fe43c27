"""The options of a configuration as a Markdown table, from the one description each of them has.

Enters: configuration classes. Leaves: tables. `python -m trl_pper.option_table docs/configuration.md` writes those of
that page anew, between its marks.
"""

from __future__ import annotations

import re
import sys
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any

_TABLE = re.compile(r"(<!-- options of (\w+) -->\n).*?(<!-- end of options -->)", re.DOTALL)


def option_table(config: type[Any], *, without: type[Any] | None = None) -> str:
    """Return a table of the options of a dataclass: name, default, meaning, and the choices where there are some.

    Args:
        config: The dataclass.
        without: A class whose options are left out unless their default differs.
    """
    theirs = {} if without is None else {field.name: field for field in fields(without)}
    rows = ["| option | default | meaning |", "|---|---|---|"]
    for field in fields(config):
        known = theirs.get(field.name)
        if known is not None and known.default == field.default:
            continue
        help = str(field.metadata.get("help", "")).replace("|", "\\|").replace("%%", "%")
        default = field.default if field.default is not MISSING else None
        rows.append(f"| `{field.name}` | `{default!r}` | {help} |")
    return "\n".join(rows) + "\n"


def with_tables(page: str) -> str:
    """Return a page with the tables between its marks written anew."""
    from trl import SFTConfig

    from trl_pper.config import PPERConfig
    from trl_pper.train_command import DataArguments

    tables = {
        "PPERConfig": lambda: option_table(PPERConfig, without=SFTConfig),
        "DataArguments": lambda: option_table(DataArguments),
    }
    return _TABLE.sub(lambda found: f"{found[1]}{tables[found[2]]()}{found[3]}", page)


if __name__ == "__main__":
    path = Path(sys.argv[1])
    path.write_text(with_tables(path.read_text()))
