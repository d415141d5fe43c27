"""Draw rules against a naive twin in plain Python, and their limits."""

import copy
import functools
import math
import pickle
from dataclasses import dataclass, replace
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.naive_replay import make
from trl_pper.replay.buffer import ReplayBuffer
from trl_pper.replay.draw_rule import TASK_WEIGHTS, DrawRule, draw_probabilities
from trl_pper.replay.priority import best
from trl_pper.replay.program_columns import KINDS, ProgramColumns

PROGRAM = st.fixed_dictionaries(
    {
        "p2value": st.sampled_from([0.0, 0.1, 0.5, 0.52, 1.0]),
        "task": st.integers(0, 3),
        "pass_rate": st.sampled_from([0.0, 0.25, 0.5, 1.0]),
        "possibility": st.sampled_from([0.1, 0.5, 1.0]),
        "cpu_seconds": st.sampled_from([0.01, 0.05, 2.0]),
        "round_index": st.integers(0, 3),
        "age": st.sampled_from([0, 10, 40]),
    }
)
RULE = st.fixed_dictionaries(
    {
        "priority": st.sampled_from(["best", "proportional", "rank", "uniform"]),
        "priority_exponent": st.sampled_from([0.0, 1.0, 3.0]),
        "priority_temperature": st.sampled_from([0.0, 0.03, 1.0]),
        "task_weight": st.sampled_from([None, *TASK_WEIGHTS]),
        "task_exponent": st.sampled_from([0.0, 1.0, 20.0]),
        "programs_per_task": st.sampled_from([None, 1, 2]),
        "age_decay": st.sampled_from([None, 20.0]),
        "possibility_exponent": st.sampled_from([0.0, 1.0, -0.5]),
        "cpu_time_exponent": st.sampled_from([0.0, 0.5]),
    }
)


def columns(rows):
    return ProgramColumns(
        [row["p2value"] for row in rows],
        **{name: [row[name] for row in rows] for name in rows[0] if name != "p2value"},
    )


def naive_priorities(rows, rule):
    values = [row["p2value"] for row in rows]
    if rule.priority == "uniform":
        return [1.0] * len(rows)
    if rule.priority == "rank":
        found = []
        for value in values:
            first = sum(other > value for other in values)
            ranks = range(first + 1, first + sum(other == value for other in values) + 1)
            found.append(sum(rank**-rule.priority_exponent for rank in ranks) / len(ranks))
        return found
    if rule.priority == "best":
        highest = [max(one["p2value"] for one in rows if one["task"] == row["task"]) for row in rows]
        if rule.priority_temperature == 0:
            return [float(value == top) for value, top in zip(values, highest, strict=True)]
        return [
            math.exp((value - top) / rule.priority_temperature) for value, top in zip(values, highest, strict=True)
        ]
    if not any(values):
        return [1.0] * len(rows)
    return [value**rule.priority_exponent for value in values]


def naive_task_weight(rule, rows, others=(), last_round=False):
    rates = [row["pass_rate"] for row in rows]
    passing = sum(rate == 1.0 for rate in rates) / len(rates)
    solved = [mates for mates in others if max(one["pass_rate"] for one in mates) == 1]
    is_left_out = not any(rates) or (last_round and solved and max(rates) < 1)
    return {
        "equal": 1.0,
        "best": 0.0 if is_left_out else max(rates) ** rule.task_exponent,
        "unsolved": 1 - passing,
        "learnability": passing * (1 - passing),
    }[rule.chosen_task_weight]


