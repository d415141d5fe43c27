"""The replay buffer as the Trainer's data set: the tokens of the experiences drawn, by their position in the buffer.

Enters: a buffer and the trainer's own tokenisation (handed in, so that chat templates, end tokens, labels and
truncation stay TRL's). Leaves: `{"input_ids", "labels"}`, with a `loss_weight` where one is asked for. Tokens are made
when an experience is first drawn, and kept as long as the buffer holds it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import datasets
import numpy as np
from numpy.typing import NDArray
from torch.utils.data import Dataset

from trl_pper.collator import ROW_KEY
from trl_pper.experience import Experience
from trl_pper.priority import FloatArray
from trl_pper.replay import ReplayBuffer
from trl_pper.task import Prompt, answer

Row = dict[str, Any]
Key = tuple[str, str]


@dataclass(frozen=True, kw_only=True)
class _Tokenized:
    """The tokens of an experience and the text they were made from."""

    prompt: Prompt
    completion: str
    tokens: Row

    def is_of(self, experience: Experience) -> bool:
        return self.prompt == experience.prompt and self.completion == experience.completion


class ReplayDataset(Dataset[Row]):
    """Tokenised experiences of a buffer, those prepared last.

    Args:
        buffer: Where the experiences live.
        tokenize: Turns a data set with the columns prompt, completion and position into one with input_ids, labels
            and position; rows it drops (nothing left to learn after truncation) cannot be drawn.
        weigh: Returns the loss weight of each experience of a buffer, shape [len(buffer)]; None for plain rows.
    """

    def __init__(
        self,
        buffer: ReplayBuffer,
        tokenize: Callable[[datasets.Dataset], datasets.Dataset],
        *,
        weigh: Callable[[ReplayBuffer], FloatArray] | None = None,
    ) -> None:
        self.buffer = buffer
        self._tokenize = tokenize
        self._weigh = weigh
        self._tokenized: dict[Key, _Tokenized] = {}
        self._rows: dict[int, Row] = {}

    def __len__(self) -> int:
        return len(self.buffer)

    def __getitem__(self, position: int) -> Row:
        if position not in self._rows:
            # Not made here: `tokenize` lets processes wait for each other, and only this one would come.
            raise LookupError(f"position: {position} was not prepared; call prepare([{position}]) on every process")
        return self._rows[position]

    def prepare(self, positions: Iterable[int]) -> NDArray[np.int64]:
        """Make rows of these positions, with tokens and weights of the buffer as it is now; others are forgotten.

        Args:
            positions: Positions in the buffer, in any order, repeated ones too.

        Returns:
            Number of tokens at each position, int64, in the order of `positions`.

        Raises:
            ValueError: An experience keeps no token to learn from once cut to `max_length`.
        """
        asked = [int(position) for position in positions]
        once = list(dict.fromkeys(asked))
        held = dict(zip(once, self.buffer.take(once), strict=True))
        self._tokenized = {key: made for key, made in self._tokenized.items() if key in self.buffer}
        self._tokenize_missing({one.key: one for one in held.values()})
        rows = {position: self._tokenized[one.key].tokens for position, one in held.items()}
        if self._weigh is not None:
            weights = self._weigh(self.buffer)
            rows = {position: {**tokens, ROW_KEY: float(weights[position])} for position, tokens in rows.items()}
        self._rows = rows
        return np.array([len(rows[position]["input_ids"]) for position in asked], dtype=np.int64)

    def _tokenize_missing(self, drawn: dict[Key, Experience]) -> None:
        missing = [
            one for key, one in drawn.items() if key not in self._tokenized or not self._tokenized[key].is_of(one)
        ]
        if not missing:
            return
        rows = [
            {"prompt": one.prompt, "completion": answer(one.prompt, one.completion), "position": position}
            for position, one in enumerate(missing)
        ]
        with _quiet_datasets():
            tokenized = self._tokenize(datasets.Dataset.from_list(rows))
        lost = dict(enumerate(missing))
        for row in tokenized:
            one = lost.pop(row["position"])
            tokens = {"input_ids": row["input_ids"], "labels": row["labels"]}
            self._tokenized[one.key] = _Tokenized(prompt=one.prompt, completion=one.completion, tokens=tokens)
        if lost:
            first = next(iter(lost.values())).task_id
            raise ValueError(
                f"max_length: leaves no completion token of {len(lost)} experiences, the first of task {first!r}; "
                "raise max_length or drop tasks with long prompts"
            )


@contextlib.contextmanager
def _quiet_datasets() -> Iterator[None]:
    # One progress bar per map, four maps a round: more noise than news.
    were_on = datasets.is_progress_bar_enabled()
    datasets.disable_progress_bars()
    try:
        yield
    finally:
        if were_on:
            datasets.enable_progress_bars()
