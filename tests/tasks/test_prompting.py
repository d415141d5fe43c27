"""Instruct models are asked in messages, base models are given text to continue, and either is said."""

import copy

import pytest

from trl_pper import CodingTask, FunctionTests, StdioTests
from trl_pper.generation.encoding import Encoder
from trl_pper.tasks.chat import put_to
from trl_pper.tasks.task import StdioCase

TURNS = (
    "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% if m.role == 'assistant' %}END\n{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)
#: The end token opens the next turn, and nothing ends a turn.
OPENED = (
    "{% for m in messages %}{% if m.role == 'user' %}<eos>{% else %}<assistant>{% endif %}{{ m.content }}{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)
FUNCTION = CodingTask(task_id="f", prompt="def f(x):\n", tests=FunctionTests(entry_point="f", code="assert f(1) == 2"))
ASKED = CodingTask(
    task_id="g", prompt="Write g, which doubles x.", tests=FunctionTests(entry_point="g", code="assert g(1) == 2")
)
SCRIPT = CodingTask(task_id="s", prompt="Print 1.", tests=StdioTests(cases=(StdioCase(input="", output="1"),)))
OWN = CodingTask(task_id="o", prompt="def f(x):\n", tests=FUNCTION.tests, stop=("# mine",))
CHAT = CodingTask(task_id="c", prompt=[{"role": "user", "content": "f?"}], tests=FUNCTION.tests)


@pytest.fixture(scope="module")
def encoders(tokenizer):
    """A base model without a template, a base model with one that ends turns in another way, instruct models."""
    ids = {}
    instruct = TURNS.replace("END", "<eos>")
    for name, template in (("plain", None), ("base", TURNS), ("instruct", instruct), ("opened", OPENED)):
        own = copy.deepcopy(tokenizer)
        own.chat_template = template
        ids[name] = Encoder(tokenizer=own, end_token_ids=frozenset([own.eos_token_id]))
    return ids


@pytest.mark.parametrize(
    ("model", "prompts", "chat"),
    [
        ("plain", "auto", False), ("base", "auto", False), ("instruct", "auto", True), ("opened", "auto", True),
        ("base", "chat", True), ("instruct", "text", False), ("plain", "text", False),
    ],
)  # fmt: skip
def test_the_model_or_the_user_decides(encoders, model, prompts, chat):
    put = put_to([FUNCTION, SCRIPT, CHAT], encoders[model], prompts=prompts)
    assert [isinstance(task.prompt, list) for task in put.tasks] == [chat, chat, True]
    assert bool(put.line) == (prompts == "auto")
    if put.line:
        assert ("chat messages" in put.line.split(",")[0]) == chat


def test_functions_asked_as_text_get_their_stops(encoders):
    tasks = put_to([FUNCTION, ASKED, SCRIPT, OWN, CHAT], encoders["plain"]).tasks
    # A comment at the margin ends a function that the prompt has opened, and no other.
    assert {"\nif __name__", "\nprint(", "\n# ", "\nclass "} <= set(tasks[0].stop)
    assert "\nprint(" in tasks[1].stop
    assert "\n# " not in tasks[1].stop
    assert [task.stop for task in tasks[2:]] == [(), ("# mine",), ()]
    assert all(task.stop == () for task in put_to([FUNCTION, OWN], encoders["instruct"]).tasks)


def test_chat_tasks_alone_are_not_told_of(encoders):
    assert put_to([CHAT], encoders["plain"]).line == ""
    assert put_to([], encoders["plain"]).line == ""


def test_bad_choices_are_named(encoders):
    with pytest.raises(ValueError, match=r"^prompts: must be one of auto, text, chat; got 'speech'"):
        put_to([FUNCTION], encoders["plain"], prompts="speech")
    with pytest.raises(ValueError, match=r"^prompts: 'chat' needs a tokenizer with a chat template"):
        put_to([FUNCTION], encoders["plain"], prompts="chat")