def naive_probabilities(rows, rule, last_round=False):
    weights = naive_priorities(rows, rule)
    for at, row in enumerate(rows):
        weights[at] *= row["possibility"] ** rule.possibility_exponent
        mates = [one for one in rows if one["task"] == row["task"]]
        if row["pass_rate"] == 1.0:
            fastest = min(one["cpu_seconds"] for one in mates if one["pass_rate"] == 1.0)
            weights[at] *= (row["cpu_seconds"] / fastest) ** -rule.cpu_time_exponent
    tasks = sorted({row["task"] for row in rows})
    members = {task: [at for at, row in enumerate(rows) if row["task"] == task] for task in tasks}
    if rule.programs_per_task is not None:
        for places in members.values():
            order = sorted(places, key=lambda at: (-weights[at], -rows[at]["p2value"], -rows[at]["round_index"], at))
            for at in order[rule.programs_per_task :]:
                weights[at] = 0.0
    if rule.chosen_task_weight != "pooled":
        drawable = [task for task in tasks if any(weights[at] for at in members[task])]
        mates = [[rows[at] for at in members[task]] for task in drawable]
        share = {
            task: naive_task_weight(rule, own, mates, last_round) for task, own in zip(drawable, mates, strict=True)
        }
        if not any(share.values()):
            share = dict.fromkeys(drawable, 1.0)
        for task in drawable:
            total = sum(weights[at] for at in members[task])
            for at in members[task]:
                weights[at] *= share[task] / total
    if rule.age_decay is not None:
        weights = [weight * math.exp(-row["age"] / rule.age_decay) for weight, row in zip(weights, rows, strict=True)]
    return [weight / sum(weights) for weight in weights]


@given(st.lists(PROGRAM, min_size=1, max_size=9), RULE, st.booleans())
@settings(max_examples=400, deadline=None)
def test_a_rule_equals_its_naive_twin(rows, options, last_round):
    rule = DrawRule(**options)
    # Exact ties may round apart: their order would be decided by the last bit, not by the next key.
    if options["programs_per_task"] is not None:
        rule = replace(rule, possibility_exponent=0.0, cpu_time_exponent=0.0)
    found = rule.probabilities(columns(rows), last_round=last_round)
    assert found.tolist() == pytest.approx(naive_probabilities(rows, rule, last_round), rel=1e-9, abs=1e-12)
    assert found.sum() == pytest.approx(1.0, abs=1e-12)


def test_best_draws_the_best_of_each_task_that_passes_a_test():
    programs = ProgramColumns([0.9, 0.6, 0.7, 0.3, 0.4], task=[0, 0, 1, 1, 2], pass_rate=[1.0, 0.5, 0.9, 0.5, 0.0])
    drawn = DrawRule().probabilities(programs)
    assert drawn[4] == 0
    assert drawn[2] / drawn[0] == pytest.approx(0.9**20, rel=1e-3)
    assert drawn[1] / drawn[0] == pytest.approx(math.exp(-0.3 / 0.01), rel=1e-6)


def test_temperature_0_shares_a_task_among_its_best_alone():
    programs = ProgramColumns([0.5, 0.5, 0.49, 0.1], task=[0, 0, 0, 1], pass_rate=[1.0, 1.0, 1.0, 1.0])
    drawn = DrawRule(priority_temperature=0).probabilities(programs)
    assert drawn.tolist() == pytest.approx([0.25, 0.25, 0.0, 0.5])


def test_the_last_round_draws_near_misses_only_if_none_passes():
    programs = ProgramColumns([0.9, 0.8, 0.5], task=[0, 1, 2], pass_rate=[1.0, 0.9, 0.5])
    assert DrawRule().probabilities(programs)[1] > 0.05
    assert DrawRule().probabilities(programs, last_round=True).tolist() == [1.0, 0.0, 0.0]
    unsolved = programs.where(np.array([False, True, True]))
    assert DrawRule().probabilities(unsolved, last_round=True).tolist() == DrawRule().probabilities(unsolved).tolist()
    # Other priorities draw all along what they draw.
    for name in ("uniform", "proportional", "rank"):
        rule = DrawRule(priority=name)
        assert rule.probabilities(programs, last_round=True).tolist() == rule.probabilities(programs).tolist()


