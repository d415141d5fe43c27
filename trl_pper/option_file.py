"""Options of a command from a YAML file: what stands on the command line goes before it.

Enters: arguments with `--config FILE`. Leaves: the same arguments, with the file's options in front as if they had
been typed, so that one parser checks both.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any


def with_file(arguments: Sequence[str]) -> list[str]:
    """Return arguments with the options of their `--config` file in front of the others.

    Args:
        arguments: A command, then its options. A list in the file gives an option its values, true stands for an
            option without a value, false and null for one that is not given, an object for its JSON.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: The file holds no mapping of names to values, or `--config` has no value.
    """
    command, rest = list(arguments[:1]), list(arguments[1:])
    kept: list[str] = []
    from_files: list[str] = []
    while rest:
        argument = rest.pop(0)
        name, equals, value = argument.partition("=")
        if name != "--config":
            kept.append(argument)
            continue
        if not equals and not rest:
            raise ValueError("--config: a YAML file is required; got nothing")
        from_files += _options(Path(value if equals else rest.pop(0)))
    return [*command, *from_files, *kept]


def yaml_mapping(path: Path) -> dict[str, Any]:
    """Return what a YAML file maps names to.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is no YAML, or maps no names.
    """
    import yaml

    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file")
    try:
        found = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise ValueError(f"{path}: must be YAML; got {error}") from error
    if not isinstance(found, dict) or not all(isinstance(name, str) for name in found):
        raise ValueError(f"{path}: must map names to values; got {type(found).__name__}")
    return found


def _options(path: Path) -> list[str]:
    return [text for name, value in yaml_mapping(path).items() for text in _option(name, value)]


def _option(name: str, value: Any) -> list[str]:
    if value is None or value is False:
        return []
    if value is True:
        return [f"--{name}"]
    if isinstance(value, list):
        return [f"--{name}", *map(str, value)]
    return [f"--{name}={json.dumps(value) if isinstance(value, dict) else value}"]
