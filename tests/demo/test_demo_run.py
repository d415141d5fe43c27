"""The demo improves its model on held-out tasks, and says so in the files it promises."""

import json

import pytest

from trl_pper import Judge
from trl_pper.demo.run import run_demo


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_held_out_accuracy_rises_by_ten_points_at_least(tmp_path, capsys):
    left_over = tmp_path / "run" / "_pper" / "journal"
    left_over.mkdir(parents=True)
    (left_over / "old").touch()
    summary = run_demo(tmp_path, seed=3, rounds=2)
    assert json.loads((tmp_path / "summary.json").read_text()) == summary
    assert summary["accuracy"]["after"] - summary["accuracy"]["before"] >= 0.10
    assert summary["pass_rate"]["after"] > summary["pass_rate"]["before"]
    assert 0.3 <= summary["accuracy"]["before"] <= 0.5
    assert summary["programs_judged"] == 2 * 600 + 2 * 3 * summary["held_out_tasks"]
    assert summary["isolation"] == Judge().isolation
    assert set(summary["seconds"]) >= {"generate", "judge", "train", "total"}
    assert not (left_over / "old").exists()
    assert summary["seconds"]["generate"] > 1.0
    assert "held-out tasks" in capsys.readouterr().out
    page = (tmp_path / "report.html").read_text()
    assert "Round by round" in page
    assert "tasks solved by the first program" in page
