"""Hand jobs to the nodes of a cluster, and judge the programs of a lost node on another.

A single thread holds all state: it takes functions from a queue, one after the other, and ends when there is nothing
left to do. Callers, and Ray's threads when a call has ended, put functions into the queue.
"""

from __future__ import annotations

import concurrent.futures
import itertools
import logging
import math
import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeAlias

from trl_pper.cluster import ClusterNode, ClusterUnavailable, Connection, when_done
from trl_pper.judge.cluster.node import SMALL_CHARACTERS, KeptTasks, NodeSettings, count_characters
from trl_pper.judge.cluster.nodes import Node, Nodes
from trl_pper.judge.host.dispatcher import Job
from trl_pper.judge.host.slot import VerdictCache, total_tests
from trl_pper.judge.limits import Limits
from trl_pper.judge.verdict import Outcome, Verdict
from trl_pper.tasks.task import CodingTask, Tests

logger = logging.getLogger(__name__)

#: A program that was lost with as many nodes is not judged: it may be what brings them down.
_LOSSES = 2
#: Time between two looks at the list of nodes, while there are programs to judge.
_LOOK_SECONDS = 2.0
#: Longest time that `abort` waits for programs that it has broken off, and again for the actors.
_ABORT_SECONDS = 1.0

_Settled: TypeAlias = concurrent.futures.Future[None]


@dataclass(eq=False)
class _Work:
    """A job with the places of each of its different programs that has no verdict yet."""

    job: Job
    places: dict[str, list[int]] = field(default_factory=dict)
    #: Number of the latest call.
    call: int = -1
    #: Names of the nodes that the programs were lost with.
    lost_with: list[str] = field(default_factory=list)


