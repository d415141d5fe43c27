"""Join a Ray cluster: import Ray, connect to an address, list its nodes and start an actor on one.

Every call of Ray is made in this module or on the handles that it returns. A connection that this process already has,
as under Ray Train, is used and left open.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from trl_pper import __version__

#: Longest wait for the port of a cluster's address: without a look at the port Ray tries a wrong address for minutes.
_PORT_SECONDS = 10.0


@contextlib.contextmanager
def _signals_kept() -> Iterator[None]:
    """Keep the handler of SIGTERM, which Ray replaces by one that exits at once."""
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        # Other threads cannot set handlers, and Ray does not.
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, before)


class ClusterUnavailable(OSError):
    """Raised when there is no cluster at an address, or no node of it is left to work on."""


@dataclass(frozen=True, kw_only=True)
class ClusterNode:
    """A node that is alive and has CPUs.

    Args:
        node_id: Ray's id of the node.
        name: Host name and the beginning of the id, for people.
        cpus: Number of CPUs that the node offers to Ray.
        gpus: Number of GPUs that the node offers to Ray.
    """

    node_id: str
    name: str
    cpus: int
    gpus: int = 0


def checked_wait(wait_seconds: object) -> float:
    """Return the longest wait for nodes.

    Raises:
        ValueError: It is no number of seconds above 0.
    """
    if isinstance(wait_seconds, bool) or not isinstance(wait_seconds, int | float) or not wait_seconds > 0:
        raise ValueError(f"wait_seconds: must be a number of seconds above 0; got {wait_seconds!r:.80}")
    return float(wait_seconds)


def version_refusal(name: str, version: str) -> str:
    """Return the reason why a node with that version of this package cannot be used, or ""."""
    if version == __version__:
        return ""
    return f"node {name} has trl-pper {version}, and this process {__version__}; install the same version"


def import_ray() -> Any:
    """Return the module `ray`.

    Raises:
        ImportError: Ray is not installed; the message names the extra.
    """
    try:
        import ray
    except ImportError as error:
        raise ImportError("a cluster needs Ray; install it with: pip install 'trl-pper[ray]'") from error
    return ray


class Connection:
    """A connection to a Ray cluster.

    Args:
        address: The cluster, as `ray.init` takes it. None or "auto" for the running cluster; "local" to start Ray
            here; "HOST:6379" or "ray://HOST:10001" for others.

    Raises:
        ImportError: Ray is not installed.
        ValueError: The address is no text.
    """

    def __init__(self, address: str | None) -> None:
        if address is not None and (not isinstance(address, str) or not address):
            raise ValueError(
                f"address: must be None, 'auto', 'local', 'HOST:6379' or 'ray://HOST:10001'; got {address!r:.80}"
            )
        self.address = address or "auto"
        self._ray = import_ray()

    @property
    def is_open(self) -> bool:
        """Whether this process is connected to a cluster."""
        return bool(self._ray.is_initialized())

    def open(self) -> None:
        """Connect, unless this process is connected already.

        Raises:
            ClusterUnavailable: There is no cluster at the address.
            ValueError: The address is malformed.
        """
        if self.is_open:
            return
        # Where Ray itself looks for the address first.
        address = os.environ.get("RAY_ADDRESS", "auto") if self.address == "auto" else self.address
        if address not in ("auto", "local"):
            self._knock(address)
        if address == "local":
            # Ray reports the use of clusters that it starts to its makers, unless it is told not to.
            os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        try:
            with _signals_kept():
                self._ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
        except ConnectionError as error:
            raise ClusterUnavailable(
                f"address: must lead to a running Ray cluster; got {self.address!r}, and none was found ({error}). "
                "Start one with `ray start --head` on this machine and `ray start --address HOST:6379` on others, or "
                "choose 'local'"
            ) from error
        except ValueError as error:
            raise ValueError(f"address: must be one that ray.init takes; got {self.address!r}: {error}") from error

    def _knock(self, address: str) -> None:
        """Raise an error unless an address has a host and a port, and the port answers."""
        try:
            parts = urlsplit(address if "://" in address else f"ray://{address}")
            host, port = parts.hostname, parts.port
        except ValueError:
            host = port = None
        if not host or not port:
            raise ValueError(
                f"address: must be 'auto', 'local', 'HOST:6379' or 'ray://HOST:10001', as ray.init takes it; got "
                f"{address!r:.80}"
            )
        try:
            socket.create_connection((host, port), timeout=_PORT_SECONDS).close()
        except OSError as error:
            raise ClusterUnavailable(
                f"address: must lead to a running Ray cluster; got {address!r}, which does not answer ({error}). "
                "Start one with `ray start --head` there, and see that its port is not blocked"
            ) from error

    def nodes(self) -> list[ClusterNode]:
        """Return the nodes that are alive and have CPUs; a head node without CPUs is for Ray's own processes."""
        found = []
        for node in self._ray.nodes():
            cpus = int(node["Resources"].get("CPU", 0))
            if node["Alive"] and cpus >= 1:
                name = f"{node['NodeManagerHostname']} ({node['NodeID'][:8]})"
                gpus = int(node["Resources"].get("GPU", 0))
                found.append(ClusterNode(node_id=node["NodeID"], name=name, cpus=cpus, gpus=gpus))
        return found

    def start_actor(self, kind: type, node: ClusterNode, *, threads: int = 1, gpus: int = 0) -> Any:
        """Return the handle of a new actor on a node.

        Args:
            kind: The class of the actor, which is made without arguments.
            node: The node. If it is lost the actor is lost with it, and is not started anywhere else.
            threads: Most calls of the actor at a time.
            gpus: Number of the node's GPUs that the actor has for itself; it starts once so many are free.
        """
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        actor = self._ray.remote(kind).options(
            # With CPUs of Ray the actor would wait for those that a trainer holds, or another actor.
            num_cpus=0,
            num_gpus=gpus,
            max_restarts=0,
            max_task_retries=0,
            max_concurrency=threads,
            scheduling_strategy=NodeAffinitySchedulingStrategy(node.node_id, soft=False),
        )
        return actor.remote()

    def put(self, value: Any) -> Any:
        """Put a value into the object store, and return the reference."""
        return self._ray.put(value)

    def wait(self, answers: list[Any], seconds: float) -> None:
        """Wait until calls have ended, in whatever way."""
        if answers:
            self._ray.wait(answers, num_returns=len(answers), timeout=seconds)

    def wait_for_any(self, answers: list[Any], seconds: float) -> list[Any]:
        """Wait until at least one call has ended, in whatever way, and return those that have."""
        if not answers:
            time.sleep(seconds)
            return []
        self._ray.wait(answers, num_returns=1, timeout=seconds)
        return list(self._ray.wait(answers, num_returns=len(answers), timeout=0)[0])

    def outcome(self, answer: Any) -> tuple[Any, Exception | None]:
        """Return the result of a call that has ended, and its error."""
        try:
            return self._ray.get(answer), None
        except Exception as error:
            return None, error

    def results(self, answers: list[Any], seconds: float) -> list[Any]:
        """Return the results of calls.

        Raises:
            ClusterUnavailable: A node was lost, or did not answer in time.
        """
        try:
            return list(self._ray.get(answers, timeout=seconds))
        except self._ray.exceptions.RayError as error:
            if not self.is_loss(error):
                raise
            raise ClusterUnavailable(
                f"a node of the cluster was lost before it answered ({error}); try again"
            ) from error

    def kill(self, actor: Any) -> None:
        """End an actor, with its calls."""
        self._ray.kill(actor)

    def is_loss(self, error: BaseException) -> bool:
        """Return whether a call failed because its actor or its node was lost, and not by an error inside."""
        errors = self._ray.exceptions
        if isinstance(error, errors.RayTaskError):
            # The task was lost on its way to a node that is well.
            return isinstance(error.cause, errors.ObjectLostError)
        return isinstance(error, errors.RayError)

    def cause(self, error: Exception) -> Exception:
        """Return the error that was raised inside of a call, as it was raised there."""
        return getattr(error, "cause", None) or error

    def why_failed(self, error: BaseException) -> str:
        """Return the reason why an actor could not start on a node that is alive, or "" if the node was lost."""
        if self.is_loss(error) and not getattr(error, "actor_init_failed", False):
            return ""
        cause = getattr(error, "cause", None)
        if isinstance(cause, Exception) and not isinstance(cause, self._ray.exceptions.RayError):
            # All lines: of several the first mostly says what is wrong.
            return f"{type(cause).__name__}: {' '.join(str(cause).split())}".removesuffix(": ")
        # The last line of a traceback of another process.
        lines = [line for line in str(error).splitlines() if line.strip()]
        return lines[-1].strip() if lines else type(error).__name__


def when_done(answer: Any, then: Callable[[Future[Any]], None]) -> None:
    """Call a function with the future of a call as soon as the call has ended, in a thread of Ray's."""
    answer.future().add_done_callback(then)
