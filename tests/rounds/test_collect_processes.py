"""`trl-pper collect` by two processes: the buffer that one process fills, one summary, no journal left."""

import json
import os
import subprocess
import sys

import pytest

from trl_pper import ReplayBuffer

COLLECT = ["-m", "trl_pper.cli", "collect", "--workers", "1", "--batch_size", "1", "--max_completion_length", "5"]
TWO = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", *COLLECT[:2]]


def run(folder, *arguments: str) -> str:
    environment = os.environ | {"CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        [sys.executable, *arguments], cwd=folder, env=environment, capture_output=True, text=True, timeout=110
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


@pytest.mark.slow
@pytest.mark.parametrize("decoding", ["beam", "nucleus"])
def test_two_processes_fill_the_buffer_that_one_fills(tmp_path, make_model, tokenizer, tasks, decoding):
    make_model().save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    (tmp_path / "tasks.jsonl").write_text("".join(json.dumps(task.to_row()) + "\n" for task in tasks[:3]))
    options = ["--tasks", "tasks.jsonl", "--model", "model", "--decoding", decoding, "--num_programs", "2"]
    run(tmp_path, *COLLECT, *options, "--output", "one.parquet")
    said = run(tmp_path, *TWO, *COLLECT[2:], *options, "--output", "two.parquet")
    assert said.count("programs for 3 tasks") == 1
    assert said.rstrip().endswith("in two.parquet, by 2 processes")
    one, two = (ReplayBuffer.load(tmp_path / f"{name}.parquet") for name in ("one", "two"))
    assert {row.task_id for row in one} == {task.task_id for task in tasks[:3]}
    assert two.digest() == one.digest()
    assert not list(tmp_path.glob("*.journal"))
