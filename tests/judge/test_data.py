"""The judge on real benchmark problems and real programs, where they lie next to the checkout."""

from __future__ import annotations

from typing import Any

import pytest

from trl_pper import CodingTask, FunctionTests, Judge, load_tasks
from trl_pper.files import read_rows

#: A buggy program that computes a huge power instead of failing.
SLOW = ("Python/160",)


@pytest.fixture(scope="module")
def judge():
    with Judge() as judge:
        yield judge


@pytest.fixture(scope="module")
def rows_of(shared):
    return lambda name: [row for _, row in read_rows(shared(name))]


def task_of(task_id: str, code: str, entry_point: str | None = None) -> CodingTask:
    return CodingTask(task_id=task_id, prompt="p", tests=FunctionTests(code=code, entry_point=entry_point))


def rejected(judge: Judge, tasks: list[CodingTask], programs: list[str]) -> list[str]:
    verdicts = judge.run([(task, [program]) for task, program in zip(tasks, programs, strict=True)])
    return [task.task_id for task, [verdict] in zip(tasks, verdicts, strict=True) if not verdict.accepted]


def test_all_humaneval_references_pass(judge, rows_of):
    rows = rows_of("humaneval/HumanEval.dev.jsonl.gz")
    assert len(rows) == 82
    assert rejected(judge, load_tasks(rows), [row["prompt"] + row["canonical_solution"] for row in rows]) == []


@pytest.mark.slow
def test_all_mbpp_references_pass(judge, rows_of):
    rows = rows_of("mbpp/mbpp.dev.jsonl")
    assert len(rows) == 487
    assert rejected(judge, load_tasks(rows), [row["code"] for row in rows]) == []
    # The asserts alone have to be enough: other editions come without the reference the entry point is read from.
    bare = [
        task_of(f"MBPP/{row['task_id']}", "\n".join(row["test_list"])) for row in rows if not row["test_setup_code"]
    ]
    programs = [row["code"] for row in rows if not row["test_setup_code"]]
    assert rejected(judge, bare, programs) == []


def test_mbpp_functions_called_check_are_judged(judge, rows_of):
    rows = [row for row in rows_of("mbpp/mbpp.dev.jsonl") if row["task_id"] in (56, 126, 349, 899, 967)]
    wrong = "def check(*args): return 'no'\nsum = check"
    verdicts = judge.run([(task, [row["code"], wrong]) for task, row in zip(load_tasks(rows), rows, strict=True)])
    assert len(rows) >= 2
    assert [(good.pass_rate, bad.pass_rate) for good, bad in verdicts] == [(1.0, 0.0)] * len(rows)


def test_a_polluter_does_not_change_its_neighbours_verdict(rows_of):
    rows: list[dict[str, Any]] = rows_of("nearmiss/leak_pairs.dev.jsonl")
    assert rows
    with Judge(workers=1) as judge:
        for row in rows:
            jobs = [(task_of(who, row[f"{who}_test"]), [row[who]]) for who in ("polluter", "victim")]
            assert judge.run(jobs)[1][0].accepted


@pytest.mark.slow
def test_buggy_programs_fail_a_test_and_their_solutions_pass(judge, rows_of):
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
def test_verdicts_agree_with_measured_ones(judge, rows_of):
    rows = rows_of("dumps/ldb_humaneval_gpt-3.5-turbo-0613.jsonl.gz")
    verdicts = judge.run([(task_of(row["task_id"], row["test"]), [row["program"]]) for row in rows])
    assert [v.accepted for [v] in verdicts] == [row["measured_passed"] for row in rows]
