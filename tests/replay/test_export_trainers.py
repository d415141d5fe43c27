"""The trainers of the installed TRL take the rows of exports: one step each, with text and with messages."""

import copy
import importlib
import logging

import pytest

from trl_pper import Experience, ReplayBuffer, label_weights

CHAT = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Double x."}]
SMALL = dict(
    max_steps=1, per_device_train_batch_size=2, report_to=[], use_cpu=True, bf16=False, gradient_checkpointing=False,
    disable_tqdm=True, save_strategy="no", logging_steps=1,
)  # fmt: skip
TEMPLATE = (
    "{% for one in messages %}{{ one.role }}: {{ one.content }}{{ eos_token }}{% endfor %}"
    "{% if add_generation_prompt %}assistant: {% endif %}"
)


@pytest.fixture
def chat_tokenizer(tokenizer):
    own = copy.deepcopy(tokenizer)
    own.chat_template = TEMPLATE
    return own


@pytest.fixture
def model(make_model, tmp_path):
    """The folder of a tiny model: trainers that compare with the model before training load it again."""
    make_model().save_pretrained(tmp_path / "model")
    return str(tmp_path / "model")


@pytest.fixture(params=["text", "messages"])
def buffer(request):
    """Three tasks with a right, a partly right and two wrong programs each."""
    buffer = ReplayBuffer()
    buffer.add(
        Experience(
            task_id=f"t{n}",
            prompt=CHAT if request.param == "messages" else f"# {n}\ndef f(x):\n",
            completion=f"    return x * {n}{end}",
            program=f"{n}{end}",
            pass_rate=rate,
        )
        for n in range(3)
        for end, rate in (("", 1.0), (" + 0", 0.5), (" + 1", 0.0), ("0", 0.0))
    )
    return buffer


def trained(trainer):
    """Train a step, and return its logged entry."""
    before = {name: weights.clone() for name, weights in trainer.model.named_parameters()}
    trainer.train()
    assert trainer.state.global_step == 1
    assert any(not weights.equal(before[name]) for name, weights in trainer.model.named_parameters())
    return next(entry for entry in trainer.state.log_history if "loss" in entry)


def texts(trainer, column):
    """The tokens of a prepared column, decoded."""
    return [trainer.processing_class.decode(ids) for ids in trainer.train_dataset[column]]


def test_sft(buffer, make_model, chat_tokenizer, tmp_path):
    from trl import SFTConfig, SFTTrainer

    rows = buffer.to_sft()
    trainer = SFTTrainer(make_model(), SFTConfig(str(tmp_path), **SMALL), train_dataset=rows,
                         processing_class=chat_tokenizer)  # fmt: skip
    assert trained(trainer)["loss"] > 0
    assert len(trainer.train_dataset) == 3
    for text in texts(trainer, "input_ids"):
        assert "return x * " in text
        assert text.endswith("<eos>")


@pytest.mark.parametrize("strategy", ["closest", "random", "mixed"])
def test_dpo(buffer, model, chat_tokenizer, tmp_path, strategy):
    from trl import DPOConfig, DPOTrainer

    rows = buffer.to_preferences(strategy, pairs_per_task=2)
    trainer = DPOTrainer(model, args=DPOConfig(str(tmp_path), **SMALL), train_dataset=rows,
                         processing_class=chat_tokenizer)  # fmt: skip
    assert trained(trainer)["loss"] > 0
    assert len(trainer.train_dataset) == 6
    if strategy == "closest":
        assert {"    return x * 20<eos>", "    return x * 2 + 1<eos>"} & set(texts(trainer, "rejected_ids"))


@pytest.mark.parametrize("name", ["ORPO", "CPO"])
def test_trainers_of_the_experimental_part(buffer, make_model, chat_tokenizer, tmp_path, monkeypatch, name):
    monkeypatch.setenv("TRL_EXPERIMENTAL_SILENCE", "1")
    module = importlib.import_module(f"trl.experimental.{name.lower()}")
    config, trainer = (getattr(module, f"{name}{kind}") for kind in ("Config", "Trainer"))
    made = trainer(make_model(), args=config(str(tmp_path), max_length=128, **SMALL),
                   train_dataset=buffer.to_preferences(), processing_class=chat_tokenizer)  # fmt: skip
    assert trained(made)["loss"] > 0


def test_kto_with_the_weights_of_its_labels(buffer, model, chat_tokenizer, tmp_path, caplog):
    from trl import KTOConfig, KTOTrainer

    rows = buffer.to_unpaired()
    weights = label_weights(rows["label"])
    warned = {}
    for name, own in (("without", {}), ("with", weights)):
        with caplog.at_level(logging.WARNING):
            caplog.clear()
            trainer = KTOTrainer(model, args=KTOConfig(str(tmp_path), **SMALL, **own), train_dataset=rows,
                                 processing_class=chat_tokenizer)  # fmt: skip
            warned[name] = "different amounts of desirable" in caplog.text
    assert warned == {"without": True, "with": False}
    trained(trainer)
    assert sum(rows["label"]) == 3
    assert len(trainer.train_dataset) == 12


def test_a_reward_model_learns_with_the_margins(buffer, tokenizer, chat_tokenizer, tmp_path):
    import torch
    from transformers import GPT2Config, GPT2ForSequenceClassification
    from trl import RewardConfig, RewardTrainer

    torch.manual_seed(0)
    model = GPT2ForSequenceClassification(
        GPT2Config(vocab_size=len(tokenizer), n_positions=256, n_embd=16, n_layer=2, n_head=2, num_labels=1)
    )
    rows = buffer.to_reward_model(pairs_per_task=3)
    trainer = RewardTrainer(model, RewardConfig(str(tmp_path), **SMALL), train_dataset=rows,
                            processing_class=chat_tokenizer)  # fmt: skip
    batch = next(iter(trainer.get_train_dataloader()))
    assert batch["margin"].tolist() == pytest.approx([0.5, 0.5], abs=0.51)
    assert all(0 < margin <= 1 for margin in batch["margin"].tolist())
    assert trained(trainer)["loss"] > 0
    assert set(rows["margin"]) <= {0.5, 1.0}
