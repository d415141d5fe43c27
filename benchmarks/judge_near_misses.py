"""Judge programs that are right and programs that are nearly right against what is known of them.

    python benchmarks/judge_near_misses.py DATA [--only quixbugs] [--output FILE.json]

DATA is a folder with `nearmiss/` (quixbugs, humanevalpack, refactory, leak_pairs), `leetcode/*.jsonl.gz`,
`evalplus/MbppPlus*.jsonl.gz`, `cruxeval/*.jsonl` and `apps_dirs/`; what is missing is skipped by name. A solution must
pass every test or be unsupported, a buggy program must fail one, a program with a measured pass rate must have it.
Differences that are known, with their reason, are counted apart; any other ends the run with exit code 1.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from trl_pper import CodingTask, FunctionTests, Judge, Limits, Verdict
from trl_pper.files import read_rows

_FALSE_IS_ZERO = "it returns False where 0 is expected, which an assert takes for equal and the measurement did not"
#: Why a verdict may differ from what is expected, by the label of the program.
EXPLAINED = {
    "correct_1_101.py": _FALSE_IS_ZERO,
    "wrong_1_048.py": _FALSE_IS_ZERO,
    "find-the-number-of-subsequences-with-equal-gcd": "one test takes the solution about ten seconds of CPU time",
}


@dataclass(frozen=True, kw_only=True)
class Program:
    """A program with what is known of it: "passes", "fails", or its pass rate."""

    label: str
    text: str
    expected: str | float


@dataclass(frozen=True, kw_only=True)
class Figures:
    """How the verdicts on one source compare with what is known."""

    source: str
    programs: int
    as_expected: int
    unsupported: int
    explained: int
    unexplained: int
    programs_per_second: float


Job = tuple[CodingTask, list[Program]]


def rows_of(pattern: Path) -> list[dict[str, Any]]:
    """Return the rows of the files that match; none of them is told apart."""
    return [row for path in sorted(pattern.parent.glob(pattern.name)) for _, row in read_rows(path)]


def function_task(task_id: str, code: str, entry_point: str | None = None, setup: str = "") -> CodingTask:
    tests = FunctionTests(code=code, entry_point=entry_point, setup=setup)
    return CodingTask(task_id=task_id, prompt="-", tests=tests)


def pair(task: CodingTask, solution: str, buggy: str) -> Job:
    programs = [
        Program(label=f"{task.task_id} {expected}", text=text, expected=expected)
        for text, expected in ((solution, "passes"), (buggy, "fails"))
    ]
    return task, programs


def quixbugs(data: Path) -> Iterator[Job]:
    """Algorithms with a bug in one line; some take graphs of nodes whose class the tests define."""
    for row in rows_of(data / "nearmiss/quixbugs_python*.jsonl"):
        yield pair(function_task(row["name"], row["tests"]), row["solution"], row["buggy_program"])


def humanevalpack(data: Path) -> Iterator[Job]:
    """HumanEval with a bug written by hand."""
    for row in rows_of(data / "nearmiss/humanevalpack_python*.jsonl"):
        task = function_task(row["task_id"], row["test"], row["entry_point"])
        yield pair(task, row["declaration"] + row["canonical_solution"], row["declaration"] + row["buggy_solution"])


def refactory(data: Path) -> Iterator[Job]:
    """Programs of students, with the pass rate measured in one process per program."""
    programs = rows_of(data / "nearmiss/refactory_programs*.jsonl.gz")
    for task in rows_of(data / "nearmiss/refactory_tasks*.jsonl"):
        code = "\n".join(f"assert {test['call']} == {test['expected']}" for test in task["tests"])
        texts = [
            Program(
                label=row["name"],
                text=task["prelude"] + row["program"],
                expected=row["measured"].count(1) / row["n_tests"],
            )
            for row in programs
            if row["question"] == task["question"]
        ]
        name = task["tests"][0]["call"].split("(")[0]
        yield function_task(f"refactory {task['question']}", code, name), texts


def leak_pairs(data: Path) -> Iterator[Job]:
    """A program that redefines a builtin, then one that uses it, in the same worker."""
    for row in rows_of(data / "nearmiss/leak_pairs*.jsonl"):
        for who, expected in (("polluter", "fails"), ("victim", "passes")):
            task = function_task(f"{row['victim_task']} {who}", row[f"{who}_test"])
            yield task, [Program(label=task.task_id, text=row[who], expected=expected)]


def leetcode(data: Path) -> Iterator[Job]:
    """Methods of a `Solution` class; lists and trees come as instances of classes that the prompt defines."""
    for row in rows_of(data / "leetcode/*.jsonl.gz"):
        code = f"{row['test']}\n\ncheck({row['entry_point']})\n"
        task = function_task(row["task_id"], code, row["entry_point"], row["prompt"])
        text = f"{row['prompt']}\n{row['completion']}"
        yield task, [Program(label=row["task_id"], text=text, expected="passes")]


def mbpp_plus(data: Path) -> Iterator[Job]:
    """Scripts of some hundred inputs, with a comparison of their own that uses numpy."""
    for row in rows_of(data / "evalplus/MbppPlus*.jsonl.gz"):
        # The last line reads `assertion(NAME(*inp), exp, 0)`; a few of the names are those of builtins.
        [name] = re.findall(r"assertion\((\w+)\(", row["test"].splitlines()[-1])
        task = function_task(f"MbppPlus/{row['task_id']}", row["test"], name)
        yield task, [Program(label=task.task_id, text=row["code"], expected="passes")]


def cruxeval(data: Path) -> Iterator[Job]:
    """One call of a tiny function each, right and with another value expected."""
    for row in rows_of(data / "cruxeval/*.jsonl"):
        for label, output, expected in (("", row["output"], "passes"), (" wrong", f"[{row['output']}]", "fails")):
            task = function_task(f"cruxeval/{row['id']}{label}", f"assert f({row['input']}) == {output}", "f")
            yield task, [Program(label=task.task_id, text=row["code"], expected=expected)]


def apps_calls(data: Path) -> Iterator[Job]:
    """Problems of APPS that name a function, with solutions and programs of a model."""
    header = "from typing import *\n"
    for path in sorted((data / "apps_dirs").glob("*/*/input_output.json")):
        cases = json.loads(path.read_text())
        if "fn_name" not in cases:
            continue
        in_class = "class Solution" in path.with_name("starter_code.py").read_text()
        name = f"Solution().{cases['fn_name']}" if in_class else cases["fn_name"]
        asserts = [
            f"assert {name}(*{arguments!r}) == {output!r}"
            for arguments, output in zip(cases["inputs"], cases["outputs"], strict=True)
        ]
        task = function_task(f"APPS/{path.parent.name}", "\n".join(asserts), name)
        solutions = json.loads(path.with_name("solutions.json").read_text())
        programs = [
            Program(label=f"{task.task_id} solution {i}", text=header + text, expected="passes")
            for i, text in enumerate(solutions)
        ]
        for i, row in enumerate(json.loads(path.with_name("gen_solutions.json").read_text())):
            expected = "passes" if row["result"] is True else "fails"
            programs.append(
                Program(label=f"{task.task_id} generated {i}", text=header + row["code"], expected=expected)
            )
        yield task, programs


SOURCES: dict[str, Callable[[Path], Iterator[Job]]] = {
    "quixbugs": quixbugs,
    "humanevalpack": humanevalpack,
    "refactory": refactory,
    "leak_pairs": leak_pairs,
    "leetcode": leetcode,
    "mbpp_plus": mbpp_plus,
    "cruxeval": cruxeval,
    "apps_calls": apps_calls,
}


def is_as_expected(verdict: Verdict, expected: str | float) -> bool:
    """Whether a verdict is what is known of its program; "unsupported" is the caller's to count."""
    if expected == "passes":
        return verdict.accepted
    if expected == "fails":
        return verdict.pass_rate is not None and not verdict.accepted
    return verdict.pass_rate is not None and abs(verdict.pass_rate - float(expected)) < 1e-6


