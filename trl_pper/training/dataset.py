"""The replay buffer as the Trainer's data set: the tokens of the experiences drawn, by their position in the buffer.

Enters: a buffer and the trainer's own tokenisation (handed in, so that chat templates, end tokens, labels and
truncation stay TRL's). Leaves: `{"input_ids", "labels"}`, with a `loss_weight` where one is asked for. Tokens are made
when an experience is first drawn, and kept as long as the buffer holds it.

What users hand the trainer: tasks or judged programs, as lists or data sets, brought into one shape and checked.

Enters: lists of `CodingTask`, data sets of native task rows, data sets of judged programs. Leaves: a
`datasets.Dataset` of one of the two kinds, its tasks, or its experiences.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import datasets
import numpy as np
from numpy.typing import NDArray
from torch.utils.data import Dataset

from trl_pper.generation.local_model import LocalModel
from trl_pper.replay.buffer import ReplayBuffer
from trl_pper.replay.experience import Experience
from trl_pper.replay.priority import FloatArray
from trl_pper.tasks.task import CodingTask, Prompt, answer, task_rows
from trl_pper.training.collator import ROW_KEY

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


TASK_COLUMNS = {"task_id", "prompt", "tests"}
JUDGED_COLUMNS = {"prompt", "completion", "pass_rate"}


def as_dataset(name: str, data: Any) -> datasets.Dataset:
    """Return tasks as a data set of native rows; a data set passes through.

    Args:
        name: The argument's name, for errors.
        data: A list of `CodingTask`, or a data set.

    Raises:
        TypeError: It is neither.
        ValueError: The list is empty, or mixes text prompts and chat prompts.
    """
    if isinstance(data, datasets.Dataset):
        return data
    if not isinstance(data, Sequence) or not all(isinstance(task, CodingTask) for task in data):
        raise TypeError(
            f"{name}: must be a list of CodingTask or a datasets.Dataset, since every round goes through all of it; "
            f"got {type(data).__name__}. Load a streamed data set without streaming=True"
        )
    if not data:
        raise ValueError(f"{name}: must hold at least one task; got none")
    if len({isinstance(task.prompt, str) for task in data}) > 1:
        raise ValueError(
            f"{name}: prompts must be all text or all chat messages, as in any TRL data set; got both. Write text as "
            '[{"role": "user", "content": text}]'
        )
    return datasets.Dataset.from_list(task_rows(data))


def as_eval_dataset(data: Any) -> Any:
    """Return an evaluation set, or a mapping of named ones, with lists of tasks as data sets; else as it is.

    Raises:
        TypeError: A list holds something other than tasks, or tasks are streamed.
        ValueError: Rows have a task id but no tests.
    """
    if isinstance(data, dict):
        return {name: as_eval_dataset(part) for name, part in data.items()}
    if isinstance(data, list | tuple):
        return as_dataset("eval_dataset", data)
    columns = set(getattr(data, "column_names", None) or [])
    if columns >= TASK_COLUMNS:
        return as_dataset("eval_dataset", data)
    if columns >= TASK_COLUMNS - {"tests"} and "completion" not in columns:
        raise ValueError(
            f"eval_dataset: tasks need the columns {sorted(TASK_COLUMNS)} to be judged; got {sorted(columns)}. Add "
            "the tests (see load_tasks), or a completion to compute a loss on"
        )
    return data


def holds_tasks(data: Any) -> bool:
    """Return whether `data` is a data set of tasks."""
    return isinstance(data, datasets.Dataset) and set(data.column_names) >= TASK_COLUMNS


def check_train_columns(train: datasets.Dataset) -> None:
    """Raise ValueError unless a data set holds tasks or judged programs."""
    if not holds_tasks(train) and not set(train.column_names) >= JUDGED_COLUMNS:
        raise ValueError(
            f"train_dataset: needs the columns {sorted(TASK_COLUMNS)} (tasks) or {sorted(JUDGED_COLUMNS)} and logprob "
            f"(judged programs); got {sorted(train.column_names)}"
        )


def judged_experiences(rows: datasets.Dataset, processing_class: Any) -> Iterator[Experience]:
    """Yield the experiences of judged programs; the tokens of a log-probability are counted where the row has none."""
    local = LocalModel(model=None, processing_class=processing_class)
    for row in rows:
        if row.get("logprob") is not None and row.get("num_tokens") is None:
            row = {**row, "num_tokens": len(local.encode_completion(row["prompt"], row["completion"])[1])}
        yield Experience.from_row(row)
