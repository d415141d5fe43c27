"""The replay buffer's benchmark: figures follow from what was measured, and a tiny run writes all of them."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def load(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return __import__


def record(contender, cost, *, round_index):
    costs = dict.fromkeys(("draw_microseconds", "rebuild_milliseconds", "round_milliseconds"), cost)
    return {"contender": contender, "size": 10, "round": round_index, **costs}


def test_ratios_are_taken_within_a_round(load):
    records = [
        record(name, cost, round_index=number)
        for number, costs in enumerate([(1, 2), (10, 30), (2, 8)])
        for name, cost in zip(("trl_pper rank", "cpprb proportional"), costs, strict=True)
    ]
    found = load("replay").draw_ratios(records)["10"]
    assert found["trl_pper rank"]["draw_microseconds"] == {"median": 3.0, "least": 2.0, "most": 4.0}
    assert load("replay").draw_ratios([one for one in records if "cpprb" not in one["contender"]]) == {}


def test_a_contender_that_draws_uniformly_is_found(load):
    draws = load("replay_draws")

    class Uniform:
        def draw(self, step):
            return np.random.default_rng(step).integers(0, 1000, 256)

    with pytest.raises(RuntimeError, match="no more often"):
        draws.check(Uniform(), np.linspace(1, 0, 1000))
    draws.check(draws.Ours("rank", np.linspace(1, 0, 1000)), np.linspace(1, 0, 1000))


def test_experiences_are_of_the_size_that_is_said(load):
    made = list(load("replay_million").experiences(40))
    assert len({one.key for one in made}) == 40
    assert 350 < sum(len(one.program) for one in made) / 40 < 450
    assert {len(one.outcomes) for one in made} == {10}
    assert made == list(load("replay_million").experiences(40))


@pytest.mark.slow
def test_a_tiny_run_writes_every_figure(tmp_path):
    output = tmp_path / "replay.json"
    tiny = ["--sizes", "500", "--steps", "3", "--added", "50", "--rounds", "2", "--experiences", "2000"]
    command = [sys.executable, str(BENCHMARKS / "replay.py"), *tiny, "--output", str(output)]
    done = subprocess.run([*command, "--peer-python", sys.executable], capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "has no cpprb, the peer is left out" in done.stderr
    result = json.loads(output.read_text())
    assert result["left_out"] == ["cpprb proportional"]
    assert result["draws"]["500"]["trl_pper rank"]["draw_microseconds"]["median"] > 0
    million = result["million"]
    assert million["fill"]["digest"] == million["load"]["digest"]
    assert {"add_seconds", "save_seconds", "digest_seconds", "peak_bytes"} <= set(million["fill"])
    assert {"load_seconds", "first_draw_seconds", "rank_priorities_seconds", "peak_bytes"} <= set(million["load"])
