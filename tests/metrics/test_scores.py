"""The figures of an evaluation, against naive twins: estimates, standard errors, groups, and what is left out."""

import io
import itertools
import math
import random
from fractions import Fraction

import pytest
from rich.console import Console

from trl_pper.judge.verdict import Outcome, Verdict
from trl_pper.metrics.scores import count_task, group_by, pass_at_k, show, sum_up

LOST = Verdict.uniform(Outcome.SANDBOX_ERROR, 2, "no sandbox")
BROKEN = Verdict.uniform(Outcome.SYNTAX_ERROR, 2)


def passed(*marks):
    return Verdict(outcomes=tuple(Outcome.PASSED if mark else Outcome.WRONG_ANSWER for mark in marks))


RIGHT, HALF, WRONG = passed(1, 1), passed(1, 0), passed(0, 0)


def test_pass_at_k_of_a_thousand_programs_is_the_nearest_float():
    for correct, k in itertools.product((0, 1, 3, 499, 900, 901, 999, 1000), (1, 10, 100, 999, 1000)):
        missed = Fraction(1)
        for drawn in range(k):
            missed *= Fraction(max(0, 1000 - correct - drawn), 1000 - drawn)
        assert pass_at_k(1000, correct, k) == float(1 - missed)
    # 1 - 0.99999... would lose half of the digits.
    assert pass_at_k(10**7, 1, 1) == 1e-7


def test_pass_at_k_is_without_bias():
    """The mean over all samples of six programs is the true chance, which the plug-in estimate misses."""
    chance = Fraction(1, 3)
    expected = plug_in = 0.0
    for correct in range(7):
        weight = float(math.comb(6, correct) * chance**correct * (1 - chance) ** (6 - correct))
        expected += weight * pass_at_k(6, correct, 3)
        plug_in += weight * (1 - (1 - correct / 6) ** 3)
    assert expected == pytest.approx(float(1 - (1 - chance) ** 3))
    assert abs(plug_in - float(1 - (1 - chance) ** 3)) > 0.01


def test_rates_are_over_programs_and_shares_over_tasks():
    counts = [count_task([HALF, RIGHT, BROKEN]), count_task([RIGHT]), count_task([WRONG, WRONG])]
    figures = sum_up(counts, k=[1, 2])
    assert figures.pass_rate == pytest.approx((0.5 + 1 + 0 + 1 + 0 + 0) / 6)
    assert figures.compile_rate == pytest.approx(5 / 6)
    assert figures.accuracy.value == pytest.approx(1 / 3)
    assert figures.first_pass_rate.value == pytest.approx((0.5 + 1 + 0) / 3)
    assert figures.solved.value == pytest.approx(2 / 3)
    assert figures.pass_at_k[1].value == pytest.approx((1 / 3 + 1 + 0) / 3)
    # One task has too few programs, and is seen to be left out.
    assert (figures.pass_at_k[2].value, figures.pass_at_k[2].tasks) == (pytest.approx((2 / 3 + 0) / 2), 2)
    assert list(figures.to_dict()["over_tasks"].items()) == [
        ("accuracy", 3), ("pass@1", 3), ("pass@2", 2), ("solved@3", 3),
    ]  # fmt: skip


def test_a_program_without_a_verdict_counts_nowhere_else():
    counts = [count_task([LOST, RIGHT], without_program=1), count_task([RIGHT, LOST]), count_task([LOST, LOST])]
    figures = sum_up(counts, k=[1, 2])
    assert (figures.programs, figures.unjudged, figures.without_program) == (6, 4, 1)
    assert (figures.pass_rate, figures.compile_rate) == (1.0, 1.0)
    assert (figures.accuracy.value, figures.accuracy.tasks) == (1.0, 1)
    assert (figures.solved.value, figures.solved.tasks) == (1.0, 2)
    assert (figures.pass_at_k[1].value, figures.pass_at_k[1].tasks) == (1.0, 2)
    assert (figures.pass_at_k[2].value, figures.pass_at_k[2].tasks) == (None, 0)
    assert counts[0].why_unjudged == "no sandbox"


