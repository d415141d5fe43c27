"""Comparison of printed output with what is expected."""

from __future__ import annotations

import math
import re
import time
import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trl_pper import CodingTask, Judge, StdioTests
from trl_pper.judge.host import compare as comparison
from trl_pper.tasks.task import COMPARISONS, StdioCase

SPACES = st.text(alphabet=" \n\t\r", min_size=1, max_size=3)
WORDS = st.text(alphabet=st.characters(min_codepoint=33, max_codepoint=126), min_size=1, max_size=6)


def outputs_match(printed: bytes, expected: str, *, compare: str) -> bool:
    case = StdioCase(input="", output=expected)
    return comparison.outputs_match(printed, case, StdioTests(cases=(case,), compare=compare))


NUMBER = r"[+-]?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d+)?"


def is_fraction(text: str) -> bool:
    return bool(re.fullmatch(NUMBER, text, re.ASCII)) and not re.fullmatch(r"[+-]?\d+", text, re.ASCII)


def naive_token(a: str, b: str) -> bool:
    """The rule of `tokens` for a printed and an expected token read aloud."""
    if a == b:
        return True
    if "," in b:
        mine, theirs = a.split(","), b.split(",")
        numbers = all(re.fullmatch(NUMBER, part, re.ASCII) for part in theirs)
        if not numbers or not any(is_fraction(part) for part in theirs) or len(mine) != len(theirs):
            return False
        return all(naive_token(x, y) for x, y in zip(mine, theirs, strict=True))
    if not is_fraction(b) or not re.fullmatch(NUMBER, a, re.ASCII):
        return False
    x, y = float(a), float(b)
    return math.isfinite(x) and math.isfinite(y) and abs(x - y) <= max(1e-6, 1e-6 * abs(y))


def naive_tokens(printed: str, expected: str) -> bool:
    """The rule of `tokens` read aloud."""
    mine, theirs = re.findall(r"[^ \n\t\r\f\v]+", printed), re.findall(r"[^ \n\t\r\f\v]+", expected)
    if len(mine) != len(theirs):
        return False
    return all(naive_token(a, b) for a, b in zip(mine, theirs, strict=True))


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
        ("0.5,0.3333333", "0.5,0.333333", True),
        ("0.5,0.334", "0.5,0.333333", False),
        ("2,0.50", "2,0.5", True),
        ("2.0,0.5", "2,0.5", False),
        ("2.0,5", "2,5", False),
        ("0.5,0.5,0.5", "0.5,0.5", False),
        ("0.5 0.5", "0.5,0.5", False),
        ("a,0.50", "a,0.5", False),
        ("0.50,", "0.5,", False),
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


PIECES = st.lists(st.sampled_from(["0.5", "0.50", "0.5000001", "2", "2.0", "x", ""]), min_size=1, max_size=3)


@given(mine=PIECES, theirs=PIECES)
def test_joined_numbers_agree_with_the_naive_twin(mine, theirs):
    printed, expected = ",".join(mine), ",".join(theirs)
    assert outputs_match(printed.encode(), expected, compare="tokens") is naive_tokens(printed, expected)


def naive_unordered_lines(printed: str, expected: str) -> bool:
    mine, theirs = (sorted(line.strip() for line in text.split("\n") if line.strip()) for text in (printed, expected))
    return mine == theirs


def naive_unordered_tokens(printed: str, expected: str) -> bool:
    return sorted(printed.split()) == sorted(expected.split())


def naive_permutation(printed: str, expected: str) -> bool:
    mine, theirs = ([sorted(line.split()) for line in text.rstrip().split("\n")] for text in (printed, expected))
    return mine == theirs


def naive_yes_no(printed: str, expected: str) -> bool:
    mine, theirs = printed.split(), expected.split()
    return len(mine) == len(theirs) and all(
        a.lower() == b.lower() if b.lower() in ("yes", "no") else naive_tokens(a, b)
        for a, b in zip(mine, theirs, strict=True)
    )


NAIVE = {
    "unordered_lines": naive_unordered_lines,
    "unordered_tokens": naive_unordered_tokens,
    "permutation": naive_permutation,
    "yes_no": naive_yes_no,
}
#: Texts of few words, so that some are equal but for order, case, blanks or digits.
TEXTS = st.lists(st.sampled_from(["a", "b", "1.0", "1.00", "Yes", "yes", " ", "\n", "\t"]), max_size=5).map(" ".join)


@pytest.mark.parametrize("compare", NAIVE)
@given(printed=TEXTS, expected=TEXTS, order=st.randoms(use_true_random=False))
def test_named_comparisons_agree_with_naive_twins(compare, printed, expected, order):
    words = expected.split(" ")
    order.shuffle(words)
    for text in (printed, expected, " ".join(words), expected.upper(), expected + " a"):
        assert outputs_match(text.encode(), expected, compare=compare) is NAIVE[compare](text, expected)


