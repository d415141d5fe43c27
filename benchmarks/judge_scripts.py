"""Judge real scripts that read standard input against what was measured of them, test by test.

    python benchmarks/judge_scripts.py DATA [--only atcoder] [--output FILE.json]

DATA holds accepted programs of CodeContests, a model's and people's programs for AtCoder samples, and a model's for
APPS, each with the outcome of every test as measured elsewhere: one process per test, output compared token by token.
Prints a table, then every test judged otherwise.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from trl_pper import CodingTask, Judge, Limits, StdioTests
from trl_pper.files import read_rows
from trl_pper.tasks.task import StdioCase


@dataclass(frozen=True, kw_only=True)
class Script:
    """A program with its tests and, for each test, whether it passed before."""

    label: str
    program: str
    cases: tuple[StdioCase, ...]
    measured: tuple[bool, ...]


@dataclass(frozen=True, kw_only=True)
class Figures:
    """What came of one source."""

    source: str
    programs: int
    tests: int
    same_tests: int
    same_programs: int
    not_judged: int
    tests_per_second: float


def rows(path: Path) -> list[dict[str, Any]]:
    """Read a file of JSON lines; none when it is not there."""
    return [row for _, row in read_rows(path)] if path.exists() else []


def cases(tests: list[dict[str, Any]]) -> tuple[StdioCase, ...]:
    """Return the tests; outputs may be given as lists of lines."""
    return tuple(
        StdioCase(
            input=test["input"],
            output=test["output"] if isinstance(test["output"], str) else "\n".join(test["output"]),
        )
        for test in tests
    )


def code_contests(data: Path) -> Iterator[Script]:
    """Accepted solutions; those marked unclean have tests with several right answers."""
    for row in rows(data / "code_contests/codecontests_repo.dev.jsonl.gz"):
        measured = tuple(value == 1 for value in row["measured_tests"])
        yield Script(label=row["name"], program=row["solution"], cases=cases(row["tests"]), measured=measured)


def atcoder(data: Path) -> Iterator[Script]:
    """A model's programs and pairs of wrong and accepted submissions, on the samples of the statements."""
    tasks = {
        row["task_id"]: cases(row["sample_tests"]) for row in rows(data / "atcoder/lcb_atcoder_tasks.dev.jsonl.gz")
    }
    found = [
        (row["task_id"], row["program"], row["measured_samples"])
        for row in rows(data / "atcoder/lcb_o1-prev.dev.jsonl.gz")
    ]
    for row in rows(data / "atcoder/condefects_pairs.dev.jsonl.gz"):
        found += [(row["task_id"], row[kind], row[f"{kind}_samples"]) for kind in ("faulty", "correct")]
    for task_id, program, measured in found:
        if measured and len(measured) == len(tasks[task_id]):
            passed = tuple(value == 1 for value in measured)
            yield Script(label=task_id, program=program, cases=tasks[task_id], measured=passed)


def apps(data: Path) -> Iterator[Script]:
    """A model's programs for APPS tasks that read standard input."""
    tasks = {
        row["id"]: row["test_list"]
        for row in rows(data / "apps_mapcoder/selected150.dev.jsonl")
        if not row["starter_code"].strip()
    }
    for path in sorted(data.glob("apps_mapcoder/ChatGPT-*.jsonl")):
        for row in rows(path):
            tests = tasks.get(row["task_id"])
            if tests is not None and len(tests) == len(row["measured_tests"]):
                measured = tuple(value == 1 for value in row["measured_tests"])
                label = f"{path.stem} {row['task_id']}"
                yield Script(label=label, program=row["program"], cases=cases(tests), measured=measured)


SOURCES = {"code_contests": code_contests, "atcoder": atcoder, "apps": apps}


def compare(source: str, scripts: list[Script], judge: Judge) -> tuple[Figures, list[str]]:
    """Judge the scripts; return the figures and a line for each with a test that ended otherwise."""
    jobs = [
        (CodingTask(task_id=script.label, prompt="-", tests=StdioTests(cases=script.cases)), [script.program])
        for script in scripts
    ]
    started = time.perf_counter()
    verdicts = [verdict for [verdict] in judge.run(jobs)]
    seconds = time.perf_counter() - started
    lines, same_tests, same_programs, not_judged = [], 0, 0, 0
    for script, verdict in zip(scripts, verdicts, strict=True):
        passed = [outcome == "passed" for outcome in verdict.outcomes]
        other = [
            number for number, pair in enumerate(zip(passed, script.measured, strict=True), 1) if pair[0] != pair[1]
        ]
        same_tests += len(passed) - len(other)
        same_programs += not other
        not_judged += verdict.pass_rate is None
        if other:
            ended = [str(verdict.outcomes[number - 1]) for number in other]
            lines.append(f"{source} {script.label}: tests {other} ended {ended}; {verdict.message[:160]}")
    total = sum(len(script.cases) for script in scripts)
    figures = Figures(
        source=source,
        programs=len(scripts),
        tests=total,
        same_tests=same_tests,
        same_programs=same_programs,
        not_judged=not_judged,
        tests_per_second=round(total / seconds, 1),
    )
    return figures, lines


def main(arguments: list[str] | None = None) -> int:
    """Run all sources."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("--only", choices=SOURCES, nargs="+", default=list(SOURCES), help="sources to judge")
    parser.add_argument("--output", type=Path, default=None, help="JSON file for the figures")
    parser.add_argument("--cpu_seconds", type=float, default=6.0, help="CPU time per test")
    options = parser.parse_args(arguments)
    table = Table("source", "programs", "tests", "same tests", "same programs", "not judged", "tests/s")
    figures, differences = [], []
    with Judge(limits=Limits(cpu_seconds=options.cpu_seconds)) as judge:
        for name in options.only:
            scripts = list(SOURCES[name](options.data))
            if not scripts:
                print(f"{name}: nothing in {options.data}, skipped", file=sys.stderr)
                continue
            found, lines = compare(name, scripts, judge)
            figures.append(asdict(found))
            differences += lines
            table.add_row(*map(str, asdict(found).values()))
    Console(width=140).print(table)
    print(*differences, sep="\n")
    if options.output is not None:
        options.output.parent.mkdir(parents=True, exist_ok=True)
        options.output.write_text(json.dumps({"sources": figures, "differences": differences}, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
