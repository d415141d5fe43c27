"""Every row of the table of docs/from-sfttrainer.md is run, most beside plain `SFTTrainer`."""

import copy
import inspect
import os
import re
from pathlib import Path

import datasets
import pytest
import torch
from peft import LoraConfig
from transformers import (
    BitsAndBytesConfig,
    EarlyStoppingCallback,
    TrainerCallback,
    get_constant_schedule_with_warmup,
)
from trl import SFTConfig, SFTTrainer
from trl.trainer.sft_trainer import DataCollatorForLanguageModeling

from docs.swap_table import CHANGES, REFUSED, STAYS
from trl_pper import BeamSampleCollector, CodingTask, DatasetSource, FunctionTests, PPERConfig, PPERTrainer
from trl_pper.report.history import find_run

TEMPLATE = (
    "{% for m in messages %}{% if m.role == 'assistant' %}{% generation %}{{ m.content }}<eos>{% endgeneration %}"
    "{% else %}{{ m.content }}{% endif %}{% endfor %}"
)
#: One program, so that every draw is this row: a run of SFTTrainer on this row alone is the same run.
ROW = {"prompt": "# two\n", "completion": "x = 1 + 1\n"}
CHAT = {
    "prompt": [{"role": "user", "content": "two?"}],
    "completion": [{"role": "assistant", "content": "x = 1 + 1"}],
}


@pytest.fixture(scope="module")
def options(tmp_path_factory):
    def build(**chosen):
        return {
            "output_dir": str(tmp_path_factory.mktemp("run")), "use_cpu": True, "bf16": False, "report_to": [],
            "disable_tqdm": True, "per_device_train_batch_size": 2, "max_length": 64, "learning_rate": 1e-2,
            "max_steps": 4, "save_strategy": "no", "logging_steps": 1, "gradient_checkpointing": False, **chosen,
        }  # fmt: skip

    return build


@pytest.fixture(scope="module")
def tasks() -> list[CodingTask]:
    return [
        CodingTask(task_id=f"t{n}", prompt=f"# add {n}\ndef f(x):\n",
                   tests=FunctionTests(entry_point="f", code=f"assert f(1) == {n + 1}\nassert f(-1) == {n - 1}"))
        for n in range(3)
    ]  # fmt: skip


@pytest.fixture(scope="module")
def run(options, make_model, tokenizer, tasks):
    """Run `PPERTrainer` on tasks with a teacher's programs, or on other data; return the trained trainer."""
    trainers = []

    def build(*, model=None, train_dataset=None, processing_class=None, train=True, callbacks=(), **chosen):
        given = {name: chosen.pop(name) for name in [*chosen] if name in inspect.signature(SFTTrainer).parameters}
        small = {
            "num_beams": 2, "max_completion_length": 5, "judge_workers": 1, "judge_cpu_seconds": 1.0,
            "judge_memory_bytes": 2**30, "steps_per_round": 2,
        }  # fmt: skip
        taught = []
        if train_dataset is None and not any(_is_collector(one) for one in callbacks):
            rows = [{"task_id": f"t{n}", "completion": f"    return x + {n}\n"} for n in range(3)]
            taught = [BeamSampleCollector(source=DatasetSource(rows))]
        trainer = PPERTrainer(
            model if model is not None else make_model(),
            PPERConfig(**{**small, **options(**chosen)}),
            train_dataset=tasks if train_dataset is None else train_dataset,
            processing_class=processing_class or tokenizer,
            callbacks=[*taught, *callbacks],
            **given,
        )
        trainers.append(trainer)
        if train:
            trainer.train()
        return trainer

    yield build
    for trainer in trainers:
        trainer.judge.close()


def _is_collector(callback) -> bool:
    return isinstance(callback, BeamSampleCollector) or callback is BeamSampleCollector


