"""Judge programs on a node of a cluster: the actor that Ray starts there, around a local judge.

The programs of a task arrive in one call, and leave as verdicts. A small task comes with them; a large one lies in
Ray's object store, from where it crosses to a node once, and is unpacked once as long as the node remembers it.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from trl_pper import __version__
from trl_pper.judge.host.dispatcher import Job
from trl_pper.judge.judge import Judge
from trl_pper.judge.levels import IsolationUnavailable
from trl_pper.judge.limits import Limits
from trl_pper.judge.verdict import Verdict
from trl_pper.tasks.task import CodingTask, FunctionTests, Tests

#: Most characters of tests and preamble that are sent with each call, rather than through the object store.
SMALL_CHARACTERS = 1 << 16
#: Most characters of tests that a node, or the object store on behalf of a judge, keeps.
KEPT_CHARACTERS = 512 * 2**20

Name = TypeVar("Name")
Value = TypeVar("Value")


@dataclass(frozen=True, kw_only=True)
class NodeSettings:
    """The arguments of the local judge of a node; see `Judge`."""

    workers: int
    isolation: str
    limits: Limits
    seed: int
    shared_tests: str


@dataclass(frozen=True, kw_only=True)
class NodeState:
    """The answer of a node that was asked to start its judge.

    Args:
        version: Version of this package on the node.
        isolation: Isolation level of the judge; "" if it has none.
        refusal: The reason why the node cannot judge at the level asked for, or "".
    """

    version: str
    isolation: str = ""
    refusal: str = ""


class KeptTasks(Generic[Name, Value]):
    """A store of values that belong to tasks, bounded by the size of their tests; it drops the least recently used.

    Args:
        characters: Most characters of tests, of all values together; the latest value is kept, however long its tests.
    """

    def __init__(self, characters: int = KEPT_CHARACTERS) -> None:
        self.characters = characters
        self._values: OrderedDict[Name, tuple[Value, int]] = OrderedDict()
        self._total = 0

    def __len__(self) -> int:
        return len(self._values)

    def get(self, name: Name) -> Value | None:
        """Return the value of that name, or None."""
        if name not in self._values:
            return None
        self._values.move_to_end(name)
        return self._values[name][0]

    def put(self, name: Name, value: Value, size: int) -> None:
        """Store a value whose tests have `size` characters."""
        self._total += size - self._values.pop(name, (None, 0))[1]
        self._values[name] = (value, size)
        while self._total > self.characters and len(self._values) > 1:
            self._total -= self._values.popitem(last=False)[1][1]


def count_characters(tests: Tests) -> int:
    """Return the number of characters of tests."""
    if isinstance(tests, FunctionTests):
        return len(tests.code) + len(tests.setup)
    return sum(len(case.input) + len(case.output) for case in tests.cases) + len(tests.checker or "")


class NodeJudge:
    """An actor that judges programs on its node.

    Its methods run in several threads: each call waits for its verdicts in a thread of its own.
    """

    def __init__(self) -> None:
        self._judge: Judge | None = None
        self._lock = threading.Lock()
        self._unpacking = threading.Lock()
        self._tasks: KeptTasks[str, CodingTask] = KeptTasks()
        self._unpacked = 0
        self._running: dict[int, Job] = {}
        self._cancelled: set[int] = set()

    def start(self, settings: NodeSettings) -> NodeState:
        """Start the local judge."""
        try:
            # Verdicts are remembered by the process that asks, whichever node they come from.
            self._judge = Judge(
                settings.workers,
                settings.isolation,
                settings.limits,
                cache_size=0,
                seed=settings.seed,
                shared_tests=settings.shared_tests,
            )
        except IsolationUnavailable as error:
            return NodeState(version=__version__, refusal=str(error))
        return NodeState(version=__version__, isolation=self._judge.isolation)

    def judge(self, call: int, name: str, task: Sequence[Any], programs: Sequence[str]) -> list[Verdict]:
        """Return the verdicts on programs.

        Args:
            call: Number of this call, for `cancel`.
            name: Name of the task, the same for the same reference.
            task: The task, or the reference to it in the object store. Ray would unpack it for each call if it did
                not stand in a list.
            programs: Texts of programs, no two of them equal.
        """
        job = Job(self._task(name, task[0]), programs)
        with self._lock:
            self._running[call] = job
            cancelled = call in self._cancelled
        dispatcher = self._started()._dispatcher
        try:
            if cancelled:
                dispatcher.cancel([job])
            else:
                dispatcher.submit(job)
            return job.future.result()
        finally:
            with self._lock:
                del self._running[call]
                self._cancelled.discard(call)

    def cancel(self, call: int) -> None:
        """Break off a call, which then returns with the outcome "not_run" for programs without a verdict."""
        with self._lock:
            # It may overtake the call.
            self._cancelled.add(call)
            job = self._running.get(call)
        if job is not None:
            self._started()._dispatcher.cancel([job], seconds=0.0)

    def report(self) -> dict[str, str]:
        """Measure the guarantees of the judge's level on this node; see `Judge.report`."""
        return self._started().report()

    def unpacked(self) -> int:
        """Return the number of times that a task was taken from the object store."""
        return self._unpacked

    def close(self) -> None:
        """End the workers."""
        self._started().close()

    def _started(self) -> Judge:
        if self._judge is None:
            raise RuntimeError("the judge of this node has not started")
        return self._judge

    def _task(self, name: str, sent: Any) -> CodingTask:
        if isinstance(sent, CodingTask):
            return sent
        import ray

        with self._unpacking:
            task = self._tasks.get(name)
            if task is None:
                task = ray.get(sent)
                assert isinstance(task, CodingTask)
                self._unpacked += 1
                self._tasks.put(name, task, count_characters(task.tests))
            return task
