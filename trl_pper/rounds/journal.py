"""Write judged programs to a journal on disk as soon as they are judged, and read them after a restart.

A journal is a folder of shards. An unfinished shard is an Arrow stream with a program in each batch, synced after each
task; a finished shard is a Parquet file. Each process writes its own shards, so that no locks are needed. A crash
loses at most the program that was being written. Programs without a verdict are in the journal, too.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import logging
import os
import shutil
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from trl_pper.files import atomic_file, sync_folder
from trl_pper.generation.extraction import extract
from trl_pper.generation.source import GeneratedProgram
from trl_pper.judge.limits import Limits
from trl_pper.judge.verdict import Outcome, Verdict
from trl_pper.replay.experience import COLUMNS as EXPERIENCE_COLUMNS
from trl_pper.replay.experience import arrow_types
from trl_pper.tasks.task import CodingTask, StdioTests, tests_to_json

if TYPE_CHECKING:
    import pyarrow as pa


logger = logging.getLogger(__name__)

#: Columns of a row, in order, and their Arrow types: the task (its prompt as JSON), the index of the program among the
#: task's programs, the program and its verdict.
COLUMNS = {
    "task": "string",
    "task_id": "string",
    "prompt": "string",
    "place": "int64",
    "programs": "int64",
    "judged_by": "string",
    "completion": "string",
    "program": "string",
    "outcomes": "list<string>",
    "message": "string",
    **{name: EXPERIENCE_COLUMNS[name] for name in ("cpu_seconds", "logprob", "num_tokens")},
    **{name: EXPERIENCE_COLUMNS[name] for name in ("source", "scorer", "settings")},
    "extracted": "bool",
    "run": "string",
}
_CHECKSUM = b"crc32"
_ROWS_AT_ONCE = 1024


@dataclass(frozen=True, kw_only=True)
class JudgedProgram:
    """A generated completion with the program extracted from it and its verdict.

    Args:
        task: The task.
        generated: The completion and its log-probability.
        program: The program extracted from the completion, without the preamble of its task.
        verdict: The verdict of the judge.
        extracted: Whether a program was found in the completion; see `trl_pper.generation.extraction.extract`.
    """

    task: CodingTask
    generated: GeneratedProgram
    program: str
    verdict: Verdict
    extracted: bool = True


def task_identity(task: CodingTask) -> str:
    """Return a digest of everything in a task that decides its completions: task id, prompt and stops."""
    # The tests are left out: a program can be judged by other tests without generating it again. Empty stops are left
    # out so that journals written without this field are still found; the same holds for the preamble below.
    return digest([task.task_id, task.prompt, *([list(task.stop)] if task.stop else [])])


def judging_identity(task: CodingTask, limits: Limits) -> str | None:
    """Return a digest of everything that decides verdicts on a task: tests, limits and preamble.

    Returns:
        The digest; None for tests with a comparison function.
    """
    # Nothing tells whether a function is the same as before the restart.
    if isinstance(task.tests, StdioTests) and callable(task.tests.compare):
        return None
    preamble = [] if task.preamble is None else [task.preamble]
    return digest([tests_to_json(task.tests), limits.for_task(task).to_dict(), *preamble])


def digest(plain: Any) -> str:
    """Return a digest (32 hexadecimal digits) of a value that consists of plain types."""
    return hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()[:32]


@dataclass(frozen=True, kw_only=True)
class JournalEntry:
    """The programs of a task that were read from a journal.

    Args:
        programs: All programs of the task, in the order in which they were generated.
        judged_by: For each program the `judging_identity` of its verdict.
    """

    programs: tuple[JudgedProgram, ...]
    judged_by: tuple[str | None, ...]


class Journal:
    """A journal of a collection.

    Args:
        folder: Folder of the shards; created when the first program is written.
        process_index: Index of this process; part of the names of its shards.

    Examples:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder, Journal(folder) as journal:
        ...     journal.read([])
        {}
    """

    def __init__(self, folder: str | Path, *, process_index: int = 0) -> None:
        self.folder = Path(folder)
        self.process_index = process_index
        self._stream: _Stream | None = None

    def __enter__(self) -> Journal:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def read(self, tasks: Sequence[CodingTask]) -> dict[int, JournalEntry]:
        """Return the entries of `tasks`, by the position of the task; see `entries`."""
        return dict(self.entries(tasks))

    def entries(self, tasks: Sequence[CodingTask]) -> Iterator[tuple[int, JournalEntry]]:
        """Yield the entries of `tasks` with the position of the task, in the order in which they were written.

        A task with a missing program is left out. An incomplete shard is read as far as possible, with a warning.
        """
        # Journals can be larger than memory: a first pass finds the last row of each task, so that the second pass can
        # yield the task there and forget its rows.
        positions: dict[str, list[int]] = {}
        for position, task in enumerate(tasks):
            positions.setdefault(task_identity(task), []).append(position)
        # Listed once: other processes may add shards between the two passes.
        shards = _shards(self.folder)
        last = {row["task"]: place for place, row in _rows(shards) if row["task"] in positions}
        rows: dict[str, dict[int, dict[str, Any]]] = {}
        for place, row in _rows(shards, warn=False):
            name = row["task"]
            if name not in last:
                continue
            # A program that is judged again is appended again: the later row counts.
            rows.setdefault(name, {})[row["place"]] = row
            if place == last[name]:
                found = rows.pop(name)
                if len(found) == max(one["programs"] for one in found.values()):
                    for position in positions[name]:
                        yield position, _entry(tasks[position], found)

    def append(self, task: CodingTask, programs: Sequence[JudgedProgram], *, judged_by: str | None) -> None:
        """Write the programs of a task; they are on disk when this method returns.

        Args:
            task: The task.
            programs: All programs of the task, in the order in which they were generated.
            judged_by: The `judging_identity` of the verdicts.
        """
        if not programs:
            return
        if self._stream is None:
            self._stream = _Stream(self._new_shard())
        shared = {
            "task": task_identity(task),
            "task_id": task.task_id,
            "prompt": json.dumps(task.prompt),
            "programs": len(programs),
            "judged_by": judged_by,
        }
        self._stream.write([{**shared, "place": place, **_row(one)} for place, one in enumerate(programs)])

    def close(self) -> None:
        """Convert the shard that is being written to a Parquet file."""
        if self._stream is not None:
            self._stream.finish()
            self._stream = None

    def _new_shard(self) -> Path:
        self.folder.mkdir(parents=True, exist_ok=True)
        # Numbered after all existing shards, so that the order of names is the order of writing.
        numbers = [int(path.name.split("-")[0]) for path in _shards(self.folder)]
        return self.folder / f"{max(numbers, default=-1) + 1:06d}-{self.process_index:05d}.arrows"


class _Stream:
    """A shard that is being written."""

    def __init__(self, path: Path) -> None:
        import pyarrow as pa

        self.path = path
        self.schema = _schema()
        self._file = path.open("xb")
        # After a crash the file must exist in its folder, too.
        sync_folder(path.parent)
        self._writer = pa.ipc.new_stream(self._file, self.schema)

    def write(self, rows: Sequence[dict[str, Any]]) -> None:
        """Append rows, each in a batch of its own, and sync."""
        import pyarrow as pa

        batch = pa.RecordBatch.from_pylist(list(rows), schema=self.schema)
        # A batch for each program, with a checksum: a crash then damages the last program only, and detectably.
        for index, row in enumerate(batch.to_pylist()):
            self._writer.write_batch(batch.slice(index, 1), custom_metadata={_CHECKSUM: _checksum(row)})
        self._file.flush()
        os.fsync(self._file.fileno())

    def finish(self) -> None:
        """Replace the stream by a Parquet file."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        self._writer.close()
        self._file.close()
        rows = _stream_rows(self.path)
        with (
            atomic_file(self.path.with_suffix(".parquet")) as file,
            pq.ParquetWriter(file, self.schema, compression="zstd") as writer,
        ):
            # Group by group: an evaluation's shard may not fit in memory.
            while group := list(itertools.islice(rows, _ROWS_AT_ONCE)):
                writer.write_table(pa.Table.from_pylist(group, schema=self.schema))
        self.path.unlink()


