"""Tasks as chat prompts: what is asked of each format, in whose words, and what replies may leave out."""

import json

import pytest

from tests.support.benchmark_rows import ROWS
from trl_pper import CodingTask, FunctionTests, Judge, StdioTests, as_chat, load_tasks
from trl_pper.cli.commands import main
from trl_pper.generation.extraction import extract
from trl_pper.tasks.chat import ChatParts, chat_parts
from trl_pper.tasks.formats.fields import question_parts, question_prompt
from trl_pper.tasks.task import StdioCase

PREFIX = """from typing import List
import math


def helper(x):
    return math.floor(x)


@staticmethod
def floors(xs: List[float]) -> List[int]:
    \"\"\" Floor each. \"\"\"
"""
FLOORS = FunctionTests(entry_point="floors", code="assert floors([1.5]) == [1]\nassert floors([]) == []")
READS = StdioTests(cases=(StdioCase(input="1", output="2"),))


def task(prompt, tests=FLOORS, **more):
    return CodingTask(task_id="a", prompt=prompt, tests=tests, **more)


def said(one) -> str:
    (message,) = one.prompt
    assert message["role"] == "user"
    return message["content"]


def test_an_opened_function_is_fenced_and_the_text_before_given():
    [chat] = as_chat([task(PREFIX, stop=("\nclass ",), preamble="import cmath")])
    assert said(chat).startswith("Complete the function `floors` below. Answer with one Python code block")
    assert said(chat).endswith(f"\n\n```python\n{PREFIX.strip()}\n```")
    assert chat.preamble == "import cmath\n\n" + PREFIX.partition("\n\n\n@")[0] + "\n"
    assert chat.stop == ()
    [bare] = as_chat([task('def floors(xs):\n    """ Floor. """\n')])
    assert bare.preamble is None


def test_a_reply_need_not_repeat_imports_and_helpers():
    [chat] = as_chat([task(PREFIX)])
    reply = (
        "Sure!\n```python\ndef floors(xs: List[float]) -> List[int]:\n    return [helper(x) for x in xs]\n```\nDone."
    )
    found = extract(reply, prompt=chat.prompt, entry_point=chat.entry_point)
    assert found.found
    assert "import" not in found.program
    with Judge(workers=1) as judge:
        assert judge.run([(chat, [found.program])])[0][0].accepted


def test_a_program_that_reads_is_asked_for_in_words():
    [chat] = as_chat([task(question_prompt("Double it."), READS, stop=("\nQUESTION:",))])
    assert said(chat).startswith("Write a Python program that solves the problem below. It reads standard input")
    assert said(chat).endswith("\n\nDouble it.")
    assert not {"QUESTION", "ANSWER", "Begin"} & set(said(chat).replace(":", " ").split())
    assert chat.stop == ()


def test_a_method_is_asked_for_with_its_starter_code():
    starter = "class Solution:\n    def f(self, x: List[int]) -> int:\n        "
    tests = FunctionTests(entry_point="Solution().f", code="assert Solution().f([1]) == 1")
    [chat] = as_chat([task(question_prompt("Add up.", starter_code=starter, calls=True), tests)])
    assert said(chat).startswith(
        "Write the method `f` of the class `Solution` in Python so that it solves the problem"
    )
    assert said(chat).endswith(
        "\n\nAdd up.\n\nBegin with this code:\n\n```python\nfrom typing import List\n\n"
        "class Solution:\n    def f(self, x: List[int]) -> int:\n```"
    )


@pytest.mark.parametrize("tests", [FLOORS, FunctionTests(code="assert floors([]) == []")])
def test_words_alone_are_asked_as_they_are(tests):
    [chat] = as_chat([task(" Floor each.\n", tests)])
    assert "Floor each." in said(chat)
    assert ("`floors`" in said(chat)) == (tests.entry_point is not None)


def test_a_docstring_is_asked_without_its_quotes():
    row = {"task_id": 1, "text": 'Say "a\\b" and """.', "test_list": ["assert f() == 'x'"]}
    [chat] = as_chat(load_tasks([row]))
    assert said(chat).endswith('\n\nSay "a\\b" and """.\nassert f() == \'x\'')


@pytest.mark.parametrize("edition", sorted(ROWS))
def test_every_format_can_be_a_chat_and_its_right_programs_pass(edition):
    row, _, right, _ = ROWS[edition]
    [chat] = as_chat(load_tasks([row], format=edition.split()[0]))
    assert isinstance(chat.prompt, list)
    assert chat.stop == ()
    assert CodingTask.from_row(json.loads(json.dumps(chat.to_row()))) == chat
    program = extract(f"Here:\n```python\n{right}\n```", prompt=chat.prompt, entry_point=chat.entry_point).program
    with Judge(workers=1) as judge:
        assert judge.run([(chat, [program])])[0][0].accepted


def test_a_fence_in_what_is_shown_does_not_end_the_block():
    [chat] = as_chat([task('def floors(xs):\n    """ Use:\n```\nx\n```\n    """\n')])
    assert "\n````python\ndef floors" in said(chat)
    assert said(chat).endswith("\n````")


def test_messages_stay_as_they_are():
    chat = task([{"role": "user", "content": "Do it."}], stop=("#",))
    assert as_chat([chat], system="Be short.", instruction="{question}") == [chat]
    with pytest.raises(ValueError, match="must be text to be taken apart; task 'a' has messages"):
        chat_parts(chat)


