"""What a round of draws needs of a buffer, frozen: the probability of each position, ready to draw from.

Enters: probabilities. Leaves: positions. The buffer may change meanwhile; a distribution does not.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from trl_pper.priority import FloatArray, cumulative, draw_from


@dataclass(frozen=True, eq=False)
class Distribution:
    """Probabilities with their cumulative sum, so that a draw costs no pass over all of them.

    Args:
        probabilities: Probability of each position, shape [n], n at least 1, sum 1; kept as a read-only copy.

    Raises:
        ValueError: No probabilities, or they are negative or do not sum to 1.

    Examples:
        >>> distribution = Distribution(np.array([0.5, 0.0, 0.5]))
        >>> distribution.draw(6, seed=0, round_index=0, step=0)
        array([0, 0, 0, 2, 2, 0])
    """

    probabilities: FloatArray
    _cumulative: FloatArray = field(init=False, repr=False)

    def __post_init__(self) -> None:
        for name, values in (
            ("_cumulative", cumulative(self.probabilities)),
            ("probabilities", np.array(self.probabilities, dtype=np.float64)),
        ):
            values.setflags(write=False)
            object.__setattr__(self, name, values)

    def __len__(self) -> int:
        return self.probabilities.size

    def draw(self, size: int, *, seed: int, round_index: int, step: int) -> NDArray[np.int64]:
        """Draw positions, with replacement: what `trl_pper.priority.draw_indices` draws from the probabilities."""
        return draw_from(self._cumulative, size, seed=seed, round_index=round_index, step=step)
