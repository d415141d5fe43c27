"""The end of a completion at a text, while its tokens are generated: each prompt of a batch has stops of its own.

Enters: the ids of a batch after each step. Leaves: which rows have ended. It only saves steps: where exactly a
completion ends is decided on its whole text, afterwards.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from transformers import StoppingCriteria


class TaskStops(StoppingCriteria):  # type: ignore[misc]
    """End a row as soon as its last tokens hold one of its stops.

    Args:
        tokenizer: Decodes the ids.
        stops: For each prompt its stops. Rows are those of the first prompt, then those of the second, ..., the same
            number each, as `generate` lays out beams and samples.
        start: Where completions start, in tokens.
    """

    def __init__(self, tokenizer: Any, stops: Sequence[Sequence[str]], *, start: int) -> None:
        self.tokenizer = tokenizer
        self.stops = [tuple(each) for each in stops]
        self.start = start
        # Every token but the special ones holds a byte at least. The stop may begin and end inside a token.
        self.windows = [max((len(stop.encode()) for stop in each), default=0) for each in self.stops]

    def __call__(self, input_ids: torch.LongTensor, scores: Any, **kwargs: Any) -> torch.Tensor:
        """Return which rows have ended, bool, shape [rows]."""
        rows_each = len(input_ids) // len(self.stops)
        ended = [self._has_ended(row, index // rows_each) for index, row in enumerate(input_ids.tolist())]
        return torch.tensor(ended, dtype=torch.bool, device=input_ids.device)

    def _has_ended(self, row: list[int], prompt: int) -> bool:
        if not self.stops[prompt]:
            return False
        tail = row[max(self.start, len(row) - self.windows[prompt]) :]
        text = self.tokenizer.decode(tail, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        return any(stop in text for stop in self.stops[prompt])
