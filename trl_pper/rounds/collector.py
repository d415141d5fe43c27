"""Collect the programs of a round before each epoch: generate, judge and store them (arXiv 2410.12236, Algorithm 1).

A program that the sandbox could not judge is counted, but not stored; a program that fails its tests is stored like
any other. With a journal, a killed collection continues where it stopped.
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from numbers import Integral
from pathlib import Path
from typing import Any

from accelerate import PartialState
from accelerate.utils import gather_object
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_utils import IntervalStrategy

from trl_pper.generation.encoding import Encoder
from trl_pper.generation.extraction import LEARNED, plain_completion
from trl_pper.generation.local_model import LocalModel
from trl_pper.generation.scorer import Scorer
from trl_pper.generation.source import ProgramSource, as_source
from trl_pper.judge.judge import Judge
from trl_pper.replay.buffer import ReplayBuffer
from trl_pper.replay.draw_rule import is_number
from trl_pper.replay.experience import Experience
from trl_pper.rounds.collection_report import CollectionReport, describe
from trl_pper.rounds.display import CollectionProgress, say, warnings_above_bars
from trl_pper.rounds.journal import JudgedProgram
from trl_pper.rounds.processes import meet
from trl_pper.rounds.repair import repairs
from trl_pper.rounds.share import Share, judge_share, keeps_step, open_journal, split_share
from trl_pper.tasks.task import CodingTask

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Collection:
    """A complete set of the parts that collect a round: source, judge, tasks and buffer.

    Args:
        source: The source of the programs.
        judge: The judge that runs the programs.
        tasks: The tasks to write programs for.
        buffer: The buffer to fill.
        journal_folder: Folder of the journals, a journal for each round; None for no journal.
        find_student: Function that returns the model in training, called at each collection.
        scorer: Computes log-probabilities of programs whose source has none; the model in training by default.
        learn: "completion" or "program", as in `BeamSampleCollector`.
        repairs: Largest number of repair experiences of a task, as in `BeamSampleCollector`.
        max_length: Longest row of prompt and completion, in tokens, for repairs; None for no bound.
        first_round: The round in the buffer that the first round is, behind those of earlier runs.
    """

    source: ProgramSource
    judge: Judge
    tasks: Sequence[CodingTask]
    buffer: ReplayBuffer
    journal_folder: str | Path | None = None
    # A function: under DDP and ZeRO-3 the wrapped model exists only once training has begun.
    find_student: Callable[[], LocalModel] | None = None
    scorer: Scorer | None = None
    learn: str = "completion"
    repairs: int = 0
    max_length: int | None = None
    first_round: int = 0

    def run(self, round_index: int = 0, *, quiet: bool = True) -> CollectionReport:
        """Generate, judge and store the programs of a round.

        Every process generates and judges programs for its own tasks; then all processes store the same experiences in
        the same order.

        Args:
            round_index: The round, from 0; behind `first_round`, it is recorded with the experiences.
            quiet: Whether to show no progress.

        Raises:
            OtherProcessFailed: Another process failed; the programs of this process are in the journal.
            RuntimeError: The buffers of the processes differ.
            Exception: An error of the source, after the programs generated before it are judged and stored.
        """
        started = time.perf_counter()
        tasks, buffer = self.tasks, self.buffer
        student = self.find_student() if self.find_student is not None else None
        scorer = self.scorer or (None if student is None else Scorer(student))
        # Before anything is generated: the error would otherwise come after hours of generating and judging.
        if scorer is not None:
            scorer.check([task.prompt for task in tasks])
        share = self._judge_share(round_index, student, quiet=quiet)
        found, unjudged = self._experiences(
            share,
            scorer,
            round_index,
            filler=tasks[0] if tasks else None,
            encoder=None if student is None else student.encoder,
        )
        # Processes differ in the number of programs to score, and `gather_object` would time out.
        meet(f"round {round_index + 1}, scoring")
        # In the order of the tasks: the number of processes must not change the order in the buffer, and the draws.
        gathered = sorted(gather_object(found), key=lambda one: one.position)
        stored = buffer.add(experience for one in gathered for experience in (*one.written, *one.repaired))
        digests = gather_object([buffer.digest()])
        if len(set(digests)) > 1:
            raise RuntimeError(
                f"buffer: differs between processes after round {round_index + 1}, so they would draw different "
                f"minibatches; got the digests {digests}. Hand every process the same tasks, buffer and seed"
            )
        return describe(
            [one.written for one in gathered],
            [tasks[one.position].source for one in gathered],
            buffer,
            stored,
            round_index=round_index,
            first_round=self.first_round,
            unjudged=sum(gather_object([unjudged])),
            unextracted=_count_unextracted(share, round_index),
            clipped=_count_clipped(share, round_index),
            restored=sum(gather_object([share.restored])),
            shared_tasks=len(set(gather_object(_shared_tasks(share)))),
            repairs=sum(len(one.repaired) for one in gathered),
            seconds=share.seconds,
            collect_seconds=time.perf_counter() - started,
        )

    def _judge_share(self, round_index: int, student: LocalModel | None, *, quiet: bool) -> Share:
        source, tasks = self.source.for_round(round_index), self.tasks
        state, share = PartialState(), Share()
        failure: Exception | None = None
        own = sum(map(len, split_share(len(tasks), source)))
        bar = CollectionProgress(
            own,
            title=f"round {round_index + 1}",
            unit="tasks" if state.num_processes == 1 else "own tasks",
            quiet=quiet or not state.is_main_process,
        )
        with contextlib.ExitStack() as stack:
            journal = None
            if self.journal_folder is not None:
                label = f"round-{round_index:05d}"
                journal = open_journal(self.journal_folder, source, label=label, student=student)
                stack.enter_context(journal)
            stack.enter_context(bar)
            try:
                judge_share(tasks, source, self.judge, share, student=student, journal=journal, progress=bar)
            except Exception as error:
                # The programs generated so far were paid for: store them, though only in this process.
                found, _ = self._experiences(share, None, round_index, filler=None)
                self.buffer.add(experience for one in found for experience in one.written)
                if keeps_step(source, student):
                    # The other processes wait inside a forward pass, where `meet` does not reach them.
                    raise
                failure = error
            meet(f"round {round_index + 1}, collection", failure=failure)
        return share

    def _experiences(
        self,
        share: Share,
        scorer: Scorer | None,
        round_index: int,
        *,
        filler: CodingTask | None,
        encoder: Encoder | None = None,
    ) -> tuple[list[_TaskExperiences], int]:
        """Return the experiences of each of this process's tasks, and the number of unjudged programs."""
        kept = {
            position: [one for one in programs if one.verdict.pass_rate is not None]
            for position, programs in sorted(share.judged.items())
        }
        unjudged = sum(map(len, share.judged.values())) - sum(map(len, kept.values()))
        written_in = self.first_round + round_index
        if self.learn == "program":
            kept = {position: [_plain(one) for one in programs] for position, programs in kept.items()}
        repaired = {position: self._repairs(programs, encoder) for position, programs in kept.items()}
        flat = [one for position in kept for one in (*kept[position], *repaired[position])]
        scored = iter(_with_logprobs(flat, scorer, filler))
        return [
            _TaskExperiences(
                position=position,
                written=[_experience(next(scored), written_in) for _ in kept[position]],
                repaired=[_experience(next(scored), written_in) for _ in repaired[position]],
            )
            for position in kept
        ], unjudged

    def _repairs(self, judged: Sequence[JudgedProgram], encoder: Encoder | None) -> list[JudgedProgram]:
        """Return the repairs of a task's programs that are not too long to be learned."""
        if not self.repairs:
            return []
        found = repairs(judged, self.repairs)
        if encoder is None or self.max_length is None:
            return found
        longest = self.max_length
        # A row that is cut would end in the middle of the right program.
        return [
            one for one in found if sum(map(len, encoder.pair(one.task.prompt, one.generated.completion))) <= longest
        ]


