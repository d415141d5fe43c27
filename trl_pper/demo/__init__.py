"""The demo: a tiny embedded model, the family of tasks it was made for, and the run that improves it.

What to try things out with, without a network and in seconds: `MODEL`, a folder that `from_pretrained` loads,
`demo_tasks`, which the model solves a part of, and `reference_program`, the right program of each.
"""

from pathlib import Path

from trl_pper.demo.tasks import demo_tasks, reference_program

#: Folder of the embedded model and its tokenizer.
MODEL = Path(__file__).parent / "model"

__all__ = ["MODEL", "demo_tasks", "reference_program"]
