"""Outputs are refused before any work where they would replace an input or each other, or cannot be written."""

import importlib.util
import json
import os
from importlib.metadata import version

import datasets
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
    for module, name in ((collect, "source_builder"), (evaluate, "build_source")):
        monkeypatch.setattr(module, name, lambda *_, **__: pytest.fail("a source was made"))
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


@pytest.mark.parametrize(
    ("to", "output", "said"),
    [
        (
            "csv",
            "x.csv",
            "--to: must be one of sft, dpo, kto, reward, verl, native; got 'csv'. The end of --output names",
        ),
        ("PPO", "x.parquet", "got 'PPO'. TRL has no PPOTrainer: train a reward model on --to reward"),
        ("orpo", "x.parquet", "got 'orpo'. The trainers of trl.experimental take the pairs of --to dpo"),
        ("grpo", "x.parquet", "GRPOTrainer and RLOOTrainer write programs themselves"),
        ("rllm", "x.parquet", "rLLM reads the files of --to verl"),
        ("preference", "x.parquet", "Pairs are --to dpo"),
        ("everything", "x.parquet", "must be one of sft, dpo, kto, reward, verl, native; got 'everything'\n"),
        ("sft", "x.csv", "--output: must end in .parquet or .jsonl, the kind of file that is written; got x.csv"),
        ("dpo", "x", "--output: must end in .parquet or .jsonl"),
        ("verl", "x.parquet", "--tasks: required for --to verl, since a buffer holds no tests"),
    ],
)
def test_kinds_that_are_not_exported_are_refused(folder, capsys, to, output, said):
    before = files(folder)
    assert main(["export", "b.parquet", "--to", to, "--output", output]) == 2
    assert said in capsys.readouterr().err
    assert files(folder) == before


@pytest.mark.parametrize(
    ("to", "options", "said"),
    [
        (
            "sft",
            ["--strategy", "random"],
            "--strategy: belongs to --to dpo and --to reward; got it with sft. Leave it",
        ),
        ("kto", ["--min_gap", "0.5"], "--min_gap: belongs to --to dpo and --to reward; got it with kto"),
        ("native", ["--seed", "0"], "--seed: belongs to --to dpo and --to kto and --to reward; got it with native"),
        ("dpo", ["--tasks", "tasks.jsonl"], "--tasks: belongs to --to verl; got it with dpo"),
        ("dpo", ["--strategy", "nearest"], "strategy: must be one of closest, random, mixed; got 'nearest'"),
        ("dpo", ["--pairs_per_task", "0"], "pairs_per_task: must be a whole number of at least 1; got 0"),
        ("dpo", [], "nothing to export: none of the 1 tasks has both a program with a pass rate of at least 1 and"),
        ("verl", ["--tasks", "tasks.jsonl"], "prompt: verl and rLLM ask by a chat template"),
    ],
)
def test_options_of_exports_are_checked(folder, capsys, to, options, said):
    before = files(folder)
    source = "tasks.jsonl" if to == "native" else "b.parquet"
    assert main(["export", source, "--to", to, "--output", "x.parquet", *options]) == 2
    assert said in capsys.readouterr().err
    assert files(folder) == before


def test_a_layout_of_verl_is_a_parquet_file(folder, tasks, capsys):
    command = ["export", "chat.parquet", "--to", "verl", "--tasks", "tasks.jsonl", "--output"]
    buffer = ReplayBuffer()
    chat = [{"role": "user", "content": "Add one."}]
    buffer.add([Experience(task_id="add-1", prompt=chat, completion="c", program="c", pass_rate=1.0)])
    buffer.save(folder / "chat.parquet")
    assert main([*command, "rl.jsonl"]) == 2
    assert "--output: must end in .parquet, which verl reads; got rl.jsonl" in capsys.readouterr().err
    assert main([*command, "tasks.parquet"]) == 0
    assert "1 rows of chat.parquet: tasks.parquet" in capsys.readouterr().out
    [row] = datasets.Dataset.from_parquet("tasks.parquet", cache_dir=folder).to_list()
    assert row == buffer.to_verl(tasks)[0]
    assert main([*command, "tasks.jsonl"]) == 2


def test_cut_off_programs_are_counted(folder, capsys):
    buffer = ReplayBuffer()
    given = {"task_id": "add-1", "prompt": "# one\n", "pass_rate": 1.0}
    buffer.add([Experience(completion=text, program=text, truncated=text == "c", **given) for text in "abc"])
    buffer.save(folder / "cut.parquet")
    assert main(["export", "cut.parquet", "--to", "sft", "--output", "x.parquet"]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "2 rows of cut.parquet: x.parquet",
        "1 of 3 programs were cut off while they were written, and are in no row",
    ]
    assert main(["export", "b.parquet", "--to", "sft", "--output", "x.parquet"]) == 0
    assert "cut off" not in capsys.readouterr().out


def test_a_trainer_that_trl_lacks_is_named(folder, capsys, monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util,
        "find_spec",
        lambda name, *rest: None if name == "trl.trainer.kto_trainer" else find(name, *rest),
    )
    assert main(["export", "b.parquet", "--to", "kto", "--output", "x.parquet"]) == 2
    said = capsys.readouterr().err
    assert f"--to: the TRL that is installed, {version('trl')}, has no trainer for 'kto'. Install trl>=" in said
    assert main(["export", "b.parquet", "--to", "sft", "--output", "x.parquet"]) == 0


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
