"""The demo: a tiny embedded model, the family of tasks it was made for, and the run that improves it.

What to try things out with, without a network and in seconds: `MODEL`, a folder that `from_pretrained` loads,
`demo_tasks`, which the model solves a part of, and `reference_program`, the right program of each.
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
    # Rooms import nothing: `MODEL` is to be had without the judge and the formats.
    if name in ("demo_tasks", "reference_program"):
        return getattr(importlib.import_module("trl_pper.demo.tasks"), name)
    raise AttributeError(f"module 'trl_pper.demo' has no attribute {name!r}")
