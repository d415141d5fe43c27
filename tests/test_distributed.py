"""Two processes hold the same buffer, draw the same minibatches and learn what one process learns."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parent / "distributed_run.py"


def launch(folder: Path, processes: int, batch_size: int) -> list[dict]:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(processes)]
    done = subprocess.run(
        [*command, str(SCRIPT), str(folder), str(batch_size)],
        capture_output=True, text=True, timeout=240, env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-4000:]
    return [json.loads((folder / f"seen-{processes}-{rank}.json").read_text()) for rank in range(processes)]


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_two_processes_learn_what_one_learns(tmp_path, make_model, tokenizer, tasks):
    # Five tasks for two processes: the shares are unequal.
    tasks = [*tasks, type(tasks[0])(task_id="more", prompt="# more\ndef f(x):\n", tests=tasks[0].tests)]
    (tmp_path / "tasks.jsonl").write_text("".join(json.dumps(task.to_row()) + "\n" for task in tasks))
    make_model().save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    (alone,) = launch(tmp_path, 1, batch_size=4)
    first, second = launch(tmp_path, 2, batch_size=2)
    assert (alone["world_size"], first["world_size"], second["world_size"]) == (1, 2, 2)
    assert first["digest"] == second["digest"]
    assert first["weights"] == second["weights"]
    for seen in (first, second):
        assert seen["experiences"] == alone["experiences"]
        assert seen["programs"] == alone["programs"] == [10, 10]
        assert seen["steps"] == alone["steps"] == 4
        assert (seen["eval_tasks"], seen["eval_programs"]) == (5.0, 10.0)
        assert seen["weights"] == pytest.approx(alone["weights"], rel=1e-3, abs=1e-3)
