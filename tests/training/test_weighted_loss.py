"""Loss options of `PPERTrainer`: what they change, and that a plain run is TRL's own to the bit."""

from types import SimpleNamespace

import datasets
import numpy as np
import pytest
import torch
from accelerate import Accelerator
from transformers import LlamaConfig, LlamaForCausalLM
from trl import SFTTrainer
from trl.trainer.sft_trainer import DataCollatorForLanguageModeling

from tests.support.batches import batch_of
from trl_pper import PPERConfig, PPERTrainer
from trl_pper.training.parts import check_weighing

COLUMNS = ("logprob", "pass_rate")


@pytest.fixture(scope="module")
def rows() -> datasets.Dataset:
    """Programs of different lengths, possibilities and pass rates; none of P2Value 0."""
    return datasets.Dataset.from_list(
        [
            {"prompt": f"# {'n' * n}\n", "completion": f"x = {'1' * n}", "logprob": -float(n), "pass_rate": n % 3 / 2}
            for n in range(1, 7)
        ]
    )


@pytest.fixture
def make_trainer(make_model, tokenizer, rows, tmp_path):
    def build(model=None, **options) -> PPERTrainer:
        settings = dict(
            output_dir=str(tmp_path), use_cpu=True, bf16=False, report_to=[], disable_tqdm=True, save_strategy="no",
            per_device_train_batch_size=4, steps_per_round=1, num_train_epochs=1, learning_rate=0.1, optim="sgd",
            lr_scheduler_type="constant", logging_steps=1, judge_workers=1, priority="proportional",
            priority_exponent=2.0,
        )  # fmt: skip
        trainer_options = {"compute_loss_func": options.pop("compute_loss_func", None)}
        return PPERTrainer(
            model if model is not None else make_model(),
            PPERConfig(**{**settings, **options}),
            train_dataset=rows,
            processing_class=tokenizer,
            **trainer_options,
        )

    return build


def learned(trainer, batch) -> tuple[torch.Tensor, torch.Tensor]:
    """The loss of a batch, and its gradient as one vector."""
    trainer.model.zero_grad()
    trainer.model.train()
    loss = trainer.compute_loss(trainer.model, batch)
    loss.backward()
    return loss.detach(), torch.cat([value.grad.flatten() for value in trainer.model.parameters()]).clone()


def negative_log_likelihoods(trainer, position) -> torch.Tensor:
    """One row's, for each completion token, from the plain logits."""
    row = trainer.train_dataset[position]
    ids, labels = torch.tensor([row["input_ids"]]), torch.tensor(row["labels"])
    with torch.no_grad():
        logprobs = trainer.model(input_ids=ids).logits[0, :-1].log_softmax(-1)
    return -logprobs[torch.arange(len(labels) - 1), ids[0, 1:]][labels[1:] != -100]


def test_a_plain_run_is_that_of_sft_to_the_bit(make_trainer, make_model, tokenizer, rows):
    trainer = make_trainer()
    sft = SFTTrainer(
        make_model(), trainer.args, train_dataset=rows.remove_columns(COLUMNS), processing_class=tokenizer
    )
    positions = [4, 0, 4, 2]
    theirs = sft.data_collator([sft.train_dataset[i] for i in positions])
    ours = batch_of(trainer, positions)
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    for one, other in zip(learned(trainer, ours), learned(sft, dict(theirs)), strict=True):
        assert torch.equal(one, other)


