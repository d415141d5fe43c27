"""Convert a replay buffer to data sets for TRL's other trainers: SFT, preference (DPO) and KTO.

Prompts and completions are copied unchanged from the buffer. Truncated completions are left out: TRL's trainers put an
end token behind each completion, which would end these programs in the middle.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from trl_pper.replay.experience import Experience
from trl_pper.tasks.loading import _dataset
from trl_pper.tasks.task import answer

if TYPE_CHECKING:
    import datasets


def to_sft(buffer: Iterable[Experience], min_pass_rate: float = 1.0) -> datasets.Dataset:
    """Return the completions with a sufficient pass rate, as columns `prompt` and `completion`, repairs among them.

    Args:
        buffer: Experiences.
        min_pass_rate: Smallest pass rate to include, in [0, 1]; 1 includes only programs that pass every test.

    Raises:
        ValueError: `min_pass_rate` is out of range, or no program reaches it.
    """
    _check_bound(min_pass_rate)
    kept = [item for item in _whole(buffer) if item.pass_rate >= min_pass_rate]
    rows = [{"prompt": item.prompt, "completion": answer(item.prompt, item.completion)} for item in kept]
    return _dataset(rows, remedy=f"no whole program reaches a pass rate of {min_pass_rate}; lower min_pass_rate")


def to_preference(buffer: Iterable[Experience]) -> datasets.Dataset:
    """Return the best and the worst completion of each task, as columns `prompt`, `chosen` and `rejected`.

    Of equal pass rates the earliest stored counts. Tasks without two different pass rates are left out.

    Args:
        buffer: Experiences.

    Raises:
        ValueError: No task has programs of different pass rates.
    """
    by_task: dict[str, list[Experience]] = {}
    for item in _whole(buffer):
        by_task.setdefault(item.task_id, []).append(item)
    rows = []
    for items in by_task.values():
        # `max` and `min` return the first of equal items.
        best, worst = max(items, key=_pass_rate), min(items, key=_pass_rate)
        if best.pass_rate > worst.pass_rate:
            chosen, rejected = answer(best.prompt, best.completion), answer(best.prompt, worst.completion)
            rows.append({"prompt": best.prompt, "chosen": chosen, "rejected": rejected})
    return _dataset(rows, remedy="no task has two programs of different pass rates; collect more programs per task")


def to_kto(buffer: Iterable[Experience], min_pass_rate: float = 1.0) -> datasets.Dataset:
    """Return every completion with a label, as columns `prompt`, `completion` and `label`.

    Args:
        buffer: Experiences.
        min_pass_rate: Smallest pass rate of a completion with the label True (desirable), in [0, 1].

    Raises:
        ValueError: `min_pass_rate` is out of range, or the buffer is empty.
    """
    _check_bound(min_pass_rate)
    rows = [
        {
            "prompt": item.prompt,
            "completion": answer(item.prompt, item.completion),
            "label": item.pass_rate >= min_pass_rate,
        }
        for item in _whole(buffer)
    ]
    return _dataset(rows, remedy="the buffer holds no whole program; add judged programs first")


def _whole(buffer: Iterable[Experience]) -> list[Experience]:
    return [item for item in buffer if not item.truncated]


def _pass_rate(item: Experience) -> float:
    return item.pass_rate


def _check_bound(min_pass_rate: float) -> None:
    if not 0.0 <= min_pass_rate <= 1.0:
        raise ValueError(f"min_pass_rate: must be in [0, 1]; got {min_pass_rate!r}")
