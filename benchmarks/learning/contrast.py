"""Adds a contrast of passing and failing programs to the loss, at the token where they part, as a trial of the bench.

It is no option of the trainer: see docs/learning.md for what it gives.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn.functional import sigmoid

from trl_pper import PPERTrainer, ReplayBuffer

#: Pairs in each optimizer step, for which the model runs once more.
PAIRS = 6


@dataclass(frozen=True)
class Pair:
    """The tokens that a passing and a failing program of a task share, and those behind them."""

    shared: tuple[int, ...]
    passing: int
    failing: int


def pairs_of(buffer: ReplayBuffer, tokenizer: Any) -> list[Pair]:
    """Return the pairs of each task's first passing program, and the programs of the task that fail."""
    tasks: dict[str, list[Any]] = defaultdict(list)
    for experience in buffer:
        tasks[experience.task_id].append(experience)
    found = []
    for programs in tasks.values():
        passing = next((one for one in programs if one.pass_rate == 1), None)
        for failing in (one for one in programs if one.pass_rate < 1 and passing is not None):
            prompt = tokenizer(failing.prompt)["input_ids"]
            right = prompt + tokenizer(passing.completion)["input_ids"]
            wrong = prompt + tokenizer(failing.completion)["input_ids"]
            parting = next((at for at, (a, b) in enumerate(zip(right, wrong, strict=False)) if a != b), None)
            # One may be the beginning of the other.
            if parting is not None:
                found.append(Pair(tuple(right[:parting]), right[parting], wrong[parting]))
    return found


class ContrastTrainer(PPERTrainer):
    """A `PPERTrainer` with `weight * mean(sigmoid(z_failing - z_passing))` added to its loss.

    z are the logits of the two tokens at which a pair parts. Unlike a logistic loss it has a bound, and pairs that
    are far apart in either direction have next to no gradient.

    Args:
        weight: The weight of the contrast; the loss of the drawn programs has weight 1.
        *args: See `PPERTrainer`.
        **kwargs: See `PPERTrainer`.
    """

    def __init__(self, *args: Any, weight: float, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.weight = weight
        self._pairs: list[Pair] = []
        self._size = -1

    def compute_loss(self, model: Any, inputs: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
        """Compute the loss, and add the contrast of some pairs of the buffer."""
        loss = super().compute_loss(model, inputs, *args, **kwargs)
        if not model.training:
            return loss
        if self._size != len(self.buffer):
            self._size, self._pairs = len(self.buffer), pairs_of(self.buffer, self.processing_class)
        if not self._pairs:
            return loss
        generator = torch.Generator().manual_seed(self.args.seed + self.state.global_step)
        chosen = [self._pairs[at] for at in torch.randint(len(self._pairs), (PAIRS,), generator=generator)]
        longest = max(len(one.shared) for one in chosen)
        ids = torch.zeros(PAIRS, longest, dtype=torch.long)
        for row, one in enumerate(chosen):
            ids[row, : len(one.shared)] = torch.tensor(one.shared)
        # Tokens behind the shared ones are padding, which causal attention does not see.
        logits = model(input_ids=ids).logits[torch.arange(PAIRS), [len(one.shared) - 1 for one in chosen]]
        rows = torch.arange(PAIRS)
        margin = logits[rows, [one.failing for one in chosen]] - logits[rows, [one.passing for one in chosen]]
        return loss + self.weight * sigmoid(margin).mean()
