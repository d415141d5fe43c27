"""The comparison of trainers on one buffer: ways of equal budgets, a table, and a run of all of them."""

import json
import sys
from pathlib import Path

import pytest

LEARNING = Path(__file__).parents[2] / "benchmarks" / "learning"


@pytest.fixture
def bench(monkeypatch):
    monkeypatch.syspath_prepend(str(LEARNING))
    return __import__("iotacode")


def test_all_ways_write_and_step_alike(bench):
    for name, stages in bench.WAYS.items():
        if not stages:
            continue
        assert sum(stage.steps for stage in stages) == bench.STEPS, name
        written = [stage.steps * bench.BATCH_SIZE for stage in stages if stage.method == "grpo"]
        collected = bench.TASKS * (bench.PROGRAMS_BEFORE if written else bench.PROGRAMS)
        # The last step of GRPO may lack a few programs.
        assert abs(collected + sum(written) - bench.TASKS * bench.PROGRAMS) < bench.BATCH_SIZE, name
        batches = {"per_device_train_batch_size", "max_steps"}
        assert not any(batches & stage.options.keys() for stage in stages)


def test_settings_that_measure_otherwise_have_other_names(bench):
    same = {"family": "lists", "regime": "almost_none", "source": "self"}
    others = [{}, {"family": "stdin"}, {"regime": "rare"}, {"source": "teacher"}, {"tuning": True}, {"samples": 100}]
    names = [bench.Setting(**same | other).name for other in others]
    assert names[0] == "lists, almost_none"
    assert names[-1] == "lists, almost_none, 100 samples"
    assert len(set(names)) == len(others)


def run_of(name, seed, solved, setting="self"):
    return {
        "setting": setting, "contender": name, "seed": seed, "tasks": 10, "solved": solved, "any_of_3": solved + 1,
        "pass@k": {"1": solved / 10, "10": 0.9}, "compile_rate": 0.5,
    }  # fmt: skip


def test_rows_are_means_over_seeds_the_best_way_first(bench):
    runs = [run_of("SFT", seed, seed) for seed in range(3)] + [run_of("PPER", 0, 9)]
    rows = {row["way"]: row for row in bench.summarise([*runs, run_of("SFT", 0, 0, setting="teacher")])}
    assert rows["PPER"]["solved"] == {"mean": 90.0, "interval": [90.0, 90.0]}
    rows = bench.summarise(runs)
    [sft] = [row for row in rows if row["way"] == "SFT"]
    assert (sft["seeds"], sft["solved"]["mean"], sft["pass@10"]["mean"]) == (3, 10.0, 90.0)
    low, high = sft["solved"]["interval"]
    assert 0 <= low < 10 < high <= 20
    text = bench.table(rows, "self")
    assert text.index("| PPER |") < text.index("| SFT |")
    assert "| PPER | 1 | 90.0 | 90.0 to 90.0 | 100.0 | 90.0 | 90.0 | 50.0 |" in text


def test_the_tables_of_the_page_follow_from_the_runs(bench):
    results = LEARNING.parent / "results"
    held = json.loads((results / "iotacode.json").read_text())["table"]
    assert bench.summarise(bench.kept_runs(results / "iotacode_runs.jsonl")) == held
    page = (LEARNING.parents[1] / "docs" / "benchmarks.md").read_text(encoding="utf-8")
    assert page.count("<!-- iotacode: ") == 5
    assert bench.with_filled(page, "iotacode", lambda name: bench.table(held, name)) == page


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_every_way_runs_and_is_not_made_again(bench, tmp_path, monkeypatch, capfd):
    # Its processes import the modules beside it.
    monkeypatch.setenv("PYTHONPATH", str(LEARNING))
    monkeypatch.setattr(sys, "argv", ["iotacode.py"])
    given = ["--quick", "--workers", "1", "--folder", str(tmp_path), "--runs", str(tmp_path / "runs.jsonl")]
    bench.main([*given, "--output", str(tmp_path / "table.json")])
    runs = [json.loads(line) for line in (tmp_path / "runs.jsonl").read_text().splitlines()]
    assert {run["contender"] for run in runs} == set(bench.MAIN)
    for run in runs:
        assert run["unjudged"] == 0
        assert 0 <= run["pass@k"]["1"] <= run["pass@k"]["10"] <= 1
    rows = json.loads((tmp_path / "table.json").read_text())["table"]
    assert [row["way"] for row in rows if "reward_accuracy" in row] == ["SFT, GRPO on the reward model"]
    capfd.readouterr()
    bench.main([*given, "--folder", str(tmp_path / "other")])
    assert "seed 0:" not in capfd.readouterr().out
