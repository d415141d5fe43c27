"""Programs that others wrote, scored by a named model with a tokenizer of its own."""

import json
import logging
from dataclasses import replace

import pytest

from trl_pper import BeamSampleCollector, DatasetSource, Judge, ReplayBuffer, rescore
from trl_pper.generation.local_model import LocalModel
from trl_pper.generation.scorer import Scorer, tokenizer_fingerprint
from trl_pper.training.parts import claim_buffer


@pytest.fixture(scope="module")
def judge():
    with Judge(workers=1) as judge:
        yield judge


@pytest.fixture(scope="module")
def other_tokenizer():
    """Merges bytes to pairs, so that its tokens are not those of the tests' tokenizer."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=270, special_tokens=["<end>", "<fill>"], show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )  # fmt: skip
    backend.train_from_iterator(["def f(x):\n    return x + 1\n"] * 50, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<end>", pad_token="<fill>")


def collected(tasks, judge, scorer, rows, student=None):
    made = BeamSampleCollector(source=DatasetSource(rows, name="teacher"), judge=judge, tasks=tasks, scorer=scorer)
    collection = made.attach(ReplayBuffer(), find_student=None if student is None else lambda: student)
    made.collect()
    return collection.buffer


def test_a_named_model_scores_with_its_own_tokenizer(tasks, judge, make_model, other_tokenizer, local):
    model = make_model(seed=4, vocab_size=len(other_tokenizer)).eval()
    scorer = Scorer(model, other_tokenizer, name="other/model")
    rows = [{"task_id": task.task_id, "completion": "    return x + 1\n" * n} for n, task in enumerate(tasks, start=1)]
    buffer = collected(tasks, judge, scorer, rows, student=local)
    alone = LocalModel(model=model, processing_class=other_tokenizer)
    assert {one.scorer for one in buffer} == {"other/model"}
    assert {one.source for one in buffer} == {"teacher"}
    for one in buffer:
        prompt, completion = alone.encoder.pair(one.prompt, one.completion)
        assert one.num_tokens == len(completion) < len(local.encoder.pair(one.prompt, one.completion)[1])
        assert one.logprob == pytest.approx(alone.logprobs([prompt], [completion])[0], abs=1e-3)


def test_the_model_in_training_scores_where_nobody_is_named(tasks, judge, local):
    buffer = collected(tasks, judge, None, [{"task_id": "add-1", "completion": "    return x\n"}], student=local)
    assert buffer[0].scorer == local.name


def test_what_the_source_knows_is_not_scored_again(tasks, judge, local):
    rows = [
        {"task_id": "add-1", "completion": "    return x\n", "logprob": -2.5, "num_tokens": 5, "scorer": "s",
         "source": "big", "settings": {"temperature": 0.2}},
        {"task_id": "add-1", "completion": "    return 1\n", "logprob": -3.5, "num_tokens": 5},
    ]  # fmt: skip
    buffer = collected(tasks, judge, Scorer(local.model, local.processing_class), rows)
    assert [(one.logprob, one.source, one.scorer) for one in buffer] == [
        (-2.5, "big", "s"),
        (-3.5, "teacher", "teacher"),
    ]
    assert json.loads(buffer[0].settings) == {"temperature": 0.2}


def test_without_a_model_the_pass_rate_stands_alone(tasks, judge):
    buffer = collected(tasks, judge, None, [{"task_id": "add-1", "completion": "    return 2\n"}])
    assert (buffer[0].logprob, buffer[0].scorer) == (None, "")
    assert buffer.p2values().tolist() == [pytest.approx(1 / 3)]


def test_only_what_fits_the_context_has_a_probability(tasks, judge, local, caplog):
    rows = [{"task_id": "add-1", "completions": ["    return x\n", "    # long\n" * 40 + "    return x + 1\n"]}]
    with caplog.at_level(logging.WARNING, logger="trl_pper"):
        buffer = collected(tasks, judge, Scorer(local.model, local.processing_class, name="tiny"), rows)
    assert "tiny: 1 of 2 programs do not fit its context of 256 tokens" in caplog.text
    assert [one.logprob is None for one in buffer] == [False, True]


def test_no_pairs_are_no_work(local):
    assert Scorer(local.model, local.processing_class).score([]) == []


def test_chat_tasks_need_a_scorer_with_a_template(tasks, judge, local):
    chats = [replace(task, prompt=[{"role": "user", "content": "f?"}]) for task in tasks]
    generated = []
    source = DatasetSource([{"task_id": "add-1", "completion": "def f(x): return x"}])
    source.generate = lambda *arguments, **options: generated.append(1)
    made = BeamSampleCollector(
        source=source, judge=judge, tasks=chats, scorer=Scorer(local.model, local.processing_class, name="tiny")
    )
    made.attach(ReplayBuffer())
    with pytest.raises(ValueError, match="scorer: the tokenizer of tiny has no chat template"):
        made.collect()
    assert not generated


def test_a_scorer_needs_model_and_tokenizer(local):
    with pytest.raises(ValueError, match=r"^processing_class: required"):
        Scorer(local.model)
    with pytest.raises(ValueError, match=r"^model: required"):
        Scorer(None)


def test_a_buffer_is_scored_anew_in_part_or_as_a_whole(tasks, judge, local, make_model, tokenizer):
    rows = [
        {"task_id": "add-1", "completion": "    return x\n", "logprob": -2.5, "num_tokens": 5},
        {"task_id": "add-2", "completion": "    return x\n"},
    ]
    buffer = collected(tasks, judge, None, rows)
    scorer = Scorer(make_model(seed=8).eval(), tokenizer, name="judge/eight")
    before = buffer.digest()
    missing = rescore(buffer, scorer)
    assert [(one.scorer, one.logprob == -2.5) for one in missing] == [("teacher", True), ("judge/eight", False)]
    whole = rescore(buffer, scorer, only_missing=False)
    assert [one.scorer for one in whole] == ["judge/eight"] * 2
    assert whole[1].logprob == pytest.approx(missing[1].logprob)
    assert [one.pass_rate for one in whole] == [one.pass_rate for one in buffer]
    assert buffer.digest() == before
    assert whole.settings() == buffer.settings()
    assert len(rescore(ReplayBuffer(), scorer)) == 0


def test_a_rescored_buffer_is_of_the_tokenizer_of_its_scorer(tasks, judge, local, make_model, other_tokenizer):
    rows = [{"task_id": "add-1", "completions": ["    return x\n", "    return 1\n"]}]
    buffer = collected(tasks, judge, None, rows)
    own = tokenizer_fingerprint(local.processing_class)
    scored = rescore(buffer, Scorer(local.model, local.processing_class))
    assert (buffer.tokenizer, scored.tokenizer) == (None, own)
    assert rescore(scored, Scorer(local.model, local.processing_class)).tokenizer == own
    other = Scorer(make_model(seed=4, vocab_size=len(other_tokenizer)).eval(), other_tokenizer, name="other")
    # Log-probabilities of two tokenizers do not mix; of one alone they do.
    with pytest.raises(ValueError, match=rf"scorer: must have the buffer's tokenizer, {own}"):
        rescore(scored, other)
    assert rescore(scored, other, only_missing=False).tokenizer == tokenizer_fingerprint(other_tokenizer)
    with pytest.raises(ValueError, match="was filled with the tokenizer"):
        claim_buffer(rescore(scored, other, only_missing=False), local.processing_class)


def test_what_no_longer_fits_loses_another_models_probability(tasks, judge, local):
    long = "    # long\n" * 40 + "    return x + 1\n"
    rows = [{"task_id": "add-1", "completion": long, "logprob": -2.5, "num_tokens": 5}]
    buffer = rescore(
        collected(tasks, judge, None, rows), Scorer(local.model, local.processing_class), only_missing=False
    )
    assert (buffer[0].logprob, buffer[0].num_tokens, buffer[0].scorer) == (None, None, "")
