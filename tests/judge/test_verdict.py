import pytest

from trl_pper.judge.verdict import UNJUDGED, Outcome, Verdict, pass_rates


def test_the_pass_rate_is_passed_over_total():
    verdict = Verdict(outcomes=("passed", "timeout", "passed", "wrong_answer"))
    assert (verdict.passed, verdict.total, verdict.pass_rate, verdict.accepted) == (2, 4, 0.5, False)
    assert Verdict.uniform(Outcome.PASSED, 3).accepted


def test_a_program_without_tests_has_no_pass_rate():
    assert Verdict(outcomes=()).pass_rate is None
    assert not Verdict(outcomes=()).accepted


@pytest.mark.parametrize("outcome", sorted(UNJUDGED))
def test_one_unjudged_test_leaves_no_pass_rate(outcome):
    verdict = Verdict(outcomes=(Outcome.PASSED, outcome))
    assert verdict.pass_rate is None
    assert not verdict.accepted


@pytest.mark.parametrize("outcome", sorted(set(Outcome) - UNJUDGED - {Outcome.PASSED}))
def test_every_failure_of_the_program_counts_as_zero(outcome):
    assert Verdict.uniform(outcome, 2).pass_rate == 0.0


def test_pass_rates_leave_unjudged_programs_out():
    verdicts = [Verdict(outcomes=("passed",)), Verdict(outcomes=("sandbox_error",)), Verdict(outcomes=("timeout",))]
    assert pass_rates(verdicts) == [1.0, 0.0]


def test_an_unknown_outcome_is_refused():
    with pytest.raises(ValueError, match="fine"):
        Verdict(outcomes=("fine",))
