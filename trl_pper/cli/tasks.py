"""Read the tasks of a command line: a file, a folder, a data set of the Hub, or a YAML file that mixes several (C4).

A mixture file holds:

    size: 500                     # optional: tasks drawn in all; as many as the proportions allow without it
    seed: 0                       # optional: of the draw
    mixture:
      apps: {tasks: codeparrot/apps, subset: all, split: train, on_error: skip, weight: 3}
      mine: {tasks: tasks.jsonl, weight: 1}
"""

from __future__ import annotations

import argparse
import inspect
from pathlib import Path
from typing import Any

from trl_pper.cli.options import Option
from trl_pper.cli.yaml_file import read_entries
from trl_pper.tasks.chat import as_chat
from trl_pper.tasks.loading import FORMATS, load_tasks
from trl_pper.tasks.task import CodingTask

PROMPTS = ("text", "chat")

TASKS = Option(
    "tasks", str, required=True,
    help="tasks: .jsonl, .jsonl.gz, .json or .parquet, a folder, a mixture (.yaml) or the id of a data set on the Hub",
)  # fmt: skip
#: Options of every command that reads tasks, as `read_tasks` takes them.
TASK_OPTIONS = (
    Option("format", str, "format of the tasks", default="auto", choices=("auto", *FORMATS)),
    Option("subset", str, "configuration of a data set of the Hub"),
    Option("split", str, "split of a data set"),
    Option("difficulty", list[str], "only tasks of these difficulties"),
    Option("max_tests", int, "most tests used of each task, the first ones"),
    Option(
        "on_error", str, "malformed rows: raise an error, or skip them", default="raise", choices=("raise", "skip")
    ),
    Option("prompts", str, "prompts as text to continue, or as chat to answer", default="text", choices=PROMPTS),
)

#: Options of `load_tasks` that a source of a mixture may have; `errors` is a list of the caller's.
_DEFAULTS = {
    name: one.default
    for name, one in inspect.signature(load_tasks).parameters.items()
    if name not in ("source", "errors")
}


def read_tasks(source: str, *, prompts: str = "text", **options: Any) -> list[CodingTask]:
    """Read tasks.

    Args:
        source: A source that `load_tasks` takes, or the path of a mixture (.yaml, .yml).
        prompts: "text" for prompts as their format has them, "chat" for messages (see `as_chat`).
        **options: Options of `load_tasks`; each source of a mixture has its own in the file.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: The tasks or the mixture are malformed, or options are given for a mixture.
    """
    if prompts not in PROMPTS:
        raise ValueError(f"prompts: must be text or chat; got {prompts!r}")
    if is_mixture(source):
        # Options would be ambiguous: for all sources, or in place of their own?
        for name, value in options.items():
            if value != _DEFAULTS[name]:
                raise ValueError(f"{name}: each source of the mixture {source} has its own; write it there")
        tasks = _mixed(Path(source))
    else:
        tasks = load_tasks(source, **options)
    return as_chat(tasks) if prompts == "chat" else tasks


def task_options(options: argparse.Namespace) -> dict[str, Any]:
    """Return the options of a command line that `read_tasks` takes."""
    return {option.name: getattr(options, option.name) for option in TASK_OPTIONS}


def read_given_tasks(source: str, options: argparse.Namespace) -> list[CodingTask]:
    """Read tasks with the options of a command line."""
    return read_tasks(source, **task_options(options))


def is_mixture(source: str) -> bool:
    """Return whether a source of tasks is the file of a mixture."""
    return Path(source).suffix in (".yaml", ".yml")


def _mixed(path: Path) -> list[CodingTask]:
    # Slow to import, and not needed for `--help`.
    from trl_pper.tasks.mixture import mix_tasks

    given = {name: entry.value for name, entry in read_entries(path).items()}
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
        if name not in _DEFAULTS:
            raise ValueError(f"{place}: {name}: no such option; there are tasks, weight, {', '.join(_DEFAULTS)}")
    weight = spec.get("weight", 1)
    if isinstance(weight, bool) or not isinstance(weight, int | float):
        raise ValueError(f"{place}: weight: must be a number above 0; got {weight!r}")
    return load_tasks(spec["tasks"], **options), weight
