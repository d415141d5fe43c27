"""One BTP round before each epoch: generate programs, judge them, store them (arXiv 2410.12236, Algorithm 1).

Enters: tasks, a source of programs, a judge and a buffer. Leaves: a fuller buffer and a `CollectionReport`. A program
the sandbox could not judge is counted and left out; a failed program is stored like any other.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

from accelerate import PartialState
from accelerate.utils import gather_object
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from trl_pper.experience import Experience
from trl_pper.generation.local_model import LocalModel
from trl_pper.generation.source import ProgramSource
from trl_pper.judge import Judge
from trl_pper.judging import JudgedProgram, PhaseSeconds, judge_programs
from trl_pper.progress import CollectionProgress
from trl_pper.replay import ReplayBuffer
from trl_pper.task import CodingTask

if TYPE_CHECKING:
    from collections.abc import Callable


@dataclass(frozen=True, kw_only=True)
class CollectionReport:
    """What one collection did, over all processes.

    Args:
        round_index: The round, from 0.
        programs: Programs generated.
        unjudged: Programs without a verdict, left out of the buffer.
        added: Programs new to the buffer.
        duplicates: Programs the buffer already held; their probabilities were refreshed.
        evicted: Experiences dropped for the buffer's capacity.
        pass_rate: Mean pass rate of the judged programs, in [0, 1].
        solved: Share of tasks with a program that passes every test, in [0, 1].
        generate_seconds: Wall time spent generating on this process.
        judge_seconds: Wall time spent judging on this process.
    """

    round_index: int
    programs: int
    unjudged: int
    added: int
    duplicates: int
    evicted: int
    pass_rate: float
    solved: float
    generate_seconds: float
    judge_seconds: float

    def metrics(self) -> dict[str, float]:
        """Return the report as numbers for a log, each name with the prefix `pper/`."""
        return {f"pper/{name}": float(value) for name, value in asdict(self).items()}


class BeamSampleCollector(TrainerCallback):  # type: ignore[misc]
    """Fill the trainer's buffer at the start of each round: phases B and T of the BTP pipeline.

    What is not given here, `PPERTrainer` fills in from its arguments.

    Args:
        source: Where programs come from; beam search with the model in training by default.
        judge: Who runs them; a judge with the limits of `PPERConfig` by default.
        tasks: What to write programs for; the trainer's `train_dataset` by default.

    Examples:
        >>> from trl_pper import BeamSampleCollector, DatasetSource
        >>> teacher = DatasetSource([{"task_id": "double", "completion": "    return 2 * x"}])
        >>> collector = BeamSampleCollector(source=teacher)
    """

    def __init__(
        self,
        source: ProgramSource | None = None,
        judge: Judge | None = None,
        tasks: Sequence[CodingTask] | None = None,
    ) -> None:
        self.source = source
        self.judge = judge
        self.tasks = tasks
        self.buffer: ReplayBuffer | None = None
        self.find_student: Callable[[], LocalModel] | None = None
        self.steps_per_round = 1
        self.next_round = 0
        self.reports: list[CollectionReport] = []
        self.on_collected: Callable[[CollectionReport], None] | None = None

    def on_epoch_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Collect for the round that starts, unless a resumed run already holds it."""
        round_index = state.global_step // self.steps_per_round
        if round_index >= self.next_round:
            report = self.collect(round_index, quiet=args.disable_tqdm)
            if self.on_collected is not None:
                self.on_collected(report)

    def collect(self, round_index: int = 0, *, quiet: bool = True) -> CollectionReport:
        """Generate, judge and store one round of programs.

        Every process writes and judges its share of the tasks, then all store the same experiences in the same order.

        Args:
            round_index: Recorded with the experiences.
            quiet: Whether to show no progress.

        Raises:
            ValueError: Source, judge, tasks or buffer are missing.
            Exception: Whatever the source raises, after the programs it wrote before were judged and stored.
        """
        source, judge, tasks, buffer = self._complete()
        state, seconds = PartialState(), PhaseSeconds()
        student = self.find_student() if self.find_student is not None else None
        share = list(tasks)[state.process_index :: state.num_processes]
        bar = CollectionProgress(
            len(share), title=f"round {round_index + 1}", quiet=quiet or not state.is_main_process
        )
        judged: list[list[JudgedProgram]] = []
        try:
            with bar:
                judged.extend(judge_programs(share, source, judge, student=student, progress=bar, seconds=seconds))
        except Exception:
            # Not gathered, since other processes may be well; this one keeps what was paid for, and fails.
            kept, _ = self._experiences(judged, None, round_index)
            buffer.add(experience for found in kept for experience in found)
            raise
        experiences, unjudged = self._experiences(judged, student, round_index)
        rows = [((i * state.num_processes + state.process_index), found) for i, found in enumerate(experiences)]
        rows = sorted(gather_object(rows), key=lambda row: row[0])
        unjudged = sum(gather_object([unjudged]))
        per_task = [found for _, found in rows]
        report = self._store(buffer, per_task, unjudged, round_index, seconds)
        self.next_round = round_index + 1
        self.reports.append(report)
        return report

    def _complete(self) -> tuple[ProgramSource, Judge, Sequence[CodingTask], ReplayBuffer]:
        if self.source is None or self.judge is None or self.tasks is None or self.buffer is None:
            missing = [name for name in ("source", "judge", "tasks", "buffer") if getattr(self, name) is None]
            raise ValueError(f"{', '.join(missing)}: not set; pass the collector to PPERTrainer, which fills them in")
        return self.source, self.judge, self.tasks, self.buffer

    def _experiences(
        self, judged: Sequence[Sequence[JudgedProgram]], student: LocalModel | None, round_index: int
    ) -> tuple[list[list[Experience]], int]:
        kept = [[one for one in programs if one.verdict.pass_rate is not None] for programs in judged]
        unjudged = sum(map(len, judged)) - sum(map(len, kept))
        scored = iter(_with_logprobs([one for programs in kept for one in programs], student))
        return [[_experience(next(scored), round_index) for _ in programs] for programs in kept], unjudged

    def _store(
        self,
        buffer: ReplayBuffer,
        per_task: Sequence[Sequence[Experience]],
        unjudged: int,
        round_index: int,
        seconds: PhaseSeconds,
    ) -> CollectionReport:
        flat = [experience for found in per_task for experience in found]
        stored = buffer.add(flat)
        return CollectionReport(
            round_index=round_index,
            programs=len(flat) + unjudged,
            unjudged=unjudged,
            added=stored.added,
            duplicates=stored.refreshed,
            evicted=stored.evicted,
            pass_rate=_mean([experience.pass_rate for experience in flat]),
            solved=_mean([any(experience.pass_rate == 1.0 for experience in found) for found in per_task]),
            generate_seconds=seconds.generate,
            judge_seconds=seconds.judge,
        )


