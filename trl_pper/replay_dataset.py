"""The replay buffer as the Trainer's data set: the tokens of each experience, by its position in the buffer.

Enters: a buffer and the trainer's own tokenisation (handed in, so that chat templates, end tokens, labels and
truncation stay TRL's). Leaves: `{"input_ids", "labels"}`. Tokens are made once per experience.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

import datasets
from torch.utils.data import Dataset

from trl_pper.experience import Experience
from trl_pper.replay import ReplayBuffer
from trl_pper.task import answer

Tokens = dict[str, list[int]]


class ReplayDataset(Dataset[Tokens]):
    """Tokenised experiences of a buffer.

    Args:
        buffer: Where the experiences live.
        tokenize: Turns a data set with the columns prompt, completion and position into one with input_ids, labels
            and position; rows it drops (nothing left to learn after truncation) cannot be drawn.
    """

    def __init__(self, buffer: ReplayBuffer, tokenize: Callable[[datasets.Dataset], datasets.Dataset]) -> None:
        self.buffer = buffer
        self._tokenize = tokenize
        self._tokens: dict[tuple[str, str], Tokens] = {}

    def __len__(self) -> int:
        return len(self.buffer)

    def __getitem__(self, position: int) -> Tokens:
        return self._tokens[_key(self.buffer[position])]

    def refresh(self) -> None:
        """Tokenise what the buffer holds and drop what it no longer holds; call after the buffer changed.

        Raises:
            ValueError: An experience keeps no token to learn from once cut to `max_length`.
        """
        held = {_key(experience): experience for experience in self.buffer}
        self._tokens = {key: tokens for key, tokens in self._tokens.items() if key in held}
        missing = [key for key in held if key not in self._tokens]
        if not missing:
            return
        rows = [
            {"prompt": one.prompt, "completion": answer(one.prompt, one.completion), "position": position}
            for position, one in enumerate(held[key] for key in missing)
        ]
        with _quiet_datasets():
            tokenized = self._tokenize(datasets.Dataset.from_list(rows))
        for row in tokenized:
            self._tokens[missing[row["position"]]] = {"input_ids": row["input_ids"], "labels": row["labels"]}
        lost = [key[0] for key in missing if key not in self._tokens]
        if lost:
            raise ValueError(
                f"max_length: leaves no completion token of {len(lost)} experiences, the first of task {lost[0]!r}; "
                "raise max_length or drop tasks with long prompts"
            )


def _key(experience: Experience) -> tuple[str, str]:
    return experience.task_id, experience.completion


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
