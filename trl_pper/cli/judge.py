"""Run `trl-pper judge`: judge rows of programs, and write a row with the verdict of each, in the same order.

A row `{"task_id", "completion" or "program"}` becomes a JSON row `{"task_id", "pass_rate", "passed", "total",
"outcomes", "message"}`. Every row is checked before the first program runs. The verdicts are in a partial file beside
the output until all are there, and the same command resumes from it. With `--check_references` the programs are the
references of the tasks.

`VerdictRows` writes the verdicts of `trl-pper evaluate`, which come from several processes in any order.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import glob
import itertools
import json
import logging
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from accelerate import PartialState
from accelerate.utils import gather_object

from trl_pper.cli.sources import read_given_tasks
from trl_pper.files import atomic_file, check_target, read_rows, remove_abandoned, sync_folder, writing_errors
from trl_pper.generation.extraction import Extraction, extract
from trl_pper.judge.cluster.judge import open_judge
from trl_pper.judge.judge import Judge
from trl_pper.judge.limits import Limits
from trl_pper.judge.verdict import Outcome, Verdict, shared_note
from trl_pper.rounds.display import CollectionProgress
from trl_pper.rounds.journal import JudgedProgram, digest, judging_identity
from trl_pper.rounds.processes import meet
from trl_pper.tasks.loading import match_task_id
from trl_pper.tasks.task import CodingTask

logger = logging.getLogger(__name__)

#: The number of rows judged together; their verdicts are on disk before the next rows start.
ROWS_PER_CHUNK = 512


@dataclass(frozen=True, kw_only=True)
class ProgramRow:
    """A program to judge.

    Args:
        raw_id: The id as the row has it.
        task: The task of that id.
        program: The program to run.
        extracted: Whether the completion has a program.
    """

    raw_id: Any
    task: CodingTask
    program: str
    extracted: bool


def make_judge(options: argparse.Namespace) -> Judge:
    """Build the judge that the judging options of a command line describe."""
    given = {"cpu_seconds": options.cpu_seconds, "memory_bytes": options.memory_bytes}
    limits = Limits(**{name: value for name, value in given.items() if value is not None})
    return open_judge(
        # `amplify` has no such option: its comparisons record what programs print, in this process.
        getattr(options, "judge_cluster", None),
        workers=options.workers,
        isolation=options.isolation,
        limits=limits,
    )


def judge_file(options: argparse.Namespace) -> int:
    """Run the command; return its exit code."""
    if options.selftest:
        return selftest(options)
    if options.check_references:
        return check_references(options)
    for name in ("tasks", "programs", "output"):
        if getattr(options, name) is None:
            raise ValueError(f"--{name}: required, unless --selftest or --check_references is given")
    tasks = read_given_tasks(options.tasks, options)
    rows = read_programs(options.programs, tasks)
    if not rows:
        raise ValueError(f"--programs: must hold at least one program; {options.programs} is empty. Write some first")
    programmed = {row.task.task_id for row in rows}
    without = [task.task_id for task in tasks if task.task_id not in programmed]
    if without:
        logger.warning("%d of %d tasks have no program, the first %s", len(without), len(tasks), without[0])
    started = time.perf_counter()
    verdicts, isolation = _judge_and_write(rows, options)
    unextracted = [row.task.task_id for row in rows if not row.extracted]
    rates = [verdict.pass_rate for verdict in verdicts]
    print(_summary(rates, unextracted, time.perf_counter() - started, isolation))
    shared = {row.task.task_id for row, verdict in zip(rows, verdicts, strict=True) if verdict.run == "shared"}
    if shared:
        print(shared_note(len(shared)))
    return 0


def check_references(options: argparse.Namespace) -> int:
    """Judge the tasks' own references, and print which of them do not pass; return 1 if there are any."""
    if options.tasks is None:
        raise ValueError("--tasks: required with --check_references")
    if options.programs is not None:
        raise ValueError(f"--programs: --check_references judges the references instead; got {options.programs}")
    tasks = read_given_tasks(options.tasks, options)
    rows = [
        ProgramRow(raw_id=task.task_id, task=task, program=task.reference, extracted=True)
        for task in tasks
        if task.reference is not None
    ]
    if not rows:
        raise ValueError(
            f"--check_references: none of the {len(tasks)} tasks has a reference. Judge --programs instead"
        )
    started = time.perf_counter()
    verdicts, isolation = _judge_and_write(rows, options)
    failed = [(row, verdict) for row, verdict in zip(rows, verdicts, strict=True) if not verdict.accepted]
    for row, verdict in failed:
        print(f"{row.task.task_id}: {verdict.reason}")
    seconds = time.perf_counter() - started
    print(
        f"{len(rows) - len(failed)} of {len(rows)} references pass, in {seconds:.1f} s, isolation {isolation}; "
        f"{len(tasks) - len(rows)} tasks have none"
    )
    return int(bool(failed))


