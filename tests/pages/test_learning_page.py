"""The page of the learning bench has the tables of the files that the bench wrote."""

import json
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "learning.md"


def test_the_table_of_the_real_model_is_the_one_measured():
    measured = json.loads((ROOT / "benchmarks" / "results" / "real_model.json").read_text())
    held, collected = measured["table"], measured["first_collection"]
    assert collected["tasks_by_best_pass_rate"] == {"0.0": 82, "0.33": 4, "0.67": 3, "1.0": 7}
    assert collected["passing_programs"] == 7
    assert f"{collected['largest_difference_to_filter']['best']:.5f}" == "0.00003"
    assert collected["largest_difference_to_filter"]["filter, equal tasks"] == 0.0
    page = PAGE.read_text(encoding="utf-8")
    for row in held:
        low, high = (100 * float(bound) for bound in row["interval"].split(" to "))
        line = (
            f"| {row['contender']} | {row['solved']} of {row['of']} | {low:.1f} to {high:.1f} % "
            f"| {100 * row['any_of_k']:.1f} % | {row['pass_rate']:.3f} |\n"
        )
        assert line in page
    assert {row["contender"] for row in held} == {"no training", "best", "proportional, exponent 4"}


@pytest.mark.parametrize(
    ("mark", "file"),
    [
        ("table", "learning.json"),
        ("tuning", "learning_tuning.json"),
        ("retuning", "learning_retuning.json"),
        ("rates", "learning_rates.json"),
    ],
)
def test_tables_of_the_page_are_those_of_the_bench(monkeypatch, mark, file):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks" / "learning"))
    tables = __import__("tables")
    held = json.loads((ROOT / "benchmarks" / "results" / file).read_text())
    page = PAGE.read_text(encoding="utf-8")
    assert f"<!-- {mark}: " in page
    assert tables.with_tables(page, held["table"], mark) == page
    # A row of the table follows from the runs beside it.
    kept = tables.kept_runs(ROOT / "benchmarks" / "results" / file.replace(".json", "_runs.jsonl"))
    for row in held["table"]:
        runs = [
            100 * one["accuracy"][-1]
            for one in kept
            if (one["setting"], one["contender"]) == (row["setting"], row["contender"])
        ]
        assert len(runs) == row["seeds"]
        assert row["accuracy"]["mean"] == pytest.approx(sum(runs) / len(runs), abs=0.06)