def _shards(folder: Path) -> list[Path]:
    if not folder.is_dir():
        return []
    # Names with a dot are files that `atomic_file` has not finished.
    return sorted(path for path in folder.iterdir() if path.suffix in (".arrows", ".parquet") and path.name[0] != ".")


def _rows(shards: Sequence[Path], *, warn: bool = True) -> Iterator[tuple[tuple[Path, int], dict[str, Any]]]:
    """Yield every row with its location, the shard and the number of the row."""
    for path in shards:
        rows = _parquet_rows(path) if path.suffix == ".parquet" else _stream_rows(path, warn=warn)
        for number, row in enumerate(rows):
            yield (path, number), row


def _parquet_rows(path: Path) -> Iterator[dict[str, Any]]:
    import pyarrow.parquet as pq

    with pq.ParquetFile(path) as file:
        for batch in file.iter_batches(_ROWS_AT_ONCE):
            yield from batch.to_pylist()


def _stream_rows(path: Path, *, warn: bool = True) -> Iterator[dict[str, Any]]:
    import pyarrow as pa

    read = 0
    try:
        with pa.OSFile(str(path)) as file, pa.ipc.open_stream(file) as stream:
            while True:
                batch, metadata = stream.read_next_batch_with_custom_metadata()
                (row,) = batch.to_pylist()
                if metadata is None or metadata[_CHECKSUM] != _checksum(row):
                    raise ValueError(f"the checksum of program {read} does not match")
                yield row
                read += 1
    except StopIteration:
        return
    except (pa.ArrowInvalid, OSError, ValueError) as error:
        if not warn:
            return
        logger.warning(
            "%s: torn after %d programs (%s); at most the program that was being written is lost", path, read, error
        )


