"""Read a YAML file of options: each entry as it was written, with its line number for errors.

A name that stands twice is refused, and `1e-4` is a number, which YAML 1.1 takes for text. Types are not checked here:
see `options.typed`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml


@dataclass(frozen=True, kw_only=True)
class Entry:
    """A value in a file, or on the command line.

    Args:
        where: The beginning of an error: file, line and name, or the option as it was typed.
        text: The value as it is written; None for a list or a mapping.
        value: The value that YAML reads.
        items: The entries of a list; None for anything else.
    """

    where: str
    text: str | None
    value: Any
    items: tuple[Entry, ...] | None = None


def read_entries(path: Path) -> dict[str, Entry]:
    """Return the entries of a YAML file by name.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: The file is no YAML, maps no names, or has a name twice.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file")
    try:
        loader = _Loader(path.read_text(encoding="utf-8"))
        # PyYAML's marks carry this name, so that every node knows its file.
        loader.name = str(path)
        node = loader.get_single_node()
        if not isinstance(node, yaml.MappingNode):
            got = "nothing" if node is None else type(loader.construct_object(node, deep=True)).__name__
            raise ValueError(f"{path}: must map names to values; got {got}")
        names = list(loader.construct_mapping(node, deep=True))
        if not all(isinstance(name, str) for name in names):
            raise ValueError(f"{path}: must map names to values; got {names}")
        # Constructing the mapping has put entries merged by `<<` in front of its own, which therefore win here.
        return {key.value: _entry(key.value, value, loader) for key, value in node.value}
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: must be YAML; got {' '.join(str(error).split())}") from error


# PyYAML keeps the last of two equal names without an error: a forgotten line would silently win.
class _Loader(yaml.SafeLoader):
    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """Return the mapping; raise ValueError where a name stands twice, unless `<<` merged it."""
        lines: dict[str, int] = {}
        for key, _ in node.value:
            line = key.start_mark.line + 1
            if isinstance(key, yaml.ScalarNode) and key.value in lines:
                raise ValueError(
                    f"{self.name}:{line}: {key.value}: must stand there once; line {lines[key.value]} has it already"
                )
            lines[str(key.value)] = line
        return super().construct_mapping(node, deep=deep)


# YAML 1.1 wants a dot and a sign in a number with an exponent; people write 1e-4.
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?(\d+(\.\d*)?|\.\d+)[eE][-+]?\d+$"), list("-+.0123456789")
)


def _entry(name: str, node: yaml.Node, loader: _Loader) -> Entry:
    is_list = isinstance(node, yaml.SequenceNode)
    return Entry(
        where=f"{loader.name}:{node.start_mark.line + 1}: {name}",
        text=node.value if isinstance(node, yaml.ScalarNode) else None,
        value=loader.construct_object(node, deep=True),
        items=tuple(_entry(name, item, loader) for item in node.value) if is_list else None,
    )
