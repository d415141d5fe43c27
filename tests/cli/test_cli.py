"""The command line, in the formats the documentation promises."""

import json
import re

import pytest

from tests.support.benchmark_rows import ROWS
from trl_pper import Judge, load_tasks
from trl_pper.cli.commands import main
from trl_pper.judge import levels as ladder
from trl_pper.replay.buffer import ReplayBuffer


@pytest.fixture
def files(tmp_path, tasks):
    (tmp_path / "tasks.jsonl").write_text("".join(json.dumps(task.to_row()) + "\n" for task in tasks))
    return tmp_path


def write_programs(folder, rows) -> str:
    path = folder / "programs.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def read(path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_judge_writes_one_row_per_program_in_order(files, capsys):
    programs = write_programs(
        files,
        [
            {"task_id": "add-2", "completion": "    return x + 2\n"},
            {"task_id": "add-1", "program": "def f(x): return x or 1"},
            {"task_id": "add-2", "program": "def f(x): return ("},
            {"task_id": "add-1", "completion": "    raise ValueError('no')\n"},
            {"task_id": "add-3", "completion": "I cannot."},
            {"task_id": "add-1", "completion": "Nor I."},
        ],
    )
    output = files / "deep" / "verdicts.jsonl"
    code = main(["judge", "--tasks", str(files / "tasks.jsonl"), "--programs", programs, "--output", str(output),
                 "--workers", "1", "--cpu_seconds", "2"])  # fmt: skip
    assert code == 0
    rows = read(output)
    assert [list(row) for row in rows] == [
        ["task_id", "pass_rate", "passed", "total", "outcomes", "message", "run"]
    ] * 6
    assert [row["task_id"] for row in rows] == ["add-2", "add-1", "add-2", "add-1", "add-3", "add-1"]
    assert rows[0] == {
        "task_id": "add-2", "pass_rate": 1.0, "passed": 3, "total": 3, "outcomes": ["passed"] * 3, "message": "",
        "run": "separate",
    }  # fmt: skip
    assert rows[1]["outcomes"] == ["wrong_answer", "passed", "wrong_answer"]
    assert rows[2]["outcomes"] == ["syntax_error"] * 3
    assert rows[3]["outcomes"] == ["runtime_error"] * 3
    assert "ValueError" in rows[3]["message"]
    said = capsys.readouterr().out
    assert "6 programs" in said
    assert "0 not judged, 2 without a program, the first for task add-3" in said
    assert f"isolation {Judge().isolation}" in said


@pytest.mark.parametrize(
    ("row", "named"),
    [
        (
            {"task_id": "other", "program": "x"},
            r"programs.jsonl:1: task_id: must name one of the 4 tasks; got 'other'",
        ),
        ({"program": "x"}, r"programs.jsonl:1: task_id"),
        ({"task_id": "add-1"}, r"programs.jsonl:1: completion"),
    ],
)
def test_judge_refuses_bad_rows_before_anything_runs(files, capsys, row, named):
    programs = write_programs(files, [row])
    output = files / "verdicts.jsonl"
    code = main(["judge", "--tasks", str(files / "tasks.jsonl"), "--programs", programs, "--output", str(output)])
    assert code == 2
    assert named.replace("\\", "") in capsys.readouterr().err
    assert not output.exists()


def test_judge_names_a_missing_file(files, capsys):
    assert main(["judge", "--tasks", "nowhere.jsonl", "--programs", "x", "--output", "y.jsonl"]) == 2
    assert "nowhere.jsonl" in capsys.readouterr().err


def test_collect_fills_a_buffer_and_goes_on_with_it(files, capsys):
    buffer = files / "buffer.parquet"
    command = ["collect", "--tasks", str(files / "tasks.jsonl"), "--output", str(buffer), "--workers", "1"]
    programs = write_programs(files, [{"task_id": "add-2", "completion": "    return x + 2\n"}])
    assert main([*command, "--programs", programs]) == 0
    programs = write_programs(
        files, [{"task_id": "add-2", "completion": "    return x + 2\n"}, {"task_id": "add-1", "completion": "!"}]
    )
    assert main([*command, "--programs", programs]) == 0
    stored = ReplayBuffer.load(buffer)
    assert [(one.task_id, one.pass_rate) for one in stored] == [("add-2", 1.0), ("add-1", 0.0)]
    assert "1 new, 1 repeated, 0 not judged, 1 without a program;" in capsys.readouterr().out


