"""`trl-pper collect`, `merge` and `rescore` as they are typed: every source, several machines, options from a file."""

import json
from pathlib import Path

import pytest

from trl_pper import ReplayBuffer
from trl_pper.cli.commands import main, parse
from trl_pper.cli.options import split_config


@pytest.fixture(scope="module")
def folder(tmp_path_factory, tasks, make_model, tokenizer):
    """Tasks, two models, and programs of a teacher."""
    folder = tmp_path_factory.mktemp("collect")
    (folder / "tasks.jsonl").write_text("".join(json.dumps(task.to_row()) + "\n" for task in tasks))
    rows = [{"task_id": task.task_id, "completion": "    return x + 1\n"} for task in tasks]
    (folder / "programs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    for seed, name in enumerate(("model", "scorer")):
        make_model(seed=seed).save_pretrained(folder / name)
        tokenizer.save_pretrained(folder / name)
    return folder


@pytest.fixture
def collect(folder, tmp_path):
    """Run the command with short options, and return its exit code and the buffer's path."""

    def run(*options, name="buffer.parquet"):
        code = main(["collect", "--tasks", str(folder / "tasks.jsonl"), "--output", str(tmp_path / name), "--workers",
                     "1", "--max_completion_length", "5", *map(str, options)])  # fmt: skip
        return code, tmp_path / name

    return run


def experiences(path):
    return sorted(ReplayBuffer.load(path), key=lambda one: one.key)


def test_a_model_writes_beams_or_samples(collect, folder):
    code, beams = collect("--source", "model", "--model", folder / "model", "--num_beams", 2)
    assert code == 0
    code, samples = collect(
        "--model", folder / "model", "--decoding", "nucleus", "--num_programs", 3, "--temperature", 0.5,
        "--top_p", 0.9, "--sampling_seed", 4, "--stop", "\n#", "\nclass", name="samples.parquet",
    )  # fmt: skip
    assert code == 0
    assert {json.loads(one.settings)["method"] for one in experiences(beams)} == {"beam search"}
    (settings,) = {one.settings for one in experiences(samples)}
    assert json.loads(settings) == {
        "method": "nucleus sampling", "num_programs": 3, "max_completion_length": 5, "temperature": 0.5,
        "top_p": 0.9, "seed": 4, "stop": ["\n#", "\nclass"],
    }  # fmt: skip
    for one in experiences(beams) + experiences(samples):
        assert one.source == one.scorer == str(folder / "model")
    assert not list(beams.parent.glob("*.journal"))


@pytest.mark.parametrize("decoding", ["beam", "nucleus"])
def test_machines_that_share_the_tasks_collect_what_one_collects(collect, folder, tmp_path, decoding, capsys):
    options = ["--model", folder / "model", "--decoding", decoding, "--num_programs", 2, "--batch_size", 2]
    _, alone = collect(*options, name="alone.parquet")
    for index in range(2):
        assert collect(*options, "--num_shards", 2, "--shard_index", index)[0] == 0
    shards = sorted(tmp_path.glob("buffer-*.parquet"))
    assert [path.name for path in shards] == ["buffer-00000-of-00002.parquet", "buffer-00001-of-00002.parquet"]
    assert {one.task_id for one in ReplayBuffer.load(shards[1])} == {"add-3", "add-4"}
    assert main(["merge", *map(str, shards), "--output", str(tmp_path / "merged.parquet")]) == 0
    assert experiences(tmp_path / "merged.parquet") == experiences(alone)
    assert f"{len(experiences(alone))} programs of 2 buffers: 0 repeated" in capsys.readouterr().out


def test_a_named_model_scores_the_programs_of_a_file(collect, folder, tmp_path, capsys):
    code, path = collect("--source", "dataset", "--programs", folder / "programs.jsonl", "--scorer", folder / "scorer")
    assert code == 0
    assert {one.scorer for one in experiences(path)} == {str(folder / "scorer")}
    _, bare = collect("--programs", folder / "programs.jsonl", name="bare.parquet")
    assert {one.scorer for one in experiences(bare)} == {""}
    scored = tmp_path / "scored.parquet"
    assert main(["rescore", str(bare), "--scorer", str(folder / "scorer"), "--output", str(scored)]) == 0
    assert "4 of 4 programs have a log-probability" in capsys.readouterr().out
    assert [one.logprob for one in experiences(scored)] == pytest.approx(
        [one.logprob for one in experiences(path)], abs=1e-3
    )
    again = tmp_path / "again.parquet"
    assert main(["rescore", str(path), "--scorer", str(folder / "model"), "--output", str(again)]) == 0
    assert experiences(again) == experiences(path)
    assert main(["rescore", str(path), "--scorer", str(folder / "model"), "--all", "--output", str(again)]) == 0
    assert {one.scorer for one in experiences(again)} == {str(folder / "model")}


def test_options_on_the_command_line_override_the_file(folder, tmp_path):
    config = tmp_path / "collect.yaml"
    config.write_text(
        f"tasks: {folder / 'tasks.jsonl'}\nmodel: {folder / 'model'}\ndecoding: nucleus\nnum_programs: 9\n"
        f"max_completion_length: 3\nworkers: 1\nstop: [\"\\n#\", '- x']\nscorer: null\nchat: false\n"
        f"output: {tmp_path / 'buffer.parquet'}\n"
    )
    assert main(["collect", "--config", str(config), "--num_programs", "1"]) == 0
    (settings,) = {one.settings for one in ReplayBuffer.load(tmp_path / "buffer.parquet")}
    assert (json.loads(settings)["num_programs"], json.loads(settings)["stop"]) == (1, ["\n#", "- x"])


def test_a_file_gives_a_command_its_defaults(tmp_path):
    path = tmp_path / "x.yaml"
    path.write_text(
        "tasks: 2024.jsonl\noutput: b.parquet\nn: 4\nchat: true\nstop: [x, 2]\nextra_body: {g: [1]}\ntop_p: 1e-1\n"
        "temperature: null\nmax_retries: '3'\n"
    )
    line = [f"--config={path}", "--num_beams", "2"]
    assert split_config(line) == (path, ["--num_beams", "2"])
    found = parse(["collect", *line])
    assert (found.tasks, found.output, found.num_programs) == ("2024.jsonl", Path("b.parquet"), 2)
    assert (found.chat, found.stop, found.top_p, found.max_retries) == (True, ["x", "2"], 0.1, 3)
    assert found.extra_body == {"g": [1]}
    assert found.temperature is None
    assert split_config([]) == (None, [])


@pytest.mark.parametrize("command", ["collect", "judge", "evaluate", "amplify", "export"])
@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("max_tests: 2.5", "x.yaml:1: max_tests: must be a whole number or null; got 2.5"),
        ("format: apsp", "x.yaml:1: format: must be one of auto, humaneval, mbpp"),
        ("max_test: 2", "has no such option; the nearest is max_tests"),
        ("split: [a, b]", 'x.yaml:1: split: must be text or null; got ["a", "b"]'),
        ("split: a\nsplit: b", "x.yaml:2: split: must stand there once; line 1 has it already"),
        ("config: y.yaml", "x.yaml:1: config: trl-pper"),
    ],
)
def test_every_command_refuses_what_an_option_does_not_take(tmp_path, capsys, command, text, said):
    (tmp_path / "x.yaml").write_text(text + "\n")
    assert main([command, "--config", str(tmp_path / "x.yaml")]) == 2
    assert said in capsys.readouterr().err


