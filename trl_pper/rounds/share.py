"""Divide tasks among processes, and generate and judge the programs of this process's tasks.

Tasks are divided in whole batches of the source, so that results depend neither on the number of processes nor on a
restart. With a journal, programs from before a restart are reused.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from accelerate import PartialState
from accelerate.utils import gather_object

from trl_pper.generation.local_model import LocalModel
from trl_pper.generation.source import ProgramSource
from trl_pper.judge.judge import Judge
from trl_pper.rounds.display import CollectionProgress
from trl_pper.rounds.journal import Journal, JudgedProgram, digest, judging_identity
from trl_pper.rounds.overlap import PhaseSeconds, judge_programs
from trl_pper.rounds.processes import meet
from trl_pper.tasks.task import CodingTask


@dataclass
class Share:
    """The results of this process's tasks, filled while programs are judged.

    Args:
        judged: The judged programs of each task, by the task's position; empty with `on_judged`.
        restored: Number of programs that were read from the journal instead of generated.
        seconds: Wall time of both phases.
        on_judged: Function called with the position of each task and its judged programs, which are then not stored
            here.
        done: Positions of the tasks that are judged.
    """

    judged: dict[int, list[JudgedProgram]] = field(default_factory=dict)
    restored: int = 0
    seconds: PhaseSeconds = field(default_factory=PhaseSeconds)
    on_judged: Callable[[int, list[JudgedProgram]], None] | None = None
    done: set[int] = field(default_factory=set)

    def take(self, position: int, programs: list[JudgedProgram]) -> None:
        """Store the judged programs of a task, or pass them to `on_judged`."""
        if self.on_judged is None:
            self.judged[position] = programs
        else:
            # An evaluation with a thousand programs for each task has more of them than fit in memory.
            self.on_judged(position, programs)
        self.done.add(position)

    def unextracted(self) -> list[str]:
        """Return the task id of each completion without a program."""
        return [one.task.task_id for _, judged in sorted(self.judged.items()) for one in judged if not one.extracted]


def own_batches(tasks: int, batch_size: int, *, process_index: int, num_processes: int) -> list[list[int]]:
    """Return the positions of the tasks of a process, batch by batch; batches go to the processes in turn.

    Args:
        tasks: Number of tasks.
        batch_size: Number of tasks in a batch.
        process_index: Index of the process, from 0.
        num_processes: Number of processes.

    Examples:
        >>> own_batches(7, 2, process_index=1, num_processes=2)
        [[2, 3], [6]]
    """
    # Whole batches: how a batch is padded changes the last bits of log-probabilities.
    starts = range(process_index * batch_size, tasks, num_processes * batch_size)
    return [list(range(start, min(start + batch_size, tasks))) for start in starts]


def split_share(tasks: int, source: ProgramSource) -> list[list[int]]:
    """Return the positions of this process's tasks, in the batches of a source."""
    state = PartialState()
    return own_batches(tasks, source.batch_size, process_index=state.process_index, num_processes=state.num_processes)


def open_journal(
    folder: str | Path, source: ProgramSource, *, label: str, student: LocalModel | None = None
) -> Journal:
    """Return the journal of the programs that a source writes now, in a subfolder named after the source's identity.

    An earlier attempt with a source of the same `identity` has the same journal.

    Args:
        folder: Folder of all journals.
        source: The source of the programs.
        label: Beginning of the subfolder's name, such as the round.
        student: The model in training.
    """
    identity = source.identity(student=student)
    # A source without an identity gets a journal that no other attempt finds.
    all_of_them = gather_object([digest(uuid.uuid4().hex if identity is None else identity)])
    # All processes need the same folder. Where their sources differ, it is named after all of the identities.
    name = digest(all_of_them if identity is not None and len(set(all_of_them)) > 1 else all_of_them[0])
    return Journal(Path(folder) / f"{label}-{name[:16]}", process_index=PartialState().process_index)


