"""What docs/amplify.md says holds: its code runs, its command too, its figures are those measured."""

import json
import re
from pathlib import Path

import pytest

from trl_pper.amplify.answers import CPU_SHARE
from trl_pper.amplify.calls import TOLERANCE
from trl_pper.cli.commands import main, parse

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "amplify.md").read_text()
MEASURED = json.loads((ROOT / "benchmarks" / "results" / "amplify.json").read_text())


@pytest.mark.runs("docs/amplify.md")
def test_the_code_and_the_command_of_the_page_run(page, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    [code] = re.findall(r"```python\n(.*?)```", page.read_text(), flags=re.DOTALL)
    names: dict = {}
    exec(code, names)
    assert capsys.readouterr().out.startswith("10 {")
    Path("tasks.jsonl").write_text(json.dumps(names["task"].to_row()) + "\n")
    program = "def f(words): return max(reversed(words), key=len)"
    Path("programs.jsonl").write_text(json.dumps({"task_id": "longest", "program": program}) + "\n")
    [command] = re.findall(r"```bash\ntrl-pper (.*?)\n```", page.read_text())
    assert main(command.split()) == 0
    report = json.loads(Path("report.json").read_text())
    assert (report["tests_added"], report["passed_before"], report["exposed"]) == (20, 1, 1)


def test_the_numbers_in_the_text_are_those_of_the_code():
    assert parse(["amplify", "--tasks", "t", "--output", "o"]).new_tests == 20
    assert "`--new_tests` (20)" in PAGE
    assert CPU_SHARE == 0.25
    assert "a quarter of the CPU seconds" in PAGE
    assert f"max({TOLERANCE:.0e}, {TOLERANCE:.0e} * |expected|)".replace("e-06", "e-6") in PAGE


def test_figures_are_those_measured():
    rows = [line.strip("| ").split(" | ") for line in PAGE.splitlines() if line[:1] == "|"]
    columns = [head.replace(" ", "_") for head in rows[0]]
    expected = [[f"{one[c]:,}" if isinstance(one[c], int) else one[c] for c in columns] for one in MEASURED["samples"]]
    assert rows[2:] == expected
    assert (MEASURED["new_tests"], MEASURED["seed"]) == (20, 0)


def test_figures_in_the_text_are_those_measured():
    by_name = {one["sample"]: one for one in MEASURED["samples"]}
    human_eval, mbpp = by_name["HumanEval"], by_name["MBPP"]
    agreed = by_name["MBPP, two references"]
    rejected = agreed["inputs_dropped"]["a reference does not pass the test"]
    assert by_name["HumanEval, two references"]["known_right_exposed"] == 0
    text = " ".join(PAGE.partition("## What it cannot know")[2].split())
    for said in (
        f"{rejected} of the {mbpp['inputs_kept']:,} new tests of MBPP are failed",
        f"{agreed['known_right_exposed']} known-right programs are exposed and not {mbpp['known_right_exposed']};",
        f"on HumanEval none and not {human_eval['known_right_exposed']},",
        f"{human_eval['inputs_within_contract']:,} of {human_eval['inputs_with_contract']:,} new inputs are.",
        f"{human_eval['exposed_outside_contract_only']} of the {human_eval['exposed']} exposed programs",
        f"{human_eval['tests_rejecting_corrected_reference']} new tests are failed by EvalPlus's",
        f"find {human_eval['known_wrong']} wrong programs, the new ones {human_eval['known_wrong_exposed']} of them",
        f"All {by_name['Refactory, three tests']['known_right_exposed']} such programs",
    ):
        assert said in text
