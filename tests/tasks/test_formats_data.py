"""Every sample of real benchmark data that is in a known format: how much is read, and whether its solutions pass."""

from __future__ import annotations

import base64
import json
import pickle
import zlib

import pytest

from trl_pper import CodingTask, Judge, load_tasks
from trl_pper.files import read_rows
from trl_pper.tasks.loading import write_tasks
from trl_pper.tasks.task import StdioTests
from trl_pper.tasks.tests import count_tests

#: File or folder: tasks, tests, tasks with a solution. Only these two formats keep any difficulty.
HELD = {
    "humaneval/HumanEval.dev.jsonl.gz": (82, 573, 82),
    "nearmiss/humanevalpack_python.dev.jsonl": (82, 581, 82),
    "evalplus/HumanEvalPlus-Mini.dev.jsonl.gz": (82, 1476, 82),
    "mbpp/mbpp.dev.jsonl": (487, 1461, 487),
    "apps_dirs/train": (3, 3, 3),
    "code_contests/codecontests_repo.dev.jsonl.gz": (148, 1479, 148),
    "code_contests/sandboxfusion_code_contests.dev.jsonl": (10, 1265, 0),
    "leetcode/LeetCodeDataset-v0.3.1-test.dev.jsonl.gz": (107, 11085, 107),
}
MBPP_PLUS = "evalplus/MbppPlus-OriginFmt.dev.jsonl.gz"


def number_of_tests(task: CodingTask) -> int:
    return len(task.tests.cases) if isinstance(task.tests, StdioTests) else count_tests(task.tests.code)


def summary(tasks: list[CodingTask]) -> tuple[int, int, int]:
    return len(tasks), sum(map(number_of_tests, tasks)), sum(task.reference is not None for task in tasks)


def rejected(tasks: list[CodingTask]) -> dict[str, str]:
    with Judge() as judge:
        verdicts = judge.run([(task, [task.reference]) for task in tasks])
    return {task.task_id: one.message for task, [one] in zip(tasks, verdicts, strict=True) if not one.accepted}


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(HELD))
def test_every_task_and_test_comes_back_from_native_rows(shared, tmp_path, name):
    tasks = load_tasks(shared(name))
    assert summary(tasks) == HELD[name]
    write_tasks(tmp_path / "tasks.jsonl", tasks)
    assert load_tasks(tmp_path / "tasks.jsonl") == tasks


@pytest.mark.slow
def test_every_input_of_mbpp_plus_is_a_test(shared):
    tasks = load_tasks(shared(MBPP_PLUS))
    assert summary(tasks) == (196, 21166, 196)
    # Of every fortieth task, so as to stay within seconds; benchmarks/tasks.py takes all 196, which pass.
    assert rejected(tasks[::40]) == {}


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", ["evalplus/HumanEvalPlus-Mini.dev.jsonl.gz", "apps_dirs", "nearmiss/humanevalpack_python.dev.jsonl"]
)
def test_solutions_that_come_with_the_tasks_pass(shared, name):
    tasks = load_tasks(shared(name))
    assert tasks
    assert rejected(tasks) == {}


def test_apps_in_folders_states_difficulties_and_calls_methods(shared):
    tasks = {task.task_id: task for task in load_tasks(shared("apps_dirs"), split="train")}
    assert {name: task.difficulty for name, task in tasks.items()} == {
        "APPS/1": "interview",
        "APPS/111": "interview",
        "APPS/2404": "introductory",
    }
    assert tasks["APPS/2404"].entry_point == "Solution().findKthPositive"


def test_tests_of_apps_that_do_not_say_what_is_called_are_errors(shared):
    path = shared("apps_mapcoder/selected150.dev.jsonl")
    errors: list[str] = []
    tasks = load_tasks(path, on_error="skip", errors=errors)
    assert (len(tasks), sum(map(number_of_tests, tasks)), len(errors)) == (30, 346, 60)
    assert sum("test_list: the row asks for a function" in error for error in errors) == 57
    assert sum("is already the task of" in error for error in errors) == 3


@pytest.mark.slow
def test_verdicts_on_apps_agree_with_those_measured_elsewhere(shared):
    tasks = {task.task_id: task for task in load_tasks(shared("apps_mapcoder/selected150.dev.jsonl"), on_error="skip")}
    rows = [row for _, row in read_rows(shared("apps_mapcoder/ChatGPT-Direct-APPS.jsonl"))]
    rows = [row for row in rows if f"APPS/{row['task_id']}" in tasks]
    with Judge() as judge:
        verdicts = judge.run([(tasks[f"APPS/{row['task_id']}"], [row["program"]]) for row in rows])
    assert len(rows) >= 20
    differing = [
        row["task_id"]
        for row, [verdict] in zip(rows, verdicts, strict=True)
        if [outcome == "passed" for outcome in verdict.outcomes] != [bool(one) for one in row["measured_tests"]]
    ]
    assert differing == []


@pytest.mark.slow
def test_accepted_programs_of_code_contests_pass(shared):
    """Where the data set's own tests are sound; the other rows have several right answers or malformed tests."""
    path = shared("code_contests/codecontests_repo.dev.jsonl.gz")
    clean = [row["clean"] for _, row in read_rows(path)]
    tasks = [task for task, sound in zip(load_tasks(path), clean, strict=True) if sound]
    assert len(tasks) == 118
    assert rejected(tasks[::4]) == {}


@pytest.mark.slow
def test_real_problems_in_the_layout_of_live_code_bench(shared):
    """The samples of AtCoder problems, packed as LiveCodeBench packs private tests; accepted human programs pass."""
    held = {row["task_id"]: row for _, row in read_rows(shared("atcoder/lcb_atcoder_tasks.dev.jsonl.gz"))}
    programs = {
        row["task_id"]: row["correct"]
        for _, row in read_rows(shared("atcoder/condefects_pairs.dev.jsonl.gz"))
        if held[row["task_id"]]["samples_trusted"] and all(row["correct_samples"])
    }
    tasks = {task.task_id: task for task in load_tasks(map(live_code_bench_row, held.values()))}
    assert len(tasks) == 244
    assert {task.difficulty for task in tasks.values()} == {"easy", "medium", "hard"}
    chosen = sorted(programs)[::4]
    assert len(chosen) >= 10
    with Judge() as judge:
        verdicts = judge.run([(tasks[name], [programs[name]]) for name in chosen])
    assert [name for name, [verdict] in zip(chosen, verdicts, strict=True) if not verdict.accepted] == []


def live_code_bench_row(row):
    first, *others = [{**case, "testtype": "stdin"} for case in row["sample_tests"]]
    packed = base64.b64encode(zlib.compress(pickle.dumps(json.dumps(others)))).decode()
    return {
        "question_id": row["task_id"], "question_title": row["title"], "question_content": row["description"],
        "platform": "atcoder", "difficulty": row["difficulty"], "starter_code": "", "metadata": "{}",
        "public_test_cases": json.dumps([first]), "private_test_cases": packed,
    }  # fmt: skip
