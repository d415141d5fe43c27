"""Benchmarks on real programs run as their docstrings say, on small data made here."""

import gzip
import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
HUMANEVAL = {
    "task_id": "HumanEval/0",
    "prompt": 'def double(x):\n    """Double x."""\n',
    "entry_point": "double",
    "canonical_solution": "    return 2 * x\n",
    "test": "def check(candidate):\n    assert candidate(2) == 4\n    assert candidate(3) == 6\n",
}
MBPP = {
    "task_id": 2, "text": "Triple x.", "code": "def triple(x):\n    return 3 * x", "test_setup_code": "",
    "test_list": ["assert triple(1) == 3", "assert triple(2) == 6"], "challenge_test_list": [],
}  # fmt: skip
SAMPLED = {
    **HUMANEVAL, "n_tests": 2, "completions": ["    return 2 * x\n", "    return 4\n", "    return ("],
    "measured_n_pass": [2, 1, 0],
}  # fmt: skip


def run(*command: str) -> str:
    done = subprocess.run([sys.executable, *command], capture_output=True, text=True, cwd=ROOT, timeout=200)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


@pytest.fixture
def data(tmp_path):
    for name in ("humaneval/HumanEval.jsonl.gz", "dumps/codet_sample.jsonl.gz", "mbpp/mbpp.jsonl"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
    for name, row in (("humaneval/HumanEval.jsonl.gz", HUMANEVAL), ("dumps/codet_sample.jsonl.gz", SAMPLED)):
        (tmp_path / name).write_bytes(gzip.compress(json.dumps(row).encode()))
    (tmp_path / "mbpp" / "mbpp.jsonl").write_text(json.dumps(MBPP))
    return tmp_path


@pytest.mark.slow
def test_real_programs_are_compared_with_what_was_measured(data):
    output = data / "figures.json"
    run("benchmarks/judge_real_programs.py", str(data), "--output", str(output), "--cpu_seconds", "2")
    files = {entry["file"]: entry for entry in json.loads(output.read_text())["files"]}
    assert {name: entry["accepted"] for name, entry in files.items()} == {
        "HumanEval.jsonl.gz": 1, "mbpp.jsonl": 1, "codet_sample.jsonl.gz": 1,
    }  # fmt: skip
    sampled = files["codet_sample.jsonl.gz"]
    assert (sampled["programs"], sampled["same_verdict"], sampled["same_pass_rate"]) == (3, 3, 3)


@pytest.mark.slow
def test_a_teachers_programs_train_a_tiny_model(data, tmp_path):
    rows = data / "dumps" / "codet_sample.jsonl.gz"
    run("benchmarks/teacher.py", str(rows), "--steps", "12", "--output", str(tmp_path / "out"))
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert (summary["tasks"], summary["programs"], summary["distinct_programs"], summary["steps"]) == (1, 3, 3, 12)
    assert summary["mean_pass_rate"] == 0.5
    assert summary["loss"]["last"] < summary["loss"]["first"]
    passing = summary["mean_token_logprob"]["passing"]
    assert passing["before"] < passing["after"] < 0
    assert (tmp_path / "out" / "report.html").is_file()
