"""Draws of a round: as often as their probabilities say, from a distribution that no later change touches."""

import itertools
import math

import numpy as np
import pytest

from tests.support.naive_replay import make
from trl_pper.replay import priority as priorities
from trl_pper.replay.buffer import ReplayBuffer
from trl_pper.replay.distribution import Distribution
from trl_pper.replay.draw_rule import draw_probabilities

PROGRAMS = 30
DRAWS, STEPS = 256, 200


def hard_ones_first(p2values, *, pass_rate):
    """A user's own priority: programs that pass half of their tests, weighed by their P2Value."""
    return p2values * (1 - np.abs(2 * pass_rate - 1))


def naive_priorities(values, rates):
    ranks = [1 + sum(other > value for other in values) for value in values]
    ties = [sum(other == value for other in values) for value in values]
    return {
        "proportional": values,
        "rank": [sum(1 / (rank + k) for k in range(tied)) / tied for rank, tied in zip(ranks, ties, strict=True)],
        "uniform": [1.0] * len(values),
        "filter": [float(rate == 1.0) for rate in rates],
        # A single task.
        "best": [math.exp((value - max(values)) / 0.3) for value in values],
        "own": [value * (1 - abs(2 * rate - 1)) for value, rate in zip(values, rates, strict=True)],
    }


def buffer_with(priority):
    buffer = ReplayBuffer(priority=priority, priority_temperature=0.3, seed=5)
    buffer.add(
        make(number, pass_rate=number % 5 / 4, logprob=-(number % 7) / 3, num_tokens=2) for number in range(PROGRAMS)
    )
    return buffer


def drawn_by(buffer):
    return np.concatenate([buffer.draw(DRAWS, round_index=2, step=step) for step in range(STEPS)])


def chi_square(buffer, name, drawn):
    """Return the statistic of what was drawn against naive probabilities, and its degrees of freedom."""
    rates = [one.pass_rate for one in buffer]
    values = [0.5 * one.possibility() + 0.5 * one.pass_rate for one in buffer]
    weights = np.array(naive_priorities(values, rates)[name])
    expected = weights / weights.sum() * DRAWS * STEPS
    counts = np.bincount(drawn, minlength=PROGRAMS)
    assert counts[expected == 0].sum() == 0
    possible = expected > 0
    return float(((counts - expected)[possible] ** 2 / expected[possible]).sum()), int(possible.sum()) - 1


def critical_value(freedom, normal_quantile=3.719):
    """The chi-square value exceeded with probability 1e-4 (Wilson and Hilferty 1931)."""
    part = 2 / (9 * freedom)
    return freedom * (1 - part + normal_quantile * math.sqrt(part)) ** 3


EVERY_PRIORITY = [*((name, name) for name in priorities.PRIORITIES), ("own", hard_ones_first)]


@pytest.mark.parametrize(("name", "priority"), EVERY_PRIORITY)
def test_draws_are_as_frequent_as_their_probabilities(name, priority):
    buffer = buffer_with(priority)
    statistic, freedom = chi_square(buffer, name, drawn_by(buffer))
    assert statistic < critical_value(freedom)
    # Neither too good to be true: a sampler that deals out quotas would be.
    assert statistic > freedom - 4 * math.sqrt(2 * freedom)


@pytest.mark.parametrize(("name", "priority"), EVERY_PRIORITY)
def test_a_sampler_that_leans_to_one_side_would_be_found(name, priority):
    buffer = buffer_with(priority)
    uniforms = np.random.default_rng(5).random(DRAWS * STEPS)
    sampled = {
        lean: np.searchsorted(np.cumsum(buffer.probabilities()), uniforms**lean, side="right") for lean in (1, 1.06)
    }
    statistic, freedom = chi_square(buffer, name, sampled[1.06])
    assert statistic > critical_value(freedom)
    # It is the leaning that is found.
    assert chi_square(buffer, name, sampled[1])[0] < critical_value(freedom)


