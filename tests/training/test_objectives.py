"""Objectives that learn from failed programs: each gradient is that of the paper's loss, and misuse is refused."""

import logging

import datasets
import numpy as np
import pytest
import torch
from peft import LoraConfig
from transformers import LlamaConfig, LlamaForCausalLM

from tests.support.batches import batch_of
from tests.support.forked_plan import carry_out
from trl_pper import (
    BeamSampleCollector,
    BeamSearchSource,
    DatasetSource,
    NucleusSource,
    PPERConfig,
    PPERTrainer,
    ReplayBuffer,
)
from trl_pper.generation.scorer import Scorer
from trl_pper.replay.experience import Experience
from trl_pper.training.objectives import Objective, asymre, importance, nft, topr, writer_logprobs

#: Pass rates of the programs of each task: some pass, all pass, none passes.
TASKS = {"some": [1.0, 0.0, 0.5, 1.0], "all": [1.0], "none": [0.0, 0.25]}
WITH_RATIO = [(name, ratio) for name in ("importance", "topr", "nft") for ratio in ("mean", "product")]
CLIP_HIGH, SHIFT = 1.3, -0.2


def row(task: str, pass_rate: float, n: int) -> dict:
    """A program of `n + 5` tokens with its end token, a little more or less probable than the tiny models find it."""
    nats = -5.55 * (n + 5) + (-1) ** n * (0.05 + 0.3 * n)
    prompt = f"# {task}\n"
    return {"task_id": task, "prompt": prompt, "completion": f"x = {'1' * n}", "logprob": nats, "pass_rate": pass_rate}


@pytest.fixture(scope="module")
def rows() -> datasets.Dataset:
    """Programs of different lengths, of three tasks."""
    rates = [(task, rate) for task, rates in TASKS.items() for rate in rates]
    return datasets.Dataset.from_list([row(task, rate, n) for n, (task, rate) in enumerate(rates, start=1)])


@pytest.fixture
def make_trainer(make_model, tokenizer, rows, tmp_path):
    def build(model=None, train_dataset=rows, trainer=None, **options) -> PPERTrainer:
        settings = dict(
            output_dir=str(tmp_path), use_cpu=True, bf16=False, report_to=[], disable_tqdm=True, save_strategy="no",
            per_device_train_batch_size=4, steps_per_round=1, num_train_epochs=1, learning_rate=0.1, optim="sgd",
            lr_scheduler_type="constant", logging_steps=1, judge_workers=1, priority="uniform", num_beams=2,
            max_completion_length=6, generation_batch_size=2, objective_clip_high=CLIP_HIGH,
            objective_baseline_shift=SHIFT,
        )  # fmt: skip
        return PPERTrainer(
            model if model is not None else make_model(),
            PPERConfig(**{**settings, **options}),
            train_dataset=train_dataset,
            processing_class=tokenizer,
            **(trainer or {}),
        )

    return build


@pytest.fixture
def llama(tokenizer) -> LlamaForCausalLM:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2,
        max_position_embeddings=128, eos_token_id=0, bos_token_id=0, pad_token_id=1,
    )  # fmt: skip
    return LlamaForCausalLM(config)


def gradient(trainer, loss) -> torch.Tensor:
    trainer.model.zero_grad()
    loss.backward()
    learned = [value.grad for value in trainer.model.parameters() if value.requires_grad]
    return torch.cat([one.flatten() for one in learned]).clone()


def learned(trainer, positions) -> torch.Tensor:
    """The gradient of the loss of a batch."""
    trainer.model.train()
    return gradient(trainer, trainer.compute_loss(trainer.model, batch_of(trainer, positions)))


def paper_loss(one: Experience, tokens: torch.Tensor, others: list[Experience], *, name: str, ratio: str):
    """The loss of a program as its paper writes it, from the log-probabilities of its tokens: a naive twin."""
    logprob, length = tokens.sum(), len(tokens) if ratio == "mean" else 1
    rates = [other.pass_rate for other in others]
    if name == "asymre":
        return -(one.pass_rate - (sum(rates) / len(rates) + SHIFT)) * logprob
    relative = torch.exp((logprob - one.logprob) / length)
    if name == "importance":
        return -torch.clip(relative.detach(), 0, CLIP_HIGH) * logprob if one.pass_rate == 1 else 0 * logprob
    if name == "topr":
        return -logprob if one.pass_rate == 1 else torch.clip(relative.detach(), 0, 1) * logprob
    if one.pass_rate == 1:
        return -length * torch.log(relative)
    passing = sum(rate == 1 for rate in rates) / len(rates)
    negative = (1 - passing * relative) / (1 - passing)
    straight_through = (torch.clip(negative, min=1.0) - negative).detach() + negative
    return -length * torch.log(straight_through)


