"""What docs/evaluation.md says holds: its command and its code run, and its figures are those that are written."""

import json
import re
from pathlib import Path

import pytest

from trl_pper.cli.commands import main

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "evaluation.md").read_text()


def test_figures_are_those_measured():
    measured = json.loads((ROOT / "benchmarks" / "results" / "evaluate_samples.json").read_text())
    figures, errors = measured["figures"], measured["figures"]["standard_errors"]
    rows = re.findall(r"^\| `([^`]+)` \| ([\d.]+) \| ([\d.]+) \| ([\d.]+) \|", PAGE, flags=re.MULTILINE)
    assert [tuple(row) for row in rows] == [
        (name, f"{figures[name]:.4f}", f"{errors[name]:.4f}", f"{measured['measured'][name]:.4f}")
        for name in ("accuracy", "pass@1", "pass@10", "pass@100")
    ]
    assert "35 differ" in PAGE
    assert [(one["measured_passed"], set(one["outcomes"])) for one in measured["differences"]] == [
        (False, {"passed"})
    ] * 35


@pytest.mark.runs("docs/evaluation.md")
def test_the_code_of_the_page_runs(page, tmp_path, monkeypatch, make_model, tokenizer, tasks, capsys):
    monkeypatch.chdir(tmp_path)
    Path("tasks.jsonl").write_text("".join(json.dumps(task.to_row()) + "\n" for task in tasks))
    make_model().save_pretrained("model")
    tokenizer.save_pretrained("model")
    (command,) = re.findall(r"```bash\ntrl-pper (.*?)\n```", page.read_text(), flags=re.DOTALL)
    # A tiny model, few samples, short ones; everything else is the text of the page.
    small = {
        "HumanEval.jsonl.gz": "tasks.jsonl", "Qwen/Qwen2.5-Coder-0.5B": "model", "1000": "10", " 1 10 100": " 1 10",
        "\\\n": "--max_completion_length 4 --workers 1",
    }  # fmt: skip
    for text, replacement in small.items():
        assert text in command
        command = command.replace(text, replacement)
    assert main(command.split()) == 0
    scores = json.loads(Path("scores.json").read_text())
    named = {name for name in scores["figures"] if name not in ("tasks", "programs", "standard_errors", "over_tasks")}
    documented = set(re.findall(r"^\| `([^`]+)` \| [a-z]", page.read_text(), flags=re.MULTILINE))
    assert {re.sub("@10?$", "@n" if name.startswith("solved") else "@k", name) for name in named} == documented
    assert len(Path("verdicts.jsonl").read_text().splitlines()) == 40
    for name, solved in (("before", 0), ("after", 5)):
        scores["per_task"][0]["accepted"] = solved
        Path(f"{name}.json").write_text(json.dumps(scores))
    capsys.readouterr()
    for block in re.findall(r"```python\n(.*?)```", page.read_text(), flags=re.DOTALL):
        exec(compile(block, page, "exec"), {})
    assert capsys.readouterr().out.splitlines() == ["+0.125 ± 0.125 over 4 tasks", "0.25 0.5"]
