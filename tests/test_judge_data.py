"""The judge on real benchmark problems and real programs, where they lie next to the checkout."""

from __future__ import annotations

import gzip
import json
import os
from pathlib import Path
from typing import Any

import pytest

from trl_pper import CodingTask, FunctionTests, Judge

#: A buggy program that computes a huge power instead of failing.
SLOW = ("Python/160",)
DATA = Path(__file__).parents[2] / "shared" / "data"


@pytest.fixture(scope="module")
def judge():
    if not DATA.is_dir():
        if os.environ.get("CI") == "true":
            pytest.fail(f"CI needs the benchmark data; {DATA} is absent")
        pytest.skip(f"benchmark data not found at {DATA}")
    with Judge() as judge:
        yield judge


def rows_of(name: str) -> list[dict[str, Any]]:
    path = DATA / name
    data = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    return [json.loads(line) for line in data.split(b"\n") if line]


def task_of(task_id: str, code: str, entry_point: str | None = None, setup: str = "") -> CodingTask:
    tests = FunctionTests(code=code, entry_point=entry_point, setup=setup)
    return CodingTask(task_id=task_id, prompt="p", tests=tests)


def humaneval_task(row: dict[str, Any]) -> CodingTask:
    return task_of(row["task_id"], f"{row['test']}\ncheck({row['entry_point']})\n", row["entry_point"])


def test_all_humaneval_references_pass(judge):
    rows = rows_of("humaneval/HumanEval.dev.jsonl.gz")
    verdicts = judge.run([(humaneval_task(row), [row["prompt"] + row["canonical_solution"]]) for row in rows])
    assert len(rows) == 82
    assert [row["task_id"] for row, [verdict] in zip(rows, verdicts, strict=True) if not verdict.accepted] == []


@pytest.mark.slow
def test_all_mbpp_references_pass(judge):
    rows = rows_of("mbpp/mbpp.dev.jsonl")
    tasks = [
        task_of(f"MBPP/{row['task_id']}", "\n".join(row["test_list"]), None, row["test_setup_code"]) for row in rows
    ]
    verdicts = judge.run([(task, [row["code"]]) for task, row in zip(tasks, rows, strict=True)])
    assert len(rows) == 487
    assert [task.task_id for task, [verdict] in zip(tasks, verdicts, strict=True) if not verdict.accepted] == []


def test_mbpp_functions_called_check_are_judged(judge):
    rows = [row for row in rows_of("mbpp/mbpp.dev.jsonl") if row["task_id"] in (56, 126, 349, 899, 967)]
    tasks = [task_of(str(row["task_id"]), "\n".join(row["test_list"])) for row in rows]
    wrong = "def check(*args): return 'no'\nsum = check"
    verdicts = judge.run([(task, [row["code"], wrong]) for task, row in zip(tasks, rows, strict=True)])
    assert rows
    assert [(good.pass_rate, bad.pass_rate) for good, bad in verdicts] == [(1.0, 0.0)] * len(rows)


def test_a_polluter_does_not_change_its_neighbours_verdict():
    if not DATA.is_dir():
        pytest.skip(f"benchmark data not found at {DATA}")
    with Judge(workers=1) as judge:
        for row in rows_of("nearmiss/leak_pairs.dev.jsonl"):
            jobs = [(task_of(who, row[f"{who}_test"]), [row[who]]) for who in ("polluter", "victim")]
            assert judge.run(jobs)[1][0].accepted


@pytest.mark.slow
def test_buggy_programs_fail_a_test_and_their_solutions_pass(judge):
    rows = rows_of("nearmiss/humanevalpack_python.dev.jsonl")
    jobs = [
        (
            task_of(row["task_id"], row["test"], row["entry_point"]),
            [row["declaration"] + row[kind] for kind in ("canonical_solution", "buggy_solution")],
        )
        for row in rows
        if row["failure_symptoms"] == "incorrect output" and row["task_id"] not in SLOW
    ]
    verdicts = judge.run(jobs)
    assert len(jobs) > 70
    assert [good.accepted and bad.pass_rate is not None and not bad.accepted for good, bad in verdicts] == [
        True
    ] * len(jobs)


@pytest.mark.slow
def test_verdicts_agree_with_measured_ones(judge):
    rows = rows_of("dumps/ldb_humaneval_gpt-3.5-turbo-0613.jsonl.gz")
    verdicts = judge.run([(task_of(row["task_id"], row["test"]), [row["program"]]) for row in rows])
    assert [v.accepted for [v] in verdicts] == [row["measured_passed"] for row in rows]