class ClusterDispatcher:
    """The nodes of a cluster, and the jobs that wait for them.

    Args:
        connection: The connection to the cluster.
        settings: Settings of each node's judge, given the node.
        limits: Limits on each program.
        cache: Verdicts of earlier programs.
        wait_seconds: Longest time that jobs wait while no node is left.
    """

    def __init__(
        self,
        connection: Connection,
        settings: Callable[[ClusterNode], NodeSettings],
        limits: Limits,
        cache: VerdictCache,
        *,
        wait_seconds: float,
    ) -> None:
        self.wait_seconds = wait_seconds
        self.nodes = Nodes(connection, settings, self._do)
        self._connection = connection
        self._limits = limits
        self._cache = cache
        self._events: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._running = False
        self._numbers = itertools.count()
        self._waiting: deque[_Work] = deque()
        self._openers: list[tuple[_Settled, float]] = []
        self._works: dict[Job, _Work] = {}
        #: References of tasks in the object store, with their names.
        self._put: KeptTasks[tuple[Tests, float | None, str | None], tuple[str, Any]] = KeptTasks()
        self._next_look = 0.0
        self._alone_since = math.inf

    @property
    def workers(self) -> int:
        """Number of programs that are judged at once, on all nodes together; at least 1."""
        return max(1, sum(node.workers for node in list(self.nodes.ready)))

    def processes(self) -> list[int]:
        """Return no process ids: the workers run on the nodes, under Ray's processes."""
        return []

    def open(self) -> None:
        """Connect, start an actor on every node, and wait until each is ready, refused or late.

        Raises:
            ClusterUnavailable: There is no cluster, or no node of it was ready in time.
        """
        # Here, so that an interrupt reaches the caller.
        self._connection.open()
        opened: _Settled = concurrent.futures.Future()
        self._do(partial(self._open, opened, time.monotonic() + self.wait_seconds))
        opened.result()

    def submit(self, *jobs: Job) -> None:
        """Have the programs of jobs judged; their futures are settled in threads of this dispatcher."""
        for job in jobs:
            if not job.programs:
                job.settle()
        filled = [job for job in jobs if job.programs]
        # At once, so that `close` knows of them.
        self._works.update({job: _Work(job) for job in filled})
        if filled:
            self._do(partial(self._take, filled))

    def cancel(self, jobs: Iterable[Job], *, seconds: float | None = None) -> None:
        """Begin no more programs of some jobs, break off those in flight, and wait until all futures are settled.

        Args:
            jobs: Jobs that were submitted or not; a job that was not ends without any of its programs run.
            seconds: Longest wait; None for as long as it takes.
        """
        open_jobs = [job for job in jobs if not job.future.done()]
        if open_jobs:
            self._do(partial(self._cancel, open_jobs))
            concurrent.futures.wait([job.future for job in open_jobs], timeout=seconds)

    def abort(self) -> None:
        """Break off all jobs, and end the actors with their workers."""
        self.cancel(list(self._works), seconds=_ABORT_SECONDS)
        concurrent.futures.wait([self._end(gently=False)], timeout=_ABORT_SECONDS)

    def close(self) -> None:
        """Wait until every job is settled, and end the actors with their workers."""
        concurrent.futures.wait([job.future for job in list(self._works)])
        self._end(gently=True).result()

    def _end(self, *, gently: bool) -> _Settled:
        ended: _Settled = concurrent.futures.Future()
        self._do(partial(self._end_nodes, ended, gently))
        return ended

    def _do(self, event: Callable[[], None]) -> None:
        """Have a function called in the thread of this dispatcher."""
        self._events.put(event)
        with self._lock:
            if not self._running:
                # A thread that cannot be had is the error of this call, and the next call tries again.
                threading.Thread(target=self._serve, name="judge-cluster", daemon=True).start()
                self._running = True

    # All methods below run in the thread of this dispatcher.

    def _serve(self) -> None:
        while True:
            try:
                self._settle_openers()
                self._hand_out()
                busy = bool(self._works or self._openers or self.nodes.starting)
                left = self._next_look - time.monotonic()
                if busy and left <= 0:
                    self._look()
                    continue
                event = self._next_event(left if busy else 0.0)
                if event is not None:
                    event()
                elif not busy and self._ends():
                    return
            except BaseException as error:
                # Whoever waits for a verdict or a node is to see it.
                self._fail(error)

    def _next_event(self, seconds: float) -> Callable[[], None] | None:
        try:
            return self._events.get(block=seconds > 0, timeout=seconds or None)
        except queue.Empty:
            return None

    def _ends(self) -> bool:
        """Note that the thread ends, unless there is something to do again."""
        with self._lock:
            self._running = not self._events.empty()
            return not self._running

    def _open(self, opened: _Settled, until: float) -> None:
        self._openers.append((opened, until))
        self._look()

    def _settle_openers(self) -> None:
        now = time.monotonic()
        for opened, until in list(self._openers):
            if self.nodes.starting and now < until:
                continue
            self._openers.remove((opened, until))
            for late in self.nodes.starting.values():
                logger.warning("node %s is not ready yet, and judges as soon as it is", late.name)
            if self.nodes.ready or self.nodes.refusals:
                opened.set_result(None)
            else:
                opened.set_exception(self._no_node())

    def _take(self, jobs: Iterable[Job]) -> None:
        self._waiting.extend(self._works[job] for job in jobs if job in self._works)
        # Nodes may have been lost since the last program.
        if time.monotonic() >= self._next_look:
            self._look()

    def _look(self) -> None:
        """Look which nodes there are, and connect first where this process is not connected."""
        self._next_look = time.monotonic() + _LOOK_SECONDS
        if not self._connection.is_open:
            if self.nodes.ready or self.nodes.starting:
                raise ClusterUnavailable(
                    "the connection of this process to Ray was shut down while programs were judged; judge them again"
                )
            self._connection.open()
            # References belong to a connection.
            self._put = KeptTasks()
        self.nodes.look()
        if self.nodes.ready or not self._waiting:
            self._alone_since = math.inf
        elif self._alone_since == math.inf:
            self._alone_since = time.monotonic()
        elif time.monotonic() >= self._alone_since + self.wait_seconds:
            raise self._no_node()

    def _no_node(self) -> ClusterUnavailable:
        refused = "; ".join(map(str, self.nodes.refusals.values()))
        return ClusterUnavailable(
            f"no node of the cluster was ready to judge within {self.wait_seconds:g} s"
            + (f" ({refused})" if refused else "")
            + ". See `ray status`, start nodes with `ray start`, and judge again: what was judged so far is kept"
        )

    def _hand_out(self) -> None:
        """Give waiting jobs to nodes, in order, as long as there is a node with room."""
        while self._waiting:
            work = self._waiting[0]
            if not work.places and not self._begin(work):
                self._waiting.popleft()
                continue
            last = work.lost_with[-1:]
            elsewhere = [node for node in self.nodes.ready if node.name not in last] or self.nodes.ready
            free = [node for node in elsewhere if node.has_room]
            if not free:
                return
            self._waiting.popleft()
            self._send(work, min(free, key=lambda node: node.load))

    def _begin(self, work: _Work) -> bool:
        """Fill in the verdicts that are remembered, and return whether there are programs left to judge."""
        job = work.job
        if not job.begin():
            # Its owner has cancelled the future.
            self._works.pop(job, None)
            return False
        for place, program in enumerate(job.programs):
            job.verdicts[place] = self._cache.get(*self._cache_key(job.task, program))
            if job.verdicts[place] is None:
                work.places.setdefault(program, []).append(place)
        if not work.places:
            self._settle(work)
        return bool(work.places)

    def _cache_key(self, task: CodingTask, program: str) -> tuple[str, Tests, Limits]:
        # A preamble that fails by itself leaves a program without a verdict, where the same text as a program alone
        # has one: the two are kept apart.
        return repr((task.preamble, program)), task.tests, self._limits.for_task(task)

    def _send(self, work: _Work, node: Node) -> None:
        try:
            name, task = self._to_send(work.job.task)
        except ValueError as error:
            work.job.error = error
            self._settle(work)
            return
        number = work.call = next(self._numbers)
        node.calls[number] = len(work.places)
        # Ray would resolve a reference that is an argument itself, and unpack the task anew for each call.
        answer = node.actor.judge.remote(number, name, [task], list(work.places))
        when_done(answer, lambda answer: self._do(partial(self._answered, work, node, number, answer)))

    def _to_send(self, task: CodingTask) -> tuple[str, Any]:
        """Return the name of a task, and its reference in the object store, where equal tests are stored once.

        A small task is sent by itself, without a name: to store it would cost more CPU time than to send it again.

        Raises:
            ValueError: The tests compare with a function that cannot be sent.
        """
        key = (task.tests, task.cpu_seconds, task.preamble)
        # Prompts, which may be long, and references, which no node needs, stay here.
        bare = CodingTask(task_id="task", prompt="prompt", tests=key[0], cpu_seconds=key[1], preamble=key[2])
        has_function = callable(getattr(task.tests, "compare", None))
        if not has_function and count_characters(task.tests) + len(task.preamble or "") <= SMALL_CHARACTERS:
            return "", bare
        found = self._put.get(key)
        if found is None:
            try:
                found = str(next(self._numbers)), self._connection.put(bare)
            except Exception as error:
                if not has_function:
                    raise
                raise ValueError(
                    f"compare: a function must be picklable to be sent to a node; {task.task_id} has one that is not "
                    f"({error}). Define it at the top level of a module that the nodes have, or judge with Judge"
                ) from error
            self._put.put(key, found, count_characters(task.tests))
        return found

    def _answered(
        self, work: _Work, node: Node, number: int, answer: concurrent.futures.Future[list[Verdict]]
    ) -> None:
        del node.calls[number]
        job, error = work.job, answer.exception()
        if job not in self._works:
            return
        if error is None:
            for (program, places), verdict in zip(work.places.items(), answer.result(), strict=True):
                self._cache.put(*self._cache_key(job.task, program), verdict)
                for place in places:
                    job.verdicts[place] = verdict
        elif not self._connection.is_loss(error):
            job.error = error
        else:
            self.nodes.lose(node)
            work.lost_with.append(node.name)
            if not job.cancelled and len(work.lost_with) < _LOSSES:
                self._waiting.appendleft(work)
                return
            if not job.cancelled:
                self._give_up(work)
        self._settle(work)

    def _give_up(self, work: _Work) -> None:
        """Leave the programs that were lost with several nodes without a pass rate, as after a failed sandbox."""
        message = f"lost with the nodes {' and '.join(work.lost_with)}"
        verdict = Verdict.uniform(Outcome.SANDBOX_ERROR, total_tests(work.job.task.tests), message)
        for place in itertools.chain.from_iterable(work.places.values()):
            work.job.verdicts[place] = verdict

    def _cancel(self, jobs: Iterable[Job]) -> None:
        for job in jobs:
            work = self._works.get(job)
            if work is None and job.begun:
                # It is being settled.
                continue
            job.cancelled = True
            call = -1 if work is None else work.call
            at_work = [node for node in self.nodes.ready if call in node.calls]
            for node in at_work:
                node.actor.cancel.remote(call)
            if at_work:
                continue
            # It waits for a node, was not submitted, or its node is lost and Ray has not said so yet.
            if work is not None and work in self._waiting:
                self._waiting.remove(work)
            if job.begin():
                self._settle(work or _Work(job))
            else:
                self._works.pop(job, None)

    def _settle(self, work: _Work) -> None:
        self._works.pop(work.job, None)
        # Callbacks of the future may take their time, or judge.
        threading.Thread(target=_settle, args=(work.job,), daemon=True).start()

    def _end_nodes(self, ended: _Settled, gently: bool) -> None:
        self.nodes.end(gently=gently)
        self._put = KeptTasks()
        self._next_look = 0.0
        ended.set_result(None)

    def _fail(self, error: BaseException) -> None:
        """Give an error to everyone who waits."""
        self._waiting.clear()
        self._alone_since = math.inf
        if not self._connection.is_open:
            self.nodes.forget()
        openers, self._openers = self._openers, []
        for opened, _ in openers:
            opened.set_exception(error)
        for job, work in list(self._works.items()):
            if job.begin():
                job.error = error
                self._settle(work)
            else:
                self._works.pop(job)


def _settle(job: Job) -> None:
    # As in a thread of a local judge: whatever a callback raises is the callback's.
    try:
        job.settle()
    except BaseException:
        logger.critical("a callback of a submitted job failed", exc_info=True)