def paper_gradient(trainer, positions, **chosen) -> torch.Tensor:
    """The gradient of the mean loss of a token, from plain logits, one program at a time."""
    trainer.model.train()
    loss, tokens = 0.0, 0
    for position in positions:
        drawn, one = trainer.train_dataset[position], trainer.buffer[position]
        ids, labels = torch.tensor([drawn["input_ids"]]), torch.tensor(drawn["labels"])
        logprobs = trainer.model(input_ids=ids).logits[0, :-1].log_softmax(-1)
        own = logprobs[torch.arange(len(labels) - 1), ids[0, 1:]][labels[1:] != -100]
        others = [other for other in trainer.buffer if other.task_id == one.task_id]
        loss, tokens = loss + paper_loss(one, own, others, **chosen), tokens + len(own)
    return gradient(trainer, loss / tokens)


def assert_same(one: torch.Tensor, other: torch.Tensor) -> None:
    assert other.abs().max() > 1e-3
    torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-4 * float(other.abs().max()))


@pytest.mark.parametrize(("name", "ratio"), [*WITH_RATIO, ("asymre", "mean")])
def test_the_gradient_is_that_of_the_papers_loss(make_trainer, llama, name, ratio):
    # The paper of NFT does not bound ratios.
    high = CLIP_HIGH if name == "importance" else 1e6
    options = {"objective": name, "objective_ratio": ratio, "objective_clip_high": high, "max_length": None}
    trainer = make_trainer(llama, **options)
    # Each program, some of them twice, in no order.
    positions = [3, 1, 0, 2, 6, 5, 4, 1]
    ours = learned(trainer, positions)
    expected = paper_gradient(trainer, positions, name=name, ratio=ratio)
    assert_same(ours, expected)
    # The twin is no twin of plain SFT.
    plain = learned(make_trainer(llama, max_length=None), positions)
    assert (ours - plain).abs().max() > 0.01 * plain.abs().max()
    for multiple in (None, 64):
        joined = make_trainer(llama, **options, padding_free=True, pad_to_multiple_of=multiple)
        assert batch_of(joined, positions)["input_ids"].size(0) == 1
        assert_same(learned(joined, positions), expected)


@pytest.mark.parametrize("name", ["topr", "asymre"])
def test_adapters_learn_the_same_objective(make_trainer, llama, name):
    adapter = LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM", init_lora_weights=False)
    trainer = make_trainer(llama, objective=name, trainer={"peft_config": adapter})
    positions = [0, 1, 2, 5]
    assert_same(learned(trainer, positions), paper_gradient(trainer, positions, name=name, ratio="mean"))


def test_a_weight_multiplies_a_coefficient(make_trainer):
    weighted = make_trainer(objective="asymre", loss_weighting="p2value")
    plain = make_trainer(objective="asymre")
    for position in (0, 1, 5):
        p2value = weighted.buffer.p2values()[position]
        torch.testing.assert_close(
            learned(weighted, [position]), p2value * learned(plain, [position]), rtol=1e-3, atol=1e-6
        )


