"""Keep a writer on each GPU of a cluster: start actors where nodes join, refuse unfit nodes, leave lost ones."""

from __future__ import annotations

import logging
import pickle
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from trl_pper.cluster import ClusterNode, ClusterUnavailable, Connection, version_refusal
from trl_pper.generation.cluster.node import NodeWriter, WriterState

logger = logging.getLogger(__name__)

#: Seconds between two looks at the list of nodes.
_LOOK_SECONDS = 2.0
#: Times that a process is lost on a node while it loads the source, before the node is refused.
_LOSSES = 3


@dataclass(eq=False)
class Writer:
    """An actor that writes programs.

    Args:
        node: Its node.
        place: Which of the node's GPUs it has, from 0; 0 on a node without GPUs.
        actor: The handle of the actor.
        arrival: The call that ends when it has its place on the node.
        loading: The call that ends when its source is loaded.
        has_place: Whether it has its place.
    """

    node: ClusterNode
    place: int
    actor: Any
    arrival: Any
    loading: Any
    has_place: bool = False

    @property
    def key(self) -> tuple[str, int]:
        """The id of the node, and the place."""
        return self.node.node_id, self.place


class Writers:
    """The writers of a cluster, and those that load their source.

    Args:
        connection: The connection to the cluster.
        build: Function that returns the source, called on each node.
        wait_seconds: Longest wait for a free place, and for a node when none is left.
    """

    def __init__(self, connection: Connection, build: Callable[[], Any], *, wait_seconds: float) -> None:
        self.wait_seconds = wait_seconds
        #: The writers that can write.
        self.ready: list[Writer] = []
        #: The writers that wait for their place or load their source.
        self.starting: list[Writer] = []
        #: What the first writer said of its source, which the others have to say, too.
        self.state: WriterState | None = None
        self._refusals: dict[tuple[str, int], ClusterUnavailable] = {}
        self._connection = connection
        self._build = build
        self._next_look = 0.0
        #: Time that has been waited without any writer.
        self._alone_seconds = 0.0
        #: Whether a GPU was seen: writers elsewhere would take a batch for many times as long.
        self._needs_gpu = False
        #: How often a process was lost in each place while it loaded the source.
        self._losses: Counter[tuple[str, int]] = Counter()

    def open(self) -> None:
        """Connect, start writers, and wait until each has loaded its source, is refused, or waits for its place.

        Raises:
            ClusterUnavailable: There is no cluster, a node cannot write, or no node had a place in time.
            ValueError: The function cannot be sent to nodes.
        """
        self._connection.open()
        try:
            self._open()
        except BaseException:
            # The caller gets no source that it could close, and an interrupt comes while models are loaded.
            self.close()
            raise

    def _open(self) -> None:
        until = time.monotonic() + self.wait_seconds
        while True:
            self.wait([], _LOOK_SECONDS)
            if self._refusals:
                raise ClusterUnavailable("; ".join(map(str, self._refusals.values())))
            late = time.monotonic() >= until and not any(writer.has_place for writer in self.starting)
            if self.ready and (late or not self.starting):
                break
        for writer in self.starting:
            logger.warning("node %s has no free GPU yet, and writes as soon as it has", writer.node.name)

    def wait(self, calls: list[Any], seconds: float) -> list[Any]:
        """Wait until a call has ended, in whatever way, and return those that have; start and welcome writers.

        Args:
            calls: Calls of writers.
            seconds: Longest wait.

        Raises:
            ClusterUnavailable: No writer has been left for `wait_seconds`.
        """
        started = time.monotonic()
        if started >= self._next_look:
            self._look()
        starting = [writer.loading if writer.has_place else writer.arrival for writer in self.starting]
        ended = self._connection.wait_for_any([*calls, *starting], seconds)
        for writer in [writer for writer in self.starting if writer.loading in ended or writer.arrival in ended]:
            self._welcome(writer)
        self._check_alone(time.monotonic() - started)
        return [call for call in calls if call in ended]

    def lose(self, writer: Writer) -> bool:
        """Leave a writer, a call of which was lost with its actor or its node; return False if it was left before."""
        if writer not in self.ready:
            return False
        logger.warning("a writer on node %s was lost; its tasks are written elsewhere", writer.node.name)
        self.ready.remove(writer)
        # It may only be out of reach. A new one is tried as long as Ray lists the node.
        self._connection.kill(writer.actor)
        return True

    def close(self) -> None:
        """End all writers."""
        if self._connection.is_open:
            for writer in [*self.ready, *self.starting]:
                self._connection.kill(writer.actor)
        self.ready, self.starting = [], []
        self._next_look = self._alone_seconds = 0.0

    def _look(self) -> None:
        """Start writers on nodes that have joined; those of lost nodes fail by themselves."""
        self._next_look = time.monotonic() + _LOOK_SECONDS
        nodes = self._connection.nodes()
        with_gpus = [node for node in nodes if node.gpus]
        self._needs_gpu = self._needs_gpu or bool(with_gpus)
        known = {writer.key for writer in (*self.ready, *self.starting)} | self._refusals.keys()
        for node in with_gpus if self._needs_gpu else nodes:
            for place in range(max(1, node.gpus)):
                if (node.node_id, place) not in known:
                    self._start(node, place)

    def _start(self, node: ClusterNode, place: int) -> None:
        actor = self._connection.start_actor(NodeWriter, node, gpus=min(1, node.gpus))
        try:
            arrival, loading = actor.here.remote(), actor.load.remote(self._build, node.cpus)
        except (TypeError, pickle.PicklingError) as error:
            self._connection.kill(actor)
            # Ray's own message is a page long; it names the reason first.
            raise ValueError(
                "build: must be a function that can be pickled, since nodes call it; got one that cannot "
                f"({error.__cause__ or error}). Load the model inside of it, and let it refer to plain values"
            ) from error
        self.starting.append(Writer(node, place, actor, arrival, loading))

    def _welcome(self, writer: Writer) -> None:
        """Take note that a writer has arrived, or has loaded its source or failed to."""
        state, error = self._connection.outcome(writer.loading if writer.has_place else writer.arrival)
        if error is None and not writer.has_place:
            writer.has_place = True
            return
        self.starting.remove(writer)
        if error is not None:
            reason = self._connection.why_failed(error) or self._why_lost(writer)
            # A node that was lost is tried again as long as Ray lists it.
            refusal = reason and f"node {writer.node.name} cannot write: {reason}"
        else:
            refusal = self._refusal(writer.node.name, state)
        if refusal:
            self._refusals[writer.key] = ClusterUnavailable(refusal)
            logger.warning("%s", refusal)
            self._connection.kill(writer.actor)
        elif error is None:
            self.state = self.state or state
            self.ready.append(writer)

    def _why_lost(self, writer: Writer) -> str:
        """Note that a starting writer was lost; return the reason to refuse its node if that happens again, or ""."""
        if writer.has_place:
            self._losses[writer.key] += 1
            logger.warning("a writer on node %s was lost while it loaded its source", writer.node.name)
        if self._losses[writer.key] < _LOSSES:
            return ""
        return (
            f"its process ended {_LOSSES} times while it loaded the source, perhaps for want of memory. See the logs "
            "of Ray, and load a smaller model or fewer bits"
        )

    def _refusal(self, name: str, state: WriterState) -> str:
        """Return the reason why a writer whose source is loaded cannot write with the others, or ""."""
        if other := version_refusal(name, state.version):
            return other
        if self.state is not None and state != self.state:
            return (
                f"node {name} has another model than {self.ready[0].node.name if self.ready else 'the first node'}, "
                "or other versions of its files; give all nodes the same"
            )
        return ""

    def _check_alone(self, waited_seconds: float) -> None:
        if self.ready or any(writer.has_place for writer in self.starting):
            self._alone_seconds = 0.0
            return
        # Time between two calls does not count: nobody looked for nodes.
        self._alone_seconds += waited_seconds
        if self._alone_seconds >= self.wait_seconds:
            # The next attempt looks for nodes at once, and waits as long again.
            self._next_look = self._alone_seconds = 0.0
            refused = "; ".join(map(str, self._refusals.values()))
            raise ClusterUnavailable(
                f"no node of the cluster had room for a writer within {self.wait_seconds:g} s"
                + (f" ({refused})" if refused else "")
                + ". Each needs a GPU of Ray's for itself, or a node with CPUs where no node has GPUs. See "
                "`ray status`, and go on: what was written so far is kept"
            )