def _judge_and_write(rows: Sequence[ProgramRow], options: argparse.Namespace) -> tuple[list[Verdict], str]:
    """Judge rows, and write their verdicts to `--output` if it is given; return them with the isolation level."""
    with contextlib.ExitStack() as opened:
        judge = opened.enter_context(make_judge(options))
        output = None
        if options.output is not None:
            output = opened.enter_context(_Output(options.output, rows, judge))
        verdicts = [] if output is None else output.read()
        if verdicts:
            print(f"{len(verdicts)} verdicts were there already, from a command that did not end")
        progress = opened.enter_context(CollectionProgress(len(rows), unit="programs"))
        progress.restored(verdicts, unextracted=sum(not row.extracted for row in rows[: len(verdicts)]))
        for row, verdict in judge_rows(rows[len(verdicts) :], judge, progress=progress):
            verdicts.append(verdict)
            # The generator judges the next rows when it is asked for them: the verdicts of these have to be on disk.
            if output is not None:
                output.write(row, verdict, sync=len(verdicts) == len(rows) or len(verdicts) % ROWS_PER_CHUNK == 0)
        if output is not None:
            output.finish()
        return verdicts, judge.isolation


class _Output:
    """The file of `--output`: a partial file until every verdict is there.

    The name of the partial file tells the programs, tests and limits of its verdicts.

    Raises:
        ValueError: Another process writes the same verdicts.
        OSError: The file cannot be written; the message names it and the remedy.
    """

    def __init__(self, path: Path, rows: Sequence[ProgramRow], judge: Judge) -> None:
        self.path, self._rows = path, rows
        # Thousands of rows may share the tests of a task.
        tests = {row.task.task_id: judging_identity(row.task, judge.limits) for row in rows}
        programs = [[row.raw_id, row.task.task_id, row.program] for row in rows]
        self._partial = path.with_name(f"{path.name}.{digest([judge.isolation, tests, programs])[:16]}.partial")
        check_target(path)
        with writing_errors(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = self._partial.open("a+b")

    def __enter__(self) -> _Output:
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self._file.close()
            raise ValueError(
                f"--output: must be written by one process at a time; another one judges the same programs for "
                f"{self.path}. Wait for it, or choose another file"
            ) from None
        except OSError:
            # Some network file systems have no locks.
            pass
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # After a full disk, closing writes the rest again, and fails again.
        with contextlib.suppress(OSError):
            self._file.close()

    def read(self) -> list[Verdict]:
        """Return the verdicts of the first rows, as far as an earlier command came, and cut off anything else."""
        self._file.seek(0)
        verdicts: list[Verdict] = []
        end = 0
        for line in self._file:
            verdict = _verdict(line, self._rows[len(verdicts)].raw_id) if len(verdicts) < len(self._rows) else None
            # A program on which the sandbox failed is judged again, with all that follow it.
            if verdict is None or verdict.pass_rate is None:
                break
            verdicts.append(verdict)
            end += len(line)
        self._file.truncate(end)
        return verdicts

    def write(self, row: ProgramRow, verdict: Verdict, *, sync: bool) -> None:
        """Append a verdict; with `sync` all verdicts are on disk when this method returns."""
        with writing_errors(self.path):
            self._file.write(json.dumps({"task_id": row.raw_id, **verdict.to_row()}).encode() + b"\n")
            if sync:
                self._file.flush()
                os.fsync(self._file.fileno())

    def finish(self) -> None:
        """Give the file its name, and remove the partial files of other programs or tests."""
        with writing_errors(self.path):
            self._file.flush()
            os.fsync(self._file.fileno())
            self._partial.replace(self.path)
            remove_abandoned(self.path.parent, prefix=f"{self.path.name}.")
            sync_folder(self.path.parent)


def _verdict(line: bytes, raw_id: Any) -> Verdict | None:
    """Return the verdict in a line of a partial file, or None for a line that was not written to its end."""
    try:
        row = json.loads(line)
        outcomes = tuple(Outcome(outcome) for outcome in row["outcomes"])
        verdict = Verdict(outcomes=outcomes, message=row["message"], run=row["run"])
    except (ValueError, LookupError, TypeError, AttributeError):
        return None
    return verdict if line.endswith(b"\n") and row == {"task_id": raw_id, **verdict.to_row()} else None


def selftest(options: argparse.Namespace) -> int:
    """Print for each guarantee whether it holds on this machine; return 1 if any does not."""
    with make_judge(options) as judge:
        report = judge.report()
        print(f"isolation level: {judge.isolation}")
    for guarantee, state in report.items():
        print(f"{guarantee:28}{state}")
    return int("absent" in report.values())


def read_programs(path: Path, tasks: Sequence[CodingTask]) -> list[ProgramRow]:
    """Read the programs of `tasks` from a file.

    Raises:
        ValueError: A row names no known task or holds no program; the message names file, line and field.
    """
    by_id = {task.task_id: task for task in tasks}
    return [_program_row(one, by_id, f"{path}:{line}") for line, row in read_rows(path) for one in _single_rows(row)]


def judge_rows(
    rows: Sequence[ProgramRow], judge: Judge, *, progress: CollectionProgress | None = None
) -> Iterator[tuple[ProgramRow, Verdict]]:
    """Judge rows and yield each with its verdict, in order.

    Raises:
        KeyboardInterrupt: After an interrupt, once the rows have been yielded up to the first without a verdict.
    """
    for start in range(0, len(rows), ROWS_PER_CHUNK):
        yield from _judge_chunk(rows[start : start + ROWS_PER_CHUNK], judge, progress)


def _judge_chunk(
    chunk: Sequence[ProgramRow], judge: Judge, progress: CollectionProgress | None
) -> Iterator[tuple[ProgramRow, Verdict]]:
    known: dict[int, Verdict] = {}

    def show(places: list[int], verdicts: list[Verdict]) -> None:
        known.update(zip(places, verdicts, strict=True))
        if progress is not None:
            progress.judged(verdicts, unextracted=sum(not chunk[place].extracted for place in places))

    try:
        verdicts = judge.run_pairs([(row.task, row.program) for row in chunk], on_judged=show)
    except KeyboardInterrupt:
        for place in itertools.takewhile(known.__contains__, range(len(chunk))):
            yield chunk[place], known[place]
        raise
    yield from zip(chunk, verdicts, strict=True)


def _single_rows(row: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Return a row for each completion where a row holds a list of them."""
    completions = row.get("completions")
    if not isinstance(completions, list):
        return [row]
    return [{"task_id": row.get("task_id"), "completion": completion} for completion in completions]


def _program_row(row: Mapping[str, Any], by_id: Mapping[str, CodingTask], where: str) -> ProgramRow:
    task_id = match_task_id(row.get("task_id"), by_id)
    if task_id is None:
        raise ValueError(f"{where}: task_id: must name one of the {len(by_id)} tasks; got {row.get('task_id')!r}")
    task = by_id[task_id]
    if isinstance(row.get("program"), str):
        return _judged_row(row, task, Extraction(program=row["program"], found=True))
    if not isinstance(row.get("completion"), str):
        raise ValueError(
            f"{where}: completion: a string is required here or under program; the row has {sorted(map(str, row))}"
        )
    return _judged_row(row, task, extract(row["completion"], prompt=task.prompt, entry_point=task.entry_point))


def _judged_row(row: Mapping[str, Any], task: CodingTask, found: Extraction) -> ProgramRow:
    return ProgramRow(raw_id=row["task_id"], task=task, program=found.program, extracted=found.found)


def _summary(rates: Sequence[float | None], unextracted: Sequence[str], seconds: float, isolation: str) -> str:
    judged = [rate for rate in rates if rate is not None]
    mean = sum(judged) / len(judged) if judged else 0.0
    accepted = sum(rate == 1.0 for rate in judged)
    return (
        f"{len(rates)} programs in {seconds:.1f} s ({len(rates) / max(seconds, 1e-9):.0f}/s), isolation {isolation}: "
        f"{accepted} accepted, mean pass rate {mean:.3f}, {len(rates) - len(judged)} not judged, "
        f"{len(unextracted)} without a program" + (f", the first for task {unextracted[0]}" if unextracted else "")
    )


class VerdictRows:
    """A file of rows `{"task_id", "index", "completion", "program", "extracted"}` and the fields of `Verdict.to_row`.

    The rows stand in the order of the tasks. Each process writes a part beside the file; memory holds only the place
    of each task in the parts.

    Args:
        path: The file; it appears whole or not at all, and replaces an existing file.
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
            with writing_errors(self.path):
                self._file.write(json.dumps(_row(index, one)).encode() + b"\n")
        self._places[position] = (start, self._file.tell())

    def finish(self) -> None:
        """Put the rows of all processes in order, in the main process; every process has to call this.

        Raises:
            FileNotFoundError: A process writes to a disk that the main process does not see.
        """
        self._file.flush()
        own = [(position, self._process_index, *place) for position, place in self._places.items()]
        places = sorted(gather_object(own))
        # `meet` passes it to every process: the others would wait for the main process otherwise.
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
        # A run of more processes that was killed has left parts that no process of this run removes.
        for path in self.path.parent.glob(f".{glob.escape(self.path.name)}.*.part"):
            path.unlink(missing_ok=True)

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