@pytest.mark.parametrize(
    ("printed", "expected", "compare", "same"),
    [
        ("b\n a\n\n", "a\nb", "unordered_lines", True),
        ("a\na\nb", "a\nb\nb", "unordered_lines", False),
        ("b a", "a b", "unordered_lines", False),
        ("3 1\n2", "1 2 3", "unordered_tokens", True),
        ("1 1 2", "1 2 2", "unordered_tokens", False),
        ("1.0", "1.00", "unordered_tokens", False),
        ("2 1\n3 4", "1 2\n4 3\n", "permutation", True),
        ("3 4\n1 2", "1 2\n4 3", "permutation", False),
        ("1 2 3", "1 2\n3", "permutation", False),
        ("YES 1.0000001", "yes 1.0", "yes_no", True),
        ("A", "a", "yes_no", False),
        ("yes", "no", "yes_no", False),
    ],
)
def test_named_comparisons(printed, expected, compare, same):
    assert outputs_match(printed.encode(), expected, compare=compare) is same
    assert NAIVE[compare](printed, expected) is same


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
    # At first the expected outputs, on which a checker has to work.
    assert seen[:2] == [("1 2", "3", "3"), ("0 9", "9", "9")]
    assert seen[2:] == [("1 2", "4\n", "3"), ("0 9", "10\n", "9")]
    assert judged_by(lambda given, output, expected: int(expected) == 9).pass_rate == 0.5


class Interrupt(KeyboardInterrupt):
    """An exception that looks like Ctrl-C."""


class NoBool:
    """An object without a truth value, such as an array of numpy."""

    def __bool__(self):
        raise ValueError("ambiguous")


#: Ways of a checker to fail, with the words for them.
FAILURES = [
    (ZeroDivisionError("of 1"), "it raised ZeroDivisionError: of 1"),
    (SystemExit(0), "it raised SystemExit: 0"),
    (KeyboardInterrupt(), "it raised KeyboardInterrupt"),
    (Interrupt("mine"), "it raised Interrupt: mine"),
    (MemoryError(), "it raised MemoryError"),
    (None, "it must return a bool, and returned None"),
    ("ok", "it must return a bool, and returned an object of type str"),
    (np.array([True, True]), "it must return a bool, and returned an object of type ndarray"),
    (NoBool(), "it must return a bool, and returned an object of type NoBool"),
]


def fail(failure):
    if isinstance(failure, BaseException):
        raise failure
    return failure


@pytest.mark.parametrize(("failure", "words"), FAILURES, ids=[words for _, words in FAILURES])
def test_a_checker_that_fails_on_the_output_fails_the_program(failure, words):
    verdict = judged_by(lambda given, output, expected: output == expected or fail(failure), program="print('junk')")
    assert verdict.pass_rate == 0.0


@pytest.mark.parametrize(("failure", "words"), FAILURES, ids=[words for _, words in FAILURES])
@pytest.mark.parametrize("program", ["print(input())", "raise ValueError", "what is this"])
def test_a_checker_that_fails_on_everything_judges_nothing(failure, words, program):
    verdict = judged_by(lambda given, output, expected: fail(failure), program)
    assert verdict.pass_rate is None
    assert verdict.message == f"the checker fails even on the expected output of test 1: {words}"


def test_no_program_decides_whether_a_checker_works():
    broken = []

    def checker(given, output, expected):
        # As a checker that keeps what it has seen, and breaks over it.
        broken.extend([output] * ("junk" in output))
        return output.strip() == expected if not broken else 1 / 0

    assert judged_by(checker, program="print('junk')").pass_rate == 0.0


def test_a_checker_may_return_a_bool_of_numpy():
    assert judged_by(lambda given, output, expected: np.bool_(int(output) == int(expected) + 1)).accepted


def test_a_checker_must_be_hashable():
    class Checker:
        __hash__ = None

        def __call__(self, given, output, expected):
            return True

    with pytest.raises(ValueError, match="compare: must be hashable"):
        StdioTests(cases=(StdioCase(input="", output=""),), compare=Checker())


def test_a_task_with_a_checker_cannot_be_written_to_a_file():
    tests = StdioTests(cases=(StdioCase(input="", output=""),), compare=lambda *_: True)
    with pytest.raises(ValueError, match="a function cannot be written"):
        CodingTask(task_id="t", prompt="p", tests=tests).to_row()


@pytest.mark.parametrize("compare", [*COMPARISONS, "floats(1e-6, 1e-6)"])
@pytest.mark.parametrize("part", ["a\n", "\n", "a ", " \n"])
def test_much_output_costs_little_to_compare(compare, part):
    """A program must not be able to hold up the host, which has no limits."""
    printed = (part * (1 << 20)).encode()
    start = time.process_time()
    tracemalloc.start()
    try:
        assert not outputs_match(printed, "a a\na", compare=compare)
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert most < 8 * len(printed)
    assert time.process_time() - start < 3.0


@pytest.mark.parametrize("compare", COMPARISONS)
@pytest.mark.parametrize("end", ["", "\n", " \t\r\n\n ", "\n\n\n"])
def test_whitespace_at_the_end_counts_for_exact_alone(compare, end):
    assert outputs_match(f"a b\nc{end}".encode(), "a b\nc", compare=compare) is (compare != "exact" or not end)
    assert not outputs_match(f"a b\nc{end}d".encode(), "a b\nc", compare=compare)
    assert not outputs_match(f"a b{end}".encode(), "a b\nc", compare=compare)
