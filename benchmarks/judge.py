"""Measures how many programs per second the judge gets through, and what each costs in CPU time.

    python benchmarks/judge.py --programs 500 --output outputs/judge.json

The programs are tiny, so that the figure is the judge's own cost. Prints a summary; `--output` writes it as JSON with
a snapshot of the machine.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from pathlib import Path

from environment import snapshot

from trl_pper import CodingTask, FunctionTests, Judge, StdioTests
from trl_pper.task import StdioCase

TESTS = "\n".join(f"    assert candidate({n}, [{n}, 2, 3]) == {n + 5 + n}" for n in range(8))
FUNCTION = CodingTask(
    task_id="function",
    prompt="add",
    tests=FunctionTests(code=f"def check(candidate):\n{TESTS}\n\ncheck(add)\n", entry_point="add"),
)
STDIO = CodingTask(
    task_id="stdio",
    prompt="add",
    tests=StdioTests(cases=tuple(StdioCase(input=f"{n} 1\n", output=f"{n + 1}\n") for n in range(8))),
)
PROGRAMS = {
    "function": "def add(x: int, values: list[int]) -> int:\n    return x + sum(values)  # {n}\n",
    "stdio": "print(sum(map(int, input().split())))  # {n}\n",
}


def cpu_seconds() -> float:
    """Return the CPU seconds used so far by this process and the children it has waited for."""
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


def measure(kind: str, task: CodingTask, programs: int, workers: int) -> dict[str, float]:
    """Judge `programs` right programs; return rates and costs."""
    texts = [PROGRAMS[kind].format(n=n) for n in range(programs)]
    judge = Judge(workers=workers)
    judge.run([(task, texts[: 2 * workers])])
    cpu, start = cpu_seconds(), time.perf_counter()
    [verdicts] = judge.run([(task, texts)])
    seconds = time.perf_counter() - start
    # Only a worker that has ended is counted, with all it waited for.
    judge.close()
    if not all(verdict.accepted for verdict in verdicts):
        raise SystemExit(f"{kind}: a right program was not accepted: {next(v for v in verdicts if not v.accepted)}")
    tests = sum(verdict.total for verdict in verdicts)
    return {
        "programs": programs,
        "tests": tests,
        "programs_per_second": round(programs / seconds, 1),
        "tests_per_second": round(tests / seconds, 1),
        "cpu_milliseconds_per_program": round(1000 * (cpu_seconds() - cpu) / programs, 2),
        "candidate_cpu_milliseconds_per_program": round(1000 * sum(v.cpu_seconds for v in verdicts) / programs, 2),
    }


def main(arguments: list[str] | None = None) -> None:
    """Run the benchmark from the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--programs", type=int, default=300, help="programs judged for each kind of tests")
    parser.add_argument("--workers", type=int, default=len(os.sched_getaffinity(0)), help="programs judged at once")
    parser.add_argument("--output", type=Path, help="JSON file to write")
    options = parser.parse_args(arguments)
    result: dict[str, object] = {"environment": {**snapshot(), "workers": options.workers}}
    for kind, task in (("function", FUNCTION), ("stdio", STDIO)):
        result[kind] = measure(kind, task, options.programs, options.workers)
    text = json.dumps(result, indent=2)
    sys.stdout.write(text + "\n")
    if options.output is not None:
        options.output.parent.mkdir(parents=True, exist_ok=True)
        options.output.write_text(text + "\n")


if __name__ == "__main__":
    main()
