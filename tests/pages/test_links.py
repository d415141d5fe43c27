"""Links between pages and to the source lead somewhere, and the files and names that pages mention are there."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = [
    *(ROOT / "docs").rglob("*.md"),
    *(ROOT / "examples").rglob("*.md"),
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
]
ARCHITECTURE = ROOT / "docs" / "architecture.md"


def test_relative_links_lead_to_files():
    found = 0
    for page in PAGES:
        for target in re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", page.read_text()):
            if "://" not in target and not target.startswith("mailto:"):
                assert (page.parent / target).exists(), f"{page.relative_to(ROOT)}: {target}"
                found += 1
    assert found > 100


@pytest.mark.parametrize("page", ["architecture", "paper"])
def test_paths_and_names_of_the_source_exist(page):
    text = (ROOT / "docs" / f"{page}.md").read_text()
    paths = set(re.findall(r"`(\w+(?:/\w+)+\.py)`", text))
    assert len(paths) > 10
    for path in paths:
        assert (ROOT / path).exists() or (ROOT / "trl_pper" / path).exists(), path
    source = "".join(path.read_text() for path in (ROOT / "trl_pper").rglob("*.py"))
    # Names as `Class`, `Class.method` or `some_function`.
    names = set(re.findall(r"`([A-Z]\w+(?:\.\w+)?|[a-z]+_\w+)`", text))
    assert len(names) > 10
    for name in names:
        defined = name.rpartition(".")[2]
        assert re.search(rf"(?:def|class) {defined}\b|^ *{defined}\b *[:=]", source, re.MULTILINE), name


def test_the_site_shows_links_to_the_source_as_text():
    names = {}
    exec((ROOT / "docs" / "source_links.py").read_text(), names)
    shown = names["on_page_markdown"](ARCHITECTURE.read_text())
    assert "](../" in ARCHITECTURE.read_text()
    assert "](../" not in shown
    assert "`rounds/collector.py` `BeamSampleCollector.on_epoch_begin`" in shown
