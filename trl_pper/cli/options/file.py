"""A YAML file of options: what it says, as it was written, and where.

Enters: a file. Leaves: its entries by name, each with its line for errors. Names that stand there twice are refused,
and `1e-4` is a number, which YAML 1.1 takes for text. What an entry has to be is not known here (see option_types.py).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml


@dataclass(frozen=True, kw_only=True)
class Entry:
    """A value of the file.

    Args:
        where: File, line and name, as errors begin.
        text: How it is written, if it is one word, number or text.
        value: What YAML makes of it.
        items: The entries of a list.
    """

    where: str
    text: str | None
    value: Any
    items: tuple[Entry, ...] | None


def read_entries(path: Path) -> dict[str, Entry]:
    """Return what a YAML file maps names to.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is no YAML, maps no names, or one of them twice.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file")
    try:
        loader = _Loader(path.read_text(encoding="utf-8"))
        loader.file = path
        return _entries(path, loader)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: must be YAML; got {' '.join(str(error).split())}") from error


def yaml_mapping(path: Path) -> dict[str, Any]:
    """Return what a YAML file maps names to, as plain values.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is no YAML, maps no names, or one of them twice.
    """
    return {name: entry.value for name, entry in read_entries(path).items()}


def split_config(arguments: Sequence[str]) -> tuple[Path | None, list[str]]:
    """Return the file of `--config`, if there is one, and the arguments without it.

    Raises:
        ValueError: `--config` has no value, or stands there twice.
    """
    rest, others = list(arguments), []
    files: list[str] = []
    while rest:
        name, equals, value = rest.pop(0).partition("=")
        if name != "--config":
            others.append(name + equals + value)
            continue
        if not (value if equals else rest):
            raise ValueError("--config: a YAML file is required; got nothing")
        files.append(value if equals else rest.pop(0))
    if len(files) > 1:
        raise ValueError(f"--config: must be one file; got {' and '.join(files)}")
    return (Path(files[0]) if files else None), others


class _Loader(yaml.SafeLoader):
    file: Path

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """Return the mapping, unless it has a name twice; merged ones (`<<`) may come again."""
        lines: dict[str, int] = {}
        for key, _ in node.value:
            line = key.start_mark.line + 1
            if isinstance(key, yaml.ScalarNode) and key.value in lines:
                raise ValueError(
                    f"{self.file}:{line}: {key.value}: must stand there once; line {lines[key.value]} has it already"
                )
            lines[str(key.value)] = line
        return super().construct_mapping(node, deep=deep)


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?(\d+(\.\d*)?|\.\d+)[eE][-+]?\d+$"), list("-+.0123456789")
)


def _entries(path: Path, loader: _Loader) -> dict[str, Entry]:
    node = loader.get_single_node()
    if not isinstance(node, yaml.MappingNode):
        got = "nothing" if node is None else type(loader.construct_object(node, deep=True)).__name__
        raise ValueError(f"{path}: must map names to values; got {got}")
    names = list(loader.construct_mapping(node, deep=True))
    if not all(isinstance(name, str) for name in names):
        raise ValueError(f"{path}: must map names to values; got {names}")
    # Constructing it has put merged entries in front of the others: the last one of a name counts.
    return {key.value: _entry(path, key.value, value, loader) for key, value in node.value}


def _entry(path: Path, name: str, node: yaml.Node, loader: _Loader) -> Entry:
    items = None
    if isinstance(node, yaml.SequenceNode):
        items = tuple(_entry(path, name, item, loader) for item in node.value)
    return Entry(
        where=f"{path}:{node.start_mark.line + 1}: {name}",
        text=node.value if isinstance(node, yaml.ScalarNode) else None,
        value=loader.construct_object(node, deep=True),
        items=items,
    )
