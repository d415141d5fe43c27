"""The learning bench: contenders that write and step alike, fair intervals, runs that resume."""

import json
import queue
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

TESTS = {"type": "stdio", "cases": [{"input": "", "output": "1"}], "compare": "tokens"}
LEARNING = Path(__file__).parents[2] / "benchmarks" / "learning"


@pytest.fixture
def load(monkeypatch):
    monkeypatch.syspath_prepend(str(LEARNING))
    return __import__


def test_every_run_has_a_file_of_its_own(load):
    runs = load("run")
    studies = load("contenders").STUDIES
    for study in studies:
        files = [runs.cell_file(Path("x"), *cell).name for cell in runs.cells(study)]
        assert (
            len(set(files))
            == len(files)
            == len(studies[study].settings) * len(studies[study].contenders) * studies[study].seeds
        )


def test_all_contenders_write_and_step_alike(load):
    contenders = load("contenders")
    for study in contenders.STUDIES.values():
        for setting in study.settings:
            if setting.programs == contenders.PROGRAMS_PER_TASK * contenders.ROUNDS:
                assert setting.rounds == 1
    taken = {"num_train_epochs", "steps_per_round", "num_beams", "per_device_train_batch_size", "learning_rate"}
    differing = [name for name, one in contenders.CONTENDERS.items() if taken & set(one.options)]
    assert differing == list(contenders.RATES)


def test_intervals_hold_the_mean_as_often_as_they_say(load, monkeypatch):
    tables = load("tables")
    rng = np.random.default_rng(0)
    monkeypatch.setattr(tables, "RESAMPLES", 500)
    held = 0
    for _ in range(200):
        low, high = tables.interval(rng.normal(3.0, 1.0, size=30))
        held += low <= 3.0 <= high
    assert 0.88 < held / 200 < 0.98
    assert tables.interval(np.array([2.0, 2.0])) == (2.0, 2.0)


def run_of(contender, seed, accuracy, setting="s"):
    return {
        "setting": setting, "contender": contender, "seed": seed, "accuracy": [0.0, accuracy],
        "pass@3": [0.0, accuracy], "solved": [accuracy], "programs": 6, "gradient_tokens": 10, "entropy": 0.5,
        "seconds": 1.0,
    }  # fmt: skip


def test_kept_runs_are_read_and_not_made_again(load, tmp_path, monkeypatch):
    tables, runs = load("tables"), load("run")
    kept = tmp_path / "runs.jsonl"
    cells = list(runs.cells("quick"))
    setting, name, seed = cells[0]
    kept.write_text("".join(json.dumps(run_of(name, s, 0.25, setting.name)) + "\n" for s in (seed, seed + 1)))
    figures = {
        "setting": {"name": setting.name}, "contender": name, "seed": seed, "seconds": 2.0, "gradient_tokens": 7,
        "rounds": [{"accuracy": 0.5, "pass@3": 0.75}], "entropy": [0.9, 0.1],
        "collections": [{"programs": 6, "solved": 0.5}, {"programs": 5}],
    }  # fmt: skip
    (tmp_path / "run.json").write_text(json.dumps(figures))
    found = tables.read_runs(tmp_path, kept)
    assert [(one["seed"], one["accuracy"]) for one in found] == [(seed, [0.5]), (seed + 1, [0.0, 0.25])]
    assert (found[0]["programs"], found[0]["entropy"], found[0]["solved"]) == (11, 0.1, [0.5])
    # The worker gets what is neither kept nor in the folder.
    asked = []
    monkeypatch.setattr(runs, "work", lambda queue, *rest: asked.extend(iter(queue.get, None)))
    monkeypatch.setattr(runs.multiprocessing, "get_context", lambda _: Threads)
    with pytest.raises(SystemExit, match="1 of 1 runs failed"):
        runs.main(["--quick", "--workers", "1", "--folder", str(tmp_path), "--runs", str(kept)])
    assert asked == cells[1:]


class Threads:
    """Threads in place of the processes of a start method."""

    Queue = queue.Queue
    Process = threading.Thread


def test_contenders_are_compared_seed_by_seed(load):
    tables = load("tables")
    # Seeds differ by far more than contenders, which only pairs can tell.
    runs = [run_of("best", seed, 0.1 * seed + 0.05) for seed in range(6)]
    runs += [run_of("filter", seed, 0.1 * seed) for seed in range(5)]
    rows = {row["contender"]: row for row in tables.summarise(runs)}
    assert rows["filter"]["reference_minus_this"] == {"mean": 5.0, "interval": [5.0, 5.0], "seeds": 5}
    assert rows["best"]["accuracy"]["mean"] == 30.0
    assert "reference_minus_this" not in rows["best"]
    low, high = rows["best"]["accuracy"]["interval"]
    assert low < 30 < high
    text = tables.table(list(rows.values()), "s")
    assert text.index("| best |") < text.index("| filter |")
    assert "+5.0 (+5.0 to +5.0)" in text


