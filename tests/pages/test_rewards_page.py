"""The code of docs/rewards.md runs: GRPO with the pass rate as its reward, and a reward with bonuses."""

import json
import re

import pytest

from trl_pper import pass_rate_reward
from trl_pper.demo import MODEL
from trl_pper.demo.tasks import demo_tasks, reference_program

#: No GPU here, few steps, no tracker; everything else is the text of the page.
SMALL = (
    "max_completion_length=64, max_steps=2, num_generations=4, logging_steps=1, report_to=[], use_cpu=True, "
    "bf16=False, disable_tqdm=True, save_strategy='no'"
)


@pytest.mark.slow
@pytest.mark.runs("docs/rewards.md")
def test_the_code_of_the_page_runs(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    training, graded = re.findall(r"```python\n(.*?)```", page.read_text(), flags=re.DOTALL)
    tasks = demo_tasks("train")[:4]
    (tmp_path / "tasks.jsonl").write_text("".join(json.dumps(task.to_row()) + "\n" for task in tasks))
    names: dict = {}
    code = training.replace("me/base", str(MODEL)).replace("max_completion_length=256", SMALL)
    exec(compile(code, page, "exec"), names)
    found = [entry for entry in names["trainer"].state.log_history if "reward" in entry]
    assert [entry["step"] for entry in found] == [1, 2]
    assert all(
        {"rewards/pass_rate_reward/mean", "pass_rate", "accepted", "solved", "outcomes/passed"} <= entry.keys()
        for entry in found
    )
    exec(compile(graded, page, "exec"), names)
    task = tasks[0]
    written = [reference_program(task.task_id).removeprefix(task.prompt), "    return 0\n"]
    with names["judge"]:
        given = dict(prompts=[task.prompt] * 2, completions=written, tests=[task.to_row()["tests"]] * 2)
        assert 0 < pass_rate_reward(names["judge"])(**given)[1] < 1
        assert names["reward"](**given) == pytest.approx([1.3, 0.1])
