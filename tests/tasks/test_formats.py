import gzip
import json

import pytest

from trl_pper import Judge, Limits
from trl_pper.files import read_rows
from trl_pper.tasks.formats.humaneval import humaneval_task
from trl_pper.tasks.formats.test_code import infer_entry_point
from trl_pper.tasks.loading import load_tasks, match_task_id
from trl_pper.tasks.task import CodingTask, FunctionTests, StdioTests

HUMANEVAL = {
    "task_id": "HumanEval/2",
    "prompt": 'def half(x):\n    """ Halve. """\n',
    "entry_point": "half",
    "canonical_solution": "    return x / 2\n",
    "test": "\n\nMETADATA = {}\n\ndef check(candidate):\n"
    "    assert candidate(4) == 2\n    assert candidate(3) == 1.5\n",
}
MBPP = {
    "task_id": 4,
    "text": "Write a function to double.",
    "code": "import math\r\ndef double(x):\r\n  return 2 * x",
    "test_setup_code": "",
    "test_list": ["assert double(2) == 4 ", "assert double(0) == 0"],
    "challenge_test_list": ["assert double(-1) == -2"],
}
SANITIZED = {
    "task_id": 5,
    "prompt": "Write a root.",
    "code": "def root(x):\n  return x ** 0.5",
    "test_imports": ["import math"],
    "test_list": ["assert math.isclose(root(4), 2)"],
}
NATIVE = {
    "task_id": "echo",
    "prompt": "Echo.",
    "tests": '{"type": "stdio", "cases": [{"input": "a", "output": "a"}]}',
}


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_humaneval_rows_become_function_tests_that_call_check():
    [task] = load_tasks([HUMANEVAL])
    assert task.task_id == "HumanEval/2"
    assert task.prompt == HUMANEVAL["prompt"]
    assert task.tests == FunctionTests(entry_point="half", code=HUMANEVAL["test"] + "\n\ncheck(half)\n")


def test_functions_given_by_a_humaneval_prompt_are_the_tests_own():
    prompt = """import math


def poly(xs, x):
    return sum(c * math.pow(x, i) for i, c in enumerate(xs))


def find_zero(xs):
    \"\"\" Find x such that poly(xs, x) = 0. \"\"\"
"""
    test = "def check(candidate):\n    assert abs(poly([1, 2], candidate([1, 2]))) < 1e-4\n"
    [task] = load_tasks([{"task_id": "HumanEval/32", "prompt": prompt, "entry_point": "find_zero", "test": test}])
    assert "def poly" in task.tests.setup
    assert "import math" in task.tests.setup
    assert "find_zero" not in task.tests.setup
    forged = prompt + "    return 7.0\n\n\ndef poly(xs, x):\n    return 0.0\n"
    honest = prompt + "    return -xs[0] / xs[1]\n"
    with Judge(workers=1, limits=Limits(cpu_seconds=2.0)) as judge:
        [verdicts] = judge.run([(task, [forged, honest])])
    assert [verdict.pass_rate for verdict in verdicts] == [0.0, 1.0]


def test_humaneval_tests_that_call_check_are_not_called_twice():
    [task] = load_tasks([{**HUMANEVAL, "test": HUMANEVAL["test"] + "\ncheck(half)\n"}])
    assert task.tests.code.count("check(half)") == 1


def test_mbpp_rows_become_a_docstring_prompt_and_asserts():
    [task] = load_tasks([MBPP])
    assert task.task_id == "MBPP/4"
    assert task.prompt == '"""\nWrite a function to double.\nassert double(2) == 4\nassert double(0) == 0\n"""\n'
    assert task.tests == FunctionTests(entry_point="double", code="assert double(2) == 4\nassert double(0) == 0")


def test_the_sanitized_edition_of_mbpp_is_read_as_well():
    [task] = load_tasks([SANITIZED])
    assert (task.task_id, task.entry_point, task.tests.setup) == ("MBPP/5", "root", "import math")


def test_an_mbpp_prompt_is_valid_python_whatever_the_text_holds():
    text = 'Match """ and \\d, \\'
    [task] = load_tasks([{**MBPP, "text": text}])
    namespace = {}
    exec(f"text = {task.prompt}", namespace)
    assert text in namespace["text"]


