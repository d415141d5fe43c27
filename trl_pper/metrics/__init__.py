"""The metrics of this package, for `evaluate.load`: where their modules lie, under which name, and as a Space.

Nothing here imports `evaluate` before it is needed. Load by path: by name, `evaluate` asks the Hub first.
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
#: The wheel of torch without CUDA: Spaces run on CPU.
_REQUIREMENTS = "--extra-index-url https://download.pytorch.org/whl/cpu\ntorch\ntrl-pper[metric]=={version}\n"


def __getattr__(name: str) -> Any:
    # Loading a metric by its path must not cost the judge.
    if name == "pool":
        return importlib.import_module("trl_pper.metrics.compute").pool
    raise AttributeError(f"module 'trl_pper.metrics' has no attribute {name!r}")


def path(name: str = "pass_rate") -> str:
    """Return the folder of a metric, as `evaluate.load` takes it.

    Args:
        name: The metric; "pass_rate" is the one there is.

    Raises:
        ValueError: There is no such metric.

    Examples:
        >>> path("pass_rate").endswith("trl_pper/metrics/pass_rate")
        True
    """
    known = sorted(script.stem for script in _HERE.glob("*/*.py") if script.stem == script.parent.name)
    if name not in known:
        raise ValueError(f"name: must be one of {', '.join(known)}; got {name!r}")
    return str(_HERE / name)


def register(name: str = "pass_rate") -> str:
    """Put a metric into the cache of `evaluate`, so that `evaluate.load` finds it by name without a network.

    With a network, `evaluate` asks the Hub for a Space of that name first, and runs its code if there is one: load by
    `path` wherever you can.

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
    factory.name = f"trl_pper/{name}"
    factory.get_module()
    return str(factory.name)


def space(folder: str | Path, name: str = "pass_rate") -> Path:
    """Write a metric as a Space of the Hub: its module, its card and an app to try it in the browser.

    Args:
        folder: Where to write it; a new or empty folder, all of which is then uploaded.
        name: The metric. The Space has to have the same name, since `evaluate` looks for `<name>.py` in it.

    Returns:
        The folder.

    Raises:
        ValueError: There is no such metric, or the folder has something in it.
    """
    target, source = Path(folder), Path(path(name))
    if target.exists() and any(target.iterdir()):
        raise ValueError(f"folder: must be a new or an empty folder; {target} has files in it. Choose another one")
    target.mkdir(parents=True, exist_ok=True)
    for file in (source / f"{name}.py", source / "README.md", _HERE / "space" / "app.py"):
        shutil.copyfile(file, target / file.name)
    (target / "requirements.txt").write_text(_REQUIREMENTS.format(version=__version__), encoding="utf-8")
    return target