@pytest.mark.parametrize("name", ["nft", "asymre"])
def test_accumulated_micro_batches_learn_what_one_does(make_trainer, name):
    whole, split = (
        make_trainer(objective=name, per_device_train_batch_size=4 // n, gradient_accumulation_steps=n) for n in (1, 2)
    )
    before = {key: value.clone() for key, value in whole.model.state_dict().items()}
    for trainer in (whole, split):
        trainer.train()
    for key, value in whole.model.state_dict().items():
        torch.testing.assert_close(split.model.state_dict()[key], value, rtol=1e-5, atol=1e-6)
    assert max((before[key] - value).abs().max() for key, value in whole.model.state_dict().items()) > 1e-3
    losses = [trainer.state.log_history[0]["loss"] for trainer in (whole, split)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_two_processes_learn_what_one_does(tmp_path):
    def run(name: str, processes: int, objective: str) -> dict:
        config = {
            "per_device_train_batch_size": 4 // processes, "gradient_accumulation_steps": 2, "steps_per_round": 2,
            "learning_rate": 1e-3, "objective": objective, "priority": "uniform",
        }  # fmt: skip
        return {"name": name, "output": name, "processes": processes, "dropout": 0.0, "config": config}

    plan = [run(f"topr {processes}", processes, "topr") for processes in (1, 2)] + [run("sft", 1, "sft")]
    carried = carry_out(tmp_path, plan)
    (alone,), together, (plain,) = (carried.seen(name) for name in ("topr 1", "topr 2", "sft"))
    assert len({seen["weights"] for seen in together}) == 1
    assert together[0]["losses"] == pytest.approx(alone["losses"], rel=1e-3, abs=1e-4)
    assert together[0]["sums"] == pytest.approx(alone["sums"], rel=1e-3, abs=1e-3)
    assert alone["losses"] != pytest.approx(plain["losses"], rel=1e-2)


@pytest.mark.parametrize("decoding", ["beam", "nucleus"])
def test_the_ratio_begins_at_1_and_is_logged(make_trainer, tasks, decoding):
    trainer = make_trainer(
        train_dataset=tasks, objective="topr", decoding=decoding, steps_per_round=3, learning_rate=0.5
    )
    trainer.train()
    means = [entry["pper/objective_ratio_mean"] for entry in trainer.state.log_history if "loss" in entry]
    assert len(means) == 3
    # The model that wrote the programs has taken no step yet.
    assert means[0] == pytest.approx(1.0, rel=1e-4)
    # Every program fails, and has become less probable.
    assert trainer.buffer.pass_rates().max() < 1
    assert means[2] < 0.99


def test_failed_programs_become_less_probable(make_trainer, rows):
    def logprobs(trainer) -> np.ndarray:
        return np.array(trainer.student.logprobs(*encoded(trainer)))

    def encoded(trainer) -> tuple[list, list]:
        pairs = [trainer.student.encoder.pair(one.prompt, one.completion) for one in trainer.buffer]
        return [pair[0] for pair in pairs], [pair[1] for pair in pairs]

    changes = {}
    for name in ("sft", "topr"):
        trainer = make_trainer(objective=name, per_device_train_batch_size=7, steps_per_round=4, learning_rate=0.3)
        before = logprobs(trainer)
        trainer.train()
        changes[name] = (logprobs(trainer) - before) / trainer.buffer._table.numbers["num_tokens"]
    failed = np.array(rows["pass_rate"]) < 1
    assert changes["sft"][failed].mean() > 0
    assert changes["topr"][failed].mean() < changes["topr"][~failed].mean()
    assert changes["topr"][failed].mean() < changes["sft"][failed].mean()


def test_rows_of_sft_have_no_columns_and_others_do(make_trainer):
    assert make_trainer().train_dataset[0].keys() == {"input_ids", "labels"}
    trainer = make_trainer(objective="topr")
    batch = batch_of(trainer, [0, 4])
    assert "loss_weights" not in batch
    columns = batch["objective_columns"]
    assert columns.keys() == {"pass_rate", "task_accuracy", "logprob", "num_tokens"}
    assert columns["task_accuracy"].tolist() == [0.5, 1.0]
    assert columns["num_tokens"].tolist() == [6.0, 10.0]


def test_evaluation_rows_with_the_same_columns_stay_plain(make_trainer, rows):
    losses = [make_trainer(objective=name).evaluate(rows)["eval_loss"] for name in ("sft", "topr", "asymre")]
    assert losses[0] == losses[1] == losses[2]


def test_statistics_are_of_the_buffer_when_prepared(make_trainer):
    trainer = make_trainer(objective="asymre")
    trainer.train_dataset.prepare([4])
    assert trainer.train_dataset[4]["objective.task_pass_rate"] == 1.0
    trainer.buffer.add([Experience(task_id="all", prompt="# all\n", completion="2", program="2", pass_rate=0.0)])
    trainer.train_dataset.prepare([4])
    assert trainer.train_dataset[4]["objective.task_pass_rate"] == 0.5


def test_task_statistics_equal_a_loop_over_programs():
    generator = np.random.default_rng(0)
    programs = [
        Experience(
            task_id=f"t{generator.integers(7)}", prompt="p", completion=str(n), program=str(n), logprob=-1.0,
            num_tokens=2, pass_rate=generator.integers(4) / 3,
        )
        for n in range(60)
    ]  # fmt: skip
    buffer = ReplayBuffer()
    assert [len(values) for values in Objective(name="nft").columns(buffer).values()] == [0] * 4
    buffer.add(programs)
    rates = [[other.pass_rate for other in programs if other.task_id == one.task_id] for one in programs]
    found = Objective(name="asymre").columns(buffer)
    assert found["task_pass_rate"].tolist() == pytest.approx([np.mean(own) for own in rates])
    found = Objective(name="nft").columns(buffer)
    assert found["task_accuracy"].tolist() == pytest.approx([np.mean([rate == 1 for rate in own]) for own in rates])


HUGE = float("inf")
T, F = True, False


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        # The writer itself; a program that became more probable, less probable, impossible; an infinite ratio.
        (
            lambda p, r: importance(p, r, clip_high=2.0),
            {(T, 1.0): 1, (T, 3.0): 2, (T, 0.0): 0, (T, HUGE): 2, (F, 1.0): 0},
        ),
        (topr, {(T, 0.0): 1, (T, 9.0): 1, (F, 1.0): -1, (F, 0.5): -0.5, (F, 0.0): 0, (F, HUGE): -1}),
        (
            lambda p, r: nft(p, r, torch.full_like(r, 0.5), clip_high=4.0),
            {(T, 0.0): 1, (T, 9.0): 1, (F, 1.0): -1, (F, 0.0): 0, (F, 3.0): -3, (F, 9.0): -4},
        ),
        # No program of the task passes; all of them do, and a single program is all of them.
        (lambda p, r: nft(p, r, torch.zeros_like(r)), {(F, 1.0): 0, (F, 1e9): 0}),
        (lambda p, r: nft(p, r, torch.ones_like(r)), {(T, 1.0): 1, (T, 1e9): 1}),
        (lambda p, r: asymre(p.float(), r, shift=0.0), {(T, 0.5): 0.5, (F, 0.5): -0.5, (T, 1.0): 0, (F, 0.0): 0}),
        (lambda p, r: asymre(p.float(), r, shift=-0.1), {(T, 1.0): 0.1, (F, 0.0): 0.1, (F, 0.5): -0.4}),
    ],
)  # fmt: skip
def test_coefficients_at_their_limits(found, expected):
    passes, ratios = (torch.tensor(part) for part in zip(*expected, strict=True))
    assert found(passes, ratios).tolist() == pytest.approx(list(expected.values()), abs=1e-6)


