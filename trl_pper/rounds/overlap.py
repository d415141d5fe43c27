"""Generate programs and judge them at the same time: what collection and evaluation share.

Enters: tasks, a source of programs and a judge. Leaves: for each task its programs with their verdicts, in order.
While the source writes, a thread hands what it wrote to the judge. When the source fails, what it wrote before is
judged and handed on first.
"""

from __future__ import annotations

import itertools
import logging
import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Container, Iterator, Sequence
from dataclasses import dataclass

from trl_pper.generation.extraction import Extraction, extract
from trl_pper.generation.local_model import LocalModel
from trl_pper.generation.source import GeneratedProgram, ProgramSource
from trl_pper.judge.judge import Judge
from trl_pper.rounds.display import CollectionProgress
from trl_pper.rounds.judged_program import JudgedProgram
from trl_pper.tasks.task import CodingTask

logger = logging.getLogger(__name__)

#: How long the judging thread waits for a program before it looks at verdicts again.
_READY_SECONDS = 0.02


@dataclass
class PhaseSeconds:
    """Wall time spent generating and judging, in seconds; the two overlap."""

    generate: float = 0.0
    judge: float = 0.0


def judge_programs(
    tasks: Sequence[CodingTask],
    source: ProgramSource,
    judge: Judge,
    *,
    student: LocalModel | None = None,
    wanted: Container[int] | None = None,
    on_judged: Callable[[int, list[JudgedProgram]], None] | None = None,
    progress: CollectionProgress | None = None,
    seconds: PhaseSeconds | None = None,
) -> list[list[JudgedProgram]]:
    """Generate programs and judge them meanwhile.

    Args:
        tasks: What to write programs for.
        source: Who writes them.
        judge: Who runs them.
        student: The model in training, for a source that needs one.
        wanted: Positions whose programs are judged; those of other tasks are generated and dropped. None for all.
        on_judged: Called, in another thread, with the position of each task and its judged programs, in order; they
            are its own then, and nothing is kept here.
        progress: Shown how many programs were generated, judged and passing.
        seconds: Filled with the wall time of both phases.

    Returns:
        For each task its judged programs, in the order in which they were generated; none for an unwanted task.
        Nothing at all where `on_judged` takes them.

    Raises:
        Exception: Whatever the source, the judge or `on_judged` raises, once what was generated before is judged.
    """
    seconds = seconds or PhaseSeconds()
    judging = _Judging(judge, on_judged, progress, seconds)
    try:
        generated = _timed(source.generate(tasks, student=student), seconds)
        for position, (task, programs) in enumerate(zip(tasks, generated, strict=True)):
            is_wanted = wanted is None or position in wanted
            if progress is not None and is_wanted:
                progress.generated(len(programs))
            judging.put(task, programs if is_wanted else [], counts=is_wanted)
    except Exception:
        # A server gone after an hour: what it wrote until then was paid for, and is judged before the error goes on.
        judging.finish()
        raise
    except BaseException:
        judging.abandon()
        raise
    judging.finish()
    return judging.judged


@dataclass(frozen=True, kw_only=True)
class _Job:
    """The programs of one task on their way to the judge; `counts` is whether anybody asked for them."""

    task: CodingTask
    programs: list[GeneratedProgram]
    found: list[Extraction]
    counts: bool

    @property
    def texts(self) -> list[str]:
        """What the judge runs."""
        return [each.program for each in self.found]


class _Judging:
    """The judging half of `judge_programs`: a thread that feeds the judge and hands on what it says."""

    def __init__(
        self,
        judge: Judge,
        on_judged: Callable[[int, list[JudgedProgram]], None] | None,
        progress: CollectionProgress | None,
        seconds: PhaseSeconds,
    ) -> None:
        self.judge = judge
        self.on_judged = on_judged
        self.progress = progress
        self.seconds = seconds
        self.judged: list[list[JudgedProgram]] = []
        self._places = itertools.count()
        self._error: BaseException | None = None
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._at_work: deque[_Job] = deque()
        self._busy_since = 0.0
        self._abandoned = False
        # A daemon, so that an interrupted run does not wait for the programs of its last task.
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def put(self, task: CodingTask, programs: list[GeneratedProgram], *, counts: bool) -> None:
        """Have the programs of a task judged; raise what went wrong with earlier ones."""
        if self._error is not None:
            raise self._error
        found = [extract(one.completion, prompt=task.prompt, entry_point=task.entry_point) for one in programs]
        self._jobs.put(_Job(task=task, programs=programs, found=found, counts=counts))

    def finish(self) -> None:
        """Wait until everything is judged; raise what went wrong."""
        self._jobs.put(None)
        self._thread.join()
        if self._error is not None:
            raise self._error

    def abandon(self) -> None:
        """Begin nothing more, and wait for nothing: somebody wants to leave."""
        self._abandoned = True

    def _run(self) -> None:
        try:
            for verdicts in self.judge.stream(self._ready()):
                job = self._at_work.popleft()
                if not self._at_work:
                    self.seconds.judge += time.perf_counter() - self._busy_since
                judged = [
                    JudgedProgram(
                        task=job.task, generated=one, program=each.program, verdict=verdict, extracted=each.found
                    )
                    for one, each, verdict in zip(job.programs, job.found, verdicts, strict=True)
                ]
                if self.on_judged is None:
                    self.judged.append(judged)
                else:
                    self.on_judged(next(self._places), judged)
                if self.progress is not None and job.counts:
                    self.progress.judged(verdicts, unextracted=sum(not each.found for each in job.found))
        except BaseException as error:
            self._error = error

    def _ready(self) -> Iterator[tuple[CodingTask, list[str]] | None]:
        while not self._abandoned:
            try:
                job = self._jobs.get(timeout=_READY_SECONDS)
            except queue.Empty:
                yield None
                continue
            if job is None:
                return
            if not self._at_work:
                self._busy_since = time.perf_counter()
            self._at_work.append(job)
            yield job.task, job.texts


def _timed(items: Iterator[list[GeneratedProgram]], seconds: PhaseSeconds) -> Iterator[list[GeneratedProgram]]:
    while True:
        started = time.perf_counter()
        item = next(items, None)
        seconds.generate += time.perf_counter() - started
        if item is None:
            return
        yield item
