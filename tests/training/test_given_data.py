"""The data that people pass to PPERTrainer first: raw rows, paths, whole data sets, wrong arguments."""

import json
from dataclasses import replace

import datasets
import pytest

from tests.support.benchmark_rows import ROWS
from trl_pper import PPERConfig, PPERTrainer, load_tasks
from trl_pper.training.dataset import holds_tasks

ANSWERS = {
    "text": [{"text": "x"}],
    "messages": [{"messages": [{"role": "user", "content": "x"}]}],
    "completion": [{"prompt": "x", "completion": "y"}],
    "chosen": [{"prompt": "x", "chosen": "y", "rejected": "z"}],
}
#: The tokenizer of the tests has no chat template.
FORMATS = [name for name in ROWS if isinstance(load_tasks([ROWS[name][0]])[0].prompt, str)]


@pytest.fixture
def make(tmp_path, make_model, tokenizer):
    """Make a trainer whose model has room for any prompt."""

    def build(train_dataset, **options):
        config = PPERConfig(
            str(tmp_path / "run"), use_cpu=True, bf16=False, report_to=[], num_beams=2, max_completion_length=4,
            max_length=None, judge_workers=1, disable_tqdm=True,
        )  # fmt: skip
        return PPERTrainer(
            make_model(n_positions=4096), config, train_dataset=train_dataset, processing_class=tokenizer, **options
        )

    return build


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("kind", [list, datasets.Dataset.from_list])
def test_raw_benchmark_rows_are_taken_as_tasks(make, capsys, name, kind):
    row = ROWS[name][0]
    trainer = make(kind([row]))
    (task,) = load_tasks([row])
    (taken,) = trainer.collector.tasks
    # The model of these tests is a base model: a task without stops gets those of functions.
    assert replace(taken, stop=task.stop or taken.stop) == replace(task, stop=taken.stop)
    said = capsys.readouterr().out.replace("text prompts are continued as text, as this is a base model\n", "")
    if name == "native" and kind is not list:
        assert said == ""
    else:
        assert said == f"train_dataset: 1 tasks, read in the format {name.split()[0]}\n"


def test_most_formats_are_tried():
    assert {name.split()[0] for name in FORMATS} >= {"humaneval", "mbpp", "apps", "live_code_bench", "native"}


@pytest.mark.parametrize("name", ["humaneval", "mbpp", "apps"])
def test_raw_rows_are_held_out_tasks_too(make, tasks, name):
    rows = datasets.Dataset.from_list([ROWS[name][0]])
    trainer = make(tasks, eval_dataset=datasets.DatasetDict(raw=rows, mine=rows))
    assert set(trainer.eval_dataset) == {"raw", "mine"}
    assert all(map(holds_tasks, trainer.eval_dataset.values()))
    scores = trainer.evaluate([ROWS[name][0]])
    assert scores["eval_tasks"] == 1.0


def test_a_path_is_read_as_load_tasks_reads_it(make, tmp_path, tasks, capsys):
    path = tmp_path / "tasks.jsonl"
    path.write_text("".join(json.dumps(task.to_row()) + "\n" for task in tasks))
    trainer = make(path, eval_dataset=str(path))
    assert [replace(task, stop=()) for task in trainer.collector.tasks] == tasks
    assert load_tasks(trainer.eval_dataset) == tasks
    assert f"train_dataset: 4 tasks from {path}, read in the format native" in capsys.readouterr().out


def test_an_id_of_the_hub_is_read_as_load_tasks_reads_it(make, monkeypatch, capsys):
    asked = []

    def load_dataset(name, *_, **__):
        asked.append(name)
        return datasets.DatasetDict(test=datasets.Dataset.from_list([ROWS["humaneval"][0]]))

    monkeypatch.setattr("datasets.load_dataset", load_dataset)
    trainer = make("openai/openai_humaneval", eval_dataset="openai/openai_humaneval")
    assert set(asked) == {"openai/openai_humaneval"}
    assert trainer.collector.tasks == load_tasks(trainer.eval_dataset) == load_tasks([ROWS["humaneval"][0]])
    assert (
        "train_dataset: 1 tasks from openai/openai_humaneval, read in the format humaneval" in capsys.readouterr().out
    )


