"""Measures how well a collection overlaps generating with judging, and what the journal costs.

    python benchmarks/collection.py --rounds 3 --output benchmarks/results/collection.json

A source takes a fixed time for each batch of tasks, as a GPU or a server does that leaves the CPU to the judge; a
second one keeps a core busy meanwhile, as generation on the CPU does. The time is set so that generating everything
takes as long as judging everything takes alone, the hardest case for an overlap. Each round measures, one after the
other, judging alone and whole collections: with each source, with a journal and without. The ratio reported is the
wall time of the collection over the longer of its two phases alone.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from environment import snapshot, write_result

from trl_pper import BeamSampleCollector, CodingTask, FunctionTests, Judge, ReplayBuffer
from trl_pper.generation.source import GeneratedProgram

BATCH = 4
PROGRAMS_PER_TASK = 3


def tasks(count: int, spin: int) -> list[CodingTask]:
    """Return tasks whose programs keep a core busy for `spin` additions a test."""
    code = "\n".join(f"assert f({number}, {spin}) == {number + 1}" for number in range(4))
    return [
        CodingTask(task_id=f"t{index}", prompt=f"# {index}\n", tests=FunctionTests(entry_point="f", code=code))
        for index in range(count)
    ]


def programs(task: CodingTask) -> list[str]:
    """Return distinct right programs of a task, so that no verdict comes from the cache."""
    return [
        f"# {task.task_id}, {number}\ndef f(x, spin):\n    for _ in range(spin): x + 1\n    return x + 1\n"
        for number in range(PROGRAMS_PER_TASK)
    ]


class TimedSource:
    """Writes the programs of a batch of tasks in a given time, asleep or keeping a core busy."""

    batch_size = BATCH

    def __init__(self, seconds_per_batch: float, *, busy: bool) -> None:
        self.seconds = seconds_per_batch
        self.busy = busy

    def identity(self, *, student: Any = None) -> str:
        """Return what decides what is written; every measurement has a folder of its own."""
        return "timed"

    def generate(self, tasks: Sequence[CodingTask], *, student: Any = None) -> Iterator[list[GeneratedProgram]]:
        """Yield the programs of each task, a batch at a time."""
        for start in range(0, len(tasks), self.batch_size):
            end = time.perf_counter() + self.seconds
            while self.busy and time.perf_counter() < end:
                pass
            time.sleep(max(0.0, end - time.perf_counter()))
            for task in tasks[start : start + self.batch_size]:
                yield [
                    GeneratedProgram(completion=text, logprob=-1.0, num_tokens=10, source="timed")
                    for text in programs(task)
                ]


def collect(judge: Judge, chosen: list[CodingTask], source: TimedSource, *, journal: bool) -> dict[str, float]:
    """Run one collection and return its wall times."""
    with tempfile.TemporaryDirectory() as folder:
        collector = BeamSampleCollector(
            source=source, judge=judge, tasks=chosen, journal_folder=Path(folder) if journal else None
        )
        collector.attach(ReplayBuffer())
        report = collector.collect()
    assert report.solved == 1.0, report
    assert report.restored == 0
    return {"wall": report.collect_seconds, "generate": report.generate_seconds, "judge": report.judge_seconds}


def measure(count: int, spin: int, workers: int) -> list[dict[str, Any]]:
    """Measure everything once and return a record for each collection."""
    chosen = tasks(count, spin)
    records = []
    with Judge(workers=workers, cache_size=0) as judge:
        judge.run([(chosen[0], programs(chosen[0]))])  # workers start on first use
        for busy in (False, True):
            for journal in (True, False):
                started = time.perf_counter()
                judge.run([(task, programs(task)) for task in chosen])
                alone = time.perf_counter() - started
                source = TimedSource(alone * BATCH / count, busy=busy)
                found = collect(judge, chosen, source, journal=journal)
                longest = max(alone, found["generate"])
                records.append(
                    {
                        "source": "busy" if busy else "asleep",
                        "journal": journal,
                        "judge_alone_seconds": round(alone, 3),
                        **{f"{name}_seconds": round(value, 3) for name, value in found.items()},
                        "ratio": round(found["wall"] / longest, 4),
                    }
                )
    return records


def summary(records: list[dict[str, Any]]) -> dict[str, dict[str, float]]:
    """Return median, least and most of the ratio for each kind of collection."""
    kinds = sorted({(record["source"], record["journal"]) for record in records})
    return {
        f"{source}, {'journal' if journal else 'no journal'}": {
            name: round(of([r["ratio"] for r in records if (r["source"], r["journal"]) == (source, journal)]), 3)
            for name, of in (("median", statistics.median), ("least", min), ("most", max))
        }
        for source, journal in kinds
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tasks", type=int, default=200)
    parser.add_argument("--spin", type=int, default=100_000, help="additions a program makes for each of four tests")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--output", type=Path, default=None, help="JSON file to write")
    options = parser.parse_args()
    environment = snapshot()
    records = [
        {"round": number, **record}
        for number in range(options.rounds)
        for record in measure(options.tasks, options.spin, options.workers)
    ]
    result = {
        "environment": environment,
        "settings": {"tasks": options.tasks, "programs_per_task": PROGRAMS_PER_TASK, "workers": options.workers},
        "wall_over_longer_phase": summary(records),
        "records": records,
    }
    print(json.dumps(result["wall_over_longer_phase"], indent=2))
    write_result(options.output, result)


if __name__ == "__main__":
    main()
