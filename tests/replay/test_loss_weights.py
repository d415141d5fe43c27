"""Weights of the loss: the importance correction of prioritised replay, P2Value, and their product."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trl_pper.replay.loss_weights import importance_weights, loss_weights

shares = st.lists(st.floats(1e-6, 1.0), min_size=1, max_size=20)


@given(shares, st.floats(0.0, 3.0))
def test_weights_are_those_of_the_equation(given_shares, exponent):
    probabilities = np.array(given_shares) / sum(given_shares)
    raw = (len(probabilities) * probabilities) ** -exponent
    weights = importance_weights(probabilities, exponent=exponent)
    np.testing.assert_allclose(weights, raw / raw.max(), rtol=1e-9)
    assert weights.max() == 1.0


@given(shares)
def test_exponent_one_undoes_the_draw(given_shares):
    probabilities = np.array(given_shares) / sum(given_shares)
    expected = probabilities * importance_weights(probabilities, exponent=1.0)
    np.testing.assert_allclose(expected, expected[0], rtol=1e-9)


def test_exponent_zero_weighs_all_that_can_be_drawn_alike():
    assert importance_weights([0.9, 0.1, 0.0], exponent=0.0).tolist() == [1.0, 1.0, 0.0]


def test_what_is_never_drawn_does_not_set_the_scale():
    assert importance_weights([0.0, 0.2, 0.8], exponent=1.0).tolist() == [0.0, 1.0, 0.25]
    assert importance_weights([0.0, 0.0], exponent=1.0).tolist() == [0.0, 0.0]


def test_equal_probabilities_and_a_single_program_weigh_one():
    assert importance_weights([0.25] * 4, exponent=0.7).tolist() == [1.0] * 4
    assert importance_weights([1.0], exponent=1.0).tolist() == [1.0]
    assert importance_weights([], exponent=1.0).tolist() == []


def test_tiny_probabilities_do_not_overflow():
    assert importance_weights([5e-324, 1.0], exponent=2.0).tolist() == [1.0, 0.0]


def test_factors_multiply():
    probabilities, p2values = [0.5, 0.25, 0.25], [1.0, 0.5, 0.0]
    assert loss_weights(probabilities, p2values).tolist() == [1.0, 1.0, 1.0]
    assert loss_weights(probabilities, p2values, weighting="p2value").tolist() == p2values
    both = loss_weights(probabilities, p2values, importance_exponent=1.0, weighting="p2value")
    assert both.tolist() == [0.5, 0.5, 0.0]


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({"importance_exponent": -0.1}, "exponent: must be finite and not negative; got -0.1"),
        ({"importance_exponent": float("nan")}, "exponent: .*; got nan"),
        ({"weighting": "pass_rate"}, "weighting: must be None or one of p2value; got 'pass_rate'"),
        ({"probabilities": [[0.5, 0.5]]}, "probabilities: must be one-dimensional"),
        ({"probabilities": [0.5, float("inf")]}, "probabilities: .*finite"),
        ({"weighting": "p2value", "p2values": [-1.0, 0.5]}, "p2values: .*not negative"),
        ({"weighting": "p2value", "p2values": [1.0]}, "p2values: must hold one value for each of 2 programs; got 1"),
    ],
)
def test_wrong_arguments_are_named(arguments, named):
    with pytest.raises(ValueError, match=named):
        loss_weights(**{"probabilities": [0.5, 0.5], "p2values": [1.0, 1.0], **arguments})
