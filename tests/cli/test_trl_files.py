"""`trl-pper train` with a YAML file of TRL's `sft` command, with other people's names, and with tasks to hold out."""

import json

import pytest

from trl_pper import CodingTask, FunctionTests, load_tasks
from trl_pper.cli.commands import main
from trl_pper.cli.train_options import train_options

UNKNOWN = "neither trl-pper train nor accelerate launch has such an option"


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder with a data set of three splits, which is what dataset_name names in TRL's files."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data").mkdir()
    for split, number in (("train", 10), ("test", 3), ("validation", 2)):
        tasks = [
            CodingTask(
                task_id=f"{split}-{n}", prompt="# f\n", tests=FunctionTests(entry_point="f", code="assert f(1)")
            )
            for n in range(number)
        ]
        rows = "".join(json.dumps(task.to_row()) + "\n" for task in tasks)
        (tmp_path / "data" / f"{split}.jsonl").write_text(rows)
    return tmp_path


@pytest.fixture
def train(folder, monkeypatch):
    """Run the command up to the trainer; return the arguments that the trainer gets."""
    seen = []
    monkeypatch.setattr("trl_pper.cli.train_run.PPERTrainer", lambda **given: seen.append(given))
    monkeypatch.setattr("trl_pper.cli.train_run.run", lambda trainer: None)
    monkeypatch.setattr("trl_pper.cli.train.is_worth_a_launch", lambda *_, **__: False)

    def run(text, *arguments):
        (folder / "run.yaml").write_text(f"model_name_or_path: m\nuse_cpu: true\nbf16: false\n{text}")
        assert main(["train", "--config", "run.yaml", *arguments]) == 0
        return seen.pop()

    return run


@pytest.fixture
def refused(folder, capsys, monkeypatch):
    """Run the command with a file that is wrong, and return the lines that are said."""
    monkeypatch.setattr("trl_pper.cli.train_run.PPERTrainer", lambda **_: pytest.fail("a model was loaded"))
    monkeypatch.setattr("trl_pper.cli.train.is_worth_a_launch", lambda *_, **__: False)

    def run(text, *arguments):
        (folder / "run.yaml").write_text(f"model_name_or_path: m\nuse_cpu: true\nbf16: false\n{text}")
        assert main(["train", "--config", "run.yaml", *arguments]) == 2
        return [line.removeprefix("trl-pper train: ") for line in capsys.readouterr().err.splitlines()]

    return run


def ids(tasks):
    return None if tasks is None else [task.task_id for task in tasks]


def named(split, number):
    return [f"{split}-{n}" for n in range(number)]


@pytest.mark.parametrize(
    ("text", "trained", "held_out"),
    [
        ("dataset_name: data", named("train", 10), None),
        ("dataset_name: data\ndataset_test_split: validation", named("train", 10), None),
        ("dataset_name: data\neval_strategy: epoch", named("train", 10), named("test", 3)),
        (
            "dataset_name: data\ndataset_train_split: test\ndataset_test_split: validation\neval_strategy: steps\n"
            "eval_steps: 5",
            named("test", 3),
            named("validation", 2),
        ),
        (
            "dataset_name: data\neval_strategy: epoch\neval_tasks: data/test.jsonl",
            named("train", 10),
            named("test", 3),
        ),
        ("tasks: data\ntask_split: train\neval_split: test", named("train", 10), named("test", 3)),
        ("dataset_name: data/test.jsonl\neval_strategy: 'no'", named("test", 3), None),
        ("dataset_name: data\ntasks: data\ntask_split: train\ndataset_config: null", named("train", 10), None),
    ],
)
def test_a_file_of_trl_means_what_trl_means(train, text, trained, held_out):
    given = train(f"{text}\ndataset_streaming: false\ndataset_text_field: text\n")
    assert ids(given["train_dataset"]) == trained
    assert ids(given["eval_dataset"]) == held_out


def test_the_splits_of_trl_are_the_defaults_of_its_scripts():
    from trl import ScriptArguments

    defaults = ScriptArguments()
    assert (defaults.dataset_train_split, defaults.dataset_test_split) == ("train", "test")
    assert (defaults.dataset_streaming, defaults.dataset_config) == (False, None)


