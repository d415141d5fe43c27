"""PPERTrainer as a user of TRL drives it: tasks in, rounds of collection and replay, checkpoints, evaluation, LoRA."""

import copy
import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import datasets
import pytest
import torch
from transformers import TrainerCallback

from tests.support.broken_judge import BrokenJudge
from trl_pper import (
    BeamSampleCollector,
    CodingTask,
    DatasetSource,
    Experience,
    FunctionTests,
    Limits,
    PPERConfig,
    PPERTrainer,
    ReplayBuffer,
    StdioTests,
)
from trl_pper.rounds.journal import Journal
from trl_pper.tasks.task import StdioCase


@pytest.fixture(scope="module")
def make_config(tmp_path_factory):
    def build(**options) -> PPERConfig:
        output_dir = tmp_path_factory.mktemp("run")
        settings = dict(
            output_dir=str(output_dir), use_cpu=True, bf16=False, report_to=[], disable_tqdm=True, num_beams=2,
            max_completion_length=6, max_length=128, per_device_train_batch_size=4, steps_per_round=2,
            num_train_epochs=2, learning_rate=1e-2, logging_steps=1, save_strategy="no", judge_workers=1,
            judge_cpu_seconds=1.0, judge_memory_bytes=2**30, gradient_checkpointing=False,
        )  # fmt: skip
        return PPERConfig(**{**settings, **options})

    return build


@pytest.fixture(scope="module")
def teacher(tasks) -> DatasetSource:
    """For each task a right program, a half-right one and one that is no Python."""
    rows = []
    for n, task in enumerate(tasks, start=1):
        for body in (f"    return x + {n}\n", f"    return x or {n}\n", "    return ((\n"):
            rows.append({"task_id": task.task_id, "completion": body})
    return DatasetSource(rows, name="teacher")


@pytest.fixture(scope="module")
def make_trainer(make_config, make_model, tokenizer, tasks):
    made = []

    def build(model=None, *, train_dataset=None, **options) -> PPERTrainer:
        trainer_options = {
            name: options.pop(name)
            for name in ("callbacks", "eval_dataset", "buffer", "peft_config")
            if name in options
        }
        trainer = PPERTrainer(
            model=model if model is not None else make_model(),
            args=make_config(**options),
            train_dataset=tasks if train_dataset is None else train_dataset,
            processing_class=tokenizer,
            **trainer_options,
        )
        made.append(trainer)
        return trainer

    yield build
    for trainer in made:
        trainer.judge.close()


@pytest.fixture(scope="module")
def trained(make_trainer) -> PPERTrainer:
    """Two rounds of a model in training that writes its own programs, a checkpoint after each."""
    trainer = make_trainer(save_strategy="epoch")
    trainer.train()
    return trainer


def weights(trainer) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in trainer.model.state_dict().items()}


def assert_equal(left: dict[str, torch.Tensor], right: dict[str, torch.Tensor]) -> None:
    assert left.keys() == right.keys()
    assert [name for name in left if not torch.equal(left[name], right[name])] == []


def test_each_epoch_is_one_round_that_keeps_failed_programs_too(trained, tasks):
    trainer = trained
    assert trainer.state.global_step == 4
    assert [report.round_index for report in trainer.collector.reports] == [0, 1]
    first = trainer.collector.reports[0]
    assert first.programs == 8 == first.added + first.duplicates
    assert first.unjudged == 0
    trainer.buffer.check_valid()
    assert {experience.task_id for experience in trainer.buffer} == {task.task_id for task in tasks}
    # An untrained model writes junk: all of it failed, all of it is there, with its probability.
    assert trainer.buffer.pass_rates().max() == 0.0
    assert all(experience.logprob is not None and experience.logprob < 0 for experience in trainer.buffer)