@dataclass(frozen=True, kw_only=True)
class _TaskExperiences:
    """The experiences of the task at a position: of programs that were written for it, and of repairs."""

    position: int
    written: list[Experience]
    repaired: list[Experience]


class BeamSampleCollector(TrainerCallback):  # type: ignore[misc]
    """A callback that fills the trainer's buffer at the start of each round: phases B and T of the BTP pipeline.

    `PPERTrainer` supplies every argument that is left out.

    Args:
        source: The source of the programs; beam search with the model in training by default.
        judge: The judge that runs the programs; a judge with the limits of `PPERConfig` by default.
        tasks: The tasks to write programs for; the trainer's `train_dataset` by default.
        journal_folder: Folder in which each round writes its programs as soon as they are judged, so that a killed
            collection continues where it stopped; `_pper/journal` in the trainer's output folder by default.
        scorer: Computes log-probabilities of programs whose source has none; the model in training by default.
        learn: The text to learn: "completion" for the completion exactly as written; "program" for the program alone,
            without the prose and fences of a chat reply. Its log-probability is then computed by the scorer.
        repairs: Largest number of repair experiences of a task and round, see `trl_pper.rounds.repair`: the answer to
            a failed program and its failing test is a right program of the same round. For draws each repair is a
            task of its own. Repairs longer than `max_length` are left out.

    Raises:
        ValueError: `learn` or `repairs` has another value.

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
        journal_folder: str | Path | None = None,
        scorer: Scorer | None = None,
        learn: str = "completion",
        repairs: int = 0,
    ) -> None:
        if learn not in LEARNED:
            raise ValueError(f"learn: must be one of {', '.join(LEARNED)}; got {learn!r}")
        if not is_number(repairs, Integral) or repairs < 0:
            raise ValueError(f"repairs: must be a whole number of at least 0; got {repairs!r}")
        self.learn = learn
        self.repairs = repairs
        self.source = source
        self.judge = judge
        self.tasks = tasks
        self.journal_folder = journal_folder
        self.scorer = scorer
        #: The first round that is not collected yet; a resumed run reads it from its checkpoint.
        self.next_round = 0
        #: The round in the buffer that round 0 is, behind the rounds of an earlier run.
        self.first_round = 0
        self.reports: list[CollectionReport] = []
        self._supplied: dict[str, Any] = {}
        self._steps_per_round = 1
        self._on_collected: Callable[[CollectionReport], None] | None = None
        self._before_collection: Callable[[int], None] | None = None

    def attach(
        self,
        buffer: ReplayBuffer,
        *,
        source: ProgramSource | None = None,
        judge: Judge | None = None,
        journal_folder: str | Path | None = None,
        find_student: Callable[[], LocalModel] | None = None,
        steps_per_round: int = 1,
        max_length: int | None = None,
        before_collection: Callable[[int], None] | None = None,
        on_collected: Callable[[CollectionReport], None] | None = None,
    ) -> Collection:
        """Supply the missing parts from a trainer; parts given to the constructor take precedence.

        Args:
            buffer: The buffer to fill.
            source: The source of the programs.
            judge: The judge that runs the programs.
            journal_folder: Folder of the journals.
            find_student: Function that returns the model in training, called at each collection.
            steps_per_round: Number of optimizer steps between two collections.
            max_length: Longest row of prompt and completion that can be learned, in tokens; None for no bound.
            before_collection: Function called with the round before its collection changes the buffer.
            on_collected: Function called with the report of each collection.

        Returns:
            The collection, with all of its parts.

        Raises:
            ValueError: Source, judge or tasks are missing.
        """
        self._steps_per_round, self._on_collected = steps_per_round, on_collected
        self._before_collection = before_collection
        self._supplied = {
            "buffer": buffer,
            "source": source,
            "judge": judge,
            "journal_folder": journal_folder,
            "find_student": find_student,
            "max_length": max_length,
        }
        return self.collection

    @property
    def collection(self) -> Collection:
        """The collection of this collector, made of its present attributes and the parts that `attach` supplied.

        Raises:
            ValueError: Source, judge or tasks are missing, or the collector is not attached to a buffer yet.
        """
        own = {"source": self.source, "judge": self.judge, "tasks": self.tasks, "journal_folder": self.journal_folder}
        parts = self._supplied | {name: part for name, part in own.items() if part is not None}
        missing = [name for name in ("source", "judge", "tasks", "buffer") if parts.get(name) is None]
        if missing:
            raise ValueError(f"{', '.join(missing)}: not set; pass the collector to PPERTrainer, which fills them in")
        parts["source"] = as_source(parts["source"])
        return Collection(
            **parts, scorer=self.scorer, learn=self.learn, repairs=self.repairs, first_round=self.first_round
        )

    def on_epoch_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Collect the programs of the round that begins, unless a resumed run has collected them already."""
        # Counted in steps, not epochs: when a run resumes, the Trainer calls this in the middle of an epoch, too.
        round_index = state.global_step // self._steps_per_round
        if round_index < self.next_round:
            return
        if self._before_collection is not None:
            self._before_collection(round_index)
        with warnings_above_bars():
            report = self.collect(round_index, quiet=args.disable_tqdm)
            if state.is_world_process_zero:
                say(report.line(), log_level=args.get_process_log_level())
            if self._on_collected is not None:
                self._on_collected(report)

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Have a step logged before the round or the process may end: its entry has the figures of the round."""
        # The Trainer's own callback has decided before whether to save.
        last = state.global_step % self._steps_per_round == 0
        if args.logging_strategy != IntervalStrategy.NO and (last or control.should_save):
            control.should_log = True

    def collect(self, round_index: int = 0, *, quiet: bool = True) -> CollectionReport:
        """Generate, judge and store the programs of a round; see `Collection.run`.

        Raises:
            ValueError: The collector is not attached to a buffer.
        """
        report = self.collection.run(round_index, quiet=quiet)
        self.next_round = round_index + 1
        self.reports.append(report)
        return report


def _count_unextracted(share: Share, round_index: int) -> int:
    """Return the number of completions without a program in all processes, and warn about them."""
    task_ids: list[str] = gather_object(share.unextracted())
    if task_ids and PartialState().is_main_process:
        logger.warning(
            "round %d: no program was found in %d completions, the first for task %r. Read some of them: the prompt "
            "may not ask for code, or the completions may end too early",
            round_index + 1,
            len(task_ids),
            task_ids[0],
        )
    return len(task_ids)


def _count_clipped(share: Share, round_index: int) -> int:
    """Return the number of completions in all processes that were cut off, and warn if they are the majority."""
    ended = [one.generated.finish_reason for judged in share.judged.values() for one in judged]
    counts = gather_object([(ended.count("length"), len(ended))])
    clipped, programs = (int(sum(part)) for part in zip(*counts, strict=True))
    if 2 * clipped > programs and PartialState().is_main_process:
        logger.warning(
            "round %d: %d of %d completions were cut off at the longest length, so that their programs have no end to "
            "learn. Raise max_completion_length, or give the tasks stops",
            round_index + 1,
            clipped,
            programs,
        )
    return clipped


def _shared_tasks(share: Share) -> list[int]:
    """Return the positions of the tasks whose tests ran in the program's process."""
    return [at for at, programs in share.judged.items() if any(one.verdict.run == "shared" for one in programs)]