@pytest.mark.parametrize(
    ("tests", "extra", "expected"),
    [
        ("assert check(2) == 4", {}, "check"),
        ("assert sum(2, 3) == 5", {"reference": "def sum(a, b):\r\n  return a + b"}, "sum"),
        ("assert sum(2, 3) == 5", {}, None),
        ("assert set(f(2)) == set([4])", {}, "f"),
        ("assert isclose(f(2), 4)", {"setup": "from math import isclose"}, "f"),
        ("assert close(f(2), 4)", {"setup": "def close(a, b):\n  return a == b"}, "f"),
        ("assert f(2) == g(2)", {}, None),
        ("assert f(2) == g(2)", {"reference": "def g(x): return 1\nf = g\n"}, None),
        ("assert f(2) == g(2)", {"reference": "f = lambda x: x"}, "f"),
        ("assert f(2) == 2", {"reference": "def broken(:"}, "f"),
        ("assert f(2) == 2", {"reference": "def other(): pass"}, "f"),
        ("assert True", {}, None),
    ],
)
def test_the_entry_point_is_the_one_name_the_program_must_define(tests, extra, expected):
    assert infer_entry_point(tests, **extra) == expected


def test_files_of_every_kind_give_the_same_tasks(tmp_path):
    pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    rows = [HUMANEVAL, {**HUMANEVAL, "task_id": "HumanEval/4"}]
    lines = write(tmp_path / "a.jsonl", rows)
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress(lines.read_bytes()))
    (tmp_path / "a.json").write_text(json.dumps(rows))
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "a.parquet")
    for path in tmp_path.iterdir():
        assert load_tasks(path) == load_tasks(rows)
        assert load_tasks(str(path), format="humaneval") == load_tasks(rows)
        assert [number for number, _ in read_rows(path)] in ([1, 2], [1, 2])


def test_datasets_and_task_objects_are_sources_too():
    datasets = pytest.importorskip("datasets")
    tasks = load_tasks([NATIVE, {**NATIVE, "task_id": "chat", "prompt": "x"}])
    assert load_tasks(datasets.Dataset.from_list([task.to_row() for task in tasks])) == tasks
    assert load_tasks(task for task in tasks) == tasks
    assert isinstance(tasks[0], CodingTask)
    assert isinstance(tasks[0].tests, StdioTests)


def test_json_lines_end_at_newlines_alone(tmp_path):
    path = tmp_path / "a.jsonl"
    rows = [{**NATIVE, "prompt": "a\u0085b\u2028c\x0bd"}, {**NATIVE, "task_id": "two"}]
    text = "\ufeff" + "\r\n\n".join(json.dumps(row, ensure_ascii=False) for row in rows)
    path.write_bytes(text.encode())
    assert [task.prompt for task in load_tasks(path)] == [rows[0]["prompt"], "Echo."]
    assert [number for number, _ in read_rows(path)] == [1, 3]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("{", r"a\.jsonl:2: malformed JSON"),
        ('{"a": "\udcff"}', r"a\.jsonl:2: malformed JSON"),
        ("[1]", r"a\.jsonl:2: must be a JSON object"),
        (json.dumps(NATIVE), r"a\.jsonl:2: task_id: 'echo' is already the task of .*a\.jsonl:1"),
        ('{"task_id": "b", "prompt": "p"}', r"a\.jsonl:2: tests: required"),
        ('{"task_id": "b", "prompt": "p", "tests": "{}"}', r"a\.jsonl:2: tests\.type"),
        (json.dumps({**NATIVE, "task_id": "b", "tests": '{"type":"stdio","cases":[]}'}), r"a\.jsonl:2: .*one test"),
    ],
)
def test_a_bad_line_names_file_line_and_field(tmp_path, row, message):
    path = tmp_path / "a.jsonl"
    path.write_bytes((json.dumps(NATIVE) + "\n" + row + "\n").encode(errors="surrogateescape"))
    with pytest.raises(ValueError, match=message):
        load_tasks(path)


@pytest.mark.parametrize(
    ("base", "change", "message"),
    [
        (HUMANEVAL, {"test": "def check(candidate): pass"}, "row 1: test: a task needs at least one test"),
        (HUMANEVAL, {"test": "# assert nothing"}, "row 1: test: a task needs at least one test"),
        (HUMANEVAL, {"test": "assert ("}, "row 1: test: must be Python"),
        (HUMANEVAL, {"task_id": ""}, "row 1: task_id"),
        (MBPP, {"test_list": []}, "row 1: test_list: a task needs at least one test"),
        (MBPP, {"test_list": "assert 1"}, "row 1: test_list: must be a list"),
        (MBPP, {"test_list": ["double(2)"]}, "row 1: test_list: a task needs"),
        (MBPP, {"text": " "}, "row 1: text: required"),
    ],
)
def test_a_bad_row_names_the_field(base, change, message):
    with pytest.raises(ValueError, match=message):
        load_tasks([{**base, **change}])


