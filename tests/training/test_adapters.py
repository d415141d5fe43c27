"""Ways to train through `PPERTrainer`: each learns a teacher's programs on a CPU, and what it saved can be used."""

from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel
from transformers import BitsAndBytesConfig, LlamaConfig, LlamaForCausalLM, TrainerCallback

from trl_pper import BeamSampleCollector, DatasetSource, PPERConfig, PPERTrainer
from trl_pper.generation.local_model import CHECKPOINTING, LocalModel

pytest.importorskip("bitsandbytes")
# bitsandbytes' 8-bit layers tell of each cast to float16, on every machine without a GPU.
pytestmark = pytest.mark.filterwarnings("ignore:MatMul8bitLt")

FOUR_BIT = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=torch.float32)
EIGHT_BIT = BitsAndBytesConfig(load_in_8bit=True)


@pytest.fixture(scope="module")
def base(tokenizer, tmp_path_factory) -> str:
    """A folder with a tiny Llama and its tokenizer; its layers hold enough weights for 8-bit optimizer states."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=128, eos_token_id=0, bos_token_id=0, pad_token_id=1,
    )  # fmt: skip
    folder = tmp_path_factory.mktemp("base")
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def teacher(tasks) -> DatasetSource:
    """Programs without log-probabilities: the student scores them, in evaluation mode, before its first step."""
    return DatasetSource(
        [{"task_id": task.task_id, "completion": f"    return x + {n}\n"} for n, task in enumerate(tasks, start=1)]
    )


class Gradients(TrainerCallback):
    """Looks at the gradients of each optimizer step."""

    def __init__(self) -> None:
        self.missing: list[int] = []
        self.zero: list[int] = []

    def on_pre_optimizer_step(self, args, state, control, model=None, **others):
        found = [parameter.grad for parameter in model.parameters() if parameter.requires_grad]
        self.missing.append(sum(gradient is None for gradient in found))
        self.zero.append(sum(gradient is not None and not gradient.any() for gradient in found))


@pytest.fixture
def train(base, tasks, teacher, tokenizer, tmp_path):
    """Train two rounds of six steps; return the trainer and what its gradients were."""
    trainers = []

    def run(*, lora=True, quantization=None, **options) -> tuple[PPERTrainer, Gradients]:
        settings = dict(
            output_dir=str(tmp_path), use_cpu=True, bf16=False, report_to=[], disable_tqdm=True, num_beams=2,
            max_completion_length=6, max_length=128, per_device_train_batch_size=4, steps_per_round=6,
            num_train_epochs=2, learning_rate=1e-2, logging_steps=1, save_strategy="no", judge_workers=1,
        )  # fmt: skip
        gradients = Gradients()
        trainer = PPERTrainer(
            base,
            PPERConfig(**{**settings, **options}),
            train_dataset=tasks,
            processing_class=tokenizer,
            callbacks=[BeamSampleCollector(source=teacher), gradients],
            peft_config=LoraConfig(r=8, lora_alpha=32, target_modules="all-linear", task_type="CAUSAL_LM")
            if lora
            else None,
            quantization_config=quantization,
        )
        trainers.append(trainer)
        trainer.train()
        return trainer, gradients

    yield run
    for trainer in trainers:
        trainer.judge.close()


@dataclass(frozen=True, kw_only=True)
class Variant:
    """A way to train, and what it must show."""

    quantization: Any = None
    options: dict[str, Any] = field(default_factory=dict)
    #: How far logits of the trained model may be from those of its merge: the base was rounded, or computes in bf16.
    rounding: float = 1e-4


LORA = {
    "lora": Variant(),
    "lora, no checkpointing": Variant(options={"gradient_checkpointing": False}),
    "lora, bf16": Variant(options={"bf16": True}, rounding=0.05),
    "qlora, 4 bits": Variant(quantization=FOUR_BIT, rounding=0.6),
    "qlora, 8 bits": Variant(quantization=EIGHT_BIT, rounding=0.05),
    "qlora, 4 bits, bf16, 8-bit optimizer": Variant(
        quantization=FOUR_BIT, options={"bf16": True, "optim": "adamw_8bit"}, rounding=0.6
    ),
}


def losses(trainer) -> list[float]:
    return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]


def logits(model, tokenizer) -> torch.Tensor:
    ids = torch.tensor([tokenizer("# add one \ndef f(x):\n    return x + 1\n")["input_ids"]])
    with torch.no_grad():
        return model.eval()(input_ids=ids).logits.float()


def distance(one: torch.Tensor, other: torch.Tensor) -> float:
    return (one - other).abs().max().item()


@pytest.mark.slow
@pytest.mark.parametrize("name", LORA)
def test_adapters_learn_at_once_and_merge_into_the_full_base(name, train, base, tokenizer):
    variant = LORA[name]
    trainer, gradients = train(quantization=variant.quantization, **variant.options)
    assert gradients.missing == [0] * 12
    # B starts at zero, so that A has no gradient in the first step; from then on everything learns.
    adapters = sum(parameter.requires_grad for parameter in trainer.model.parameters())
    assert gradients.zero == [adapters // 2] + [0] * 11
    learned = losses(trainer)
    assert learned[-1] < 0.92 * learned[0]
    trainer.save_model()
    plain = LlamaForCausalLM.from_pretrained(base, dtype=torch.float32)
    untouched = logits(plain, tokenizer)
    adapted = PeftModel.from_pretrained(plain, trainer.args.output_dir)
    expected = logits(adapted, tokenizer)
    merged = logits(adapted.merge_and_unload(), tokenizer)
    effect = distance(merged, untouched)
    assert effect > 1.0
    assert distance(merged, expected) < 1e-4
    assert distance(logits(trainer.model, tokenizer), merged) < variant.rounding < effect
    assert not any("lora" in name for name, _ in plain.named_parameters())


FULL = {
    "float32": {},
    "no checkpointing": {"gradient_checkpointing": False},
    "bf16": {"bf16": True},
    "8-bit optimizer": {"optim": "adamw_8bit"},
}


@pytest.mark.slow
@pytest.mark.parametrize("name", FULL)
def test_full_fine_tuning_learns_and_reloads(name, train, tokenizer):
    trainer, gradients = train(lora=False, **FULL[name])
    assert (gradients.missing, gradients.zero) == ([0] * 12, [0] * 12)
    learned = losses(trainer)
    assert learned[-1] < 0.6 * learned[0]
    states = {
        value.dtype
        for state in trainer.optimizer.state.values()
        for value in state.values()
        if torch.is_tensor(value) and value.numel() >= 4096
    }
    assert (torch.uint8 in states) == (name == "8-bit optimizer")
    trainer.save_model()
    reloaded = LlamaForCausalLM.from_pretrained(trainer.args.output_dir, dtype=torch.float32)
    assert distance(logits(reloaded, tokenizer), logits(trainer.model, tokenizer)) < (0.1 if name == "bf16" else 1e-5)


@pytest.mark.slow
def test_checkpointing_is_the_default_and_changes_no_learning(train):
    (with_it, _), (without, _) = (train(**options) for options in ({}, {"gradient_checkpointing": False}))
    assert getattr(with_it.model.get_base_model(), f"is_{CHECKPOINTING}")
    assert not getattr(without.model.get_base_model(), f"is_{CHECKPOINTING}")
    assert losses(with_it) == pytest.approx(losses(without), rel=1e-5)


@pytest.fixture
def lora_trainer(train):
    trainer, _ = train(num_train_epochs=1, steps_per_round=2)
    return trainer


def test_the_base_answers_below_the_adapter_from_one_copy(lora_trainer, base, tokenizer, tasks):
    untouched = LocalModel(model=LlamaForCausalLM.from_pretrained(base).eval(), processing_class=tokenizer)
    pairs = [
        untouched.encoder.pair(one.prompt, one.completion, ended=not one.truncated, token_ids=one.token_ids)
        for one in lora_trainer.buffer
    ]
    prompts, completions = zip(*pairs, strict=True)
    expected = untouched.logprobs(prompts, completions)
    before = lora_trainer.student.logprobs(prompts, completions)
    assert lora_trainer.base.logprobs(prompts, completions) == pytest.approx(expected, rel=1e-6)
    assert min(abs(ours - theirs) for ours, theirs in zip(before, expected, strict=True)) > 0.1
    assert lora_trainer.student.logprobs(prompts, completions) == before
    assert lora_trainer.base.model is lora_trainer.student.model
    assert lora_trainer.base.name != lora_trainer.student.name
    search = lora_trainer.beam_search()
    by_base, by_untouched, by_student = (
        [[program.completion for program in found] for found in search.generate(tasks, student=student)]
        for student in (lora_trainer.base, untouched, lora_trainer.student)
    )
    assert by_base == by_untouched != by_student


def test_after_an_exception_adapters_are_back_and_weights_frozen(lora_trainer, tokenizer):
    model = lora_trainer.model
    frozen = next(parameter for name, parameter in model.named_parameters() if "lora_A" in name)
    frozen.requires_grad_(False)
    flags = [parameter.requires_grad for parameter in model.parameters()]
    before = logits(model, tokenizer)
    seen = []

    def interrupted() -> None:
        with lora_trainer.base.inference() as bare:
            seen.append(logits(bare, tokenizer))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert distance(seen[0], before) > 0.01
    assert [parameter.requires_grad for parameter in model.parameters()] == flags
    assert torch.equal(logits(model, tokenizer), before)


def test_the_base_of_a_full_fine_tuning_is_gone(make_model, tokenizer):
    with pytest.raises(ValueError, match="model: must be a PeftModel to leave its adapter out; got GPT2LMHeadModel"):
        LocalModel(model=make_model(), processing_class=tokenizer).without_adapter()


def test_generating_leaves_4_bit_weights_as_training_needs_them(base, tokenizer):
    """On a CPU with AVX-512 BF16 bitsandbytes repacks them in evaluation mode, for a kernel without gradients."""
    from bitsandbytes.nn import Linear4bit

    model = LlamaForCausalLM.from_pretrained(base, quantization_config=FOUR_BIT)
    layers = [module for module in model.modules() if isinstance(module, Linear4bit)]
    assert len(layers) == 14
    for layer in layers:
        layer.support_avx512bf16_for_cpu = True
    local = LocalModel(model=model, processing_class=tokenizer)
    weights = [layer.weight.data.clone() for layer in layers]
    local.logprobs([[5, 6]], [[7, 8]])
    assert all(torch.equal(layer.weight.data, old) for layer, old in zip(layers, weights, strict=True))
    assert not any(getattr(layer.weight.quant_state, "packing_format_for_cpu", False) for layer in layers)
    assert all(layer.support_avx512bf16_for_cpu for layer in layers)