def test_nothing_of_the_weights_is_in_the_path_of_a_plain_run(make_trainer, monkeypatch):
    seen = []
    monkeypatch.setattr(
        SFTTrainer, "compute_loss", lambda self, model, *rest: seen.append((model, rest)) or torch.tensor(0.0)
    )
    trainer = make_trainer()
    assert type(trainer.data_collator) is DataCollatorForLanguageModeling
    trainer.train_dataset.prepare([0])
    assert trainer.train_dataset[0].keys() == {"input_ids", "labels"}
    inputs = batch_of(trainer, [0])
    trainer.compute_loss(trainer.model, inputs, False, 7)
    ((model, rest),) = seen
    assert model is trainer.model
    assert rest == (inputs, False, 7)
    weighted = make_trainer(loss_weighting="p2value")
    inputs = batch_of(weighted, [0, 1])
    assert inputs["loss_weights"].shape == (2, 1)
    weighted.compute_loss(weighted.model, inputs)
    assert seen[1][0] is not weighted.model
    assert "loss_weights" not in seen[1][1][0]


def expected_gradient(trainer, probabilities) -> torch.Tensor:
    """The mean over every program that one draw may give, each with its probability."""
    return sum(
        probability * learned(trainer, batch_of(trainer, [position]))[1]
        for position, probability in enumerate(probabilities)
    )


@pytest.mark.parametrize("priority", ["proportional", "rank"])
def test_a_full_correction_learns_what_uniform_replay_does(make_trainer, priority):
    corrected = make_trainer(importance_exponent=1.0, priority=priority)
    probabilities = corrected.buffer.probabilities()
    uniform = expected_gradient(make_trainer(priority="uniform"), np.full(6, 1 / 6))
    # The largest weight is 1, which leaves the factor N * min P(i).
    factor = 6 * probabilities.min()
    atol = 1e-6 * float(uniform.abs().max())
    torch.testing.assert_close(expected_gradient(corrected, probabilities), factor * uniform, rtol=1e-4, atol=atol)
    prioritised = expected_gradient(make_trainer(priority=priority), probabilities)
    half = expected_gradient(make_trainer(importance_exponent=0.5, priority=priority), probabilities)
    cosines = [torch.cosine_similarity(one, uniform, dim=0).item() for one in (prioritised, half)]
    assert cosines[0] < cosines[1] < 0.999


def test_weighting_by_p2value_is_the_weighted_likelihood(make_trainer):
    trainer = make_trainer(loss_weighting="p2value")
    positions = [5, 0, 3, 0]
    loss, _ = learned(trainer, batch_of(trainer, positions))
    tokens = [negative_log_likelihoods(trainer, position) for position in positions]
    values = [trainer.buffer.p2values()[position] for position in positions]
    by_hand = sum(value * row.sum() for value, row in zip(values, tokens, strict=True)) / sum(map(len, tokens))
    assert loss.item() == pytest.approx(by_hand.item(), rel=1e-5)
    plain_trainer = make_trainer()
    plain, _ = learned(plain_trainer, batch_of(plain_trainer, positions))
    assert loss.item() < 0.9 * plain.item()


def test_both_weights_multiply(make_trainer):
    both = make_trainer(loss_weighting="p2value", importance_exponent=0.5)
    probabilities, p2values = both.buffer.probabilities(), both.buffer.p2values()
    for position in range(6):
        batch = batch_of(both, [position])
        expected = p2values[position] * (probabilities.min() / probabilities[position]) ** 0.5
        assert batch["loss_weights"].item() == pytest.approx(expected, rel=1e-6)


def test_metrics_stay_unweighted(make_trainer):
    plain, weighted = make_trainer(), make_trainer(loss_weighting="p2value", importance_exponent=1.0)
    losses = [learned(trainer, batch_of(trainer, [1, 2, 3]))[0].item() for trainer in (plain, weighted)]
    assert losses[1] < 0.9 * losses[0]
    assert plain._metrics["train"] == weighted._metrics["train"]
    assert {"entropy", "mean_token_accuracy", "num_tokens"} <= set(plain._metrics["train"])


def test_evaluation_on_rows_stays_unweighted(make_trainer, rows):
    plain, weighted = make_trainer(), make_trainer(loss_weighting="p2value")
    held_out = rows.remove_columns(COLUMNS)
    assert weighted.evaluate(held_out)["eval_loss"] == plain.evaluate(held_out)["eval_loss"]


