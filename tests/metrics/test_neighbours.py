"""The judge inside inspect-ai and lighteval gives the counts that `trl-pper evaluate` gives for the same programs.

`make test-neighbours` runs this: both are installed in an environment of their own, with versions of their own.
"""

import itertools
import json
import math
import os
import subprocess

import pytest

from tests.support.pages import ROOT
from trl_pper import CodingTask, StdioCase, StdioTests, load_tasks
from trl_pper.cli.commands import main
from trl_pper.files import read_rows
from trl_pper.tasks.loading import write_tasks

pytestmark = [
    pytest.mark.timeout(600),
    pytest.mark.skipif(not os.environ.get("REQUIRE_NEIGHBOURS"), reason="installed by: make test-neighbours"),
]

PYTHON = ROOT / ".venv-neighbours" / "bin" / "python"


@pytest.fixture(params=["small", "HumanEval"])
def evaluated(request, tmp_path, tasks, shared):
    """A folder with tasks and two programs for each of them; the scores of our own command."""
    if request.param == "small":
        # A half of the tests passes `return 1`; nobody can judge the last task here.
        unjudged = CodingTask(
            task_id="cpp", prompt="Print 1.",
            tests=StdioTests(
                cases=(StdioCase(input="", output="1"),), checker="int main() {}", checker_language="cpp"
            ),
        )  # fmt: skip
        texts = {task.task_id: ["    return 1\n", f"    return x + {task.task_id[-1]}\n"] for task in tasks[:3]}
        texts |= {"add-4": ["    return None\n", "    return (\n"], "cpp": ["print(1)", "print(1)"]}
        judged = [*tasks, unjudged]
    else:
        judged = load_tasks(shared("humaneval/HumanEval.dev.jsonl.gz"))
        dump = shared("dumps/codet_humaneval_codegen16B_k100.dev.jsonl.gz")
        texts = {row["task_id"]: row["completions"][:2] for _, row in itertools.islice(read_rows(dump), 82)}
    (tmp_path / "tasks").mkdir()
    write_tasks(tmp_path / "tasks" / "test.jsonl", judged)
    rows = [{"task_id": name, "completion": text} for name, found in texts.items() for text in found]
    (tmp_path / "programs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    line = ["evaluate", "--tasks", tmp_path / "tasks" / "test.jsonl", "--programs", tmp_path / "programs.jsonl"]
    line += ["--k", 1, 2, "--output", tmp_path / "scores.json"]
    assert main([*map(str, line)]) == 0
    scores = json.loads((tmp_path / "scores.json").read_text())
    assert scores["figures"]["unjudged"] == (2 if request.param == "small" else 0)
    assert 0 < scores["figures"]["pass@1"] < scores["figures"]["pass@2"] < 1
    return tmp_path, scores


def run(*words, **variables):
    """Run a command in the environment of the neighbours, and return its output."""
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "PYTHONPATH": f"{ROOT}:{ROOT}/examples/neighbours"} | variables
    done = subprocess.run(
        [PYTHON, *map(str, words)], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=500
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    return done.stdout


@pytest.mark.runs("examples/neighbours/inspect_tasks.py")
def test_inspect_counts_what_our_command_counts(evaluated):
    folder, scores = evaluated
    out = run(
        "tests/support/inspect_run.py", folder / "tasks" / "test.jsonl", folder / "programs.jsonl", 2, folder / "logs"
    )
    found = json.loads(out.splitlines()[-1])
    for ours in scores["per_task"]:
        # A program that could not be judged has no score there.
        theirs = [one for one in found["tasks"][ours["task_id"]] if isinstance(one, dict)]
        assert len(theirs) == ours["judged"]
        assert sum(one["accepted"] for one in theirs) == ours["accepted"]
    figures, errors = scores["figures"], scores["figures"]["standard_errors"]
    mean, at_2 = found["figures"]["mean"], found["figures"]["pass_at_2"]
    assert mean["accepted"]["mean"] == pytest.approx(figures["pass@1"])
    assert mean["pass_rate"]["mean"] == pytest.approx(figures["pass_rate"])
    assert at_2["accepted"]["mean"] == pytest.approx(figures["pass@2"])
    assert mean["accepted"]["stderr"] == pytest.approx(errors["pass@1"])


@pytest.mark.runs("examples/neighbours/lighteval_tasks.py")
def test_lighteval_scores_what_our_command_scores(evaluated):
    folder, scores = evaluated
    run(
        "tests/support/lighteval_run.py", "custom", "replayed", "tests/support/replayed_model.py", "judged_tasks",
        "--custom-tasks", "examples/neighbours/lighteval_tasks.py", "--output-dir", folder / "out",
        TASKS=str(folder / "tasks"), SAMPLES="2", PROGRAMS=str(folder / "programs.jsonl"),
        HF_HOME=str(folder / "cache"),
    )  # fmt: skip
    (path,) = (folder / "out").rglob("results_*.json")
    found = json.loads(path.read_text())["results"]["judged_tasks|0"]
    for name in ("pass_rate", "pass@1", "pass@2"):
        assert not math.isnan(found[name])
        assert found[name] == pytest.approx(scores["figures"][name])
