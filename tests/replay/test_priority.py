import functools
import math
import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trl_pper.replay import priority as priority_module
from trl_pper.replay.distribution import Distribution, effective_sample_size
from trl_pper.replay.draw_rule import draw_probabilities
from trl_pper.replay.priority import PRIORITIES, p2value, priority_name

SHARES = st.floats(0, 1, allow_subnormal=True)


def naive_probabilities(values, priority, exponent):
    """Eq. 7 and 8 in plain Python, ranks of ties by averaging over all orders' shared ranks."""
    if priority == "uniform":
        weights = [1.0] * len(values)
    elif priority == "filter":
        weights = [float(value == 1.0) for value in values]
    elif priority == "proportional":
        weights = [value**exponent for value in values]
    else:
        weights = []
        for value in values:
            better = sum(other > value for other in values)
            tied = sum(other == value for other in values)
            ranks = range(better + 1, better + tied + 1)
            weights.append(sum((1 / rank) ** exponent for rank in ranks) / tied)
    total = sum(weights)
    return [weight / total if total else 1 / len(values) for weight in weights]


def test_p2value_is_the_papers_mixture():
    assert p2value([0.5, 0.2], [1.0, 0.0], possibility_weight=0.25).tolist() == pytest.approx([0.875, 0.05])


def test_weight_0_is_the_pass_rate_and_weight_1_the_possibility():
    assert p2value([0.3, 0.4], [1.0, 0.1], possibility_weight=0).tolist() == [1.0, 0.1]
    assert p2value([0.3, 0.4], [1.0, 0.1], possibility_weight=1).tolist() == [0.3, 0.4]


def test_unknown_possibility_leaves_the_pass_rate_alone():
    assert p2value([math.nan, 0.5], [0.25, 0.25], possibility_weight=1.0).tolist() == [0.25, 0.5]


def test_p2value_of_nothing_is_nothing():
    assert p2value([], []).shape == (0,)


@given(st.lists(st.tuples(SHARES, SHARES), max_size=20), SHARES)
@settings(max_examples=60)
def test_p2value_stays_between_its_parts(pairs, weight):
    values = p2value([a for a, _ in pairs], [b for _, b in pairs], possibility_weight=weight)
    for value, (a, b) in zip(values, pairs, strict=True):
        assert value == pytest.approx(weight * a + (1 - weight) * b)
        assert 0 <= value <= 1


@pytest.mark.parametrize(
    ("arguments", "name"),
    [
        (([0.5], [0.5, 0.5], 0.5), "possibility and pass_rate"),
        (([-0.1], [0.5], 0.5), "possibility"),
        (([0.5], [1.1], 0.5), "pass_rate"),
        (([0.5], [math.nan], 0.5), "pass_rate"),
        (([math.inf], [0.5], 0.5), "possibility"),
        (([0.5], [0.5], 1.5), "possibility_weight"),
        (([0.5], [0.5], math.nan), "possibility_weight"),
        (([[0.5]], [[0.5]], 0.5), "possibility"),
    ],
)
def test_p2value_names_what_is_out_of_range(arguments, name):
    with pytest.raises(ValueError, match=f"^{name}:"):
        p2value(arguments[0], arguments[1], possibility_weight=arguments[2])


@given(
    st.lists(st.sampled_from([0.0, 0.1, 0.25, 0.5, 0.9, 1.0]), min_size=1, max_size=12),
    st.sampled_from(["proportional", "rank", "uniform"]),
    st.sampled_from([0.0, 0.5, 1.0, 2.0, 3.7]),
)
def test_probabilities_equal_the_naive_twin(values, priority, exponent):
    probabilities = draw_probabilities(values, priority=priority, exponent=exponent)
    assert probabilities.tolist() == pytest.approx(naive_probabilities(values, priority, exponent), abs=1e-12)
    assert abs(probabilities.sum() - 1) <= 1e-12


@pytest.mark.parametrize("priority", PRIORITIES)
def test_one_program_is_certain_and_none_gives_nothing(priority):
    assert draw_probabilities([1.0], priority=priority).tolist() == [1.0]
    assert draw_probabilities([], priority=priority).shape == (0,)


@pytest.mark.parametrize("priority", ["proportional", "rank", "uniform"])
def test_all_zeros_are_drawn_uniformly(priority):
    assert draw_probabilities([0.0] * 4, priority=priority).tolist() == [0.25] * 4


def test_exponent_0_is_uniform_also_over_zeros():
    for priority in ("proportional", "rank"):
        assert draw_probabilities([0.0, 0.5, 1.0, 0.2], priority=priority, exponent=0).tolist() == [0.25] * 4


@pytest.mark.parametrize("priority", ["proportional", "rank"])
@pytest.mark.parametrize("exponent", [1e4, 1e6, 1e308])
def test_a_huge_exponent_draws_only_the_largest(priority, exponent):
    assert draw_probabilities([1e-200, 0.0, 2e-200], priority=priority, exponent=exponent).tolist() == [0, 0, 1]


