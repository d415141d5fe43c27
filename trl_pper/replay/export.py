"""A replay buffer as the data sets of TRL's other trainers: SFT, preference (DPO) and KTO; tasks as native rows.

Enters: a buffer, or tasks. Leaves: a `datasets.Dataset`, or a file of tasks. Prompts and completions are the ones
stored, unchanged.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trl_pper.experience import Experience
from trl_pper.task import CodingTask, answer, task_rows

if TYPE_CHECKING:
    import datasets


def to_sft(buffer: Iterable[Experience], min_pass_rate: float = 1.0) -> datasets.Dataset:
    """Return the completions that pass enough, as `prompt` and `completion`.

    Args:
        buffer: Experiences.
        min_pass_rate: The least pass rate kept, in [0, 1]; 1 keeps what passes every test.

    Raises:
        ValueError: The bound is out of range, or nothing reaches it.
    """
    _check_bound(min_pass_rate)
    kept = [item for item in buffer if item.pass_rate >= min_pass_rate]
    rows = [{"prompt": item.prompt, "completion": answer(item.prompt, item.completion)} for item in kept]
    return _dataset(rows, remedy=f"no program reaches a pass rate of {min_pass_rate}; lower min_pass_rate")


def to_preference(buffer: Iterable[Experience]) -> datasets.Dataset:
    """Return for each task its best and worst completion, as `prompt`, `chosen` and `rejected`.

    Of equal pass rates the first stored counts; tasks whose programs all pass equally much are left out.

    Raises:
        ValueError: No task has programs of different pass rates.
    """
    by_task: dict[str, list[Experience]] = {}
    for item in buffer:
        by_task.setdefault(item.task_id, []).append(item)
    rows = []
    for items in by_task.values():
        best, worst = max(items, key=_pass_rate), min(items, key=_pass_rate)
        if best.pass_rate > worst.pass_rate:
            chosen, rejected = answer(best.prompt, best.completion), answer(best.prompt, worst.completion)
            rows.append({"prompt": best.prompt, "chosen": chosen, "rejected": rejected})
    return _dataset(rows, remedy="no task has two programs of different pass rates; collect more programs per task")


def to_kto(buffer: Iterable[Experience], min_pass_rate: float = 1.0) -> datasets.Dataset:
    """Return every completion with whether it is wanted, as `prompt`, `completion` and `label`.

    Args:
        buffer: Experiences.
        min_pass_rate: The least pass rate of a wanted completion, in [0, 1].

    Raises:
        ValueError: The bound is out of range, or the buffer is empty.
    """
    _check_bound(min_pass_rate)
    rows = [
        {
            "prompt": item.prompt,
            "completion": answer(item.prompt, item.completion),
            "label": item.pass_rate >= min_pass_rate,
        }
        for item in buffer
    ]
    return _dataset(rows, remedy="the buffer is empty; add judged programs first")


def write_tasks(path: str | Path, tasks: Sequence[CodingTask]) -> None:
    """Write tasks as native rows, which `load_tasks` reads back as equal tasks.

    Args:
        path: A file to write, .jsonl or .parquet; Parquet holds either text or chat prompts.
        tasks: At least one.

    Raises:
        ValueError: The file is of another kind, there is no task, or one compares by a function.
    """
    path = Path(path)
    if path.suffix == ".parquet":
        _dataset(task_rows(tasks), remedy="there is no task").to_parquet(str(path))
    elif path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(task.to_row()) + "\n" for task in tasks), encoding="utf-8")
    else:
        raise ValueError(f"{path}: must end in .jsonl or .parquet; got {path.suffix!r}")


def _pass_rate(item: Experience) -> float:
    return item.pass_rate


def _check_bound(min_pass_rate: float) -> None:
    if not 0.0 <= min_pass_rate <= 1.0:
        raise ValueError(f"min_pass_rate: must be in [0, 1]; got {min_pass_rate!r}")


def _dataset(rows: list[dict[str, Any]], *, remedy: str) -> datasets.Dataset:
    import datasets

    if not rows:
        raise ValueError(f"nothing to export: {remedy}")
    if len({isinstance(row["prompt"], list) for row in rows}) > 1:
        raise ValueError("prompt: a data set holds either text or chat prompts; got both. Export two buffers")
    return datasets.Dataset.from_list(rows)
