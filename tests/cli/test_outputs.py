"""Outputs are refused before any work where they would replace an input or each other, or cannot be written."""

import json
import os

import pytest

from trl_pper import Experience, Judge, ReplayBuffer
from trl_pper.cli import collect, evaluate
from trl_pper.cli.commands import main

JUDGE = ["judge", "--tasks", "tasks.jsonl", "--programs", "programs.jsonl", "--output"]
EVALUATE = ["evaluate", "--tasks", "tasks.jsonl", "--programs", "programs.jsonl"]
COLLECT = ["collect", "--tasks", "tasks.parquet", "--programs", "b.parquet", "--output"]
AMPLIFY = ["amplify", "--tasks", "tasks.jsonl", "--programs", "programs.jsonl", "--references", "r.jsonl", "--output"]
SFT = ["export", "b.parquet", "--to", "sft", "--output"]
NATIVE = ["export", "tasks.jsonl", "--to", "native", "--output"]


@pytest.fixture
def folder(tmp_path, tasks, monkeypatch):
    """Inputs of every command in the current folder, and commands that fail the test if they begin to work."""
    write = "".join(json.dumps(task.to_row()) + "\n" for task in tasks)
    (tmp_path / "tasks.jsonl").write_text(write)
    for name in ("programs", "r"):
        row = {"task_id": "add-1", "program": "def f(x): return x + 1"}
        (tmp_path / f"{name}.jsonl").write_text(json.dumps(row) + "\n")
    (tmp_path / "mixture.yaml").write_text("mixture: {one: {tasks: tasks.jsonl}}\n")
    (tmp_path / "several").mkdir()
    (tmp_path / "several" / "tasks.jsonl").write_text(write)
    buffer = ReplayBuffer()
    buffer.add([Experience(task_id="add-1", prompt="p", completion="c", program="c", pass_rate=1.0)])
    buffer.save(tmp_path / "b.parquet")
    (tmp_path / "there").symlink_to(tmp_path)
    (tmp_path / "link.jsonl").symlink_to("programs.jsonl")
    os.link(tmp_path / "programs.jsonl", tmp_path / "hard.jsonl")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(Judge, "__init__", lambda *_, **__: pytest.fail("a judge was started"))
    for module in (collect, evaluate):
        monkeypatch.setattr(module, "build_source", lambda *_, **__: pytest.fail("a source was made"))
    return tmp_path


def files(folder):
    """Names and contents of the files below a folder."""
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ([*JUDGE, "programs.jsonl"], "--output: must be a path of its own; got programs.jsonl, which is --programs"),
        ([*JUDGE, "tasks.jsonl"], "which is --tasks as well, and would be replaced"),
        ([*JUDGE, "./several/../programs.jsonl"], "which is --programs"),
        ([*JUDGE, "there/programs.jsonl"], "which is --programs"),
        ([*JUDGE, "link.jsonl"], "which is --programs"),
        ([*JUDGE, "hard.jsonl"], "which is --programs"),
        ([*EVALUATE, "--verdicts", "programs.jsonl"], "--verdicts: must be a path of its own; got programs.jsonl"),
        ([*EVALUATE, "--output", "s.json", "--verdicts", "there/s.json"], "there/s.json, which is --output as well"),
        ([*EVALUATE, "--output", "tasks.jsonl"], "which is --tasks"),
        ([*COLLECT, "b.parquet"], "which is --programs"),
        ([*AMPLIFY, "tasks.jsonl"], "which is --tasks"),
        ([*AMPLIFY, "r.jsonl"], "which is --references"),
        ([*AMPLIFY, "a.jsonl", "--report", "./a.jsonl"], "--report: must be a path of its own"),
        (["report", "b.parquet", "--output", "b.parquet"], "b.parquet, which is source as well"),
        ([*SFT, "b.parquet"], "which is source"),
        ([*NATIVE, "tasks.jsonl"], "which is source"),
        (["merge", "b.parquet", "--output", "b.parquet"], "which is sources"),
        (["rescore", "b.parquet", "--scorer", "m", "--output", "b.parquet"], "which is buffer as well"),
        (["judge", "--tasks", "mixture.yaml", "--programs", "r.jsonl", "--output", "tasks.jsonl"], "which is --tasks"),
        (["export", "mixture.yaml", "--to", "native", "--output", "there/tasks.jsonl"], "which is --tasks"),
        (["judge", "--tasks", "several", "--programs", "programs.jsonl", "--output", "several/v.jsonl"],
         "--output: must lie outside of the folder of tasks, several; got several/v.jsonl"),
    ],
)  # fmt: skip
def test_an_output_never_replaces_an_input_or_an_output(folder, capsys, line, said):
    before = files(folder)
    assert main(line) == 2
    assert said in capsys.readouterr().err
    assert files(folder) == before


