"""Judge a program at a time in a worker, and remember verdicts.

A slot starts its worker on first use and replaces a worker that died. It adds a second worker, with numpy loaded, when
a program or test code that imports numpy comes along. A program whose sandbox failed twice has no pass rate.
"""

from __future__ import annotations

import re
import threading
from collections import OrderedDict
from functools import partial

from trl_pper.judge.host.compare import checker_fault
from trl_pper.judge.host.function import judge_function
from trl_pper.judge.host.stdio import judge_stdio
from trl_pper.judge.host.worker import TestsLost, Worker, WorkerError
from trl_pper.judge.limits import Limits
from trl_pper.judge.verdict import UNJUDGED, Outcome, Verdict
from trl_pper.tasks.syntax import with_preamble
from trl_pper.tasks.task import CodingTask, FunctionTests, StdioTests, Tests
from trl_pper.tasks.tests import count_tests

_ATTEMPTS = 2
#: Programs that import any of these get a worker with numpy loaded. Forks of such a worker are slower, so that other
#: programs get a worker without.
#: No pattern here goes on to another line, or else a program of blank lines would take quadratic time.
_NUMERIC = re.compile(r"^[ \t\f]*(?:import|from)[ \t]+(?:numpy|scipy|pandas|sklearn)\b", re.MULTILINE)
_PYTEST = re.compile(r"^[ \t\f]*(?:import|from)[ \t]+pytest\b", re.MULTILINE)
#: Tests that every program passes if it runs at all.
_NO_TESTS = FunctionTests(code="loaded = True\nassert loaded")
#: Outcomes that may differ the next time, since they depend on more than program, tests and limits.
_UNSTEADY = UNJUDGED - {Outcome.UNSUPPORTED} | {Outcome.TIMEOUT, Outcome.MEMORY_LIMIT}


def _anything(given: str, printed: str, expected: str) -> bool:
    """Accept any output."""
    return True


class VerdictCache:
    """A bounded, thread-safe store of verdicts that drops the least recently used.

    It saves work because beams and samples repeat programs. It does not store a verdict that may differ the next time:
    timeouts, exhausted memory, and every outcome that says nothing about the program.

    Args:
        capacity: Largest number of verdicts; 0 stores none.

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
        """Store `verdict`, unless it may differ the next time."""
        if self.capacity == 0 or not _UNSTEADY.isdisjoint(verdict.outcomes):
            return
        with self._lock:
            self._verdicts[program, tests, limits] = verdict
            while len(self._verdicts) > self.capacity:
                self._verdicts.popitem(last=False)


class Slot:
    """A place where a single program at a time is judged.

    Args:
        level: The isolation level.
        limits: Bounds on each program; a task may override the CPU seconds.
        cache: Verdicts of earlier programs, shared by all slots of a judge.
        seed: Seed of text hashes and of `random` in every program.
        shared_tests: See `Judge`.
    """

    def __init__(
        self, level: str, limits: Limits, cache: VerdictCache, seed: int, *, shared_tests: str = "allow"
    ) -> None:
        self.shared_tests = shared_tests
        #: For each preamble, with the tests and limits of its trial, the reason why it fails by itself, or "".
        self.preambles: dict[tuple[str, Tests, Limits], str] = {}
        self.seed = seed
        self.level = level
        self.limits = limits
        self.cache = cache
        #: The workers, by the modules that each loads before its first program.
        self.workers: dict[tuple[str, ...], Worker] = {}
        self.cancelled = False

    def judge(self, task: CodingTask, program: str) -> Verdict:
        """Return the verdict on the task's preamble followed by `program`, from the cache or from a run."""
        limits = self.limits.for_task(task)
        fault = self._fault(task, limits)
        if fault:
            return Verdict.uniform(Outcome.UNSUPPORTED, total_tests(task.tests), fault)
        program = with_preamble(program, task.preamble)
        verdict = self.cache.get(program, task.tests, limits)
        if verdict is None:
            verdict = self._run(task.tests, program, limits)
            self.cache.put(program, task.tests, limits, verdict)
        return verdict

    def _fault(self, task: CodingTask, limits: Limits) -> str:
        """Return the reason why the task cannot be judged, found before any of its programs runs; "" for none."""
        if isinstance(task.tests, StdioTests) and (fault := checker_fault(task.tests)):
            return fault
        return self._preamble_fault(task.preamble, task.tests, limits) if task.preamble is not None else ""

    def _preamble_fault(self, preamble: str, tests: Tests, limits: Limits) -> str:
        """Return the reason why a preamble fails by itself, or ""."""
        trial: Tests = _NO_TESTS
        if isinstance(tests, StdioTests):
            # A script's preamble may read the input.
            trial = StdioTests(cases=tests.cases[:1], compare=_anything)
        known = self.preambles.get((preamble, trial, limits))
        if known is not None:
            return known
        verdict = self._run(trial, with_preamble("", preamble), limits)
        # A failed sandbox tells nothing about the preamble.
        fails = not verdict.accepted and verdict.pass_rate is not None
        message = f"the task's preamble fails by itself: {verdict.message}" if fails else ""
        if _UNSTEADY.isdisjoint(verdict.outcomes):
            self.preambles[preamble, trial, limits] = message
        return message

    def _run(self, tests: Tests, program: str, limits: Limits) -> Verdict:
        code = _test_code(tests)
        numeric = _NUMERIC.search(program) or _NUMERIC.search(code)
        preload = tuple(name for name, needed in (("numpy", numeric), ("pytest", _PYTEST.search(code))) if needed)
        message, tests_lost = "cancelled", 0
        for _ in range(_ATTEMPTS):
            if self.cancelled:
                break
            try:
                if preload not in self.workers:
                    # Put there before it has started, since a cancel must not wait for the start.
                    put = partial(self.workers.__setitem__, preload)
                    Worker(self.level, self.limits, preload, seed=self.seed, announce=put)
                # Checked again now that `self.workers` holds the worker: `cancel` sets the flag before it looks there,
                # so a cancel at any moment is seen here or reaches the worker.
                if self.cancelled:
                    break
                if isinstance(tests, StdioTests):
                    return judge_stdio(self.workers[preload], program, tests, limits)
                return judge_function(self.workers[preload], program, tests, limits, shared_tests=self.shared_tests)
            except (WorkerError, OSError) as error:
                message = str(error)
                tests_lost += isinstance(error, TestsLost)
                # The worker may have died of an earlier program; the next attempt gets a new worker.
                if preload in self.workers:
                    self.workers.pop(preload).close()
        # Once may be an accident of the machine. Every time, and in workers that are well, it is what the program did.
        outcome = Outcome.RUNTIME_ERROR if tests_lost == _ATTEMPTS else Outcome.SANDBOX_ERROR
        return Verdict.uniform(outcome, total_tests(tests), message)

    def cancel(self) -> None:
        """Make a call of `judge` in another thread return soon, with any verdict."""
        self.cancelled = True
        for worker in list(self.workers.values()):
            worker.cancel()

    def close(self) -> None:
        """End the workers."""
        for worker in self.workers.values():
            worker.close()
        self.workers.clear()


def total_tests(tests: Tests) -> int:
    """Return the number of tests, at least 1."""
    if isinstance(tests, FunctionTests):
        return max(1, count_tests(tests.code, tests.entry_point))
    return len(tests.cases)


def _test_code(tests: Tests) -> str:
    return f"{tests.setup}\n{tests.code}" if isinstance(tests, FunctionTests) else tests.checker or ""
