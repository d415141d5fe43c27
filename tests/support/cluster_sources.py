"""A Ray cluster on this machine, and sources for its nodes; as a program, a collection with such a source."""

import contextlib
import functools
import importlib.util
import os
import random
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest

from trl_pper import (
    BeamSampleCollector,
    ClusterSource,
    CodingTask,
    FunctionTests,
    GeneratedProgram,
    ProgramSource,
    RayJudge,
    ReplayBuffer,
)
from trl_pper.generation.cluster.node import NodeWriter
from trl_pper.generation.servers.endpoint import RequestFailed

NODE = {"num_cpus": 1, "object_store_memory": 80 * 2**20}


def require_ray():
    """Return Ray, or skip the test."""
    if importlib.util.find_spec("ray") is None:
        if os.environ.get("REQUIRE_RAY"):
            pytest.fail("ray is not installed, and REQUIRE_RAY is set")
        pytest.skip("ray is not installed: make test-ray")
    import ray

    return ray


@contextlib.contextmanager
def start_cluster(nodes):
    """Start a cluster of nodes with a CPU each."""
    ray = require_ray()
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={**NODE, "include_dashboard": False})
    for _ in range(nodes - 1):
        cluster.add_node(wait=False, **NODE)
    cluster.wait_for_nodes()
    yield cluster
    ray.shutdown()
    cluster.shutdown()


def eventually(condition, seconds: float = 40.0) -> bool:
    """Return whether a condition holds within some seconds."""
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(0.02)
    return True


class Counting(ProgramSource):
    """A source that writes the task and its own process, and may end that process.

    Args:
        seconds: Time that a batch takes.
        ends: Task that ends the process.
        ends_once: File that the first process leaves behind that ends.
        record: File to which each task is appended.
    """

    batch_size = 2

    def __init__(self, seconds=0.0, ends="", ends_once="", record=""):
        self.seconds, self.ends, self.ends_once, self.record = seconds, ends, ends_once, record

    def identity(self, *, student=None):
        return "counting"

    def generate(self, tasks, *, student=None):
        time.sleep(self.seconds)
        if self.ends_once and tasks[0].task_id == "task 10" and not Path(self.ends_once).exists():
            Path(self.ends_once).touch()
            os._exit(1)
        for task in tasks:
            if task.task_id == self.ends:
                os._exit(1)
            if self.record:
                with open(self.record, "a") as file:
                    file.write(f"{task.task_id}\n")
            text = f"{task.task_id} by {os.getpid()}"
            yield [GeneratedProgram(completion=text, logprob=None, num_tokens=None, source="counting")]


class Failing(Counting):
    """A source that cannot write a task."""

    def __init__(self, at):
        super().__init__()
        self.at = at

    def generate(self, tasks, *, student=None):
        if any(task.task_id == self.at for task in tasks):
            raise ValueError(f"{self.at} cannot be written")
        return super().generate(tasks)

    def check(self, tasks, *, student=None):
        if any(task.task_id == self.at for task in tasks):
            raise ValueError(f"{self.at} cannot be asked")


class Other(Counting):
    """A source that is another one in each process."""

    def identity(self, *, student=None):
        return random.SystemRandom().random()


class Endless(Counting):
    """A source that takes longer to load than a node may wait for its place."""

    def __init__(self):
        super().__init__()
        time.sleep(3.0)


class Deaf(Counting):
    """A source with errors that pickle cannot restore, or cannot even store.

    Args:
        locked: Whether the error holds a lock; otherwise it is made of two texts.
    """

    def __init__(self, locked):
        super().__init__()
        self.locked = locked

    def generate(self, tasks, *, student=None):
        if self.locked:
            error = ValueError("a lock is in it")
            error.lock = threading.Lock()
            raise error
        raise RequestFailed("the server is down", "Start it again", status=500)


class Skipping(Counting):
    """A source that yields a list too few for a batch, and one too many for the next."""

    def generate(self, tasks, *, student=None):
        found = list(super().generate(tasks))
        return iter({"task 2": found[:-1], "task 4": found + found[:1]}.get(tasks[0].task_id, found))


class Stalling(Counting):
    """A source that takes long for some tasks."""

    def generate(self, tasks, *, student=None):
        time.sleep({"task 0": 1.5, "task 6": 6.0}.get(tasks[0].task_id, 0.0))
        return super().generate(tasks)


class OldWriter(NodeWriter):
    """A writer with an old version of the package."""

    def load(self, build, threads):
        return replace(super().load(build, threads), version="0.0.1")


def main(address, folder):
    """Collect programs of sixty tasks."""
    tests = FunctionTests(code="assert f() == 1", entry_point="f")
    tasks = [CodingTask(task_id=f"task {n}", prompt=f"prompt {n}", tests=tests) for n in range(60)]
    build = functools.partial(Counting, seconds=0.2, record=f"{folder}/written")
    with ClusterSource(build, address) as source, RayJudge(address) as judge:
        buffer = ReplayBuffer()
        collector = BeamSampleCollector(source, judge, tasks, journal_folder=f"{folder}/journal")
        collector.attach(buffer)
        collector.collect()
        buffer.save(f"{folder}/buffer.parquet")


if __name__ == "__main__":
    main(*sys.argv[1:])