def _plain(judged: JudgedProgram) -> JudgedProgram:
    """Replace the completion by a completion that consists of the program alone, if there is such a completion."""
    task, generated = judged.task, judged.generated
    text = plain_completion(judged.program, prompt=task.prompt, entry_point=task.entry_point)
    if not judged.extracted or text is None or text == generated.completion:
        return judged
    # The log-probability was that of the completion as written, with its prose.
    plain = replace(generated, completion=text, logprob=None, num_tokens=None, scorer="", token_ids=())
    return replace(judged, generated=plain)


def _with_logprobs(
    judged: Sequence[JudgedProgram], scorer: Scorer | None, filler: CodingTask | None
) -> list[JudgedProgram]:
    """Compute the missing log-probabilities of programs."""
    scored = list(judged)
    if scorer is None:
        return scored
    # Called without missing programs, too: the processes of a sharded model have to score together.
    missing = [i for i, one in enumerate(judged) if one.generated.logprob is None]
    pairs = [(judged[i].task.prompt, judged[i].generated.completion) for i in missing]
    found = scorer.score(
        pairs,
        truncated=[judged[i].truncated for i in missing],
        token_ids=[judged[i].generated.token_ids for i in missing],
        filler=None if filler is None else filler.prompt,
    )
    for i, likelihood in zip(missing, found, strict=True):
        if likelihood is not None:
            scored[i] = replace(scored[i], generated=replace(scored[i].generated, **asdict(likelihood)))
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
        cpu_seconds=judged.verdict.cpu_seconds,
        logprob=generated.logprob,
        num_tokens=generated.num_tokens,
        source=generated.source,
        scorer=generated.scorer,
        settings=generated.settings,
        round_index=round_index,
        truncated=judged.truncated,
        token_ids=generated.token_ids,
    )