def judge_share(
    tasks: Sequence[CodingTask],
    source: ProgramSource,
    judge: Judge,
    share: Share,
    *,
    student: LocalModel | None = None,
    journal: Journal | None = None,
    progress: CollectionProgress | None = None,
) -> None:
    """Generate and judge programs for this process's tasks, except for tasks whose programs are in the journal.

    Args:
        tasks: The tasks of all processes, in the same order in each process.
        source: The source of the programs.
        judge: The judge that runs the programs.
        share: The results, filled task by task; after an error it holds the tasks judged before.
        student: The model in training.
        journal: The journal that each task's programs are written to as soon as they are judged.
        progress: The progress bar.
    """
    batches = split_share(len(tasks), source)
    own = {position for batch in batches for position in batch}
    if journal is not None:
        _restore(tasks, own, judge, share, journal, progress)
        if keeps_step(source, student):
            # Programs judged by other tests or limits are judged anew, which takes each process its own time: without
            # this meeting, the first process would time out in the model's forward pass.
            meet("reading the journal")
    # A batch with any missing task is generated as a whole, so that its padding is the same as without a restart.
    pending = [batch for batch in batches if not share.done >= set(batch)]
    order = [position for batch in _even(pending, len(tasks), source, student) for position in batch]
    wanted = _first_places(order, own - share.done)

    def keep(place: int, judged: list[JudgedProgram]) -> None:
        position = order[place]
        if journal is not None:
            journal.append(tasks[position], judged, judged_by=judging_identity(tasks[position], judge.limits))
        share.take(position, judged)

    judge_programs(
        [tasks[position] for position in order],
        source,
        judge,
        keep,
        student=student,
        wanted=wanted,
        progress=progress,
        seconds=share.seconds,
    )


def keeps_step(source: ProgramSource, student: LocalModel | None) -> bool:
    """Return whether the processes generate each batch together: it needs the model's shards, or an engine, of all."""
    if student is None or not source.uses_student:
        return False
    return student.is_sharded or (source.in_step and PartialState().num_processes > 1)


def _restore(
    tasks: Sequence[CodingTask],
    own: set[int],
    judge: Judge,
    share: Share,
    journal: Journal,
    progress: CollectionProgress | None,
) -> None:
    """Read programs from the journal; judge programs again if they have no verdict, or tests or limits changed."""

    def take(position: int, programs: list[JudgedProgram]) -> None:
        share.take(position, programs)
        if progress is not None:
            unextracted = sum(not one.extracted for one in programs)
            progress.restored([one.verdict for one in programs], unextracted=unextracted)

    stale: dict[int, tuple[JudgedProgram, ...]] = {}
    for position, entry in journal.entries(tasks):
        if position not in own:
            continue
        share.restored += len(entry.programs)
        # None cannot be compared: a comparison function may have changed since.
        now = judging_identity(tasks[position], judge.limits)
        judged = all(one.verdict.pass_rate is not None for one in entry.programs)
        if now is None or not judged or set(entry.judged_by) != {now}:
            stale[position] = entry.programs
        else:
            take(position, list(entry.programs))
    positions = sorted(stale)
    verdicts = judge.stream((tasks[position], [one.program for one in stale[position]]) for position in positions)
    for position, given in zip(positions, verdicts, strict=True):
        task, programs = tasks[position], stale.pop(position)
        again = [replace(one, verdict=verdict) for one, verdict in zip(programs, given, strict=True)]
        # A later row in the journal replaces an earlier row of the same program.
        journal.append(task, again, judged_by=judging_identity(task, judge.limits))
        take(position, again)


def _even(pending: list[list[int]], tasks: int, source: ProgramSource, student: LocalModel | None) -> list[list[int]]:
    """Fill up batches so that every process of a sharded model generates the same number of full batches."""
    # `_first_places` drops the programs of repeated tasks.
    if not keeps_step(source, student):
        return pending
    size = min(source.batch_size, tasks)
    needed = max(gather_object([len(pending)]))
    filled = [[*batch, *[batch[0]] * (size - len(batch))] for batch in pending]
    return filled + [list(range(size))] * (needed - len(filled))


def _first_places(order: Sequence[int], missing: set[int]) -> set[int]:
    """Return the index in `order` at which each missing position first occurs."""
    first: dict[int, int] = {}
    for place, position in enumerate(order):
        if position in missing:
            first.setdefault(position, place)
    return set(first.values())
