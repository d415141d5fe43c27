"""What the demo's base model read: programs of the family by an author who slips in the same places again and again.

Enters: a seed. Leaves: an endless stream of prompts and bodies over the train compositions; the held-out ones never
occur in it.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from trl_pper.demo.family import compositions, draw_composition

#: Components whose slip is the more common form in the corpus; the others slip now and then.
PRONE = frozenset({"at_least", "at_most", "odd", "subtract", "remainder", "smallest", "positives"})
PRONE_SLIP_PROBABILITY = 0.6
OTHER_SLIP_PROBABILITY = 0.08


def corpus(seed: int) -> Iterator[tuple[str, str]]:
    """Yield prompts and bodies without end, from the train compositions, with slips."""
    rng = np.random.default_rng(seed)
    kinds = compositions("train")
    while True:
        chosen = kinds[rng.integers(len(kinds))]
        probabilities = [PRONE_SLIP_PROBABILITY if c.name in PRONE else OTHER_SLIP_PROBABILITY for c in chosen]
        first, second, third = (rng.random(3) < probabilities).tolist()
        asked = draw_composition(chosen, rng)
        yield asked.prompt, asked.completion((first, second, third))
