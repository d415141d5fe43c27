"""Beam search and scoring against slow twins, and the state of the model before and after."""

import math

import pytest
import torch

from trl_pper.generation.beam_search import BeamSearchSource
from trl_pper.generation.local_model import CHECKPOINTING, LocalModel


def naive_logprob(model, prompt: list[int], completion: list[int]) -> float:
    """One forward pass per token, no padding, no batch."""
    total = 0.0
    for i, token in enumerate(completion):
        logits = model(input_ids=torch.tensor([prompt + completion[:i]])).logits[0, -1]
        total += logits.detach().float().log_softmax(-1)[token].item()
    return total


def test_logprobs_equal_a_naive_twin_for_unequal_lengths(local):
    prompts = local.encode(["a", "abcdef", "xyz"])
    completions = local.encode(["hello", "b", "0123456789"])
    expected = [naive_logprob(local.model, p, c) for p, c in zip(prompts, completions, strict=True)]
    for batch_size in (1, 2, 8):
        assert local.logprobs(prompts, completions, batch_size=batch_size) == pytest.approx(expected, abs=1e-4)


def test_an_empty_completion_has_logprob_zero(local):
    assert local.logprobs([[5, 6]], [[]]) == [0.0]


def test_beams_are_the_most_probable_of_all_completions(make_model, tokenizer, tasks):
    """With a beam for nearly every first token, beam search has to find what trying everything finds."""
    model = make_model().eval()
    local = LocalModel(model=model, processing_class=tokenizer)
    source = BeamSearchSource(num_beams=len(tokenizer) - 1, max_completion_length=2, length_penalty=0.0)
    (programs,) = source.generate(tasks[:1], student=local)
    prompt = torch.tensor(local.encode([tasks[0].prompt]))
    every = torch.arange(len(tokenizer))
    with torch.no_grad():
        first = model(input_ids=prompt).logits[0, -1].log_softmax(-1)
        after = torch.cat([prompt.expand(len(every), -1), every[:, None]], dim=1)
        both = first[:, None] + model(input_ids=after).logits[:, -1].log_softmax(-1)
    both[tokenizer.eos_token_id] = -torch.inf  # nothing follows the end token
    best = torch.cat([both.flatten(), first[tokenizer.eos_token_id, None]]).sort(descending=True).values[:50]
    logprobs = [program.logprob for program in programs]
    assert logprobs[:50] == pytest.approx(best.tolist(), abs=1e-3)


