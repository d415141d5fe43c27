"""The canaries: each notices a guarantee that is not there, or "verified" would mean nothing."""

from __future__ import annotations

import os
import subprocess
import sys
import types

import pytest

from trl_pper import Limits, Verdict
from trl_pper.judge import selftest
from trl_pper.judge.host.worker import Worker
from trl_pper.judge.verdict import Outcome

pytestmark = pytest.mark.hostile

#: What canaries take for a worker: this process, whose descendants they may look for.
HERE = types.SimpleNamespace(level="rlimits", process=types.SimpleNamespace(pid=os.getpid()), limits=Limits())


def without_a_jail(worker, program, tests, limits):
    """Judge a script by running it as this user, with all that this process may do."""
    [case] = tests.cases
    done = subprocess.run(
        [sys.executable, "-c", program], input=case.input, capture_output=True, text=True, timeout=60
    )
    outcome = Outcome.PASSED if done.stdout.split() == case.output.split() else Outcome.WRONG_ANSWER
    return Verdict.uniform(outcome if done.returncode == 0 else Outcome.RUNTIME_ERROR, 1)


def ending(outcome):
    """Return a judge for whom everything ends in `outcome`."""
    return lambda *_: Verdict.uniform(outcome, 1)


@pytest.mark.parametrize("name", sorted(selftest._WALLS.keys() - {"answers kept out"}))
def test_a_program_without_a_jail_gets_past_every_wall(monkeypatch, name):
    monkeypatch.setattr(selftest, "judge_stdio", without_a_jail)
    assert not selftest._WALLS[name](HERE)


def test_an_answer_that_is_found_is_not_kept_out(monkeypatch):
    monkeypatch.setattr(selftest, "judge_function", ending(Outcome.PASSED))
    assert not selftest._WALLS["answers kept out"](HERE)


@pytest.fixture(scope="module")
def generous():
    """A worker whose programs meet no limit but that of CPU time, nor a system call filter."""
    much = 1 << 40
    limits = Limits(cpu_seconds=0.2, memory_bytes=much, output_bytes=much, processes=400, threads=400)
    worker = Worker("rlimits", limits)
    yield worker
    worker.close()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["memory limit", "output limit", "process limit", "thread limit"])
def test_a_program_under_much_larger_limits_meets_none_of_them(generous, name):
    assert not selftest._BOUNDS[name](generous)


@pytest.mark.parametrize("name", sorted(selftest._BOUNDS))
def test_a_program_that_ends_by_itself_has_met_no_limit(monkeypatch, name):
    monkeypatch.setattr(selftest, "judge_stdio", ending(Outcome.WRONG_ANSWER))
    assert not selftest._BOUNDS[name](HERE)


def test_a_process_that_is_left_has_outlived_its_program(monkeypatch):
    # What ran before is nobody's fault.
    seen = [[1], [1, 2]]
    monkeypatch.setattr(selftest, "descendants", lambda pid: seen.pop(0))
    monkeypatch.setattr(selftest, "judge_stdio", ending(Outcome.PASSED))
    assert not selftest._BOUNDS["nothing outlives a program"](HERE)