def is_unsupported(verdict: Verdict) -> bool:
    """Whether the judge declined, which is no verdict on the program."""
    return verdict.pass_rate is None and {str(o) for o in verdict.outcomes} <= {"unsupported", "passed", "not_run"}


def judge_for(source: str, *, workers: int | None = None, cpu_seconds: float = 10.0) -> Judge:
    """Return a judge for one source."""
    if source == "leak_pairs":
        # Neighbours share a worker where one must not leak into the next.
        workers = 1
    if source == "refactory":
        # Its rates were measured with three seconds for each test, and every test was run.
        return Judge(workers=workers, limits=Limits(cpu_seconds=min(cpu_seconds, 3.0), max_timeouts=100))
    return Judge(workers=workers, limits=Limits(cpu_seconds=cpu_seconds))


def compare(source: str, jobs: list[Job], judge: Judge) -> tuple[Figures, list[str]]:
    """Judge the jobs; return the figures and a line for each program judged otherwise than expected."""
    started = time.perf_counter()
    verdicts = judge.run([(task, [program.text for program in programs]) for task, programs in jobs])
    seconds = time.perf_counter() - started
    rows = [
        (program, verdict)
        for (_, programs), judged in zip(jobs, verdicts, strict=True)
        for program, verdict in zip(programs, judged, strict=True)
    ]
    other = [row for row in rows if not is_as_expected(row[1], row[0].expected)]
    declined = [row for row in other if is_unsupported(row[1])]
    strange = [row for row in other if not is_unsupported(row[1])]
    explained = [row for row in strange if row[0].label in EXPLAINED]
    lines = [
        f"{source} {program.label}: {program.expected} expected, {verdict.pass_rate} here;"
        f" {EXPLAINED.get(program.label, verdict.message)[:300]}"
        for program, verdict in other
    ]
    figures = Figures(
        source=source,
        programs=len(rows),
        as_expected=len(rows) - len(other),
        unsupported=len(declined),
        explained=len(explained),
        unexplained=len(strange) - len(explained),
        programs_per_second=round(len(rows) / seconds, 1),
    )
    return figures, lines


