"""The figures of a report: ties, zeros, one program, many sources; each against a count done the slow way."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trl_pper import Experience, ReplayBuffer
from trl_pper.replay.exports.summary import summarise_exports
from trl_pper.report import charts
from trl_pper.report.content import (
    PASS_RATE_CLASSES,
    best_pass_rates,
    buffer_facts,
    pass_rate_classes,
    read_content,
    share_by_class,
    task_coverage,
    top_draws,
    worst_outcomes,
)
from trl_pper.report.groups import GROUPS, groups_by, slowest_tasks
from trl_pper.report.history import history_of


def buffer_of(*programs: tuple[str, float], **fields) -> ReplayBuffer:
    buffer = ReplayBuffer(priority="proportional")
    buffer.add(
        Experience(
            task_id=task, prompt="p", completion="c", program=str(i), pass_rate=rate,
            **{name: values[i] for name, values in fields.items()},
        )
        for i, (task, rate) in enumerate(programs)
    )  # fmt: skip
    return buffer


@given(st.integers(1, 40).flatmap(lambda total: st.tuples(st.integers(0, total), st.just(total))))
def test_each_pass_rate_has_one_class(fraction):
    passed, total = fraction
    name = PASS_RATE_CLASSES[pass_rate_classes(np.array([passed / total]))[0]]
    if passed in (0, total):
        assert name == str(passed // total)
    else:
        least, most = map(float, name.split(" to "))
        # In whole numbers: 3 / 5 belongs to what begins with 0.6, however it is rounded.
        assert round(10 * least) * total <= 10 * passed < round(10 * most) * total


def test_tasks_with_no_some_and_all_programs_passing_are_counted():
    content = read_content(
        buffer_of(("none", 0.0), ("some", 1.0), ("none", 0.5), ("only", 1.0), ("some", 0.9), ("only", 1.0))
    )
    assert task_coverage(content) == {"none": 1, "some": 1, "only": 1}
    assert dict(zip(content.tasks, best_pass_rates(content), strict=True)) == {"none": 0.5, "some": 1.0, "only": 1.0}
    assert buffer_facts(content)["tasks with a passing program"] == "66.7 %"


def test_the_slowest_tasks_come_first_with_what_took_so_long():
    programs = [("quick", 1.0), ("loops", 0.0), ("tie", 1.0), ("loops", 1.0), ("unknown", 1.0), ("free", 1.0)]
    ends = [("passed",), ("passed", "timeout"), ("passed",), ("passed",), ("passed",), ("passed",)]
    content = read_content(
        buffer_of(*programs, ("loops", 0.5), outcomes=[*ends, ("timeout",)],
                  cpu_seconds=[0.5, 2.0, 0.5, 1.0, None, 0.0, None])
    )  # fmt: skip
    slowest, first, second = slowest_tasks(content)
    assert (slowest.name, slowest.programs, slowest.cpu_seconds, slowest.longest) == ("loops", 2, 3.0, 2.0)
    assert (slowest.share, slowest.timed_out, slowest.pass_rate) == (0.75, 0.5, 0.5)
    # A tie, in the order of the buffer; what took no time, or an unknown one, is left out.
    assert (first.name, second.name) == ("quick", "tie")
    assert [one.name for one in slowest_tasks(content, 1)] == ["loops"]


def test_without_a_known_time_no_task_is_slow():
    assert slowest_tasks(read_content(buffer_of(("a", 0.0), ("b", 1.0)))) == []


def test_only_scores_on_tasks_are_scores_on_held_out_tasks():
    logged = {
        "eval_accuracy": 0.5, "eval_easy_pass@3": 0.75, "eval_accuracy_hard": 0.25, "eval_loss": 1.0,
        "eval_mean_token_accuracy": 0.9, "eval_runtime": 3.0,
    }  # fmt: skip
    assert set(history_of(log=[logged]).scores()) == {"accuracy", "pass@3 of easy"}


def test_one_failed_program_is_enough():
    content = read_content(buffer_of(("a", 0.0)))
    assert task_coverage(content) == {"none": 1, "some": 0, "only": 0}
    assert share_by_class(content.pass_rates).tolist() == [1, 0, 0, 0, 0, 0, 0]
    assert worst_outcomes(content) == {"unknown": 1}
    # P2Values of zero are all equal: the draw is uniform.
    assert content.draws.tolist() == [1.0]


def test_shares_drawn_are_weighed_and_the_likeliest_are_counted():
    content = read_content(buffer_of(*[("a", 0.25)] * 2, ("a", 0.5), ("a", 1.0)))
    assert share_by_class(content.pass_rates).tolist() == [0, 0, 0.5, 0.25, 0, 0, 0.25]
    np.testing.assert_allclose(share_by_class(content.pass_rates, content.draws), [0, 0, 0.25, 0.25, 0, 0, 0.5])
    assert top_draws(content.draws) == pytest.approx(0.5)
    assert top_draws(np.full(20, 0.05)) == pytest.approx(0.1)


def test_a_program_counts_for_its_worst_outcome():
    outcomes = [("passed", "passed"), ("timeout", "wrong_answer"), ("wrong_answer", "passed"), ()]
    content = read_content(buffer_of(*[("a", 0.5)] * 4, outcomes=outcomes))
    assert worst_outcomes(content) == {"passed": 1, "wrong_answer": 1, "timeout": 1, "unknown": 1}
    assert {str(name): count for name, count in content.tests.items()} == {
        "passed": 3, "wrong_answer": 2, "timeout": 1,
    }  # fmt: skip


def test_groups_have_the_figures_of_their_own_programs():
    buffer = buffer_of(
        ("a", 1.0), ("a", 0.0), ("b", 0.5), source=["x", "y", "y"], logprob=[None, -1.0, None],
        num_tokens=[None, 1, None],
    )  # fmt: skip
    more, less = groups_by(read_content(buffer), "source")
    assert (more.name, more.programs, more.pass_rate, more.solved) == ("y", 2, 0.25, 0.0)
    assert more.possibility == pytest.approx(np.exp(-1))
    assert (less.name, less.possibility, less.solved) == ("x", None, 1.0)
    assert more.held + less.held == pytest.approx(1.0)
    assert more.drawn + less.drawn == pytest.approx(1.0)
    (scorer,) = groups_by(read_content(buffer), "scorer")
    assert scorer.name == "not stated"


def test_small_groups_and_early_rounds_are_put_together():
    buffer = buffer_of(
        *[("a", 0.5)] * 31, source=[f"s{max(0, i - 1)}" for i in range(31)], round_index=list(range(31))
    )
    sources, rounds = (groups_by(read_content(buffer), kind) for kind in ("source", "round"))
    assert len(sources) == len(rounds) == GROUPS
    assert (sources[0].name, sources[0].programs, sources[-1].name) == ("s0", 2, "11 others")
    assert (rounds[0].name, rounds[-1].name) == ("12 others", "round 30")
    assert sum(one.programs for one in rounds) == sum(one.programs for one in sources) == 31


def test_a_log_is_read_by_names_and_repetitions_count_once():
    log = [
        {"epoch": 0, "pper/round_index": 0.0, "pper/pass_rate": 0.1},
        {"epoch": 0.5, "loss": 1.0},
        {"epoch": 1.0, "eval_accuracy": 0.3, "eval_pass@10": 0.6, "eval_runtime": 3.0, "eval_loss": 2.0},
        {"epoch": 1.0, "pper/round_index": 1.0, "pper/pass_rate": 0.2},
        {"epoch": 1.0, "pper/round_index": 1.0, "pper/pass_rate": 0.25},
        {"epoch": 2.0, "eval_hard_accuracy": 0.2, "train_loss": 1.0},
    ]
    history = history_of(log=log)
    assert [figures["pass_rate"] for figures in history.rounds] == [0.1, 0.25]
    assert [(one.rounds_trained, dict(one.scores)) for one in history.evaluations] == [
        (1.0, {"accuracy": 0.3, "pass@10": 0.6}), (2.0, {"accuracy of hard": 0.2}),
    ]  # fmt: skip
    first, last = history.scores()["accuracy"]
    assert first is last


def test_points_of_a_cell_become_one_dot_at_their_average():
    x, y, counts = charts._cells(np.array([0.5, 0.51, 1.0, 0.5]), np.array([0.125, 0.125, 1.0, 0.125]))
    assert sorted(zip(x.round(6).tolist(), y.tolist(), counts.tolist(), strict=True)) == [
        (0.5, 0.125, 2), (0.51, 0.125, 1), (1.0, 1.0, 1),
    ]  # fmt: skip
    assert all(len(found) == 0 for found in charts._cells(np.zeros(0), np.zeros(0)))


@pytest.mark.parametrize(
    ("possibilities", "fields"),
    [("none known", {}), ("all equal to one", {"logprob": [0.0] * 3, "num_tokens": [1] * 3})],
)
def test_charts_are_drawn_of_possibilities_without_a_span(possibilities, fields):
    content = read_content(buffer_of(("a", 0.0), ("a", 1.0), ("b", 0.5), **fields))
    drawn = charts.draw_charts(content, history_of(), possibility="mean")
    assert [chart.name for chart in drawn] == ["possibility", "draw", "coverage", "outcomes"]
    rows = drawn[0].rows
    assert [row[1] for row in rows] == ["1", "0", "0", "1", "0", "0", "1"]
    assert {row[2] for row in rows} == ({"0"} if fields else {"0", "1"})
    assert rows[1][3:] == ["none"] * 3


def test_the_learning_chart_has_a_row_a_round_and_an_evaluation():
    log = [{"epoch": 0, "pper/round_index": 0.0, "pper/pass_rate": 0.1, "pper/solved": 0.5, "pper/programs": 1200.0}]
    content = read_content(buffer_of(("a", 0.0)))
    history = history_of(log=log, evaluations=[(1.5, {"eval_$x_accuracy": 0.25})])
    chart = charts.draw_charts(content, history, possibility="mean")[0]
    assert chart.header[-1] == "held out: accuracy of $x"
    assert chart.rows == [
        ["0", "1,200", "none", "0.1", "0.5", "none", "none", "none"],
        ["1.5", *["none"] * 6, "0.25"],
    ]


def test_an_exports_pairs_and_distances_are_drawn_and_listed():
    buffer = ReplayBuffer()
    texts = [
        ("a", "12345", 1.0),
        ("a", "1234", 0.0),
        ("a", "12", 0.0),
        ("b", "1", 1.0),
        ("c", "x", 1.0),
        ("c", "", 0.5),
    ]
    buffer.add(
        Experience(task_id=task, prompt="p", completion=text, program=text, pass_rate=rate)
        for task, text, rate in texts
    )
    pairs, distances = charts.export_charts(summarise_exports(buffer))
    assert pairs.rows == [["0", "1", "33.3 %"], ["1", "1", "33.3 %"], ["2 to 3", "1", "33.3 %"]]
    assert pairs.text == (
        "2 of 3 tasks have a passing and a failing completion of the same prompt, in 3 pairs; the distance of the "
        "closest is 1 characters in the median (quartiles 1 and 1). 3 completions pass every test (desirable, for "
        "KTO), and 3 do not."
    )
    assert distances.rows == [["0", "0", "0.0 %"], ["1", "2", "100.0 %"]]
    alone = ReplayBuffer()
    alone.add([Experience(task_id="b", prompt="p", completion="1", program="1", pass_rate=1.0)])
    (only,) = charts.export_charts(summarise_exports(alone))
    assert only.rows == [["0", "1", "100.0 %"]]
