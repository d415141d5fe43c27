"""The README's swap from SFTTrainer runs as it stands there."""

import json
import re
from pathlib import Path

import pytest

README = Path(__file__).parents[2] / "README.md"


def swap() -> tuple[str, str]:
    """The code before and after the README's diff."""
    (block,) = re.findall(r"<!-- swap.*?-->\n```diff\n(.*?)```", README.read_text(), flags=re.DOTALL)
    lines = block.splitlines()
    before = [line[1:] for line in lines if line[:1] != "+"]
    after = [line[1:] for line in lines if line[:1] != "-"]
    return "\n".join(before), "\n".join(after)


def test_the_swap_changes_five_lines_at_most():
    (block,) = re.findall(r"```diff\n(.*?)```", README.read_text(), flags=re.DOTALL)
    assert 1 <= sum(line.startswith("+") for line in block.splitlines()) <= 5


@pytest.mark.parametrize("side", ["before", "after"])
def test_the_swap_runs(side, make_model, tokenizer, tasks, tmp_path, monkeypatch):
    import datasets

    monkeypatch.chdir(tmp_path)
    (tmp_path / "tasks.jsonl").write_text("".join(json.dumps(task.to_row()) + "\n" for task in tasks[:2]))
    make_model().save_pretrained("model")
    tokenizer.save_pretrained("model")
    rows = datasets.Dataset.from_list([{"prompt": "a", "completion": "b"}])
    code = swap()[side == "after"]
    names = {"model": "model", "dataset": rows}
    # No GPU here, one step, no tracker; everything else is the text of the README.
    code = re.sub(r'(Config\(output_dir="[^"]*")', r"\1, use_cpu=True, report_to=[], max_steps=1", code)
    code = code.replace("max_completion_length=128", "max_completion_length=8")
    exec(compile(code, str(README), "exec"), names)
    assert names["trainer"].state.global_step == 1
    assert type(names["trainer"]).__name__ == ("PPERTrainer" if side == "after" else "SFTTrainer")


def test_the_native_row_of_the_readme_is_a_task():
    from trl_pper import load_tasks

    (row,) = re.findall(r"```json\n(.*?)```", README.read_text(), flags=re.DOTALL)
    (task,) = load_tasks([json.loads(row)])
    assert task.entry_point == "double"
