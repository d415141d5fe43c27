"""Evaluate a model on tasks: generate programs, judge them, and compute scores (paper, section 4).

All processes return the same counts and scores. Programs are not stored.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field

from accelerate import PartialState
from accelerate.utils import gather_object

from trl_pper.generation.local_model import LocalModel
from trl_pper.generation.source import ProgramSource, as_source
from trl_pper.judge.judge import Judge
from trl_pper.judge.verdict import shared_note
from trl_pper.metrics.scores import TaskCounts, count_task, group_by, sum_up
from trl_pper.rounds.display import CollectionProgress
from trl_pper.rounds.journal import Journal, JudgedProgram
from trl_pper.rounds.overlap import PhaseSeconds
from trl_pper.rounds.processes import meet
from trl_pper.rounds.share import Share, judge_share, keeps_step, split_share
from trl_pper.tasks.task import CodingTask


@dataclass(frozen=True, kw_only=True)
class TaskScores:
    """A record of the scores of a model on a set of tasks; fractions refer to the tasks that could be judged.

    Args:
        pass_rate: Mean pass rate of all judged programs, in [0, 1].
        first_pass_rate: Mean pass rate of the first program of each task, which a beam search finds most probable.
        accuracy: Fraction of the tasks whose first program passes every test (strict accuracy), in [0, 1].
        solved: Fraction of the tasks with any program that passes every test (pass@k of a beam search), in [0, 1].
        num_programs: k, the largest number of programs of any task.
        tasks: Number of tasks judged.
        unjudged: Number of tasks without a judged first program.
        programs: Number of programs generated.
        runtime: Wall time, in seconds.
        shared_tasks: Number of tasks whose tests ran in the program's process, where verdicts can be forged.
        accuracy_by_difficulty: The accuracy on the tasks of each difficulty; empty without difficulties.
    """

    pass_rate: float
    first_pass_rate: float
    accuracy: float
    solved: float
    num_programs: int
    tasks: int
    unjudged: int
    programs: int
    runtime: float
    shared_tasks: int = 0
    accuracy_by_difficulty: dict[str, float] = field(default_factory=dict)

    def metrics(self) -> dict[str, float]:
        """Return the scores as metrics for the Trainer; `solved` is named `pass@k`, with k as a number."""
        scores = asdict(self)
        by_difficulty = scores.pop("accuracy_by_difficulty")
        solved, k = scores.pop("solved"), scores.pop("num_programs")
        groups = {f"accuracy_{name.replace(' ', '_')}": value for name, value in by_difficulty.items()}
        return {f"pass@{k}": solved, **{name: float(value) for name, value in scores.items()}, **groups}

    def line(self, name: str = "evaluation") -> str:
        """Return the scores in a readable line."""
        parts = [
            f"{name}: {self.tasks} tasks, {self.programs} programs",
            f"accuracy {self.accuracy:.3f}",
            f"pass@{self.num_programs} {self.solved:.3f}",
            f"mean pass rate {self.pass_rate:.3f}",
            f"{self.runtime:.1f} s",
        ]
        parts += [f"{self.unjudged} tasks not judged"] * bool(self.unjudged)
        return ", ".join(parts + [shared_note(self.shared_tasks)] * bool(self.shared_tasks))


@dataclass(frozen=True, kw_only=True)
class Tally:
    """The counts of an evaluation, from which scores are computed.

    Args:
        counts: The counts of each task, in the order of the tasks.
        restored: Number of programs that were read from a journal after a restart.
        seconds: Wall time of both phases in this process.
    """

    counts: list[TaskCounts]
    restored: int
    seconds: PhaseSeconds


def tally(
    tasks: Sequence[CodingTask],
    source: ProgramSource,
    judge: Judge,
    *,
    student: LocalModel | None = None,
    journal: Journal | None = None,
    progress: CollectionProgress | None = None,
    on_judged: Callable[[int, list[JudgedProgram]], None] | None = None,
) -> Tally:
    """Generate, judge and count programs for tasks, which are divided among the processes.

    Args:
        tasks: The tasks to write programs for, in the same order in every process.
        source: The source of the programs.
        judge: The judge that runs the programs.
        student: The model in training, for a source that needs it.
        journal: The journal that each task's programs are written to as soon as they are judged, and read from after a
            restart.
        progress: The progress bar.
        on_judged: Function called with the position of each of this process's tasks and its judged programs.

    Returns:
        The counts, the same in every process.

    Raises:
        OtherProcessFailed: Another process failed.
        Exception: An error of the source, after the programs generated before it are judged.
    """
    found: dict[int, TaskCounts] = {}

    def count(position: int, programs: list[JudgedProgram]) -> None:
        task = tasks[position]
        found[position] = count_task(
            [one.verdict for one in programs],
            task_id=task.task_id,
            difficulty=task.difficulty,
            source=task.source,
            without_program=sum(not one.extracted for one in programs),
        )
        if on_judged is not None:
            on_judged(position, programs)

    # Counts instead of programs: the programs of an evaluation may not fit in memory.
    share = Share(on_judged=count)
    failure: Exception | None = None
    try:
        judge_share(tasks, source, judge, share, student=student, journal=journal, progress=progress)
    except Exception as error:
        # The other processes of a sharded model wait inside a forward pass, where `meet` does not reach them.
        if keeps_step(source, student):
            raise
        failure = error
    meet("evaluation", failure=failure)
    gathered = sorted(gather_object(list(found.items())), key=lambda row: row[0])
    restored = sum(gather_object([share.restored]))
    return Tally(counts=[one for _, one in gathered], restored=restored, seconds=share.seconds)


def progress_of_evaluation(tasks: int, source: ProgramSource, *, quiet: bool = False) -> CollectionProgress:
    """Return the progress bar of an evaluation; only the main process shows a bar, for its own tasks."""
    state = PartialState()
    return CollectionProgress(
        sum(map(len, split_share(tasks, source))),
        title="evaluation",
        unit="tasks" if state.num_processes == 1 else "own tasks",
        quiet=quiet or not state.is_main_process,
    )


def evaluate_tasks(
    tasks: Sequence[CodingTask],
    source: ProgramSource,
    judge: Judge,
    *,
    student: LocalModel | None = None,
    quiet: bool = True,
    on_judged: Callable[[int, list[JudgedProgram]], None] | None = None,
) -> TaskScores:
    """Generate and judge programs for tasks, which are divided among the processes, and compute scores.

    Args:
        tasks: The tasks to write programs for.
        source: The source of the programs.
        judge: The judge that runs the programs.
        student: The model in training, for a source that needs it.
        quiet: Whether to show no progress.
        on_judged: Function called with the position of each of this process's tasks and its judged programs.

    Returns:
        The scores, the same in every process.

    Raises:
        ValueError: There is no task, or no task could be judged.
    """
    source = as_source(source)
    if not tasks:
        raise ValueError("eval_dataset: must hold at least one task; got none")
    started = time.perf_counter()
    with progress_of_evaluation(len(tasks), source, quiet=quiet) as progress:
        counts = tally(tasks, source, judge, student=student, progress=progress, on_judged=on_judged).counts
    # A task whose first program has no verdict counts in no score: an infrastructure failure is not a wrong program.
    judged = [one for one in counts if one.first_pass_rate is not None]
    found = sum_up(judged)
    first_pass_rate, accuracy, solved = (each.value for each in (found.first_pass_rate, found.accuracy, found.solved))
    if found.pass_rate is None or first_pass_rate is None or accuracy is None or solved is None:
        first = counts[0].why_unjudged if counts[0].programs else "no program was generated"
        raise ValueError(f"eval_dataset: none of the {len(tasks)} tasks could be judged. The first task: {first}")
    by_difficulty = {name: sum_up(group).accuracy.value for name, group in group_by(judged, "difficulty").items()}
    return TaskScores(
        pass_rate=found.pass_rate,
        first_pass_rate=first_pass_rate,
        accuracy=accuracy,
        # A source may write fewer programs for some tasks.
        num_programs=max(one.programs for one in counts),
        solved=solved,
        tasks=len(judged),
        unjudged=len(counts) - len(judged),
        programs=sum(one.programs for one in counts),
        runtime=time.perf_counter() - started,
        shared_tasks=sum(one.shared for one in counts),
        accuracy_by_difficulty={name: value for name, value in by_difficulty.items() if value is not None},
    )
