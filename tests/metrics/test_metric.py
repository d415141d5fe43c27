import itertools
import json
import runpy
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tests.support.loopback_hub import Client, LoopbackHub
from trl_pper import __version__
from trl_pper.judge.judge import Judge
from trl_pper.judge.verdict import Outcome, Verdict
from trl_pper.metrics import path, space
from trl_pper.metrics.compute import compute, pool, require_consent, summarise
from trl_pper.metrics.scores import pass_at_k
from trl_pper.tasks.task import CodingTask, FunctionTests, StdioCase, StdioTests
from trl_pper.tasks.task import tests_to_json as to_json

DOUBLE = FunctionTests(entry_point="f", code="assert f(2) == 4\nassert f(3) == 6")
ECHO = StdioTests(cases=[StdioCase(input="a\n", output="a\n")])


def passed(*marks):
    return Verdict(outcomes=tuple(Outcome.PASSED if mark else Outcome.WRONG_ANSWER for mark in marks))


@pytest.mark.parametrize("total", [1, 2, 5, 7])
def test_pass_at_k_is_the_share_of_choices_with_a_right_program(total):
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


def test_real_programs_are_judged_whatever_their_tests_look_like():
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


WRONG = [
    ([["a"]], [], "references: must hold at least one task; got none"),
    ([], [], "predictions: must hold at least one task; got none"),
    ([["a"]], [ECHO, ECHO], "one length; got 1, 2"),
    ("a", [ECHO], "predictions: must be a list with an item for each task; got str"),
    (None, [ECHO], "predictions: must be a list with an item for each task; got None"),
    ([["a"]], ECHO, "references: must be a list with an item for each task; got StdioTests"),
    (["a"], [ECHO], r"predictions\[0\]: must be a list of programs.*got one text. Wrap it in a list"),
    ([["a"], None], [ECHO, ECHO], r"predictions\[1\]: must be a list of programs for the task; got None"),
    ([["a"], []], [ECHO, ECHO], r"predictions\[1\]: must hold at least one program; got none. Give \"\" where"),
    ([["a", None]], [ECHO], r"predictions\[0\]\[1\]: must be the text of a program; got None. Give \"\" for"),
    ([[["a"]]], [ECHO], r"predictions\[0\]\[0\]: must be the text of a program; got list. Take one list away"),
    ([[3]], [ECHO], r"predictions\[0\]\[0\]: must be the text of a program; got int. Give the text"),
]


@pytest.mark.parametrize(("predictions", "references", "message"), WRONG)
def test_wrong_programs_are_named(predictions, references, message):
    with pytest.raises(ValueError, match=message):
        compute(predictions, references)


@pytest.mark.parametrize(
    ("references", "k", "message"),
    [
        (["{"], [1], r"references\[0\]: tests: malformed"),
        ([None], [1], r"references\[0\]: tests: malformed"),
        ([ECHO], [0], "k: must be at least 1"),
        ([ECHO], [1.5], "k: must be at least 1"),
        ([ECHO], [True], "k: must be at least 1"),
        ([ECHO], 10, r"k: must be a list of whole numbers; got 10. Write \[10\]"),
    ],
)
def test_wrong_tests_and_k_are_named(references, k, message):
    with pytest.raises(ValueError, match=message):
        compute([["a"]], references, k=k)


def test_an_empty_program_counts_as_a_failed_one():
    with Judge(workers=1) as judge:
        figures = compute([[""]], [ECHO], k=[1], judge=judge)
    assert (figures["pass_rate"], figures["accuracy"], figures["pass@1"]) == (0.0, 0.0, 0.0)


def test_shares_of_the_tasks_pool_to_the_figures_over_all():
    lost = Verdict.uniform(Outcome.SANDBOX_ERROR, 2)
    verdicts = [[passed(1, 1), passed(1, 0)], [passed(0, 1), lost], [passed(0, 0), passed(1, 1)]]
    whole = summarise(verdicts, k=[1, 2])
    shares = [summarise(verdicts[:2], k=[])["rows"], [], summarise(verdicts[2:], k=[])["rows"]]
    assert pool(shares, k=[1, 2]) == whole
    with pytest.raises(ValueError, match="rows_of_shares: must hold at least one row; got none"):
        pool([[], []])
    with pytest.raises(ValueError, match="k: must be at least 1"):
        pool(shares, k=[0])