def test_a_sampler_of_another_exponent_would_be_found():
    buffer = buffer_with("proportional")
    buffer.priority_exponent = 1.1
    statistic, freedom = chi_square(buffer, "proportional", drawn_by(buffer))
    assert statistic > critical_value(freedom)


def test_the_critical_value_is_the_tabulated_one():
    assert critical_value(10, normal_quantile=1.645) == pytest.approx(18.307, rel=2e-3)
    assert critical_value(29, normal_quantile=3.090) == pytest.approx(58.30, rel=2e-3)


def naive_draw(probabilities, size: int, *, seed: int, round_index: int, step: int) -> list[int]:
    """Walk the probabilities for each draw, with uniforms made of the generator's bits as documented."""
    stream = np.random.Philox(
        key=np.array([seed, round_index], np.uint64), counter=np.array([0, step, 0, 0], np.uint64)
    )
    bounds = list(itertools.accumulate(probabilities.tolist()))
    drawn = []
    for bits in stream.random_raw(size).tolist():
        reached = (bits >> 11) / 2**53 * bounds[-1]
        drawn.append(next(index for index, bound in enumerate(bounds) if bound > reached))
    return drawn


def test_a_distribution_draws_what_its_naive_twin_draws():
    probabilities = draw_probabilities(np.random.default_rng(1).random(1000), exponent=3.0)
    distribution = Distribution(probabilities)
    assert len(distribution) == 1000
    for step in range(5):
        where = {"seed": 2**64 - 1, "round_index": 3, "step": step}
        assert distribution.draw(50, **where).tolist() == naive_draw(probabilities, 50, **where)


def test_a_distribution_keeps_a_copy():
    probabilities = np.array([0.5, 0.5])
    distribution = Distribution(probabilities)
    probabilities[:] = [1.0, 0.0]
    assert distribution.probabilities.tolist() == [0.5, 0.5]
    with pytest.raises(ValueError, match="read-only"):
        distribution.probabilities[0] = 1.0


def test_a_distribution_stays_what_it_is_when_the_buffer_changes():
    buffer = buffer_with("rank")
    distribution = buffer.distribution()
    assert buffer.distribution() is distribution
    drawn = distribution.draw(100, seed=5, round_index=0, step=0).tolist()
    assert drawn == buffer.draw(100, round_index=0, step=0).tolist()
    before = distribution.probabilities.tolist()
    buffer.add([make(99, pass_rate=1.0), make(0, pass_rate=1.0)])
    assert distribution.probabilities.tolist() == before
    assert distribution.draw(100, seed=5, round_index=0, step=0).tolist() == drawn
    assert len(buffer.distribution()) == PROGRAMS + 1


def test_a_distribution_follows_the_settings_of_the_buffer():
    buffer = buffer_with("proportional")
    before = buffer.distribution()
    buffer.priority_exponent = 5.0
    assert buffer.distribution().probabilities.tolist() != before.probabilities.tolist()


@pytest.mark.parametrize(
    ("arguments", "name"),
    [({"size": -1}, "size"), ({"seed": -1}, "seed"), ({"round_index": 2**64}, "round_index"), ({"step": -1}, "step")],
)
def test_a_draw_names_the_argument_that_is_wrong(arguments, name):
    with pytest.raises(ValueError, match=f"^{name}:"):
        Distribution(np.array([1.0])).draw(**{"size": 1, "seed": 0, "round_index": 0, "step": 0, **arguments})


@pytest.mark.parametrize("probabilities", [[], [0.5, 0.6], [1.5, -0.5], [math.nan]])
def test_what_is_no_distribution_is_refused(probabilities):
    with pytest.raises(ValueError, match=r"^probabilities:"):
        Distribution(np.array(probabilities))


def test_an_empty_buffer_has_no_distribution():
    with pytest.raises(ValueError, match=r"empty.*add\(\)"):
        ReplayBuffer().distribution()
