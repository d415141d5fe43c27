"""Evaluation on tasks: generate programs with the model as it is, judge them, and sum up (paper, section 4).

Enters: tasks, a model and a judge. Leaves: the numbers the Trainer logs. The most probable program of each task
speaks for the model; all k of them tell what more search would find.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from statistics import fmean

from accelerate.utils import gather_object

from trl_pper.generation.local_model import LocalModel
from trl_pper.generation.source import ProgramSource
from trl_pper.judge import Judge
from trl_pper.processes import meet
from trl_pper.share import Share, judge_share, keeps_step
from trl_pper.task import CodingTask
from trl_pper.verdict import Verdict


@dataclass(frozen=True, kw_only=True)
class TaskScores:
    """How a model does on a set of tasks; every rate is a share in [0, 1] of the tasks that could be judged.

    Args:
        pass_rate: Mean pass rate of the most probable program of each task.
        accuracy: Share of tasks whose most probable program passes every test (strict accuracy).
        solved: Share of tasks for which any of the k programs passes every test (pass@k of a beam search).
        num_programs: k, the most programs any task has.
        tasks: Number of tasks judged.
        unjudged: Number of tasks whose most probable program could not be judged.
        programs: Programs judged.
        runtime: Wall time, in seconds.
    """

    pass_rate: float
    accuracy: float
    solved: float
    num_programs: int
    tasks: int
    unjudged: int
    programs: int
    runtime: float

    def metrics(self) -> dict[str, float]:
        """Return the scores as the Trainer logs them, `solved` under the name `pass@k` with k as a number."""
        scores = {name: float(value) for name, value in asdict(self).items()}
        solved, k = scores.pop("solved"), int(scores.pop("num_programs"))
        return {f"pass@{k}": solved, **scores}


def evaluate_tasks(
    tasks: Sequence[CodingTask], source: ProgramSource, judge: Judge, *, student: LocalModel | None = None
) -> TaskScores:
    """Generate and judge programs for tasks; every process does its share and all return the same scores.

    Raises:
        ValueError: There is no task, or no program could be judged.
    """
    if not tasks:
        raise ValueError("eval_dataset: must hold at least one task; got none")
    started = time.perf_counter()
    share = Share()
    failure: Exception | None = None
    try:
        judge_share(tasks, source, judge, share, student=student)
    except Exception as error:
        if keeps_step(source, student):
            raise
        failure = error
    meet("evaluation", failure=failure)
    verdicts = [[one.verdict for one in programs] for _, programs in sorted(share.judged.items())]
    gathered: list[list[Verdict]] = gather_object(verdicts)
    judged = [programs for programs in gathered if programs and programs[0].pass_rate is not None]
    if not judged:
        first = gathered[0][0].message if gathered[0] else "no program was generated"
        raise ValueError(f"eval_dataset: none of the {len(tasks)} tasks could be judged; the first says: {first}")
    return TaskScores(
        pass_rate=fmean([programs[0].pass_rate or 0.0 for programs in judged]),
        accuracy=fmean([programs[0].accepted for programs in judged]),
        num_programs=max(map(len, gathered)),
        solved=fmean([any(verdict.accepted for verdict in programs) for programs in judged]),
        tasks=len(judged),
        unjudged=len(gathered) - len(judged),
        programs=sum(map(len, gathered)),
        runtime=time.perf_counter() - started,
    )
