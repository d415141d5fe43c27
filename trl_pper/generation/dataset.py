"""A teacher's programs from a data set: completions written earlier, with or without log-probabilities (paper, C1).

Enters: rows that name a task and hold its completion. Leaves: the programs of each task. Rows without a
log-probability keep None; the collector scores those under the model in training. Completions stay as they were
written, whatever their task has for stops: they may answer it as a chat does, and their log-probability is of all.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trl_pper.formats import match_task_id, read_rows
from trl_pper.generation.source import GeneratedProgram
from trl_pper.task import CodingTask

if TYPE_CHECKING:
    from trl_pper.generation.local_model import LocalModel


class DatasetSource:
    """Programs from rows `{"task_id", "completion" or "program" or "completions", "logprob"?, "num_tokens"?}`.

    Args:
        rows: A path (.jsonl, .jsonl.gz, .json, .parquet), a `datasets.Dataset`, or an iterable of mappings. A row may
            hold a list of strings under "completions", all for the same task.
        name: What the record says of who wrote the programs.

    Raises:
        ValueError: A row has no task id or no completion; the message names the row and the field.

    Examples:
        >>> source = DatasetSource([{"task_id": "double", "completion": "    return 2 * x"}], name="teacher")
        >>> len(source)
        1
    """

    uses_student = False

    def __init__(self, rows: str | Path | Iterable[Mapping[str, Any]], *, name: str | None = None) -> None:
        origin = str(rows) if isinstance(rows, str | Path) else "rows"
        self.name = name or (Path(origin).name if isinstance(rows, str | Path) else "dataset")
        numbered = read_rows(rows) if isinstance(rows, str | Path) else enumerate(rows, start=1)
        self._programs: dict[str, list[GeneratedProgram]] = {}
        for number, row in numbered:
            for program in self._parse(row, f"{origin}:{number}"):
                self._programs.setdefault(str(row["task_id"]), []).append(program)

    def __len__(self) -> int:
        return sum(map(len, self._programs.values()))

    def _parse(self, row: Mapping[str, Any], where: str) -> list[GeneratedProgram]:
        if row.get("task_id") is None:
            raise ValueError(f"{where}: task_id: required; the row has {sorted(row)}")
        texts = row.get("completions")
        if texts is None:
            text = row.get("completion", row.get("program"))
            texts = None if text is None else [text]
        if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
            raise ValueError(f"{where}: completion: a string is required (or a list under completions); got {texts!r}")
        logprob, num_tokens = row.get("logprob"), row.get("num_tokens")
        if logprob is not None and (len(texts) != 1 or num_tokens is None):
            raise ValueError(f"{where}: logprob: needs num_tokens beside it, and one completion a row")
        return [
            GeneratedProgram(completion=text, logprob=logprob, num_tokens=num_tokens, source=self.name)
            for text in texts
        ]

    def identity(self, *, student: LocalModel | None = None) -> dict[str, Any]:
        """Return all that decides what this source writes: the programs themselves, as a digest."""
        sha = hashlib.sha256()
        for task_id, programs in self._programs.items():
            rows = [(one.completion, one.logprob, one.num_tokens, one.source) for one in programs]
            sha.update(json.dumps([task_id, rows]).encode() + b"\n")
        return {"source": type(self).__name__, "programs": sha.hexdigest()}

    def generate(
        self, tasks: Sequence[CodingTask], *, student: LocalModel | None = None
    ) -> Iterator[list[GeneratedProgram]]:
        """Yield the stored programs of each task; a task nobody wrote a program for gets an empty list."""
        ids = [task.task_id for task in tasks]
        by_task: dict[str, list[GeneratedProgram]] = {}
        for raw, programs in self._programs.items():
            task_id = match_task_id(raw, ids)
            if task_id is not None:
                by_task.setdefault(task_id, []).extend(programs)
        for task_id in ids:
            yield by_task.get(task_id, [])