def test_samples_differ_between_rounds_and_not_between_runs(make_trainer, tasks):
    runs = []
    for _ in range(2):
        # Without learning the weights stay, so that only the round tells the samples apart.
        trainer = make_trainer(decoding="nucleus", learning_rate=0.0, num_beams=3, max_completion_length=4)
        trainer.train()
        runs.append([(one.round_index, one.completion, one.logprob) for one in trainer.buffer])
    assert runs[0] == runs[1]
    first, second = ([one for one in runs[0] if one[0] == index] for index in (0, 1))
    assert len(first) == len(second) == 3 * len(tasks)
    assert {json.loads(one.settings)["method"] for one in trainer.buffer} == {"nucleus sampling"}


def test_rounds_are_logged_like_every_other_metric(trained):
    rounds = [entry for entry in trained.state.log_history if "pper/pass_rate" in entry]
    assert len(rounds) == 2
    assert {name for name in rounds[0] if name.startswith("pper/")} == {
        "pper/round_index", "pper/programs", "pper/judged", "pper/unjudged", "pper/unextracted", "pper/restored",
        "pper/added", "pper/duplicates", "pper/evicted", "pper/pass_rate", "pper/solved", "pper/effective_sample_size",
        "pper/staleness", "pper/generate_seconds", "pper/judge_seconds", "pper/collect_seconds", "pper/shared_tasks",
        "pper/clipped_ratio", "pper/repairs",
    }  # fmt: skip
    first, second = rounds
    assert first["pper/staleness"] == 0.0
    old = trained.buffer.round_indices() == 0
    probabilities = trained.buffer.probabilities()
    assert second["pper/staleness"] == pytest.approx(probabilities[old].sum())
    assert second["pper/effective_sample_size"] == pytest.approx(1 / sum(probabilities**2))
    assert 0 < first["pper/generate_seconds"] <= first["pper/collect_seconds"]
    assert {"pper/programs", "pper/solved", "pper/duplicates", "pper/judge_seconds"} <= set(rounds[0])
    # They travel with the first entry of a training step, so that callbacks find a loss in every entry.
    assert [entry["step"] for entry in rounds] == [1, 3]
    assert all("loss" in entry for entry in rounds)
    assert sum("loss" in entry for entry in trained.state.log_history) == 4


class NeedsALoss(TrainerCallback):
    """Reads the loss of each entry of training steps, as scripts do."""

    def __init__(self) -> None:
        self.losses: list[float] = []

    def on_log(self, args, state, control, logs, **others):
        if "train_runtime" not in logs:
            self.losses.append(logs["loss"])


@pytest.mark.parametrize("options", [{"logging_steps": 3}, {"logging_steps": 100, "save_steps": 1}])
def test_every_rounds_figures_are_logged_with_a_loss(make_trainer, options):
    # The steps of a round end before an entry would be due.
    callback = NeedsALoss()
    trainer = make_trainer(callbacks=[callback], save_strategy="steps" if "save_steps" in options else "no", **options)
    trainer.train()
    rounds = [entry for entry in trainer.state.log_history if "pper/pass_rate" in entry]
    assert [entry["pper/round_index"] for entry in rounds] == [0, 1]
    assert len(callback.losses) == (4 if "save_steps" in options else 3)


def test_without_logging_rounds_have_entries_of_their_own(make_trainer):
    trainer = make_trainer(logging_strategy="no")
    trainer.train()
    rounds = [entry for entry in trainer.state.log_history if "pper/pass_rate" in entry]
    assert [entry["pper/round_index"] for entry in rounds] == [0, 1]
    assert not any("loss" in entry for entry in trainer.state.log_history)


@pytest.mark.parametrize("with_bars", [False, True])
def test_the_console_has_a_line_a_round_and_no_figures(make_trainer, capfd, with_bars):
    make_trainer(disable_tqdm=not with_bars).train()
    said = capfd.readouterr()
    assert said.out.count("programs, 8 judged, mean pass rate") == 2
    assert "pper/" not in said.out + said.err
    assert (said.out + said.err).count("'loss'") == 4


