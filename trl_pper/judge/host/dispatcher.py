"""Hand programs out to slots, and break off jobs that are in flight.

Each slot at work has a thread; idle slots have none. A thread stays with its task as long as that has programs left,
because a worker keeps the tests of its last task ready. Nothing here waits in turns: a thread that finds no program
ends, and the next job starts another.
"""

from __future__ import annotations

import concurrent.futures
import logging
import threading
import time
from collections import deque
from collections.abc import Iterable, Sequence
from typing import Protocol

from trl_pper.judge.host.slot import Slot, total_tests
from trl_pper.judge.host.worker import remove_abandoned
from trl_pper.judge.verdict import Outcome, Verdict
from trl_pper.tasks.task import CodingTask

logger = logging.getLogger(__name__)

#: Longest time that `abort` waits for programs that it has broken off.
_ABORT_SECONDS = 1.0


class Job:
    """A task with its programs, their verdicts as they come in, and the future of all of them."""

    def __init__(self, task: CodingTask, programs: Sequence[str]) -> None:
        self.task = task
        self.programs = programs
        self.future: concurrent.futures.Future[list[Verdict]] = concurrent.futures.Future()
        self.verdicts: list[Verdict | None] = [None] * len(programs)
        #: Positions of programs that no slot has begun; the next one is the last.
        self.unclaimed = list(reversed(range(len(programs))))
        self.at_work: list[Slot] = []
        self.begun = False
        self.cancelled = False
        self.error: BaseException | None = None

    @property
    def is_over(self) -> bool:
        """Whether no program is left to judge and none is being judged."""
        return not self.unclaimed and not self.at_work

    def begin(self) -> bool:
        """Note that the job has begun; return False if its owner has cancelled the future."""
        self.begun = self.begun or self.future.set_running_or_notify_cancel()
        return self.begun

    def settle(self) -> None:
        """Give the future its result; programs that were broken off are "not_run"."""
        if self.error is not None:
            self.future.set_exception(self.error)
        else:
            self.future.set_result([verdict or _not_run(self.task) for verdict in self.verdicts])


class JobDispatcher(Protocol):
    """A place to submit jobs to: the slots of this process, or the nodes of a cluster."""

    @property
    def workers(self) -> int:
        """Number of programs that are judged at once."""

    def processes(self) -> list[int]:
        """Return the process ids of the workers among the children of this process."""

    def submit(self, *jobs: Job) -> None:
        """Have the programs of jobs judged."""

    def cancel(self, jobs: Iterable[Job], *, seconds: float | None = None) -> None:
        """Break off jobs, and wait until their futures are settled, at most some seconds."""

    def abort(self) -> None:
        """Break off all jobs, and end the workers."""

    def close(self) -> None:
        """Wait until every job is settled, and end the workers."""