def _with_logprobs(judged: Sequence[JudgedProgram], student: LocalModel | None) -> list[JudgedProgram]:
    """Score under the model in training what the source had no log-probability for."""
    missing = [i for i, one in enumerate(judged) if one.generated.logprob is None]
    scored = list(judged)
    if student is None or not missing:
        return scored
    pairs = [student.encode_completion(judged[i].task.prompt, judged[i].generated.completion) for i in missing]
    # Short sequences beside short ones: padding is wasted work.
    order = sorted(range(len(pairs)), key=lambda k: len(pairs[k][0]) + len(pairs[k][1]))
    logprobs = student.logprobs([pairs[k][0] for k in order], [pairs[k][1] for k in order])
    for k, logprob in zip(order, logprobs, strict=True):
        one = scored[missing[k]]
        generated = replace(one.generated, logprob=logprob, num_tokens=len(pairs[k][1]))
        scored[missing[k]] = replace(one, generated=generated)
    return scored


def _experience(judged: JudgedProgram, round_index: int) -> Experience:
    pass_rate = judged.verdict.pass_rate
    generated = judged.generated
    assert pass_rate is not None  # unjudged programs were left out
    return Experience(
        task_id=judged.task.task_id,
        prompt=judged.task.prompt,
        completion=generated.completion,
        program=judged.program,
        pass_rate=pass_rate,
        outcomes=judged.verdict.outcomes,
        logprob=generated.logprob,
        num_tokens=generated.num_tokens,
        source=generated.source,
        round_index=round_index,
    )


def _mean(values: Sequence[float]) -> float:
    return float(sum(values) / len(values)) if values else 0.0
