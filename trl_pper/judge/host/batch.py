"""Shares the programs of one call out to threads: which program comes next, what is in flight, how it all stops.

Enters: jobs, one at a time, and slots to judge in. Leaves: finished jobs. A thread stays with the task it is at while
that has programs left, because a worker keeps the tests of its last task ready.

Remembers verdicts of equal programs on equal tests under equal limits: beams and samples repeat themselves.

Enters: verdicts. Leaves: the same verdicts. What may come out otherwise the next time is not remembered: timeouts,
exhausted memory, and everything that says nothing about the program.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Protocol

from trl_pper.judge.limits import Limits
from trl_pper.judge.verdict import UNJUDGED, Outcome, Verdict
from trl_pper.tasks.task import CodingTask, Tests


class Slot(Protocol):
    """A place where one program at a time is judged."""

    def judge(self, task: CodingTask, program: str) -> Verdict:
        """Judge a program."""

    def cancel(self) -> None:
        """Make `judge`, at work in another thread, come back soon with any verdict."""


class Job:
    """A task with its programs and, as they come in, their verdicts."""

    def __init__(self, task: CodingTask, programs: Sequence[str]) -> None:
        self.task = task
        self.programs = programs
        self.verdicts: list[Verdict | None] = [None] * len(programs)
        self.unclaimed = list(reversed(range(len(programs))))
        self.unfinished = len(programs)
        self.servers = 0


class Batch:
    """The programs of one call, judged by up to `threads` threads.

    Args:
        threads: Programs judged at once.
        take: Waits a little for a free slot; returns it or None.
        give: Takes a slot back.
    """

    def __init__(self, threads: int, take: Callable[[], Slot | None], give: Callable[[Slot], None]) -> None:
        self.threads = threads
        self.take = take
        self.give = give
        self.changed = threading.Condition()
        self.jobs: list[Job] = []
        self.at_work: list[Slot] = []
        self.error: BaseException | None = None
        self.cancelled = False
        self._pool: list[threading.Thread] = []

    @property
    def hungry(self) -> bool:
        """Whether another job would keep a thread from having to share a task, or from idling."""
        with self.changed:
            return sum(bool(job.unclaimed) for job in self.jobs) <= self.threads

    def add(self, job: Job) -> None:
        """Put a job in the queue."""
        if not job.unfinished:
            return
        with self.changed:
            self.jobs.append(job)
            self.changed.notify_all()
            programs = sum(each.unfinished for each in self.jobs)
        while len(self._pool) < min(self.threads, programs):
            self._pool.append(threading.Thread(target=self._serve, daemon=True))
            self._pool[-1].start()

    def wait(self, job: Job, seconds: float | None = None, *, or_hungry: bool = False) -> bool:
        """Wait until `job` is finished, and return whether it is.

        Args:
            job: What to wait for.
            seconds: The longest wait, or None.
            or_hungry: Whether to come back, too, when another job could be used.

        Raises:
            BaseException: What went wrong in a thread, beyond a failed sandbox.
        """

        def over() -> bool:
            return job.unfinished == 0 or self.error is not None or (or_hungry and self.hungry)

        with self.changed:
            self.changed.wait_for(over, seconds)
            if self.error is not None:
                raise self.error
            return job.unfinished == 0

    def cancel(self) -> None:
        """Begin no more programs and break off those in flight; their verdicts stay None."""
        with self.changed:
            self.cancelled = True
            for slot in self.at_work:
                slot.cancel()
            self.changed.notify_all()
        for thread in self._pool:
            thread.join()

    def _serve(self) -> None:
        slot: Slot | None = None
        job: Job | None = None
        try:
            while True:
                with self.changed:
                    following = self._next(job)
                    if following is not job and slot is not None:
                        self.give(slot)
                        slot = None
                    while following is None:
                        if self.cancelled:
                            return
                        self.changed.wait()
                        following = self._next(None)
                    job = following
                    index = job.unclaimed.pop()
                    job.servers += 1
                while slot is None and not self.cancelled:
                    slot = self.take()
                if slot is not None:
                    self._judge(slot, job, index)
        except BaseException as error:
            with self.changed:
                self.error = self.error or error
                self.changed.notify_all()
        finally:
            if slot is not None:
                self.give(slot)

    def _next(self, job: Job | None) -> Job | None:
        """Return the job to go on with: the same one, else one that nobody serves, else the one with most to do."""
        if self.cancelled:
            return None
        if job is not None and job.unclaimed:
            return job
        open_jobs = [each for each in self.jobs if each.unclaimed]
        free = next((each for each in open_jobs if not each.servers), None)
        return free or max(open_jobs, key=lambda each: len(each.unclaimed), default=None)

    def _judge(self, slot: Slot, job: Job, index: int) -> None:
        with self.changed:
            if self.cancelled:
                return
            self.at_work.append(slot)
        verdict: Verdict | None = None
        try:
            verdict = slot.judge(job.task, job.programs[index])
        finally:
            with self.changed:
                self.at_work.remove(slot)
                job.servers -= 1
                if verdict is not None and not self.cancelled:
                    job.verdicts[index] = verdict
                    job.unfinished -= 1
                    if job.unfinished == 0:
                        self.jobs.remove(job)
                self.changed.notify_all()


#: Outcomes that depend on more than program, tests and limits.
_UNSTEADY = UNJUDGED - {Outcome.UNSUPPORTED} | {Outcome.TIMEOUT, Outcome.MEMORY_LIMIT}


class VerdictCache:
    """A bounded, thread-safe store of verdicts; the least recently used goes first.

    Args:
        capacity: Verdicts kept; 0 keeps none.

    Raises:
        ValueError: `capacity` is not a whole number of at least 0.
    """

    def __init__(self, capacity: int) -> None:
        if isinstance(capacity, bool) or not isinstance(capacity, int) or capacity < 0:
            raise ValueError(f"cache_size: must be a whole number of at least 0; got {capacity!r}")
        self.capacity = capacity
        self._lock = threading.Lock()
        self._verdicts: OrderedDict[tuple[str, Tests, Limits], Verdict] = OrderedDict()

    def __len__(self) -> int:
        return len(self._verdicts)

    def get(self, program: str, tests: Tests, limits: Limits) -> Verdict | None:
        """Return the verdict of an equal program on equal tests under equal limits, or None."""
        key = (program, tests, limits)
        with self._lock:
            verdict = self._verdicts.get(key)
            if verdict is not None:
                self._verdicts.move_to_end(key)
            return verdict

    def put(self, program: str, tests: Tests, limits: Limits, verdict: Verdict) -> None:
        """Remember `verdict`, unless it may come out otherwise the next time."""
        if self.capacity == 0 or not _UNSTEADY.isdisjoint(verdict.outcomes):
            return
        with self._lock:
            self._verdicts[program, tests, limits] = verdict
            while len(self._verdicts) > self.capacity:
                self._verdicts.popitem(last=False)