@pytest.fixture(scope="module")
def beside(run, options, make_model, tokenizer):
    """Run both trainers on one row with the same options; assert equal weights, and return them."""

    def build(row=ROW, processing_class=None, make=make_model, arguments=lambda model: {}, **chosen):
        models = make(), make()
        config = SFTConfig(**options(completion_only_loss=True, **chosen))
        theirs = SFTTrainer(
            models[0], config, train_dataset=datasets.Dataset.from_list([row] * 16),
            processing_class=copy.deepcopy(processing_class or tokenizer), **arguments(models[0]),
        )  # fmt: skip
        theirs.train()
        judged = {**row, "pass_rate": 1.0}
        if isinstance(row["prompt"], list):
            judged["completion"] = row["completion"][0]["content"]
        ours = run(
            model=models[1], train_dataset=datasets.Dataset.from_list([judged]), steps_per_round=100,
            processing_class=copy.deepcopy(processing_class or tokenizer), **arguments(models[1]), **chosen,
        )  # fmt: skip
        assert len(ours.buffer) == 1
        weights = [trainer.model.state_dict() for trainer in (theirs, ours)]
        assert weights[0].keys() == weights[1].keys()
        unequal = [name for name in weights[0] if not torch.allclose(weights[0][name], weights[1][name], atol=1e-6)]
        assert unequal == []
        losses = [[entry["loss"] for entry in t.state.log_history if "loss" in entry] for t in (theirs, ours)]
        assert losses[0] == pytest.approx(losses[1], abs=1e-5)
        return weights[1]

    return build


@pytest.fixture(scope="module")
def plain(beside):
    return beside()


def differs(weights, others) -> bool:
    return any(not torch.equal(weights[name], others[name]) for name in weights if name in others)


#: Options that change what is learned, with values that show; each is run beside SFTTrainer.
NUMERIC = {
    "warmup_steps": 3,
    "weight_decay": 0.9,
    "max_grad_norm": 1e-3,
    "optim": "sgd",
    "lr_scheduler_type": "cosine",
    "neftune_noise_alpha": 50.0,
    "loss_type": "dft",
    "max_steps": 3,
    "learning_rate": 1e-3,
    "eos_token": "!",
}


@pytest.mark.filterwarnings("ignore:.*label_smoothing_factor", "ignore:.*compute_loss_func")
@pytest.mark.parametrize("name", NUMERIC)
def test_numbers_are_those_of_sft_trainer(beside, plain, name):
    assert differs(plain, beside(**{name: NUMERIC[name]}))


@pytest.mark.filterwarnings("ignore:.*label_smoothing_factor")
def test_smoothed_labels_are_those_of_sft_trainer(beside, plain):
    assert differs(plain, beside(label_smoothing_factor=0.3))


@pytest.mark.parametrize(
    "chosen",
    [
        {"gradient_accumulation_steps": 2, "per_device_train_batch_size": 1},
        {"gradient_checkpointing": True},
        {"pad_to_multiple_of": 16},
        {"padding_free": True, "max_length": None},
        {"pad_token": "#"},
        {"max_length": 10, "truncation_mode": "keep_end"},
        {"seed": 7},
    ],
    ids=lambda chosen: next(iter(chosen)),
)
@pytest.mark.filterwarnings("ignore:.*", append=False)
def test_other_ways_of_computing_are_those_of_sft_trainer(beside, chosen):
    beside(**chosen)


def test_assistant_tokens_are_those_of_sft_trainer(beside, tokenizer, make_model, tmp_path):
    templated = copy.deepcopy(tokenizer)
    templated.chat_template = TEMPLATE
    masked = beside(row=CHAT, processing_class=templated, assistant_only_loss=True)
    path = tmp_path / "template.jinja"
    path.write_text(TEMPLATE.replace("{{ m.content }}{% endif %}", "-{{ m.content }}{% endif %}"))
    assert differs(masked, beside(row=CHAT, processing_class=templated, chat_template_path=str(path)))


