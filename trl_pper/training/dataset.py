"""Convert and check the data sets that users pass to the trainer, and present a buffer as the Trainer's data set.

Users pass tasks or judged programs, as lists or data sets. The Trainer reads the drawn experiences of the buffer as
rows of tokens, by their position in the buffer.
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

from trl_pper.generation.encoding import Encoder
from trl_pper.replay.buffer import ReplayBuffer
from trl_pper.replay.experience import Experience
from trl_pper.replay.priority import FloatArray
from trl_pper.tasks.task import CodingTask, Prompt, task_rows
from trl_pper.training.collator import ROW_KEY

Row = dict[str, Any]
Key = tuple[str, str]


@dataclass(frozen=True, kw_only=True)
class _Tokenized:
    """A row of tokens of an experience, with the text that was tokenised."""

    prompt: Prompt
    completion: str
    truncated: bool
    tokens: Row

    def is_of(self, experience: Experience) -> bool:
        # A later round may replace the completion of the same program, for instance by another explanation.
        return all(getattr(self, name) == getattr(experience, name) for name in ("prompt", "completion", "truncated"))


class ReplayDataset(Dataset[Row]):
    """A data set of the experiences of a buffer as rows of tokens; rows have to be prepared before they are read.

    A row is `{"input_ids", "labels"}`, with a `loss_weight` if experiences are weighted.

    Args:
        buffer: The buffer.
        encode: Function from an experience to the columns input_ids, completion_mask and perhaps assistant_masks.
        label: Function from a data set with these columns and position to a data set with input_ids, labels and
            position. It may drop rows without a token to learn after they are cut to `max_length`.
        weigh: Function from a buffer to the loss weight of each experience, shape [len(buffer)]; None for no weights.
    """

    def __init__(
        self,
        buffer: ReplayBuffer,
        *,
        encode: Callable[[Experience], Row],
        label: Callable[[datasets.Dataset], datasets.Dataset],
        weigh: Callable[[ReplayBuffer], FloatArray] | None = None,
    ) -> None:
        self.buffer = buffer
        self._encode = encode
        # TRL's own function, so that labels and the cut to `max_length` are the same as in SFTTrainer.
        self._label = label
        self._weigh = weigh
        self._tokenized: dict[Key, _Tokenized] = {}
        self._rows: dict[int, Row] = {}

    def __len__(self) -> int:
        return len(self.buffer)

    def __getitem__(self, position: int) -> Row:
        if position not in self._rows:
            # Not tokenised here: in `tokenize` the processes wait for each other, and the others would not come.
            raise LookupError(f"position: {position} was not prepared; call prepare([{position}]) on every process")
        return self._rows[position]

    def prepare(self, positions: Iterable[int]) -> NDArray[np.int64]:
        """Prepare the rows of positions, with tokens and weights of the buffer's present content, and drop other rows.

        Args:
            positions: Positions in the buffer, in any order; they may repeat.

        Returns:
            Number of tokens at each position, int64, in the order of `positions`.

        Raises:
            ValueError: An experience has no token to learn after it is cut to `max_length`.
        """
        asked = [int(position) for position in positions]
        # A program may be drawn many times in a round.
        once = list(dict.fromkeys(asked))
        held = dict(zip(once, self.buffer.take(once), strict=True))
        # Tokens are made when an experience is first drawn, and dropped when the buffer evicts it.
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
        rows = [{**self._encode(one), "position": position} for position, one in enumerate(missing)]
        with _quiet_datasets():
            tokenized = self._label(datasets.Dataset.from_list(rows))
        lost = dict(enumerate(missing))
        for row in tokenized:
            one = lost.pop(row["position"])
            tokens = {"input_ids": row["input_ids"], "labels": row["labels"]}
            self._tokenized[one.key] = _Tokenized(
                prompt=one.prompt, completion=one.completion, truncated=one.truncated, tokens=tokens
            )
        if lost:
            first = next(iter(lost.values())).task_id
            raise ValueError(
                f"max_length: cuts off the whole completion of {len(lost)} experiences, the first of task {first!r}; "
                "raise max_length or drop tasks with long prompts"
            )


@contextlib.contextmanager
def _quiet_datasets() -> Iterator[None]:
    # Each `map` shows a progress bar of its own, and a round calls it four times.
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
    """Convert a list of tasks to a data set of native rows; a data set is returned unchanged.

    Args:
        name: The argument's name, for errors.
        data: A list of `CodingTask`, or a data set.

    Raises:
        TypeError: `data` has another type.
        ValueError: The list is empty, or mixes text prompts and chat prompts.
    """
    if isinstance(data, datasets.Dataset):
        return data
    if not isinstance(data, Sequence) or not all(isinstance(task, CodingTask) for task in data):
        raise TypeError(
            f"{name}: must be a list of CodingTask or a datasets.Dataset, since every round reads all tasks; "
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
    """Convert lists of tasks in an evaluation set to data sets; other evaluation sets are returned unchanged.

    Args:
        data: An evaluation set, or a mapping from names to evaluation sets.

    Raises:
        TypeError: An element of a list is no task, or tasks are streamed.
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


def judged_experiences(rows: datasets.Dataset, encoder: Encoder) -> Iterator[Experience]:
    """Convert rows of judged programs to experiences; missing numbers of tokens are counted with the tokenizer."""
    for row in rows:
        # An experience needs the number with a log-probability: "mean" divides by it.
        if row.get("logprob") is not None and row.get("num_tokens") is None:
            written = encoder.pair(row["prompt"], row["completion"], ended=not row.get("truncated"))[1]
            row = {**row, "num_tokens": len(written)}
        yield Experience.from_row(row)