@pytest.mark.parametrize("name", ["importance", "topr", "nft"])
@pytest.mark.parametrize("ratio", ["mean", "product"])
def test_coefficients_stay_finite_whatever_the_probability(name, ratio):
    objective = Objective(name=name, ratio=ratio)
    mu = torch.tensor([-np.inf, -900.0, 0.0, np.nan, -np.inf, -900.0, 0.0, np.nan])
    rows = {
        "logprob": mu.float(),
        "num_tokens": torch.tensor([3.0] * 7 + [0.0]),
        "pass_rate": torch.tensor([1.0] * 4 + [0.5] * 4),
        "task_accuracy": torch.full((8,), 0.5),
    }
    ratios = objective.ratios(rows, torch.full((8,), -30.0))
    found = objective.coefficients(rows, ratios)
    assert torch.isfinite(found).all()
    assert bool((found[:4] >= 0).all() and (found[4:] <= 0).all())
    # An unknown ratio: a passing program is learned where no ratio is needed for it.
    assert found[7] == 0
    assert found[3] == (0 if name == "importance" else 1)


@pytest.mark.parametrize("name", ["importance", "topr", "nft"])
def test_a_teachers_programs_are_refused_for_ratios(make_trainer, make_model, tokenizer, tasks, name):
    written = [{"task_id": tasks[0].task_id, "completion": "    return x"}]
    teachers = {
        "DatasetSource": DatasetSource(written),
        "BeamSearchSource": BeamSearchSource(make_model(1), tokenizer, num_beams=2, max_completion_length=4),
    }
    for kind, source in teachers.items():
        collector = BeamSampleCollector(source=source)
        with pytest.raises(ValueError, match=rf"^source: must generate with .* with objective='{name}'.*; got {kind}"):
            make_trainer(train_dataset=tasks, objective=name, trainer={"callbacks": [collector]})
        trainer = make_trainer(train_dataset=tasks, objective="asymre", trainer={"callbacks": [collector]})
        assert trainer.objective is not None
    scoring = BeamSampleCollector(scorer=Scorer(make_model(1), tokenizer, name="other"))
    with pytest.raises(ValueError, match=r"^scorer: must be None .*; got 'other'\. Leave it out"):
        make_trainer(train_dataset=tasks, objective=name, trainer={"callbacks": [scoring]})
    own = BeamSampleCollector(source=NucleusSource(num_programs=2, max_completion_length=4), learn="program")
    assert make_trainer(train_dataset=tasks, objective=name, trainer={"callbacks": [own]}).objective.name == name


