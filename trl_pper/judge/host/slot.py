"""Judge programs in a worker, a single program at a time, and remember verdicts.

A slot starts its worker on first use, replaces a worker that died, and keeps a second one with numpy loaded once a
program asks for it. A program whose sandbox failed twice has no pass rate.
"""

from __future__ import annotations

import re
import threading
from collections import OrderedDict

from trl_pper.judge.host.function import judge_function
from trl_pper.judge.host.stdio import judge_stdio
from trl_pper.judge.host.worker import Worker, WorkerError
from trl_pper.judge.limits import Limits
from trl_pper.judge.verdict import UNJUDGED, Outcome, Verdict
from trl_pper.tasks.syntax import with_preamble
from trl_pper.tasks.task import CodingTask, FunctionTests, StdioTests, Tests
from trl_pper.tasks.tests import count_tests

_ATTEMPTS = 2
#: Programs that import one of these get a worker that has numpy loaded, which would slow down every other program.
_NUMERIC = re.compile(r"^\s*(?:import|from)\s+(?:numpy|scipy|pandas|sklearn)\b", re.MULTILINE)
#: Outcomes that depend on more than program, tests and limits.
_UNSTEADY = UNJUDGED - {Outcome.UNSUPPORTED} | {Outcome.TIMEOUT, Outcome.MEMORY_LIMIT}


class VerdictCache:
    """A bounded, thread-safe store of verdicts; the least recently used goes first.

    Beams and samples repeat themselves. Verdicts that may come out otherwise the next time are not remembered:
    timeouts, exhausted memory, and everything that says nothing about the program.

    Args:
        capacity: Largest number of verdicts; 0 remembers none.

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


class Slot:
    """A place to judge a single program at a time.

    Args:
        level: The isolation level.
        limits: Limits of a program, unless its task has its own.
        cache: Verdicts of earlier programs, shared by all slots of a judge.
        seed: Seed of hashes and of `random` in every program.
    """

    def __init__(self, level: str, limits: Limits, cache: VerdictCache, seed: int) -> None:
        self.seed = seed
        self.level = level
        self.limits = limits
        self.cache = cache
        #: By the modules that are loaded before a program starts.
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
                # Looked at once the worker can be seen by `cancel`, which sets the flag before it looks for workers.
                if self.cancelled:
                    break
                if isinstance(task.tests, StdioTests):
                    return judge_stdio(self.workers[preload], program, task.tests, limits)
                return judge_function(self.workers[preload], program, task.tests, limits)
            except (WorkerError, OSError) as error:
                message = str(error)
                if preload in self.workers:
                    self.workers.pop(preload).close()
        return Verdict.uniform(Outcome.SANDBOX_ERROR, total_tests(task), message)

    def cancel(self) -> None:
        """Make a `judge` at work in another thread come back soon, with any verdict."""
        self.cancelled = True
        for worker in list(self.workers.values()):
            worker.cancel()

    def close(self) -> None:
        """End the workers."""
        for worker in self.workers.values():
            worker.close()
        self.workers.clear()


def total_tests(task: CodingTask) -> int:
    """Return the number of tests of a task, at least 1."""
    if isinstance(task.tests, FunctionTests):
        return max(1, count_tests(task.tests.code))
    return len(task.tests.cases)


def _test_code(tests: Tests) -> str:
    return f"{tests.setup}\n{tests.code}" if isinstance(tests, FunctionTests) else ""
