"""Generate programs and judge them at the same time, for collection and evaluation alike.

Each task's programs go to the judge as soon as the source has written them. Verdicts are handed on in the order of
the tasks, in the judge's threads, while the source goes on writing. When the source fails, the programs it wrote
before are judged and handed on first.
"""

from __future__ import annotations

import concurrent.futures
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Container, Iterator, Sequence
from dataclasses import dataclass

from trl_pper.generation.extraction import Extraction, extract
from trl_pper.generation.local_model import LocalModel
from trl_pper.generation.source import GeneratedProgram, ProgramSource
from trl_pper.judge.judge import Judge
from trl_pper.judge.verdict import Verdict
from trl_pper.rounds.display import CollectionProgress
from trl_pper.rounds.journal import JudgedProgram
from trl_pper.tasks.task import CodingTask

logger = logging.getLogger(__name__)


@dataclass
class PhaseSeconds:
    """Wall time spent generating and judging, in seconds; the two overlap."""

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
    """Generate programs and judge them meanwhile.

    Args:
        tasks: The tasks to write programs for.
        source: Writes the programs.
        judge: Runs them.
        on_judged: Called, in another thread, with the position of each task and its judged programs, in the order of
            the tasks. The list belongs to the callee.
        student: The model in training, for a source that needs one.
        wanted: Positions of tasks whose programs are judged; programs of other tasks are generated and dropped. None
            for all tasks.
        progress: Shown how many programs were generated, judged and passing.
        seconds: Filled with the wall time of both phases.

    Raises:
        Exception: Whatever the source, the judge or `on_judged` raises, once the programs generated before are
            judged.
    """
    seconds = seconds or PhaseSeconds()
    judging = _Judging(judge, on_judged, progress, seconds)
    try:
        generated = _timed(source.generate(tasks, student=student), seconds)
        for position, (task, programs) in enumerate(zip(tasks, generated, strict=True)):
            if wanted is None or position in wanted:
                if progress is not None:
                    progress.generated(len(programs))
                judging.put(position, task, programs)
    except Exception:
        # A server gone after an hour: the programs it wrote until then were paid for.
        judging.finish()
        raise
    except BaseException:
        judging.abandon()
        raise
    judging.finish()


@dataclass(frozen=True, kw_only=True)
class _Submitted:
    """The programs of a task that the judge has."""

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
    """The judging half of `judge_programs`: hands judged programs on, in order, in the threads of the judge."""

    def __init__(
        self,
        judge: Judge,
        on_judged: Callable[[int, list[JudgedProgram]], None],
        progress: CollectionProgress | None,
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

    def put(self, position: int, task: CodingTask, programs: Sequence[GeneratedProgram]) -> None:
        """Have the programs of a task judged; raise the error of an earlier task, if there was one."""
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
        verdicts.add_done_callback(self._hand_on)

    def finish(self) -> None:
        """Wait until everything is handed on; raise the first error."""
        with self._changed:
            self._changed.wait_for(lambda: not self._submitted and not self._is_handing_on)
        if self._error is not None:
            raise self._error

    def abandon(self) -> None:
        """Begin nothing more, and wait for nothing: the run was interrupted."""
        with self._changed:
            self._error = self._error or concurrent.futures.CancelledError()
            waiting = list(self._submitted)
        for each in waiting:
            each.verdicts.cancel()

    def _hand_on(self, _: concurrent.futures.Future[list[Verdict]]) -> None:
        """Hand on every task whose programs are judged, up to the first that is still being judged.

        A single thread hands on at a time, and not under the lock: writing a journal takes its time, and the other
        threads of the judge are to go on judging meanwhile.
        """
        while True:
            with self._changed:
                if self._is_handing_on or not self._submitted or not self._submitted[0].verdicts.done():
                    return
                first = self._submitted.popleft()
                if not self._submitted:
                    self.seconds.judge += time.perf_counter() - self._busy_since
                self._is_handing_on = True
            try:
                if self._error is None:
                    self._hand_on_one(first)
            except BaseException as error:
                # A callback's error would be lost here: it is raised by `put` or `finish`.
                self._error = error
            with self._changed:
                self._is_handing_on = False
                self._changed.notify_all()

    def _hand_on_one(self, submitted: _Submitted) -> None:
        judged = submitted.judged()
        self.on_judged(submitted.position, judged)
        if self.progress is not None:
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
