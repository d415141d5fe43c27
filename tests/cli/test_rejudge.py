"""A preference set of others is judged again and cleaned, by the commands that docs/other-trainers.md shows."""

import json
from pathlib import Path

import pytest

from tests.support.pages import DOCS
from trl_pper import CodingTask, DatasetSource, Experience, FunctionTests, ReplayBuffer
from trl_pper.cli.commands import main
from trl_pper.generation.extraction import extract_program
from trl_pper.rounds.labels import LabelCount, LabelReport, compare_labels
from trl_pper.tasks.loading import write_tasks

TASKS = [
    CodingTask(
        task_id=f"times/{n}", prompt=f"def times(x):\n    # Return {n} times x.\n",
        tests=FunctionTests(entry_point="times", code=f"assert times(1) == {n}\nassert times(0) == 0"),
    )
    for n in range(2, 6)
]  # fmt: skip
RIGHT = ["    return {n} * x\n", "    return x * {n}\n"]
#: Passes no test, passes one of the two.
WRONG, HALF = "    return None\n", "    return 0\n"


def pair(task, chosen, rejected):
    n = task.task_id.rpartition("/")[2]
    return {"prompt": task.prompt, "chosen": chosen.format(n=n), "rejected": rejected.format(n=n)}


#: Two in the right order (one by half a test), two the wrong way round, and two of equal pass rates.
PAIRS = [
    pair(TASKS[0], RIGHT[0], WRONG), pair(TASKS[0], HALF, WRONG), pair(TASKS[1], HALF, RIGHT[1]),
    pair(TASKS[1], WRONG, RIGHT[0]), pair(TASKS[2], *RIGHT), pair(TASKS[3], WRONG, WRONG),
]  # fmt: skip
STRANGE = {"prompt": "def add(x):\n", "chosen": "    return 1\n", "rejected": "    return 2\n"}
LINES = [
    "pairs.jsonl: 12 of 14 programs matched to tasks by their prompts",
    "pairs.jsonl: 2 of 6 chosen and 3 of 6 rejected programs pass every test; of 6 pairs 2 are the wrong way round, "
    "and 2 have equal pass rates",
]


def write(path, rows):
    Path(path).write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.fixture
def rejudge(tmp_path, monkeypatch, capsys):
    """Judge a set again; its exit code, and what was printed."""
    monkeypatch.chdir(tmp_path)
    write_tasks("tasks.jsonl", TASKS)

    def run(rows, *options):
        write("pairs.jsonl", rows)
        code = main(["collect", "--tasks", "tasks.jsonl", "--source", "dataset", "--programs", "pairs.jsonl",
                     "--output", "buffer.parquet", "--workers", "1", *options])  # fmt: skip
        said = capsys.readouterr()
        return code, said.out, said.err

    return run


def chat(row):
    answers = {name: [{"role": "assistant", "content": f"Sure:\n```python\n{row['prompt']}{row[name]}```"}]
               for name in ("chosen", "rejected")}  # fmt: skip
    return {"prompt": [{"role": "user", "content": row["prompt"]}], **answers}


@pytest.mark.parametrize("form", ["text", "chat"])
@pytest.mark.parametrize("learn", ["completion", "program"])
def test_labels_are_compared_with_verdicts(rejudge, form, learn):
    rows = [*PAIRS, STRANGE] if form == "text" else [chat(row) for row in (*PAIRS, STRANGE)]
    code, out, _ = rejudge(rows, "--learn", learn)
    assert code == 0
    for line in LINES:
        assert line in out.splitlines()
    buffer = ReplayBuffer.load("buffer.parquet")
    assert {one.source for one in buffer} == {"pairs.jsonl:chosen", "pairs.jsonl:rejected"}
    assert {type(one.prompt) for one in buffer} == {str if form == "text" else list}
    # The same, program by program: the verdict on each program is known by construction.
    for one in buffer:
        known = 1.0 if "* x" in one.program or "x *" in one.program else 0.5 if "return 0" in one.program else 0.0
        assert one.pass_rate == known


