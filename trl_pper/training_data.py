"""What users hand the trainer: tasks or judged programs, as lists or data sets, brought into one shape and checked.

Enters: lists of `CodingTask`, data sets of native task rows, data sets of judged programs. Leaves: a
`datasets.Dataset` of one of the two kinds, its tasks, or its experiences.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import datasets

from trl_pper.experience import Experience
from trl_pper.generation.local_model import LocalModel
from trl_pper.task import CodingTask, task_rows

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
