"""Measures the cost of judging and writing through Ray, and simulates from it how far a cluster would scale.

    python benchmarks/cluster.py --output outputs/bench/cluster.json

Measured, on a cluster of one node on this machine: the milliseconds of a call of 10 programs through `RayJudge` beside
a local judge of as many workers; the CPU time that a call costs the calling process, which a cluster cannot share; the
CPU time of a call in all processes of a local judge; the milliseconds of a call of one program whose task of 1 KiB
to 16 MiB is new to the node, and known; and the CPU time that a batch of 8 tasks with 10 programs of 1,000 characters
costs the process that collects through `ClusterSource`, from a source that writes them at once. Several nodes on one
machine would share its cores and show nothing. What bounds any number of nodes is measured by itself: the tasks per
second that a calling process hands out and takes back if its node says at once that all programs pass.

Simulated from these costs, not measured: tasks per second against nodes, for 10 programs of a task (see
`cluster_simulation.py`). Quick tests cost what was measured here, those of `benchmarks/judge.py` take a program 10 CPU
milliseconds, and slow ones 100 with 4 MiB of tests. A node has 16 cores like those of this machine, a worker on each
and one process that hands programs to them and compares, all of whose time counts as if it held Python's lock; the
calling process has one core, and the network carries 1 GB/s. Other costs are left out.

The CPU time of a call in the calling process is less what Ray's threads use while nothing is judged. Between two
calls they use more than that, so that it says little of how many calls such a process could make.
"""

from __future__ import annotations

import argparse
import functools
import resource
import statistics
import time
from collections.abc import Iterator, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any
from unittest import mock

from cluster_simulation import Costs, simulate
from environment import markdown, snapshot, write_result

from trl_pper import (
    ClusterSource,
    CodingTask,
    FunctionTests,
    GeneratedProgram,
    Judge,
    Outcome,
    ProgramSource,
    RayJudge,
    StdioTests,
    Verdict,
)
from trl_pper.judge.cluster import nodes
from trl_pper.judge.cluster.node import NodeJudge
from trl_pper.tasks.task import StdioCase

PROGRAMS = 10
NODES = (1, 2, 3, 4, 8, 16, 32)
CORES_PER_NODE = 16
#: CPU milliseconds of a call and bytes of a task; those of quick tests are measured.
QUICK_BYTES = 1 << 10
ORDINARY = 10.0 * PROGRAMS, QUICK_BYTES
SLOW = 100.0 * PROGRAMS, 1 << 22
NETWORK_BYTES_PER_SECOND = 1e9
BATCH_SIZE = 8
SIZES = (1 << 10, 1 << 16, 1 << 20, 1 << 24)


def tasks(count: int, tag: str, *, size: int = 0) -> list[tuple[CodingTask, list[str]]]:
    """Return tasks of three tests with ten programs each, none of them equal to any of another tag.

    Args:
        count: Number of tasks.
        tag: What makes them differ from others.
        size: Bytes of each task's tests, beyond those of the assertions.
    """
    rest = f"  # {'.' * size}\nassert f(1) == 2\nassert f(2) == 3\nassert f(3) == 4"
    return [
        (
            CodingTask(
                task_id=f"{tag}-{n}",
                prompt="p",
                tests=FunctionTests(code=f"name = '{tag}-{n}'{rest}", entry_point="f"),
            ),
            [f"def f(x):\n    return x + {1 + program % 2}  # {program}" for program in range(PROGRAMS)],
        )
        for n in range(count)
    ]


def measure_idle(seconds: float = 3.0) -> float:
    """Return the share of a core that this process uses while it does nothing."""
    used = time.process_time()
    time.sleep(seconds)
    return (time.process_time() - used) / seconds


def measure_calls(judge: Judge, count: int, tag: str) -> dict[str, float]:
    """Judge tasks one after the other, then all at once; return milliseconds of wall time and of the caller's CPU."""
    alone, together = tasks(count, f"{tag}-alone"), tasks(4 * count, f"{tag}-together")
    judge.run(tasks(4, f"{tag}-first"))
    walls = []
    for job in alone:
        started = time.perf_counter()
        judge.run([job])
        walls.append(time.perf_counter() - started)
    idle = measure_idle()
    started, used = time.perf_counter(), time.process_time()
    judge.run(together)
    wall = time.perf_counter() - started
    cpu = time.process_time() - used - idle * wall
    return {
        "ms_per_call_alone": 1000 * statistics.median(walls),
        "ms_per_call_together": 1000 * wall / len(together),
        "caller_cpu_ms_per_call": 1000 * cpu / len(together),
    }


def measure_cpu(judge: Judge, count: int, tag: str) -> float:
    """Return the CPU milliseconds of a call in all processes of a local judge, which is closed; their start counts."""

    def used() -> float:
        children = resource.getrusage(resource.RUSAGE_CHILDREN)
        return time.process_time() + children.ru_utime + children.ru_stime

    judge.close()
    before = used()
    judge.run(tasks(4 * count, tag))
    # Only processes that have ended are counted.
    judge.close()
    return 1000 * (used() - before) / (4 * count)