def test_tiny_values_keep_their_proportions():
    assert draw_probabilities([1e-300, 3e-300]).tolist() == pytest.approx([0.25, 0.75])


def test_rank_does_not_depend_on_the_order_of_insertion():
    values = [0.5, 0.5, 1.0, 0.0, 0.5, 0.0]
    expected = dict(zip(values, draw_probabilities(values, priority="rank", exponent=0.7), strict=True))
    for seed in range(5):
        random.Random(seed).shuffle(values)
        for value, probability in zip(values, draw_probabilities(values, priority="rank", exponent=0.7), strict=True):
            assert probability == pytest.approx(expected[value], abs=1e-15)


def test_filter_draws_fully_passing_programs_alike():
    assert draw_probabilities([0.9, 0.6, 0.7], priority="filter", pass_rate=[1.0, 0.99, 1.0]).tolist() == [0.5, 0, 0.5]
    assert draw_probabilities([1.0, 0.5], priority="filter").tolist() == [1.0, 0.0]


def test_filter_without_a_passing_program_says_what_to_do():
    with pytest.raises(ValueError, match=r"best pass rate 0\.750.*best"):
        draw_probabilities([1.0, 1.0], priority="filter", pass_rate=[0.5, 0.75])


def test_a_function_gives_priorities_and_the_exponent_applies():
    given_values = np.array([0.5, 0.25])

    def halves_in_place(values):
        values /= 2
        return values

    assert draw_probabilities(given_values, priority=halves_in_place, exponent=2.0).tolist() == pytest.approx(
        [0.8, 0.2]
    )
    assert given_values.tolist() == [0.5, 0.25]


@pytest.mark.parametrize("name", PRIORITIES)
@pytest.mark.parametrize("exponent", [0.0, 0.7, 3.0])
def test_a_named_priority_and_its_function_are_one(name, exponent):
    values, rates = [0.5, 0.9, 0.5, 0.2], [0.0, 1.0, 1.0, 0.5]
    by_name, by_function = (
        draw_probabilities(values, priority=given, exponent=exponent, pass_rate=rates)
        for given in (name, getattr(priority_module, name))
    )
    assert by_name.tolist() == by_function.tolist()
    assert priority_name(getattr(priority_module, name)) == name


@pytest.mark.parametrize("name", PRIORITIES)
def test_functions_of_priorities_give_eq_8_and_change_nothing(name):
    values = np.array([0.5, 1.0, 0.5, 0.25])
    expected = {
        "proportional": [0.5, 1.0, 0.5, 0.25],
        "rank": [5 / 12, 1.0, 5 / 12, 0.25],
        "uniform": [1.0] * 4,
        "filter": [0.0, 1.0, 0.0, 0.0],
        "best": [math.exp(-0.5 / 0.01), 1.0, math.exp(-0.5 / 0.01), math.exp(-0.75 / 0.01)],
    }
    given = getattr(priority_module, name)(values)
    assert given.tolist() == pytest.approx(expected[name])
    given[:] = 7
    assert values.tolist() == [0.5, 1.0, 0.5, 0.25]
    assert getattr(priority_module, name)([]).shape == (0,)


def test_priorities_compose():
    values, rates = [0.8, 0.6, 0.4], [1.0, 0.5, 1.0]

    def ranked_passing(p2values, pass_rate):
        return priority_module.rank(p2values) * priority_module.filter(p2values, pass_rate=pass_rate)

    probabilities = draw_probabilities(values, priority=ranked_passing, exponent=2.0, pass_rate=rates)
    assert probabilities.tolist() == pytest.approx([0.9, 0.0, 0.1])


def test_a_function_is_given_pass_rates_only_if_it_asks_for_them():
    seen = {}

    def plain(values):
        return values

    def keyword(values, *, pass_rate):
        seen["keyword"] = pass_rate.tolist()
        pass_rate[:] = 0
        return values

    class Priority:
        def __call__(self, values, pass_rate=None):
            seen["object"] = pass_rate.tolist()
            return values

    rates = np.array([0.25, 0.75])
    for priority in (plain, keyword, Priority(), np.sqrt, functools.partial(keyword)):
        draw_probabilities([0.5, 0.5], priority=priority, pass_rate=rates)
    assert seen == {"keyword": [0.25, 0.75], "object": [0.25, 0.75]}
    assert rates.tolist() == [0.25, 0.75]
    draw_probabilities([0.5, 1.0], priority=keyword)
    assert seen["keyword"] == [0.5, 1.0]


def test_names_tell_functions_apart():
    assert priority_name("rank") == "rank"
    assert priority_name(None) is None
    assert priority_name(naive_probabilities) == f"function:{__name__}.naive_probabilities"
    assert priority_name(functools.partial(naive_probabilities)) == "function:functools.partial"


