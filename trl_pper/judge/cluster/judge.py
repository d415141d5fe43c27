"""Judge programs on the nodes of a Ray cluster with the interface of a local judge, and choose between the two."""

from __future__ import annotations

import os

from trl_pper.cluster import ClusterNode, ClusterUnavailable, Connection, checked_wait
from trl_pper.judge.cluster.dispatcher import ClusterDispatcher
from trl_pper.judge.cluster.node import NodeSettings
from trl_pper.judge.host.slot import VerdictCache
from trl_pper.judge.judge import Judge, check_options
from trl_pper.judge.levels import ISOLATION_LEVELS, IsolationUnavailable, check_level
from trl_pper.judge.limits import Limits


class RayJudge(Judge):
    """A judge of untrusted programs whose workers are on the nodes of a Ray cluster.

    Each node that is alive and has CPUs holds a local `Judge` in its jail. The programs of a task are judged together
    on one node, the one with the fewest programs for each worker. Nodes that join later are used, lost ones are left.
    The programs of a lost node are judged on another; lost a second time, they have no pass rate, as after a failed
    sandbox. Equal programs of a task are judged once. Everything else is as with `Judge`, with these differences: a
    function as `compare` is sent to the nodes and runs there; and a connection to Ray that this process already has is
    used, whatever `address` says, and stays open.

    Args:
        address: The cluster, as `ray.init` takes it. None or "auto" for the running cluster; "local" to start Ray
            here; "HOST:6379" or "ray://HOST:10001" for others, the latter with `pip install 'ray[client]'`.
        workers_per_node: Number of programs to judge at once on a node. None means the node's CPUs, divided by the
            number of processes of a distributed run.
        isolation: As for `Judge`, on every node.
        limits: Limits on each program.
        cache_size: Number of verdicts to remember, in this process; as for `Judge`.
        seed: As for `Judge`.
        shared_tests: As for `Judge`.
        wait_seconds: Longest wait for the nodes at the start, and for a node when none is left.

    Raises:
        ImportError: Ray is not installed.
        ValueError: An argument is out of range.
        ClusterUnavailable: There is no cluster at the address, none of its nodes was ready in time, or a node has
            another version of this package or none; the message names the node.
        IsolationUnavailable: The level asked for does not hold on a node; the message names the node and the reason.
    """

    def __init__(
        self,
        address: str | None = None,
        workers_per_node: int | None = None,
        isolation: str = "auto",
        limits: Limits | None = None,
        *,
        cache_size: int = 65_536,
        seed: int = 0,
        shared_tests: str = "allow",
        wait_seconds: float = 60.0,
    ) -> None:
        # Judge's own constructor would choose a level and workers for this machine.
        check_options(shared_tests=shared_tests, seed=seed)
        check_level(isolation)
        self._arguments = {
            "address": address,
            "workers_per_node": workers_per_node,
            "isolation": isolation,
            "limits": limits,
            "cache_size": cache_size,
            "seed": seed,
            "shared_tests": shared_tests,
            "wait_seconds": wait_seconds,
        }
        workers = workers_per_node
        if workers is not None and (isinstance(workers, bool) or not isinstance(workers, int) or workers < 1):
            raise ValueError(
                f"workers_per_node: must be a whole number of at least 1, or None for the CPUs; got {workers!r:.80}"
            )
        wait = checked_wait(wait_seconds)
        self.limits = limits = limits if limits is not None else Limits()
        self.cache = VerdictCache(cache_size)
        self._report = None

        def settings(node: ClusterNode) -> NodeSettings:
            # Launchers such as torchrun set it. Each of their processes judges on all nodes.
            share = max(1, node.cpus // int(os.environ.get("WORLD_SIZE", "1")))
            return NodeSettings(
                workers=workers or share, isolation=isolation, limits=limits, seed=seed, shared_tests=shared_tests
            )

        self._cluster = ClusterDispatcher(Connection(address), settings, limits, self.cache, wait_seconds=wait)
        self._dispatcher = self._cluster
        self._nodes = self._cluster.nodes
        self._cluster.open()
        if self._nodes.refusals:
            self._cluster.abort()
            refusals = list(self._nodes.refusals.values())
            unfit = any(isinstance(one, IsolationUnavailable) for one in refusals)
            raise (IsolationUnavailable if unfit else ClusterUnavailable)("; ".join(map(str, refusals)))
        #: The weakest level of a node. Nodes that join later have this level at least.
        self.isolation = max(self._nodes.levels.values(), key=ISOLATION_LEVELS.index)
        self._nodes.least_isolation = self.isolation

    def report(self) -> dict[str, str]:
        """Measure the guarantees of every node at its level.

        The first call runs hostile programs on all nodes at the same time; it takes seconds.

        Returns:
            The isolation level of each node, under "isolation of NODE"; then for each guarantee "verified" if it holds
            on all nodes, else "absent".

        Raises:
            ClusterUnavailable: A node was lost, or a worker could not be started there.
        """
        if self._report is None:
            self._cluster.open()
            levels = {f"isolation of {name}": level for name, level in self._nodes.levels.items()}
            found = self._nodes.reports()
            guarantees = dict.fromkeys(name for one in found for name in one)
            self._report = levels | {
                name: "verified" if all(one.get(name) == "verified" for one in found) else "absent"
                for name in guarantees
            }
        return dict(self._report)


def open_judge(cluster: str | None, *, workers: int | None, isolation: str, limits: Limits) -> Judge:
    """Return the judge that a configuration or a command line describes.

    Args:
        cluster: The address of a Ray cluster, as for `RayJudge`; None for a judge of this machine.
        workers: Number of programs to judge at once, on each node if there is a cluster; None for the cores.
        isolation: The isolation level, as for `Judge`.
        limits: Limits on each program.
    """
    if cluster is None:
        return Judge(workers=workers, isolation=isolation, limits=limits)
    return RayJudge(cluster, workers, isolation, limits)