@pytest.mark.parametrize("counts", [[], [count_task([])], [count_task([LOST])]])
def test_a_figure_over_nothing_is_none(counts):
    told = sum_up(counts, k=[1]).to_dict()
    solved = f"solved@{max((one.programs for one in counts), default=0)}"
    assert {told[name] for name in ("pass_rate", "compile_rate", "accuracy", "pass@1", solved)} == {None}
    assert set(told["standard_errors"].values()) == {None}
    assert set(told["over_tasks"].values()) == {0}


def test_the_standard_error_is_that_of_repeated_evaluations():
    draw = random.Random(0)

    def evaluation():
        chances = [draw.betavariate(0.5, 1.0) for _ in range(60)]
        counts = [
            count_task([RIGHT if draw.random() < chance else WRONG for _ in range(5)]) for chance in chances
        ]  # fmt: skip
        return sum_up(counts, k=[2]).pass_at_k[2]

    repeated = [evaluation() for _ in range(300)]
    mean = sum(one.value for one in repeated) / 300
    spread = math.sqrt(sum((one.value - mean) ** 2 for one in repeated) / 299)
    told = sum(one.standard_error for one in repeated) / 300
    assert told == pytest.approx(spread, rel=0.15)
    # One task says nothing of how tasks differ.
    assert sum_up([count_task([RIGHT, WRONG])], k=[1]).pass_at_k[1].standard_error is None


def test_groups_are_difficulties_where_there_are_several():
    kinds = [("easy", "apps"), ("hard", "apps"), (None, "apps"), ("easy", "apps")]
    counts = [count_task([RIGHT], difficulty=difficulty, source=source) for difficulty, source in kinds]
    assert {name: len(group) for name, group in group_by(counts, "difficulty").items()} == {
        "easy": 2, "hard": 1, "no difficulty": 1,
    }  # fmt: skip
    assert group_by(counts, "source") == {}
    assert group_by([], "difficulty") == {}


def shown(console, counts):
    groups = {name: {key: sum_up(group, k=[1], num_programs=2) for key, group in group_by(counts, name).items()}
              for name in ("difficulty", "source")}  # fmt: skip
    show(sum_up(counts, k=[1]), groups, console=console)
    return console.file.getvalue().splitlines()


def test_figures_are_lines_in_a_file_and_a_table_on_a_terminal():
    counts = [count_task([RIGHT, WRONG], difficulty="easy"), count_task([WRONG, LOST], difficulty="hard"),
              count_task([LOST], difficulty="hard", without_program=1)]  # fmt: skip
    lines = shown(Console(file=io.StringIO(), width=40), counts)
    assert lines == [
        "all tasks: 3 tasks, 5 programs (2 not judged, 1 without a program), pass rate 0.333, "
        "accuracy 0.500 ± 0.500 (of 2 tasks), pass@1 0.250 ± 0.250 (of 2 tasks), "
        "solved@2 0.500 ± 0.500 (of 2 tasks), compile rate 1.000",
        "difficulty easy: 1 task, 2 programs (0 not judged, 0 without a program), pass rate 0.500, "
        "accuracy 1.000, pass@1 0.500, solved@2 1.000, compile rate 1.000",
        "difficulty hard: 2 tasks, 3 programs (2 not judged, 1 without a program), pass rate 0.000, "
        "accuracy 0.000 (of 1 task), pass@1 0.000 (of 1 task), solved@2 0.000 (of 1 task), compile rate 1.000",
    ]
    table = "\n".join(shown(Console(file=io.StringIO(), width=200, force_terminal=True, no_color=True), counts))
    for word in ("all tasks", "easy", "hard", "solved@2", "0.250 ± 0.250 (of 2 tasks)", "standard error"):
        assert word in table