def test_rows_of_judged_programs_are_replayed(make):
    trainer = make([{"prompt": "p", "completion": "c", "logprob": -1.0, "pass_rate": 1.0}])
    assert trainer.collector is None
    assert [one.completion for one in trainer.buffer] == ["c"]


@pytest.mark.parametrize("name", ANSWERS)
@pytest.mark.parametrize("kind", ["list", "data set", "file"])
def test_answers_without_tests_belong_to_sfttrainer(make, tmp_path, name, kind):
    rows = ANSWERS[name]
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    given = {"list": rows, "data set": datasets.Dataset.from_list(rows), "file": path}[kind]
    with pytest.raises(ValueError, match=r"^train_dataset: .*needs the columns .*SFTTrainer.*load_tasks\("):
        make(given)


@pytest.mark.parametrize("kind", [list, datasets.Dataset.from_list])
@pytest.mark.parametrize("name", ["text", "completion"])
def test_answers_stay_an_evaluation_set_of_sfttrainer(make, tasks, name, kind):
    trainer = make(tasks, eval_dataset=kind(ANSWERS[name]))
    assert trainer.evaluate()["eval_loss"] > 0


@pytest.mark.parametrize(
    ("rows", "named"),
    [
        (
            [{"a": 1}],
            r"columns \['prompt', 'task_id', 'tests'\] \(tasks\).*load_tasks reads.*got \['a'\]",
        ),
        ([ROWS["apps"][0], {"question": "x", "input_output": "nothing"}], r"row 2: .*load_tasks.*on_error='skip'"),
    ],
)
@pytest.mark.parametrize("kind", [list, datasets.Dataset.from_list])
def test_rows_that_are_no_tasks_name_load_tasks(make, rows, named, kind):
    with pytest.raises(ValueError, match=rf"^train_dataset: .*{named}"):
        make(kind(rows))


def test_files_without_tasks_are_named(make, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"^none.jsonl: no such file"):
        make("none.jsonl")
    (tmp_path / "empty.jsonl").write_text("")
    with pytest.raises(ValueError, match=r"^train_dataset: .*empty.jsonl: must hold at least one task; got none"):
        make(tmp_path / "empty.jsonl")
    (tmp_path / "data").mkdir()
    for split in ("train", "test"):
        (tmp_path / "data" / f"{split}.jsonl").write_text(json.dumps(ROWS["mbpp"][0]) + "\n")
    with pytest.raises(ValueError, match=r"^train_dataset: .*one of train, test; .*Choose with load_tasks\('.*split="):
        make(tmp_path / "data")


def test_a_whole_data_set_names_its_splits(make, tasks):
    rows = datasets.Dataset.from_list([ROWS["humaneval"][0]])
    with pytest.raises(ValueError, match=r"one split .*got train, test. Pass train_dataset=dataset\['train'\]"):
        make(datasets.DatasetDict(train=rows, test=rows))
    with pytest.raises(ValueError, match=r"got test. Pass train_dataset=dataset\['test'\]"):
        make(datasets.DatasetDict(test=rows))


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("tokenizer", "tokenizer: PPERTrainer has no such argument; the nearest is processing_class"),
        ("peft_conf", "peft_conf: PPERTrainer has no such argument; the nearest is peft_config"),
        ("num_beams", r"num_beams: .* it is an option: pass args=PPERConfig\(num_beams=\.\.\.\)"),
        ("zzz", "zzz: PPERTrainer has no such argument$"),
    ],
)
def test_a_wrong_argument_is_one_of_pper_trainer(make, tasks, name, said):
    with pytest.raises(TypeError, match=f"^{said}"):
        make(tasks, **{name: None})


def test_an_adapter_in_place_of_a_model_is_refused_with_the_remedy(tmp_path):
    (tmp_path / "adapter_config.json").write_text("{}")
    with pytest.raises(ValueError, match=r"^model: must be a whole model; .* Merge it first.*: trl-pper merge "):
        PPERTrainer(str(tmp_path))
