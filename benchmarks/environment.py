"""What a figure depends on, the machine and the versions, and the file that holds it beside the figure."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path

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


def write_result(path: Path | None, result: Mapping[str, object]) -> None:
    """Write figures with their environment as JSON; nothing where no file was asked for."""
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(result, indent=2) + "\n")


def markdown(results: Sequence[Mapping[str, object]], columns: Sequence[str]) -> str:
    """Return figures as a table, a row for each result."""
    lines = [f"| {' | '.join(column.replace('_', ' ') for column in columns)} |", f"|{'---|' * len(columns)}"]
    for result in results:
        values = (result[name] for name in columns)
        lines.append(f"| {' | '.join(f'{one:,}' if isinstance(one, int) else str(one) for one in values)} |")
    return "\n".join(lines)
