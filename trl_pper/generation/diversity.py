"""Diversity of beams: a token that earlier groups chose in the same place costs something (arXiv 1610.02424).

Enters: what earlier groups found. Leaves: scores of the next step with the penalty taken off.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import torch
from transformers import LogitsProcessor


class EarlierGroups(LogitsProcessor):  # type: ignore[misc]
    """Take `penalty` off a token's score for each earlier completion of its prompt that has it in this place.

    Args:
        completions: For each prompt the token ids of the completions of earlier groups.
        start: Where completions start, in tokens.
        penalty: The strength of Hamming diversity (lambda of section 4 of the paper), in nats.
    """

    def __init__(self, completions: Sequence[Sequence[Sequence[int]]], *, start: int, penalty: float) -> None:
        self.completions = [[list(ids) for ids in found] for found in completions]
        self.start = start
        self.penalty = penalty

    def __call__(self, input_ids: torch.LongTensor, scores: torch.Tensor) -> torch.Tensor:
        """Return the scores, shape [rows, vocabulary], less the penalties; rows come prompt by prompt."""
        place = input_ids.shape[1] - self.start
        rows_each = len(input_ids) // len(self.completions)
        scores = scores.clone()
        for prompt, found in enumerate(self.completions):
            counts = Counter(ids[place] for ids in found if place < len(ids))
            rows = slice(prompt * rows_each, (prompt + 1) * rows_each)
            for token, count in counts.items():
                scores[rows, token] -= self.penalty * count
        return scores