def test_running_programs_needs_consent(monkeypatch):
    monkeypatch.delenv("HF_ALLOW_CODE_EVAL", raising=False)
    with pytest.raises(RuntimeError, match="HF_ALLOW_CODE_EVAL: must be 1"):
        require_consent()
    monkeypatch.setenv("HF_ALLOW_CODE_EVAL", "1")
    require_consent()


def test_the_path_is_that_of_a_known_metric():
    with pytest.raises(ValueError, match="must be one of pass_rate; got 'speed'"):
        path("speed")


def test_a_space_is_a_folder_of_its_own(tmp_path):
    folder = space(tmp_path / "deep" / "pass_rate")
    assert {file.name for file in folder.iterdir()} == {"pass_rate.py", "README.md", "app.py", "requirements.txt"}
    assert (folder / "pass_rate.py").read_text() == (Path(path()) / "pass_rate.py").read_text()
    assert f"trl-pper[metric]=={__version__}" in (folder / "requirements.txt").read_text()
    header = yaml.safe_load((folder / "README.md").read_text().split("---")[1])
    assert {"sdk": "gradio", "app_file": "app.py", "title": "pass_rate"}.items() <= header.items()
    assert {"evaluate", "metric"} <= set(header["tags"])
    # The Hub refuses longer ones.
    assert len(header["short_description"]) <= 60
    with pytest.raises(ValueError, match="folder: must be a new or an empty folder"):
        space(folder)


class Page:
    """Stands for gradio, and remembers what the page is made of."""

    class Error(Exception):
        pass

    def __init__(self):
        self.made, self.clicked = [], []

    def __getattr__(self, name):
        def make(*args, **kwargs):
            self.made.append((name, args, kwargs))
            return self

        return make

    def click(self, *args, **kwargs):
        self.clicked.append((args, kwargs))

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass


@pytest.mark.slow
def test_the_app_of_the_space_judges_what_it_shows(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_ALLOW_CODE_EVAL", "1")
    for cache in ("MODULES", "METRICS"):
        monkeypatch.setattr(f"evaluate.config.HF_{cache}_CACHE", str(tmp_path / cache))
    page = Page()
    monkeypatch.setitem(sys.modules, "gradio", page)
    app = runpy.run_path(str(space(tmp_path / "space") / "app.py"))
    app["build"]()
    assert [name for name, *_ in page.made].count("Code") == 2
    [((function,), wires)] = page.clicked
    assert (len(wires["inputs"]), len(wires["outputs"])) == (2, 2)
    figures, rows = function(app["PROGRAMS"], app["TESTS"])
    assert (figures["accuracy"], figures["pass@1"], figures["pass@2"], figures["pass_rate"]) == (1.0, 0.5, 1.0, 0.75)
    assert [row[:4] for row in rows] == [[1, 1.0, 2, 2], [2, 0.5, 1, 2]]
    assert rows[1][4] == "passed, wrong_answer"
    assert all(len(row) == len(app["COLUMNS"]) for row in rows)
    assert function(app["STDIO_PROGRAM"], app["STDIO_TESTS"])[0]["accuracy"] == 1.0
    with pytest.raises(Page.Error, match=r"references\[0\]: tests: malformed"):
        function("x", "{")
    monkeypatch.delenv("HF_ALLOW_CODE_EVAL")
    with pytest.raises(Page.Error, match="HF_ALLOW_CODE_EVAL: must be 1"):
        function(app["PROGRAMS"], app["TESTS"])


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


USE = """
import itertools, json, os, sys
os.environ["HF_ALLOW_CODE_EVAL"] = "1"
import evaluate
import trl_pper.metrics
from trl_pper.judge.judge import Judge
tests = json.dumps({"type": "function", "entry_point": "f", "code": "assert f(2) == 4"})
right, wrong = "def f(x): return 4", "def f(x): return 5"
metric = evaluate.load(trl_pper.metrics.path())
def refusal(call, **given):
    try:
        call(**given)
    except Exception as error:
        return f"{type(error).__name__}: {error}"
with Judge(workers=1) as judge:
"""


@pytest.fixture(scope="module")
def hub():
    with LoopbackHub() as hub:
        yield hub


@pytest.fixture(scope="module")
def client(hub, tmp_path_factory):
    client = Client(hub, tmp_path_factory.mktemp("home"))
    yield client.run
    client.close()


def indented(code):
    return USE + "".join(f"    {line}\n" for line in code.strip().splitlines())


@pytest.mark.slow
def test_programs_come_in_batches_and_one_task_at_a_time(client):
    assert client(indented("""
metric.add_batch(predictions=[[right, wrong]], references=[tests])
metric.add_batch(predictions=[[wrong, wrong], [right, right]], references=[tests] * 2)
metric.add(prediction=[wrong, right], reference=tests)
assert len(metric) == 4, len(metric)
figures = metric.compute(k=[1, 2], judge=judge)
result = [figures["accuracy"], figures["pass@1"], figures["pass@2"], len(figures["rows"])]
""")) == [0.5, 0.5, 0.75, 8]  # fmt: skip


@pytest.mark.slow
def test_evaluate_names_what_is_wrong_as_we_do(client):
    told = client(
        indented("""
from trl_pper.tasks.task import tests_from_json
given = [
    dict(predictions=[right], references=[tests]),
    dict(predictions=[[[right]]], references=[tests]),
    dict(predictions=[[right, None]], references=[tests]),
    dict(predictions=[[]], references=[tests]),
    dict(predictions=[], references=[]),
    dict(predictions=[[right]], references=[tests, tests]),
    dict(predictions=[[right]], references=[json.loads(tests)]),
]
result = [refusal(call, **one) for one in given for call in (metric.add_batch, metric.compute)]
result.append(refusal(metric.add, prediction=right, reference=tests))
result.append(refusal(metric.compute, predictions=[[right]], references=[tests], k=3))
""")
    )
    expected = [
        "predictions[0]: must be a list of programs for the task; got one text. Wrap it in a list",
        "predictions[0][0]: must be the text of a program; got list. Take one list away",
        "predictions[0][1]: must be the text of a program; got None.",
        "predictions[0]: must hold at least one program; got none.",
        "predictions: must hold at least one task; got none.",
        "predictions and references: must have one length; got 1, 2",
        "references[0]: must be the JSON text of the native `tests` column; got dict.",
    ]
    expected = [line for line in expected for _ in range(2)]
    expected += ["predictions[0]: must be a list", "k: must be a list of whole numbers; got 3. Write [3]"]
    assert [line.startswith(f"ValueError: {start}") for line, start in zip(told, expected, strict=True)] == [
        True
    ] * len(told), told


@pytest.mark.slow
def test_metrics_combine(client, tmp_path):
    (tmp_path / "length").mkdir()
    (tmp_path / "length" / "length.py").write_text("""
import datasets
import evaluate

class Length(evaluate.Metric):
    def _info(self):
        texts = datasets.Sequence(datasets.Value("string"))
        features = datasets.Features({"predictions": texts, "references": datasets.Value("string")})
        return evaluate.MetricInfo(description="", citation="", features=features)

    def _compute(self, predictions, references, **_):
        return {"length": max(len(program) for programs in predictions for program in programs)}
""")
    assert client(indented("""
both = evaluate.combine([trl_pper.metrics.path(), argument])
both.add_batch(predictions=[[right, wrong]], references=[tests])
figures = both.compute(k=[1])
twice = evaluate.combine({"a": metric, "b": evaluate.load(trl_pper.metrics.path())})
named = twice.compute(predictions=[[right]], references=[tests])
result = [figures["length"], figures["accuracy"], named["a_accuracy"], named["b_accuracy"]]
"""), str(tmp_path / "length")) == [18, 1.0, 1.0, 1.0]  # fmt: skip


@pytest.mark.slow
def test_a_registered_metric_is_found_when_the_hub_has_none(client, hub):
    assert client(indented("""
before = refusal(evaluate.load, path="trl_pper/pass_rate")
name = trl_pper.metrics.register()
loaded = evaluate.load(name)
result = [before.partition(":")[0], name, loaded.compute(predictions=[[right]], references=[tests])["accuracy"]]
""")) == ["FileNotFoundError", "trl_pper/pass_rate", 1.0]  # fmt: skip
    assert "must be one of pass_rate" in client(indented('trl_pper.metrics.register("speed")'))["error"]


@pytest.mark.slow
def test_a_space_that_was_pushed_is_loaded_from_the_hub(client, hub, tmp_path):
    assert client(indented("""
from huggingface_hub import HfApi
HfApi().create_repo("me/pass_rate", repo_type="space", space_sdk="gradio")
HfApi().upload_folder(repo_id="me/pass_rate", folder_path=trl_pper.metrics.space(argument), repo_type="space")
loaded = evaluate.load("me/pass_rate")
result = loaded.compute(predictions=[[wrong, right]], references=[tests], k=[1])["pass@1"]
"""), str(tmp_path / "space")) == 0.5  # fmt: skip
    files = hub.repositories["spaces", "me/pass_rate"].files
    assert {"app.py", "pass_rate.py", "README.md", "requirements.txt"} == set(files)


RANK = """
import json, os, sys
import evaluate
from accelerate import PartialState
from accelerate.utils import gather_object
from trl_pper.judge.judge import Judge
from trl_pper.metrics import path
from trl_pper.metrics.compute import pool

state = PartialState(cpu=True)
assert state.num_processes == 2, state.num_processes
rank = state.process_index
tests = json.dumps({"type": "function", "entry_point": "f", "code": "assert f(2) == 4"})
programs = [["def f(x): return 4", "def f(x): return 5"], ["def f(x): return 5"], ["def f(x): return 4"]]
own = programs[rank::2]
with Judge(workers=1) as judge:
    # Each process judges its own tasks ...
    metric = evaluate.load(path(), experiment_id=f"own-{rank}")
    rows = metric.compute(predictions=own, references=[tests] * len(own), k=[1], judge=judge)["rows"]
    pooled = pool(gather_object([rows]), k=[1])
    # ... or the first process judges what all of them added.
    shared = evaluate.load(path(), num_process=2, process_id=rank, experiment_id="shared")
    state.wait_for_everyone()
    shared.add_batch(predictions=own, references=[tests] * len(own))
    figures = shared.compute(k=[1], judge=judge)
if state.is_main_process:
    names = ("pass_rate", "accuracy", "pass@1", "unjudged")
    both = [[found[name] for name in names] + [len(found["rows"])] for found in (pooled, figures)]
    print("FIGURES", json.dumps(both))
else:
    assert figures is None
    assert pooled["accuracy"] == 2 / 3
state.destroy_process_group()
"""


@pytest.mark.slow
def test_two_processes_pool_what_each_judged(tmp_path):
    (tmp_path / "rank.py").write_text(RANK)
    environment = {
        "PATH": "/usr/bin:/bin", "HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path), "HF_ALLOW_CODE_EVAL": "1",
        "HOME": str(tmp_path), "OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parents[2]),
    }  # fmt: skip
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2", "--standalone", "rank.py"]
    done = subprocess.run(
        command, env=environment, capture_output=True, text=True, timeout=110, check=False, cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr[-3000:]
    (line,) = [line for line in done.stdout.splitlines() if line.startswith("FIGURES ")]
    expected = [pytest.approx(0.5), pytest.approx(2 / 3), pytest.approx(0.5), 0, 4]
    assert json.loads(line.removeprefix("FIGURES ")) == [expected, expected]