def test_collect_with_a_model_then_report_and_export(files, make_model, tokenizer, capsys):
    make_model().save_pretrained(files / "model")
    tokenizer.save_pretrained(files / "model")
    buffer = files / "buffer.parquet"
    assert main(["collect", "--tasks", str(files / "tasks.jsonl"), "--model", str(files / "model"), "--output",
                 str(buffer), "--num_beams", "2", "--max_completion_length", "5", "--workers", "1"]) == 0  # fmt: skip
    stored = ReplayBuffer.load(buffer)
    assert len(stored) >= 4
    assert all(one.logprob is not None for one in stored)
    assert main(["report", str(buffer), "--output", str(files / "report.html")]) == 0
    assert "<svg" in (files / "report.html").read_text()
    assert main(["export", str(buffer), "--to", "kto", "--output", str(files / "kto.jsonl")]) == 2
    assert "nothing to export: the buffer holds no whole program" in capsys.readouterr().err
    programs = write_programs(files, [{"task_id": "add-2", "completion": "    return x + 2\n"}])
    assert main(["collect", "--tasks", str(files / "tasks.jsonl"), "--programs", programs, "--output", str(buffer),
                 "--workers", "1"]) == 0  # fmt: skip
    assert main(["export", str(buffer), "--to", "kto", "--output", str(files / "kto.jsonl")]) == 0
    assert set(read(files / "kto.jsonl")[0]) == {"prompt", "completion", "label"}


@pytest.mark.filterwarnings("ignore:fan_in_fan_out")  # GPT-2 stores its linear layers transposed
def test_train_from_yaml_with_overrides(files, make_model, tokenizer):
    make_model().save_pretrained(files / "model")
    tokenizer.save_pretrained(files / "model")
    config = files / "x.yaml"
    config.write_text(
        f"tasks: {files / 'tasks.jsonl'}\nmodel_name_or_path: {files / 'model'}\noutput_dir: {files / 'run'}\n"
        "num_beams: 2\nmax_completion_length: 5\nuse_cpu: true\nbf16: false\nreport_to: none\nmax_steps: 9\n"
        "gradient_checkpointing: false\nsave_strategy: 'no'\ndtype: float32\n"
        "use_peft: true\nlora_r: 2\nlora_target_modules: [c_fc, c_proj]\n"
    )
    programs = write_programs(files, [{"task_id": "add-2", "completion": "    return x + 2\n"}])
    overrides = ["--max_steps", "2", "--programs", programs, "--eval_tasks", str(files / "tasks.jsonl")]
    assert main(["train", "--config", str(config), *overrides]) == 0
    assert (files / "run" / "adapter_model.safetensors").is_file()
    results = json.loads((files / "run" / "eval_results.json").read_text())
    assert results["eval_tasks"] == 4.0
    saving = [*overrides, "--save_strategy", "steps", "--save_steps", "2", "--steps_per_round", "2"]
    assert main(["train", "--config", str(config), *saving]) == 0
    assert (
        main(["train", "--config", str(config), *saving, "--max_steps", "3", "--resume_from_checkpoint", "true"]) == 0
    )
    state = json.loads((files / "run" / "checkpoint-3" / "trainer_state.json").read_text())
    assert [entry["step"] for entry in state["log_history"] if "pper/programs" in entry] == [2, 3]


def test_an_unknown_command_exits_with_2(capsys):
    with pytest.raises(SystemExit) as stop:
        main(["fly"])
    assert stop.value.code == 2


@pytest.mark.slow
def test_the_selftest_says_what_holds(capsys):
    assert main(["judge", "--selftest", "--workers", "1"]) == 0
    said = capsys.readouterr().out
    assert f"isolation level: {Judge().isolation}" in said
    assert re.search(r"^files unread +verified$", said, re.MULTILINE)
    assert main(["judge", "--selftest", "--isolation", "rlimits"]) == 1
    assert re.search(r"^files unread +absent$", capsys.readouterr().out, re.MULTILINE)


def test_judging_needs_its_files(capsys):
    assert main(["judge", "--tasks", "x.jsonl"]) == 2
    assert "--programs: required" in capsys.readouterr().err