class TestArguments:
    """Arguments of the trainer."""

    def test_model_and_model_init_kwargs(self, run, make_model, tokenizer, tmp_path):
        make_model().save_pretrained(tmp_path)
        tokenizer.save_pretrained(tmp_path)
        trainer = run(model=str(tmp_path), model_init_kwargs={"dtype": "bfloat16"}, train=False)
        assert trainer.model.dtype == torch.bfloat16

    def test_data_collator_and_order(self, options, make_model, tokenizer, tasks):
        called, theirs = [], DataCollatorForLanguageModeling(pad_token_id=1)

        def collate(rows):
            called.append(len(rows))
            return theirs(rows)

        rows = datasets.Dataset.from_list([{**ROW, "pass_rate": 1.0}])
        config = PPERConfig(**options(max_steps=1, max_length=None))
        # By position, in the order of SFTTrainer: data_collator, train_dataset, eval_dataset, processing_class.
        trainer = PPERTrainer(make_model(), config, collate, rows, None, tokenizer)
        trainer.train()
        assert called == [2]

    def test_callbacks_as_classes(self, run):
        seen = []

        class Watching(TrainerCallback):
            def on_step_end(self, *_, **__):
                seen.append(1)

        run(callbacks=[Watching])
        assert len(seen) == 4
        trainer = run(callbacks=[BeamSampleCollector], train=False)
        assert type(trainer.collector) is BeamSampleCollector
        assert trainer.callback_handler.callbacks.count(trainer.collector) == 1

    def test_optimizers(self, beside, plain, run, make_model, capsys):
        def arguments(model):
            optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
            return {"optimizers": (optimizer, get_constant_schedule_with_warmup(optimizer, 2))}

        assert differs(plain, beside(arguments=arguments))
        assert "an epoch is a round of 100 (trainer.steps_per_round)" in capsys.readouterr().out
        chosen = {"optimizer_cls_and_kwargs": (torch.optim.SGD, {"lr": 0.5})}
        assert differs(plain, beside(arguments=lambda model: chosen))

    def test_adapters_and_their_learning_rate(self, run, beside, capsys):
        config = LoraConfig(r=2, target_modules=["c_attn"], fan_in_fan_out=True, task_type="CAUSAL_LM")
        beside(arguments=lambda model: {"peft_config": config}, seed=3)
        assert "as an adapter is trained" not in capsys.readouterr().out
        trainer = run(peft_config=config, learning_rate=None, train=False)
        assert trainer.args.learning_rate == 1e-4
        assert "learning_rate: 0.0001, as an adapter is trained and no rate is given" in capsys.readouterr().out
        assert run(learning_rate=None, train=False).args.learning_rate == SFTConfig.learning_rate

    @pytest.mark.filterwarnings("ignore:MatMul8bitLt", "ignore:.*bfloat16")
    def test_quantised_weights(self, run, tokenizer, tmp_path):
        pytest.importorskip("bitsandbytes")
        from transformers import LlamaConfig, LlamaForCausalLM

        LlamaForCausalLM(
            LlamaConfig(vocab_size=len(tokenizer), hidden_size=64, intermediate_size=64, num_hidden_layers=1,
                        num_attention_heads=2, max_position_embeddings=128, eos_token_id=0, pad_token_id=1)
        ).save_pretrained(tmp_path)  # fmt: skip
        trainer = run(
            model=str(tmp_path), quantization_config=BitsAndBytesConfig(load_in_8bit=True),
            peft_config=LoraConfig(target_modules=["q_proj"]), train=False,
        )  # fmt: skip
        assert trainer.model.is_loaded_in_8bit

    @pytest.mark.filterwarnings("ignore:`compute_loss_func` is deprecated")
    def test_loss_functions(self, beside, plain):
        def loss(outputs, labels, num_items_in_batch):
            return outputs.logits.float().square().mean()

        assert differs(plain, beside(arguments=lambda model: {"compute_loss_func": loss}))

    @pytest.mark.filterwarnings("ignore:`return_outputs=True`", "ignore:`compute_loss_func` is deprecated")
    def test_metrics_of_logits(self, run, tasks):
        answers = datasets.Dataset.from_list([ROW] * 3)
        functions = {
            "compute_metrics": lambda prediction: {"shape": float(prediction.predictions.shape[-1])},
            "preprocess_logits_for_metrics": lambda logits, labels: logits.argmax(-1)[..., None],
        }
        both = {"own": tasks, "answers": answers}
        trainer = run(eval_dataset=both, train=False, **functions)
        metrics = trainer.evaluate()
        assert metrics["eval_answers_shape"] == 1.0
        assert "eval_own_accuracy" in metrics
        for name, function in functions.items():
            with pytest.raises(ValueError, match=rf"^{name}: must be left out, since tasks are evaluated by"):
                run(eval_dataset=tasks, train=False, **{name: function})
        with pytest.raises(ValueError, match=r"^compute_loss_func: must be None with importance_exponent"):
            run(train=False, loss_weighting="p2value", compute_loss_func=lambda *_, **__: 0)


