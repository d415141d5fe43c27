"""`trl-pper amplify`: files in, the same bytes out for the same arguments, errors before anything runs."""

import json

import pytest

from trl_pper import Judge, load_tasks
from trl_pper.cli.commands import main
from trl_pper.tasks.task import CodingTask, FunctionTests, StdioCase, StdioTests

TASKS = [
    CodingTask(
        task_id="double", prompt="def f(x):\n", reference="def f(x):\n    return 2 * x\n",
        tests=FunctionTests(entry_point="f", code="assert f(2) == 4\nassert f(9) == 18"),
    ),
    CodingTask(
        task_id="sum", prompt="Add.", reference="input()\nprint(sum(map(int, input().split())))\n", source="here",
        tests=StdioTests(
            cases=(StdioCase(input="2\n1 2\n", output="3\n"), StdioCase(input="3\n4 5 9\n", output="18\n"))
        ),
    ),
    CodingTask(
        task_id="free", prompt="def f(x):\n", tests=FunctionTests(entry_point="f", code="assert f(2) == 4"),
    ),
]  # fmt: skip
PROGRAMS = [
    {"task_id": "double", "completions": ["    return 2 * x", "    return {2: 4, 9: 18}[x]", "    return 1"]},
    {"task_id": "sum", "program": "print({'2': 3, '3': 18}[input()])"},
    {"task_id": "free", "completion": "    return 4"},
]


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


@pytest.fixture
def command(tmp_path):
    tasks = write(tmp_path / "tasks.jsonl", [task.to_row() for task in TASKS])

    def run(*options, output="new.jsonl"):
        base = ["amplify", "--tasks", tasks, "--output", str(tmp_path / output), "--workers", "1"]
        return main([*base, "--new_tests", "5", *options])

    return run


def test_tasks_get_more_tests_that_their_references_pass(command, tmp_path, capsys):
    assert command() == 0
    tasks = load_tasks(tmp_path / "new.jsonl")
    assert [task.task_id for task in tasks] == ["double", "sum", "free"]
    assert tasks[2] == TASKS[2]
    assert (tasks[1].source, tasks[1].reference) == (TASKS[1].source, TASKS[1].reference)
    with Judge(workers=1) as judge:
        verdicts = judge.run([(task, [task.reference]) for task in tasks[:2]])
    assert [verdict.outcomes for [verdict] in verdicts] == [("passed",) * 7] * 2
    said = capsys.readouterr().out
    assert "left alone: no reference" in said
    assert "exposed" not in said


def test_two_runs_write_the_same_bytes(command, tmp_path):
    assert command() == command(output="again.jsonl") == 0
    assert command("--seed", "1", output="other.jsonl") == 0
    first, again, other = ((tmp_path / f"{name}.jsonl").read_bytes() for name in ("new", "again", "other"))
    assert first == again
    assert first != other


def test_programs_are_judged_by_the_old_and_the_new_tests(command, tmp_path, capsys):
    programs = write(tmp_path / "programs.jsonl", PROGRAMS)
    assert command("--programs", programs, "--report", str(tmp_path / "deep" / "report.json")) == 0
    report = json.loads((tmp_path / "deep" / "report.json").read_text())
    assert (report["tasks"], report["amplified"], report["left_alone"]) == (3, 2, {"no reference": 1})
    assert (report["tests_before"], report["tests_added"]) == (5, 10)
    assert (report["programs"], report["passed_before"], report["exposed"], report["unjudged"]) == (5, 4, 2, 0)
    assert (report["tasks_affected"], report["share_of_tasks_affected"]) == (2, 2 / 3)
    rows = {row["task_id"]: row for row in report["per_task"]}
    assert [rows[name]["exposed"] for name in ("double", "sum", "free")] == [1, 1, 0]
    assert rows["free"] == {
        "task_id": "free", "tests_before": 1, "tests_added": 0, "reason": "no reference", "inputs_tried": 0,
        "inputs_dropped": {}, "programs": 1, "passed_before": 1, "exposed": 0, "unjudged": 0,
    }  # fmt: skip
    said = capsys.readouterr().out
    assert "4 of 5" in said
    assert "2 (67%)" in said
    # The programs decide about no test.
    assert command(output="alone.jsonl") == 0
    assert (tmp_path / "alone.jsonl").read_bytes() == (tmp_path / "new.jsonl").read_bytes()


def test_further_references_must_pass_every_new_test(command, tmp_path):
    other = {"task_id": "double", "program": "def f(x): return 2 * x if x < 5 or x == 9 else 0"}
    assert command("--references", write(tmp_path / "right.jsonl", [other])) == 0
    [double, *_] = load_tasks(tmp_path / "new.jsonl")
    with Judge(workers=1) as judge:
        [[verdict]] = judge.run([(double, [other["program"]])])
    assert verdict.accepted
    assert 2 < verdict.total < 7


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--new_tests", "0"], "new_tests: must be a whole number of at least 1; got 0"),
        (["--programs", "{bad}"], "bad.jsonl:1: task_id: must name one of the 3 tasks; got 'nobody'"),
        (["--references", "{bad}"], "bad.jsonl:1: task_id: must name one of the 3 tasks; got 'nobody'"),
        (["--programs", "{list}"], "list.jsonl:1: completion: a string is required"),
        (
            ["--output", "x.csv"],
            "--output: must end in .jsonl or .parquet, the kind of file that is written; got x.csv",
        ),
        (["--tasks", "missing.jsonl"], "missing.jsonl"),
        (["--difficulty", "easy"], "difficulty: no task states any; got 'easy'"),
    ],
)
def test_bad_input_is_refused_before_anything_runs(command, tmp_path, capsys, options, said):
    bad = write(tmp_path / "bad.jsonl", [{"task_id": "nobody", "program": "x"}])
    no_text = write(tmp_path / "list.jsonl", [{"task_id": "free", "completions": [3]}])
    assert command(*(option.format(bad=bad, list=no_text) for option in options)) == 2
    assert said in capsys.readouterr().err
    assert not (tmp_path / "new.jsonl").exists()
