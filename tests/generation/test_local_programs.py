"""Where completions of a local model end, and what beams of several groups are."""

import json
import math
from dataclasses import replace

import pytest
import torch

from trl_pper.generation.beam_search import BeamSearchSource
from trl_pper.generation.decoding import EarlierGroups, TaskStops, _finish
from trl_pper.generation.encoding import Encoder
from trl_pper.generation.local_model import LocalModel
from trl_pper.generation.nucleus import NucleusSource
from trl_pper.generation.source import hearing


def scripted(make_model, tokenizer, script: str):
    """Return a model that writes `script`, whatever it is asked, then the end token again and again."""
    ids = [*tokenizer(script)["input_ids"], tokenizer.eos_token_id]
    model = make_model().eval()
    forward = model.forward

    def spoken(input_ids=None, **inputs):
        output = forward(input_ids=input_ids, **inputs)
        mask, columns = inputs["attention_mask"], output.logits.shape[1]
        for row, each in enumerate(mask):
            start = model.prompt_lengths[row * len(model.prompt_lengths) // len(mask)]
            for back in range(columns):
                place = int(each[: len(each) - back].sum()) - start
                if place >= 0:
                    output.logits[row, columns - 1 - back, ids[min(place, len(ids) - 1)]] += 30.0
        return output

    model.forward = spoken
    return model


@pytest.fixture
def says(make_model, tokenizer, tasks):
    """Make a model that writes a script after the prompts of `tasks`."""

    def build(script: str, asked=tasks) -> LocalModel:
        model = scripted(make_model, tokenizer, script)
        model.prompt_lengths = [len(tokenizer(task.prompt)["input_ids"]) for task in asked]
        return LocalModel(model=model, processing_class=tokenizer)

    return build


def test_a_completion_ends_before_the_stop_of_its_task(says, tasks):
    local = says("    return x\n\ndef g():\n    pass\n")
    first, second = tasks[0], replace(tasks[1], stop=("\ndef ",))
    local.model.prompt_lengths = [len(ids) for ids in local.encode([first.prompt, second.prompt])]
    source = NucleusSource(num_programs=1, max_completion_length=60)
    whole, cut = (programs[0] for programs in source.generate([first, second], student=local))
    assert whole.completion == "    return x\n\ndef g():\n    pass\n"
    assert whole.num_tokens == len(whole.completion) + 1
    assert cut.completion == "    return x\n"
    # Byte-level tokens: one a character, and the end token that is learned behind a whole program.
    assert cut.num_tokens == len("    return x\n") + 1
    assert (whole.finish_reason, cut.finish_reason) == ("eos", "stop")
    local.model.prompt_lengths = [local.model.prompt_lengths[1]]
    prompt, ids = local.encode([second.prompt])[0], local.processing_class(f"{cut.completion}<eos>")["input_ids"]
    assert cut.logprob == pytest.approx(local.logprobs([prompt], [ids])[0], abs=1e-3)


@pytest.mark.parametrize("make_source", [
    lambda stop: BeamSearchSource(num_beams=2, max_completion_length=60, stop=stop),
    lambda stop: NucleusSource(num_programs=2, max_completion_length=60, stop=stop),
])  # fmt: skip
def test_a_stop_saves_the_steps_behind_it(says, tasks, make_source, monkeypatch):
    local = says("    return x\n# END and much more that nobody reads", tasks[:1])
    lengths = []
    generate = local.model.generate

    def measured(**inputs):
        output = generate(**inputs)
        lengths.append(getattr(output, "sequences", output).shape[1])
        return output

    monkeypatch.setattr(local.model, "generate", measured)
    (programs,) = make_source(["\n# END"]).generate(tasks[:1], student=local)
    assert programs[0].completion == "    return x"
    prompt = len(local.encode([tasks[0].prompt])[0])
    assert lengths[0] - prompt <= len("    return x\n# END") + 2


def test_a_stop_at_the_start_leaves_an_empty_unscored_program(says, tasks):
    local = says("\n# END", tasks[:1])
    ((one,),) = NucleusSource(num_programs=1, max_completion_length=9, stop=["\n#"]).generate(tasks[:1], student=local)
    assert (one.completion, one.logprob, one.num_tokens, one.scorer) == ("", None, None, "")


@pytest.mark.parametrize(
    ("tokens", "kept", "kept_tokens"),
    [
        (["f(x", ")\n", "# end"], "f(x)\n", 2),  # the token reaches into the stop with white space alone
        (["f(x)", "\n# ", "end"], "f(x)", 1),
        (["f(x)", " \n", "# end"], "f(x)", 1),  # white space before the stop goes with its token
        (["f(x", ")\n# e", "ff"], "f(x)", None),  # through the middle
        (["f(\u00e9)", "\n# end"], "f(\u00e9)", 1),
    ],
)
def test_a_cut_ends_at_the_end_of_a_token_where_it_can(tokens, kept, kept_tokens):
    class Tokenizer:
        def decode(self, ids, **options):
            return "".join(tokens[i] for i in ids)

    encoder = Encoder(tokenizer=Tokenizer(), end_token_ids=frozenset())
    text, reason, number = _finish(encoder, [], list(range(len(tokens))), ["\n#"])
    assert (text, reason, number) == (kept, "stop", kept_tokens)


def test_a_first_space_that_tokenizers_drop_is_kept():
    class Tokenizer:
        def decode(self, ids, **options):
            return "".join(["def f():\n", " ", "return", " 1", ""][i] for i in ids).removeprefix(" ")

    encoder = Encoder(tokenizer=Tokenizer(), end_token_ids=frozenset([4]))
    assert _finish(encoder, [0], [1, 2, 3, 4], []) == (" return 1", "eos", 4)
    assert _finish(encoder, [], [1, 2, 3], []) == ("return 1", "length", 3)


def test_tokens_of_one_character_stand_or_fall_together(tokenizer):
    ids = tokenizer("# \u00e9\n# end")["input_ids"]
    encoder = Encoder(tokenizer=tokenizer, end_token_ids=frozenset([0]))
    assert _finish(encoder, [], ids, ["\n# end"]) == ("# \u00e9", "stop", 4)
    assert _finish(encoder, [], ids, ["\u00e9"]) == ("# ", "stop", 2)


def test_a_stop_in_the_prompt_ends_nothing(says, tasks):
    local = says("    return x\n", tasks[:1])
    assert "\ndef " in tasks[0].prompt
    ((one,),) = NucleusSource(num_programs=1, max_completion_length=20, stop=["\ndef ", ":\n    "]).generate(
        tasks[:1], student=local
    )
    assert one.completion == "    return x\n"


def test_rows_of_several_prompts_have_their_own_stops(tokenizer):
    stops = TaskStops(tokenizer, [("b",), (), ("xy", "c")], start=1)
    rows = [tokenizer(text)["input_ids"] for text in ("bab", "baa", "bbb", "bcc", "axy", "ayx")]
    assert stops(torch.tensor(rows), None).tolist() == [True, False, False, False, True, False]


def test_a_group_pays_for_what_earlier_groups_chose_there():
    apart = EarlierGroups([[[7, 3], [7]], [[5]]], start=2, penalty=0.5)
    scores = torch.zeros(4, 10)
    first = apart(torch.zeros(4, 2, dtype=torch.long), scores)
    assert first[:, 7].tolist() == [-1.0, -1.0, 0.0, 0.0]
    assert first[:, 5].tolist() == [0.0, 0.0, -0.5, -0.5]
    assert first.sum() == -3.0
    second = apart(torch.zeros(4, 3, dtype=torch.long), scores)
    assert second[:, 3].tolist() == [-0.5, -0.5, 0.0, 0.0]
    assert second.sum() == -1.0
    assert scores.sum() == 0.0


def test_groups_differ_more_than_beams_with_true_probabilities(tasks, local, generated):
    plain = BeamSearchSource(num_beams=4, max_completion_length=6)
    list(plain.generate(tasks, student=local))
    diverse = BeamSearchSource(num_beams=4, num_beam_groups=4, diversity_penalty=5.0, max_completion_length=6)
    written = list(diverse.generate(tasks, student=local))
    beams, *groups = generated
    assert len({(row // 4, ids[0]) for row, ids in enumerate(beams)}) < 4 * len(tasks)
    for position, (task, programs) in enumerate(zip(tasks, written, strict=True)):
        found = [group[position] for group in groups]
        assert len({ids[0] for ids in found}) == 4
        means = [one.logprob / one.num_tokens for one in programs]
        assert means == sorted(means, reverse=True)
        prompts = local.encode([task.prompt] * 4)
        kept = [ids[: ids.index(0) + 1] if 0 in ids else ids for ids in found]
        assert sorted(one.logprob for one in programs) == pytest.approx(
            sorted(local.logprobs(prompts, kept)), abs=1e-3
        )


def test_a_group_of_no_penalty_repeats_the_beams_of_the_first(tasks, local):
    source = BeamSearchSource(num_beams=4, num_beam_groups=2, diversity_penalty=0.0, max_completion_length=4)
    pairs = BeamSearchSource(num_beams=2, max_completion_length=4)
    for both, pair in zip(source.generate(tasks, student=local), pairs.generate(tasks, student=local), strict=True):
        assert sorted(one.completion for one in both) == sorted(2 * [one.completion for one in pair])


def test_the_record_says_how_beams_were_searched(tasks, local):
    source = BeamSearchSource(num_beams=2, num_beam_groups=2, max_completion_length=4)
    (programs, *_) = source.generate(tasks, student=local)
    assert json.loads(programs[0].settings) == {
        "method": "beam search", "num_beams": 2, "max_completion_length": 4, "length_penalty": 1.0,
        "num_beam_groups": 2, "diversity_penalty": 0.5,
    }  # fmt: skip
    assert all(math.isfinite(one.logprob) and one.scorer == local.name for one in programs)


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({"num_beams": 3, "num_beam_groups": 2}, "num_beam_groups: must divide"),
        ({"num_beam_groups": 0}, "num_beam_groups"),
        ({"diversity_penalty": -1.0}, "diversity_penalty"),
    ],
)
def test_bad_groups_are_named(arguments, named):
    with pytest.raises(ValueError, match=f"^{named}"):
        BeamSearchSource(**arguments)


def heard(source, tasks, local):
    """Return the parts of tasks that a source tells of, and its completions."""
    told = []
    with hearing(told.append):
        written = [[one.completion for one in programs] for programs in source.generate(tasks, student=local)]
    return told, written


@pytest.mark.parametrize(
    ("source", "calls"),
    [
        (BeamSearchSource(num_beams=2, max_completion_length=5, batch_size=3), 2),
        (BeamSearchSource(num_beams=4, num_beam_groups=2, max_completion_length=5, batch_size=3), 4),
        (NucleusSource(num_programs=3, max_completion_length=5, batch_size=3), 2),
        (NucleusSource(num_programs=3, max_completion_length=5, batch_size=4, max_sequences=8), 2),
    ],
    ids=["beams", "groups of beams", "samples", "several passes"],
)
def test_a_source_tells_of_every_step_and_writes_the_same(tasks, local, source, calls):
    told, written = heard(source, tasks, local)
    # Every call of `generate` takes five steps here, and then tells of the steps that it did not need.
    assert len(told) == calls * 6
    assert sum(told) == pytest.approx(len(tasks))
    assert min(told) >= 0.0
    assert written == [[one.completion for one in programs] for programs in source.generate(tasks, student=local)]


def test_completions_that_end_early_count_as_whole_tasks(says, tasks):
    told, _ = heard(NucleusSource(num_programs=2, max_completion_length=50), tasks, says("    return x\n"))
    assert len(told) < 20
    assert told[-1] > 1.0
    assert sum(told) == pytest.approx(len(tasks))