class TestEvaluation:
    """Evaluation on tasks with the Trainer's options."""

    def test_the_default_metric_is_accuracy(self, run, tasks):
        trainer = run(
            eval_dataset=tasks, eval_strategy="steps", eval_steps=2, save_strategy="steps", save_steps=2,
            load_best_model_at_end=True, callbacks=[EarlyStoppingCallback(1)], max_steps=6,
        )  # fmt: skip
        assert (trainer.args.metric_for_best_model, trainer.args.greater_is_better) == ("accuracy", True)
        assert trainer.state.best_metric == 0.0
        # No better after the second evaluation.
        assert trainer.state.global_step == 4

    @pytest.mark.parametrize("chosen", [{"lr_scheduler_type": "reduce_lr_on_plateau"}, {"save_strategy": "best"}, {}])
    def test_every_use_of_a_metric_has_one(self, run, tasks, chosen):
        callbacks = [] if chosen else [EarlyStoppingCallback]
        trainer = run(eval_dataset=tasks, eval_strategy="steps", eval_steps=2, callbacks=callbacks, **chosen)
        assert trainer.state.best_metric == 0.0
        if "lr_scheduler_type" in chosen:
            assert trainer.lr_scheduler.mode == "max"

    def test_a_metric_that_nobody_reports_is_refused(self, run, tasks):
        common = {"eval_strategy": "epoch", "train": False}
        for name in ("loss", "eval_los", "pass@9"):
            with pytest.raises(
                ValueError, match=rf"^metric_for_best_model: .* got '{name}'. Choose one of pass@2, pass"
            ):
                run(eval_dataset=tasks, metric_for_best_model=name, **common)
        for name in ("pass@2", "eval_pass_rate", "accuracy"):
            run(eval_dataset=tasks, metric_for_best_model=name, **common)
        both = {"easy": tasks[:1], "hard": tasks[1:]}
        with pytest.raises(ValueError, match=r"required with several evaluation sets.*easy_accuracy.*hard_accuracy"):
            run(eval_dataset=both, save_strategy="epoch", load_best_model_at_end=True, **common)
        run(eval_dataset=both, metric_for_best_model="eval_hard_accuracy", **common)

    def test_losses_of_answers_stay_the_metric(self, run):
        answers = datasets.Dataset.from_list([ROW] * 3)
        trainer = run(
            eval_dataset=answers, eval_strategy="epoch", save_strategy="epoch", load_best_model_at_end=True
        )  # fmt: skip
        assert (trainer.args.metric_for_best_model, trainer.args.greater_is_better) == ("loss", False)
        assert trainer.state.best_metric > 0

    def test_the_batch_of_an_evaluation(self, run):
        assert run(train=False, generation_batch_size=3).beam_search().batch_size == 3
        assert run(train=False, generation_batch_size=3, per_device_eval_batch_size=2).beam_search().batch_size == 2

    def test_the_first_evaluation_is_of_the_base(self, run, tasks):
        trainer = run(eval_dataset=tasks, eval_strategy="epoch", eval_on_start=True)
        steps = [entry["step"] for entry in trainer.state.log_history if "eval_accuracy" in entry]
        assert steps == [0, 2, 4]

    def test_programs_are_predicted(self, run, tasks):
        trainer = run(train=False)
        output = trainer.predict(tasks)
        assert [len(programs) for programs in output.predictions] == [2, 2, 2]
        assert all(isinstance(program, str) for programs in output.predictions for program in programs)
        assert output.metrics["test_tasks"] == 3.0
        assert output.metrics["test_accuracy"] == 0.0
        # Nothing is logged, as by Trainer.predict.
        assert trainer.state.log_history == []