def test_tables_of_a_page_are_renewed(load):
    tables = load("tables")
    rows = tables.summarise([run_of("best", seed, 0.5, setting="lists, rare") for seed in range(2)])
    page = "# Page\n\n<!-- table: lists, rare -->\n\n| old |\n|---|\n\nText.\n"
    renewed = tables.with_tables(page, rows)
    assert renewed == tables.with_tables(renewed, rows)
    assert "| old |" not in renewed
    assert "| best | 2 | 50.0 | 50.0 to 50.0 |" in renewed
    assert renewed.endswith("\n\nText.\n")


def test_tables_of_a_study(load):
    tables = load("tables")
    names = ("best", "filter", "GRPO", "uniform")
    runs = [run_of(name, 0, 0.1 * place, "lists, rare") for place, name in enumerate(names, start=1)]
    settings = [one.name for one in load("contenders").STUDIES["conditions"].settings]
    runs += [
        run_of(name, seed, value, settings[0]) for name, value in (("best", 0.5), ("filter", 0.25)) for seed in (0, 1)
    ]
    rows = tables.summarise(runs)
    page = tables.with_tables("<!-- table: lists, rare / others -->\n\n<!-- table: conditions -->\n\n", rows)
    one, grid = page.split("<!-- table: conditions -->")
    # The contenders of the study, with what they are compared to.
    assert [name for name in names if f"| {name} |" in one] == ["best", "filter", "GRPO"]
    assert [line for line in grid.splitlines() if line.startswith(f"| {settings[0]} |")] == [
        f"| {settings[0]} | 2 | 25.0 | - | - | 50.0 | +25.0 (+25.0 to +25.0) |"
    ]
    # Settings without runs have no row.
    assert grid.count("| lists, rare, ") == 1
    with pytest.raises(SystemExit, match="asks for a table of 'lists, rare / none'"):
        tables.with_tables("<!-- table: lists, rare / none -->\n\n", rows)
    with pytest.raises(SystemExit, match="asks for a table of 'lists, common'"):
        tables.with_tables("<!-- table: lists, common -->\n\n", rows)


def test_a_real_models_tasks_are_halves_and_its_figures_add_up(load, monkeypatch, tmp_path):
    monkeypatch.syspath_prepend(str(LEARNING.parent))
    real = load("real_model")
    rows = [{"task_id": str(n), "prompt": f"p{n}", "tests": json.dumps(TESTS)} for n in range(9)]
    (tmp_path / "tasks.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    train, held_out = real.halves(tmp_path / "tasks.jsonl", train=3, held_out=10)
    assert [one.task_id for one in train] == ["0", "2", "4"]
    assert [one.task_id for one in held_out] == ["1", "3", "5", "7"]
    # Wilson's interval of 8 in 10, as in textbooks.
    assert real.interval(8, 10) == pytest.approx((0.4902, 0.9433), abs=1e-4)
    for seed, accuracy in enumerate((0.25, 0.5)):
        evaluations = [
            {"eval_accuracy": value, "eval_tasks": 4, "eval_pass_rate": 0.5, "eval_pass@3": value + 0.25}
            for value in (0.0, accuracy)
        ]
        run = {"contender": "best", "seed": seed, "evaluations": evaluations, "training_tasks_solved": [0.1, 0.3]}
        (tmp_path / f"best - seed {seed}.json").write_text(json.dumps(run))
    (row,) = real.summary(tmp_path)
    assert (row["solved"], row["of"], row["accuracy"]) == (3, 8, 0.375)
    assert row["by_round"] == "0.000 / 0.375"
    assert row["any_of_k"] == 0.625
    assert row["training_tasks_solved"] == "0.100 / 0.300"


@pytest.mark.slow
def test_a_bench_that_is_started_again_makes_what_is_missing(load, tmp_path, monkeypatch, capsys):
    runs = load("run")
    monkeypatch.setenv("PYTHONPATH", str(LEARNING))
    arguments = ["--quick", "--workers", "1", "--folder", str(tmp_path)]
    runs.main(arguments)
    files = sorted((tmp_path / "quick").glob("*.json"))
    assert len(files) == 2
    made = {path: path.stat().st_mtime_ns for path in files}
    for path in files:
        found = json.loads(path.read_text())
        assert len(found["rounds"]) == 4
        assert [one["programs"] for one in found["collections"]] == [60] * 3
        assert found["gradient_tokens"] > 0
    files[0].unlink()
    runs.main(arguments)
    again = {path: path.stat().st_mtime_ns for path in files}
    assert again[files[1]] == made[files[1]]
    assert again[files[0]] > made[files[0]]
    assert sys.modules["run"] is runs
