"""Continuous batching: the same model's own samples, in any order of work, and no lost completion in silence."""

import logging
import resource
from types import SimpleNamespace

import pytest
import torch

from tests.generation.test_generation import naive_logprob
from tests.generation.test_token_scores import build, sequences, tasks  # noqa: F401
from trl_pper.generation.engines import continuous
from trl_pper.generation.nucleus import NucleusSource
from trl_pper.training.config import PPERConfig


def source(**options):
    settings = {"num_programs": 3, "max_completion_length": 8, "temperature": 1.0, "top_p": 1.0}
    return NucleusSource(engine="continuous_batching", **settings | options)


def test_samples_have_the_log_probabilities_of_the_engine(build, tasks, monkeypatch):  # noqa: F811
    local = build("llama")
    monkeypatch.setattr(type(local), "logprobs", lambda *_, **__: pytest.fail("a second pass"))
    implementation = local.model.config._attn_implementation
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    found = list(sequences(local, tasks, source(batch_size=2).generate(tasks, student=local)))
    assert len(found) == 12
    # In KiB: the cache is sized by the programs, not by the machine.
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 2**20
    for prompt, ids, program in found:
        assert program.logprob == pytest.approx(naive_logprob(local.model, prompt, ids), abs=1e-3)
    assert "eos" in {program.finish_reason for *_, program in found}
    # Training goes on with the attention it began with.
    assert local.model.config._attn_implementation == implementation


def test_cooler_samples_have_those_of_the_model_itself(build, tasks):  # noqa: F811
    local = build("llama")
    cooler = source(temperature=0.5, top_p=0.9)
    for prompt, ids, program in sequences(local, tasks, cooler.generate(tasks, student=local)):
        assert program.logprob == pytest.approx(naive_logprob(local.model, prompt, ids), abs=1e-3)


def test_a_seed_and_a_round_decide_the_samples(build, tasks):  # noqa: F811
    local = build("llama")
    state = torch.get_rng_state()

    def written(one):
        return [[p.completion for p in found] for found in one.generate(tasks, student=local)]

    first = written(source(seed=4))
    assert written(source(seed=4)) == first
    assert written(source(seed=5)) != first
    assert written(source(seed=4).for_round(1)) != first
    assert torch.equal(torch.get_rng_state(), state)


def test_equal_prompts_of_two_tasks_get_their_own_samples(build, tasks):  # noqa: F811
    local = build("llama")
    twins = [tasks[0], tasks[1], tasks[0]]
    first, _, second = source().generate(twins, student=local)
    assert len(first) == len(second) == 3
    assert [p.completion for p in first] != [p.completion for p in second]


@pytest.mark.parametrize("failure", ["lost", "error"])
def test_a_missing_completion_is_an_error_with_its_task(build, tasks, failure, monkeypatch):  # noqa: F811
    local = build("llama")
    generate = local.model.generate_batch

    def failing(*args, **kwargs):
        found = generate(*args, **kwargs)
        names = [key for key, one in found.items() if list(one.prompt_ids) == local.encode([tasks[2].prompt])[0]]
        if not names:
            return found
        name = names[1]
        if failure == "lost":
            del found[name]
        else:
            found[name].error = "no block left"
        return found

    monkeypatch.setattr(local.model, "generate_batch", failing)
    written = source(batch_size=2).generate(tasks, student=local)
    assert [len(next(written)), len(next(written))] == [3, 3]
    said = "no block left" if failure == "error" else "the engine ended early"
    with pytest.raises(RuntimeError, match=f"2 of 3 completions of task '2' were written .{said}"):
        next(written)


def test_a_cpu_is_warned_of_once(build, tasks, caplog):  # noqa: F811
    continuous.warn_of_cpu.cache_clear()
    local = build("llama")
    with caplog.at_level(logging.WARNING, logger="trl_pper"):
        source().check(tasks, student=local)
        source().check(tasks, student=local)
    assert sum("made for GPUs" in record.message for record in caplog.records) == 1


def test_what_the_engine_cannot_do_is_refused(build, tasks, tmp_path):  # noqa: F811
    local = build("llama")
    sharded = SimpleNamespace(distributed_type="FSDP", state=None)
    with pytest.raises(ValueError, match="must be 'transformers' where weights are sharded"):
        source().check(tasks, student=type(local)(
            model=local.model, processing_class=local.processing_class, accelerator=sharded
        ))  # fmt: skip
    with pytest.raises(ValueError, match="generation_engine: must be 'transformers' unless decoding is 'nucleus'"):
        PPERConfig(str(tmp_path), generation_engine="continuous_batching")
    with pytest.raises(ValueError, match="engine: must be one of transformers, continuous_batching"):
        NucleusSource(engine="vllm2")
