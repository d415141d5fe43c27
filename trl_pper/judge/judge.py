"""Judge programs in several workers at once, and return their verdicts in order.

Threads of this process wait for workers. Workers are started by exec, so this process itself is never forked.
"""

from __future__ import annotations

import concurrent.futures
import os
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from types import TracebackType
from typing import Any, Self

from trl_pper.judge.host.dispatcher import Dispatcher, Job, JobDispatcher
from trl_pper.judge.host.slot import Slot, VerdictCache
from trl_pper.judge.host.system import usable_cores
from trl_pper.judge.levels import choose_level
from trl_pper.judge.limits import Limits
from trl_pper.judge.selftest import examine
from trl_pper.judge.verdict import Verdict
from trl_pper.tasks.task import CodingTask


class Judge:
    r"""A judge of untrusted programs, by the tests of their tasks.

    Args:
        workers: Number of programs to judge at once. None means the number of cores that this process may use,
            divided by the number of processes that a launcher started here.
        isolation: "auto" for the strongest level that holds on this machine, and never a level below "landlock"; or a
            level by name: "namespaces", "landlock", "seccomp", "rlimits" or "processes".
        limits: Limits on each program.
        cache_size: Number of verdicts to remember for equal programs on equal tests; timeouts are never remembered.
        seed: Seed for the hashes of text and for `random` in every program, so that verdicts repeat. With another
            seed, sets of text have another order.
        shared_tests: "allow" for tests that can only run in the program's process, where a verdict can be forged; see
            `FunctionTests`. "refuse" leaves the programs of such tasks without a pass rate.

    Raises:
        ValueError: An argument is out of range.
        IsolationUnavailable: The named level, or every level that "auto" may take, does not hold on this machine.

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
        shared_tests: str = "allow",
    ) -> None:
        check_options(shared_tests=shared_tests, seed=seed)
        # As given: in another process, or on another machine, defaults may come to something else.
        self._arguments: dict[str, Any] = {
            "workers": workers,
            "isolation": isolation,
            "limits": limits,
            "cache_size": cache_size,
            "seed": seed,
            "shared_tests": shared_tests,
        }
        if workers is None:
            # Launchers such as torchrun set it. Each of their processes has a judge, and all judges share the cores.
            workers = max(1, usable_cores() // int(os.environ.get("LOCAL_WORLD_SIZE", "1")))
        if isinstance(workers, bool) or not isinstance(workers, int) or workers < 1:
            raise ValueError(f"workers: must be a whole number of at least 1, or None for the cores; got {workers!r}")
        self.limits = limits if limits is not None else Limits()
        self.cache = VerdictCache(cache_size)
        #: The level that programs run at.
        self.isolation = choose_level(isolation)
        self._report: dict[str, str] | None = None
        slots = [
            Slot(self.isolation, self.limits, self.cache, seed, shared_tests=shared_tests) for _ in range(workers)
        ]
        self._dispatcher: JobDispatcher = Dispatcher(slots)

    def __reduce__(self) -> tuple[Callable[..., Judge], tuple[type[Judge], dict[str, Any]]]:
        # Workers and threads belong to this process. A copy in another process starts its own, with its first program.
        return _with_arguments, (type(self), self._arguments)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        # After an error or an interrupt nobody waits for the programs in flight.
        if error is None:
            self.close()
        else:
            self.abort()

    @property
    def workers(self) -> int:
        """Number of programs that are judged at once."""
        return self._dispatcher.workers

    def close(self) -> None:
        """Wait for the programs in flight, and end all workers; judging again starts new workers."""
        self._dispatcher.close()

    def abort(self) -> None:
        """Break off the programs in flight and those that wait, and end all workers; judging again starts new workers.

        The futures of `submit` are settled with the outcome "not_run" for each program that was not judged.
        """
        self._dispatcher.abort()

    def submit(self, task: CodingTask, programs: Sequence[str]) -> concurrent.futures.Future[list[Verdict]]:
        """Judge the programs of a task in the background.

        Args:
            task: The task with the tests.
            programs: Texts of any number of programs.

        Returns:
            A future of the list of verdicts, in the order of the programs. Its callbacks run in a thread of the
            judge. `cancel` works until the first program has begun.

        Raises:
            TypeError: `task` is not a task, or `programs` is not a list of program texts.
        """
        job = _checked_job("submit", task, programs)
        self._dispatcher.submit(job)
        return job.future

    def run(
        self, jobs: Sequence[tuple[CodingTask, Sequence[str]]], *, deadline_seconds: float | None = None
    ) -> list[list[Verdict]]:
        """Judge every program by its task's tests.

        Args:
            jobs: Tasks, each with any number of programs.
            deadline_seconds: Wall seconds for all programs together. A program that is not judged by then has the
                outcome "not_run" for each test, and no pass rate.

        Returns:
            For each task the list of its programs' verdicts, in the order of `jobs`.

        Raises:
            TypeError: A job is not a task with a list of program texts; no program has run.
        """
        checked = [_checked_pair(row, job) for row, job in enumerate(jobs)]
        futures = [job.future for job in checked]
        try:
            self._dispatcher.submit(*checked)
            concurrent.futures.wait(futures, timeout=deadline_seconds, return_when=concurrent.futures.FIRST_EXCEPTION)
        finally:
            # After a deadline, an error or an interrupt no program of this call may go on in the background.
            self._dispatcher.cancel(checked)
        return [future.result() for future in futures]

    def run_pairs(
        self,
        pairs: Sequence[tuple[CodingTask, str]],
        *,
        on_judged: Callable[[list[int], list[Verdict]], None] | None = None,
    ) -> list[Verdict]:
        """Judge pairs of a task and a program; programs of the same task are judged together.

        Args:
            pairs: Tasks, each with a single program. Equal tasks that are different objects are different tasks.
            on_judged: Called with the positions of a task's programs in `pairs` and their verdicts, as soon as these
                and the verdicts of all earlier tasks are known. Tasks are ordered by their first appearance.

        Returns:
            The verdicts, in the order of the pairs.

        Raises:
            TypeError: A pair is not a task with a program text; nothing has run then.
        """
        # A list keeps the tasks alive, and with them their identities: tasks with chat prompts cannot be hashed.
        pairs = [_checked_program(row, pair) for row, pair in enumerate(pairs)]
        groups: dict[int, list[int]] = {}
        for place, (task, _) in enumerate(pairs):
            groups.setdefault(id(task), []).append(place)
        jobs = [(pairs[places[0]][0], [pairs[place][1] for place in places]) for places in groups.values()]
        found: dict[int, Verdict] = {}
        for places, verdicts in zip(groups.values(), self.stream(jobs), strict=True):
            found.update(zip(places, verdicts, strict=True))
            if on_judged is not None:
                on_judged(places, verdicts)
        return [found[place] for place in range(len(pairs))]

    def stream(
        self, jobs: Iterable[tuple[CodingTask, Sequence[str]]], *, deadline_seconds: float | None = None
    ) -> Iterator[list[Verdict]]:
        """Judge tasks with programs as they come, and yield the verdicts of each task in the same order.

        Jobs are taken from the iterable while earlier jobs are judged in the background, just far enough ahead to keep
        the workers busy. Closing the iterator breaks off the programs in flight.

        Args:
            jobs: Tasks, each with any number of programs.
            deadline_seconds: As for `run`; the time starts when the first verdict is asked for.

        Raises:
            TypeError: A job is not a task with a list of program texts.
        """
        deadline = None if deadline_seconds is None else time.monotonic() + deadline_seconds
        pending: deque[Job] = deque()
        unfinished: list[concurrent.futures.Future[list[Verdict]]] = []
        try:
            for row, job in enumerate(jobs):
                pending.append(_checked_pair(row, job))
                if deadline is not None and time.monotonic() >= deadline:
                    self._dispatcher.cancel([pending[-1]])
                else:
                    self._dispatcher.submit(pending[-1])
                # A job in reserve for each worker, so that no worker has to share a task or to wait for the caller.
                unfinished.append(pending[-1].future)
                while len(unfinished := [each for each in unfinished if not each.done()]) > 2 * self.workers:
                    self._wait(unfinished, deadline, pending)
                while pending and pending[0].future.done():
                    yield pending.popleft().future.result()
            while pending:
                self._wait([pending[0].future], deadline, pending)
                yield pending.popleft().future.result()
        finally:
            self._dispatcher.cancel(pending)

    def processes(self) -> list[int]:
        """Return the process ids of the running workers; programs are among their descendants."""
        return self._dispatcher.processes()

    def report(self) -> dict[str, str]:
        """Measure the guarantees of this judge's level on this machine.

        The first call runs hostile programs, at least 1 per guarantee, in workers of its own; it takes seconds.

        Returns:
            For each guarantee, by name, "verified" or "absent".

        Raises:
            WorkerError: A worker could not be started.
        """
        if self._report is None:
            self._report = examine(self.isolation)
        return dict(self._report)

    def _wait(
        self, futures: Sequence[concurrent.futures.Future[list[Verdict]]], deadline: float | None, pending: deque[Job]
    ) -> None:
        """Wait for the first of several futures; past the deadline, break off all pending jobs."""
        left = None if deadline is None else max(0.0, deadline - time.monotonic())
        done, _ = concurrent.futures.wait(futures, left, concurrent.futures.FIRST_COMPLETED)
        if not done:
            self._dispatcher.cancel(pending)


def _with_arguments(kind: type[Judge], arguments: dict[str, Any]) -> Judge:
    return kind(**arguments)


def check_options(*, shared_tests: object, seed: object) -> None:
    """Raise ValueError if an option of a judge is out of range."""
    if shared_tests not in ("allow", "refuse"):
        raise ValueError(f'shared_tests: must be "allow" or "refuse"; got {shared_tests!r}')
    # The range of PYTHONHASHSEED.
    if isinstance(seed, bool) or not isinstance(seed, int) or not 0 <= seed < 2**32:
        raise ValueError(f"seed: must be a whole number from 0 to {2**32 - 1}; got {seed!r}")


def _checked_pair(row: int, job: object) -> Job:
    if not isinstance(job, Sequence) or len(job) != 2 or not isinstance(job[0], CodingTask):
        raise TypeError(f"jobs[{row}]: must be a CodingTask with a list of programs; got {job!r:.200}")
    return _checked_job(f"jobs[{row}]", *job)


def _checked_program(row: int, pair: object) -> tuple[CodingTask, str]:
    if not isinstance(pair, Sequence) or len(pair) != 2 or not isinstance(pair[0], CodingTask):
        raise TypeError(f"pairs[{row}]: must be a CodingTask with a program; got {pair!r:.200}")
    if not isinstance(pair[1], str):
        raise TypeError(f"pairs[{row}]: the program must be text; got {type(pair[1]).__name__}")
    return pair[0], pair[1]


def _checked_job(where: str, task: object, programs: object) -> Job:
    if not isinstance(task, CodingTask):
        raise TypeError(f"task: must be a CodingTask; got {type(task).__name__}")
    # A text is a sequence of texts, too: each character would be judged as a program.
    if isinstance(programs, str):
        raise TypeError(f"{where}: programs must be a list of texts; got one text. Wrap it in a list")
    if not isinstance(programs, Iterable):
        raise TypeError(f"{where}: programs must be a list of texts; got {type(programs).__name__}")
    texts = list(programs)
    for column, program in enumerate(texts):
        if not isinstance(program, str):
            raise TypeError(f"{where}, program {column}: must be text; got {type(program).__name__}")
    return Job(task, texts)