@pytest.mark.parametrize(
    ("keywords", "name"),
    [
        ({"exponent": -1}, "exponent"),
        ({"exponent": math.inf}, "exponent"),
        ({"exponent": math.nan}, "exponent"),
        ({"priority": "worst"}, "priority"),
        ({"priority": lambda values: values[:1]}, "priority"),
        ({"priority": lambda values: -values}, "priority"),
        ({"priority": lambda values: values * math.nan}, "priority"),
        ({"priority": lambda values, pass_rate: values, "pass_rate": [1.0]}, "pass_rate"),
        ({"priority": "filter", "pass_rate": [1.0]}, "pass_rate"),
        ({"priority": "filter", "pass_rate": [1.0, 2.0]}, "pass_rate"),
    ],
)
def test_probabilities_name_what_is_wrong(keywords, name):
    with pytest.raises(ValueError, match=f"^{name}:"):
        draw_probabilities([0.5, 0.5], **keywords)


def test_negative_or_unknown_p2values_are_refused():
    for bad in ([-0.1], [math.nan], [math.inf]):
        with pytest.raises(ValueError, match=r"^p2values:"):
            draw_probabilities(bad)


def test_draws_are_pinned():
    """These values are a promise: a changed stream would change every resumed run."""
    probabilities = draw_probabilities([0.1, 0.0, 0.4, 0.5])
    assert Distribution(probabilities).draw(12, seed=7, round_index=2, step=31).tolist() == PINNED
    assert Distribution(probabilities).draw(5, seed=7, round_index=2, step=31).tolist() == PINNED[:5]


PINNED = [3, 2, 3, 0, 3, 2, 2, 3, 2, 3, 2, 3]


def test_draws_follow_the_naive_inverse_of_the_distribution():
    probabilities = draw_probabilities(np.random.default_rng(0).random(50))
    drawn = Distribution(probabilities).draw(400, seed=1, round_index=0, step=0)
    stream = np.random.Philox(key=np.array([1, 0], np.uint64), counter=np.array([0, 0, 0, 0], np.uint64))
    for index, bits in zip(drawn, stream.random_raw(400), strict=True):
        uniform, position = (int(bits) >> 11) / 2**53, 0
        while uniform >= sum(probabilities[: position + 1]):
            position += 1
        assert index == position


def test_frequencies_match_the_probabilities():
    probabilities = np.array([0.0, 0.7, 0.0, 0.3, 0.0])
    drawn = Distribution(probabilities).draw(40_000, seed=0, round_index=0, step=0)
    shares = np.bincount(drawn, minlength=5) / 40_000
    assert shares[[0, 2, 4]].tolist() == [0, 0, 0]
    assert abs(shares[1] - 0.7) < 0.01


def test_streams_of_seeds_rounds_and_steps_are_disjoint():
    probabilities = np.full(1_000_000, 1e-6)
    streams = [
        tuple(Distribution(probabilities).draw(20, seed=seed, round_index=round_index, step=step))
        for seed in (0, 1)
        for round_index in (0, 1)
        for step in (0, 1, 2)
    ]
    assert len(set(streams)) == 12
    # Windows of one step's stream do not reappear as the next step's.
    assert not set(streams[0]) & set(streams[1])


def test_drawing_is_refused_with_a_reason():
    with pytest.raises(ValueError, match=r"^probabilities:.*nothing to draw"):
        Distribution([]).draw(1, seed=0, round_index=0, step=0)
    with pytest.raises(ValueError, match=r"^probabilities: must sum to 1"):
        Distribution([0.5, 0.6]).draw(1, seed=0, round_index=0, step=0)
    for keyword in ("seed", "round_index", "step"):
        with pytest.raises(ValueError, match=f"^{keyword}:"):
            Distribution([1.0]).draw(1, **{"seed": 0, "round_index": 0, "step": 0, keyword: -1})
    with pytest.raises(ValueError, match=r"^size:"):
        Distribution([1.0]).draw(-1, seed=0, round_index=0, step=0)
    assert Distribution([1.0]).draw(0, seed=0, round_index=0, step=0).shape == (0,)


def test_effective_sample_size_is_between_1_and_n():
    assert effective_sample_size([0.25] * 4) == 4
    assert effective_sample_size([1.0, 0.0]) == 1
    assert effective_sample_size([]) == 0


@pytest.mark.parametrize("uniform", [0.0, 0.25, 0.5, 1 - 2**-53])
def test_zero_probability_is_never_drawn_even_on_a_boundary(monkeypatch, uniform):
    monkeypatch.setattr("trl_pper.replay.distribution._uniforms", lambda *_, **__: np.array([uniform]))
    probabilities = np.array([0.0, 0.25, 0.0, 0.25, 0.0, 0.5, 0.0])
    [index] = Distribution(probabilities).draw(1, seed=0, round_index=0, step=0)
    assert probabilities[index] > 0
