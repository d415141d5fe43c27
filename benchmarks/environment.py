"""What a figure depends on: the machine and the versions, as a mapping that JSON can hold."""

from __future__ import annotations

import os
import platform
from importlib.metadata import version

LIBRARIES = ("torch", "transformers", "trl", "accelerate", "datasets", "numpy")


def snapshot() -> dict[str, object]:
    """Return the environment of this run."""
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "machine": platform.machine(),
        "cores": len(os.sched_getaffinity(0)),
        "load_average_1_minute": round(os.getloadavg()[0], 2),
        "user_id": os.geteuid(),
        "versions": {name: version(name) for name in LIBRARIES},
    }