class Dispatcher:
    """The slots of a judge, and the jobs that wait for them.

    Args:
        slots: Places to judge in.
    """

    def __init__(self, slots: Sequence[Slot]) -> None:
        remove_abandoned()
        self.slots = tuple(slots)
        self._changed = threading.Condition()
        self._idle = list(slots)
        #: Jobs that no slot has begun, first come first served, and those begun that have programs left.
        self._waiting: deque[Job] = deque()
        self._open: list[Job] = []
        #: The job of each slot at work.
        self._in_flight: list[Job] = []

    @property
    def workers(self) -> int:
        """Number of programs that are judged at once."""
        return len(self.slots)

    def processes(self) -> list[int]:
        """Return the process ids of the running workers."""
        return [worker.process.pid for slot in self.slots for worker in list(slot.workers.values())]

    def submit(self, *jobs: Job) -> None:
        """Have the programs of jobs judged; their futures are settled in threads of this dispatcher."""
        for job in jobs:
            if not job.programs:
                job.settle()
        with self._changed:
            self._waiting.extend(job for job in jobs if job.programs)
            wanted = min(len(self._idle), sum(len(job.programs) for job in jobs))
        # A thread takes a slot by itself: an interrupt in here, or a thread that cannot be had, must not lose one.
        for _ in range(wanted):
            # A daemon, so that an interrupted caller does not wait for the programs in flight.
            threading.Thread(target=self._serve, daemon=True).start()

    def cancel(self, jobs: Iterable[Job], *, seconds: float | None = None) -> None:
        """Begin no more programs of some jobs, break off those in flight, and wait until all futures are settled.

        Args:
            jobs: Jobs that were submitted or not; a job that was not ends without any of its programs run.
            seconds: Longest wait; None for as long as it takes.
        """
        jobs = list(jobs)
        settled = []
        with self._changed:
            for job in jobs:
                # A job that has begun and is over is being settled by its thread.
                if job.future.done() or (job.begun and job.is_over):
                    continue
                job.cancelled = True
                self._drop(job)
                for slot in job.at_work:
                    slot.cancel()
                if not job.at_work and job.begin():
                    settled.append(job)
        for job in settled:
            job.settle()
        concurrent.futures.wait([job.future for job in jobs], timeout=seconds)

    def abort(self) -> None:
        """Break off all jobs, and end the workers."""
        end = time.monotonic() + _ABORT_SECONDS
        with self._changed:
            jobs = {*self._waiting, *self._open, *self._in_flight}
        self.cancel(jobs, seconds=_ABORT_SECONDS)
        with self._changed:
            self._changed.wait_for(lambda: len(self._idle) == len(self.slots), timeout=end - time.monotonic())
            # A slot that still works, as with a comparison of the caller's that does not return, keeps its worker,
            # which ends with this process.
            self._end_workers(self._idle)

    def close(self) -> None:
        """Wait until every job is settled, and end the workers."""
        with self._changed:
            self._changed.wait_for(lambda: len(self._idle) == len(self.slots))
            self._end_workers(self.slots)

    def _end_workers(self, slots: Iterable[Slot]) -> None:
        # Hung up on together, they clean up at the same time.
        for slot in slots:
            slot.cancel()
        for slot in slots:
            slot.close()

    def _serve(self) -> None:
        while (slot := self._take()) is not None:
            finished = self._serve_with(slot)
            if finished is None:
                continue
            # Callbacks of the future run here, neither under the lock nor with the slot, so that they may use the
            # judge. Whatever one of them raises must not end this thread.
            try:
                finished.settle()
            except BaseException:
                logger.critical("a callback of a submitted job failed", exc_info=True)

    def _serve_with(self, slot: Slot) -> Job | None:
        """Judge programs until a job is over, and return that job; None where there is no program left."""
        job: Job | None = None
        while (claim := self._claim(slot, job)) is not None:
            job, index = claim
            verdict, error = None, None
            try:
                verdict = slot.judge(job.task, job.programs[index])
            except BaseException as failure:
                # Beyond a failed sandbox, which is a verdict: the owner of the future is to see it.
                error = failure
            if self._record(slot, job, index, verdict, error):
                return job
        return None

    def _take(self) -> Slot | None:
        """Return an idle slot, if there is one and there is a program for it."""
        with self._changed:
            # Jobs that were broken off before they began are left in the queue until here.
            while self._waiting and not self._waiting[0].unclaimed:
                self._waiting.popleft()
            return self._idle.pop() if self._idle and (self._waiting or self._open) else None

    def _give_back(self, slot: Slot) -> None:
        self._idle.append(slot)
        self._changed.notify_all()

    def _claim(self, slot: Slot, job: Job | None) -> tuple[Job, int] | None:
        """Return the next program for a slot; None, and the slot is idle again, where there is none."""
        with self._changed:
            job = job if job is not None and job.unclaimed else self._next()
            if job is None:
                self._give_back(slot)
                return None
            slot.cancelled = False
            job.at_work.append(slot)
            self._in_flight.append(job)
            index = job.unclaimed.pop()
            if not job.unclaimed and job in self._open:
                self._open.remove(job)
            return job, index

    def _next(self) -> Job | None:
        """Return the first job that no slot has begun, else the job with most programs left."""
        while self._waiting:
            job = self._waiting.popleft()
            if job.unclaimed and job.begin():
                self._open.append(job)
                return job
        return max(self._open, key=lambda each: len(each.unclaimed), default=None)

    def _record(self, slot: Slot, job: Job, index: int, verdict: Verdict | None, error: BaseException | None) -> bool:
        """Note how a program ended; return whether its job is over, and then the slot is idle again."""
        with self._changed:
            job.at_work.remove(slot)
            self._in_flight.remove(job)
            if error is not None:
                job.error = job.error or error
                self._drop(job)
            elif not job.cancelled:
                job.verdicts[index] = verdict
            if job.is_over:
                self._give_back(slot)
            return job.is_over

    def _drop(self, job: Job) -> None:
        """Begin no more programs of a job."""
        job.unclaimed.clear()
        if job in self._open:
            self._open.remove(job)


def _not_run(task: CodingTask) -> Verdict:
    return Verdict.uniform(Outcome.NOT_RUN, total_tests(task.tests), "the deadline of the whole batch came first")