def test_reported_logprob_is_that_of_the_generated_tokens(make_model, tokenizer, tasks, monkeypatch):
    model = make_model().eval()
    local = LocalModel(model=model, processing_class=tokenizer)
    outputs = []
    generate = model.generate
    monkeypatch.setattr(
        model, "generate", lambda **inputs: outputs.append((inputs, generate(**inputs))) or outputs[-1][1]
    )
    source = BeamSearchSource(num_beams=3, max_completion_length=6, batch_size=4)
    programs = [program for one in source.generate(tasks, student=local) for program in one]
    ((inputs, output),) = outputs
    rows = output.sequences
    assert len(programs) == len(rows) == 12
    for program, row, i in zip(programs, rows.tolist(), range(12), strict=True):
        prompt = local.encode([tasks[i // 3].prompt])[0]
        completion = row[inputs["input_ids"].shape[1] :][: program.num_tokens]
        assert program.logprob == pytest.approx(naive_logprob(model, prompt, completion), abs=1e-3)


def test_batches_and_single_prompts_give_the_same_programs(make_model, tokenizer, tasks):
    local = LocalModel(model=make_model(seed=3).eval(), processing_class=tokenizer)
    batched = list(BeamSearchSource(max_completion_length=5, batch_size=4).generate(tasks, student=local))
    single = list(BeamSearchSource(max_completion_length=5, batch_size=1).generate(tasks, student=local))
    assert [[p.completion for p in programs] for programs in batched] == [
        [p.completion for p in programs] for programs in single
    ]


def test_an_inherited_generation_config_changes_nothing(make_model, tokenizer, tasks):
    plain, odd = make_model(), make_model()
    odd.generation_config.do_sample = True
    odd.generation_config.repetition_penalty = 5.0
    odd.generation_config.suppress_tokens = list(range(100, 200))
    source = BeamSearchSource(max_completion_length=5)
    expected = list(source.generate(tasks, student=LocalModel(model=plain, processing_class=tokenizer)))
    assert list(source.generate(tasks, student=LocalModel(model=odd, processing_class=tokenizer))) == expected
    assert odd.generation_config.repetition_penalty == 5.0


def test_train_mode_and_checkpointing_change_nothing_and_return(make_model, tokenizer, tasks):
    model = make_model(dropout=0.5)
    source = BeamSearchSource(max_completion_length=5)
    expected = list(source.generate(tasks, student=LocalModel(model=model.eval(), processing_class=tokenizer)))
    model.train()
    model.transformer.h[0].eval()
    getattr(model, f"{CHECKPOINTING}_enable")()
    from accelerate import Accelerator

    student = LocalModel(model=model, processing_class=tokenizer, accelerator=Accelerator(cpu=True))
    assert list(source.generate(tasks, student=student)) == expected
    assert model.training
    assert not model.transformer.h[0].training
    assert getattr(model, f"is_{CHECKPOINTING}")


def test_checkpointing_comes_back_as_it_was_configured(make_model, tokenizer):
    from accelerate import Accelerator

    model, chosen = make_model().train(), {"use_reentrant": True}
    getattr(model, f"{CHECKPOINTING}_enable")(dict(chosen))
    student = LocalModel(
        model=model,
        processing_class=tokenizer,
        accelerator=Accelerator(cpu=True),
        gradient_checkpointing_kwargs=dict(chosen),
    )
    with student.inference() as bare:
        assert not getattr(bare, f"is_{CHECKPOINTING}")
    configured = [
        module._gradient_checkpointing_func.keywords
        for module in model.modules()
        if getattr(module, "gradient_checkpointing", False)
    ]
    assert configured
    assert all(keywords == chosen for keywords in configured)


def test_an_error_while_generating_leaves_the_model_as_it_was(make_model, tokenizer):
    from accelerate import Accelerator

    model = make_model().train()
    getattr(model, f"{CHECKPOINTING}_enable")()
    config = model.generation_config
    local = LocalModel(model=model, processing_class=tokenizer, accelerator=Accelerator(cpu=True))
    with pytest.raises(RuntimeError, match="broken"), local.inference():
        raise RuntimeError("broken")
    assert model.training
    assert getattr(model, f"is_{CHECKPOINTING}")
    assert model.generation_config is config
    assert torch.is_grad_enabled()


def test_completions_stop_at_the_first_end_token(make_model, tokenizer, tasks):
    model = make_model().eval()
    with torch.no_grad():
        # The end token becomes the likeliest everywhere: every best beam is the end token alone.
        model.lm_head.weight[0] = 100 * model.transformer.ln_f.bias.new_ones(model.config.n_embd)
        model.transformer.ln_f.bias.fill_(1.0)
    local = LocalModel(model=model, processing_class=tokenizer)
    (programs,) = BeamSearchSource(max_completion_length=8).generate(tasks[:1], student=local)
    assert programs[0].completion == ""
    assert programs[0].num_tokens == 1
    assert math.exp(programs[0].logprob) == pytest.approx(1.0, abs=1e-3)


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({"num_beams": 0}, "num_beams"),
        ({"max_completion_length": 0}, "max_completion_length"),
        ({"model": object()}, "processing_class"),
    ],
)
def test_bad_arguments_are_named(arguments, named):
    with pytest.raises(ValueError, match=f"^{named}"):
        BeamSearchSource(**arguments)


def test_more_beams_than_tokens_or_context_are_refused_at_once(local, tasks):
    with pytest.raises(ValueError, match="num_beams: must be below the vocabulary size"):
        next(BeamSearchSource(num_beams=500).generate(tasks, student=local))
    with pytest.raises(ValueError, match="max_completion_length: 250 tokens after"):
        next(BeamSearchSource(max_completion_length=250).generate(tasks, student=local))
    with pytest.raises(ValueError, match=r"^model:"):
        next(BeamSearchSource().generate(tasks))