@pytest.mark.parametrize(("name", "value"), [("torch_dtype", "bfloat16"), ("dtype", "float16"), (None, "float32")])
def test_torch_dtype_is_the_dtype_of_the_model(train, name, value):
    given = train("dataset_name: data\n" + (f"{name}: {value}\n" if name else ""))
    assert given["args"].model_init_kwargs["dtype"] == value


def test_a_configuration_of_a_data_set_is_its_subset(folder):
    (folder / "run.yaml").write_text("model_name_or_path: m\nuse_cpu: true\nbf16: false\ndataset_name: google/mbpp\n")
    options = train_options(["--config", "run.yaml", "--dataset_config", "sanitized"])
    data, _, _ = options.configurations()
    assert (data.tasks, data.task_subset, data.task_split) == ("google/mbpp", "sanitized", "train")


@pytest.mark.parametrize("line", [["--tasks", "data/test.jsonl"], ["--dataset_name=data/test.jsonl"]])
@pytest.mark.parametrize("name", ["tasks", "dataset_name"])
def test_the_command_line_overrides_either_spelling(train, name, line):
    assert ids(train(f"{name}: data/train.jsonl\n", *line)["train_dataset"]) == named("test", 3)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            "dataset_name: a/b\ntasks: c/d",
            "dataset_name: must be equal to tasks, its other name; got a/b and c/d. Give",
        ),
        ("tasks: t.jsonl\ntorch_dtype: float16\ndtype: auto", "torch_dtype: must be equal to dtype, its other name"),
        (
            "dataset_name: a/b\ndataset_streaming: true",
            "dataset_streaming: must be false, since every round reads all",
        ),
        (
            "dataset_name: a/b\ndataset_test_split: test\neval_tasks: x.jsonl",
            "dataset_test_split: names held-out task",
        ),
        ("dataset_name: a/b\ndataset_test_split: test\neval_fraction: 0.1", "dataset_test_split: names held-out task"),
        (
            "dataset_name: data\ndataset_test_split: test\neval_split: validation\neval_strategy: epoch",
            "dataset_test_split: must be equal to eval_split",
        ),
    ],
)
def test_two_names_with_two_values_are_refused(refused, text, said):
    (line,) = refused(text + "\n")
    assert line.startswith(said)


def test_a_split_that_is_not_there_is_named(refused):
    # Behind the progress of datasets.
    said = refused("dataset_name: data\ndataset_train_split: dev\n")[-1]
    assert "dev" in said
    assert "train" in said


def test_all_errors_of_a_file_come_at_once(refused):
    said = refused(
        "tasks: data\nmodel: m\nnum_beams: many\nlr: 1e-4\npriority: rnak\nnum_processes: two\n"
        "max_seq_length: 9\nzzz: 1\n"
    )
    assert said == [
        f"run.yaml:5: model: {UNKNOWN}; the nearest is model_name_or_path",
        "run.yaml:6: num_beams: must be a whole number; got many",
        f"run.yaml:7: lr: {UNKNOWN}; the nearest is learning_rate",
        "run.yaml:8: priority: must be one of best, proportional, rank, uniform, filter; got rnak",
        "run.yaml:9: num_processes: must be a whole number or null; got two",
        f"run.yaml:10: max_seq_length: {UNKNOWN}; the nearest is max_length",
        f"run.yaml:11: zzz: {UNKNOWN}",
    ]


@pytest.mark.parametrize(
    ("name", "near"),
    [
        ("--model", "--model_name_or_path"), ("--dataset", "--tasks"), ("--train_file", "--tasks"),
        ("--eval_dataset", "--eval_tasks"), ("--batch_size", "--per_device_train_batch_size"),
        ("--epochs", "--num_train_epochs"), ("--max-new-tokens", "--max_completion_length"),
        ("--num_generations", "--num_beams"), ("--precision", "--dtype"), ("--split", "--task_split"),
        ("--workers", "--judge_workers"), ("--nproc_per_node", "--num_processes"), ("--num_beem", "--num_beams"),
    ],
)  # fmt: skip
def test_names_of_other_programs_find_their_option(refused, name, near):
    (line,) = refused("tasks: data\n", name, "1")
    assert line == f"{name.replace('max-new-tokens', 'max_new_tokens')}: {UNKNOWN}; the nearest is {near}"


