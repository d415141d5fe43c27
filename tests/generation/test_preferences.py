"""Sets of others: which rows are read, which task a prompt asks for, and what is left out and counted."""

import dataclasses
import json
import logging

import datasets
import pytest

from trl_pper import CodingTask, DatasetSource, FunctionTests, as_chat
from trl_pper.generation.extraction import extract_program

TESTS = FunctionTests(entry_point="double", code="assert double(2) == 4")
PROMPT = 'def double(x):\n    """Return twice x."""\n'
TASK = CodingTask(task_id="double", prompt=PROMPT, tests=TESTS)
OTHER = CodingTask(task_id="half", prompt="def half(x):\n", tests=TESTS)


def user(text):
    return {"role": "user", "content": text}


def assistant(text):
    return {"role": "assistant", "content": text}


def written(rows, tasks=(TASK, OTHER)):
    """The programs that each task gets: writer and text."""
    found = DatasetSource(rows, name="set").generate(list(tasks))
    return [[(one.source, one.completion) for one in programs] for programs in found]


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": PROMPT, "chosen": "good", "rejected": "bad"},
        {"prompt": [user(PROMPT)], "chosen": [assistant("good")], "rejected": [assistant("bad")]},
        {"chosen": [user(PROMPT), assistant("good")], "rejected": [user(PROMPT), assistant("bad")]},
        {"prompt": PROMPT, "chosen": [user(PROMPT), assistant("good")], "rejected": [user(PROMPT), assistant("bad")],
         "messages": [user(PROMPT), assistant("good")], "score_chosen": 9.0},
        {"prompt": [user(PROMPT)], "chosen": [user(PROMPT), assistant("good")], "rejected": [assistant("bad")]},
        {"prompt": None, "task_id": "double", "chosen": "good", "rejected": "bad", "num_tokens": 4},
        {"prompt": [{"role": "system", "content": "Be brief."}, user(PROMPT)], "chosen": "good", "rejected": "bad"},
        {"prompt": [{"role": "user", "content": [{"type": "text", "text": PROMPT}]}], "chosen": "good",
         "rejected": "bad"},
        {"prompt": as_chat([TASK])[0].prompt, "chosen": [assistant("good")], "rejected": [assistant("bad")]},
        {"prompt": f"\n{PROMPT}".replace("\n", "\r\n"), "chosen": "good", "rejected": "bad"},
    ],
)  # fmt: skip
def test_both_answers_of_a_pair_are_programs_of_its_task(row):
    assert written([row]) == [[("set:chosen", "good"), ("set:rejected", "bad")], []]
    # As the data set of a file, where columns of other rows are None.
    assert written(datasets.Dataset.from_list([row])) == written([row])


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": PROMPT, "completion": "good"},
        {"prompt": PROMPT, "program": "good"},
        {"prompt": PROMPT, "completions": ["good"]},
        {"prompt": [user(PROMPT)], "completion": [assistant("good")]},
        {"messages": [{"role": "system", "content": "Be brief."}, user(PROMPT), assistant("good")]},
    ],
)
def test_answers_of_sft_sets_are_programs(row):
    assert written([row]) == [[("set", "good")], []]
    assert written([{**row, "source": "teacher"}]) == [[("teacher", "good")], []]


def test_labels_of_single_answers_name_their_programs():
    rows = [{"prompt": PROMPT, "completion": text, "label": label} for text, label in (("a", True), ("b", False))]
    assert written(rows)[0] == [("set:desirable", "a"), ("set:undesirable", "b")]
    labelled = list(DatasetSource(rows).labelled([TASK]))
    assert [(one.label, one.completion, one.row) for one in labelled] == [
        ("desirable", "a", 1), ("undesirable", "b", 2),
    ]  # fmt: skip


@pytest.mark.parametrize(
    "prompt",
    [
        PROMPT.replace("twice", "twice "), PROMPT.upper(), PROMPT + "    return", f"Answer in Python.\n{PROMPT}",
        [user("Hi"), assistant("Hello"), user(PROMPT)], [assistant(PROMPT)], [user(PROMPT), user(PROMPT)],
        "def double(x):\n\t", "x",
    ],
)  # fmt: skip
def test_a_prompt_with_other_words_asks_for_no_task(prompt):
    rows = [{"prompt": prompt, "chosen": "a", "rejected": "b"}]
    assert written(rows) == [[], []]
    assert DatasetSource(rows).matches([TASK, OTHER]).unknown == 2


def test_white_space_behind_a_prompt_stays_with_the_program():
    # A prompt that ends inside a line, as sets are written whose texts were stripped.
    ends = [
        ("", "\n    return 2 * x"),
        ("\n", "    return 2 * x"),
        ("\n    ", "return 2 * x"),
        ("", "    return 2 * x"),
    ]
    rows = [{"prompt": PROMPT.rstrip() + end, "completion": text} for end, text in ends]
    for task in (
        TASK,
        dataclasses.replace(TASK, prompt=PROMPT.rstrip()),
        dataclasses.replace(TASK, prompt=PROMPT + "    "),
    ):
        (programs,) = DatasetSource(rows[:3]).generate([task])
        for one in programs:
            whole = task.prompt + one.completion
            assert whole == PROMPT + "    return 2 * x"
    (programs,) = DatasetSource(rows).generate([TASK])
    assert {extract_program(one.completion, prompt=PROMPT, entry_point="double").rstrip() for one in programs} == {
        PROMPT + "    return 2 * x"
    }


