"""Compute the scores of programs: pass rate, accuracy, pass@k and others.

- `scores`: count the verdicts on each task's programs, and compute scores with standard errors
- `compute`: judge programs and compute their scores in a single call
- `rewards`: the pass rate as a reward function for trainers such as TRL's `GRPOTrainer`
- `pass_rate`: a folder with the metric for `evaluate.load`; its module is `pass_rate/pass_rate`
- `space`: a folder with `space/app`, an app to try the metric as a Space of the Hub

The functions below locate the metric, register it by name and write it as a Space. None of them imports `evaluate`
before it is needed.
"""

from __future__ import annotations

import importlib
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trl_pper import __version__

if TYPE_CHECKING:
    from trl_pper.metrics.compute import pool as pool

_HERE = Path(__file__).parent
#: Requirements of the Space, with the wheel of torch for CPUs, on which Spaces run.
_REQUIREMENTS = "--extra-index-url https://download.pytorch.org/whl/cpu\ntorch\ntrl-pper[metric]=={version}\n"


def __getattr__(name: str) -> Any:
    # Imported late, so that loading a metric by its path does not import the judge.
    if name == "pool":
        return importlib.import_module("trl_pper.metrics.compute").pool
    raise AttributeError(f"module 'trl_pper.metrics' has no attribute {name!r}")


def path(name: str = "pass_rate") -> str:
    """Return the folder of a metric, for `evaluate.load`.

    Args:
        name: Name of the metric; "pass_rate" is the only metric so far.

    Raises:
        ValueError: There is no such metric.

    Examples:
        >>> path("pass_rate").endswith("trl_pper/metrics/pass_rate")
        True
    """
    # `evaluate` expects a module with the name of its folder.
    known = sorted(script.stem for script in _HERE.glob("*/*.py") if script.stem == script.parent.name)
    if name not in known:
        raise ValueError(f"name: must be one of {', '.join(known)}; got {name!r}")
    return str(_HERE / name)


def register(name: str = "pass_rate") -> str:
    """Put a metric into the cache of `evaluate`, so that `evaluate.load` finds it by name without a network.

    Prefer `path` wherever you can: with a network, `evaluate` first asks the Hub for a Space of that name, and runs
    its code if there is any.

    Args:
        name: The metric.

    Returns:
        The name to load: "trl_pper/pass_rate".

    Raises:
        ValueError: There is no such metric.
        ImportError: `evaluate` is not installed.

    Examples:
        `evaluate.load(register("pass_rate"))` in docs/metric.md, which the tests run.
    """
    from evaluate.loading import LocalEvaluationModuleFactory

    factory = LocalEvaluationModuleFactory(str(Path(path(name)) / f"{name}.py"))
    # The cache is keyed by this name; the factory would use the file's.
    factory.name = f"trl_pper/{name}"
    factory.get_module()
    return str(factory.name)


def space(folder: str | Path, name: str = "pass_rate") -> Path:
    """Write a metric as a Space of the Hub: its module, its card and an app to try it in the browser.

    Args:
        folder: A new or empty folder to write to.
        name: Name of the metric, and of the Space.

    Returns:
        The folder.

    Raises:
        ValueError: There is no such metric, or the folder is not empty.
    """
    target, source = Path(folder), Path(path(name))
    # Users upload the whole folder, so nothing else may lie in it.
    if target.exists() and any(target.iterdir()):
        raise ValueError(f"folder: must be a new or an empty folder; {target} has files in it. Choose another one")
    target.mkdir(parents=True, exist_ok=True)
    # `evaluate` looks for `<name>.py` in a Space of the same name.
    for file in (source / f"{name}.py", source / "README.md", _HERE / "space" / "app.py"):
        shutil.copyfile(file, target / file.name)
    (target / "requirements.txt").write_text(_REQUIREMENTS.format(version=__version__), encoding="utf-8")
    return target
