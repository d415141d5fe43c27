"""Near misses: the nearest passing program is found, within bounds, and its difference loses nothing."""

import itertools
import random
from difflib import SequenceMatcher

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trl_pper import Experience, ReplayBuffer
from trl_pper.report import near_misses
from trl_pper.report.content import read_content
from trl_pper.report.near_misses import LINE_CHARACTERS, LINES, difference, find_near_misses, similarity

LINE = st.text(alphabet="ab (\t\u202e", max_size=12)
TEXT = st.lists(LINE, max_size=20).map("\n".join)


def buffer_of(*programs: tuple[str, str, float]) -> ReplayBuffer:
    buffer = ReplayBuffer()
    buffer.add(
        Experience(task_id=task, prompt="p", completion=text, program=text, pass_rate=rate)
        for task, text, rate in programs
    )
    return buffer


def pairs(buffer, **options) -> list[tuple[str, str]]:
    found = find_near_misses(buffer, read_content(buffer), **options)
    return [(buffer[pair.failed].program, buffer[pair.passing].program) for pair in found.pairs]


def test_the_nearest_passing_program_of_the_same_task_is_chosen():
    buffer = buffer_of(
        ("a", "def f(x): return x - 1", 0.5),
        ("a", "def f(x): y = x; y += 1; return y", 1.0),
        ("b", "def f(x): return x - 2", 1.0),
        ("a", "def f(x): return x + 1", 1.0),
        ("c", "def f(x): return x - 1 ", 0.0),
    )
    assert pairs(buffer) == [("def f(x): return x - 1", "def f(x): return x + 1")]
    found = find_near_misses(buffer, read_content(buffer))
    assert (found.tasks, found.searched) == (1, 1)


def test_tasks_take_turns_and_the_most_alike_come_first():
    texts = [(task, f"f(x, {i}, {task * 3})", float(i == 0)) for task in "ab" for i in range(4)]
    texts += [("c", "entirely different = 1", 1.0), ("c", "import os; os.exit()", 0.0)]
    buffer = buffer_of(*texts)
    found = find_near_misses(buffer, read_content(buffer), limit=4)
    tasks = [buffer[pair.failed].task_id for pair in found.pairs]
    assert sorted(tasks) in (["a", "a", "b", "c"], ["a", "b", "b", "c"])
    assert [pair.similarity for pair in found.pairs] == sorted((pair.similarity for pair in found.pairs), reverse=True)
    assert tasks[-1] == "c"


def test_equal_pass_rates_and_no_tokens_are_no_obstacle():
    buffer = buffer_of(("a", "", 0.0), ("a", " ", 1.0), ("a", "  ", 1.0), ("b", "x", 0.0), ("b", "x ", 0.0))
    assert pairs(buffer) == [("", " ")]
    assert pairs(buffer_of(("a", "x", 0.5))) == []


def test_the_work_is_bounded(monkeypatch):
    compared = []
    monkeypatch.setattr(
        near_misses, "similarity", lambda one, other: compared.append((one, other)) or similarity(one, other)
    )
    chance = random.Random(0)
    buffer = ReplayBuffer()
    buffer.add(
        Experience(task_id=f"t{task}", prompt="p", completion="", program=f"{chance.random()}", pass_rate=float(i % 2))
        for task, i in itertools.product(range(250), range(40))
    )
    found = find_near_misses(buffer, read_content(buffer))
    assert (found.tasks, found.searched, len(found.pairs)) == (250, 200, 60)
    assert len(compared) == 200 * near_misses.FAILED_OF_A_TASK * near_misses.COMPARED


@given(st.lists(st.sampled_from("abc"), max_size=20), st.lists(st.sampled_from("abc"), max_size=20))
def test_similarity_is_a_share_that_is_one_for_equal_texts_only(one, other):
    share = similarity(one, other)
    assert 0 <= share <= 1
    assert (share == 1) == (one == other)
    # No better than the naive twin by more than what they begin and end with together can bring.
    assert share >= SequenceMatcher(None, one, other, autojunk=False).ratio() / 2


def test_common_beginnings_and_ends_of_long_texts_count_in_full():
    long = [str(i) for i in range(5_000)]
    assert similarity([*long, "x", *long], [*long, "y", *long]) == pytest.approx(1 - 1 / 10_001)


def rebuilt(rows: list, side: int) -> list[str]:
    """Return the lines of one side, from the rows."""
    lines = []
    for kind, *content in rows:
        if kind == "=":
            lines.append(content[0])
        elif kind == "~":
            lines.append("".join(content[side]))
        elif kind == "-+"[side]:
            lines.append("".join(content[0]))
        elif kind == "...":
            lines += [None] * content[0]
    return lines


@given(TEXT, TEXT)
def test_both_programs_can_be_rebuilt_from_their_difference(failed, passing):
    rows = difference(failed, passing)
    for side, text in enumerate((failed, passing)):
        lines = text.split("\n")
        found = rebuilt(rows, side)
        assert len(found) == len(lines)
        assert all(line is None or line == original for line, original in zip(found, lines, strict=True))
    if failed == passing:
        assert {row[0] for row in rows} <= {"=", "..."}


def test_parts_are_in_turn_the_same_and_different():
    rows = difference("a = 1\nreturn a + b", "a = 1\nreturn a - b")
    assert rows == [["=", "a = 1"], ["~", ["return a ", "+", " b"], ["return a ", "-", " b"]]]
    assert difference("one", "two(3, 4)") == [["~", ["", "one"], ["", "two(3, 4)"]]]


def test_far_lines_are_left_out_and_cut_texts_say_so():
    lines = [str(i) for i in range(100)]
    rows = difference("\n".join(lines), "\n".join([*lines, "more"]))
    assert rows[0] == ["...", 97]
    assert [row[0] for row in rows[1:]] == ["=", "=", "=", "+"]
    (row,) = difference("x" * 10**6, "y" * 10**6)
    assert "".join(row[1]).endswith(f" [{10**6 - LINE_CHARACTERS:,} more characters]")
    rows = difference("\n" * 10**5, "")
    assert len(rows) <= LINES + 2
    assert rows[-1] == ["-", ["", f"[{10**5 + 1 - LINES:,} more lines]"]]
