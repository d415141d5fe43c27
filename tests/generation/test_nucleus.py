"""Nucleus sampling: what is drawn, from what, and that chance repeats itself where it has to."""

import json
import math
from collections import Counter

import pytest
import torch

from trl_pper.generation.nucleus import NucleusSource
from trl_pper.rounds.share import own_batches


def texts(source, tasks, local):
    return [[one.completion for one in programs] for programs in source.generate(tasks, student=local)]


def test_tokens_are_drawn_as_temperature_and_nucleus_say(tasks, local, generated):
    with torch.no_grad():
        # Far apart, so that a nucleus leaves few tokens.
        local.model.lm_head.weight.mul_(15.0)
    prompt = torch.tensor(local.encode([tasks[0].prompt]))
    logits = local.model(input_ids=prompt).logits[0, -1].detach().double() / 0.7
    probabilities = logits.softmax(-1)
    order = probabilities.argsort(descending=True)
    before = probabilities[order].cumsum(0) - probabilities[order]
    nucleus = order[before < 0.9]
    assert 2 < len(nucleus) < 60
    expected = probabilities[nucleus] / probabilities[nucleus].sum()
    source = NucleusSource(
        num_programs=4000, max_completion_length=1, max_sequences=1000, temperature=0.7, top_p=0.9, seed=5
    )
    (programs,) = source.generate(tasks[:1], student=local)
    by_id = Counter(ids[0] for call in generated for ids in call)
    assert len(programs) == by_id.total() == 4000
    assert set(by_id) <= set(nucleus.tolist())
    chi_square = sum(
        (by_id[token] - 4000 * share) ** 2 / (4000 * share)
        for token, share in zip(nucleus.tolist(), expected.tolist(), strict=True)
    )
    # The 99.9th percentile of chi square by Wilson and Hilferty's approximation.
    freedom = len(nucleus) - 1
    assert chi_square < freedom * (1 - 2 / (9 * freedom) + 3.09 * math.sqrt(2 / (9 * freedom))) ** 3


def test_logprobs_are_the_models_whatever_the_temperature(tasks, local, generated):
    source = NucleusSource(num_programs=3, max_completion_length=6, temperature=2.0, top_p=0.5)
    programs = [one for each in source.generate(tasks, student=local) for one in each]
    prompts = [ids for ids in local.encode([task.prompt for task in tasks]) for _ in range(3)]
    kept = [ids[: one.num_tokens] for one, ids in zip(programs, generated[0], strict=True)]
    assert [one.logprob for one in programs] == pytest.approx(local.logprobs(prompts, kept), abs=1e-3)


def test_a_seed_and_a_round_decide_what_is_drawn(tasks, local):
    source = NucleusSource(num_programs=4, max_completion_length=8, seed=1)
    first = texts(source, tasks, local)
    torch.rand(7)
    assert texts(source, tasks, local) == first
    assert texts(source.for_round(0), tasks, local) == first
    assert texts(source.for_round(1), tasks, local) != first
    assert texts(NucleusSource(num_programs=4, max_completion_length=8, seed=2), tasks, local) != first
    assert source.for_round(1).identity(student=local) != source.identity(student=local)


def test_programs_of_a_task_do_not_repeat_each_other(tasks, local):
    for programs in texts(NucleusSource(num_programs=8, max_completion_length=8), tasks, local):
        assert len(set(programs)) == 8


def test_batches_dealt_to_processes_draw_what_one_process_draws(tasks, local):
    source = NucleusSource(num_programs=2, max_completion_length=6, batch_size=2)
    alone = texts(source, tasks[:3], local)
    shared = {}
    for rank in range(2):
        positions = [i for batch in own_batches(3, 2, process_index=rank, num_processes=2) for i in batch]
        shared |= dict(zip(positions, texts(source, [tasks[i] for i in positions], local), strict=True))
    assert [shared[i] for i in range(3)] == alone


def test_the_random_numbers_of_training_stay_as_they_were(tasks, local):
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    texts(NucleusSource(num_programs=2, max_completion_length=4), tasks, local)
    assert torch.equal(torch.rand(1), expected)


def test_more_programs_than_go_through_at_once_come_in_parts(tasks, local):
    rows = []
    generate = local.model.generate
    local.model.generate = lambda **inputs: rows.append(len(output := generate(**inputs))) or output
    source = NucleusSource(num_programs=7, max_completion_length=4, max_sequences=6, batch_size=2)
    found = texts(source, tasks[:3], local)
    assert [len(programs) for programs in found] == [7, 7, 7]
    assert rows == [6, 6, 2, 6, 1]
    assert len(set(found[0])) == 7


def test_an_evaluation_needs_no_log_probabilities(tasks, local):
    source = NucleusSource(num_programs=2, max_completion_length=4, with_logprobs=False)
    (programs,) = source.generate(tasks[:1], student=local)
    assert {one.logprob for one in programs} == {None}
    assert {one.scorer for one in programs} == {""}


def test_the_record_says_how_a_program_was_drawn(tasks, local):
    source = NucleusSource(num_programs=1, max_completion_length=4, temperature=0.3, top_p=1.0, stop=["\n#"])
    ((one,),) = source.generate(tasks[:1], student=local)
    assert json.loads(one.settings) == {
        "method": "nucleus sampling", "num_programs": 1, "max_completion_length": 4, "temperature": 0.3,
        "top_p": 1.0, "seed": 0, "stop": ["\n#"],
    }  # fmt: skip
    assert one.source == one.scorer == local.name


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({"num_programs": 0}, "num_programs"),
        ({"max_sequences": 0}, "max_sequences"),
        ({"temperature": 0.0}, "temperature"),
        ({"temperature": math.nan}, "temperature"),
        ({"top_p": 0.0}, "top_p"),
        ({"top_p": 1.5}, "top_p"),
        ({"top_k": -1}, "top_k"),
        ({"stop": "\n#"}, "stop"),
        ({"stop": [""]}, "stop"),
        ({"model": object()}, "processing_class"),
    ],
)
def test_bad_arguments_are_named(arguments, named):
    with pytest.raises(ValueError, match=f"^{named}"):
        NucleusSource(**arguments)


def test_a_prompt_without_room_is_refused_before_generation(tasks, local):
    with pytest.raises(ValueError, match=r"^max_completion_length: 250 tokens"):
        NucleusSource(max_completion_length=250).check(tasks, student=local)
    with pytest.raises(ValueError, match=r"^model: this source has no model"):
        NucleusSource().check(tasks)