def test_draws_that_leave_failed_programs_out_are_told(make_trainer, capsys):
    told = {}
    for name in ("importance", "topr", "asymre"):
        for priority in ("best", "uniform"):
            make_trainer(objective=name, priority=priority)
            told[name, priority] = "priority='best' hardly draws" in capsys.readouterr().out
    assert [key for key, line in told.items() if line] == [("topr", "best"), ("asymre", "best")]


def test_judged_rows_need_their_writers_probability(make_trainer, rows):
    without = rows.map(lambda row, index: {"logprob": None if index == 2 else row["logprob"]}, with_indices=True)
    with pytest.raises(
        ValueError, match=r"^logprob: required .* got 1 of 7 programs without, the first of task 'some'"
    ):
        make_trainer(train_dataset=without, objective="topr")
    assert len(make_trainer(train_dataset=without, objective="asymre").buffer) == 7
    scored = rows.add_column("source", ["teacher"] * 7).add_column("scorer", ["student"] * 7)
    with pytest.raises(ValueError, match=r"^logprob: required .* got 7 of 7 .* by 'teacher', .* by 'student'"):
        make_trainer(train_dataset=scored, objective="nft")
    own = rows.add_column("source", ["teacher"] * 7).add_column("scorer", ["teacher"] * 7)
    assert len(make_trainer(train_dataset=own, objective="nft").buffer) == 7


def test_a_buffer_to_go_on_with_is_checked_too(make_trainer, tasks):
    buffer = ReplayBuffer(priority="uniform")
    foreign = dict(task_id="t", prompt="p", logprob=-1.0, num_tokens=2, pass_rate=0.0, source="teacher")
    buffer.add([Experience(completion="1", program="1", scorer="student", **foreign)])
    assert np.isnan(writer_logprobs(buffer)).all()
    with pytest.raises(ValueError, match=r"^logprob: required of every program with objective='topr'"):
        make_trainer(train_dataset=tasks, objective="topr", trainer={"buffer": buffer})


def test_a_probability_of_other_tokens_is_refused(make_trainer, rows):
    counted = rows.add_column("num_tokens", [6, 7, 8, 9, 10, 11, 13])
    with pytest.raises(ValueError, match=r"^num_tokens: must be the 12 tokens to learn, .*; got 13 for .* 'none'"):
        make_trainer(train_dataset=counted, objective="topr")
    with pytest.raises(ValueError, match=r"^num_tokens: must be the \d+ tokens to learn.*max_length"):
        make_trainer(objective="topr", max_length=14)
    assert len(make_trainer(train_dataset=counted, objective="asymre").buffer) == 7


def test_programs_that_nobody_could_score_are_counted(make_trainer, caplog):
    trainer = make_trainer(objective="topr")
    trainer.buffer.add([Experience(task_id="some", prompt="# some\n", completion="2", program="2", pass_rate=0.0)])
    with caplog.at_level(logging.WARNING):
        gradient = learned(trainer, [7])
    assert gradient.abs().max() == 0
    assert "objective: 1 of 1 drawn programs have no log-probability of the model that wrote them" in caplog.text
    assert "pper/objective_ratio_mean" not in trainer._metrics["train"]


def test_what_would_miss_the_coefficients_is_refused(make_trainer):
    with (
        pytest.warns(FutureWarning),
        pytest.raises(ValueError, match=r"compute_loss_func: must be None with .*objective"),
    ):
        make_trainer(objective="asymre", trainer={"compute_loss_func": lambda *_, **__: 0})
    trainer = make_trainer(objective="topr")
    batch = batch_of(trainer, [0, 1, 2])
    batch["objective_columns"] = {name: values[:2] for name, values in batch["objective_columns"].items()}
    with pytest.raises(ValueError, match=r"data_collator: .* objective need .* got \[3, \d+\] for weights of shape"):
        trainer.compute_loss(trainer.model, batch)
