"""Log-probabilities noted while programs are written, against one forward pass a token; prompts prefilled once."""

import dataclasses

import pytest
import torch

from tests.generation.test_generation import naive_logprob
from trl_pper.generation.beam_search import BeamSearchSource
from trl_pper.generation.local_model import LocalModel
from trl_pper.generation.nucleus import NucleusSource
from trl_pper.tasks.task import CodingTask

SHAPES = {
    "llama": ("LlamaConfig", "LlamaForCausalLM", {}),
    "qwen2": ("Qwen2Config", "Qwen2ForCausalLM", {}),
    # Windows that prompts and completions are longer than.
    "mistral": ("MistralConfig", "MistralForCausalLM", {"sliding_window": 8}),
    # A state-space model has no cache of keys and values.
    "mamba": ("MambaConfig", "MambaForCausalLM", {"state_size": 4, "num_hidden_layers": 2}),
}
SOURCES = {
    "beams": lambda **given: BeamSearchSource(num_beams=3, **given),
    "groups": lambda **given: BeamSearchSource(num_beams=4, num_beam_groups=2, **given),
    "samples": lambda **given: NucleusSource(num_programs=3, temperature=0.7, top_p=0.8, **given),
    "top_k": lambda **given: NucleusSource(num_programs=3, temperature=1.5, top_p=1.0, top_k=5, **given),
}


@pytest.fixture(scope="module")
def tasks():
    texts = ["# add one \ndef f(x):\n", "#", "# a longer prompt than the others\ndef f(x):\n", "def g"]
    return [CodingTask(task_id=str(n), prompt=text, tests="assert True") for n, text in enumerate(texts)]


@pytest.fixture
def build(tokenizer, make_model):
    """Make a model of a shape, which often ends: many of its tokens are end tokens."""

    def made(shape, dtype=torch.float32, ends=90):
        import transformers

        torch.manual_seed(1)
        if shape == "gpt2":
            model = make_model(seed=1)
        else:
            config, model_class, options = SHAPES[shape]
            sizes = dict(
                vocab_size=len(tokenizer), hidden_size=16, intermediate_size=32, num_hidden_layers=2,
                num_attention_heads=2, num_key_value_heads=2, max_position_embeddings=256, initializer_range=0.3,
                eos_token_id=0, bos_token_id=0, pad_token_id=1,
            )  # fmt: skip
            sizes = {key: value for key, value in sizes.items() if shape != "mamba" or "attention" not in key}
            model = getattr(transformers, model_class)(getattr(transformers, config)(**sizes | options))
        model = model.to(dtype).eval()
        model.generation_config.eos_token_id = [0, *range(10, 10 + ends)]
        return LocalModel(model=model, processing_class=tokenizer)

    return made


def sequences(local, tasks, found):
    """The tokens of each program and what was said of them."""
    for task, programs in zip(tasks, found, strict=True):
        prompt = local.encode([task.prompt])[0]
        for program in programs:
            ids = (
                list(program.token_ids)
                or local.encoder.pair(task.prompt, program.completion, ended=program.finish_reason == "eos")[1]
            )
            assert len(ids) == program.num_tokens
            yield prompt, ids, program


def shapes_of_passes(model):
    """The shapes of the token ids of each forward pass from now on."""
    shapes = []
    model.register_forward_pre_hook(
        lambda _, args, kwargs: shapes.append(tuple(kwargs["input_ids"].shape)), with_kwargs=True
    )
    return shapes


@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize("shape", ["gpt2", *SHAPES])
def test_noted_log_probabilities_are_the_models_own(build, tasks, shape, source):
    local = build(shape)
    written = SOURCES[source](max_completion_length=16).generate(tasks, student=local)
    found = list(sequences(local, tasks, written))
    for prompt, ids, program in found:
        assert program.logprob == pytest.approx(naive_logprob(local.model, prompt, ids), abs=1e-3)
    reasons = {program.finish_reason for *_, program in found}
    assert "eos" in reasons
    # Programs of several lengths: beams that ended earlier, and rows with padding behind them.
    assert len({len(ids) for _, ids, _ in found}) > 1 or shape == "mamba"


@pytest.mark.parametrize("source", SOURCES)
def test_equal_tokens_are_no_obstacle(build, tasks, source):
    local = build("llama")
    torch.nn.init.zeros_(local.model.lm_head.weight)
    written = SOURCES[source](max_completion_length=5).generate(tasks, student=local)
    for prompt, ids, program in sequences(local, tasks, written):
        assert program.logprob == pytest.approx(naive_logprob(local.model, prompt, ids), abs=1e-3)


