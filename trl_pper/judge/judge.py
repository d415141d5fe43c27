"""The judge: shares programs out to workers and returns their verdicts in order.

Enters: tasks with programs. Leaves: Verdicts. Threads of the host wait on exec'd workers; the host is never forked. A
worker that dies is replaced; a program whose sandbox failed twice has no pass rate.
"""

from __future__ import annotations

import os
import queue
import re
import time
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from types import TracebackType

from trl_pper.judge.host.batch import Batch, Job, Slot, VerdictCache
from trl_pper.judge.host.function import judge_function
from trl_pper.judge.host.stdio import judge_stdio
from trl_pper.judge.host.system import usable_cores
from trl_pper.judge.host.worker import Worker, WorkerError
from trl_pper.judge.levels import choose_level
from trl_pper.judge.limits import Limits
from trl_pper.judge.selftest import examine
from trl_pper.judge.verdict import Outcome, Verdict
from trl_pper.tasks.syntax import with_preamble
from trl_pper.tasks.task import CodingTask, FunctionTests, StdioTests, Tests
from trl_pper.tasks.tests import count_tests

_ATTEMPTS = 2
_TAKE_SECONDS = 0.2
#: How long to look at verdicts before asking once more for a job that was not ready.
_READY_SECONDS = 0.02
_END = object()
#: Programs that name one of these get a worker that has numpy loaded, which would cost every other program.
_NUMERIC = re.compile(r"^\s*(?:import|from)\s+(?:numpy|scipy|pandas|sklearn)\b", re.MULTILINE)


