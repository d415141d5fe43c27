"""Generate programs and judge them at the same time, for collection and evaluation.

Each task's programs go to the judge as soon as the source has written them. Judged programs are passed to a callback
in the order of the tasks, in the judge's threads, while the source goes on writing. If the source fails, the programs
that it wrote before are judged and passed on first. After an interrupt they are passed on as they are, so that a
journal has them, with the outcome "not_run" where there is no verdict yet.
"""

from __future__ import annotations

import concurrent.futures
import math
import threading
import time
from collections import deque
from collections.abc import Callable, Container, Iterator, Sequence
from dataclasses import dataclass

from trl_pper.generation.extraction import Extraction, extract
from trl_pper.generation.local_model import LocalModel
from trl_pper.generation.source import GeneratedProgram, ProgramSource, hearing
from trl_pper.judge.judge import Judge
from trl_pper.judge.verdict import Verdict
from trl_pper.rounds.display import CollectionProgress
from trl_pper.rounds.journal import JudgedProgram
from trl_pper.tasks.task import CodingTask

#: Longest time, after an interrupt, in which tasks are passed on.
_PATIENCE_SECONDS = 1.0


@dataclass
class PhaseSeconds:
    """A record of the wall time spent on generating and on judging, in seconds; the two overlap."""

    generate: float = 0.0
    judge: float = 0.0


def judge_programs(
    tasks: Sequence[CodingTask],
    source: ProgramSource,
    judge: Judge,
    on_judged: Callable[[int, list[JudgedProgram]], None],
    *,
    student: LocalModel | None = None,
    wanted: Container[int] | None = None,
    progress: CollectionProgress | None = None,
    seconds: PhaseSeconds | None = None,
) -> None:
    """Generate programs, and judge them at the same time.

    Args:
        tasks: The tasks to write programs for.
        source: The source of the programs.
        judge: The judge that runs the programs.
        on_judged: Function called, in another thread, with the position of each task and the list of its judged
            programs, in the order of the tasks. It may change the list.
        student: The model in training, for a source that needs it.
        wanted: Positions of tasks whose programs are judged; programs of other tasks are generated and dropped. None
            for all tasks.
        progress: The progress to show; a source may tell it of parts of tasks by `tell_written`.
        seconds: The record to add the wall time of both phases to.

    Raises:
        Exception: An error of the source, the judge or `on_judged`, once the programs generated before are judged.
    """
    seconds = seconds or PhaseSeconds()
    # A progress that shows nothing counts all the same, so that every process does the same.
    progress = progress or CollectionProgress(len(tasks), quiet=True)
    progress.writing(len(tasks))
    judging = _Judging(judge, on_judged, progress, seconds)
    try:
        try:
            with hearing(progress.wrote):
                generated = _timed(source.generate(tasks, student=student), seconds)
                for position, (task, programs) in enumerate(zip(tasks, generated, strict=True)):
                    progress.yielded(position + 1)
                    if wanted is None or position in wanted:
                        progress.generated(len(programs))
                        judging.put(position, task, programs)
        except Exception:
            # The programs generated so far were paid for, for instance by a server that fails after an hour.
            judging.finish()
            raise
        judging.finish()
    except BaseException as error:
        if not isinstance(error, Exception):
            judging.abandon()
        raise


@dataclass(frozen=True, kw_only=True)
class _Submitted:
    """The programs of a task that were submitted to the judge."""

    position: int
    task: CodingTask
    programs: Sequence[GeneratedProgram]
    found: Sequence[Extraction]
    verdicts: concurrent.futures.Future[list[Verdict]]

    def judged(self) -> list[JudgedProgram]:
        """Return the programs with their verdicts."""
        return [
            JudgedProgram(task=self.task, generated=one, program=each.program, verdict=verdict, extracted=each.found)
            for one, each, verdict in zip(self.programs, self.found, self.verdicts.result(), strict=True)
        ]


