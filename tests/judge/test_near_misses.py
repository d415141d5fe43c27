"""Right and nearly right programs of real collections get the verdicts that are known of them."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest

BENCHMARK = Path(__file__).parents[2] / "benchmarks" / "judge_near_misses.py"
#: A file of each source, and how many of its programs there have to be for the test to mean something.
FILES = {
    "quixbugs": ("nearmiss/quixbugs_python.dev.jsonl", 40),
    "leak_pairs": ("nearmiss/leak_pairs.dev.jsonl", 4),
    "leetcode": ("leetcode/LeetCodeDataset-v0.3.1-test.dev.jsonl.gz", 107),
    "mbpp_plus": ("evalplus/MbppPlus-OriginFmt.dev.jsonl.gz", 196),
    "cruxeval": ("cruxeval/cruxeval.dev.jsonl", 800),
    "apps_calls": ("apps_dirs/train/2404/input_output.json", 77),
    "refactory": ("nearmiss/refactory_programs.dev.jsonl.gz", 2207),
    "humanevalpack": ("nearmiss/humanevalpack_python.dev.jsonl", 164),
}
#: Of sources that take long every so many tasks are judged here; the benchmark judges them all.
EVERY = {"leetcode": 4, "humanevalpack": 4, "quixbugs": 2, "mbpp_plus": 2, "cruxeval": 2}


@pytest.fixture(scope="module")
def benchmark():
    return runpy.run_path(str(BENCHMARK), run_name="benchmark")


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("source", FILES)
def test_every_verdict_is_as_known_or_explained(source, benchmark, shared):
    name, programs = FILES[source]
    data = shared(name)
    for _ in Path(name).parts:
        data = data.parent
    jobs = list(benchmark["SOURCES"][source](data))
    assert sum(len(texts) for _, texts in jobs) == programs
    if source == "refactory":
        # Many loop for ever, on many tests each; the benchmark judges them all.
        jobs = [(task, texts[::20]) for task, texts in jobs]
    jobs = jobs[:: EVERY.get(source, 1)]
    with benchmark["judge_for"](source) as judge:
        figures, lines = benchmark["compare"](source, jobs, judge)
    assert figures.programs == sum(len(texts) for _, texts in jobs)
    assert figures.unexplained == 0, lines
    # Declining to judge is honest, and has to stay rare.
    assert figures.unsupported <= figures.programs // 100
