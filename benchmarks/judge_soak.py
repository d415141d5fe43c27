"""Has one judge go through very many programs of all kinds, and looks whether anything of it grows.

    python benchmarks/judge_soak.py --programs 100000 --output benchmarks/results/judge_soak.json

Between blocks of programs, when the judge is idle, it reads resident memory and descriptors of this process and of
the workers, the number of processes, and the entries in the judge's temporary directories. Once warm, the last tenth
of the samples must be like the first tenth, and every program must have ended as its kind does; else the exit status
is 1.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import random
import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from environment import snapshot, write_result
from judge_processes import descendants, entries, resident_bytes, tree_cpu_seconds

from trl_pper import CodingTask, FunctionTests, Judge, Limits, StdioTests
from trl_pper.judge.verdict import Outcome, Verdict
from trl_pper.tasks.task import StdioCase

#: Small, so that a program that runs into one does so soon.
LIMITS = Limits(cpu_seconds=0.2, wall_factor=20.0, memory_bytes=192 << 20, file_bytes=4 << 20, max_timeouts=1)
ADD = CodingTask(
    task_id="add",
    prompt="add",
    tests=FunctionTests(
        code="".join(f"assert add({n}, {n + 1}) == {2 * n + 1}\n" for n in range(4)), entry_point="add"
    ),
)
SUM = CodingTask(
    task_id="sum",
    prompt="sum",
    tests=StdioTests(cases=tuple(StdioCase(input=f"{n} 1\n", output=f"{n + 1}\n") for n in range(4))),
)


@dataclass(frozen=True, kw_only=True)
class Kind:
    """One kind of programs.

    Args:
        share: How many of them are among a thousand programs.
        outcome: How the first test of each ends.
        source: The program.
        task: What it is judged by.
    """

    share: int
    outcome: Outcome
    source: str
    task: CodingTask = ADD


KINDS = {
    "passing": Kind(share=480, outcome=Outcome.PASSED, source="def add(x, y): return x + y"),
    "failing": Kind(share=150, outcome=Outcome.WRONG_ANSWER, source="def add(x, y): return x - y - 7"),
    "raising": Kind(share=100, outcome=Outcome.RUNTIME_ERROR, source="def add(x, y): raise KeyError(x)"),
    "syntax error": Kind(share=50, outcome=Outcome.SYNTAX_ERROR, source="def add(x, y) return x + y"),
    "exiting": Kind(share=15, outcome=Outcome.RUNTIME_ERROR, source="import os\ndef add(x, y): os._exit(3)"),
    "endless": Kind(share=5, outcome=Outcome.TIMEOUT, source="def add(x, y):\n    while True: pass"),
    "forking": Kind(
        share=20,
        outcome=Outcome.RUNTIME_ERROR,
        source="import os\ndef add(x, y):\n    while True: os.fork()",
    ),
    "writing files": Kind(
        share=30,
        outcome=Outcome.PASSED,
        source="for n in range(20):\n    open(f'file {n}', 'w').write('x' * 5000)\ndef add(x, y): return x + y",
    ),
    "eating memory": Kind(
        share=10,
        outcome=Outcome.MEMORY_LIMIT,
        source="def add(x, y):\n    kept = []\n    while True: kept.append(bytearray(8 << 20))",
    ),
    "stdio, passing": Kind(share=90, outcome=Outcome.PASSED, source="print(sum(map(int, input().split())))", task=SUM),
    "stdio, failing": Kind(share=30, outcome=Outcome.WRONG_ANSWER, source="print(input())", task=SUM),
    "stdio, raising": Kind(share=10, outcome=Outcome.RUNTIME_ERROR, source="print(1 / 0)", task=SUM),
    "stdio, flooding": Kind(share=10, outcome=Outcome.WRONG_ANSWER, source="input()\nprint('x' * 200_000)", task=SUM),
}


def programs(seed: int) -> Iterator[tuple[Kind, str]]:
    """Yield programs without end, no two equal, every thousand of them with each kind's share."""
    generator = random.Random(seed)
    thousand = [kind for kind in KINDS.values() for _ in range(kind.share)]
    numbers = itertools.count()
    while True:
        generator.shuffle(thousand)
        for kind in thousand:
            yield kind, f"{kind.source}  # {next(numbers)}\n"


def judge_block(judge: Judge, block: list[tuple[Kind, str]]) -> Counter[str]:
    """Judge a block in one call; return how many programs of each kind ended otherwise than their kind does."""
    kinds = [[kind for kind, _ in block if kind.task is task] for task in (ADD, SUM)]
    texts = [[text for kind, text in block if kind.task is task] for task in (ADD, SUM)]
    verdicts = judge.run(list(zip((ADD, SUM), texts, strict=True)))
    unexpected: Counter[str] = Counter()
    for kind, verdict in zip(itertools.chain(*kinds), itertools.chain(*verdicts), strict=True):
        if not as_expected(kind, verdict):
            name = next(name for name, each in KINDS.items() if each is kind)
            unexpected[f"{name}: {verdict.outcomes[0]}, {verdict.message[:80]}"] += 1
    return unexpected