class Immediate(NodeJudge):
    """A node that says of every program that it passes three tests, without running any."""

    def judge(self, call: int, name: str, task: Sequence[Any], programs: Sequence[str]) -> list[Verdict]:
        """Return a verdict for each program."""
        # As with every node, a large task crosses.
        self._task(name, task[0])
        return [Verdict.uniform(Outcome.PASSED, 3) for _ in programs]


def measure_handing_out(address: str, size: int, count: int, rounds: int) -> dict[str, float]:
    """Return tasks per second, and milliseconds of a task, of a calling process whose node judges at once.

    Args:
        address: A cluster of one node, which shares the cores of this machine with the calling process.
        size: Bytes of a task, each of which is new to the node.
        count: Tasks of a round.
        rounds: Number of rounds, of which the median counts.
    """
    found = []
    with mock.patch.object(nodes, "NodeJudge", Immediate), RayJudge(address, CORES_PER_NODE) as judge:
        for turn in range(rounds + 1):
            jobs = tasks(count, f"at-once-{turn}-{size}", size=size)
            started = time.perf_counter()
            judge.run(jobs)
            found.append(1000 * (time.perf_counter() - started) / count)
    # The first turn warms up.
    milliseconds = statistics.median(found[1:])
    return {"bytes": size, "ms_per_task": milliseconds, "tasks_per_second": 1000 / milliseconds}


def measure_transfer(judge: Judge, size: int, repeats: int) -> dict[str, float]:
    """Return the milliseconds of a call whose task is new to the node, and of one whose task is known."""
    new, known = [], []
    for n in range(repeats):
        cases = (StdioCase(input="1", output="1"), StdioCase(input="1", output=f"{n} {size} " + "x" * size))
        # The second case is compared in the host, against an output that is wrong at once.
        task = CodingTask(task_id="t", prompt="p", tests=StdioTests(cases=cases))
        for found, program in ((new, "print(1)"), (known, "print(1)  # again")):
            started = time.perf_counter()
            judge.run([(task, [program])])
            found.append(1000 * (time.perf_counter() - started))
    return {"ms_new": statistics.median(new), "ms_known": statistics.median(known)}


class Ready(ProgramSource):
    """A source that writes programs of a length at once."""

    batch_size = BATCH_SIZE

    def generate(self, tasks: Sequence[CodingTask], *, student: Any = None) -> Iterator[list[GeneratedProgram]]:
        """Yield the programs of each task."""
        for _ in tasks:
            yield [
                GeneratedProgram(completion=f"{n} " + "x" * 998, logprob=-1.0, num_tokens=300, source="ready")
                for n in range(PROGRAMS)
            ]


def measure_batches(address: str, count: int, rounds: int) -> float:
    """Return the CPU milliseconds that a batch costs the process that collects it."""
    found = []
    with ClusterSource(functools.partial(_ready, str(Path(__file__).parent)), address) as source:
        for turn in range(rounds + 1):
            batches = [task for task, _ in tasks(count * BATCH_SIZE, f"batches-{turn}")]
            idle = measure_idle()
            started, used = time.perf_counter(), time.process_time()
            written = sum(1 for _ in source.generate(batches))
            cpu = time.process_time() - used - idle * (time.perf_counter() - started)
            assert written == len(batches)
            found.append(1000 * cpu / count)
    # The first turn warms up.
    return statistics.median(found[1:])


def _ready(folder: str) -> ProgramSource:
    import sys

    # The processes of Ray do not know the folder of the benchmarks.
    sys.path.insert(0, folder)
    from cluster import Ready

    return Ready()


def project(costs: Costs, task_bytes: int) -> list[dict[str, Any]]:
    """Simulate tasks per second against the number of nodes, and tell what bounds them.

    Args:
        costs: The costs of a task.
        task_bytes: Bytes of a task, each of which is new to a node.
    """
    rows: list[dict[str, Any]] = []
    cpu_ms = costs.program_ms * costs.programs + costs.host_ms
    for count in NODES:
        rates = {
            "the cores of the nodes": count * CORES_PER_NODE * 1000 / cpu_ms,
            "the host of each node": count * 1000 / costs.host_ms,
            "the calling process": 1000 / costs.caller_ms,
            "the network": NETWORK_BYTES_PER_SECOND / task_bytes,
        }
        rate = simulate(costs, nodes=count, cores=CORES_PER_NODE)
        rows.append(
            {
                "nodes": count,
                "tasks_per_second": round(rate, 1),
                "of_one_node": round(rate / rows[0]["tasks_per_second"], 2) if rows else 1.0,
                "bound": min(rates, key=lambda name: rates[name]),
            }
        )
    return rows


