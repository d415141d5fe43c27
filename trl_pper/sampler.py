"""Which experiences each minibatch holds: draws by P(i) that are the same on every process and after every restart.

Enters: the buffer's draw probabilities and the optimizer step. Leaves: positions in the buffer. The sampler keeps no
state: a draw is a function of (seed, round, optimizer step), so stock batch skipping resumes it and any number of
processes share it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from torch.utils.data import Sampler

from trl_pper.priority import draw_indices
from trl_pper.replay import ReplayBuffer


class PrioritizedSampler(Sampler[int]):
    """Yield buffer positions for one round of training (Eq. 7-8; Algorithm 1, replay phase).

    Args:
        buffer: Read once at the start of each round; its probabilities stay fixed within the round.
        draws_per_step: Size of the global minibatch: per-device batch * processes * gradient accumulation.
        steps_per_round: Optimizer steps in a round; the length is static because the Trainer fixes `max_steps` before
            the buffer is first filled.
        seed: Key of the counter-based generator.
        global_step: Returns the optimizer steps done so far, from which the round follows.
    """

    def __init__(
        self,
        buffer: ReplayBuffer,
        *,
        draws_per_step: int,
        steps_per_round: int,
        seed: int,
        global_step: Callable[[], int],
    ) -> None:
        self.buffer = buffer
        self.draws_per_step = draws_per_step
        self.steps_per_round = steps_per_round
        self.seed = seed
        self._global_step = global_step

    def __len__(self) -> int:
        return self.draws_per_step * self.steps_per_round

    def __iter__(self) -> Iterator[int]:
        # The Trainer replays a resumed round from its first batch and skips, so a round always starts at step 0.
        round_index = self._global_step() // self.steps_per_round
        probabilities = self.buffer.probabilities()
        for step in range(self.steps_per_round):
            yield from draw_indices(
                probabilities, self.draws_per_step, seed=self.seed, round_index=round_index, step=step
            ).tolist()
