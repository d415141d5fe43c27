"""Evaluation on tasks: generate programs with the model as it is, judge them, and sum up (paper, section 4).

Enters: tasks, a source of programs and a judge. Leaves: counts for each task, the same in every process, and of them
the numbers the Trainer logs. No program is kept once it was counted.
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
from trl_pper.metrics.scores import TaskCounts, count_task, group_by, sum_up
from trl_pper.rounds.display import CollectionProgress
from trl_pper.rounds.journal import Journal, JudgedProgram
from trl_pper.rounds.overlap import PhaseSeconds
from trl_pper.rounds.processes import meet
from trl_pper.rounds.share import Share, judge_share, keeps_step, split_share
from trl_pper.tasks.task import CodingTask


@dataclass(frozen=True, kw_only=True)
class TaskScores:
    """How a model does on a set of tasks; every rate is a share in [0, 1] of the tasks that could be judged.

    The most probable program of each task speaks for the model; all k of them tell what more search would find.

    Args:
        pass_rate: Mean pass rate of all judged programs.
        first_pass_rate: Mean pass rate of the most probable program of each task.
        accuracy: Share of tasks whose most probable program passes every test (strict accuracy).
        solved: Share of tasks for which any of the k programs passes every test (pass@k of a beam search).
        num_programs: k, the most programs any task has.
        tasks: Number of tasks judged.
        unjudged: Number of tasks whose most probable program could not be judged.
        programs: Programs judged.
        runtime: Wall time, in seconds.
        accuracy_by_difficulty: The accuracy on the tasks of each difficulty, where there are several.
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
    accuracy_by_difficulty: dict[str, float] = field(default_factory=dict)

    def metrics(self) -> dict[str, float]:
        """Return the scores as the Trainer logs them, `solved` under the name `pass@k` with k as a number."""
        scores = asdict(self)
        by_difficulty = scores.pop("accuracy_by_difficulty")
        solved, k = scores.pop("solved"), scores.pop("num_programs")
        groups = {f"accuracy_{name.replace(' ', '_')}": value for name, value in by_difficulty.items()}
        return {f"pass@{k}": solved, **{name: float(value) for name, value in scores.items()}, **groups}

    def line(self, name: str = "evaluation") -> str:
        """Return the scores in one line, for people and for log files."""
        parts = [
            f"{name}: {self.tasks} tasks, {self.programs} programs",
            f"accuracy {self.accuracy:.3f}",
            f"pass@{self.num_programs} {self.solved:.3f}",
            f"mean pass rate {self.pass_rate:.3f}",
            f"{self.runtime:.1f} s",
        ]
        return ", ".join(parts + [f"{self.unjudged} tasks not judged"] * bool(self.unjudged))


@dataclass(frozen=True, kw_only=True)
class Tally:
    """What the programs of all tasks came to.

    Args:
        counts: Those of each task, in the order of the tasks.
        restored: Programs that a journal held from before a restart.
        seconds: Wall time of both phases on this process.
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
    """Generate, judge and count programs for tasks; every process does its share and all return the same counts.

    Args:
        tasks: What to write programs for, in the same order in every process.
        source: Who writes them.
        judge: Who runs them.
        student: The model in training, for a source that needs one.
        journal: Where each task's programs are kept as soon as they are judged, and taken from after a restart.
        progress: Shown how far this process is.
        on_judged: Called with the position of each task of this process and its judged programs.

    Raises:
        OtherProcessFailed: Another process failed.
        Exception: Whatever the source raises, after the programs it wrote before were judged.
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

    share = Share(on_judged=count)
    failure: Exception | None = None
    try:
        judge_share(tasks, source, judge, share, student=student, journal=journal, progress=progress)
    except Exception as error:
        if keeps_step(source, student):
            raise
        failure = error
    meet("evaluation", failure=failure)
    gathered = sorted(gather_object(list(found.items())), key=lambda row: row[0])
    restored = sum(gather_object([share.restored]))
    return Tally(counts=[one for _, one in gathered], restored=restored, seconds=share.seconds)


def progress_of_evaluation(tasks: int, source: ProgramSource, *, quiet: bool = False) -> CollectionProgress:
    """Return the display of an evaluation on so many tasks: the main process shows its share."""
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
) -> TaskScores:
    """Generate and judge programs for tasks; every process does its share and all return the same scores.

    Args:
        tasks: What to write programs for.
        source: Who writes them.
        judge: Who runs them.
        student: The model in training, for a source that needs one.
        quiet: Whether to show no progress.

    Raises:
        ValueError: There is no task, or no program could be judged.
    """
    source = as_source(source)
    if not tasks:
        raise ValueError("eval_dataset: must hold at least one task; got none")
    started = time.perf_counter()
    with progress_of_evaluation(len(tasks), source, quiet=quiet) as progress:
        counts = tally(tasks, source, judge, student=student, progress=progress).counts
    judged = [one for one in counts if one.first_pass_rate is not None]
    found = sum_up(judged)
    first_pass_rate, accuracy, solved = (each.value for each in (found.first_pass_rate, found.accuracy, found.solved))
    if found.pass_rate is None or first_pass_rate is None or accuracy is None or solved is None:
        first = counts[0].why_unjudged if counts[0].programs else "no program was generated"
        raise ValueError(f"eval_dataset: none of the {len(tasks)} tasks could be judged; the first says: {first}")
    by_difficulty = {name: sum_up(group).accuracy.value for name, group in group_by(judged, "difficulty").items()}
    return TaskScores(
        pass_rate=found.pass_rate,
        first_pass_rate=first_pass_rate,
        accuracy=accuracy,
        num_programs=max(one.programs for one in counts),
        solved=solved,
        tasks=len(judged),
        unjudged=len(counts) - len(judged),
        programs=sum(one.programs for one in counts),
        runtime=time.perf_counter() - started,
        accuracy_by_difficulty={name: value for name, value in by_difficulty.items() if value is not None},
    )