def test_a_missing_field_is_named_when_the_format_is_given():
    for format, field in (("humaneval", "prompt"), ("mbpp", "prompt"), ("native", "task_id")):
        with pytest.raises(ValueError, match=f"row 1: {field}: required"):
            load_tasks([{"question": "?"}], format=format)


def test_an_unknown_format_says_what_each_format_lacks(tmp_path):
    path = write(tmp_path / "a.jsonl", [{"task_id": 1, "question": "?", "prompt": "p"}])
    with pytest.raises(ValueError, match=r"a\.jsonl:1: format not recognised.*question.*native needs tests; human"):
        load_tasks(path)
    with pytest.raises(
        ValueError,
        match=r"a\.jsonl: format: must be auto, humaneval, mbpp, apps, code_contests, .*, native; got 'code'",
    ):
        load_tasks(path, format="code")


def test_sources_that_are_no_rows_are_refused(tmp_path):
    (tmp_path / "empty.jsonl").write_text("\n")
    (tmp_path / "tasks.csv").write_text("a")
    (tmp_path / "object.json").write_text("{}")
    (tmp_path / "cut.jsonl.gz").write_bytes(gzip.compress(json.dumps(NATIVE).encode())[:40])
    (tmp_path / "cut.parquet").write_bytes(b"PAR1")
    for name, message in [
        ("empty.jsonl", "holds no task"),
        ("tasks.csv", "must end in"),
        ("object.json", "must be a list"),
        ("cut.jsonl.gz", "gzip"),
        ("cut.parquet", "Parquet"),
    ]:
        with pytest.raises(ValueError, match=rf"{name}.*{message}"):
            load_tasks(tmp_path / name)
    with pytest.raises(FileNotFoundError, match=r"tasks\.jsonl: no such file.*owner/name"):
        load_tasks("my/tasks.jsonl")
    with pytest.raises(TypeError, match="splits"):
        load_tasks({"train": [NATIVE]})
    with pytest.raises(TypeError, match="row 1"):
        load_tasks(["text"])


@pytest.mark.parametrize("raw", [2, "2", "Mbpp/2", "MBPP/2", "mbpp/02"])
def test_rows_find_mbpp_tasks_however_they_name_them(raw):
    assert match_task_id(raw, {"MBPP/2", "HumanEval/2"}) == "MBPP/2"


def test_other_ids_match_as_they_are():
    assert match_task_id("HumanEval/2", {"HumanEval/2": 0}) == "HumanEval/2"
    assert match_task_id(2, {"2", "MBPP/2"}) == "2"
    for raw in (None, True, 2.0, "humaneval/2", 3):
        assert match_task_id(raw, {"HumanEval/2", "MBPP/2", "MBPP/1"}) is None


@pytest.mark.slow
def test_every_real_humaneval_and_mbpp_task_is_read(shared):
    humaneval = load_tasks(shared("humaneval/HumanEval.dev.jsonl.gz"))
    assert len(humaneval) == 82
    mbpp = load_tasks(shared("mbpp/mbpp.dev.jsonl"))
    assert len(mbpp) == 487
    assert all(task.entry_point for task in humaneval + mbpp)
    assert {task.task_id: task.entry_point for task in mbpp}["MBPP/56"] == "check"
    assert len(load_tasks(shared("evalplus/MbppPlus-OriginFmt.dev.jsonl.gz"))) == 196
    assert len(load_tasks(shared("nearmiss/humanevalpack_python.dev.jsonl"))) == 82


def test_classes_that_a_prompt_gives_belong_to_the_tests():
    """Or else a program could bring a node class of its own, equal to whatever the tests expect."""
    prompt = (
        "from typing import *\ninf = float('inf')\nclass Node:\n    def __init__(self, value): self.value = value\n"
        "def node(value): return Node(value)\ndef same(a, b): return a.value == b.value\n"
    )
    row = {
        "task_id": "Node/1",
        "prompt": prompt,
        "entry_point": "Solution().grow",
        "canonical_solution": "",
        "test": "def check(candidate):\n    assert same(candidate(node(1)), node(2))\n",
    }
    task = humaneval_task(row)
    assert {"class Node:", "inf = float('inf')"} <= set(task.tests.setup.splitlines())
    right = "class Solution:\n    def grow(self, node): return Node(node.value + 1)"
    forged = (
        "class Anything:\n    def __eq__(self, other): return True\n"
        "class Node:\n    def __init__(self, value): self.value = Anything()\n"
        "def same(a, b): return True\n"
        "class Solution:\n    def grow(self, node): return Node(0)"
    )
    with Judge(workers=1) as judge:
        rates = [verdict.pass_rate for verdict in judge.run([(task, [prompt + right, prompt + forged])])[0]]
    assert rates[0] == 1.0
    assert rates[1] != 1.0
