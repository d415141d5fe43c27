"""One process of the replay buffer's benchmark: rebuilds priorities after a round and draws minibatches of 256.

    echo '{"contender": "trl_pper rank", "size": 10000, "steps": 9, "added": 1000}' | python benchmarks/replay_draws.py

Enters, as JSON on standard input: who draws, from how many programs, how many draws a round has and how many programs
a round of collection adds. Leaves, as JSON on standard output: the median cost of a draw, of a rebuild and of a whole
round. cpprb keeps a tree of sums, so that a rebuild is the insertion of what was added; it knows no ranks, and it
returns the one stored column and weights with each draw. Ours computes all probabilities and their sums anew.
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any, Protocol

import numpy as np

DRAWS = 256


class Contender(Protocol):
    """What is measured."""

    def rebuild(self, first: int, p2values: np.ndarray) -> None:
        """Take over that the programs from `first` on have new P2Values, or that they are new."""

    def draw(self, step: int) -> np.ndarray:
        """Draw 256 positions."""


class Ours:
    """Probabilities by the pure functions, draws by `Distribution`, as `ReplayBuffer` does."""

    def __init__(self, priority: str, p2values: np.ndarray) -> None:
        from trl_pper.replay.distribution import Distribution
        from trl_pper.replay.draw_rule import draw_probabilities

        self._build = lambda values: Distribution(draw_probabilities(values, priority=priority))
        self._p2values = p2values.copy()
        self._distribution = self._build(p2values)

    def rebuild(self, first: int, p2values: np.ndarray) -> None:
        """Compute all probabilities and their cumulative sum."""
        self._p2values[first:] = p2values
        self._distribution = self._build(self._p2values)

    def draw(self, step: int) -> np.ndarray:
        """Draw 256 positions."""
        return self._distribution.draw(DRAWS, seed=0, round_index=0, step=step)


class Peer:
    """cpprb's prioritised buffer with one integer column; its priorities are the P2Values."""

    def __init__(self, p2values: np.ndarray) -> None:
        from cpprb import PrioritizedReplayBuffer

        size = len(p2values)
        self._buffer = PrioritizedReplayBuffer(size, {"index": {"dtype": np.int64}}, alpha=1.0, eps=0.0)
        self._buffer.add(index=np.arange(size), priorities=p2values)

    def rebuild(self, first: int, p2values: np.ndarray) -> None:
        """Insert what was added."""
        indexes = np.arange(first, first + len(p2values))
        # The buffer is full, and goes on where it ended: at its front.
        self._buffer.add(index=indexes, priorities=p2values)

    def draw(self, step: int) -> np.ndarray:
        """Draw 256 positions; the step plays no role, as the peer has a generator with a state."""
        return np.asarray(self._buffer.sample(DRAWS, beta=0.0)["indexes"])


def check(contender: Contender, p2values: np.ndarray) -> None:
    """Raise unless a contender draws positions, and those of high P2Value more often."""
    drawn = np.concatenate([contender.draw(step) for step in range(20)])
    if not (drawn.min() >= 0 and drawn.max() < len(p2values)):
        raise RuntimeError("drew a position that there is not")
    # P2Values that are spread evenly have a mean of 2/3 when drawn in proportion, and of 1/2 otherwise.
    if not p2values[drawn].mean() > 1.2 * p2values.mean():
        raise RuntimeError("high P2Values are drawn no more often than others")


def measure(request: dict[str, Any]) -> dict[str, float]:
    """Return the median costs of a draw, of a rebuild and of a whole round."""
    generator = np.random.default_rng(0)
    size, steps, added = request["size"], request["steps"], min(request["added"], request["size"])
    p2values = generator.random(size)
    name, priority = request["contender"].split()
    contender: Contender = Ours(priority, p2values) if name == "trl_pper" else Peer(p2values)
    check(contender, p2values)
    draws, rebuilds = [], []
    for _ in range(5):
        new = generator.random(added)
        rebuilds.append(timed(lambda new=new: contender.rebuild(size - added, new)))
        draws += [timed(lambda step=step: contender.draw(step)) for step in range(steps)]
    draw, rebuild = statistics.median(draws), statistics.median(rebuilds)
    return {
        "draw_microseconds": 1e6 * draw,
        "rebuild_milliseconds": 1e3 * rebuild,
        "round_milliseconds": 1e3 * (rebuild + steps * draw),
    }


def timed(action: Callable[[], object]) -> float:
    """Return the seconds an action takes."""
    start = time.perf_counter()
    action()
    return time.perf_counter() - start


if __name__ == "__main__":
    print(json.dumps(measure(json.load(sys.stdin))))