def _checksum(row: dict[str, Any]) -> bytes:
    return b"%08x" % zlib.crc32(json.dumps(row, sort_keys=True).encode())


def _schema() -> pa.Schema:
    import pyarrow as pa

    types = arrow_types()
    return pa.schema([(name, types[kind]) for name, kind in COLUMNS.items()])


def _row(one: JudgedProgram) -> dict[str, Any]:
    return {
        "completion": one.generated.completion,
        "program": one.program,
        "outcomes": [str(outcome) for outcome in one.verdict.outcomes],
        "message": one.verdict.message,
        "cpu_seconds": one.verdict.cpu_seconds,
        "logprob": one.generated.logprob,
        "num_tokens": one.generated.num_tokens,
        "source": one.generated.source,
        "scorer": one.generated.scorer,
        "settings": one.generated.settings,
        "extracted": one.extracted,
        "run": one.verdict.run,
    }


def _entry(task: CodingTask, rows: Mapping[int, dict[str, Any]]) -> JournalEntry:
    ordered = [rows[place] for place in sorted(rows)]
    return JournalEntry(
        programs=tuple(_judged(task, row) for row in ordered), judged_by=tuple(row["judged_by"] for row in ordered)
    )


def _judged(task: CodingTask, row: dict[str, Any]) -> JudgedProgram:
    return JudgedProgram(
        task=task,
        generated=GeneratedProgram(
            completion=row["completion"],
            logprob=row["logprob"],
            num_tokens=row["num_tokens"],
            source=row["source"],
            # Journals of earlier versions lack these columns.
            scorer=row.get("scorer") or "",
            settings=row.get("settings") or "",
        ),
        program=row["program"],
        verdict=Verdict(
            outcomes=tuple(Outcome(outcome) for outcome in row["outcomes"]),
            message=row["message"],
            cpu_seconds=row["cpu_seconds"],
            run=row.get("run") or "separate",
        ),
        extracted=_extracted(task, row),
    )


def _extracted(task: CodingTask, row: dict[str, Any]) -> bool:
    known = row.get("extracted")
    if known is None:
        # Journals of earlier versions lack this column.
        return extract(row["completion"], prompt=task.prompt, entry_point=task.entry_point).found
    return bool(known)


def journal_beside(output: Path) -> Path:
    """Return the journal folder of an output file: the file's name with `.journal`."""
    return output.with_name(f"{output.name}.journal")


def clear_journal(folder: Path, *, unjudged: int) -> None:
    """Remove a journal or, if some of its programs could not be judged, print how to judge them."""
    if unjudged:
        print(f"The programs without a verdict remain in {folder}; run the command again to judge them")
    else:
        # All programs are in the output file now. Left behind, the journal would replace the work of the next run.
        shutil.rmtree(folder, ignore_errors=True)