@pytest.mark.parametrize("source", ["beams", "samples"])
def test_half_precision_is_as_near_as_its_numbers_allow(build, tasks, source):
    local = build("llama", torch.bfloat16)
    written = SOURCES[source](max_completion_length=12).generate(tasks, student=local)
    for prompt, ids, program in sequences(local, tasks, written):
        assert program.logprob == pytest.approx(naive_logprob(local.model, prompt, ids), rel=0.02, abs=0.15)


@pytest.mark.parametrize("source", ["beams", "samples"])
def test_writing_takes_no_second_pass(build, tasks, source):
    local = build("llama")
    passes = shapes_of_passes(local.model)
    long = [task for task in tasks if len(task.prompt) > 1]
    list(SOURCES[source](max_completion_length=6).generate(long, student=local))
    width = max(len(ids) for ids in local.encode([task.prompt for task in long]))
    # All prompts once but their last token; then a token of each program in turn, and no pass of whole rows.
    assert passes[0] == (3, width - 1)
    assert set(passes[1:]) == {(9, 1)}
    assert len(passes) <= 7


@pytest.mark.parametrize("source", ["beams", "samples"])
def test_what_a_stop_leaves_has_its_own_probability(build, tasks, source, monkeypatch):
    local = build("llama", ends=0)
    free = SOURCES[source](max_completion_length=20)
    texts = [program.completion for programs in free.generate(tasks, student=local) for program in programs]
    # A stop of each task that its programs hold, and not at their beginning.
    stop = tuple({text[5] for text in texts if len(text) > 8 and text[5].isascii() and text[5] not in text[:5]})
    assert stop
    stopped = [dataclasses.replace(task, stop=stop) for task in tasks]
    asked = []
    scored = LocalModel.logprobs
    monkeypatch.setattr(
        LocalModel,
        "logprobs",
        lambda self, prompts, *rest, **more: asked.extend(prompts) or scored(self, prompts, *rest, **more),
    )
    found = list(sequences(local, stopped, free.generate(stopped, student=local)))
    cut = [program for *_, program in found if program.finish_reason == "stop"]
    assert len(cut) >= 2
    for prompt, ids, program in found:
        if ids:
            assert program.logprob == pytest.approx(naive_logprob(local.model, prompt, ids), abs=1e-3)
    # Only cuts through a token take a pass.
    assert len(asked) <= len(found) // 2


@pytest.mark.parametrize("shape", ["gpt2", *SHAPES])
def test_programs_of_a_prompt_share_its_pass(build, shape):
    local = build(shape)
    prompts = local.encode(["# one prompt", "# another one", "#"])
    pairs = [(prompts[at], local.encode([text])[0]) for at, text in
             [(0, "a"), (1, "return x"), (0, "return 1234"), (1, "b"), (0, "cd"), (2, "x"), (2, "yz")]]  # fmt: skip
    expected = [naive_logprob(local.model, *pair) for pair in pairs]
    for chosen in (range(5), range(7), [0, 2], [1]):
        for size in (2, 8):
            found = local.logprobs([pairs[at][0] for at in chosen], [pairs[at][1] for at in chosen], batch_size=size)
            assert found == pytest.approx([expected[at] for at in chosen], abs=1e-3)
    if shape == "llama":
        passes = shapes_of_passes(local.model)
        local.logprobs([pairs[at][0] for at in (0, 2, 4)], [pairs[at][1] for at in (0, 2, 4)])
        assert passes == [(1, len(prompts[0]) - 1), (3, 1 + len("return 1234"))]


def test_samples_stay_those_of_plain_generate(build, tasks, tokenizer):
    """The prompt cache changes the rounding of logits alone."""
    local = build("llama")
    task = tasks[0]
    source = BeamSearchSource(num_beams=3, max_completion_length=10)
    (programs,) = source.generate([task], student=local)
    ids = torch.tensor(local.encode([task.prompt]))
    plain = local.model.generate(
        ids, attention_mask=torch.ones_like(ids),
        generation_config=source.generation_config(local.eos_token_ids(), local.pad_token_id),
    )  # fmt: skip
    rows = [row[ids.shape[1] :] for row in plain.tolist()]
    assert [one.completion for one in programs] == [
        tokenizer.decode(row, skip_special_tokens=True) for row in rows
    ]  # fmt: skip
