"""The fuzzer: it finds broken promises, survives crashes, and finds nothing in a few cases of each target."""

import json
import os
import signal

import pytest

from tests.benchmarks.test_benchmarks import load, run  # noqa: F401


@pytest.mark.slow
def test_a_few_cases_of_every_target_find_nothing(tmp_path):
    done = run("fuzz.py", "--target", "all", "--cases", "25", "--seed", "7", "--output", str(tmp_path / "fuzz.json"))
    assert done.returncode == 0, done.stdout + done.stderr
    targets = json.loads((tmp_path / "fuzz.json").read_text())["targets"]
    assert set(targets) == {"tasks", "programs", "buffers", "journals", "checkpoints"}
    assert all(one["cases"] == 25 and one["findings"] == [] for one in targets.values())


@pytest.mark.slow
def test_findings_and_crashes_are_seen(load, monkeypatch):  # noqa: F811
    fuzz = load("fuzz")

    def case(rng, folder):
        kind = rng.randrange(4)
        if kind == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        elif kind == 1:
            fuzz.reading("", lambda: {}["key"])
        elif kind == 2:
            fuzz.reading("file", lambda: (_ for _ in ()).throw(ValueError("must be a file")))

    monkeypatch.setitem(fuzz.TARGETS, "broken", case)
    found = fuzz.fuzz("broken", seed=1, minutes=1, most_cases=40)
    texts = " ".join(one["finding"] for one in found["findings"])
    assert "ended with -9" in texts
    assert "KeyError" in texts
    assert "is one of Python" in texts
    assert found["cases"] == 40
    assert 20 < sum(one["times"] for one in found["findings"]) < 40