class TestRuns:
    """Checkpoints, logs and the looks of somebody curious."""

    def test_checkpoints(self, run):
        trainer = run(save_strategy="steps", save_steps=1, save_total_limit=2)
        assert sorted(name for name in os.listdir(trainer.args.output_dir) if "checkpoint" in name) == [
            "checkpoint-3", "checkpoint-4",
        ]  # fmt: skip

    def test_the_card_has_the_scores_of_the_final_weights(self, run, tasks):
        trainer = run(save_strategy="steps", save_steps=4, eval_dataset=tasks)
        card = Path(trainer.args.output_dir) / "README.md"
        assert "accuracy" not in card.read_text()
        trainer.evaluate()
        assert "(step 4)" in card.read_text().split("accuracy", 1)[1]

    def test_models_alone_are_saved_and_resumed(self, run, tmp_path):
        chosen = {"output_dir": str(tmp_path), "save_strategy": "steps", "save_steps": 1, "save_only_model": True}
        run(**chosen, max_steps=2)
        assert not list(tmp_path.glob("checkpoint-2/optimizer.pt"))
        resumed = run(train=False, **chosen, max_steps=3)
        assert resumed.train(resume_from_checkpoint=True).global_step == 3
        assert [entry["step"] for entry in resumed.state.log_history if "loss" in entry] == [1, 2, 3]
        assert find_run(tmp_path).buffer.digest() == resumed.buffer.digest()

    def test_trackers_and_the_console(self, run, tmp_path, capsys, monkeypatch):
        pytest.importorskip("tensorboard")
        monkeypatch.setenv("TENSORBOARD_LOGGING_DIR", str(tmp_path))
        run(report_to=["tensorboard"])
        (events,) = tmp_path.rglob("events.out*")
        assert b"pper/pass_rate" in events.read_bytes()
        assert "'loss'" in capsys.readouterr().out

    def test_rows_to_look_at(self, run):
        trainer = run(train=False)
        with pytest.raises(LookupError, match=r"buffer is empty. trainer.collector.collect\(\) fills it"):
            trainer.train_dataset[0]
        with pytest.raises(ValueError, match=r"collect some with trainer.collector.collect\(\)"):
            next(iter(trainer.get_train_dataloader()))
        trainer.collector.collect()
        assert trainer.train_dataset[0]["input_ids"]
        batch = next(iter(trainer.get_train_dataloader()))
        assert batch["input_ids"].shape[0] == 2
        trainer.train()
        assert trainer.state.global_step == 4


class TestChanges:
    """Options with another meaning."""

    def test_rounds_and_loss(self, run, tasks):
        trainer = run(num_train_epochs=3, max_steps=-1)
        assert len(trainer.collector.reports) == 3
        assert trainer.state.global_step == 3 * trainer.steps_per_round == 6
        (row,) = run(train_dataset=datasets.Dataset.from_list([{**ROW, "pass_rate": 1.0}]), train=False).train_dataset
        assert row["labels"][0] == -100
        assert run(completion_only_loss=None, train=False).completion_only_loss is True

    def test_max_length_has_room_for_programs(self, run):
        with pytest.raises(ValueError, match=r"^max_length: must hold the longest prompt"):
            run(max_length=10, train=False, callbacks=[BeamSampleCollector])

    def test_the_data_seed_decides_the_draws(self, run):
        def drawn(**chosen):
            trainer = run(train=False, per_device_train_batch_size=8, **chosen)
            trainer.collector.collect()
            return [ids.tolist() for batch in trainer.get_train_dataloader() for ids in batch["input_ids"]]

        assert drawn(data_seed=1) == drawn(data_seed=1, seed=5, shuffle_dataset=True, dataset_text_field="prompt")
        assert drawn(data_seed=1) != drawn(data_seed=2)


REFUSALS = {
    "packing": True,
    "formatting_func": str,
    "dataloader_num_workers": 2,
    "auto_find_batch_size": True,
    "train_sampling_strategy": "group_by_length",
    "dataset_kwargs": {"skip_prepare_dataset": True},
    "ignore_data_skip": True,
    "debug": "underflow_overflow",
    "accelerator_config": {"split_batches": True},
    "hub_strategy": "checkpoint",
    "prediction_loss_only": True,
    "batch_eval_metrics": True,
    "include_for_metrics": ["loss"],
    "eval_accumulation_steps": 2,
    "eval_do_concat_batches": False,
    "eval_packing": True,
}


