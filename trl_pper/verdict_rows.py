"""A file of verdicts: one JSON row per judged program, in the order of the tasks, whatever order they come in.

Enters: the judged programs of one task at a time, in each of several processes. Leaves: one file, written by the main
process. Nothing is kept in memory but where each task stands in the parts that the processes write beside it.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from accelerate import PartialState
from accelerate.utils import gather_object

from trl_pper.atomic_file import atomic_file
from trl_pper.judged import JudgedProgram
from trl_pper.processes import meet


class VerdictRows:
    """Rows `{"task_id", "index", "completion", "program", "extracted"}` and what `Verdict.to_row` says.

    Args:
        path: The file; it appears whole, or not at all, and replaces one that is there.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._process_index = PartialState().process_index
        self._file = self._part(self._process_index).open("wb")
        self._places: dict[int, tuple[int, int]] = {}

    def __enter__(self) -> VerdictRows:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()
        self._part(self._process_index).unlink(missing_ok=True)

    def write(self, position: int, programs: Sequence[JudgedProgram]) -> None:
        """Write the programs of the task at `position`."""
        start = self._file.tell()
        for index, one in enumerate(programs):
            self._file.write(json.dumps(_row(index, one)).encode() + b"\n")
        self._places[position] = (start, self._file.tell())

    def finish(self) -> None:
        """Have the main process put the rows of all processes in order; all of them have to call this.

        Raises:
            FileNotFoundError: A process writes to a disk that the main process does not see.
        """
        self._file.flush()
        own = [(position, self._process_index, *place) for position, place in self._places.items()]
        places = sorted(gather_object(own))
        failure: Exception | None = None
        if PartialState().is_main_process:
            try:
                self._join(places)
            except OSError as error:
                failure = error
        meet("writing the verdicts", failure=failure)

    def _join(self, places: Sequence[tuple[int, int, int, int]]) -> None:
        parts = {index: self._part(index).open("rb") for index in {index for _, index, _, _ in places}}
        try:
            with atomic_file(self.path) as whole:
                for _, index, start, end in places:
                    parts[index].seek(start)
                    whole.write(parts[index].read(end - start))
        finally:
            for part in parts.values():
                part.close()

    def _part(self, process_index: int) -> Path:
        return self.path.with_name(f".{self.path.name}.{process_index:05d}.part")


def _row(index: int, one: JudgedProgram) -> dict[str, Any]:
    return {
        "task_id": one.task.task_id,
        "index": index,
        "completion": one.generated.completion,
        "program": one.program,
        "extracted": one.extracted,
        **one.verdict.to_row(),
    }
