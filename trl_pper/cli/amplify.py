"""Run `trl-pper amplify`: add tests to tasks, and count the programs that the new tests expose.

Every file is read and checked before the first program runs.
"""

from __future__ import annotations

import argparse
import json
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from trl_pper.amplify.tasks import AmplifiedTask, Exposure, amplify_tasks, check_options, expose
from trl_pper.cli.judge import make_judge, read_programs
from trl_pper.cli.sources import read_given_tasks
from trl_pper.files import atomic_file
from trl_pper.tasks.loading import write_tasks
from trl_pper.tasks.task import CodingTask, StdioTests
from trl_pper.tasks.tests import count_tests


def amplify_file(options: argparse.Namespace, *, console: Console | None = None) -> int:
    """Run the command; return its exit code.

    Raises:
        ValueError: A file or an option is wrong; nothing has run then.
    """
    tasks = read_given_tasks(options.tasks, options)
    # Rows of both files are checked against the tasks, before anything runs.
    programs = _by_task(options.programs, tasks)
    references = _by_task(options.references, tasks)
    # An option that is wrong is refused here, before the judge starts.
    check_options(tasks, options.new_tests, options.seed, references)
    started = time.perf_counter()
    with make_judge(options) as judge:
        amplified = amplify_tasks(tasks, judge, new_tests=options.new_tests, seed=options.seed, references=references)
        # Written first: the work is not lost if judging the programs fails.
        write_tasks(options.output, [one.task for one in amplified])
        per_task = [programs.get(task.task_id, []) for task in tasks]
        exposures = expose(tasks, amplified, per_task, judge) if options.programs else []
    settings = {"new_tests": options.new_tests, "seed": options.seed}
    report = amplify_report(tasks, amplified, exposures) | settings | {"seconds": time.perf_counter() - started}
    show(report, console or Console())
    if options.report is not None:
        with atomic_file(options.report) as file:
            file.write((json.dumps(report, indent=2) + "\n").encode())
    (console or Console()).print(f"{len(tasks)} tasks: {options.output}", soft_wrap=True)
    return 0


def amplify_report(
    before: Sequence[CodingTask], amplified: Sequence[AmplifiedTask], exposures: Sequence[Exposure] = ()
) -> dict[str, Any]:
    """Return the report as plain values: numbers over all tasks, and under "per_task" for each task.

    Args:
        before: The tasks as they were.
        amplified: The tasks with their new tests, in the same order.
        exposures: The verdicts of the new tests on programs, in the same order; empty if no programs were given.
    """
    rows: list[dict[str, Any]] = []
    for index, (task, one) in enumerate(zip(before, amplified, strict=True)):
        row = {"task_id": task.task_id, "tests_before": number_of_tests(task), "tests_added": one.added_tests}
        row |= {"reason": one.reason, "inputs_tried": one.tried, "inputs_dropped": dict(one.dropped)}
        if exposures:
            found = exposures[index]
            row |= {"programs": found.programs, "passed_before": found.passed_before}
            row |= {"exposed": found.exposed, "unjudged": found.unjudged}
        rows.append(row)
    dropped = sum((Counter(one.dropped) for one in amplified), Counter[str]())
    report: dict[str, Any] = {
        "tasks": len(rows),
        "amplified": sum(one.added_tests > 0 for one in amplified),
        "left_alone": dict(Counter(one.reason for one in amplified if one.reason).most_common()),
        "tests_before": sum(row["tests_before"] for row in rows),
        "tests_added": sum(row["tests_added"] for row in rows),
        "inputs_tried": sum(row["inputs_tried"] for row in rows),
        "inputs_dropped": dict(dropped.most_common()),
    }
    if exposures:
        passed = [one for one in exposures if one.passed_before]
        affected = sum(one.exposed > 0 for one in passed)
        report |= {
            name: sum(row[name] for row in rows) for name in ("programs", "passed_before", "exposed", "unjudged")
        }
        report |= {"tasks_affected": affected, "share_of_tasks_affected": affected / len(passed) if passed else None}
    return report | {"per_task": rows}


def number_of_tests(task: CodingTask) -> int:
    """Return how many tests the judge runs for a task."""
    return len(task.tests.cases) if isinstance(task.tests, StdioTests) else count_tests(task.tests.code)


def show(report: Mapping[str, Any], console: Console) -> None:
    """Print the numbers of a report as tables."""
    table = Table("tasks", "number", title="Tests added")
    table.add_row("amplified", str(report["amplified"]))
    for reason, number in report["left_alone"].items():
        table.add_row(f"left alone: {reason}", str(number))
    table.add_section()
    table.add_row("tests before", str(report["tests_before"]))
    table.add_row("tests added", str(report["tests_added"]))
    table.add_row("inputs tried", str(report["inputs_tried"]))
    for reason, number in report["inputs_dropped"].items():
        table.add_row(f"inputs dropped: {reason}", str(number))
    if "exposed" in report:
        table.add_section()
        table.add_row("programs that passed before", f"{report['passed_before']} of {report['programs']}")
        table.add_row("exposed by the new tests", str(report["exposed"]))
        table.add_row("not judged by the new tests", str(report["unjudged"]))
        share = report["share_of_tasks_affected"]
        table.add_row(
            "tasks affected", f"{report['tasks_affected']}" + (f" ({share:.0%})" if share is not None else "")
        )
    console.print(table)
    exposing = [row for row in report["per_task"] if row.get("exposed")]
    if exposing:
        tasks = Table("task", "passed before", "exposed", title="Tasks with exposed programs")
        for row in exposing:
            tasks.add_row(row["task_id"], str(row["passed_before"]), str(row["exposed"]))
        console.print(tasks)


def _by_task(path: Path | None, tasks: Sequence[CodingTask]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for row in read_programs(path, tasks) if path is not None else []:
        found.setdefault(row.task.task_id, []).append(row.program)
    return found