def after_one_step(trainer) -> tuple[float, dict[str, torch.Tensor]]:
    trainer.train()
    assert trainer.state.global_step == 1
    return trainer.state.log_history[0]["loss"], trainer.model.state_dict()


def test_accumulated_micro_batches_learn_what_one_batch_does(make_trainer):
    options = {"loss_weighting": "p2value", "importance_exponent": 0.5}
    loss, whole = after_one_step(make_trainer(**options))
    split_loss, split = after_one_step(
        make_trainer(**options, per_device_train_batch_size=2, gradient_accumulation_steps=2)
    )
    assert split_loss == pytest.approx(loss, rel=1e-5)
    for name, value in whole.items():
        torch.testing.assert_close(split[name], value, rtol=1e-5, atol=1e-6)
    plain_loss, plain = after_one_step(make_trainer())
    assert plain_loss > 1.2 * loss
    assert max((plain[name] - value).abs().max() for name, value in whole.items()) > 1e-3


@pytest.fixture
def llama(tokenizer) -> LlamaForCausalLM:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2,
        max_position_embeddings=128, eos_token_id=0, bos_token_id=0, pad_token_id=1,
    )  # fmt: skip
    return LlamaForCausalLM(config)


@pytest.mark.parametrize("pad_to_multiple_of", [None, 64])
def test_joined_rows_weigh_what_padded_ones_do(make_trainer, llama, pad_to_multiple_of):
    options = {"loss_weighting": "p2value", "max_length": None, "max_completion_length": 6}
    positions = [5, 0, 3]
    padded = make_trainer(llama, **options)
    expected = learned(padded, batch_of(padded, positions))
    joined = make_trainer(llama, **options, padding_free=True, pad_to_multiple_of=pad_to_multiple_of)
    batch = batch_of(joined, positions)
    assert batch["input_ids"].shape == batch["loss_weights"].shape
    assert batch["input_ids"].size(0) == 1
    for ours, theirs in zip(learned(joined, batch), expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-6)


def test_weights_follow_the_buffer_from_round_to_round(make_trainer):
    trainer = make_trainer(loss_weighting="p2value")
    loader = trainer.get_train_dataloader()
    before = [batch["loss_weights"] for batch in loader]
    trainer.buffer.possibility_weight = 0.0
    after = [batch["loss_weights"] for batch in loader]
    positions = list(trainer._get_train_sampler())
    assert torch.cat(after).flatten().tolist() == pytest.approx(trainer.buffer.pass_rates()[positions].tolist())
    assert not torch.equal(torch.cat(before), torch.cat(after))


def test_what_would_miss_the_weights_is_refused(make_trainer, monkeypatch):
    def custom(outputs, labels, num_items_in_batch=None):
        return outputs.logits.sum()

    with pytest.warns(FutureWarning), pytest.raises(ValueError, match="compute_loss_func: must be None with"):
        make_trainer(loss_weighting="p2value", compute_loss_func=custom)
    trainer = make_trainer(loss_weighting="p2value")
    split = SimpleNamespace(cp_enabled=False, sp_enabled=True)
    monkeypatch.setattr(Accelerator, "parallelism_config", property(lambda self: split))
    with pytest.raises(ValueError, match=r"parallelism_config: .* context or sequence parallelism"):
        check_weighing(trainer.accelerator, trainer.compute_loss_func)


def test_log_probabilities_of_another_shape_are_refused(make_trainer):
    trainer = make_trainer(loss_weighting="p2value")
    batch = batch_of(trainer, [0, 1, 2])
    batch["loss_weights"] = batch["loss_weights"][:2]
    with pytest.raises(ValueError, match=r"data_collator: .* got \[3, \d+\] for weights of shape \[2, 1\]"):
        trainer.compute_loss(trainer.model, batch)
