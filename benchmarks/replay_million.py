"""One process of the replay buffer's benchmark: fills a large buffer and saves it, or loads it and draws from it.

    echo '{"phase": "fill", "experiences": 1000000, "path": "buffer.parquet"}' | python benchmarks/replay_million.py

Enters, as JSON on standard input: the phase ("fill" or "load"), the number of experiences and the file. Leaves, as
JSON on standard output: seconds of each step, sizes, the digest, and the largest resident memory of this process.
Programs have about 400 characters, ten outcomes each, ten programs to a task; making them is not counted.
"""

from __future__ import annotations

import itertools
import json
import random
import resource
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

from trl_pper.replay.buffer import ReplayBuffer
from trl_pper.replay.experience import Experience

T = TypeVar("T")

#: Experiences added at a time: what a round of collection brings.
BATCH = 10_000
DRAWS = 256
_NAMES = [f"value_{n}" for n in range(500)]
_OUTCOMES = ("passed", "wrong_answer", "runtime_error", "timeout")


def experiences(number: int) -> Iterator[Experience]:
    """Yield experiences of different programs, the same in every process."""
    chance = random.Random(0)
    for n in range(number):
        task = n // 10
        body = "".join(f"    {chance.choice(_NAMES)} = x * {chance.randrange(10**6)} + y\n" for _ in range(12))
        program = f"def solve(x, y):\n{body}    return {n}\n"
        outcomes = tuple(chance.choices(_OUTCOMES, k=10))
        yield Experience(
            task_id=f"task-{task}",
            prompt=f"# Task {task}: " + "say what the function is to do, in a few sentences. " * 4 + "\n",
            completion=program,
            program=program,
            pass_rate=outcomes.count("passed") / 10,
            outcomes=outcomes,
            logprob=-150 * chance.random(),
            num_tokens=150,
            source="model",
            round_index=n * 10 // number,
        )


class Clock:
    """Adds up the seconds of named steps."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    def __call__(self, name: str, action: Callable[[], T]) -> T:
        """Run a step and return what it returns."""
        start = time.perf_counter()
        result = action()
        taken = time.perf_counter() - start
        self.seconds[f"{name}_seconds"] = self.seconds.get(f"{name}_seconds", 0.0) + taken
        return result


def fill(number: int, path: Path) -> dict[str, Any]:
    """Add experiences batch by batch, and save them."""
    clock, buffer, source = Clock(), ReplayBuffer(), experiences(number)
    characters = 0
    while batch := list(itertools.islice(source, BATCH)):
        characters += sum(len(one.program) for one in batch)
        clock("add", lambda batch=batch: buffer.add(batch))
    digest = clock("digest", buffer.digest)
    clock("save", lambda: buffer.save(path))
    sizes = {"program_characters": characters / number, "file_bytes": path.stat().st_size}
    return {"digest": digest, **clock.seconds, **sizes, "peak_bytes": peak_bytes()}


def load(path: Path) -> dict[str, Any]:
    """Load experiences, rebuild priorities and draw."""
    # What the libraries themselves take is not the buffer's.
    ReplayBuffer().add(experiences(1))
    clock, base = Clock(), peak_bytes()
    buffer = clock("load", lambda: ReplayBuffer.load(path))
    digest = clock("digest", buffer.digest)
    clock("proportional_priorities", buffer.probabilities)
    clock("first_draw", lambda: buffer.draw(DRAWS, round_index=0, step=0))
    draws = []
    for step in range(200):
        start = time.perf_counter()
        buffer.draw(DRAWS, round_index=0, step=step)
        draws.append(time.perf_counter() - start)
    clock("take_256", lambda: buffer.sample(DRAWS, round_index=0, step=0))
    buffer.priority = "rank"
    clock("rank_priorities", buffer.probabilities)
    buffer.capacity = len(buffer)
    new = [replace(one, task_id=f"new-{one.task_id}") for one in experiences(min(BATCH, len(buffer)))]
    clock("add_batch_when_full", lambda: buffer.add(new))
    peaks = {"peak_bytes": peak_bytes(), "peak_bytes_before": base}
    return {"digest": digest, **clock.seconds, "draw_microseconds": 1e6 * statistics.median(draws), **peaks}


def peak_bytes() -> int:
    """Return the largest resident memory of this process so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def run(request: dict[str, Any]) -> dict[str, Any]:
    """Run a phase."""
    path = Path(request["path"])
    return fill(request["experiences"], path) if request["phase"] == "fill" else load(path)


if __name__ == "__main__":
    print(json.dumps(run(json.load(sys.stdin))))
