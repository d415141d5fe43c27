"""The journal of a collection: every program on disk, with its verdict, as soon as it was judged.

Enters: the judged programs of one task at a time. Leaves: on a restart, all that was written. Each process writes
shards of its own and touches no other's, so nothing is locked. A shard in the making is an Arrow stream with one
program to a batch, synced after each task; a finished one is Parquet. A crash costs at most the program that was being
written, and reading says so. The journal holds programs that could not be judged, too: they were paid for.

The journal beside the file that a command writes: it is kept as long as the file does not hold all of it.

Enters: the file, and how many programs could not be judged. Leaves: the journal's folder, or nothing of it.
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

#: Columns of a row, in order, and their Arrow types: the task (its prompt as JSON), the place among its programs, the
#: program and its verdict.
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
}
_CHECKSUM = b"crc32"
_ROWS_AT_ONCE = 1024


@dataclass(frozen=True, kw_only=True)
class JudgedProgram:
    """A generated program with what was extracted from it and what the judge said.

    Args:
        task: What it was written for.
        generated: The completion and its log-probability.
        program: The program in the completion; it ran after the preamble of its task, if that has one.
        verdict: What the judge said.
        extracted: Whether there was a program in the completion; see `trl_pper.generation.extraction.extract`.
    """

    task: CodingTask
    generated: GeneratedProgram
    program: str
    verdict: Verdict
    extracted: bool = True


def task_identity(task: CodingTask) -> str:
    """Return what makes two tasks the same to a model, whatever their tests: a digest of task id, prompt and stops."""
    # Tasks without stops keep the digest that journals had before there were any; so for the preamble below.
    return digest([task.task_id, task.prompt, *([list(task.stop)] if task.stop else [])])


def judging_identity(task: CodingTask, limits: Limits) -> str | None:
    """Return what makes two verdicts comparable: a digest of the tests, of what a program may use and of the preamble.

    None for tests that compare with a function, of which nobody can tell whether it is still the same.
    """
    if isinstance(task.tests, StdioTests) and callable(task.tests.compare):
        return None
    preamble = [] if task.preamble is None else [task.preamble]
    return digest([tests_to_json(task.tests), limits.for_task(task).to_dict(), *preamble])


def digest(plain: Any) -> str:
    """Return 32 hexadecimal digits that stand for a value of plain types."""
    return hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()[:32]


@dataclass(frozen=True, kw_only=True)
class JournalEntry:
    """The programs of one task as a journal holds them.

    Args:
        programs: All programs of the task, in the order in which they were generated.
        judged_by: For each program the `judging_identity` of its verdict.
    """

    programs: tuple[JudgedProgram, ...]
    judged_by: tuple[str | None, ...]


class Journal:
    """The shards of one collection in a folder, read and appended to.

    Args:
        folder: Where the shards live; made when the first program is written.
        process_index: Which of several processes writes; part of its shards' names.

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
        """Return what the journal holds of `tasks`, by their position; see `entries`."""
        return dict(self.entries(tasks))

    def entries(self, tasks: Sequence[CodingTask]) -> Iterator[tuple[int, JournalEntry]]:
        """Yield the positions of `tasks` with what the journal holds of them, in the order in which it was written.

        A task with a program missing is left out. A torn shard is read as far as it goes, and a warning tells what it
        lost. Each task is held only until all of it was read.
        """
        positions: dict[str, list[int]] = {}
        for position, task in enumerate(tasks):
            positions.setdefault(task_identity(task), []).append(position)
        # Listed once, as other processes may be writing shards of their own meanwhile.
        shards = _shards(self.folder)
        last = {row["task"]: place for place, row in _rows(shards) if row["task"] in positions}
        rows: dict[str, dict[int, dict[str, Any]]] = {}
        for place, row in _rows(shards, warn=False):
            name = row["task"]
            if name not in last:
                continue
            # Later rows win: a program judged again is appended again.
            rows.setdefault(name, {})[row["place"]] = row
            if place == last[name]:
                found = rows.pop(name)
                if len(found) == max(one["programs"] for one in found.values()):
                    for position in positions[name]:
                        yield position, _entry(tasks[position], found)

    def append(self, task: CodingTask, programs: Sequence[JudgedProgram], *, judged_by: str | None) -> None:
        """Write the programs of one task; they are on the disk when this returns.

        Args:
            task: What they were written for.
            programs: All its programs, in the order in which they were generated.
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
        """Finish the shard that is being written: it becomes a Parquet file."""
        if self._stream is not None:
            self._stream.finish()
            self._stream = None

    def _new_shard(self) -> Path:
        self.folder.mkdir(parents=True, exist_ok=True)
        # Numbered after all that are there, so that the order of names is the order of writing.
        numbers = [int(path.name.split("-")[0]) for path in _shards(self.folder)]
        return self.folder / f"{max(numbers, default=-1) + 1:06d}-{self.process_index:05d}.arrows"


class _Stream:
    """One shard in the making."""

    def __init__(self, path: Path) -> None:
        import pyarrow as pa

        self.path = path
        self.schema = _schema()
        self._file = path.open("xb")
        sync_folder(path.parent)
        self._writer = pa.ipc.new_stream(self._file, self.schema)

    def write(self, rows: Sequence[dict[str, Any]]) -> None:
        """Append rows, each in a batch of its own, and sync."""
        import pyarrow as pa

        batch = pa.RecordBatch.from_pylist(list(rows), schema=self.schema)
        for index, row in enumerate(batch.to_pylist()):
            self._writer.write_batch(batch.slice(index, 1), custom_metadata={_CHECKSUM: _checksum(row)})
        self._file.flush()
        os.fsync(self._file.fileno())

    def finish(self) -> None:
        """Put a Parquet file in the stream's place."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        self._writer.close()
        self._file.close()
        rows = _stream_rows(self.path)
        with (
            atomic_file(self.path.with_suffix(".parquet")) as file,
            pq.ParquetWriter(file, self.schema, compression="zstd") as writer,
        ):
            while group := list(itertools.islice(rows, _ROWS_AT_ONCE)):
                writer.write_table(pa.Table.from_pylist(group, schema=self.schema))
        self.path.unlink()


