"""Measures the replay buffer: draws against cpprb's, and what a million experiences cost.

    python benchmarks/replay.py --peer-python PATH --output outputs/replay.json

PATH is an interpreter that has the package `cpprb`; without it the peer is left out, and the JSON says so. The
contenders take turns, round by round, each in a process of its own (`replay_draws`), and ratios are taken within a
round. The million experiences are added and saved in one process and loaded in another (`replay_million`), so that
each peak of memory is its own. `--output` writes everything as JSON with a snapshot of the machine.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from environment import snapshot, write_result
from judge_results import spread

OURS = ("trl_pper proportional", "trl_pper rank")
PEER = "cpprb proportional"
COSTS = ("draw_microseconds", "rebuild_milliseconds", "round_milliseconds")
_FOLDER = Path(__file__).parent
Record = dict[str, Any]


def call(python: str, script: str, request: dict[str, Any]) -> dict[str, Any]:
    """Run a measuring process and return its answer."""
    # One thread each: draws use no more, and the machine may be shared.
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    finished = subprocess.run(
        [python, str(_FOLDER / script)],
        input=json.dumps(request), stdout=subprocess.PIPE, text=True, check=True, env=environment,
    )  # fmt: skip
    answer: dict[str, Any] = json.loads(finished.stdout)
    return answer


def peer_version(python: str | None) -> str | None:
    """Return which cpprb an interpreter has, or None."""
    if python is None:
        return None
    code = "from importlib.metadata import version; import cpprb; print(version('cpprb'))"
    finished = subprocess.run([python, "-c", code], capture_output=True, text=True)
    return finished.stdout.strip() if finished.returncode == 0 else None


def measure_draws(options: argparse.Namespace, *, peer: bool) -> list[Record]:
    """Let every contender draw from every size once a round; return a record for each."""
    records = []
    for round_index in range(options.rounds):
        # Every other round goes the other way about, so that a drift of the machine favours nobody.
        for contender in [*OURS, *([PEER] if peer else [])][:: -1 if round_index % 2 else 1]:
            for size in options.sizes:
                request = {"contender": contender, "size": size, "steps": options.steps, "added": options.added}
                python = options.peer_python if contender == PEER else sys.executable
                records.append({"round": round_index, **request, **call(python, "replay_draws.py", request)})
        print(f"draws, round {round_index}: {len(records)} records", file=sys.stderr)
    return records


def draw_results(records: list[Record]) -> dict[str, Any]:
    """Return medians with least and most, by size and contender."""
    results: dict[str, Any] = {}
    for size, contender in _cells(records):
        here = [one for one in records if (one["size"], one["contender"]) == (size, contender)]
        results.setdefault(str(size), {})[contender] = {cost: spread(one[cost] for one in here) for cost in COSTS}
    return results


def draw_ratios(records: list[Record]) -> dict[str, Any]:
    """Return the peer's cost over ours, by size, contender and cost, each within its round; above 1 we are faster."""
    theirs = {(one["round"], one["size"]): one for one in records if one["contender"] == PEER}
    results: dict[str, Any] = {}
    for size, contender in _cells(records):
        here = [one for one in records if (one["size"], one["contender"]) == (size, contender)]
        if theirs and contender != PEER:
            results.setdefault(str(size), {})[contender] = {
                cost: spread(theirs[one["round"], size][cost] / one[cost] for one in here) for cost in COSTS
            }
    return results


def _cells(records: list[Record]) -> Iterable[tuple[int, str]]:
    return dict.fromkeys((one["size"], one["contender"]) for one in records)


def measure_million(experiences: int) -> dict[str, Any]:
    """Fill and save a buffer in one process and load it in another; return what each step took."""
    with tempfile.TemporaryDirectory() as folder:
        request = {"experiences": experiences, "path": str(Path(folder) / "buffer.parquet")}
        filled = call(sys.executable, "replay_million.py", {**request, "phase": "fill"})
        print("filled", file=sys.stderr)
        loaded = call(sys.executable, "replay_million.py", {**request, "phase": "load"})
    if filled["digest"] != loaded["digest"]:
        raise RuntimeError(f"digest: {loaded['digest']} after loading, {filled['digest']} before saving")
    return {"experiences": experiences, "fill": filled, "load": loaded}


def summary(result: dict[str, Any]) -> str:
    """Return the main figures as lines of text."""
    lines = []
    for size, by_contender in result["draws"].items():
        for contender, costs in by_contender.items():
            figures = "  ".join(f"{cost} {costs[cost]['median']:.4g}" for cost in COSTS)
            lines.append(f"{int(size):>9,}  {contender:24}{figures}")
    million = result["million"]
    for phase in ("fill", "load"):
        figures = "  ".join(f"{name} {value:.4g}" for name, value in million[phase].items() if name != "digest")
        lines.append(f"{million['experiences']:,} {phase}: {figures}")
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> None:
    """Run the benchmark from the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--sizes", type=int, nargs="+", default=[10_000, 100_000, 1_000_000], help="programs drawn from"
    )
    parser.add_argument("--steps", type=int, default=100, help="draws of 256 in a round of training")
    parser.add_argument("--added", type=int, default=1000, help="programs that a round of collection adds")
    parser.add_argument("--rounds", type=int, default=7, help="times that every contender takes its turn")
    parser.add_argument("--experiences", type=int, default=1_000_000, help="experiences in the large buffer")
    parser.add_argument("--peer-python", help="interpreter that has the package cpprb")
    parser.add_argument("--output", type=Path, help="JSON file to write")
    options = parser.parse_args(arguments)
    environment, peer = snapshot(), peer_version(options.peer_python)
    if options.peer_python and peer is None:
        print(f"--peer-python: {options.peer_python} has no cpprb, the peer is left out", file=sys.stderr)
    records = measure_draws(options, peer=peer is not None)
    result = {
        "environment": {**environment, "cpprb": peer, "rounds": options.rounds, "steps_per_round": options.steps},
        "left_out": [] if peer else [PEER],
        "draws": draw_results(records),
        "ratios_of_costs": draw_ratios(records),
        "million": measure_million(options.experiences),
        "records": records,
    }
    print(summary(result))
    write_result(options.output, result)


if __name__ == "__main__":
    main()
