"""What docs/tasks.md says holds: its code runs, its formats are all of them, its figures are those measured."""

import json
import re
from pathlib import Path

import pytest

from tests.support.benchmark_rows import ROWS
from trl_pper import CodingTask
from trl_pper.cli.commands import main
from trl_pper.tasks.loading import _FIELDS, FORMATS, load_tasks

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "tasks.md").read_text()


def table_after(heading):
    rows = [
        line.strip("| ").split(" | ")
        for line in PAGE.partition(f"\n## {heading}\n")[2].splitlines()
        if line[:1] == "|"
    ]
    end = next((n for n, row in enumerate(rows[2:], 2) if row[0] == rows[0][0]), len(rows))
    return rows[2:end]


@pytest.mark.runs("docs/tasks.md")
def test_the_code_of_the_page_runs(page, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    native = {"task_id": "add", "prompt": "Add.", "tests": ROWS["native"][0]["tests"], "difficulty": "introductory"}
    Path("tasks.jsonl").write_text(json.dumps(native) + "\n")
    apps = [{**ROWS["apps"][0], "problem_id": n, "difficulty": "introductory"} for n in range(9)]
    Path("apps.jsonl").write_text("".join(json.dumps(row) + "\n" for row in apps))
    first, hub, limits, chat, mixture = re.findall(r"```python\n(.*?)```", page.read_text(), flags=re.DOTALL)
    names: dict = {}
    exec(first + limits + chat + mixture, names)
    assert [one.prompt[-1]["content"] for one in names["shorter"]] == ["Add.\n\n\n\nCall it ."]
    assert [one.prompt[-1]["content"] for one in names["fewest"]] == ["Code: Add."]
    assert len(names["mixed"]) == 4
    assert names["errors"] == []
    assert "apps 3 75% {'introductory': 3}" in capsys.readouterr().out
    compile(hub, page, "exec")
    [row] = re.findall(r"```json\n(.*?)```", page.read_text(), flags=re.DOTALL)
    assert CodingTask.from_row(json.loads(row)).task_id == "echo"
    [command] = re.findall(r"```bash\ntrl-pper (.*?)\n```", page.read_text())
    assert main(command.split()) == 0
    assert len(load_tasks("tasks.jsonl")) == 9


def test_the_table_of_formats_has_all_with_their_columns():
    rows = {row[0].strip("`"): row[1] for row in table_after("Formats")[: len(FORMATS)]}
    assert list(rows) == list(FORMATS)
    for name, columns in rows.items():
        assert set(re.findall(r"`(\w+)`", columns)) == {column for either in _FIELDS[name] for column in either}


def test_figures_are_those_measured():
    measured = json.loads((ROOT / "benchmarks" / "results" / "tasks.json").read_text())["samples"]
    columns = ("sample", "format", "tasks", "tests", "left_out", "solutions", "accepted")
    expected = [[f"{one[c]:,}" if isinstance(one[c], int) else one[c] for c in columns] for one in measured]
    assert table_after("What was read") == expected


def test_the_stops_of_the_page_are_those_of_the_formats():
    rows = {row[0]: re.findall(r"`(\\n[^`]*)`", row[2]) for row in table_after("Prompts")[:4]}
    shown = {name: {stop.replace("\\n", "\n") for stop in stops} for name, stops in rows.items()}
    held = {name: set(load_tasks([ROWS[name][0]])[0].stop) for name in ("humaneval", "mbpp", "apps", "code_contests")}
    assert shown["`mbpp`"] == held["mbpp"]
    assert shown["`humaneval`, `big_code_bench`"] == held["humaneval"] - held["mbpp"]
    assert (
        held["apps"]
        == held["code_contests"]
        == shown["`apps`, `code_contests`, `live_code_bench`, `classeval`, LeetCodeDataset"]
    )


def test_figures_of_completions_are_those_measured():
    measured = json.loads((ROOT / "benchmarks" / "results" / "completions.json").read_text())["samples"]
    columns = ("sample", "completions", "without_a_program", "right", "with_a_stop", "broken")
    expected = [[f"{one[c]:,}" if isinstance(one[c], int) else one[c] for c in columns] for one in measured]
    assert table_after("Stops and completions") == expected
    assert sum(one["broken"] for one in measured) == 0
