"""The simulation of a cluster against what follows from its costs by hand."""

import importlib.util
import sys
from pathlib import Path

import pytest

PATH = Path(__file__).parents[2] / "benchmarks" / "cluster_simulation.py"


@pytest.fixture(scope="module")
def module():
    spec = importlib.util.spec_from_file_location("cluster_simulation", PATH)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    yield module
    del sys.modules[spec.name]


def rate(module, *, nodes=1, cores=2, tasks=300, **costs):
    chosen = {"program_ms": 10.0, "programs": 2, "caller_ms": 0.0, "host_ms": 0.0, "transfer_ms": 0.0} | costs
    return module.simulate(module.Costs(**chosen), nodes=nodes, cores=cores, tasks=tasks)


def test_equal_times_without_other_costs_fill_every_core(module, monkeypatch):
    monkeypatch.setattr(module, "SPREAD", 0.0)
    # Two cores judge the two programs of a task in 10 ms.
    assert rate(module) == pytest.approx(100.0)
    assert rate(module, nodes=3) == pytest.approx(300.0)
    assert rate(module, cores=1, tasks=1) == pytest.approx(50.0)


def test_times_that_differ_cost_no_more_than_the_end(module):
    assert rate(module, tasks=3000) == pytest.approx(100.0, rel=0.1)


@pytest.mark.parametrize("cost", ["caller_ms", "transfer_ms"])
def test_what_is_not_shared_bounds_any_number_of_nodes(module, cost):
    assert rate(module, nodes=8, **{cost: 5.0}) == pytest.approx(200.0, rel=0.05)
    assert rate(module, nodes=1, **{cost: 0.001}) == pytest.approx(rate(module), rel=0.02)


def test_the_host_of_each_node_bounds_its_workers(module, monkeypatch):
    monkeypatch.setattr(module, "SPREAD", 0.0)
    # Both workers wait for the same host, 10 ms for each of two programs.
    assert rate(module, host_ms=20.0, program_ms=1.0) == pytest.approx(50.0, rel=0.02)
    assert rate(module, host_ms=20.0, program_ms=1.0, nodes=3) == pytest.approx(150.0, rel=0.02)
    # One worker, the program and then the host.
    assert rate(module, host_ms=20.0, program_ms=15.0, cores=1) == pytest.approx(20.0, rel=0.02)


def test_a_node_has_a_bounded_number_of_tasks(module, monkeypatch):
    """A slow network keeps the cores of a node idle once its tasks in flight are all on their way."""
    monkeypatch.setattr(module, "SPREAD", 0.0)
    monkeypatch.setattr(module, "CALLS_PER_WORKER", 0.5)
    # One task in flight on the node: 10 ms on its way, 10 ms judged.
    assert rate(module, transfer_ms=10.0) == pytest.approx(50.0, rel=0.02)