def write_referenced(folder, *references) -> str:
    path = folder / "referenced.jsonl"
    tests = json.dumps({"type": "function", "entry_point": "f", "code": "assert f(1) == 1\nassert f(2) == 4"})
    rows = [
        {"task_id": f"task-{number}", "prompt": "Square.", "tests": tests, "reference": reference}
        for number, reference in enumerate(references)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def test_references_are_judged_in_place_of_programs(tmp_path, capsys):
    square, same = "def f(x): return x * x", "def f(x): return x"
    tasks = write_referenced(tmp_path, square, same, None)
    output = tmp_path / "verdicts.jsonl"
    command = ["judge", "--tasks", tasks, "--check_references", "--workers", "1"]
    assert main([*command, "--output", str(output)]) == 1
    first, second = capsys.readouterr().out.strip().splitlines()[-2:]
    assert first == "task-1: passes 1 of 2 tests: assert f(2) == 4"
    assert second.startswith("1 of 2 references pass, in ")
    assert second.endswith("1 tasks have none")
    assert [(row["task_id"], row["passed"]) for row in read(output)] == [("task-0", 2), ("task-1", 1)]
    assert main([*command[:2], write_referenced(tmp_path, square), *command[3:]]) == 0
    assert "1 of 1 references pass" in capsys.readouterr().out


def test_checking_references_refuses_other_programs(tmp_path, capsys):
    tasks = write_referenced(tmp_path, None)
    for given, words in (
        ([], "--tasks: required with --check_references"),
        (["--tasks", tasks, "--programs", "x.jsonl"], "--programs: --check_references judges the references instead"),
        (["--tasks", tasks], "--check_references: none of the 1 tasks has a reference"),
    ):
        assert main(["judge", "--check_references", *given]) == 2
        assert words in capsys.readouterr().err


def test_a_level_that_cannot_be_had_is_a_clear_error(capsys, monkeypatch):
    monkeypatch.setattr(ladder, "_why_not", lambda level: "the kernel is too old")
    assert main(["judge", "--selftest"]) == 2
    assert "isolation: 'auto' cannot be had" in capsys.readouterr().err


def test_export_writes_tasks_of_any_format_as_native_rows(tmp_path, capsys):
    rows = [{**ROWS["apps"][0], "problem_id": n, "difficulty": level} for n, level in enumerate(["interview", "easy"])]
    source, output = tmp_path / "apps.jsonl", tmp_path / "native.jsonl"
    source.write_text("".join(json.dumps(row) + "\n" for row in [*rows, {"problem_id": 9}]))
    command = ["export", str(source), "--to", "native", "--output", str(output)]
    assert main(command) == 2
    assert "apps.jsonl:3: " in capsys.readouterr().err
    assert main([*command, "--on_error", "skip"]) == 0
    assert f"2 tasks: {output}" in capsys.readouterr().out
    assert load_tasks(output) == load_tasks(rows)
    assert main([*command, "--on_error", "skip", "--difficulty", "easy", "--max_tests", "1", "--format", "apps"]) == 0
    assert load_tasks(output) == load_tasks(rows, difficulty="easy", max_tests=1)


def test_options_of_tasks_mean_nothing_to_the_export_of_a_buffer(files, capsys):
    command = ["export", "buffer.parquet", "--to", "sft", "--output", str(files / "x.jsonl"), "--difficulty", "easy"]
    assert main(command) == 2
    assert "--difficulty: only tasks have it" in capsys.readouterr().err


def test_a_training_run_chooses_its_tasks_as_load_tasks_does(tmp_path):
    from trl_pper.cli.train_options import DataArguments
    from trl_pper.cli.train_run import _tasks, _train_dataset

    for number, (split, level) in enumerate([("train", "easy"), ("train", "hard"), ("test", "easy")]):
        folder = tmp_path / split / str(number)
        folder.mkdir(parents=True)
        for name in ("question.txt", "input_output.json"):
            (folder / name).write_text(ROWS["apps"][0]["input_output"])
        (folder / "metadata.json").write_text(json.dumps({"difficulty": level}))
    (tmp_path / "train" / "broken").mkdir()
    (tmp_path / "train" / "broken" / "question.txt").write_text("No tests.")
    given = {"difficulty": ["easy"], "max_tests": 1, "on_error": "skip"}
    data = DataArguments(tasks=str(tmp_path), task_format="apps", task_split="test", eval_split="train", **given)
    assert _train_dataset(data) == load_tasks(tmp_path, split="test", **given)
    assert _tasks(data, str(tmp_path), data.eval_split) == load_tasks(tmp_path, split="train", **given)
    for option in ("task_subset", "task_split"):
        file = tmp_path / "train" / "broken" / "question.txt"
        with pytest.raises(ValueError, match=f"{option[5:]}: only a data set with splits has one; got 'x'"):
            _train_dataset(DataArguments(tasks=str(file), **{option: "x"}))


def test_judge_names_tasks_without_programs(files, caplog):
    programs = write_programs(files, [{"task_id": "add-2", "program": "def f(x): return x + 2"}])
    line = ["judge", "--tasks", str(files / "tasks.jsonl"), "--workers", "1", "--output", str(files / "v.jsonl")]
    assert main([*line, "--programs", programs]) == 0
    assert caplog.messages == ["3 of 4 tasks have no program, the first add-1"]
    caplog.clear()
    everything = [{"task_id": f"add-{n}", "program": "def f(x): return x + 2"} for n in range(1, 5)]
    assert main([*line, "--programs", write_programs(files, everything)]) == 0
    assert caplog.messages == []


@pytest.mark.parametrize(
    ("empty", "said"), [("programs", "--programs: must hold at least one program"), ("tasks", "holds no task")]
)
def test_judge_refuses_an_empty_file(files, capsys, empty, said):
    write_programs(files, [{"task_id": "add-2", "program": "def f(x): return x + 2"}])
    (files / f"{empty}.jsonl").write_text("\n")
    line = ["judge", "--tasks", str(files / "tasks.jsonl"), "--programs", str(files / "programs.jsonl")]
    assert main([*line, "--output", str(files / "v.jsonl")]) == 2
    complaint = capsys.readouterr().err
    assert said in complaint
    assert f"{empty}.jsonl" in complaint
    assert not (files / "v.jsonl").exists()