def test_two_names_of_one_option_are_refused_in_a_file(tmp_path, capsys):
    (tmp_path / "x.yaml").write_text("num_programs: 2\nn: 3\n")
    assert main(["collect", "--config", str(tmp_path / "x.yaml")]) == 2
    assert "x.yaml:2: n: must be given once; num_programs is the same option" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ([], "--source: exactly one of --model, --server and --programs is required; got none"),
        (["--model", "m", "--server", "s"], "--model, --server and --programs is required; got --model, --server"),
        (["--source", "server", "--model", "m"], "--source: --server and no other of --model"),
        (["--model", "m", "--concurrency", "2"], "--concurrency: belongs to --server; got it with --model"),
        (["--programs", "p", "--temperature", "1"], "--temperature: belongs to --model or --server; got it"),
        (["--server", "s", "--decoding", "beam"], "--decoding: belongs to --model; got it with --server"),
        (["--model", "m", "--temperature", "1"], "--temperature: belongs to --decoding nucleus; got beam"),
        (["--model", "m", "--decoding", "nucleus", "--num_beam_groups", "3"], "belongs to --decoding beam; got"),
        (["--model", "m", "--num_beam_groups", "2"], "num_beam_groups: must divide num_beams (3); got 2"),
        (["--model", "m", "--decoding", "nucleus", "--top_p", "2"], "top_p: must be above 0 and at most 1; got 2.0"),
        (["--server", "http://localhost:1/v1"], "--server_model: required with --server"),
        (["--model", "m", "--num_shards", "2"], "--shard_index: must be in 0 to 1, one for each machine; got None"),
        (["--model", "m", "--num_shards", "2", "--shard_index", "2"], "--shard_index: must be in 0 to 1"),
        (["--model", "m", "--shard_index", "1"], "--shard_index: must be in 0 to 0"),
        (["--model", "m", "--num_shards", "0"], "--num_shards: must be at least 1"),
        (["--model", "m", "--num_shards", "2", "--shard_index", "1"], "tasks in batches of 8 leave none for shard 1"),
        (["--config"], "--config: a YAML file is required"),
        (["--config", "nowhere.yaml"], "nowhere.yaml: no such file"),
    ],
)  # fmt: skip
def test_contradictions_are_refused_before_any_model_is_loaded(collect, capsys, monkeypatch, options, said):
    monkeypatch.setattr(
        "trl_pper.generation.local_model.load_model", lambda *_, **__: pytest.fail("a model was loaded")
    )
    assert collect(*options)[0] == 2
    assert said in capsys.readouterr().err


@pytest.mark.parametrize("text", ["- a\n- b\n", "just text", "1: 2\n", "a: [\n"])
def test_a_file_that_maps_no_options_is_refused(tmp_path, capsys, text):
    (tmp_path / "x.yaml").write_text(text)
    assert main(["collect", "--config", str(tmp_path / "x.yaml")]) == 2
    assert "x.yaml: must " in capsys.readouterr().err


def test_buffers_of_several_tokenizers_do_not_merge(tmp_path, capsys):
    for name in ("one", "two"):
        ReplayBuffer(tokenizer=name).save(tmp_path / f"{name}.parquet")
    files = [str(tmp_path / f"{name}.parquet") for name in ("one", "two")]
    assert main(["merge", *files, "--output", str(tmp_path / "merged.parquet")]) == 2
    assert "tokenizer" in capsys.readouterr().err
    assert not (tmp_path / "merged.parquet").exists()
