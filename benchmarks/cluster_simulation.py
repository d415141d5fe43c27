"""Simulates judging on the nodes of a cluster, from measured costs: tasks per second against nodes.

The caller hands out a task at a time and takes its verdicts, on one core; the network carries the task to the node
with the fewest tasks; a node judges the programs of its tasks on as many workers as it has cores, and one process of
the node hands programs to workers and compares what they say. As in `RayJudge`, no node has more than twice as many
tasks as workers.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import simpy

#: Tasks in flight on a node for each worker, as in `trl_pper.judge.cluster.nodes`.
CALLS_PER_WORKER = 2
#: Standard deviation of the logarithm of a program's time: one in forty takes seven times as long as the median.
SPREAD = 1.0


@dataclass(frozen=True, kw_only=True)
class Costs:
    """The costs of a task.

    Args:
        program_ms: CPU milliseconds of a program in a worker, on average.
        programs: Programs of a task.
        caller_ms: Milliseconds of a task in the calling process.
        host_ms: Milliseconds of a task in the process of its node that the workers belong to.
        transfer_ms: Milliseconds that the network needs for a task.
    """

    program_ms: float
    programs: int
    caller_ms: float
    host_ms: float
    transfer_ms: float


def simulate(costs: Costs, *, nodes: int, cores: int, tasks: int = 2000, seed: int = 0) -> float:
    """Return tasks per second, from the first call to the last verdict.

    Args:
        costs: The costs of a task.
        nodes: Number of nodes.
        cores: Cores of a node.
        tasks: Number of tasks.
        seed: Seed of the times of programs.
    """
    draw = random.Random(seed)
    mean_of_log = -SPREAD * SPREAD / 2
    world = simpy.Environment()
    caller, network = simpy.Resource(world), simpy.Resource(world)
    workers = [simpy.Resource(world, capacity=cores) for _ in range(nodes)]
    hosts = [simpy.Resource(world) for _ in range(nodes)]
    in_flight, changed = [0] * nodes, [world.event()]

    def hold(resource: simpy.Resource, milliseconds: float) -> Iterator[Any]:
        with resource.request() as turn:
            yield turn
            yield world.timeout(milliseconds)

    def run(node: int, milliseconds: float) -> Iterator[Any]:
        with workers[node].request() as turn:
            yield turn
            yield world.timeout(milliseconds)
            # A worker gets its next program once the host has compared what this one gave.
            yield from hold(hosts[node], costs.host_ms / costs.programs)

    def judge(node: int) -> Iterator[Any]:
        yield from hold(network, costs.transfer_ms)
        times = [costs.program_ms * draw.lognormvariate(mean_of_log, SPREAD) for _ in range(costs.programs)]
        yield world.all_of([world.process(run(node, time)) for time in times])
        yield from hold(caller, costs.caller_ms / 2)
        in_flight[node] -= 1
        changed[0].succeed()
        changed[0] = world.event()

    def hand_out() -> Iterator[Any]:
        calls = []
        for _ in range(tasks):
            while min(in_flight) >= CALLS_PER_WORKER * cores:
                yield changed[0]
            node = min(range(nodes), key=in_flight.__getitem__)
            in_flight[node] += 1
            yield from hold(caller, costs.caller_ms / 2)
            calls.append(world.process(judge(node)))
        yield world.all_of(calls)

    world.run(until=world.process(hand_out()))
    return 1000 * tasks / float(world.now)