def main(arguments: list[str] | None = None) -> int:
    """Run all sources; return 1 when a verdict differs without a reason."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("--only", choices=SOURCES, nargs="+", default=list(SOURCES), help="sources to judge")
    parser.add_argument("--output", type=Path, default=None, help="JSON file for the figures")
    parser.add_argument("--workers", type=int, default=None, help="programs judged at once")
    parser.add_argument("--cpu_seconds", type=float, default=10.0, help="CPU time per test")
    options = parser.parse_args(arguments)
    table = Table("source", "programs", "as expected", "unsupported", "explained", "unexplained", "programs/s")
    figures, differences = [], []
    for name in options.only:
        jobs = list(SOURCES[name](options.data))
        if not jobs:
            print(f"{name}: nothing in {options.data}, skipped", file=sys.stderr)
            continue
        with judge_for(name, workers=options.workers, cpu_seconds=options.cpu_seconds) as judge:
            found, lines = compare(name, jobs, judge)
        figures.append(found)
        differences += lines
        table.add_row(*map(str, asdict(found).values()))
    Console(width=140).print(table)
    print(*differences, sep="\n")
    if options.output is not None:
        options.output.parent.mkdir(parents=True, exist_ok=True)
        content = {"sources": [asdict(found) for found in figures], "differences": differences}
        options.output.write_text(json.dumps(content, indent=2) + "\n")
    return int(any(found.unexplained for found in figures))


if __name__ == "__main__":
    sys.exit(main())
