"""Which experiences each minibatch holds: draws by P(i) that are the same on every process and after every restart.

Enters: the buffer's draw probabilities, token lengths and the optimizer step. Leaves: positions in the buffer. The
sampler keeps no state: a round is a function of (buffer, seed, round), so stock batch skipping resumes it and any
number of processes share it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import Sampler

from trl_pper.replay.buffer import ReplayBuffer

Positions = NDArray[np.int64]
Lengths = NDArray[np.int64]


class PrioritizedSampler(Sampler[int]):
    """Yield buffer positions for one round of training (Eq. 7-8; Algorithm 1, replay phase).

    Within the global minibatch of an optimizer step, draws come in order of their token length, equal ones in the
    order drawn: rows of a micro-batch, and of those that processes compute side by side, are of similar length, and
    less is padded. The minibatch holds the same draws in any order, so its gradient is the same up to rounding.

    Args:
        buffer: Read once at the start of each round; its probabilities stay fixed within the round.
        prepare: Called with the positions of a whole round before the first is yielded; makes their rows ready and
            returns the length of each, in tokens.
        draws_per_step: Size of the global minibatch: per-device batch * processes * gradient accumulation.
        steps_per_round: Optimizer steps in a round; the length is static because the Trainer fixes `max_steps` before
            the buffer is first filled.
        seed: Key of the counter-based generator.
        global_step: Returns the optimizer steps done so far, from which the round follows.
        grouping_steps: How many optimizer steps' draws are put in order together. Above 1 they are cut into
            micro-batches, which are dealt to the steps at random: a step's minibatch is then no independent draw, but
            each of its places still holds program i with probability P(i). The minibatches depend on
            `micro_batch_size`, though not on how processes and accumulation share them.
        micro_batch_size: Per-device batch, which divides `draws_per_step`; read when `grouping_steps` is above 1.
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
        self._global_step = global_step

    def __len__(self) -> int:
        return self.draws_per_step * self.steps_per_round

    def __iter__(self) -> Iterator[int]:
        # The Trainer replays a resumed round from its first batch and skips, so a round always starts at step 0.
        round_index = self._global_step() // self.steps_per_round
        drawn = self._draw(round_index)
        lengths = self._prepare(drawn.ravel()).reshape(drawn.shape)
        for first in range(0, self.steps_per_round, self.grouping_steps):
            steps = slice(first, first + self.grouping_steps)
            order = np.argsort(lengths[steps].ravel(), kind="stable")
            if self.grouping_steps > 1:
                order = self._deal(order, round_index, first)
            yield from drawn[steps].ravel()[order].tolist()

    def _draw(self, round_index: int) -> Positions:
        distribution = self.buffer.distribution()
        return np.stack(
            [
                distribution.draw(self.draws_per_step, seed=self.seed, round_index=round_index, step=step)
                for step in range(self.steps_per_round)
            ]
        )

    def _deal(self, order: Positions, round_index: int, first_step: int) -> Positions:
        micro_batches = order.reshape(-1, self.micro_batch_size)
        # The key of the draws, but another last word of the counter, which no draw reaches: the streams never meet.
        stream = np.random.Philox(
            key=np.array([self.seed, round_index], dtype=np.uint64),
            counter=np.array([0, first_step, 0, 1], dtype=np.uint64),
        )
        dealt = np.argsort(stream.random_raw(len(micro_batches)), kind="stable")
        # Within its step each micro-batch stands beside those of similar length.
        by_step = np.sort(dealt.reshape(-1, self.draws_per_step // self.micro_batch_size), axis=1)
        return np.asarray(micro_batches[by_step.ravel()].ravel(), dtype=np.int64)
