import itertools
import subprocess
import sys

import pytest

from trl_pper.judge import Judge
from trl_pper.metrics import path
from trl_pper.metrics.compute import compute, require_consent, summarise
from trl_pper.scores import pass_at_k
from trl_pper.task import CodingTask, FunctionTests, StdioCase, StdioTests
from trl_pper.task import tests_to_json as to_json
from trl_pper.verdict import Outcome, Verdict

DOUBLE = FunctionTests(entry_point="f", code="assert f(2) == 4\nassert f(3) == 6")
ECHO = StdioTests(cases=[StdioCase(input="a\n", output="a\n")])


def passed(*marks):
    return Verdict(outcomes=tuple(Outcome.PASSED if mark else Outcome.WRONG_ANSWER for mark in marks))


@pytest.mark.parametrize("total", [1, 2, 5, 7])
def test_pass_at_k_is_the_share_of_choices_that_hold_a_correct_program(total):
    for correct in range(total + 1):
        for k in range(1, total + 1):
            choices = list(itertools.combinations([True] * correct + [False] * (total - correct), k))
            assert pass_at_k(total, correct, k) == pytest.approx(sum(map(any, choices)) / len(choices))


def test_pass_at_k_stays_exact_with_many_programs():
    assert pass_at_k(1000, 1, 1) == pytest.approx(0.001)
    assert pass_at_k(1000, 1000, 10) == 1.0


@pytest.mark.parametrize(("total", "correct", "k"), [(3, 1, 4), (3, 1, 0), (3, 4, 1), (3, -1, 1), (0, 0, 1)])
def test_pass_at_k_is_undefined_beyond_the_programs(total, correct, k):
    with pytest.raises(ValueError, match="must be in"):
        pass_at_k(total, correct, k)


def test_figures_of_a_mixed_collection():
    syntax = Verdict.uniform(Outcome.SYNTAX_ERROR, 2)
    figures = summarise([[passed(1, 1), passed(1, 0)], [passed(0, 1), passed(1, 1), syntax]], k=[1, 2, 3])
    assert figures["pass_rate"] == pytest.approx((1 + 0.5 + 0.5 + 1 + 0) / 5)
    assert figures["accuracy"] == 0.5
    assert figures["pass@1"] == pytest.approx((1 / 2 + 1 / 3) / 2)
    assert figures["pass@2"] == pytest.approx((1 + 2 / 3) / 2)
    assert "pass@3" not in figures
    assert figures["compile_rate"] == 0.8
    assert [(row["task"], row["program"]) for row in figures["rows"]] == [(0, 0), (0, 1), (1, 0), (1, 1), (1, 2)]


def test_unjudged_programs_count_in_no_figure():
    lost = Verdict.uniform(Outcome.SANDBOX_ERROR, 2)
    figures = summarise([[lost, passed(1, 1)], [passed(0, 0), passed(1, 1)]], k=[1, 2])
    assert figures["unjudged"] == 1
    assert figures["pass_rate"] == pytest.approx(2 / 3)
    assert figures["accuracy"] == 0.0
    assert figures["pass@1"] == pytest.approx(0.75)
    assert "pass@2" not in figures
    assert figures["rows"][0]["pass_rate"] is None


@pytest.mark.parametrize("verdicts", [[], [[]], [[Verdict(outcomes=())]]])
def test_figures_over_nothing_are_none(verdicts):
    figures = summarise(verdicts)
    assert (figures["pass_rate"], figures["accuracy"], figures["compile_rate"]) == (None, None, None)
    assert not any(name.startswith("pass@") for name in figures)


def test_real_programs_are_judged_whatever_the_shape_of_their_tests():
    good, half, broken = "def f(x): return 2 * x", "def f(x): return x * x", "def f(x: return"
    task = CodingTask(task_id="double", prompt="Double.", tests=DOUBLE)
    with Judge(workers=1) as judge:
        figures = compute(
            [[good, half, broken], ["print(input())"], [half], [good]],
            [to_json(DOUBLE), ECHO, task, DOUBLE],
            k=[1],
            judge=judge,
        )
    assert [row["pass_rate"] for row in figures["rows"]] == [1.0, 0.5, 0.0, 1.0, 0.5, 1.0]
    assert figures["rows"][1]["outcomes"] == ["passed", "wrong_answer"]
    assert (figures["rows"][1]["passed"], figures["rows"][1]["total"]) == (1, 2)
    assert figures["accuracy"] == 0.75
    assert figures["compile_rate"] == pytest.approx(5 / 6)
    assert figures["unjudged"] == 0


@pytest.mark.parametrize(
    ("predictions", "references", "k", "message"),
    [
        ([["a"]], [], [1], "one length"),
        (["a"], [ECHO], [1], "Wrap it in a list"),
        ([["a"]], ["{"], [1], r"references\[0\]: tests: malformed"),
        ([["a"]], [ECHO], [0], "k: must be at least 1"),
    ],
)
def test_wrong_input_is_named(predictions, references, k, message):
    with pytest.raises(ValueError, match=message):
        compute(predictions, references, k=k)


def test_running_programs_needs_consent(monkeypatch):
    monkeypatch.delenv("HF_ALLOW_CODE_EVAL", raising=False)
    with pytest.raises(RuntimeError, match="HF_ALLOW_CODE_EVAL: must be 1"):
        require_consent()
    monkeypatch.setenv("HF_ALLOW_CODE_EVAL", "1")
    require_consent()


def test_the_path_is_that_of_a_known_metric():
    with pytest.raises(ValueError, match="must be one of pass_rate; got 'speed'"):
        path("speed")


LOAD = """
import sys
import trl_pper.metrics
assert "evaluate" not in sys.modules
import evaluate
metric = evaluate.load(trl_pper.metrics.path("pass_rate"))
tests = '{"type": "function", "entry_point": "f", "code": "assert f(2) == 4"}'
keywords = dict(predictions=[["def f(x): return 4", "def f(x): return 5"], ["def f("]], references=[tests, tests])
figures = metric.compute(**keywords, k=[1, 2])
print(figures["pass_rate"], figures["accuracy"], figures["pass@1"], figures["compile_rate"], len(figures["rows"]))
"""


@pytest.mark.slow
def test_evaluate_loads_and_computes_it_offline(tmp_path):
    environment = {
        "PATH": "/usr/bin:/bin", "HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path), "HF_ALLOW_CODE_EVAL": "1",
        "HOME": str(tmp_path),
    }  # fmt: skip
    command = [sys.executable, "-c", LOAD]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["0.3333333333333333", "0.5", "0.25", "0.6666666666666666", "3"]
    del environment["HF_ALLOW_CODE_EVAL"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 1
    assert "HF_ALLOW_CODE_EVAL: must be 1" in done.stderr