def test_best_without_a_passing_test_draws_the_most_probable():
    programs = ProgramColumns([0.4, 0.1, 0.2], task=[0, 0, 1], pass_rate=[0.0] * 3)
    assert DrawRule().probabilities(programs).tolist() == pytest.approx([0.5, 0.5 * math.exp(-30), 0.5], rel=1e-3)


def test_filter_with_equal_tasks_is_a_mean_over_passing_ones():
    programs = ProgramColumns([1.0] * 5, task=[0, 0, 0, 1, 2], pass_rate=[1.0, 1.0, 0.0, 1.0, 0.5])
    rule = DrawRule(priority="filter", task_weight="equal")
    assert rule.probabilities(programs).tolist() == [0.25, 0.25, 0, 0.5, 0]


def test_huge_powers_neither_overflow_nor_vanish():
    programs = ProgramColumns([1e-200, 1e-100, 1.0], task=[0, 1, 2], pass_rate=[1.0, 1.0, 1.0])
    rule = DrawRule(priority="proportional", priority_exponent=1e6, task_weight="equal")
    assert rule.probabilities(programs).tolist() == pytest.approx([1 / 3] * 3)
    old = ProgramColumns([0.5, 0.5], age=[10**9, 10**9 + 1])
    assert DrawRule(priority="uniform", age_decay=1.0).probabilities(old)[1] == pytest.approx(1 / (1 + math.e))


def test_best_compares_within_tasks_also_where_tasks_are_pooled():
    programs = ProgramColumns([0.9, 0.5, 0.47], task=[0, 1, 1])
    for temperature in (0.01, 1e-3, 0.0):
        drawn = DrawRule(priority_temperature=temperature, task_weight="pooled").probabilities(programs)
        assert drawn[0] == drawn[1] > 0, temperature
    priorities = best(programs.p2value, task=programs.task)
    pooled = DrawRule(task_weight="pooled").probabilities(programs)
    assert pooled.tolist() == pytest.approx((priorities / priorities.sum()).tolist())


@pytest.mark.parametrize("temperature", [1e-16, 1e-200, 5e-324])
def test_task_weights_survive_any_temperature(temperature):
    programs = ProgramColumns([1.0, 0.5, 0.9], task=[0, 0, 1], pass_rate=[1.0, 0.5, 0.9])
    drawn = DrawRule(priority_temperature=temperature).probabilities(programs)
    assert drawn.tolist() == pytest.approx([1 / (1 + 0.9**20), 0, 0.9**20 / (1 + 0.9**20)])


@pytest.mark.parametrize(
    "options",
    [
        {"age_decay": 5e-324},
        {"possibility_exponent": 1e308},
        {"possibility_exponent": -1e308},
        {"task_exponent": 1e308},
    ],
)
@pytest.mark.parametrize("priority", ["best", "proportional", "rank"])
def test_every_finite_option_leaves_something_to_draw(priority, options):
    programs = ProgramColumns([0.5, 0.4], task=[0, 1], age=[3, 2], possibility=[1e-300, 0.9])
    drawn = DrawRule(priority=priority, **options).probabilities(programs)
    assert drawn.sum() == pytest.approx(1.0)
    if "age_decay" in options:
        assert drawn.tolist() == [0, 1]


def test_settings_of_other_kinds_of_numbers_are_saved(tmp_path):
    numbers = {"capacity": np.int64(9), "seed": np.uint64(2**63), "programs_per_task": np.int32(2)}
    numbers |= {"age_decay": np.float32(2), "possibility_exponent": Fraction(1, 2), "task_exponent": np.int8(3)}
    buffer = ReplayBuffer(**numbers)
    buffer.add([make(1, logprob=-1.0, num_tokens=2), make(2, logprob=-2.0, num_tokens=2)])
    buffer.save(tmp_path / "buffer.parquet")
    loaded = ReplayBuffer.load(tmp_path / "buffer.parquet")
    assert loaded.settings() == buffer.settings() == buffer.settings() | numbers
    assert loaded.digest() == buffer.digest()
    assert loaded.probabilities().tolist() == buffer.probabilities().tolist()


