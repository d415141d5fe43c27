"""Counts what `load_tasks` reads from samples of benchmarks, and judges the solutions that come with them.

    python benchmarks/tasks.py DATA --output benchmarks/results/tasks.json

DATA is a folder with the samples named in SAMPLES. Prints a table in Markdown: tasks, tests, malformed rows left out,
solutions and how many of them are accepted; `--output` writes the same with reasons and a snapshot of the machine.
"""

from __future__ import annotations

import argparse
import logging
import re
from collections import Counter
from pathlib import Path
from typing import Any

from environment import markdown, snapshot, write_result

from trl_pper import CodingTask, Judge, StdioTests, load_tasks
from trl_pper.tasks.tests import count_tests

SAMPLES = {
    "HumanEval": ("humaneval", "humaneval/HumanEval.dev.jsonl.gz"),
    "HumanEvalPack": ("humaneval", "nearmiss/humanevalpack_python.dev.jsonl"),
    "HumanEval+ (EvalPlus's file)": ("humaneval", "evalplus/HumanEvalPlus-Mini.dev.jsonl.gz"),
    "LeetCodeDataset": ("humaneval", "leetcode/LeetCodeDataset-v0.3.1-test.dev.jsonl.gz"),
    "MBPP": ("mbpp", "mbpp/mbpp.dev.jsonl"),
    "MBPP+": ("mbpp", "evalplus/MbppPlus-OriginFmt.dev.jsonl.gz"),
    "APPS, folders": ("apps", "apps_dirs/train"),
    "APPS, `test_list`": ("apps", "apps_mapcoder/selected150.dev.jsonl"),
    "CodeContests, `tests`": ("code_contests", "code_contests/codecontests_repo.dev.jsonl.gz"),
    "CodeContests, `test`": ("code_contests", "code_contests/sandboxfusion_code_contests.dev.jsonl"),
    "ClassEval": ("classeval", "classeval/classeval.dev.jsonl"),
}
COLUMNS = ("sample", "format", "tasks", "tests", "left_out", "solutions", "accepted")


def measure(name: str, data: Path, judge: Judge) -> dict[str, Any]:
    """Return the figures of one sample."""
    format, path = SAMPLES[name]
    errors: list[str] = []
    tasks = load_tasks(data / path, format=format, on_error="skip", errors=errors)
    solved = [task for task in tasks if task.reference is not None]
    verdicts = judge.run([(task, [str(task.reference)]) for task in solved])
    rejected = [task.task_id for task, [verdict] in zip(solved, verdicts, strict=True) if not verdict.accepted]
    reasons = Counter(re.sub(r"'.*", "...", error.partition(": ")[2]) for error in errors)
    return {
        "sample": name,
        "format": format,
        "tasks": len(tasks),
        "tests": sum(map(number_of_tests, tasks)),
        "left_out": len(errors),
        "solutions": len(solved),
        "accepted": len(solved) - len(rejected),
        "reasons": dict(reasons),
        "rejected": rejected,
    }


def number_of_tests(task: CodingTask) -> int:
    """Return how many tests the judge runs for a task."""
    return len(task.tests.cases) if isinstance(task.tests, StdioTests) else count_tests(task.tests.code)


def main() -> None:
    logging.getLogger("trl_pper").setLevel(logging.ERROR)
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path, help="folder of samples")
    parser.add_argument("--output", type=Path, default=None, help="JSON file to write")
    parser.add_argument("--workers", type=int, default=None, help="judging processes")
    options = parser.parse_args()
    with Judge(workers=options.workers) as judge:
        results = [measure(name, options.data, judge) for name in SAMPLES]
        isolation = judge.isolation
    print(markdown(results, COLUMNS))
    write_result(options.output, {"environment": snapshot(), "isolation": isolation, "samples": results})


if __name__ == "__main__":
    main()
