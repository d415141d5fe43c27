"""What a command line calls tasks: a file, a folder, a data set of the Hub, or a YAML file that mixes several (C4).

Enters: one name with options. Leaves: tasks, asked as text or as chat messages. What a mixture file holds:

    size: 500                     # optional: tasks drawn in all; as many as the proportions allow without it
    seed: 0                       # optional: which are drawn
    mixture:
      apps: {tasks: codeparrot/apps, subset: all, split: train, on_error: skip, weight: 3}
      mine: {tasks: tasks.jsonl, weight: 1}
"""

from __future__ import annotations

import argparse
import inspect
from pathlib import Path
from typing import Any

from trl_pper.cli.options.file import yaml_mapping
from trl_pper.tasks.chat import as_chat
from trl_pper.tasks.loading import load_tasks
from trl_pper.tasks.task import CodingTask

PROMPTS = ("text", "chat")

#: Options of `load_tasks` that a source of a mixture may have; `errors` is a list of the caller's.
_OPTIONS = [name for name in inspect.signature(load_tasks).parameters if name not in ("source", "errors")]


def read_tasks(source: str, *, prompts: str = "text", **options: Any) -> list[CodingTask]:
    """Read tasks.

    Args:
        source: What `load_tasks` takes, or the path of a mixture (.yaml, .yml).
        prompts: "text" for prompts as their format has them, "chat" for messages (see `as_chat`).
        **options: Those of `load_tasks`; each source of a mixture has its own in the file.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: The tasks or the mixture are malformed, or options are given for a mixture.
    """
    if prompts not in PROMPTS:
        raise ValueError(f"prompts: must be text or chat; got {prompts!r}")
    if is_mixture(source):
        defaults = {name: one.default for name, one in inspect.signature(load_tasks).parameters.items()}
        for name, value in options.items():
            if value != defaults[name]:
                raise ValueError(f"{name}: each source of the mixture {source} has its own; write it there")
        tasks = _mixed(Path(source))
    else:
        tasks = load_tasks(source, **options)
    return as_chat(tasks) if prompts == "chat" else tasks


def is_mixture(source: str) -> bool:
    """Return whether a source of tasks is the file of a mixture."""
    return Path(source).suffix in (".yaml", ".yml")


def _mixed(path: Path) -> list[CodingTask]:
    # Not needed for `--help`, and slow.
    from trl_pper.tasks.mixture import mix_tasks

    given = yaml_mapping(path)
    if not isinstance(given.get("mixture"), dict) or not given["mixture"]:
        raise ValueError(f"{path}: mixture: must map at least one name to where its tasks are; got {given!r:.200}")
    unknown = sorted(given.keys() - {"mixture", "size", "seed"})
    if unknown:
        raise ValueError(f"{path}: {unknown[0]}: no such option; a mixture has mixture, size and seed")
    sources = {str(name): _source(f"{path}: {name}", spec) for name, spec in given["mixture"].items()}
    return mix_tasks(sources, size=given.get("size"), seed=given.get("seed", 0))


def _source(place: str, spec: Any) -> tuple[list[CodingTask], float]:
    """Return the tasks of a source of a mixture, and its weight."""
    if not isinstance(spec, dict) or not isinstance(spec.get("tasks"), str):
        raise ValueError(f"{place}: tasks: a file, a folder or the id of a data set is required; got {spec!r:.200}")
    options = {name: value for name, value in spec.items() if name not in ("tasks", "weight")}
    for name in options:
        if name not in _OPTIONS:
            raise ValueError(f"{place}: {name}: no such option; there are tasks, weight, {', '.join(_OPTIONS)}")
    weight = spec.get("weight", 1)
    if isinstance(weight, bool) or not isinstance(weight, int | float):
        raise ValueError(f"{place}: weight: must be a number above 0; got {weight!r}")
    return load_tasks(spec["tasks"], **options), weight


def task_options(options: argparse.Namespace) -> dict[str, Any]:
    """Return the options of a command line that `read_tasks` takes."""
    names = ("format", "subset", "split", "difficulty", "max_tests", "on_error", "prompts")
    return {name: getattr(options, name) for name in names}


def read_given_tasks(source: str, options: argparse.Namespace) -> list[CodingTask]:
    """Load tasks as the options of a command line describe."""
    return read_tasks(source, **task_options(options))
