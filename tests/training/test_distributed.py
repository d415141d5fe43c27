"""Several processes hold the same buffer, draw the same minibatches, learn what one learns, and fail together."""

import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pyarrow.parquet
import pytest

from tests.support.forked_plan import carry_out

ROOT = Path(__file__).parents[2]
#: Processes and the rows of a micro-batch: eight rows make a step, in two micro-batches a process.
SIZES = {1: 4, 2: 2, 4: 1}
TASKS, PROGRAMS = 7, 14
ALONE, TOGETHER = 5, 9
pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


def run(name: str, processes: int, *, learning_rate: float = 0.0, **plan) -> dict:
    config = {
        "per_device_train_batch_size": SIZES[processes], "gradient_accumulation_steps": 2, "steps_per_round": 2,
        "learning_rate": learning_rate, **plan.pop("config", {}),
    }  # fmt: skip
    return {"name": name, "output": name, "processes": processes, "dropout": 0.0, "config": config, **plan}


@pytest.fixture(scope="module")
def carried(tmp_path_factory):
    """Carry out every run of this module, seven tasks in batches of two each: the shares are unequal."""
    folder = tmp_path_factory.mktemp("distributed")
    one_round = {"num_train_epochs": 1}
    saving = {"save_strategy": "steps", "save_steps": 3}
    late = {"slow": {"rank": 1, "seconds": TOGETHER}, "timeout": ALONE, "config": one_round}
    plan = [run(f"fixed {processes}", processes, config=saving if processes == 2 else {}) for processes in SIZES]
    plan += [run(f"learning {processes}", processes, learning_rate=1e-3) for processes in (1, 4)]
    plan += [
        run(f"resumed {processes}", processes, resume=str(folder / "fixed 2" / "checkpoint-3")) for processes in (1, 4)
    ]
    plan += [run("late", 2, **late), run("late, with a barrier", 2, barrier=True, **late)]
    # Process 0 holds the store through which the others would hear of it.
    plan += [run("failed", 2, fail=0), {**run("failed, again", 2), "output": "failed"}, run("different", 2, differ=1)]
    return carry_out(folder, plan)


def minibatches(processes: list[dict]) -> list[Counter]:
    """Return the rows of each optimizer step, whichever process and micro-batch they were in."""
    steps = range(0, len(processes[0]["batches"]), 2)
    return [
        Counter(tuple(row) for seen in processes for batch in seen["batches"][step : step + 2] for row in batch)
        for step in steps
    ]


@pytest.mark.parametrize("processes", [2, 4])
def test_every_step_draws_what_one_process_draws(carried, processes):
    (alone,), together = carried.seen("fixed 1"), carried.seen(f"fixed {processes}")
    assert [seen["world_size"] for seen in together] == [processes] * processes
    assert alone["world_size"] == 1
    drawn = minibatches([alone])
    assert minibatches(together) == drawn
    assert [step.total() for step in drawn] == [8] * 4
    # The minibatches differ among themselves: equality says something.
    assert len({frozenset(step.items()) for step in drawn}) == 4


@pytest.mark.parametrize("processes", [2, 4])
def test_buffers_are_those_of_one_process_to_the_bit(carried, processes):
    (alone,), together = carried.seen("fixed 1"), carried.seen(f"fixed {processes}")
    assert {seen["digest"] for seen in together} == {alone["digest"]}
    assert alone["programs"] == PROGRAMS
    assert len(alone["pass_rates"]) > 2
    assert alone["rounds"] == [0, 1]


def test_four_processes_learn_what_one_learns(carried):
    (before,), (alone,), together = (carried.seen(name) for name in ("fixed 1", "learning 1", "learning 4"))
    assert len({seen["weights"] for seen in together}) == 1
    assert len({seen["digest"] for seen in together}) == 1
    assert together[0]["losses"] == pytest.approx(alone["losses"], rel=1e-3)
    assert together[0]["sums"] == pytest.approx(alone["sums"], rel=1e-3, abs=1e-3)
    assert alone["sums"] != pytest.approx(before["sums"], rel=1e-3, abs=1e-3)


@pytest.mark.parametrize("processes", [1, 4])
def test_a_run_of_two_processes_goes_on_with_another_number(carried, processes):
    whole, resumed = carried.seen("fixed 2"), carried.seen(f"resumed {processes}")
    assert [seen["world_size"] for seen in resumed] == [processes] * processes
    assert minibatches(resumed) == minibatches(whole)[3:]
    assert {seen["digest"] for seen in resumed} == {whole[0]["digest"]}
    assert resumed[0]["steps"] == 4


def test_a_judge_slower_than_a_collective_holds_nobody_up(carried):
    assert carried.exits["late, with a barrier"] != [0, 0]
    assert "Timed out" in carried.errors
    first, second = carried.seen("late")
    assert first["digest"] == second["digest"]
    assert first["programs"] == PROGRAMS


def test_a_failure_ends_all_processes_and_costs_nothing_else(carried):
    failed, healthy = carried.seen("failed")
    assert failed["error"] == "ConnectionError: the server is gone"
    assert healthy["error"] == (
        "OtherProcessFailed: round 1, collection: process 0 of 2 failed with ConnectionError: the server is gone"
    )
    # No collective had to run into its half hour.
    assert max(failed["seconds"], healthy["seconds"]) < 60
    (journal,) = (carried.folder / "failed" / "_pper" / "journal").glob("round-00000-*")
    written = [pyarrow.parquet.read_table(shard).to_pylist() for shard in journal.glob("*-00001.parquet")]
    # The second process has the second and the fourth batch: three tasks.
    assert len({row["task"] for rows in written for row in rows}) == 3
    first, second = carried.seen("failed, again")
    assert first["restored"] == second["restored"] == [6, 0]
    assert first["digest"] == second["digest"] == carried.seen("fixed 2")[0]["digest"]


def test_buffers_that_differ_are_refused_in_every_process(carried):
    for seen in carried.seen("different"):
        assert seen["error"].startswith("RuntimeError: buffer: differs between processes after round 1")


def launch(*command: str, **environment: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", *command], capture_output=True, text=True, timeout=240, cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", **environment},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-4000:]
    return done.stdout


def test_torchrun_processes_share_training_and_evaluation(tmp_path, make_model, tokenizer, tasks):
    # Five tasks for two processes: the shares are unequal.
    tasks = [*tasks, type(tasks[0])(task_id="more", prompt="# more\ndef f(x):\n", tests=tasks[0].tests)]
    (tmp_path / "tasks.jsonl").write_text("".join(json.dumps(task.to_row()) + "\n" for task in tasks))
    make_model().save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    launch(
        "torch.distributed.run",
        "--standalone",
        "--nproc_per_node",
        "2",
        "tests/support/distributed_run.py",
        str(tmp_path),
    )
    first, second = (json.loads((tmp_path / f"seen-{rank}.json").read_text()) for rank in (0, 1))
    assert (first["world_size"], second["world_size"]) == (2, 2)
    assert first["digest"] == second["digest"]
    assert first["weights"] == second["weights"]
    assert first["unextracted"] == second["unextracted"]
    for seen in (first, second):
        assert seen["programs"] == [10, 10]
        # A model of random weights writes next to no program; those of both processes are counted.
        assert 5 < seen["unextracted"][0] <= 10
        assert seen["steps"] == 4
        assert (seen["eval_tasks"], seen["eval_programs"]) == (5.0, 10.0)
