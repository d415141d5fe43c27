"""What docs/report.md says holds: its commands and its code run, and its figures are those measured."""

import json
import re
from pathlib import Path

import pytest

from trl_pper import Experience, ReplayBuffer
from trl_pper.cli import commands as cli
from trl_pper.cli.commands import main
from trl_pper.report import groups as slowest
from trl_pper.report import near_misses, page, programs
from trl_pper.rounds.program_table import INVISIBLE

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "report.md").read_text()
SCRIPT = (ROOT / "trl_pper" / "report" / "templates" / "report.js").read_text()


@pytest.mark.runs("docs/report.md")
def test_the_commands_and_the_code_of_the_page_run(page, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    buffer = ReplayBuffer()
    buffer.add([Experience(task_id="a", prompt="p", completion="c", program="c", pass_rate=1.0)])
    buffer.save("buffer.parquet")
    buffer.save("outputs/run/_pper/buffer.parquet")
    (commands,) = re.findall(r"```bash\n(.*?)```", page.read_text(), flags=re.DOTALL)
    for command in commands.splitlines():
        assert main(command.removeprefix("trl-pper ").split()) == 0
    assert "<title>outputs/run</title>" in Path("report.html").read_text()
    assert Path("charts/draw.png").is_file()
    for block in re.findall(r"```python\n(.*?)```", page.read_text(), flags=re.DOTALL):
        exec(compile(block, page, "exec"), {})
    assert "<dt>learning rate</dt><dd>1e-5</dd>" in Path("report.html").read_text()


def test_the_limits_are_those_of_the_code():
    for text in (
        f"holds {page.PROGRAMS:,} unless",
        f"among {near_misses.TASKS_SEARCHED} tasks",
        f"and {near_misses.PAIRS} are shown",
        f"the {slowest.TASKS} whose programs",
        f"Of each {programs.CHARACTERS:,}\n  characters and {programs.TESTS} outcomes",
    ):
        assert text in PAGE

    assert cli.parse(["report", "x"]).programs == page.PROGRAMS


def test_page_and_script_hold_the_same_characters_for_invisible():
    (script,) = re.findall(r"^const INVISIBLE = /(.*)/gu;$", SCRIPT, flags=re.MULTILINE)
    assert re.sub(r"\\u\{(\w+)\}", r"\\U000\1", script) == INVISIBLE


def test_figures_are_those_measured():
    measured = json.loads((ROOT / "benchmarks" / "results" / "report.json").read_text())
    rows = re.findall(r"^\| ([\d,]+) \| ([\d.]+) \| ([\d.]+) \| ([\d.]+) \|$", PAGE, flags=re.MULTILINE)
    assert rows == [
        (
            f"{one['experiences']:,}",
            f"{one['build_seconds']['median']:.1f}",
            f"{one['file_bytes'] / 1e6:.2f}",
            f"{one['usable_seconds']['median']:.1f}",
        )
        for one in measured["sizes"]
    ]
    assert len(rows) == 3


@pytest.mark.parametrize("name", ["report"])
def test_the_picture_is_small(name):
    picture = (ROOT / "docs" / "images" / f"{name}.png").read_bytes()
    assert picture.startswith(b"\x89PNG")
    assert len(picture) < 300_000
