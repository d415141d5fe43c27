"""Compute the factor of each drawn program in the loss, from importance correction and P2Value weighting.

The factor multiplies the negative log-likelihood of the program. The paper (arXiv 2410.12236) does not weight the
loss; both options are off by default.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from trl_pper.replay.priority import FloatArray

LOSS_WEIGHTINGS = ("p2value",)


def importance_weights(probabilities: ArrayLike, *, exponent: float) -> FloatArray:
    """Return weights that correct for prioritised draws: section 3.4 of Schaul et al. 2016 (arXiv 1511.05952).

    `w_i = (N * P(i)) ** -beta / max_j w_j`, with the maximum over the programs that can be drawn, so that weights only
    scale down. At exponent 1 the expected gradient of single prioritised draws is that of uniform replay times a
    common factor.

    Args:
        probabilities: P(i), shape [n], finite, not negative.
        exponent: The paper's beta, finite, not negative; 0 for no correction, 1 for the full correction.

    Returns:
        Weights, float64, shape [n], in [0, 1]. A program with probability 0 is never drawn, and has weight 0.

    Raises:
        ValueError: An argument is out of range.

    Examples:
        >>> importance_weights([0.5, 0.25, 0.25, 0.0], exponent=1.0)
        array([0.5, 1. , 1. , 0. ])
    """
    if not (np.isfinite(exponent) and exponent >= 0):
        raise ValueError(f"exponent: must be finite and not negative; got {exponent!r}")
    values = _not_negative("probabilities", probabilities)
    drawable = values > 0
    weights = np.zeros_like(values)
    # The largest weight belongs to the smallest P(i). N cancels, and the remaining ratio cannot overflow.
    weights[drawable] = (values[drawable].min(initial=np.inf) / values[drawable]) ** exponent
    return weights


def loss_weights(
    probabilities: ArrayLike, p2values: ArrayLike, *, importance_exponent: float = 0.0, weighting: str | None = None
) -> FloatArray:
    """Return the product of the chosen factors of the loss.

    Args:
        probabilities: Probability to draw each program, shape [n].
        p2values: P2Value of each program (Eq. 6 of arXiv 2410.12236), shape [n].
        importance_exponent: Exponent of `importance_weights`; 0 for no correction.
        weighting: "p2value" to multiply by the P2Value, None for no weighting.

    Returns:
        Weights, float64, shape [n], in [0, 1].

    Raises:
        ValueError: An argument is out of range, or the shapes differ.

    Examples:
        >>> loss_weights([0.75, 0.25], [0.6, 0.2], importance_exponent=1.0, weighting="p2value").round(3)
        array([0.2, 0.2])
    """
    if weighting is not None and weighting not in LOSS_WEIGHTINGS:
        raise ValueError(f"weighting: must be None or one of {', '.join(LOSS_WEIGHTINGS)}; got {weighting!r}")
    weights = importance_weights(probabilities, exponent=importance_exponent)
    if weighting is None:
        return weights
    values = _not_negative("p2values", p2values)
    if values.shape != weights.shape:
        raise ValueError(f"p2values: must hold one value for each of {weights.size} programs; got {values.size}")
    return np.asarray(weights * values, dtype=np.float64)


def _not_negative(name: str, given: ArrayLike) -> FloatArray:
    values = np.asarray(given, dtype=np.float64)
    if values.ndim != 1 or not np.all(np.isfinite(values) & (values >= 0)):
        raise ValueError(f"{name}: must be one-dimensional, finite and not negative; got {values!r:.80}")
    return values