@dataclass
class Scaled:
    """A priority that cannot be hashed, as a dataclass that is compared."""

    factor: float = 2.0

    def __call__(self, p2values):
        return p2values * self.factor


def test_a_buffer_that_was_drawn_from_can_be_pickled():
    buffer = ReplayBuffer(priority=Scaled())
    buffer.add([make(1, pass_rate=0.75), make(2, pass_rate=0.25)])
    assert buffer.probabilities().tolist() == pytest.approx([0.75, 0.25])
    buffer.priority = Scaled(0.0)
    assert buffer.probabilities().tolist() == [0.5, 0.5]
    for twin in (pickle.loads(pickle.dumps(buffer)), copy.deepcopy(buffer)):
        assert twin.draw(9, round_index=0, step=0).tolist() == buffer.draw(9, round_index=0, step=0).tolist()
        assert twin.settings() == buffer.settings()


def test_a_function_gets_each_column_it_names():
    seen = {}

    def by_columns(values, task, age, *, source, times_drawn):
        seen.update(task=task.tolist(), age=age.tolist(), source=source.tolist(), drawn=times_drawn.tolist())
        values[:] = 1.0
        return values

    def by_record(programs):
        return 1.0 / np.maximum(programs.num_tokens, 1)

    def columns_alone(pass_rate, outcomes):
        return [rate * len(found) for rate, found in zip(pass_rate, outcomes, strict=True)]

    buffer = ReplayBuffer(priority=by_columns, steps_per_round=7)
    buffer.add(
        [
            make(1, task="b", round_index=0, num_tokens=4, logprob=-1.0, source="me", outcomes=["passed"]),
            make(2, task="a", round_index=2, num_tokens=2, logprob=-1.0, pass_rate=1.0, outcomes=["passed"] * 2),
        ]
    )
    buffer.count_draws([1, 1, 0])
    assert buffer.probabilities().tolist() == [0.5, 0.5]
    assert seen == {"task": [0, 1], "age": [14, 0], "source": ["me", ""], "drawn": [1, 2]}
    buffer.priority = by_record
    assert buffer.probabilities().tolist() == pytest.approx([1 / 3, 2 / 3])
    buffer.priority = columns_alone
    assert buffer.probabilities().tolist() == pytest.approx([0.2, 0.8])


def mean_of_task(p2values, task):
    return (np.bincount(task, weights=p2values) / np.bincount(task))[task]


def test_tasks_are_numbered_without_gaps_for_a_function():
    buffer = ReplayBuffer(priority=mean_of_task, mask_truncated_completions=True)
    buffer.add(
        [make(1, task="a", pass_rate=0.25), make(2, task="b", truncated=True), make(3, task="c", pass_rate=0.75)]
    )
    assert buffer.probabilities().tolist() == pytest.approx([0.25, 0.0, 0.75])


def test_columns_of_a_buffer_are_those_of_its_experiences():
    buffer = ReplayBuffer(steps_per_round=3)
    buffer.add(
        make(i, task="ab"[i % 2], logprob=-float(i), num_tokens=i + 1, round_index=i, times_drawn=i) for i in range(4)
    )
    programs = buffer.columns()
    assert len(programs) == 4
    assert programs.task.tolist() == [0, 1, 0, 1]
    assert programs.age.tolist() == [9, 6, 3, 0]
    for name in ("pass_rate", "logprob", "num_tokens", "round_index", "times_drawn"):
        assert getattr(programs, name).tolist() == [getattr(one, name) for one in buffer], name
    assert programs.outcomes.tolist() == [one.outcomes for one in buffer]
    with pytest.raises(ValueError, match="read-only"):
        programs.age[0] = 1