class Judge:
    r"""Judges untrusted programs by the tests of their tasks.

    Args:
        workers: Programs judged at once; None means one for each core this process may use, which processes that a
            launcher started together share.
        isolation: "auto" for the strongest level that holds on this machine, which is never below "landlock"; or a
            level by name: "namespaces", "landlock", "seccomp", "rlimits" or "processes".
        limits: What one program may use.
        cache_size: Verdicts remembered for equal programs on equal tests; timeouts are never remembered.
        seed: What the hashes of text and `random` start from in every program, so that verdicts repeat; with another
            seed, sets of text have another order.

    Raises:
        ValueError: An argument is out of range.
        IsolationUnavailable: The level asked for, or any that "auto" would take, does not hold on this machine.

    Examples:
        >>> from trl_pper import CodingTask, FunctionTests, Judge
        >>> tests = FunctionTests(entry_point="double", code="assert double(2) == 4\nassert double(0) == 0")
        >>> task = CodingTask(task_id="double", prompt="p", tests=tests)
        >>> with Judge(workers=1) as judge:
        ...     [[verdict]] = judge.run([(task, ["def double(x): return x + 2"])])
        >>> verdict.pass_rate
        0.5
    """

    def __init__(
        self,
        workers: int | None = None,
        isolation: str = "auto",
        limits: Limits | None = None,
        *,
        cache_size: int = 65_536,
        seed: int = 0,
    ) -> None:
        if workers is None:
            # Each process of a launcher has a judge: together they get the cores once.
            workers = max(1, usable_cores() // int(os.environ.get("LOCAL_WORLD_SIZE", "1")))
        if isinstance(workers, bool) or not isinstance(workers, int) or workers < 1:
            raise ValueError(f"workers: must be a whole number of at least 1, or None for the cores; got {workers!r}")
        if isinstance(seed, bool) or not isinstance(seed, int) or not 0 <= seed < 2**32:
            raise ValueError(f"seed: must be a whole number from 0 to {2**32 - 1}; got {seed!r}")
        self.workers = workers
        self.limits = limits if limits is not None else Limits()
        self.cache = VerdictCache(cache_size)
        #: The level that programs run at.
        self.isolation = choose_level(isolation)
        self._report: dict[str, str] | None = None
        self._idle: queue.LifoQueue[_Slot] = queue.LifoQueue()
        self._slots = [_Slot(self.isolation, self.limits, self.cache, seed) for _ in range(workers)]
        for slot in self._slots:
            self._idle.put(slot)

    def __enter__(self) -> Judge:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End all workers, waiting for those at work; a judge that runs again afterwards starts new ones."""
        slots = [self._idle.get() for _ in range(self.workers)]
        for slot in slots:
            slot.close()
            self._idle.put(slot)

    def run(
        self, jobs: Sequence[tuple[CodingTask, Sequence[str]]], *, deadline_seconds: float | None = None
    ) -> list[list[Verdict]]:
        """Judge every program by its task's tests.

        Args:
            jobs: Tasks, each with any number of programs.
            deadline_seconds: Wall seconds for all of them; those not judged by then come back "not_run", without a
                pass rate.

        Returns:
            For each task a list with one verdict per program, in the order given.

        Raises:
            TypeError: A job is not a task with a list of program texts; nothing has run then.
        """
        return list(
            self.stream([_checked(row, job) for row, job in enumerate(jobs)], deadline_seconds=deadline_seconds)
        )

    def stream(
        self, jobs: Iterable[tuple[CodingTask, Sequence[str]] | None], *, deadline_seconds: float | None = None
    ) -> Iterator[list[Verdict]]:
        """Judge tasks with programs as they come, and yield the verdicts of each task in the same order.

        Jobs are taken from the iterable while earlier ones are judged in the background, so that making them, for
        instance by a model, overlaps with judging. Abandoning the iterator breaks off what is in flight.

        Args:
            jobs: Tasks, each with any number of programs; read as far ahead as keeps the workers busy. None among
                them means that no job is ready yet: verdicts that are ready come out before the next one is asked for.
            deadline_seconds: As for `run`, from the first verdict asked for.

        Raises:
            TypeError: A job is not a task with a list of program texts.
        """
        deadline = None if deadline_seconds is None else time.monotonic() + deadline_seconds
        batch = Batch(self.workers, self._take, self._give)
        waiting: deque[Job] = deque()
        source, row = iter(jobs), 0
        try:
            exhausted = False
            while True:
                ready = True
                while ready and not exhausted and batch.hungry and (not waiting or waiting[0].unfinished):
                    job = next(source, _END)
                    exhausted, ready = job is _END, job is not None
                    if ready and not exhausted:
                        waiting.append(Job(*_checked(row, job)))
                        batch.add(waiting[-1])
                        row += 1
                if not waiting:
                    if exhausted:
                        return
                    continue
                left = None if deadline is None else max(0.0, deadline - time.monotonic())
                pause = left if ready else min(_READY_SECONDS, left or _READY_SECONDS)
                more = ready and not exhausted
                if not batch.cancelled and not batch.wait(waiting[0], pause, or_hungry=more):
                    if left is None or left > 0.0:
                        continue
                    batch.cancel()
                finished = waiting.popleft()
                yield [verdict or _not_run(finished.task) for verdict in finished.verdicts]
        finally:
            batch.cancel()

    def processes(self) -> list[int]:
        """Return the process ids of the workers now running; programs are among their descendants."""
        return [worker.process.pid for slot in self._slots for worker in list(slot.workers.values())]

    def _take(self) -> _Slot | None:
        try:
            slot = self._idle.get(timeout=_TAKE_SECONDS)
        except queue.Empty:
            return None
        slot.cancelled = False
        return slot

    def _give(self, slot: Slot) -> None:
        assert isinstance(slot, _Slot)
        self._idle.put(slot)

    def report(self) -> dict[str, str]:
        """Return, for each guarantee, "verified" or "absent" on this machine at this judge's level.

        The first call runs hostile programs, at least one per guarantee, in workers of its own; it takes seconds.

        Raises:
            WorkerError: No worker could be started.
        """
        if self._report is None:
            self._report = examine(self.isolation)
        return dict(self._report)


class _Slot:
    """One place to judge in: a worker, and another one with numpy once a program asks for it."""

    def __init__(self, level: str, limits: Limits, cache: VerdictCache, seed: int) -> None:
        self.seed = seed
        self.level = level
        self.limits = limits
        self.cache = cache
        self.workers: dict[tuple[str, ...], Worker] = {}
        self.cancelled = False

    def judge(self, task: CodingTask, program: str) -> Verdict:
        """Return the verdict of `program` after the task's preamble, remembered or new."""
        program = with_preamble(program, task.preamble)
        limits = self.limits.for_task(task)
        verdict = self.cache.get(program, task.tests, limits)
        if verdict is None:
            verdict = self._run(task, program, limits)
            self.cache.put(program, task.tests, limits, verdict)
        return verdict

    def _run(self, task: CodingTask, program: str, limits: Limits) -> Verdict:
        preload = ("numpy",) if _NUMERIC.search(program) or _NUMERIC.search(_test_code(task.tests)) else ()
        message = "cancelled"
        for _ in range(_ATTEMPTS):
            if self.cancelled:
                break
            try:
                if preload not in self.workers:
                    self.workers[preload] = Worker(self.level, self.limits, preload, seed=self.seed)
                # Looked at after the worker can be seen by `cancel`, which sets it before looking for workers.
                if self.cancelled:
                    break
                if isinstance(task.tests, StdioTests):
                    return judge_stdio(self.workers[preload], program, task.tests, limits)
                return judge_function(self.workers[preload], program, task.tests, limits)
            except (WorkerError, OSError) as error:
                message = str(error)
                if preload in self.workers:
                    self.workers.pop(preload).close()
        return Verdict.uniform(Outcome.SANDBOX_ERROR, _total(task), message)

    def cancel(self) -> None:
        """Make a `judge` at work in another thread come back soon."""
        self.cancelled = True
        for worker in list(self.workers.values()):
            worker.cancel()

    def close(self) -> None:
        """End the workers."""
        for worker in self.workers.values():
            worker.close()
        self.workers.clear()


def _test_code(tests: Tests) -> str:
    return f"{tests.setup}\n{tests.code}" if isinstance(tests, FunctionTests) else ""


def _total(task: CodingTask) -> int:
    if isinstance(task.tests, FunctionTests):
        return max(1, count_tests(task.tests.code))
    return len(task.tests.cases)


def _not_run(task: CodingTask) -> Verdict:
    return Verdict.uniform(Outcome.NOT_RUN, _total(task), "the deadline of the whole batch came first")


def _checked(row: int, job: object) -> tuple[CodingTask, list[str]]:
    if not isinstance(job, Sequence) or len(job) != 2 or not isinstance(job[0], CodingTask):
        raise TypeError(f"jobs[{row}]: must be a CodingTask with a list of programs; got {job!r:.200}")
    task, programs = job
    if isinstance(programs, str):
        raise TypeError(f"jobs[{row}]: programs must be a list of texts; got one text. Wrap it in a list")
    programs = list(programs)
    for column, program in enumerate(programs):
        if not isinstance(program, str):
            raise TypeError(f"jobs[{row}], program {column}: must be text; got {type(program).__name__}")
    return task, programs