@pytest.mark.parametrize(
    ("command", "name", "near"),
    [
        ("collect", "model_name_or_path", "model"), ("evaluate", "task_split", "split"),
        ("collect", "output_dir", "output"), ("judge", "judge_cpu_seconds", "cpu_seconds"),
        ("collect", "torch_dtype", "dtype"), ("evaluate", "num_generations", "num_beams"),
    ],
)  # fmt: skip
def test_other_commands_know_the_names_of_train(folder, capsys, command, name, near):
    (folder / "x.yaml").write_text(f"{name}: 1\nmax_test: 1\n")
    assert main([command, "--config", "x.yaml"]) == 2
    first, second = capsys.readouterr().err.splitlines()
    assert (
        first == f"trl-pper {command}: x.yaml:1: {name}: trl-pper {command} has no such option; the nearest is {near}"
    )
    assert second.endswith("the nearest is max_tests")


@pytest.mark.parametrize(("share", "number"), [(0.1, 1), (0.25, 2), (0.001, 1), (0.999, 9)])
def test_a_share_of_the_tasks_is_held_out_by_the_seed(train, folder, share, number):
    text = f"tasks: data/train.jsonl\neval_fraction: {share}\n"
    given, again = train(text), train(text)
    everything = load_tasks(folder / "data" / "train.jsonl")
    trained, held = given["train_dataset"], given["eval_dataset"]
    assert len(held) == number
    assert (trained, held) == (again["train_dataset"], again["eval_dataset"])
    assert sorted(ids(trained) + ids(held)) == ids(everything)
    assert [task for task in everything if task in trained] == trained
    others = {tuple(ids(train(f"{text}seed: {seed}\n")["eval_dataset"])) for seed in range(8)}
    assert len(others) > 1


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("tasks: data/train.jsonl\neval_fraction: 0", "eval_fraction: must be above 0 and below 1; got 0.0"),
        ("tasks: data/train.jsonl\neval_fraction: 1.5", "eval_fraction: must be above 0 and below 1; got 1.5"),
        ("buffer: b.parquet\neval_fraction: 0.5", "eval_fraction: needs tasks to hold some out; got a buffer"),
        (
            "tasks: data/train.jsonl\neval_fraction: 0.5\neval_tasks: data/test.jsonl",
            "eval_fraction: must be left out with held-out tasks of their own; got 0.5 and eval_tasks data/test.jsonl",
        ),
        ("tasks: one.jsonl\neval_fraction: 0.5", "eval_fraction: needs at least 2 tasks, to train on and to hold out"),
    ],
)
def test_a_share_that_cannot_be_held_out_is_refused(refused, folder, text, said):
    row = (folder / "data" / "train.jsonl").read_text().splitlines()[0]
    (folder / "one.jsonl").write_text(row + "\n")
    (line,) = refused(text + "\n")
    assert line.startswith(said)


def test_held_out_tasks_are_evaluated_behind_the_training(folder, make_model, tokenizer):
    make_model().save_pretrained(folder / "m")
    tokenizer.save_pretrained(folder / "m")
    (folder / "run.yaml").write_text(
        "model_name_or_path: m\nuse_cpu: true\nbf16: false\ndataset_name: data\ndataset_train_split: test\n"
        "eval_fraction: 0.3\noutput_dir: run\nmax_steps: 1\nnum_beams: 2\nmax_completion_length: 4\nreport_to: none\n"
        "gradient_checkpointing: false\nsave_strategy: no\ntorch_dtype: float32\n"
    )
    assert main(["train", "--config", "run.yaml"]) == 0
    assert json.loads((folder / "run" / "eval_results.json").read_text())["eval_tasks"] == 1.0
