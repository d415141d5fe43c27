"""The code of docs/training.md runs: training, going on from a checkpoint, judging again, a priority, an objective."""

import json
import re
import shutil
from pathlib import Path

import pytest

from trl_pper import ReplayBuffer


@pytest.mark.slow
@pytest.mark.runs("docs/training.md")
def test_the_code_of_the_page_runs(page, make_model, tokenizer, tasks, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    found = re.findall(r"```python\n(.*?)```", page.read_text(), flags=re.DOTALL)
    resume, again, priority, objective, evaluation = found
    for name, chosen in (("tasks", tasks), ("held_out", tasks[:1]), ("stricter_tasks", tasks)):
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(task.to_row()) + "\n" for task in chosen))
    make_model().save_pretrained("model")
    tokenizer.save_pretrained("model")
    # No GPU here, few steps, no tracker; everything else is the text of the page.
    small = "use_cpu=True, bf16=False, report_to=[], max_completion_length=8, steps_per_round=1, disable_tqdm=True,"
    names: dict = {}
    exec(
        compile(evaluation.replace('output_dir="outputs/run",', f'output_dir="outputs/run", {small}'), page, "exec"),
        names,
    )
    trainer = names["trainer"]
    trainer.train()
    assert any("eval_accuracy" in entry for entry in trainer.state.log_history)
    steps = trainer.state.global_step
    exec(compile(resume, page, "exec"), names)
    assert trainer.state.global_step >= steps
    saved = next(Path("outputs/run").glob("checkpoint-*/_pper/buffer.parquet"))
    if not Path("outputs/run/checkpoint-500").exists():
        Path("outputs/run/checkpoint-500/_pper").mkdir(parents=True)
        shutil.copy(saved, "outputs/run/checkpoint-500/_pper/buffer.parquet")
    exec(compile(again, page, "exec"), names)
    exec(compile(priority, page, "exec"), names)
    buffer = names["buffer"]
    buffer.merge(ReplayBuffer.load(saved))
    # Within a task the shares are those of the page's function.
    per_token = buffer.p2values() / buffer.columns().num_tokens / (1 + buffer.times_drawn())
    first = buffer.task_indices() == 0
    shares = buffer.probabilities()[first] / buffer.probabilities()[first].sum()
    assert shares.tolist() == pytest.approx((per_token[first] / per_token[first].sum()).tolist())
    exec(compile(objective.replace('"outputs/run",', f'"outputs/run", {small}'), page, "exec"), names)
    assert names["args"].objective == "topr"
    assert ReplayBuffer.load("stricter.parquet").pass_rates().tolist() == [0.0] * len(ReplayBuffer.load(saved))
    trainer.judge.close()