def test_the_file_of_options_is_an_input_as_well(folder, capsys):
    (folder / "x.json").write_text('{"tasks": "tasks.jsonl", "programs": "programs.jsonl", "output": "x.json"}')
    before = files(folder)
    assert main(["evaluate", "--config", "x.json"]) == 2
    assert "got x.json, which is --config as well" in capsys.readouterr().err
    assert files(folder) == before


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ([*JUDGE, "v.csv"], "--output: must end in .jsonl, the kind of file that is written; got v.csv"),
        ([*JUDGE, "v.jsonl.gz"], "--output: must end in .jsonl,"),
        ([*EVALUATE, "--output", "s.jsonl"], "--output: must end in .json,"),
        ([*EVALUATE, "--verdicts", "v.json"], "--verdicts: must end in .jsonl,"),
        ([*COLLECT, "c.jsonl"], "--output: must end in .parquet,"),
        ([*AMPLIFY, "a.json"], "--output: must end in .jsonl or .parquet,"),
        ([*AMPLIFY, "a.jsonl", "--report", "r.csv"], "--report: must end in .json,"),
        ([*SFT, "x.csv"], "--output: must end in .parquet or .jsonl,"),
        ([*NATIVE, "x"], "--output: must end in .parquet or .jsonl,"),
        (["report", "b.parquet", "--output", "r.pdf"], "--output: must end in .html or .htm,"),
        (["merge", "b.parquet", "--output", "m.arrow"], "--output: must end in .parquet,"),
    ],
)  # fmt: skip
def test_the_name_of_an_output_tells_its_kind(folder, capsys, line, said):
    before = files(folder)
    assert main(line) == 2
    assert said in capsys.readouterr().err
    assert files(folder) == before


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ([*JUDGE, "there"], "there: must be a file to write; got a folder"),
        ([*EVALUATE, "--output", "several"], "several: must be a file to write; got a folder"),
        ([*COLLECT, "several"], "several: must be a file to write; got a folder"),
        ([*SFT, "several"], "several: must be a file to write; got a folder"),
        ([*JUDGE, "tasks.jsonl/deep/v.jsonl"], "choose a path whose folders are folders: 'tasks.jsonl/deep/v.jsonl'"),
        ([*JUDGE, f"{'v' * 250}.jsonl"], "choose a shorter name"),
        (["report", "b.parquet", "--png", "tasks.jsonl"], "--png: must be a folder to write into"),
        (["demo", "--output", "tasks.jsonl"], "--output: must be a folder to write into; got the file tasks.jsonl"),
        (["demo", "--output", "tasks.jsonl/demo"], "choose a path whose folders are folders"),
    ],
)  # fmt: skip
def test_an_output_that_cannot_be_written_is_found_first(folder, capsys, line, said):
    before = files(folder)
    assert main(line) == 2
    assert said in capsys.readouterr().err
    assert files(folder) == before


def test_an_output_folder_of_training_is_tried_first(folder, capsys, monkeypatch):
    monkeypatch.setattr("trl_pper.cli.train_run.prepare", lambda *_: pytest.fail("a model was loaded"))
    line = ["train", "--model_name_or_path", "m", "--tasks", "tasks.jsonl", "--use_cpu", "--output_dir"]
    assert main([*line, "tasks.jsonl"]) == 2
    assert "--output_dir: must be a folder to write into; got the file tasks.jsonl" in capsys.readouterr().err
    assert main([*line, "tasks.jsonl/run"]) == 2
    assert "choose a path whose folders are folders" in capsys.readouterr().err


def test_outputs_beside_inputs_and_earlier_outputs_are_fine(folder, capsys):
    for _ in range(2):
        assert main([*SFT, "deep/er/x.parquet"]) == 0
        assert main([*NATIVE, "there/x.jsonl"]) == 0
        assert main(["report", "b.parquet", "--output", "r.html", "--png", "charts"]) == 0
    assert (folder / "x.jsonl").read_bytes() == (folder / "tasks.jsonl").read_bytes()
    assert not list(folder.rglob("*.partial"))
