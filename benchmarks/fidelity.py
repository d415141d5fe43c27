"""Compares verdicts with those of plain CPython on real programs, on solutions of benchmarks and on small cases.

    python benchmarks/fidelity.py DATA [--every 1] [--output benchmarks/results/fidelity.json]

DATA is a folder with the samples of `tasks.py` and `judge_near_misses.py`, with `dumps/ldb_*`, with `classeval/` and
with `cases/*.jsonl`; what is missing is skipped. Three tables are printed: solutions accepted, and tasks by the way
their tests run; cases by kind; real programs, on which plain CPython runs program and tests in the same namespace, in
a process of the judge's jail. Disagreements are listed. `--output` writes the same as JSON.
"""

from __future__ import annotations

import argparse
import logging
import secrets
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from environment import markdown, snapshot, write_result
from judge_near_misses import SOURCES
from tasks import SAMPLES

from trl_pper import CodingTask, FunctionTests, Judge, Limits, StdioTests, Verdict, as_chat, load_tasks
from trl_pper.files import read_rows
from trl_pper.generation.extraction import extract
from trl_pper.tasks.syntax import with_preamble
from trl_pper.tasks.task import StdioCase

DUMPS = tuple(
    f"dumps/ldb_{name}_{model}.jsonl.gz"
    for name in ("humaneval", "mbpp")
    for model in ("codellama", "starcoder", "gpt-3.5-turbo-0613")
)
#: Of the tests of a program together, for plain CPython.
PLAIN_SECONDS = 30.0
LIMITS = Limits(cpu_seconds=4.0)

PLAIN = """\
import os, sys, types
module = sys.modules["solution"] = types.ModuleType("solution")
scope = vars(module)
output, sys.stdout = os.dup(1), open(os.devnull, "w")
exec(compile({program!r}, "program.py", "exec"), scope)
scope["__name__"], sys.modules["__main__"] = "__main__", module
exec(compile({setup!r}, "setup.py", "exec"), scope)
exec(compile({code!r}, "tests.py", "exec"), scope)
if {collects!r}:
    import unittest
    suite = unittest.defaultTestLoader.loadTestsFromModule(module)
    assert unittest.TextTestRunner(stream=sys.stdout).run(suite).wasSuccessful()
os.write(output, {token!r})
"""


def plain_job(task: CodingTask, program: str) -> tuple[CodingTask, list[str]]:
    """Return a job that accepts a program if plain CPython comes to the end of its tests without an exception."""
    tests = task.tests
    assert isinstance(tests, FunctionTests)
    # A program cannot print what it does not know.
    token = secrets.token_hex(16)
    text = PLAIN.format(
        program=with_preamble(program, task.preamble),
        setup=tests.setup,
        code=tests.code,
        collects="TestCase" in tests.code,
        token=token.encode(),
    )
    cases = (StdioCase(input="", output=token),)
    plain = CodingTask(
        task_id=task.task_id, prompt="-", tests=StdioTests(cases=cases, compare="exact"), cpu_seconds=PLAIN_SECONDS
    )
    return plain, [text]


def references(data: Path, judge: Judge) -> Iterator[dict[str, Any]]:
    """Yield for each sample the solutions that are accepted, and the way in which the tests run."""
    samples = {**SAMPLES, "ClassEval": ("classeval", "classeval/classeval.dev.jsonl")}
    for name, (format, path) in samples.items():
        if not (data / path).exists():
            continue
        tasks = load_tasks(data / path, format=format, on_error="skip")
        solved = [task for task in tasks if task.reference is not None]
        verdicts = [verdict for [verdict] in judge.run([(task, [str(task.reference)]) for task in solved])]
        # A task without a solution is judged on a program that fails, for the way alone.
        others = [task for task in tasks if task.reference is None]
        ways = [*verdicts, *(verdict for [verdict] in judge.run([(task, ["x"]) for task in others]))]
        rejected = [
            f"{task.task_id}: {verdict.message[:120]}"
            for task, verdict in zip(solved, verdicts, strict=True)
            if not verdict.accepted
        ]
        yield {
            "sample": name,
            "tasks": len(tasks),
            "separate": sum(verdict.run == "separate" for verdict in ways),
            "shared": sum(verdict.run == "shared" for verdict in ways),
            "solutions": len(solved),
            "accepted": len(solved) - len(rejected),
            "rejected": rejected,
        }


