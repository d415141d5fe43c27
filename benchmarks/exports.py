"""Measures the exports of a buffer: seconds for each kind of data set, until it is in a Parquet file.

    python benchmarks/exports.py --output benchmarks/results/exports.json

Programs have about 400 characters, and those of a task are variants of one text, of which some lines are replaced; a
third passes every test. "alike" variants differ in one to three lines of twelve, "unlike" ones in all of them, the
worst case for distances, where no bound saves time. All exports of a layout use the same buffer. `--output` writes
everything as JSON with a snapshot of the machine.
"""

from __future__ import annotations

import argparse
import random
import resource
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from datasets import disable_progress_bars
from environment import markdown, snapshot, write_result

from trl_pper import CodingTask, Experience, FunctionTests, ReplayBuffer

#: Programs of a task, and how much they differ.
LAYOUTS = ((10, "alike"), (100, "alike"), (100, "unlike"), (1000, "alike"))
LINES = 12
_NAMES = [f"value_{n}" for n in range(500)]
COLUMNS = ("programs_per_task", "variants", "export", "rows", "seconds", "seconds_with_file")


def experiences(number: int, per_task: int, variants: str) -> Iterator[Experience]:
    """Yield judged programs, the same for the same arguments."""
    chance = random.Random(0)
    for task in range(number // per_task):
        prompt = [{"role": "user", "content": f"Task {task}: " + "say what the function is to do. " * 4}]
        base = [_line(chance) for _ in range(LINES)]
        for place in range(per_task):
            changed = LINES if variants == "unlike" else chance.randint(1, 3)
            lines = list(base)
            for line in chance.sample(range(LINES), changed):
                lines[line] = _line(chance)
            program = "def solve(x, y):\n" + "".join(lines) + f"    return {place}\n"
            yield Experience(
                task_id=f"task-{task}",
                prompt=prompt,
                completion=program,
                program=program,
                pass_rate=chance.choice([0.0, 0.5, 1.0]),
            )


def _line(chance: random.Random) -> str:
    return f"    {chance.choice(_NAMES)} = x * {chance.randrange(10**6)} + y\n"


def exports(buffer: ReplayBuffer) -> dict[str, Callable[[], Any]]:
    """Return the exports to measure, by name."""
    tests = FunctionTests(entry_point="solve", code="assert solve(1, 2) == 3")
    tasks = [CodingTask(task_id=task_id, prompt="p", tests=tests) for task_id in {one.task_id for one in buffer}]
    return {
        "sft": buffer.to_sft,
        "dpo, closest": buffer.to_preferences,
        "dpo, closest, 8 a task": lambda: buffer.to_preferences(pairs_per_task=8),
        "dpo, random, 8 a task": lambda: buffer.to_preferences("random", pairs_per_task=8),
        "dpo, mixed, 8 a task": lambda: buffer.to_preferences("mixed", pairs_per_task=8),
        "kto": buffer.to_unpaired,
        "reward, closest, 8 a task": lambda: buffer.to_reward_model(pairs_per_task=8),
        "verl": lambda: buffer.to_verl(tasks),
    }


def measure(number: int, per_task: int, variants: str) -> list[dict[str, Any]]:
    """Return the figures of each export of a layout."""
    buffer = ReplayBuffer()
    buffer.add(experiences(number, per_task, variants))
    results = []
    for name, export in exports(buffer).items():
        with tempfile.TemporaryDirectory() as folder:
            start = time.perf_counter()
            rows = export()
            made = time.perf_counter()
            rows.to_parquet(Path(folder) / "rows.parquet")
            written = time.perf_counter()
        results.append(
            {
                "programs_per_task": per_task,
                "variants": variants,
                "export": name,
                "rows": len(rows),
                "seconds": round(made - start, 2),
                "seconds_with_file": round(written - start, 2),
            }
        )
    return results


def main(arguments: list[str] | None = None) -> None:
    """Run the benchmark from the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--experiences", type=int, default=100_000, help="experiences in the buffer")
    parser.add_argument("--output", type=Path, help="JSON file to write")
    options = parser.parse_args(arguments)
    environment = snapshot()
    # Bars of progress would be part of the figures.
    disable_progress_bars()
    results = [one for layout in LAYOUTS for one in measure(options.experiences, *layout)]
    print(markdown(results, COLUMNS))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    result = {
        "environment": environment,
        "experiences": options.experiences,
        "largest_resident_bytes": peak,
        "slowest_seconds": max(one["seconds_with_file"] for one in results),
        "exports": results,
    }
    write_result(options.output, result)


if __name__ == "__main__":
    main()
