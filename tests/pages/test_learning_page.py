"""The page of the learning bench has the tables of the files that the bench wrote."""

import json
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "learning.md"


@pytest.mark.parametrize(("mark", "file"), [("table", "learning.json"), ("tuning", "learning_tuning.json")])
def test_tables_of_the_page_are_those_of_the_bench(monkeypatch, mark, file):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks" / "learning"))
    tables = __import__("tables")
    held = json.loads((ROOT / "benchmarks" / "results" / file).read_text())
    page = PAGE.read_text(encoding="utf-8")
    assert f"<!-- {mark}: " in page
    assert tables.with_tables(page, held["table"], mark) == page
    # A row of the table follows from the runs beside it.
    for row in held["table"]:
        runs = [
            100 * one["accuracy"][-1]
            for one in held["runs"]
            if (one["setting"], one["contender"]) == (row["setting"], row["contender"])
        ]
        assert len(runs) == row["seeds"]
        assert row["accuracy"]["mean"] == pytest.approx(sum(runs) / len(runs), abs=0.06)
