"""Judge real programs (HumanEval and MBPP references, programs of models) against verdicts measured before.

    python benchmarks/judge_real_programs.py DATA [--output FILE.json] [--programs_per_task 100]

DATA is a folder with `humaneval/HumanEval*.jsonl.gz`, `mbpp/*.jsonl`, `dumps/ldb_*.jsonl.gz` (rows with program, test
and measured_vector) and `dumps/codet_*.jsonl.gz` (rows with completions and measured_n_pass); what is missing is
skipped by name.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

from trl_pper import CodingTask, FunctionTests, Judge, Limits, Verdict, load_tasks
from trl_pper.files import read_rows
from trl_pper.generation.extraction import extract_program

Job = tuple[CodingTask, list[str], list[float | None]]


@dataclass(frozen=True, kw_only=True)
class Agreement:
    """How the verdicts on one file compare with what was measured before."""

    file: str
    programs: int
    accepted: int
    not_judged: int
    compared: int
    same_verdict: int
    same_pass_rate: int
    programs_per_second: float


def humaneval_references(path: Path) -> Iterator[Job]:
    """Every reference must pass."""
    solutions = {row["task_id"]: row["canonical_solution"] for _, row in read_rows(path)}
    for task in load_tasks(path):
        yield task, [f"{task.prompt}{solutions[task.task_id]}"], [1.0]


def mbpp_references(path: Path) -> Iterator[Job]:
    """Every reference must pass."""
    solutions = [row["code"] for _, row in read_rows(path)]
    for task, solution in zip(load_tasks(path), solutions, strict=True):
        yield task, [solution], [1.0]


def model_programs(path: Path) -> Iterator[Job]:
    """One program a task, each with a test script that calls itself."""
    for _, row in read_rows(path):
        task = CodingTask(task_id=row["task_id"], prompt="-", tests=FunctionTests(code=row["test"]))
        yield task, [row["program"]], [row["measured_pass_rate"]]


def sampled_completions(path: Path, limit: int) -> Iterator[Job]:
    """Many completions a task, with how many tests each passed."""
    rows = [row for _, row in read_rows(path)]
    for task, row in zip(load_tasks(rows, format="humaneval"), rows, strict=True):
        texts = row["completions"][:limit]
        programs = [extract_program(text, prompt=task.prompt, entry_point=task.entry_point) for text in texts]
        yield task, programs, [passed / row["n_tests"] for passed in row["measured_n_pass"][:limit]]


def compare(name: str, jobs: list[Job], judge: Judge) -> tuple[Agreement, list[str]]:
    """Judge the jobs; return the figures and a line for each program judged otherwise than before."""
    started = time.perf_counter()
    verdicts = judge.run([(task, programs) for task, programs, _ in jobs])
    seconds = time.perf_counter() - started
    rows: list[tuple[str, Verdict, float | None]] = [
        (f"{task.task_id}[{i}]", verdict, expected)
        for (task, _, measured), judged in zip(jobs, verdicts, strict=True)
        for i, (verdict, expected) in enumerate(zip(judged, measured, strict=True))
    ]
    known = [row for row in rows if row[2] is not None]
    other = [row for row in known if (row[1].pass_rate == 1.0) != (row[2] == 1.0)]
    figures = Agreement(
        file=name,
        programs=len(rows),
        accepted=sum(verdict.accepted for _, verdict, _ in rows),
        not_judged=sum(verdict.pass_rate is None for _, verdict, _ in rows),
        compared=len(known),
        same_verdict=len(known) - len(other),
        same_pass_rate=sum(
            verdict.pass_rate is not None and abs(verdict.pass_rate - (expected or 0.0)) < 1e-3
            for _, verdict, expected in known
        ),
        programs_per_second=round(len(rows) / seconds, 1),
    )
    return figures, [f"{name} {label}: {v.pass_rate} here, {e} before; {v.message[:150]}" for label, v, e in other]


def all_jobs(data: Path, limit: int) -> Iterator[tuple[str, list[Job]]]:
    """Yield (file name, jobs) for every file of the folder that is known."""
    known = {
        "humaneval/HumanEval*.jsonl.gz": humaneval_references,
        "mbpp/*.jsonl": mbpp_references,
        "dumps/ldb_*.jsonl.gz": model_programs,
        "dumps/codet_*.jsonl.gz": lambda path: sampled_completions(path, limit),
    }
    for pattern, read in known.items():
        paths = sorted(data.glob(pattern))
        if not paths:
            print(f"{data / pattern}: no such file, skipped", file=sys.stderr)
        for path in paths:
            yield path.name, list(read(path))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("--output", type=Path, default=None, help="JSON file for the figures")
    parser.add_argument("--programs_per_task", type=int, default=100, help="completions judged per task")
    parser.add_argument("--cpu_seconds", type=float, default=10.0, help="CPU time per test")
    options = parser.parse_args()
    table = Table("file", "programs", "accepted", "not judged", "same verdict", "same pass rate", "programs/s")
    figures, differences = [], []
    with Judge(limits=Limits(cpu_seconds=options.cpu_seconds)) as judge:
        for name, jobs in all_jobs(options.data, options.programs_per_task):
            found, lines = compare(name, jobs, judge)
            figures.append(asdict(found))
            differences += lines
            same = f"{found.same_verdict}/{found.compared}"
            rates = f"{found.same_pass_rate}/{found.compared}"
            table.add_row(
                name, str(found.programs), str(found.accepted), str(found.not_judged), same, rates,
                str(found.programs_per_second),
            )  # fmt: skip
        isolation = judge.isolation
    Console(width=140).print(table)
    print(*differences, sep="\n")
    if options.output is not None:
        options.output.parent.mkdir(parents=True, exist_ok=True)
        content = {"isolation": isolation, "files": figures, "differences": differences}
        options.output.write_text(json.dumps(content, indent=2) + "\n")


if __name__ == "__main__":
    main()
