"""Keep an actor on each node of a cluster: start actors where nodes join, refuse unfit nodes, leave lost ones."""

from __future__ import annotations

import logging
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from trl_pper.cluster import ClusterNode, ClusterUnavailable, Connection, version_refusal, when_done
from trl_pper.judge.cluster.node import NodeJudge, NodeSettings, NodeState
from trl_pper.judge.levels import ISOLATION_LEVELS, IsolationUnavailable

logger = logging.getLogger(__name__)

#: Calls in flight on a node for each of its workers: one that is judged, and one in reserve.
CALLS_PER_WORKER = 2
#: Threads of an actor beyond those of its calls, for cancelling, reporting and closing.
_SPARE_THREADS = 8
#: Longest wait for workers to end.
_CLOSE_SECONDS = 10.0
#: Longest wait for the reports of all nodes; a node takes some seconds.
_REPORT_SECONDS = 300.0


@dataclass(eq=False)
class Node:
    """A node with its actor.

    Args:
        node: The node.
        actor: The handle of its actor.
        workers: Number of programs that it judges at once.
        isolation: The isolation level of its judge, once that has started.
        calls: Number of programs of each call in flight, by the number of the call.
    """

    node: ClusterNode
    actor: Any
    workers: int
    isolation: str = ""
    calls: dict[int, int] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """Host name and the beginning of the id."""
        return self.node.name

    @property
    def load(self) -> float:
        """Programs in flight for each worker."""
        return sum(self.calls.values()) / self.workers

    @property
    def has_room(self) -> bool:
        """Whether another call may be sent."""
        return len(self.calls) < CALLS_PER_WORKER * self.workers


class Nodes:
    """The nodes that judge, and those whose judges are starting.

    Args:
        connection: The connection to the cluster.
        settings: Settings of each node's judge, given the node.
        do: Has a function called in the thread that looks at the nodes.
    """

    def __init__(
        self,
        connection: Connection,
        settings: Callable[[ClusterNode], NodeSettings],
        do: Callable[[Callable[[], None]], None],
    ) -> None:
        #: The nodes that judge.
        self.ready: list[Node] = []
        #: Nodes whose judges are starting, by the id of the node.
        self.starting: dict[str, Node] = {}
        #: Why nodes were refused, by the id of the node.
        self.refusals: dict[str, OSError] = {}
        #: The weakest isolation level that a node may have which joins later; "" for any.
        self.least_isolation = ""
        self._connection = connection
        self._settings = settings
        self._do = do

    @property
    def levels(self) -> dict[str, str]:
        """The isolation level of each node that judges, by its name."""
        return {node.name: node.isolation for node in list(self.ready)}

    def look(self) -> None:
        """Start actors on nodes that have joined, and leave nodes that Ray lists no longer."""
        alive = {node.node_id: node for node in self._connection.nodes()}
        self.ready = [node for node in self.ready if node.node.node_id in alive]
        self.starting = {node_id: node for node_id, node in self.starting.items() if node_id in alive}
        known = {node.node.node_id for node in self.ready} | self.starting.keys() | self.refusals.keys()
        for node_id in alive.keys() - known:
            self._start(alive[node_id])

    def _start(self, node: ClusterNode) -> None:
        settings = self._settings(node)
        calls = CALLS_PER_WORKER * settings.workers
        actor = self._connection.start_actor(NodeJudge, node, threads=calls + _SPARE_THREADS)
        started = Node(node, actor, settings.workers)
        self.starting[node.node_id] = started
        when_done(actor.start.remote(settings), lambda answer: self._do(partial(self._started, started, answer)))

    def _started(self, node: Node, answer: Future[NodeState]) -> None:
        if self.starting.get(node.node.node_id) is not node:
            return
        del self.starting[node.node.node_id]
        error = answer.exception()
        refusal = self._refusal(node.name, answer.result()) if error is None else None
        # A node that was lost is tried again as long as Ray lists it.
        if error is not None and (reason := self._connection.why_failed(error)):
            refusal = ClusterUnavailable(f"node {node.name} cannot judge: {reason}")
        if refusal is not None:
            self.refusals[node.node.node_id] = refusal
            logger.warning("%s", refusal)
            self._connection.kill(node.actor)
        elif error is None:
            node.isolation = answer.result().isolation
            self.ready.append(node)

    def _refusal(self, name: str, state: NodeState) -> OSError | None:
        """Return the reason why a node that has answered cannot judge, or None."""
        if other := version_refusal(name, state.version):
            return ClusterUnavailable(other)
        if state.refusal:
            return IsolationUnavailable(f"node {name}: {state.refusal}")
        weakest = self.least_isolation
        if weakest and ISOLATION_LEVELS.index(state.isolation) > ISOLATION_LEVELS.index(weakest):
            return IsolationUnavailable(
                f"node {name}: its isolation level {state.isolation!r} is below that of the first nodes, {weakest!r}"
            )
        return None

    def lose(self, node: Node) -> None:
        """Leave a node, a call of which has failed with its actor."""
        if node in self.ready:
            logger.warning("node %s was lost; its programs are judged elsewhere", node.name)
            self.ready.remove(node)
            # It may only be out of reach, and must not go on. A new actor is tried as long as Ray lists the node.
            self._connection.kill(node.actor)

    def reports(self) -> list[dict[str, str]]:
        """Return what each node reports of its judge, measured on all nodes at the same time.

        Raises:
            ClusterUnavailable: A node was lost, or did not answer in time.
        """
        return self._connection.results([node.actor.report.remote() for node in list(self.ready)], _REPORT_SECONDS)

    def end(self, *, gently: bool) -> None:
        """End all actors; gently, after their workers have ended and cleaned up."""
        if self._connection.is_open:
            if gently:
                self._connection.wait([node.actor.close.remote() for node in self.ready], _CLOSE_SECONDS)
            for node in [*self.ready, *self.starting.values()]:
                self._connection.kill(node.actor)
        self.forget()

    def forget(self) -> None:
        """Forget all nodes, the handles of which are of no use any more."""
        self.ready, self.starting = [], {}
