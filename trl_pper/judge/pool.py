"""The judge: shares programs out to workers and returns their verdicts in order.

Enters: tasks with programs. Leaves: Verdicts. Threads of the host wait on exec'd workers; the host is never forked. A
worker that dies is replaced; a program whose sandbox failed twice has no pass rate.
"""

from __future__ import annotations

import os
import queue
import threading
from collections.abc import Iterable, Iterator, Sequence
from types import TracebackType

from trl_pper.judge.function import judge_function
from trl_pper.judge.limits import Limits
from trl_pper.judge.selftest import examine
from trl_pper.judge.stdio import judge_stdio
from trl_pper.judge.testplan import count_tests
from trl_pper.judge.worker import Worker, WorkerError
from trl_pper.task import CodingTask, FunctionTests, StdioTests
from trl_pper.verdict import Outcome, Verdict

#: From strongest to weakest.
ISOLATION_LEVELS = ("namespaces", "landlock", "seccomp", "rlimits")
IMPLEMENTED_LEVELS = ("rlimits",)
_ATTEMPTS = 2

Job = tuple[int, int, CodingTask, str]


class IsolationUnavailable(RuntimeError):
    """The isolation level asked for cannot be had."""


class Judge:
    r"""Judges untrusted programs by the tests of their tasks.

    Args:
        workers: Programs judged at once; None means one for each core this process may use.
        isolation: "auto" for the strongest level there is, or a level by name; see `IMPLEMENTED_LEVELS`.
        limits: What one program may use.

    Raises:
        ValueError: An argument is out of range.
        IsolationUnavailable: The level is not implemented.

    Examples:
        >>> from trl_pper import CodingTask, FunctionTests, Judge
        >>> tests = FunctionTests(entry_point="double", code="assert double(2) == 4\nassert double(0) == 0")
        >>> task = CodingTask(task_id="double", prompt="p", tests=tests)
        >>> with Judge(workers=1) as judge:
        ...     [[verdict]] = judge.run([(task, ["def double(x): return x + 2"])])
        >>> verdict.pass_rate
        0.5
    """

    def __init__(self, workers: int | None = None, isolation: str = "auto", limits: Limits | None = None) -> None:
        if workers is None:
            workers = len(os.sched_getaffinity(0))
        if isinstance(workers, bool) or not isinstance(workers, int) or workers < 1:
            raise ValueError(f"workers: must be a whole number of at least 1, or None for the cores; got {workers!r}")
        self.workers = workers
        self.isolation = _level(isolation)
        self.limits = limits if limits is not None else Limits()
        # None stands for a worker not started yet.
        self._report: dict[str, str] | None = None
        self._idle: queue.LifoQueue[Worker | None] = queue.LifoQueue()
        for _ in range(workers):
            self._idle.put(None)

    def __enter__(self) -> Judge:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End all workers, waiting for those at work; a judge that runs again afterwards starts new ones."""
        for worker in [self._idle.get() for _ in range(self.workers)]:
            if worker is not None:
                worker.close()
            self._idle.put(None)

    def run(self, jobs: Sequence[tuple[CodingTask, Sequence[str]]]) -> list[list[Verdict]]:
        """Judge every program by its task's tests.

        Args:
            jobs: Tasks, each with any number of programs.

        Returns:
            For each task a list with one verdict per program, in the order given.

        Raises:
            TypeError: A job is not a task with a list of program texts.
        """
        flat = list(_flatten(jobs))
        verdicts: list[list[Verdict]] = [[Verdict(outcomes=())] * len(programs) for _, programs in jobs]
        source, lock, stop = iter(flat), threading.Lock(), threading.Event()
        errors: list[BaseException] = []

        def serve() -> None:
            while not stop.is_set():
                with lock:
                    job = next(source, None)
                if job is None:
                    return
                row, column, task, program = job
                try:
                    verdicts[row][column] = self._judge(task, program)
                except BaseException as error:
                    errors.append(error)
                    stop.set()

        threads = [threading.Thread(target=serve, daemon=True) for _ in range(min(self.workers, len(flat)))]
        for thread in threads:
            thread.start()
        try:
            for thread in threads:
                thread.join()
        finally:
            stop.set()
        if errors:
            raise errors[0]
        return verdicts

    def report(self) -> dict[str, str]:
        """Return, for each guarantee, "verified" or "absent" on this machine.

        The first call runs one hostile program per guarantee through a worker of its own, with the same confinement as
        judged programs; it takes a second or two.

        Raises:
            WorkerError: No worker could be started.
        """
        if self._report is None:
            self._report = examine()
        return dict(self._report)

    def _judge(self, task: CodingTask, program: str) -> Verdict:
        message = ""
        for _ in range(_ATTEMPTS):
            worker = self._idle.get()
            try:
                worker = worker or Worker()
                if isinstance(task.tests, StdioTests):
                    verdict = judge_stdio(worker, program, task.tests, self.limits)
                else:
                    verdict = judge_function(worker, program, task.tests, self.limits)
            except (WorkerError, OSError) as error:
                message = str(error)
                if worker is not None:
                    worker.close()
                worker = None
            else:
                return verdict
            finally:
                self._idle.put(worker)
        return Verdict.uniform(Outcome.SANDBOX_ERROR, _total(task), message)


def _level(isolation: str) -> str:
    if isolation == "auto":
        return IMPLEMENTED_LEVELS[0]
    if isolation in IMPLEMENTED_LEVELS:
        return isolation
    if isolation in ISOLATION_LEVELS:
        raise IsolationUnavailable(
            f"isolation: {isolation!r} is not available in this version, which has {', '.join(IMPLEMENTED_LEVELS)};"
            " ask for 'auto' or one of these"
        )
    raise ValueError(f"isolation: must be 'auto' or one of {', '.join(ISOLATION_LEVELS)}; got {isolation!r}")


def _total(task: CodingTask) -> int:
    if isinstance(task.tests, FunctionTests):
        return max(1, count_tests(task.tests.code))
    return len(task.tests.cases)


def _flatten(jobs: Iterable[tuple[CodingTask, Sequence[str]]]) -> Iterator[Job]:
    for row, (task, programs) in enumerate(jobs):
        if not isinstance(task, CodingTask):
            raise TypeError(f"jobs[{row}]: must start with a CodingTask; got {type(task).__name__}")
        if isinstance(programs, str):
            raise TypeError(f"jobs[{row}]: programs must be a list of texts; got one text. Wrap it in a list")
        for column, program in enumerate(programs):
            if not isinstance(program, str):
                raise TypeError(f"jobs[{row}], program {column}: must be text; got {type(program).__name__}")
            yield row, column, task, program
