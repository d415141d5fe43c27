"""Write judged programs to a journal on disk as soon as they are judged, and read them after a restart.

A journal is a folder of shards. An unfinished shard is an Arrow stream with a program in each batch, synced after each
task; a finished shard is a Parquet file. Each process writes its own shards, so that no locks are needed. A crash
loses at most the program that was being written. Programs without a verdict are in the journal, too. Every program has
a checksum: a damaged program is left out with a warning, and generated again.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import itertools
import json
import logging
import os
import re
import shutil
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, TypeAlias

from trl_pper.files import atomic_file, remove_abandoned, sync_folder, writing_errors
from trl_pper.generation.extraction import extract
from trl_pper.generation.source import GeneratedProgram, is_truncated
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
    "finish_reason": "string",
    "token_ids": EXPERIENCE_COLUMNS["token_ids"],
}
#: Columns that journals of earlier versions lack.
_LATER_COLUMNS = ("scorer", "settings", "extracted", "run", "finish_reason", "token_ids")
#: Key of the checksum of a batch in a stream, and its column in a Parquet file.
_CHECKSUM = "crc32"
_SHARD = re.compile(r"(\d+)-\d+\.(?:arrows|parquet)")
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

    @property
    def truncated(self) -> bool:
        """Whether the completion is a part of what the model would have written."""
        return is_truncated(self.generated.finish_reason, extracted=self.extracted)


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
        if self._stream is not None and error is not None and not isinstance(error, Exception):
            # An interrupt: converting a large shard takes long, and the stream is read all the same.
            self._stream.abandon()
            self._stream = None
        self.close()

    def read(self, tasks: Sequence[CodingTask]) -> dict[int, JournalEntry]:
        """Return the entries of `tasks`, by the position of the task; see `entries`."""
        return dict(self.entries(tasks))

    def entries(self, tasks: Sequence[CodingTask]) -> Iterator[tuple[int, JournalEntry]]:
        """Yield the entries of `tasks` with the position of the task, in the order in which they were written.

        A task with a missing or damaged program is left out. An incomplete shard is read as far as possible, with a
        warning.
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

        Raises:
            OSError: The disk is full or cannot be written; the programs written before stay in the journal.
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
        try:
            self._stream.write([{**shared, "place": place, **_row(one)} for place, one in enumerate(programs)])
        except BaseException:
            # Arrow takes its schema and the programs for written: the next programs need a stream of their own.
            self._stream.abandon()
            self._stream = None
            raise

    def close(self) -> None:
        """Convert the shard that is being written to a Parquet file."""
        if self._stream is not None:
            self._stream.finish()
            self._stream = None

    def _new_shard(self) -> Path:
        with writing_errors(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
            # A process that was killed while it converted a shard has left a partial file; the stream is there.
            remove_abandoned(self.folder)
        # Numbered after all existing shards, so that the order of names is the order of writing.
        numbers = [int(found[1]) for path in self.folder.iterdir() if (found := _SHARD.fullmatch(path.name))]
        return self.folder / f"{max(numbers, default=-1) + 1:06d}-{self.process_index:05d}.arrows"


class _Stream:
    """A shard that is being written."""

    def __init__(self, path: Path) -> None:
        import pyarrow as pa

        self.path = path
        self.schema = _schema()
        self._rows = 0
        # In memory first: Arrow does not tell how much of a batch it wrote to a disk that is full.
        self._bytes = io.BytesIO()
        self._writer = pa.ipc.new_stream(self._bytes, self.schema)
        with writing_errors(path):
            self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
            # After a crash the file must exist in its folder, too.
            sync_folder(path.parent)

    def write(self, rows: Sequence[dict[str, Any]]) -> None:
        """Append rows, each in a batch of its own, and sync."""
        import pyarrow as pa

        batch = pa.RecordBatch.from_pylist(list(rows), schema=self.schema)
        # A batch for each program, with a checksum: a crash then damages the last program only, and detectably.
        for index, row in enumerate(batch.to_pylist()):
            self._writer.write_batch(batch.slice(index, 1), custom_metadata={_CHECKSUM: _checksum(row)})
        self._append()
        self._rows += len(rows)

    def _append(self) -> None:
        """Move the bytes in memory to the disk: all of them or none."""
        end = os.lseek(self._file, 0, os.SEEK_END)
        try:
            with writing_errors(self.path):
                left = memoryview(self._bytes.getvalue())
                while left:
                    left = left[os.write(self._file, left) :]
                os.fsync(self._file)
        except BaseException:
            # Programs after a torn one could not be read.
            os.ftruncate(self._file, end)
            raise
        finally:
            self._bytes.seek(0)
            self._bytes.truncate()

    def abandon(self) -> None:
        """Leave the stream as it is on the disk."""
        os.close(self._file)

    def finish(self) -> None:
        """Replace the stream by a Parquet file; without room for it the stream stays, which holds the same."""
        os.close(self._file)
        try:
            self._convert()
        except OSError as error:
            logger.warning("%s: stays an Arrow stream, which is read all the same (%s)", self.path, error)
            return
        self.path.unlink()

    def _convert(self) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        rows = (row for _, row in _rows([self.path]))
        schema, number = self.schema.append(pa.field(_CHECKSUM, pa.string())), 0
        with (
            atomic_file(self.path.with_suffix(".parquet")) as file,
            pq.ParquetWriter(file, schema, compression="zstd", write_page_checksum=True) as writer,
        ):
            # Group by group: an evaluation's shard may not fit in memory.
            while group := [row | {_CHECKSUM: _checksum(row)} for row in itertools.islice(rows, _ROWS_AT_ONCE)]:
                writer.write_table(pa.Table.from_pylist(group, schema=schema))
                number += len(group)
            if number < self._rows:
                raise OSError(f"{self.path}: {self._rows} programs were written, and {number} can be read")


def _shards(folder: Path) -> list[Path]:
    # Other names are files that `atomic_file` has not finished, and files of other people.
    return sorted(path for path in folder.iterdir() if _SHARD.fullmatch(path.name)) if folder.is_dir() else []


def _rows(shards: Sequence[Path], *, warn: bool = True) -> Iterator[tuple[tuple[Path, int], dict[str, Any]]]:
    """Yield every whole row with its location, the shard and the number of the row.

    Raises:
        PermissionError: A shard may not be read; its programs would be generated again.
    """
    import pyarrow as pa

    for path in shards:
        number, damaged, reason = 0, 0, ""
        found = _parquet_rows(path) if path.suffix == ".parquet" else _stream_rows(path)
        try:
            for row, checksum in found:
                if row is not None and _is_whole(row, checksum):
                    yield (path, number), row
                else:
                    damaged += 1
                    reason = reason or f"the checksum of program {number} does not match"
                number += 1
        except PermissionError:
            raise
        # After a damaged frame nothing tells where the next program begins.
        except (pa.ArrowException, OSError, ValueError) as error:
            reason = f"torn after {number} programs: {' '.join(str(error).split())}"
        if reason and warn:
            logger.warning(
                "%s: %d whole programs were read (%s); missing programs are generated again",
                path, number - damaged, reason,
            )  # fmt: skip


#: A row, or None for a row that cannot be decoded, and its checksum, None if it has none.
_Checked: TypeAlias = tuple[dict[str, Any] | None, str | None]


def _parquet_rows(path: Path) -> Iterator[_Checked]:
    import pyarrow.parquet as pq

    with pq.ParquetFile(path, page_checksum_verification=True) as file:
        names = set(file.schema_arrow.names)
        if not COLUMNS.keys() - set(_LATER_COLUMNS) <= names <= {*COLUMNS, _CHECKSUM}:
            raise ValueError(f"not the columns of a journal: {sorted(names)}")
        for batch in file.iter_batches(_ROWS_AT_ONCE):
            # Arrow reads damaged lengths without a check.
            batch.validate(full=True)
            for row in batch.to_pylist():
                # Journals of earlier versions have no checksums in Parquet files.
                checksum = row.pop(_CHECKSUM, None)
                if checksum is None and _CHECKSUM in names:
                    yield None, None
                else:
                    yield row, checksum


def _stream_rows(path: Path) -> Iterator[_Checked]:
    import pyarrow as pa

    with pa.OSFile(str(path)) as file:
        # Streams that were put into one file, one after the other, are all read.
        while file.tell() < file.size():
            with pa.ipc.open_stream(file) as stream, contextlib.suppress(StopIteration):
                while True:
                    batch, metadata = stream.read_next_batch_with_custom_metadata()
                    yield _decoded(batch), (metadata or {}).get(_CHECKSUM.encode(), b"").decode("ascii", "replace")


def _decoded(batch: pa.RecordBatch) -> dict[str, Any] | None:
    import pyarrow as pa

    try:
        batch.validate(full=True)
        (row,) = batch.to_pylist()
    except (pa.ArrowException, ValueError):
        return None
    decoded: dict[str, Any] = row
    return decoded


def _is_whole(row: dict[str, Any], checksum: str | None) -> bool:
    try:
        return checksum is None or checksum == _checksum(row)
    except TypeError:
        # The damage made bytes or times of text and numbers.
        return False


def _checksum(row: dict[str, Any]) -> str:
    return f"{zlib.crc32(json.dumps(row, sort_keys=True).encode()):08x}"


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
        "finish_reason": one.generated.finish_reason,
        "token_ids": list(one.generated.token_ids),
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
            finish_reason=row.get("finish_reason") or "",
            token_ids=tuple(row.get("token_ids") or ()),
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
