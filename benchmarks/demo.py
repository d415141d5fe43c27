"""Compares ways to draw from the same buffer, at equal compute: the demo's model and tasks, several seeds.

    python benchmarks/demo.py --seeds 0 1 2 --output benchmarks/results/demo.json

Every run generates and judges the same number of programs and takes the same number of optimizer steps; only the draw
differs. Prints held-out accuracy before and after for each; `--output` writes them with a snapshot of the machine.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

from environment import snapshot, write_result

from trl_pper.demo.run import run_demo

DRAWS: dict[str, dict[str, Any]] = {
    "proportional, exponent 1": {"priority": "proportional", "priority_exponent": 1.0},
    "proportional, exponent 4": {"priority": "proportional", "priority_exponent": 4.0},
    "rank, exponent 1": {"priority": "rank", "priority_exponent": 1.0},
    "uniform": {"priority": "uniform"},
    "filter": {"priority": "filter"},
}


def measure(name: str, seed: int) -> dict[str, Any]:
    """Run the demo once and return its summary."""
    started = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        summary = run_demo(Path(folder), seed=seed, options=DRAWS[name])
    return {"draw": name, "seed": seed, "wall_seconds": round(time.perf_counter() - started, 1), **summary}


def points(runs: list[dict[str, Any]], figure: str) -> dict[str, float]:
    """Return mean, least and most of the change of a figure, in percentage points."""
    changes = [100 * (run[figure]["after"] - run[figure]["before"]) for run in runs]
    return {name: round(of(changes), 1) for name, of in (("mean", statistics.mean), ("least", min), ("most", max))}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--draws", nargs="+", default=list(DRAWS), choices=list(DRAWS))
    parser.add_argument("--output", type=Path, default=None, help="JSON file to write")
    options = parser.parse_args()
    environment = snapshot()
    runs = [measure(name, seed) for seed in options.seeds for name in options.draws]
    by_draw = {name: [run for run in runs if run["draw"] == name] for name in options.draws}
    summary = {
        name: {figure: points(of, figure) for figure in ("accuracy", "pass_rate", "pass@3")}
        for name, of in by_draw.items()
    }
    result = {"environment": environment, "change_in_points": summary, "runs": runs}
    print(json.dumps(summary, indent=2))
    write_result(options.output, result)


if __name__ == "__main__":
    main()