def costs_of(call_ms: float, host_ms: float, caller_ms: float, task_bytes: int) -> Costs:
    """Return the costs of a task.

    Args:
        call_ms: CPU milliseconds of its programs, in all processes of a node.
        host_ms: Those among them that are the host's.
        caller_ms: Milliseconds in the calling process.
        task_bytes: Bytes of the task.
    """
    return Costs(
        program_ms=(call_ms - host_ms) / PROGRAMS,
        programs=PROGRAMS,
        caller_ms=caller_ms,
        host_ms=host_ms,
        transfer_ms=1000 * task_bytes / NETWORK_BYTES_PER_SECOND,
    )


def rounded(values: dict[str, float]) -> dict[str, float]:
    return {name: round(value, 3) for name, value in values.items()}


def median_of(rounds: Sequence[dict[str, float]]) -> dict[str, float]:
    """Return the median of each figure."""
    return {name: statistics.median(one[name] for one in rounds) for name in rounds[0]}


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Run the benchmark and return its results."""
    workers, environment = options.workers, snapshot()
    with Judge(workers) as local, RayJudge(options.address, workers) as remote:
        if remote.workers != workers:
            raise ValueError(
                f"--address: must lead to one node, to compare it with this machine; got {options.address}"
            )
        names: dict[str, Judge] = {"local": local, "ray": remote}
        rounds: dict[str, list[dict[str, float]]] = {name: [] for name in names}
        cpu = []
        for turn in range(options.rounds):
            for name, judge in names.items():
                rounds[name].append(measure_calls(judge, options.tasks, f"{name}-{turn}"))
            cpu.append(measure_cpu(local, options.tasks, f"cpu-{turn}"))
        transfers = []
        for size in SIZES:
            found = {name: measure_transfer(judge, size, options.rounds + 2) for name, judge in names.items()}
            figures = {f"{name}_{key}": value for name, one in found.items() for key, value in one.items()}
            transfers.append({"bytes": size, **rounded(figures)})
        isolation = remote.isolation
    # Once no other judge waits for calls.
    batch_ms = measure_batches(options.address, options.tasks, options.rounds)
    handing_out = {
        size: rounded(measure_handing_out(options.address, size, count, options.rounds))
        for size, count in ((QUICK_BYTES, 50 * options.tasks), (SLOW[1], 2 * options.tasks))
    }
    calls = {name: rounded(median_of(found)) for name, found in rounds.items()}
    calls["local"]["cpu_ms_per_call"] = round(statistics.median(cpu), 3)
    # A node's host does what the process of a local judge does.
    host_ms = calls["local"]["caller_cpu_ms_per_call"]
    workloads = {
        "quick_tests": (calls["local"]["cpu_ms_per_call"], QUICK_BYTES),
        "ordinary_tests": ORDINARY,
        "slow_tests": SLOW,
    }
    return {
        "environment": {**environment, "ray": version("ray"), "isolation": isolation, "workers": workers},
        "programs_per_call": PROGRAMS,
        "rounds": options.rounds,
        "tasks_a_round": options.tasks,
        "measured": {
            "calls": calls,
            "transfers": transfers,
            "handing_out": list(handing_out.values()),
            "caller_cpu_ms_per_batch": round(batch_ms, 3),
        },
        "simulated": {
            "cores_per_node": CORES_PER_NODE,
            **{
                name: project(costs_of(call_ms, host_ms, handing_out[size]["ms_per_task"], size), size)
                for name, (call_ms, size) in workloads.items()
            },
        },
    }


def main(arguments: list[str] | None = None) -> None:
    """Run the benchmark from the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--address", default="local", help="a cluster of one node, as ray.init takes it")
    parser.add_argument("--workers", type=int, default=1, help="workers of either judge")
    parser.add_argument(
        "--tasks", type=int, default=40, help="tasks judged alone in a round; four times as many together"
    )
    parser.add_argument("--rounds", type=int, default=5, help="times that each judge takes its turn")
    parser.add_argument("--output", type=Path, help="JSON file to write")
    options = parser.parse_args(arguments)
    result = measure(options)
    measured = result["measured"]
    print(f"Measured: calls of {PROGRAMS} programs, {options.workers} worker(s), median of {options.rounds} rounds\n")
    rows = [{"judge": name, **figures} for name, figures in measured["calls"].items()]
    print(markdown(rows, ["judge", *measured["calls"]["ray"]]))
    print(
        f"\nCPU time of a call in all processes of the local judge: {measured['calls']['local']['cpu_ms_per_call']} ms"
    )
    print("\nMeasured: ms of a call of one program, by the bytes of its task\n")
    print(markdown(measured["transfers"], list(measured["transfers"][0])))
    print("\nMeasured: tasks handed out to a node that judges at once, by the bytes of a task\n")
    print(markdown(measured["handing_out"], list(measured["handing_out"][0])))
    print(f"\nMeasured: {measured['caller_cpu_ms_per_batch']} CPU ms of the collecting process for a batch")
    for name in ("quick_tests", "ordinary_tests", "slow_tests"):
        rows = result["simulated"][name]
        print(f"\nSimulated from CPU times: nodes of {CORES_PER_NODE} cores, {name.replace('_', ' ')}\n")
        print(markdown(rows, list(rows[0])))
    write_result(options.output, result)


if __name__ == "__main__":
    main()