def test_prompts_of_several_tasks_are_counted_and_left_out(caplog):
    twin = dataclasses.replace(TASK, task_id="twin", prompt=[user(PROMPT)])
    rows = [
        {"prompt": PROMPT, "chosen": "a", "rejected": "b"},
        {"prompt": "def half(x):", "completion": "c"},
        {"prompt": "def third(x):", "completion": "d"},
        {"messages": [user("And?"), assistant("e")]},
    ]
    source = DatasetSource(rows, name="set")
    with caplog.at_level(logging.WARNING, logger="trl_pper"):
        source.check([TASK, OTHER, twin])
    found = source.matches([TASK, OTHER, twin])
    assert (found.programs, found.matched, found.unknown, found.ambiguous) == (5, 1, 2, 2)
    assert found.first_unknown == "'def third(x):' (rows:3)"
    assert found.first_ambiguous.endswith("(rows:1)")
    assert [record.getMessage() for record in caplog.records] == [
        "set: left out 4 of 5 programs without a task_id: 2 whose prompt is that of no task, the first "
        f"'def third(x):' (rows:3), and 2 whose prompt several tasks have, the first {PROMPT.strip()!r} (rows:1)"
    ]
    # A part of the tasks, as one machine has them, makes an ambiguous prompt no clearer.
    assert [len(programs) for programs in source.generate([TASK, OTHER])] == [0, 1]
    assert [len(programs) for programs in DatasetSource(rows).generate([TASK, OTHER])] == [2, 1]


def test_a_set_for_other_tasks_is_refused_with_counts():
    rows = [{"prompt": "Sort.", "chosen": "a", "rejected": "b"}, {"messages": [user("Sum."), assistant("c")]}]
    with pytest.raises(ValueError, match=r"^set: prompt: must be the prompt of one of the 2 tasks") as refused:
        DatasetSource(rows, name="set").check([TASK, OTHER])
    for part in ("none of the 3 programs", "3 whose prompt is that of no task, the first 'Sort.' (rows:1)", "task_id"):
        assert part in str(refused.value)
    DatasetSource([]).check([TASK])
    # One row with a task's id is enough to know that the tasks are right.
    DatasetSource([*rows, {"task_id": "half", "completion": "d"}]).check([TASK, OTHER])
    assert DatasetSource([]).matches([TASK]) == DatasetSource([{"task_id": "half", "completion": "d"}]).matches([])


@pytest.mark.parametrize(
    ("row", "named"),
    [
        ({"prompt": "p"}, "rows:1: completion: a string is required"),
        ({"prompt": "p", "chosen": "x"}, "rows:1: rejected: a string, or chat messages, required; got None"),
        ({"prompt": "p", "chosen": "x", "rejected": 3}, "rows:1: rejected: a string"),
        ({"prompt": "p", "chosen": [], "rejected": "x"}, "rows:1: chosen: a string"),
        ({"prompt": 3, "completion": "x"}, "rows:1: prompt: must be text or a list of chat messages; got 3"),
        ({"chosen": "x", "rejected": "y"}, "rows:1: prompt: required, or a task_id"),
        ({"messages": "x"}, "rows:1: messages: chat messages required; got 'x'"),
        ({"messages": [assistant("x")]}, "rows:1: prompt: required"),
        ({"messages": [user("x")]}, "rows:1: messages: must end with a message of the assistant"),
        ({"messages": [{"from": "gpt", "value": "x"}]}, 'rows:1: messages: chat messages need the keys "role"'),
        ({"prompt": [{"role": "user", "content": 3}], "completion": "x"}, "rows:1: content: must be text"),
        ({"prompt": "p", "completion": "x", "logprob": -1.0}, "rows:1: logprob: needs num_tokens"),
    ],
)  # fmt: skip
def test_rows_that_hold_no_answer_are_named(row, named):
    with pytest.raises(ValueError) as refused:  # noqa: PT011
        DatasetSource([row])
    assert str(refused.value).startswith(named)


def test_a_set_in_messages_keeps_its_own_messages():
    system = {"role": "system", "content": "Answer with code."}
    task = dataclasses.replace(TASK, prompt=f"import math\n\n\n{PROMPT}", stop=("\nclass",))
    rows = [{"prompt": [system, user(task.prompt)], "chosen": [assistant("a")], "rejected": [assistant("b")]}]
    (asked,) = DatasetSource(rows).as_asked([task])
    assert asked.prompt == rows[0]["prompt"]
    # Otherwise as `as_chat` puts it: a reply need not repeat the imports, and nothing cuts it.
    assert dataclasses.replace(asked, prompt=as_chat([task])[0].prompt) == as_chat([task])[0]
    assert written(rows, [asked]) == written(rows, [task])
    text = {"prompt": task.prompt, "completion": "c"}
    otherwise = {"prompt": as_chat([task])[0].prompt, "completion": "c"}
    named = {"task_id": "double", "completion": "c"}
    for row in (text, otherwise, named):
        assert DatasetSource([*rows, row]).as_asked([task, OTHER]) == [task, OTHER]
    assert DatasetSource([text]).as_asked([task]) == [task]


def test_an_identity_tells_prompts_apart():
    row = {"prompt": PROMPT, "chosen": "a", "rejected": "b"}
    sources = [
        DatasetSource([one], name="set")
        for one in (row, {**row, "prompt": "x"}, {**row, "prompt": [user(PROMPT)]}, {**row, "prompt": PROMPT.strip()})
    ]
    assert len({json.dumps(source.identity()) for source in sources}) == 4
    assert DatasetSource([row], name="set").identity() == sources[0].identity()
