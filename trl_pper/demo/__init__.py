"""Provide a tiny model and tasks to try the package with, in seconds and without a network.

`MODEL` is a folder for `from_pretrained`. `demo_tasks` returns tasks that the model solves in part, and
`reference_program` the right program of a task.

- `tasks`: the demo's tasks, and the family of programs from which they are composed
- `run`: train the model on its tasks for `trl-pper demo`, and report the scores before and after
- `base_model`: train the embedded model from scratch
"""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from trl_pper.demo.tasks import demo_tasks as demo_tasks
    from trl_pper.demo.tasks import reference_program as reference_program


#: Folder of the embedded model and its tokenizer.
MODEL = Path(__file__).parent / "model"

__all__ = ["MODEL", "demo_tasks", "reference_program"]


def __getattr__(name: str) -> Any:
    # Imported late, so that `MODEL` can be had without loading the judge and the formats.
    if name in ("demo_tasks", "reference_program"):
        return getattr(importlib.import_module("trl_pper.demo.tasks"), name)
    raise AttributeError(f"module 'trl_pper.demo' has no attribute {name!r}")
