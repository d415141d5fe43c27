"""The report: one file, no request leaves it, hostile program text stays text."""

import re

import pytest

from trl_pper import Experience, ReplayBuffer
from trl_pper.report import write_report


def experience(i: int, **fields) -> Experience:
    defaults = dict(
        task_id=f"task-{i}", prompt="p", completion="c", program=f"print({i})", pass_rate=i % 3 / 2,
        outcomes=("passed", "wrong_answer"), logprob=-float(i + 1), num_tokens=10,
    )  # fmt: skip
    return Experience(**{**defaults, **fields})


def report(tmp_path, buffer, **options) -> str:
    write_report(tmp_path / "deep" / "report.html", buffer, **options)
    return (tmp_path / "deep" / "report.html").read_text()


def test_program_text_is_escaped(tmp_path):
    buffer = ReplayBuffer()
    buffer.add([experience(0, program="<script>alert('&')</script>", task_id="<b>bold</b>")])
    page = report(tmp_path, buffer, title="<i>title</i>", facts={"<u>": "<s>"})
    assert "<script" not in page
    assert "&lt;script&gt;alert(&#39;&amp;&#39;)&lt;/script&gt;" in page
    for tag in ("<b>bold", "<i>title", "<u>", "<s>"):
        assert tag not in page


def test_nothing_is_fetched_from_elsewhere(tmp_path):
    buffer = ReplayBuffer()
    buffer.add(experience(i) for i in range(30))
    page = report(tmp_path, buffer, scores={"accuracy": (0.2, 0.5)})
    assert page.count("<svg") == 2
    assert re.findall(r'(?:src|href)="(?!#)([^"]*)"', page) == []
    assert "@import" not in page
    assert "+30.0 points" in page
    assert "30</b><span>programs" in page


def test_one_program_unknown_possibility_and_nothing_to_draw_are_shown(tmp_path):
    buffer = ReplayBuffer(priority="filter")
    buffer.add([experience(0, logprob=None, num_tokens=None, outcomes=())])
    page = report(tmp_path, buffer)
    assert "possibility unknown" in page
    assert "none</b><span>effective sample size" in page


def test_an_empty_buffer_is_refused(tmp_path):
    with pytest.raises(ValueError, match="buffer: got an empty one"):
        write_report(tmp_path / "report.html", ReplayBuffer())
