"""Comparison of printed output with what is expected."""

from __future__ import annotations

import math
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trl_pper.judge.compare import outputs_match

SPACES = st.text(alphabet=" \n\t\r", min_size=1, max_size=3)
WORDS = st.text(alphabet=st.characters(min_codepoint=33, max_codepoint=126), min_size=1, max_size=6)


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