def test_what_is_not_given_is_unknown():
    programs = ProgramColumns([0.5, 1.0])
    for name, kind in KINDS.items():
        values = getattr(programs, name).tolist()
        expected = [0.5, 1.0] if name in ("p2value", "pass_rate") else {"f": [math.nan] * 2, "i": [0, 0]}.get(kind)
        if expected is not None:
            assert values == pytest.approx(expected, nan_ok=True), name
    assert programs.outcomes.tolist() == [(), ()]
    with pytest.raises(TypeError, match="colour: no column"):
        ProgramColumns([1.0], colour=[1])
    with pytest.raises(ValueError, match="age: must hold one value for each of 1 programs; got 2"):
        DrawRule(age_decay=1).probabilities(ProgramColumns([1.0], age=[1, 2]))


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"task_weight": "hard"}, "task_weight: must be None or one of pooled"),
        ({"priority_temperature": -0.1}, "priority_temperature:"),
        ({"priority_temperature": math.nan}, "priority_temperature:"),
        ({"priority_temperature": "0.03"}, "priority_temperature:"),
        ({"task_exponent": math.inf}, "task_exponent:"),
        ({"programs_per_task": 0}, "programs_per_task:"),
        ({"programs_per_task": 1.5}, "programs_per_task:"),
        ({"programs_per_task": True}, "programs_per_task:"),
        ({"age_decay": 0}, "age_decay: must be a number of steps above 0"),
        ({"possibility_exponent": math.inf}, "possibility_exponent:"),
        ({"cpu_time_exponent": -1}, "cpu_time_exponent:"),
        ({"priority": lambda values: values[:1]}, r"priority: the function .* must return 4 priorities; got 1"),
        ({"priority": lambda values: values * math.nan}, r"priority: the function .* finite and not negative"),
        ({"priority": lambda values: -values}, r"priority: the function .* finite and not negative"),
        ({"priority": lambda values, other: values}, r"priority: the function .*TypeError"),
        ({"priority": lambda values: 1 / 0}, r"priority: the function .*ZeroDivisionError"),
    ],
)
def test_bad_options_are_named_before_anything_is_drawn(options, named):
    for build in (DrawRule, ReplayBuffer, functools.partial(draw_probabilities, [])):
        with pytest.raises(ValueError, match=f"^{named}"):
            build(**options)


def test_a_function_of_zeros_draws_all_alike():
    assert draw_probabilities([0.5, 0.7], priority=lambda values: values * 0).tolist() == [0.5, 0.5]


@pytest.mark.parametrize(
    ("option", "noun"),
    [("possibility_exponent", "log-probabilities"), ("cpu_time_exponent", "CPU times")],
)
def test_what_an_option_needs_is_asked_for(option, noun):
    buffer = ReplayBuffer(**{option: 1.0})
    buffer.add([make(1, pass_rate=1.0, logprob=-1.0, num_tokens=1, cpu_seconds=0.1), make(2, pass_rate=1.0)])
    with pytest.raises(ValueError, match=f"^{option}: needs the {noun} of the programs, and 1 of 2 have none"):
        buffer.probabilities()


def test_draws_are_counted_saved_and_survive_a_new_round(tmp_path):
    buffer = ReplayBuffer()
    buffer.add([make(0), make(1)])
    fresh = buffer.digest()
    buffer.count_draws(np.array([[0, 1], [0, 0]]))
    assert buffer.times_drawn().tolist() == [3, 1]
    assert buffer.digest() != fresh
    buffer.save(tmp_path / "buffer.parquet")
    assert ReplayBuffer.load(tmp_path / "buffer.parquet").times_drawn().tolist() == [3, 1]
    # The model writes a program again: it stays the program that was drawn.
    buffer.add([make(1, round_index=1), make(2, round_index=1)])
    assert buffer.times_drawn().tolist() == [3, 1, 0]
    assert [one.times_drawn for one in buffer] == [3, 1, 0]
    buffer.check_valid()
