"""One process's share of a set of tasks: generated for, judged, and kept in a journal as it comes.

Enters: all tasks, a source and a judge. Leaves: the judged programs of this process's tasks, by position. Tasks are
dealt out in whole batches of the source, so that the padding, and with it the last bits of a log-probability, depend
neither on the number of processes nor on where an earlier attempt was killed.
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
    """What one process did.

    Args:
        judged: The judged programs of each task, by the task's position; filled while they come.
        restored: Programs that the journal held already, so that nothing was generated for them.
        seconds: Wall time of both phases.
        on_judged: Called with the position of each task and its judged programs, which are then not kept in `judged`:
            a thousand programs of each task are more than a process should hold.
        done: Positions of the tasks that are judged.
    """

    judged: dict[int, list[JudgedProgram]] = field(default_factory=dict)
    restored: int = 0
    seconds: PhaseSeconds = field(default_factory=PhaseSeconds)
    on_judged: Callable[[int, list[JudgedProgram]], None] | None = None
    done: set[int] = field(default_factory=set)

    def take(self, position: int, programs: list[JudgedProgram]) -> None:
        """Keep the judged programs of a task, or hand them on."""
        if self.on_judged is None:
            self.judged[position] = programs
        else:
            self.on_judged(position, programs)
        self.done.add(position)

    def unextracted(self) -> list[str]:
        """Return the task of each completion in which there was no program."""
        return [one.task.task_id for _, judged in sorted(self.judged.items()) for one in judged if not one.extracted]


def own_batches(tasks: int, batch_size: int, *, process_index: int, num_processes: int) -> list[list[int]]:
    """Return the positions of each batch of tasks that falls to a process: batches are dealt out in turn.

    Args:
        tasks: Number of tasks.
        batch_size: Tasks generated for together.
        process_index: This process, from 0.
        num_processes: Number of processes.

    Examples:
        >>> own_batches(7, 2, process_index=1, num_processes=2)
        [[2, 3], [6]]
    """
    starts = range(process_index * batch_size, tasks, num_processes * batch_size)
    return [list(range(start, min(start + batch_size, tasks))) for start in starts]


def split_share(tasks: int, source: ProgramSource) -> list[list[int]]:
    """Return the positions of each batch of tasks that falls to this process, in the batches of a source."""
    state = PartialState()
    return own_batches(tasks, source.batch_size, process_index=state.process_index, num_processes=state.num_processes)


def open_journal(
    folder: str | Path, source: ProgramSource, *, label: str, student: LocalModel | None = None
) -> Journal:
    """Return the journal of what a source writes now, in a folder of its own below `folder`.

    Args:
        folder: Where journals are kept.
        source: Who writes programs; its `identity` tells whether those of an earlier attempt would be the same.
        label: What the programs are for; part of the name.
        student: The model in training.
    """
    identity = source.identity(student=student)
    all_of_them = gather_object([digest(uuid.uuid4().hex if identity is None else identity)])
    # Processes that would write different things share a journal only as long as all of them stay as they are.
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
    """Generate for this process's tasks and judge what was written, skipping what the journal holds.

    Args:
        tasks: The tasks of all processes, in the same order everywhere.
        source: Who writes programs; generates for `source.batch_size` tasks at once, or for each on its own.
        judge: Who runs them.
        share: Filled while the work goes on, so that an error leaves what was done before it.
        student: The model in training.
        journal: Where each task's programs are kept as soon as they are judged.
        progress: Shown how far both phases are.
    """
    batches = split_share(len(tasks), source)
    own = {position for batch in batches for position in batch}
    if journal is not None:
        _restore(tasks, own, judge, share, journal, progress)
        if keeps_step(source, student):
            # What was judged by other rules is judged anew, which takes each process its own time.
            meet("reading the journal")
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
    """Return whether the processes generate batch by batch together, as each batch takes all shards of the model."""
    return student is not None and student.is_sharded and source.uses_student


def _restore(
    tasks: Sequence[CodingTask],
    own: set[int],
    judge: Judge,
    share: Share,
    journal: Journal,
    progress: CollectionProgress | None,
) -> None:
    """Take over what the journal holds; judge again what was judged by other tests or limits, or not at all."""

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
        journal.append(task, again, judged_by=judging_identity(task, judge.limits))
        take(position, again)


def _even(pending: list[list[int]], tasks: int, source: ProgramSource, student: LocalModel | None) -> list[list[int]]:
    """Give every process of a sharded model the same number of full batches; repeats are generated and dropped."""
    if not keeps_step(source, student):
        return pending
    size = min(source.batch_size, tasks)
    needed = max(gather_object([len(pending)]))
    filled = [[*batch, *[batch[0]] * (size - len(batch))] for batch in pending]
    return filled + [list(range(size))] * (needed - len(filled))


def _first_places(order: Sequence[int], missing: set[int]) -> set[int]:
    """Return where in `order` each missing position comes first."""
    first: dict[int, int] = {}
    for place, position in enumerate(order):
        if position in missing:
            first.setdefault(position, place)
    return set(first.values())