def _shards(folder: Path) -> list[Path]:
    if not folder.is_dir():
        return []
    return sorted(path for path in folder.iterdir() if path.suffix in (".arrows", ".parquet") and path.name[0] != ".")


def _rows(shards: Sequence[Path], *, warn: bool = True) -> Iterator[tuple[tuple[Path, int], dict[str, Any]]]:
    """Yield every row with where it stands."""
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
            "%s: torn after %d programs (%s); at most the one that was being written is lost", path, read, error
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
            # Journals of earlier versions do not say.
            scorer=row.get("scorer") or "",
            settings=row.get("settings") or "",
        ),
        program=row["program"],
        verdict=Verdict(
            outcomes=tuple(Outcome(outcome) for outcome in row["outcomes"]),
            message=row["message"],
            cpu_seconds=row["cpu_seconds"],
        ),
        extracted=_extracted(task, row),
    )


def _extracted(task: CodingTask, row: dict[str, Any]) -> bool:
    known = row.get("extracted")
    if known is None:
        # Journals did not say, once.
        return extract(row["completion"], prompt=task.prompt, entry_point=task.entry_point).found
    return bool(known)


def journal_beside(output: Path) -> Path:
    """Return the folder of the journal of an output file."""
    return output.with_name(f"{output.name}.journal")


def clear_journal(folder: Path, *, unjudged: int) -> None:
    """Remove a journal, unless it holds programs that could not be judged; then say so."""
    if unjudged:
        print(f"The programs without a verdict are kept in {folder}; run this again to have them judged")
    else:
        # All of it is in the output now; left behind, it would stand for the next run.
        shutil.rmtree(folder, ignore_errors=True)