@pytest.mark.parametrize("name", REFUSALS)
def test_what_is_refused_is_refused_before_any_work(run, tasks, name):
    more = {"push_to_hub": True} if name == "hub_strategy" else {}
    with pytest.raises(ValueError, match=rf"^{name}[.:]"):
        run(eval_dataset=tasks, train=False, **{name: REFUSALS[name]}, **more)


def test_a_stored_program_that_no_context_holds_is_refused(run, tasks):
    rows = [{"task_id": "t0", "completion": "    return x\n" + "# long\n" * 60}]
    taught = [BeamSampleCollector(source=DatasetSource(rows))]
    said = r"^max_length: must be at most the model's context of 256 tokens, since a program of task 't0' has \d+"
    with pytest.raises(ValueError, match=said):
        run(callbacks=taught, max_length=None, train=False)
    run(callbacks=taught, max_length=200, train=False)


def test_completions_may_be_messages_of_the_assistant(run, tokenizer):
    templated = copy.deepcopy(tokenizer)
    templated.chat_template = TEMPLATE
    row = {**CHAT, "pass_rate": 1.0}
    trainer = run(train_dataset=datasets.Dataset.from_list([row]), processing_class=templated, train=False)
    assert [one.completion for one in trainer.buffer] == ["x = 1 + 1"]
    twice = {**row, "completion": [*row["completion"], *row["completion"]]}
    with pytest.raises(ValueError, match=r"^completion: must be text, or a single message of the assistant"):
        run(train_dataset=datasets.Dataset.from_list([twice]), processing_class=templated, train=False)


def test_tasks_with_images_are_refused_by_name(run):
    row = {"task_id": "t", "prompt": "# p", "tests": '{"type": "stdio", "cases": [{"input": "", "output": "1"}]}'}
    for column in ("image", "images"):
        with pytest.raises(ValueError, match=rf"^train_dataset: must be text.*a column '{column}'"):
            run(train_dataset=datasets.Dataset.from_list([{**row, column: "x.png"}]), train=False)
    messages = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "?"}]}]
    with pytest.raises(ValueError, match=r"prompt: chat messages must be text.*a part of type 'image'"):
        CodingTask.from_row({**row, "prompt": messages})


@pytest.mark.parametrize(
    ("column", "value"), [("tools", '[{"name": "search"}]'), ("chat_template_kwargs", {"enable_thinking": False})]
)
def test_columns_for_the_chat_template_are_refused(run, tokenizer, column, value):
    row = {"prompt": CHAT["prompt"], "completion": "x = 1 + 1", "pass_rate": 1.0}
    chatting = copy.deepcopy(tokenizer)
    chatting.chat_template = TEMPLATE
    with pytest.raises(ValueError, match=rf"^train_dataset: must have no column '{column}'.*remove the column"):
        run(train_dataset=datasets.Dataset.from_list([{**row, column: value}]), train=False)
    unset = datasets.Dataset.from_list([{**row, column: None}])
    assert len(run(train_dataset=unset, train=False, processing_class=chatting).buffer) == 1


def test_programs_that_max_length_cuts_are_told_of(beside, run, caplog):
    row = {"prompt": "# two\n", "completion": "x = 1 + 1\n" * 9}
    beside(row)
    assert "max_length: cuts off a part of 1 programs, the first of task" in caplog.text
    caplog.clear()
    run(train_dataset=datasets.Dataset.from_list([{**ROW, "pass_rate": 1.0}]), train=False)
    assert "max_length" not in caplog.text


def test_every_row_of_the_page_is_run():
    """The names of the page are those of the tests above."""
    assert {row.name for row in REFUSED} == set(REFUSALS)
    source = inspect.getsource(inspect.getmodule(test_every_row_of_the_page_is_run))
    missing = [row.name for row in (*STAYS, *CHANGES) if not re.search(rf"\b{row.name}\b", source)]
    assert missing == []
    names = {*inspect.signature(SFTTrainer).parameters, *PPERConfig.__dataclass_fields__}
    assert {row.name for row in (*STAYS, *CHANGES, *REFUSED)} <= names
