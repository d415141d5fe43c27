"""The clocks of a test: CPU time first, wall time whatever happens, and a bound on all tests together."""

from __future__ import annotations

import os
import select
import socket

import pytest

from trl_pper.judge.wire import allowance as clocks
from trl_pper.judge.wire.allowance import Allowance


@pytest.fixture
def pair():
    ours, theirs = socket.socketpair()
    with ours, theirs:
        yield ours, theirs


@pytest.fixture
def clock(monkeypatch):
    """Time that passes only when told to, in seconds: the CPU's and the wall's."""
    now = {"cpu": 100.0, "wall": 1000.0}
    monkeypatch.setattr(clocks, "process_cpu_seconds", lambda pid: now["cpu"])
    monkeypatch.setattr(clocks.time, "monotonic", lambda: now["wall"])
    return now


def started(allowance: Allowance) -> Allowance:
    allowance.start(os.getpid())
    return allowance


def test_a_socket_that_is_ready_is_not_waited_for(pair):
    ours, theirs = pair
    # Whoever waits has no CPU time left.
    wait = started(Allowance(cpu_seconds=0.0, wall_seconds=99.0)).waiter(ours)
    theirs.send(b"x")
    wait(ours, select.POLLIN)
    wait(ours, select.POLLOUT)
    ours.recv(1)
    with pytest.raises(TimeoutError, match="cpu"):
        wait(ours, select.POLLIN)


@pytest.mark.parametrize("kind", ["cpu", "wall"])
def test_each_clock_ends_the_wait_and_each_start_sets_it_anew(pair, clock, kind):
    allowance = started(Allowance(cpu_seconds=2.0, wall_seconds=3.0))
    wait = allowance.waiter(pair[0])
    for _ in range(5):
        clock[kind] += 5.0
        with pytest.raises(TimeoutError, match=kind):
            wait(pair[0], select.POLLIN)
        allowance.start(os.getpid())
        assert allowance.check() == 2.0


def test_bytes_that_keep_coming_do_not_stop_the_wall_clock(pair, clock):
    ours, theirs = pair
    wait = started(Allowance(cpu_seconds=2.0, wall_seconds=3.0)).waiter(ours)
    theirs.send(b"x")
    wait(ours, select.POLLIN)
    clock["wall"] += 3.0
    with pytest.raises(TimeoutError, match="wall"):
        wait(ours, select.POLLIN)


def test_all_tests_together_have_an_end_if_their_number_is_given(clock):
    bounded = Allowance(cpu_seconds=2.0, wall_seconds=3.0, tests=4)
    unbounded = Allowance(cpu_seconds=2.0, wall_seconds=3.0)
    for _ in range(5):
        assert not bounded.is_spent()
        clock["wall"] += 3.0
    assert bounded.is_spent()
    assert not unbounded.is_spent()
    with pytest.raises(TimeoutError, match="wall"):
        started(bounded).check()
    assert started(unbounded).check() == 2.0
