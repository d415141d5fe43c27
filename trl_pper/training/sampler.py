"""Draw the experiences of each minibatch by P(i), the same on every process and after every restart.

The sampler has no state: a round is a function of (buffer, seed, round). Therefore the Trainer's own batch skipping
resumes a round, and any number of processes draw the same.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import Sampler

from trl_pper.replay.buffer import ReplayBuffer

Positions = NDArray[np.int64]
Lengths = NDArray[np.int64]


def draw_round(
    buffer: ReplayBuffer, round_index: int, *, draws_per_step: int, steps_per_round: int, seed: int
) -> Positions:
    """Draw the positions of all minibatches of a round, shape [steps_per_round, draws_per_step]."""
    distribution = buffer.distribution()
    return np.stack(
        [
            distribution.draw(draws_per_step, seed=seed, round_index=round_index, step=step)
            for step in range(steps_per_round)
        ]
    )


class PrioritizedSampler(Sampler[int]):
    """A sampler that yields buffer positions for a round of training (Eq. 7 and 8; Algorithm 1, replay phase).

    Within the global minibatch of an optimizer step, draws are sorted by their length in tokens.

    Args:
        buffer: The buffer, read at the start of each round; its probabilities stay fixed within the round.
        prepare: Function called at the start of a round with all of its positions; it prepares their rows and returns
            the length of each, in tokens.
        draws_per_step: Size of the global minibatch: per-device batch * processes * gradient accumulation.
        steps_per_round: Number of optimizer steps in a round.
        seed: Key of the counter-based generator.
        global_step: Function that returns the number of optimizer steps done so far, which determines the round.
        grouping_steps: Number of optimizer steps whose draws are sorted together. Above 1 they are cut into
            micro-batches, which are assigned to the steps at random: a step's minibatch is then no independent draw,
            but each of its positions still holds program i with probability P(i). The minibatches depend on
            `micro_batch_size`, but not on the number of processes and accumulation steps.
        micro_batch_size: Per-device batch, which divides `draws_per_step`; used if `grouping_steps` is above 1.
        begin_round: Function called with the round before it is drawn.
    """

    def __init__(
        self,
        buffer: ReplayBuffer,
        *,
        prepare: Callable[[Positions], Lengths],
        draws_per_step: int,
        steps_per_round: int,
        seed: int,
        global_step: Callable[[], int],
        grouping_steps: int = 1,
        micro_batch_size: int = 1,
        begin_round: Callable[[int], None] = lambda round_index: None,
    ) -> None:
        if draws_per_step % micro_batch_size:
            raise ValueError(
                f"micro_batch_size: must divide draws_per_step ({draws_per_step}); got {micro_batch_size}"
            )
        self.buffer = buffer
        self.draws_per_step = draws_per_step
        self.steps_per_round = steps_per_round
        self.seed = seed
        self.grouping_steps = grouping_steps
        self.micro_batch_size = micro_batch_size
        self._prepare = prepare
        self._begin_round = begin_round
        self._global_step = global_step

    def __len__(self) -> int:
        # Fixed, whatever the buffer holds: the Trainer computes `max_steps` before the buffer is first filled.
        return self.draws_per_step * self.steps_per_round

    def __iter__(self) -> Iterator[int]:
        # The Trainer resumes a round by skipping batches from its first batch on: always start at the round's step 0.
        round_index = self._global_step() // self.steps_per_round
        self._begin_round(round_index)
        drawn = draw_round(
            self.buffer,
            round_index,
            draws_per_step=self.draws_per_step,
            steps_per_round=self.steps_per_round,
            seed=self.seed,
        )
        lengths = self._prepare(drawn.ravel()).reshape(drawn.shape)
        for first in range(0, self.steps_per_round, self.grouping_steps):
            steps = slice(first, first + self.grouping_steps)
            # Sorted, rows of a micro-batch, and rows that processes compute at the same time, have similar lengths and
            # little padding. The gradient of a minibatch does not depend on the order of its rows, up to rounding.
            order = np.argsort(lengths[steps].ravel(), kind="stable")
            if self.grouping_steps > 1:
                order = self._deal(order, round_index, first)
            yield from drawn[steps].ravel()[order].tolist()

    def _deal(self, order: Positions, round_index: int, first_step: int) -> Positions:
        micro_batches = order.reshape(-1, self.micro_batch_size)
        # The key is that of the draws, but the last word of the counter is 1, which no draw reaches: the streams never
        # overlap.
        stream = np.random.Philox(
            key=np.array([self.seed, round_index], dtype=np.uint64),
            counter=np.array([0, first_step, 0, 1], dtype=np.uint64),
        )
        dealt = np.argsort(stream.random_raw(len(micro_batches)), kind="stable")
        # Processes compute neighbouring micro-batches of a step at the same time: their lengths should be similar.
        by_step = np.sort(dealt.reshape(-1, self.draws_per_step // self.micro_batch_size), axis=1)
        return np.asarray(micro_batches[by_step.ravel()].ravel(), dtype=np.int64)