@pytest.mark.parametrize("form", ["text", "chat"])
def test_the_cleaned_set_has_pairs_in_the_right_order(rejudge, tmp_path, form):
    rejudge(PAIRS if form == "text" else [chat(row) for row in PAIRS])
    assert main(["export", "buffer.parquet", "--to", "dpo", "--output", "clean.jsonl"]) == 0
    rows = [json.loads(line) for line in Path("clean.jsonl").read_text().splitlines()]
    # Tasks 2 and 3 have no pair: both programs pass, or none does.
    given = {json.dumps((row if form == "text" else chat(row))["prompt"], sort_keys=True) for row in PAIRS[:4]}
    assert {json.dumps(row["prompt"], sort_keys=True) for row in rows} == given
    assert len(rows) == 2
    by_prompt = {task.prompt: task for task in TASKS}
    for row in rows:
        prompt = row["prompt"] if form == "text" else row["prompt"][0]["content"]
        chosen, rejected = (
            row[name] if form == "text" else row[name][0]["content"] for name in ("chosen", "rejected")
        )
        passes = []
        for text in (chosen, rejected):
            names: dict = {}
            exec(extract_program(text, prompt=prompt, entry_point="times"), names)
            passes.append(names["times"](1) == int(by_prompt[prompt].task_id[-1]))
        assert passes == [True, False]


def test_the_lines_of_the_page_are_those_printed(rejudge, caplog):
    page = (DOCS / "collecting.md").read_text()
    _, out, _ = rejudge([*PAIRS, STRANGE])
    left_out = (
        "pairs.jsonl: left out 2 of 14 programs without a task_id: 2 whose prompt is that of no task, the first "
    )
    for line in (*LINES, f"{left_out}'def add(x):' (pairs.jsonl:7)"):
        assert line in [*out.splitlines(), *caplog.messages]
        assert f"\n{line}\n" in page


def test_a_set_judged_twice_says_the_same(rejudge):
    first, second = rejudge(PAIRS), rejudge(PAIRS)
    assert first[1].splitlines()[-1] == second[1].splitlines()[-1] == LINES[1]
    assert len(ReplayBuffer.load("buffer.parquet")) == 10


def test_one_machine_of_two_counts_its_own_tasks(rejudge):
    lines = [
        rejudge(PAIRS, "--num_shards", "2", "--shard_index", str(index), "--batch_size", "2")[1].splitlines()[-1]
        for index in range(2)
    ]
    assert "of 4 pairs 2 are the wrong way round, and 0 have" in lines[0]
    assert "of 2 pairs 0 are the wrong way round, and 2 have" in lines[1]


def test_a_set_of_other_tasks_is_refused(rejudge):
    code, _, err = rejudge([STRANGE])
    assert code == 2
    assert "pairs.jsonl: prompt: must be the prompt of one of the 4 tasks" in err
    assert not Path("buffer.parquet").exists()


def test_rows_without_labels_say_nothing_of_labels(rejudge):
    _, out, _ = rejudge([{"task_id": "times/2", "completion": RIGHT[0].format(n=2)}])
    assert "matched" not in out
    assert "pass every test" not in out


def test_programs_without_a_verdict_decide_nothing():
    def judged(row, name, rate):
        return Experience(task_id="times/2", prompt=TASKS[0].prompt, completion=row[name], pass_rate=rate,
                          program=TASKS[0].prompt + row[name])  # fmt: skip

    source = DatasetSource([PAIRS[0], {**PAIRS[0], "rejected": "    return 5\n"}, PAIRS[2]])
    found = compare_labels(source, TASKS[:1], [judged(PAIRS[0], "chosen", 1.0), judged(PAIRS[0], "rejected", 0.5)])
    assert found == LabelReport(
        counts={"chosen": LabelCount(programs=2, judged=2, passed=2),
                "rejected": LabelCount(programs=2, judged=1, passed=0)}, pairs=1,
    )  # fmt: skip
    assert found.line().endswith("; 1 programs have no verdict")
    assert compare_labels(DatasetSource([]), TASKS, []) == LabelReport()