def test_a_teachers_programs_are_judged_scored_and_learned(make_trainer, teacher, tasks):
    trainer = make_trainer(
        callbacks=[BeamSampleCollector(source=teacher)], possibility_weight=0.0, priority_exponent=4.0,
        num_train_epochs=1, steps_per_round=30,
    )  # fmt: skip
    trainer.train()
    assert len(trainer.buffer) == 12
    by_body = {(one.task_id, one.completion): one for one in trainer.buffer}
    assert by_body["add-2", "    return x + 2\n"].pass_rate == 1.0
    assert 0.0 < by_body["add-2", "    return x or 2\n"].pass_rate < 1.0
    assert by_body["add-2", "    return ((\n"].pass_rate == 0.0
    # Scored under the student, end token included, since the teacher's rows have no log-probability.
    assert by_body["add-2", "    return ((\n"].num_tokens == len("    return ((\n") + 1
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    assert losses[-1] < 0.7 * losses[0]


def test_drawn_programs_are_what_the_sampler_says(make_trainer, teacher, tokenizer):
    """The real data loader yields exactly the programs drawn by P2Value, short ones first, with the prompt masked."""
    trainer = make_trainer(callbacks=[BeamSampleCollector(source=teacher)], gradient_accumulation_steps=2)
    trainer.collector.collect(0)
    rows = [
        row
        for batch in trainer.get_train_dataloader()
        for row in zip(batch["input_ids"], batch["labels"], strict=True)
    ]
    steps = [[trainer.buffer[i] for i in trainer.buffer.draw(8, round_index=0, step=step)] for step in range(2)]
    drawn = [one for step in steps for one in sorted(step, key=lambda one: len(one.prompt + one.completion))]
    assert len(rows) == len(drawn) == 16
    for (ids, labels), experience in zip(rows, drawn, strict=True):
        text = experience.prompt + experience.completion
        assert tokenizer.decode(ids, skip_special_tokens=True) == text
        assert tokenizer.decode(labels[labels != -100]) == experience.completion + "<eos>"


def test_the_default_round_draws_each_program_once_on_average(make_trainer, tasks):
    assert make_trainer(steps_per_round=None).steps_per_round == 2  # 4 tasks * 2 beams / batch of 4
    assert make_trainer(steps_per_round=None, gradient_accumulation_steps=3).steps_per_round == 1


def test_max_steps_ends_a_run_within_a_round(make_trainer):
    trainer = make_trainer(max_steps=3)
    trainer.train()
    assert trainer.state.global_step == 3
    assert len(trainer.collector.reports) == 2


def test_judged_programs_are_replayed_without_collecting(make_trainer, tokenizer):
    rows = datasets.Dataset.from_list(
        [{"prompt": f"# {n}\n", "completion": f"x = {n}", "logprob": -float(n), "pass_rate": n / 8} for n in range(8)]
    )
    trainer = make_trainer(train_dataset=rows, steps_per_round=None)
    assert trainer.collector is None
    assert trainer.steps_per_round == 2
    assert [one.num_tokens for one in trainer.buffer] == [6] * 8  # five bytes and the end token
    before = weights(trainer)
    trainer.train()
    assert any(not torch.equal(before[name], value) for name, value in weights(trainer).items())


def test_a_program_that_max_length_leaves_nothing_of_is_refused(make_trainer):
    rows = [{"prompt": "#" * length, "completion": "x = 1", "logprob": None, "pass_rate": 1.0} for length in (9, 60)]
    with pytest.raises(ValueError, match="max_length: cuts off the whole completion of 1 experiences"):
        make_trainer(train_dataset=datasets.Dataset.from_list(rows), max_length=50)


def test_a_buffer_goes_on_where_it_was(make_trainer, tasks):
    buffer = ReplayBuffer()
    kept = Experience(task_id="old", prompt="# old\n", completion="x = 1", program="x = 1", pass_rate=1.0)
    buffer.add([kept])
    trainer = make_trainer(buffer=buffer, num_train_epochs=1)
    trainer.train()
    assert trainer.buffer is buffer
    assert kept in list(buffer)
    assert len(buffer) > 1