def as_expected(kind: Kind, verdict: Verdict) -> bool:
    """Return whether a program ended as its kind does."""
    return verdict.outcomes[0] is kind.outcome and verdict.accepted == (kind.outcome is Outcome.PASSED)


def sample(judge: Judge, directory: str) -> dict[str, int | None]:
    """Return what the idle judge occupies; a descriptor count is None where this user may not read it."""
    workers = judge.processes()
    children = descendants(os.getpid())
    rooms = [entries(f"/proc/{pid}/root/box/room") for pid in workers]
    opened = [entries(f"/proc/{pid}/fd") for pid in children]
    return {
        "host_resident_bytes": resident_bytes(os.getpid()),
        "worker_resident_bytes": sum(map(resident_bytes, children)),
        "host_descriptors": entries("/proc/self/fd"),
        "worker_descriptors": None if None in opened else sum(filter(None, opened)),
        "processes": len(children),
        "workers": len(workers),
        "temporary_entries": sum(len(folders) + len(files) for _, folders, files in os.walk(directory)),
        "entries_in_working_directories": None if None in rooms else sum(filter(None, rooms)),
    }


def compare(samples: list[dict[str, Any]], tolerance: float) -> dict[str, dict[str, Any]]:
    """Compare the first tenth of the samples with the last, figure by figure.

    Memory is flat when the median has grown by at most a share of `tolerance`. What is counted is flat when the last
    median is no more than the most that was seen first: a referee lets go of old channels when its garbage collector
    runs, so its descriptors vary by a few.
    """
    tenth = max(1, len(samples) // 10)
    compared = {}
    for name in samples[0]:
        first, last = ([each[name] for each in part] for part in (samples[:tenth], samples[-tenth:]))
        if None in first + last:
            compared[name] = {"flat": None}
            continue
        before, after = statistics.median(first), statistics.median(last)
        bound = before * (1 + tolerance) if name.endswith("bytes") else max(first)
        compared[name] = {"first_median": before, "last_median": after, "bound": bound, "flat": after <= bound}
    return compared


def soak(options: argparse.Namespace, directory: str) -> dict[str, Any]:
    """Judge all programs; return what was sampled and what it amounts to."""
    source = programs(options.seed)
    samples: list[dict[str, Any]] = []
    unexpected: Counter[str] = Counter()
    judged = 0
    with Judge(options.workers, options.isolation, LIMITS, cache_size=0) as judge:
        judge_block(judge, list(itertools.islice(source, options.warm_up)))
        cpu, started = tree_cpu_seconds(), time.perf_counter()
        while judged < options.programs:
            block = list(itertools.islice(source, min(options.every, options.programs - judged)))
            unexpected += judge_block(judge, block)
            judged += len(block)
            samples.append(sample(judge, directory))
            if len(samples) % 10 == 0:
                print(f"{judged} programs, {time.perf_counter() - started:.0f} s: {samples[-1]}", file=sys.stderr)
        seconds, used = time.perf_counter() - started, tree_cpu_seconds() - cpu
        isolation = judge.isolation
    left = {"processes": len(descendants(os.getpid())), "temporary_entries": entries(directory)}
    compared = compare(samples, options.tolerance)
    return {
        "environment": {**snapshot(), "workers": options.workers, "isolation": isolation, "seed": options.seed},
        "programs": judged,
        "shares_per_thousand": {name: kind.share for name, kind in KINDS.items()},
        "programs_per_second": round(judged / seconds, 1),
        "cpu_milliseconds_per_program": round(1000 * used / judged, 2),
        "unexpected_verdicts": dict(unexpected),
        "left_after_close": left,
        "compared": compared,
        "flat": all(each["flat"] is not False for each in compared.values()) and not any(left.values()),
        "programs_between_samples": options.every,
        "samples": {name: [each[name] for each in samples] for name in samples[0]},
    }


def parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--programs", type=int, default=100_000, help="programs judged after the warm-up")
    parser.add_argument("--warm-up", type=int, default=1000, help="programs judged before the first sample")
    parser.add_argument("--every", type=int, help="programs between samples; as many as make 200 samples by default")
    parser.add_argument("--tolerance", type=float, default=0.05, help="share by which memory may grow")
    parser.add_argument("--isolation", default="auto", help="isolation level of the judge")
    parser.add_argument("--workers", type=int, default=len(os.sched_getaffinity(0)), help="programs judged at once")
    parser.add_argument("--seed", type=int, default=0, help="for the order of the programs")
    parser.add_argument("--output", type=Path, help="JSON file to write")
    options = parser.parse_args(arguments)
    options.every = options.every or max(1, options.programs // 200)
    return options


def main(arguments: list[str] | None = None) -> None:
    """Run the soak from the command line."""
    options = parse(arguments)
    with tempfile.TemporaryDirectory() as directory:
        # Where the judge makes its directories, so that nobody else's are counted.
        tempfile.tempdir = directory
        result = soak(options, directory)
        tempfile.tempdir = None
    shown = {name: value for name, value in result.items() if name not in ("samples", "environment")}
    print(json.dumps(shown, indent=2))
    write_result(options.output, result)
    if not result["flat"] or result["unexpected_verdicts"]:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