def cases(data: Path, judge: Judge) -> Iterator[dict[str, Any]]:
    """Yield for each file of cases and each kind how many verdicts are acceptable."""
    for path in sorted((data / "cases").glob("*.jsonl")):
        kinds: dict[str, list[str]] = defaultdict(list)
        total: dict[str, int] = defaultdict(int)
        for _, row in read_rows(path):
            found, message = case_rate(row, judge)
            total[row["kind"]] += 1
            if not any(found == one or (is_near(found, one)) for one in row["acceptable"]):
                kinds[row["kind"]].append(f"{row['id']}: acceptable {row['acceptable']}, got {found}: {message[:120]}")
        for kind, number in sorted(total.items()):
            yield {
                "file": path.name.split(".")[0],
                "kind": kind,
                "cases": number,
                "acceptable": number - len(kinds[kind]),
                "others": kinds[kind],
            }


def is_near(one: object, other: object) -> bool:
    return isinstance(one, float) and isinstance(other, float) and abs(one - other) < 1e-6


def case_rate(row: dict[str, Any], judge: Judge) -> tuple[object, str]:
    """Return the pass rate of a case, or "LOADERR" for a task that is refused, and a message."""
    try:
        [task] = load_tasks([row["task"]], row["format"])
        [task] = as_chat([task]) if row["chat"] else [task]
    except ValueError as error:
        return "LOADERR", str(error)
    text = row["program"]
    if row["what"] == "completion":
        text = extract(text, prompt=task.prompt, entry_point=task.entry_point).program
    [[verdict]] = judge.run([(task, [text])])
    return verdict.pass_rate, verdict.message


def real_programs(data: Path, every: int) -> Iterator[tuple[str, list[tuple[CodingTask, str]]]]:
    """Yield pairs of a task with function tests and a real program, by source."""
    for name, source in SOURCES.items():
        pairs = [(task, program.text) for task, programs in source(data) for program in programs]
        yield name, [pair for pair in pairs if isinstance(pair[0].tests, FunctionTests)][::every]
    for path in DUMPS:
        if (data / path).exists():
            rows = [row for _, row in read_rows(data / path)]
            tests = [FunctionTests(code=row["test"]) for row in rows]
            yield (
                path.split("/")[-1].split(".")[0],
                [
                    (CodingTask(task_id=str(row["task_id"]), prompt="-", tests=each), row["program"])
                    for row, each in zip(rows, tests, strict=True)
                ][::every],
            )


def compare(data: Path, judge: Judge, every: int) -> Iterator[dict[str, Any]]:
    """Yield for each source of real programs how often the judge and plain CPython agree on accepting them."""
    for name, pairs in real_programs(data, every):
        if not pairs:
            continue
        ours = judge.run_pairs(pairs)
        plain = [verdict for [verdict] in judge.run([plain_job(*pair) for pair in pairs])]
        differences = [
            f"{task.task_id}: {'accepted' if one.accepted else said(one)}; "
            f"plain CPython {'passes' if other.accepted else said(other)}"
            for (task, _), one, other in zip(pairs, ours, plain, strict=True)
            if one.accepted != other.accepted
        ]
        yield {
            "source": name,
            "programs": len(pairs),
            "shared": sum(verdict.run == "shared" for verdict in ours),
            "plain_passes": sum(verdict.accepted for verdict in plain),
            "accepted": sum(verdict.accepted for verdict in ours),
            "unjudged": sum(verdict.pass_rate is None for verdict in ours),
            "differences": len(differences),
            "listed": differences,
        }


def said(verdict: Verdict) -> str:
    """Return why a program was not accepted."""
    outcome = next((each for each in verdict.outcomes if each != "passed"), "")
    return f"{outcome} ({' '.join(verdict.message.split())[:120]})"


def main() -> None:
    logging.getLogger("trl_pper").setLevel(logging.ERROR)
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path, help="folder of samples")
    parser.add_argument("--every", type=int, default=1, help="compare every so many real programs only")
    parser.add_argument("--output", type=Path, default=None, help="JSON file to write")
    parser.add_argument("--workers", type=int, default=None, help="judging processes")
    options = parser.parse_args()
    with Judge(workers=options.workers, limits=LIMITS) as judge:
        found = {
            "references": list(references(options.data, judge)),
            "cases": list(cases(options.data, judge)),
            "real_programs": list(compare(options.data, judge, options.every)),
        }
        isolation = judge.isolation
    print(markdown(found["references"], ("sample", "tasks", "separate", "shared", "solutions", "accepted")), "\n")
    print(markdown(found["cases"], ("file", "kind", "cases", "acceptable")), "\n")
    columns = ("source", "programs", "shared", "plain_passes", "accepted", "unjudged", "differences")
    print(markdown(found["real_programs"], columns), "\n")
    for rows, key in (("references", "rejected"), ("cases", "others"), ("real_programs", "listed")):
        for row in found[rows]:
            print(*(f"- {line}" for line in row[key]), sep="\n", end="\n" if row[key] else "")
    write_result(options.output, {"environment": snapshot(), "isolation": isolation, **found})


if __name__ == "__main__":
    main()