def test_words_may_be_the_users_and_a_system_message_comes_first():
    [chat] = as_chat(
        [task(PREFIX)], system="Be short.", instruction="{{{kind}}} {entry_point}:{starter_code}\n{question}"
    )
    assert chat.prompt == [
        {"role": "system", "content": "Be short."},
        {"role": "user", "content": "{complete} floors:\n" + PREFIX.strip()},
    ]
    [chat] = as_chat([task("Floor {each}.")], instruction="{question}")
    assert said(chat) == "Floor {each}."


def test_the_words_may_come_from_a_function():
    seen: list[ChatParts] = []
    [chat] = as_chat(
        [task(question_prompt("Double it."), READS)], instruction=lambda parts: seen.append(parts) or "Go."
    )
    assert said(chat) == "Go."
    assert seen == [ChatParts(kind="stdin", question="Double it.", starter_code="", entry_point="")]
    with pytest.raises(TypeError, match=r"^instruction: must return text; got int for task 'a'"):
        as_chat([task("x")], instruction=lambda parts: 3)
    with pytest.raises(ValueError, match=r"^instruction: must say something; got ' ' for task 'a'"):
        as_chat([task("x")], instruction=lambda parts: " ")


@pytest.mark.parametrize(
    ("instruction", "message"),
    [
        ("{task}", r"knows the fields entry_point, kind, question, starter_code; got 'task'\. Double a brace"),
        ("{}", "knows the fields .* got ''"),
        ("{question.x}", r".* got 'question\.x'"),
        ("{question:{width}}", "knows the fields .* got 'width'"),
        ("{question", r"expected '}' before end of string\. Double a brace"),
    ],
)
def test_unknown_fields_are_named_before_any_task_is_read(instruction, message):
    with pytest.raises(ValueError, match=f"^instruction: {message}"):
        as_chat([], instruction=instruction)


def test_a_system_message_says_something():
    with pytest.raises(ValueError, match=r"^system: must be text or None for no message; got ' '"):
        as_chat([], system=" ")


@pytest.mark.parametrize(
    "question", ["Add.", "Sum up\n\nimport duties\nfrom all classes.", "a\nclass act\n", "Use\n:"]
)
@pytest.mark.parametrize(
    "starter",
    ["", "def f(x):\n    ", "class Solution:\n    def f(self, x: List[int]):\n        ", "import re\ndef f(): "],
)
def test_question_and_starter_code_come_back_out_of_the_layout(question, starter):
    found = question_parts(question_prompt(question, starter_code=starter, calls=True))
    assert found is not None
    assert found[0] == question.strip("\n")
    assert found[1].endswith(starter.strip())
    assert question_parts(question) is None


def test_the_command_line_writes_and_collects_chat_prompts(tmp_path, capsys):
    (tmp_path / "tasks.jsonl").write_text(json.dumps(ROWS["humaneval"][0]) + "\n")
    out = tmp_path / "chat.jsonl"
    command = ["--to", "native", "--output", str(out), "--prompts"]
    assert main(["export", str(tmp_path / "tasks.jsonl"), *command, "chat"]) == 0
    [chat] = load_tasks(out)
    assert chat == as_chat(load_tasks(tmp_path / "tasks.jsonl"))[0]
    (tmp_path / "programs.jsonl").write_text(
        json.dumps({"task_id": chat.task_id, "completion": "def half(x): return x/2"})
    )
    buffer = tmp_path / "buffer.parquet"
    options = [
        "--tasks",
        str(tmp_path / "tasks.jsonl"),
        "--programs",
        str(tmp_path / "programs.jsonl"),
        "--workers",
        "1",
    ]
    assert main(["collect", *options, "--output", str(buffer), "--prompts", "chat"]) == 0
    from trl_pper import ReplayBuffer

    [stored] = ReplayBuffer.load(buffer)
    assert (stored.prompt, stored.pass_rate) == (chat.prompt, 1.0)
    assert main(["export", str(buffer), "--to", "sft", "--output", str(out), "--prompts", "chat"]) == 2
    assert "--prompts: only tasks have it" in capsys.readouterr().err


def test_training_takes_chat_prompts_by_the_same_name():
    from trl_pper import PPERConfig

    for prompts in ("auto", "text", "chat"):
        assert PPERConfig("out", use_cpu=True, bf16=False, prompts=prompts).prompts == prompts
    with pytest.raises(ValueError, match=r"^prompts: must be one of auto, text, chat; got 'chats'"):
        PPERConfig("out", use_cpu=True, bf16=False, prompts="chats")


@pytest.mark.slow
def test_replies_without_the_prompts_imports_pass_on_real_tasks(shared):
    tasks = load_tasks(shared("humaneval/HumanEval.dev.jsonl.gz"))
    chats = as_chat(tasks)
    given = [chat.preamble for chat in chats]
    assert sum(each is not None for each in given) > 10
    replies = [
        f"```python\n{task.reference.lstrip()[len((before or '').strip()) :]}```"
        for task, before in zip(tasks, given, strict=True)
    ]
    jobs = [
        (chat, [extract(reply, prompt=chat.prompt, entry_point=chat.entry_point).program])
        for chat, reply in zip(chats, replies, strict=True)
    ]
    with Judge() as judge:
        verdicts = judge.run(jobs)
    assert [chat.task_id for chat, [one] in zip(chats, verdicts, strict=True) if not one.accepted] == []
