"""The cache: the same verdict for the same program, tests and limits, and no verdict that may come out otherwise."""

from __future__ import annotations

import pytest

from trl_pper import FunctionTests, Limits, Verdict
from trl_pper.judge.host.slot import VerdictCache
from trl_pper.judge.verdict import Outcome

TESTS = FunctionTests(code="assert f(1) == 2")
PASSED = Verdict.uniform(Outcome.PASSED, 1)


@pytest.mark.parametrize(
    ("program", "tests", "limits", "found"),
    [
        ("x", FunctionTests(code="assert f(1) == 2"), Limits(), PASSED),
        ("x ", TESTS, Limits(), None),
        ("x", FunctionTests(code="assert f(1) == 3"), Limits(), None),
        ("x", FunctionTests(code="assert f(1) == 2", setup="y = 1"), Limits(), None),
        ("x", TESTS, Limits(cpu_seconds=9.0), None),
    ],
)
def test_program_tests_and_limits_have_to_be_equal(program, tests, limits, found):
    cache = VerdictCache(10)
    cache.put("x", TESTS, Limits(), PASSED)
    assert cache.get(program, tests, limits) == found


@pytest.mark.parametrize("outcome", Outcome)
def test_only_what_program_tests_and_limits_decide_is_remembered(outcome):
    cache = VerdictCache(10)
    verdict = Verdict(outcomes=(Outcome.PASSED, outcome))
    cache.put("x", TESTS, Limits(), verdict)
    unsteady = {Outcome.TIMEOUT, Outcome.MEMORY_LIMIT, Outcome.NOT_RUN, Outcome.SANDBOX_ERROR}
    assert cache.get("x", TESTS, Limits()) == (None if outcome in unsteady else verdict)


def test_what_was_asked_for_least_recently_goes_first():
    cache = VerdictCache(2)
    for program in ("a", "b"):
        cache.put(program, TESTS, Limits(), PASSED)
    assert cache.get("a", TESTS, Limits()) == PASSED
    cache.put("c", TESTS, Limits(), PASSED)
    assert [program for program in "abc" if cache.get(program, TESTS, Limits())] == ["a", "c"]