class _Judging:
    """A queue that submits programs to the judge, and passes judged programs to a callback in the order of the tasks.

    The callback runs in the threads of the judge.
    """

    def __init__(
        self,
        judge: Judge,
        on_judged: Callable[[int, list[JudgedProgram]], None],
        progress: CollectionProgress,
        seconds: PhaseSeconds,
    ) -> None:
        self.judge = judge
        self.on_judged = on_judged
        self.progress = progress
        self.seconds = seconds
        self._changed = threading.Condition()
        self._submitted: deque[_Submitted] = deque()
        self._is_handing_on = False
        self._error: BaseException | None = None
        self._busy_since = 0.0
        #: The time at which tasks are no longer passed on, after an interrupt.
        self._hand_on_until = math.inf

    def put(self, position: int, task: CodingTask, programs: Sequence[GeneratedProgram]) -> None:
        """Submit the programs of a task to the judge; raise the error of an earlier task, if any."""
        if self._error is not None:
            raise self._error
        found = [extract(one.completion, prompt=task.prompt, entry_point=task.entry_point) for one in programs]
        with self._changed:
            if not self._submitted:
                self._busy_since = time.perf_counter()
            verdicts = self.judge.submit(task, [each.program for each in found])
            self._submitted.append(
                _Submitted(position=position, task=task, programs=programs, found=found, verdicts=verdicts)
            )
        # Outside the lock: the callback runs at once if the verdicts are there already, and takes the lock itself.
        verdicts.add_done_callback(self._hand_on)

    def finish(self) -> None:
        """Wait until all programs are judged and passed on; raise the first error."""
        with self._changed:
            self._changed.wait_for(lambda: not self._submitted and not self._is_handing_on)
        if self._error is not None:
            raise self._error

    def abandon(self) -> None:
        """Break off all programs, pass on the tasks as they are, and wait no longer than a moment."""
        # The user has interrupted the run, and the programs were paid for.
        self._hand_on_until = time.monotonic() + _PATIENCE_SECONDS
        self.judge.abort()
        # The interrupt may have come before the last task got its callback.
        self._hand_on()
        with self._changed:
            self._changed.wait_for(lambda: not self._submitted, timeout=_PATIENCE_SECONDS)
            self._error = self._error or concurrent.futures.CancelledError()
            # A caller closes its journal next, which nobody may be writing then.
            self._changed.wait_for(lambda: not self._is_handing_on)

    def _hand_on(self, _: object = None) -> None:
        """Pass on the programs of each judged task, up to the first task that is still being judged."""
        # A single thread at a time, outside the lock: the callback writes a journal, which takes a while, and the
        # other threads of the judge have to go on judging.
        while True:
            with self._changed:
                if self._is_handing_on or not self._submitted or not self._submitted[0].verdicts.done():
                    return
                first = self._submitted.popleft()
                if not self._submitted:
                    self.seconds.judge += time.perf_counter() - self._busy_since
                self._is_handing_on = True
            try:
                if self._error is None and time.monotonic() < self._hand_on_until:
                    self._hand_on_one(first)
            except BaseException as error:
                # Futures swallow errors of their callbacks: `put` or `finish` raises it.
                self._error = error
                if not isinstance(error, Exception):
                    # An interrupt, where the verdicts were there at once and this is the caller's own thread.
                    raise
            finally:
                with self._changed:
                    self._is_handing_on = False
                    self._changed.notify_all()

    def _hand_on_one(self, submitted: _Submitted) -> None:
        judged = submitted.judged()
        self.on_judged(submitted.position, judged)
        unextracted = sum(not one.extracted for one in judged)
        self.progress.judged([one.verdict for one in judged], unextracted=unextracted)


def _timed(items: Iterator[list[GeneratedProgram]], seconds: PhaseSeconds) -> Iterator[list[GeneratedProgram]]:
    while True:
        started = time.perf_counter()
        item = next(items, None)
        seconds.generate += time.perf_counter() - started
        if item is None:
            return
        yield item