def test_a_buffer_of_another_tokenizer_is_refused(make_trainer, tokenizer):
    trainer = make_trainer()
    assert trainer.buffer.tokenizer
    assert make_trainer(buffer=trainer.buffer).buffer is trainer.buffer
    with pytest.raises(
        ValueError, match=r"buffer: was filled with the tokenizer another.*without its columns logprob"
    ):
        make_trainer(buffer=ReplayBuffer(tokenizer="another"))


@pytest.mark.parametrize("accumulation", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_a_resumed_run_equals_an_uninterrupted_one(make_trainer, make_model, teacher, accumulation):
    options = dict(
        callbacks=None, save_strategy="steps", save_steps=3, num_train_epochs=3, steps_per_round=2,
        gradient_accumulation_steps=accumulation, lr_scheduler_type="linear",
    )  # fmt: skip
    whole = make_trainer(make_model(dropout=0.1), **{**options, "callbacks": [BeamSampleCollector(source=teacher)]})
    whole.train()
    checkpoint = Path(whole.args.output_dir) / "checkpoint-3"  # in the middle of the second round
    resumed = make_trainer(
        make_model(seed=9, dropout=0.1), **{**options, "callbacks": [BeamSampleCollector(source=teacher)]}
    )
    resumed.train(resume_from_checkpoint=str(checkpoint))
    assert [report.round_index for report in resumed.collector.reports] == [2]
    assert resumed.buffer.digest() == whole.buffer.digest()
    assert_equal(weights(resumed), weights(whole))


def test_a_checkpoint_without_its_own_buffer_is_refused(make_trainer, trained, tmp_path):
    options = {"save_strategy": "epoch"}
    checkpoint = tmp_path / "checkpoint-2"
    shutil.copytree(Path(trained.args.output_dir) / checkpoint.name, checkpoint)
    file = checkpoint / "_pper" / "buffer.parquet"
    with pytest.raises(ValueError, match="Resume with the same settings"):
        make_trainer(priority="rank", **options).train(resume_from_checkpoint=str(checkpoint))
    other = ReplayBuffer.load(file)
    other.add([Experience(task_id="other", prompt="p", completion="c", program="c", pass_rate=0.5)])
    other.save(file)
    with pytest.raises(ValueError, match="is not the buffer of this checkpoint"):
        make_trainer(**options).train(resume_from_checkpoint=str(checkpoint))
    file.unlink()
    with pytest.raises(ValueError, match=r"has no _pper/buffer\.parquet"):
        make_trainer(**options).train(resume_from_checkpoint=str(checkpoint))


def test_lora_trains_the_adapter_alone_and_collects_with_it(make_trainer, teacher, tmp_path):
    from peft import LoraConfig, PeftModel

    trainer = make_trainer(
        peft_config=LoraConfig(r=4, target_modules=["c_attn"], fan_in_fan_out=True, task_type="CAUSAL_LM"),
        gradient_checkpointing=True,
    )
    before = weights(trainer)
    trainer.train()
    assert len(trainer.collector.reports) == 2
    changed = {name for name, value in weights(trainer).items() if not torch.equal(before[name], value)}
    assert changed
    assert all("lora_" in name for name in changed)
    trainer.save_model(str(tmp_path / "adapter"))
    assert (tmp_path / "adapter" / "adapter_model.safetensors").is_file()
    assert isinstance(trainer.model, PeftModel)


def test_evaluation_on_tasks_generates_judges_and_logs(make_trainer, tasks):
    trainer = make_trainer(eval_dataset=tasks[:3], eval_strategy="epoch")
    trainer.train()
    entries = [entry for entry in trainer.state.log_history if "eval_accuracy" in entry]
    assert len(entries) == 2
    assert entries[0]["eval_tasks"] == 3.0
    assert entries[0]["eval_programs"] == 6.0
    assert 0.0 <= entries[0]["eval_accuracy"] <= entries[0]["eval_pass@2"] <= 1.0
    assert 0.0 <= entries[0]["eval_pass_rate"] <= 1.0
    assert "loss" not in entries[0]


@pytest.mark.slow
def test_evaluation_of_named_sets_finds_the_best_checkpoint(make_trainer, tasks):
    trainer = make_trainer(
        eval_dataset={"easy": tasks[:1], "hard": tasks[1:]}, eval_strategy="epoch", save_strategy="epoch",
        load_best_model_at_end=True, metric_for_best_model="eval_easy_accuracy", save_total_limit=2,
    )  # fmt: skip
    trainer.train()
    assert trainer.state.best_metric == 0.0
    assert trainer.state.best_model_checkpoint.endswith("checkpoint-2")
    metrics = trainer.evaluate({"one": tasks[:1]}, metric_key_prefix="test")
    assert metrics["test_one_tasks"] == 1.0
    assert trainer.evaluate(tasks)["eval_tasks"] == 4.0


def test_training_stops_early_on_an_evaluation_metric(make_trainer, tasks, teacher):
    from transformers import EarlyStoppingCallback

    trainer = make_trainer(
        callbacks=[BeamSampleCollector(source=teacher), EarlyStoppingCallback(early_stopping_patience=1)],
        eval_dataset=tasks[:1], eval_strategy="epoch", save_strategy="epoch", load_best_model_at_end=True,
        metric_for_best_model="pass@2", num_train_epochs=4,
    )  # fmt: skip
    assert trainer.args.greater_is_better
    trainer.train()
    # Nothing is ever solved: the second evaluation is no better than the first.
    assert trainer.state.global_step == 4
    assert [entry["eval_pass@2"] for entry in trainer.state.log_history if "eval_pass@2" in entry] == [0.0, 0.0]
    assert trainer.state.best_model_checkpoint.endswith("checkpoint-2")


def test_evaluation_on_prompt_completion_rows_is_that_of_sft(make_trainer):
    rows = datasets.Dataset.from_list([{"prompt": "# a\n", "completion": "x = 1"}] * 3)
    metrics = make_trainer(eval_dataset={"train": rows}).evaluate()
    assert metrics["eval_train_loss"] > 0


def test_chat_prompts_go_through_the_chat_template(make_config, make_model, tokenizer):
    tokenizer = copy.deepcopy(tokenizer)
    tokenizer.chat_template = (
        "{% for m in messages %}[{{ m.role }}]{{ m.content }}{% if m.role == 'assistant' %}{{ eos_token }}{% endif %}"
        "{% endfor %}{% if add_generation_prompt %}[assistant]{% endif %}"
    )
    task = CodingTask(
        task_id="chat",
        prompt=[{"role": "user", "content": "Write f that doubles x."}],
        tests=FunctionTests(entry_point="f", code="assert f(2) == 4"),
    )
    source = DatasetSource([{"task_id": "chat", "completion": "Sure:\n```python\ndef f(x): return 2 * x\n```"}])
    trainer = PPERTrainer(
        make_model(),
        make_config(num_train_epochs=1),
        train_dataset=[task],
        processing_class=tokenizer,
        callbacks=[BeamSampleCollector(source=source)],
    )
    with trainer.judge:
        trainer.train()
    (experience,) = trainer.buffer
    assert experience.pass_rate == 1.0
    assert experience.program.strip() == "def f(x): return 2 * x"
    tokens = trainer.train_dataset[0]
    learned = tokenizer.decode([token for token in tokens["labels"] if token != -100])
    assert learned == experience.completion + "<eos>"
    assert tokenizer.decode(tokens["input_ids"]).startswith("[user]Write f that doubles x.[assistant]Sure")
    (beams,) = trainer.beam_search().generate([task], student=trainer.student)
    assert len(beams) == 2


def test_a_sandbox_that_fails_is_never_a_zero(make_trainer, teacher):
    trainer = make_trainer(callbacks=[BeamSampleCollector(source=teacher, judge=BrokenJudge())])
    with pytest.raises(ValueError, match="none of 12 programs could be judged"):
        trainer.train()
    assert len(trainer.buffer) == 0
    assert trainer.collector.reports[0].unjudged == 12
    # Everything is on the disk: with a sandbox that works, nothing is generated again.
    (folder,) = (Path(trainer.args.output_dir) / "_pper" / "journal").iterdir()
    assert len(Journal(folder).read(trainer.collector.tasks)) == 4
    again = make_trainer(
        callbacks=[BeamSampleCollector(source=teacher)], output_dir=trainer.args.output_dir, num_train_epochs=1
    )
    again.train()
    assert (again.collector.reports[0].restored, again.collector.reports[0].judged) == (12, 12)


@pytest.mark.parametrize(
    ("train_dataset", "error", "named"),
    [
        ([], ValueError, "train_dataset: must hold at least one task"),
        (None, TypeError, "train_dataset: must be a list of CodingTask"),
        (["text"], TypeError, "train_dataset: must be a list of CodingTask"),
        (datasets.Dataset.from_list([{"text": "x"}]), ValueError, r"train_dataset: needs the columns"),
        (
            datasets.Dataset.from_list([{"task_id": "a", "prompt": "b", "tests": "c"}]).to_iterable_dataset(),
            TypeError,
            r"train_dataset: must be a list of CodingTask.*got IterableDataset.*without streaming=True",
        ),
    ],
)
def test_wrong_training_data_is_refused(make_config, make_model, tokenizer, train_dataset, error, named):
    with pytest.raises(error, match=named):
        PPERTrainer(make_model(), make_config(), train_dataset=train_dataset, processing_class=tokenizer)


def test_another_batch_size_is_told_by_its_option(trained, make_trainer):
    again = make_trainer(
        per_device_train_batch_size=2, gradient_accumulation_steps=3, output_dir=trained.args.output_dir
    )
    said = r"\(per_device_train_batch_size \* gradient_accumulation_steps \* .*\): 4, in this run 6\. Resume with"
    with pytest.raises(ValueError, match=said):
        again.train(resume_from_checkpoint=str(Path(trained.args.output_dir) / "checkpoint-2"))


def test_wrong_combinations_are_refused_before_generation(make_trainer, make_model, tokenizer, tasks):
    from trl import SFTConfig

    with pytest.raises(TypeError, match="args: must be a PPERConfig"):
        PPERTrainer(make_model(), SFTConfig("x", use_cpu=True, bf16=False), train_dataset=tasks)
    with pytest.raises(ValueError, match="at most one BeamSampleCollector"):
        make_trainer(callbacks=[BeamSampleCollector(), BeamSampleCollector()])
    with pytest.raises(ValueError, match=r"max_length: must hold the longest prompt \(33 tokens\)"):
        make_trainer(max_length=38)
    judged = datasets.Dataset.from_list([{"prompt": "p", "completion": "c", "logprob": None, "pass_rate": 1.0}])
    with pytest.raises(ValueError, match="needs tasks"):
        make_trainer(train_dataset=judged, callbacks=[BeamSampleCollector()])


@pytest.mark.parametrize(
    ("eval_dataset", "error", "named"),
    [
        (
            datasets.Dataset.from_list([{"task_id": "a", "prompt": "b"}]),
            ValueError,
            "eval_dataset: tasks need the col",
        ),
        (["text"], TypeError, "eval_dataset: must be a list of CodingTask"),
        (
            datasets.Dataset.from_list([{"task_id": "a", "prompt": "b", "tests": "c"}]).to_iterable_dataset(),
            TypeError,
            "eval_dataset: must be a list of CodingTask.*got IterableDataset",
        ),
    ],
)
def test_wrong_evaluation_data_is_refused(make_trainer, eval_dataset, error, named):
    with pytest.raises(error, match=named):
        make_trainer(eval_dataset=eval_dataset)


def test_what_generation_cannot_do_is_refused_before_it_starts(make_trainer, tasks):
    with pytest.raises(ValueError, match="num_beams: must be below the vocabulary size 258; got 258"):
        make_trainer(num_beams=258)
    with pytest.raises(ValueError, match=r"max_completion_length: 250 tokens after the 21.*exceed.*context of 256"):
        make_trainer(max_completion_length=250, max_length=None)
    long = CodingTask(task_id="long", prompt="#" * 251, tests=tasks[0].tests)
    with pytest.raises(ValueError, match="of task 'long' exceed the model's context of 256"):
        make_trainer(eval_dataset={"short": tasks[:1], "long": [long]}, max_length=None)


def test_filter_with_nothing_passing_says_so_and_keeps_programs(make_trainer):
    trainer = make_trainer(priority="filter")
    with pytest.raises(ValueError, match="filter"):
        trainer.train()
    assert len(trainer.buffer) > 0


def test_filter_draws_only_passing_programs(make_trainer, teacher):
    trainer = make_trainer(priority="filter", callbacks=[BeamSampleCollector(source=teacher)], num_train_epochs=1)
    trainer.train()
    drawn = {trainer.buffer[i].pass_rate for i in trainer.buffer.draw(100, round_index=0, step=0)}
    assert drawn == {1.0}


def test_a_model_card_names_method_and_paper(trained):
    trainer = trained
    trainer.create_model_card(model_name="tiny")
    card = (Path(trainer.args.output_dir) / "README.md").read_text()
    assert "2410.12236" in card
    assert card.count("## What was replayed") == 1
    assert f"| programs | {len(trainer.buffer)} |" in card
    assert f"`{trainer.judge.isolation}`" in card
    assert trainer.buffer[0].completion not in card
    assert {"trl", "pper"} <= set(re.findall(r"^- (\S+)$", card.split("---")[1], flags=re.MULTILINE))


def test_saved_arguments_hold_no_token(make_trainer, tmp_path):
    trainer = make_trainer(hub_token="hf_secret")
    trainer.save_model(str(tmp_path / "saved"))
    for file in (tmp_path / "saved").rglob("*"):
        assert file.is_dir() or b"hf_secret" not in file.read_bytes(), file


def test_limits_of_the_config_reach_the_judge(make_trainer):
    judge = make_trainer(judge_cpu_seconds=0.7, judge_memory_bytes=2**29).judge
    assert judge.limits == Limits(cpu_seconds=0.7, memory_bytes=2**29)


def test_the_state_of_a_checkpoint_is_readable(trained):
    state = json.loads((Path(trained.args.output_dir) / "checkpoint-4" / "_pper" / "state.json").read_text())
    assert len(state.pop("checksum")) == 8
    assert state == {
        "next_round": 2,
        "digest": trained.buffer.digest(),
        "draws": {
            "draws_per_step": 4,
            "steps_per_round": 2,
            "seed": 42,
            "grouping_steps": 1,
            "micro_batch_size": 1,
        },
        "num_processes": 1,
    }


def test_tasks_with_a_checker_are_trained_on_by_the_collector(make_trainer):
    def any_even(given: str, output: str, expected: str) -> bool:
        return int(output) % 2 == 0

    cases = (StdioCase(input="", output="2"),)
    task = CodingTask(task_id="even", prompt="# print an even number\n", tests=StdioTests(cases=cases))
    checked = replace(task, tests=replace(task.tests, compare=any_even))
    rows = [{"task_id": "even", "completion": f"print({number})\n"} for number in (2, 3, 4)]
    collector = BeamSampleCollector(source=DatasetSource(rows), tasks=[checked])
    trainer = make_trainer(train_dataset=[task], callbacks=[collector], num_train_epochs=1)
    trainer.train()
    assert trainer.buffer.pass_rates().tolist() == [1.0, 0.0, 1.0]
