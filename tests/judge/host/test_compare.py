"""Comparison of printed output with what is expected."""

from __future__ import annotations

import math
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trl_pper import CodingTask, Judge, StdioTests
from trl_pper.judge.host import compare as comparison
from trl_pper.tasks.task import StdioCase

SPACES = st.text(alphabet=" \n\t\r", min_size=1, max_size=3)
WORDS = st.text(alphabet=st.characters(min_codepoint=33, max_codepoint=126), min_size=1, max_size=6)


def outputs_match(printed: bytes, expected: str, *, compare: str) -> bool:
    case = StdioCase(input="", output=expected)
    return comparison.outputs_match(printed, case, StdioTests(cases=(case,), compare=compare))


def naive_tokens(printed: str, expected: str) -> bool:
    """The rule of `tokens` read aloud."""
    mine, theirs = re.findall(r"[^ \n\t\r\f\v]+", printed), re.findall(r"[^ \n\t\r\f\v]+", expected)
    if len(mine) != len(theirs):
        return False
    number = r"[+-]?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d+)?"
    for a, b in zip(mine, theirs, strict=True):
        if a == b:
            continue
        is_float = re.fullmatch(number, b, re.ASCII) and not re.fullmatch(r"[+-]?\d+", b, re.ASCII)
        if not is_float or not re.fullmatch(number, a, re.ASCII):
            return False
        x, y = float(a), float(b)
        if not (math.isfinite(x) and math.isfinite(y) and abs(x - y) <= max(1e-6, 1e-6 * abs(y))):
            return False
    return True


@pytest.mark.parametrize(
    ("printed", "expected", "same"),
    [
        ("1 2\n3", "1 2 3", True),
        ("1 2", "1 2 3", False),
        ("", "", True),
        ("\n", "", True),
        ("", "x", False),
        ("1.0000001", "1.0", True),
        ("1", "1.0", True),
        ("1.0", "1", False),
        ("01", "1", False),
        ("100000000000000000000001", "100000000000000000000000", False),
        ("1.001", "1.0", False),
        ("1000000.5", "1000000.0", True),
        ("1e3", "1000.0", True),
        ("1_0", "10.0", False),
        ("nan", "1.0", False),
        ("inf", "1.0", False),
        ("1e999", "1e400", False),
        ("nan", "nan", True),
        ("infinity", "inf", False),
        ("Yes", "yes", False),
        ("\N{ARABIC-INDIC DIGIT ONE}", "1.0", False),
    ],
)
def test_tokens(printed, expected, same):
    assert outputs_match(printed.encode(), expected, compare="tokens") is same
    assert naive_tokens(printed, expected) is same


@given(words=st.lists(WORDS, max_size=6), others=st.lists(WORDS, max_size=6), space=SPACES, last=SPACES)
def test_tokens_agrees_with_its_naive_twin(words, others, space, last):
    printed, expected = space.join(words) + last, " ".join(words)
    assert outputs_match(printed.encode(), expected, compare="tokens")
    different = " ".join(others)
    assert outputs_match(printed.encode(), different, compare="tokens") is naive_tokens(printed, different)


@given(mine=st.floats(-1e9, 1e9), theirs=st.floats(-1e9, 1e9))
def test_floats_agree_with_the_naive_twin(mine, theirs):
    for a in (mine, theirs * (1 + 1e-7), theirs + 1e-7):
        assert outputs_match(repr(a).encode(), repr(theirs), compare="tokens") is naive_tokens(repr(a), repr(theirs))


def test_other_modes():
    assert outputs_match(b"a b \n\n", "a b", compare="lines")
    assert outputs_match(b"a b\r\nc", "a b\nc", compare="lines")
    assert not outputs_match(b"a  b", "a b", compare="lines")
    assert not outputs_match(b" a", "a", compare="lines")
    assert outputs_match(b"a\n", "a\n", compare="exact")
    assert not outputs_match(b"a", "a\n", compare="exact")
    assert outputs_match(b"YES 1.0", "yes 1.0000001", compare="ignore_case")
    assert not outputs_match(b"\xff", "?", compare="ignore_case")


@pytest.mark.parametrize(
    ("printed", "expected", "compare", "same"),
    [
        ("100", "101", "floats(1, 0)", True),
        ("99.9", "101", "floats(1, 0)", False),
        ("110", "100", "floats(0, 0.1)", True),
        ("90", "100", "floats(0,0.1)", True),
        ("111", "100", "floats(0, 0.1)", False),
        ("1.0000001", "1", "floats", True),
        ("1.001", "1", "floats", False),
        ("1 a", "1 a", "floats(1, 1)", True),
        ("1 a", "1 b", "floats(1, 1)", False),
        ("1", "1 1", "floats(1, 1)", False),
        ("nan", "1", "floats(1, 1)", False),
        ("1e999", "1", "floats(1, 1)", False),
        ("0", "-0", "floats(0, 0)", True),
    ],
)
def test_floats_compare_numbers_within_tolerances(printed, expected, compare, same):
    assert outputs_match(printed.encode(), expected, compare=compare) is same


@pytest.mark.parametrize("compare", ["floats(1)", "floats(-1, 0)", "floats(a, b)", "floats(nan, 0)", "near", "", None])
def test_unknown_comparisons_are_refused(compare):
    with pytest.raises(ValueError, match="compare: must be one of"):
        StdioTests(cases=(StdioCase(input="", output=""),), compare=compare)


def judged_by(checker, program="print(sum(map(int, input().split())) + 1)"):
    cases = (StdioCase(input="1 2", output="3"), StdioCase(input="0 9", output="9"))
    task = CodingTask(task_id="t", prompt="p", tests=StdioTests(cases=cases, compare=checker))
    with Judge(workers=1) as judge:
        return judge.run([(task, [program])])[0][0]


def test_a_checker_sees_input_output_and_expected_output():
    seen = []

    def checker(given, output, expected):
        seen.append((given, output, expected))
        return int(output) == int(expected) + 1

    assert judged_by(checker).accepted
    assert seen == [("1 2", "4\n", "3"), ("0 9", "10\n", "9"), ("0 9", "10\n", "9")]
    assert judged_by(lambda given, output, expected: int(expected) == 9).pass_rate == 0.5


def test_a_checker_that_fails_on_the_output_fails_the_program():
    verdict = judged_by(lambda given, output, expected: int(output) > 0, program="print('garbage')")
    assert verdict.pass_rate == 0.0


def test_a_checker_that_fails_on_everything_judges_nothing():
    verdict = judged_by(lambda given, output, expected: 1 / 0)
    assert verdict.pass_rate is None
    assert "the checker raised ZeroDivisionError" in verdict.message


def test_a_task_with_a_checker_cannot_be_written_to_a_file():
    tests = StdioTests(cases=(StdioCase(input="", output=""),), compare=lambda *_: True)
    with pytest.raises(ValueError, match="a function cannot be written"):
        CodingTask(task_id="t", prompt="p", tests=tests).to_row()
