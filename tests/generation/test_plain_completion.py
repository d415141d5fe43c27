"""A chatting teacher's program as a completion that is the program alone."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trl_pper import BeamSampleCollector, CodingTask, DatasetSource, FunctionTests, Judge, ReplayBuffer
from trl_pper.generation.extraction import extract_program, plain_completion
from trl_pper.generation.scorer import Scorer

CHAT = "Sure, here you go:\n```python\ndef f(x):\n    return x + 1\n```\nIt adds one."
TESTS = FunctionTests(entry_point="f", code="assert f(1) == 2")


@pytest.mark.parametrize(
    ("prompt", "reply", "plain"),
    [
        ("Write f that adds one.", CHAT, "def f(x):\n    return x + 1\n"),
        ([{"role": "user", "content": "f?"}], CHAT, "```python\ndef f(x):\n    return x + 1\n```"),
        ("def f(x):\n", "    return x + 1\n\nThis adds one, as you asked", "    return x + 1\n"),
    ],
)
def test_what_is_learned_gives_the_same_program(prompt, reply, plain):
    program = extract_program(reply, prompt=prompt, entry_point="f")
    assert plain_completion(program, prompt=prompt, entry_point="f") == plain
    assert extract_program(plain, prompt=prompt, entry_point="f").rstrip() == program.rstrip()


@given(
    st.sampled_from(["def f(x):\n", "Write f.", "import math\n\ndef g(): pass\n\ndef f(x):\n    '''Add.'''\n"]),
    st.text(alphabet="fx +1:=()\n `", max_size=60),
)
def test_a_plain_completion_never_changes_the_program(prompt, text):
    program = extract_program(text, prompt=prompt, entry_point="f")
    plain = plain_completion(program, prompt=prompt, entry_point="f")
    if plain is not None:
        assert extract_program(plain, prompt=prompt, entry_point="f").rstrip() == program.rstrip()


def collected(reply, learn, prompt="Write f that adds one.", **options):
    task = CodingTask(task_id="f", prompt=prompt, tests=TESTS)
    row = {"task_id": "f", "completion": reply, "logprob": -3.0, "num_tokens": 9}
    with Judge(workers=1) as judge:
        made = BeamSampleCollector(source=DatasetSource([row], name="chatty"), judge=judge, tasks=[task], learn=learn,
                                   **options)  # fmt: skip
        collection = made.attach(ReplayBuffer())
        made.collect()
    (one,) = collection.buffer
    return one


def test_a_chatty_reply_is_learned_and_scored_as_its_program(local):
    scorer = Scorer(local.model, local.processing_class, name="tiny")
    one = collected(CHAT, "program", scorer=scorer)
    assert (one.completion, one.pass_rate, one.source, one.scorer) == (
        "def f(x):\n    return x + 1\n", 1.0, "chatty", "tiny",
    )  # fmt: skip
    assert one.num_tokens == len(one.completion) + 1
    unscored = collected(CHAT, "program")
    assert (unscored.logprob, unscored.scorer) == (None, "")


def test_a_reply_that_is_plain_or_no_program_stays_as_it_is():
    assert (one := collected(CHAT, "completion")).completion == CHAT
    assert (one.logprob, one.scorer) == (-3.0, "chatty")
    plain = "def f(x):\n    return x + 1\n"
    assert (collected(plain, "program").completion, collected(plain, "program").logprob) == (plain, -3.0)
    assert collected("I cannot do that, sorry.", "program").completion == "I cannot do that, sorry."


def test_what_to_learn_is_named():
    with pytest.raises(ValueError, match="learn: must be one of completion, program; got 'text'"):
        BeamSampleCollector(learn="text")


def test_a_program_that_no_fence_holds_has_no_plain_completion():
    program = "s = '''\n```\na\n'''\nprint(s)\n"
    chat = [{"role": "user", "content": "Print a fence."}]
    assert extract_program(program, prompt=chat) == program
    # The fence inside would end the one around it, and another program would be learned.
    assert plain_completion(program, prompt=chat) is None
