import json
from dataclasses import replace

import pytest

from trl_pper.tasks.task import CodingTask, FunctionTests, StdioCase, StdioTests, task_rows
from trl_pper.tasks.task import tests_from_json as from_json
from trl_pper.tasks.task import tests_to_json as to_json

CASES = StdioTests(cases=[StdioCase(input="1\n", output="2\n"), StdioCase(input="", output="é")], compare="lines")
CALLS = FunctionTests(code="assert f(1) == 2", entry_point="f", setup="import math")


CHECKED = replace(CASES, compare="tokens", checker="def check(input, output, expected): return True")


@pytest.mark.parametrize("tests", [CASES, CHECKED, replace(CHECKED, checker_language="cpp"), CALLS])
@pytest.mark.parametrize("prompt", ["do it", [{"role": "user", "content": "do it"}]])
def test_native_rows_go_through_json_and_come_back(tests, prompt):
    task = CodingTask(task_id="a", prompt=prompt, tests=tests)
    assert CodingTask.from_row(json.loads(json.dumps(task.to_row()))) == task


def test_tests_are_read_from_objects_as_well():
    assert from_json(json.loads(to_json(CASES))) == CASES


def test_tests_without_a_checker_are_written_as_before():
    assert json.loads(to_json(CASES)).keys() == {"type", "cases", "compare"}


def test_null_stands_for_an_absent_field():
    absent = {"compare": None, "checker": None, "checker_language": None}
    assert from_json(json.loads(to_json(CASES)) | absent) == replace(CASES, compare="tokens")


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"compare": "lines"}, "only one of the two may be given"),
        ({"compare": len}, "only one of the two may be given"),
        ({"checker": ""}, "checker: must be the source text"),
        ({"checker": lambda *_: True}, "Give a function as compare"),
        ({"checker_language": "java"}, "checker_language: must be one of python, cpp"),
        ({"checker": None, "checker_language": "cpp"}, "there is none"),
    ],
)
def test_fields_of_a_checker_that_do_not_fit_are_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        replace(CHECKED, **fields)


def test_only_function_tests_have_an_entry_point():
    assert CodingTask(task_id="a", prompt="p", tests=CALLS).entry_point == "f"
    assert CodingTask(task_id="a", prompt="p", tests=CASES).entry_point is None


@pytest.mark.parametrize(
    ("tests", "field"),
    [
        ("{", "tests: malformed JSON"),
        ("[]", "tests: must be a JSON object"),
        ("{}", "tests.type"),
        ('{"type": "stdio"}', "tests.cases"),
        ('{"type": "stdio", "cases": []}', "at least one test"),
        ('{"type": "stdio", "cases": [{"input": "1"}]}', r"tests.cases\[0\].output"),
        ('{"type": "stdio", "cases": [{"input": "1", "output": "1"}], "compare": "eyes"}', "compare"),
        ('{"type": "stdio", "cases": [{"input": "1", "output": "1"}], "checker": 1}', "checker: must be the source"),
        ('{"type": "function"}', "tests.code"),
        ('{"type": "function", "code": " "}', "at least one test"),
        ('{"type": "function", "code": "assert f(1)", "run": "fast"}', "run"),
    ],
)
def test_malformed_tests_name_the_field(tests, field):
    with pytest.raises(ValueError, match=field):
        CodingTask.from_row({"task_id": "a", "prompt": "p", "tests": tests})


@pytest.mark.parametrize("prompt", ["", [], None, 3, ["hi"], [{"role": "user"}]])
def test_a_prompt_is_text_or_messages(prompt):
    with pytest.raises(ValueError, match="prompt"):
        CodingTask(task_id="a", prompt=prompt, tests=CALLS)


@pytest.mark.parametrize("column", ["task_id", "prompt", "tests"])
def test_a_missing_column_is_named(column):
    row = CodingTask(task_id="a", prompt="p", tests=CALLS).to_row()
    with pytest.raises(ValueError, match=f"^{column}: required"):
        CodingTask.from_row({**row, column: None})


KNOWN = dict(
    source="mine", difficulty="easy", cpu_seconds=1.5, reference="def f(x): return 2", stop=("\ndef ", "é"),
    preamble="import math",
)  # fmt: skip


def test_what_else_is_known_of_a_task_comes_back_too():
    task = CodingTask(task_id="a", prompt="p", tests=CALLS, **KNOWN)
    row = json.loads(json.dumps(task.to_row()))
    assert set(row) == {"task_id", "prompt", "tests", *KNOWN}
    assert CodingTask.from_row(row) == task
    bare = CodingTask(task_id="b", prompt="p", tests=CALLS)
    assert set(bare.to_row()) == {"task_id", "prompt", "tests"}


@pytest.mark.parametrize("order", [1, -1])
def test_rows_of_different_tasks_have_the_same_columns(order):
    datasets = pytest.importorskip("datasets")
    bare, full = (
        CodingTask(task_id=name, prompt="p", tests=CALLS, **more) for name, more in (("a", {}), ("b", KNOWN))
    )
    tasks = [bare, full][::order]
    table = datasets.Dataset.from_list(task_rows(tasks))
    assert [CodingTask.from_row(row) for row in table] == tasks
    assert set(task_rows([bare])[0]) == {"task_id", "prompt", "tests"}
    assert task_rows([]) == []


@pytest.mark.parametrize("seconds", [0, -1, float("nan"), float("inf"), True, "2"])
def test_cpu_seconds_of_a_task_are_a_number_above_zero(seconds):
    with pytest.raises(ValueError, match=r"^cpu_seconds: "):
        CodingTask(task_id="a", prompt="p", tests=CALLS, cpu_seconds=seconds)


@pytest.mark.parametrize("name", ["source", "difficulty", "reference", "preamble"])
def test_what_is_known_of_a_task_is_text(name):
    for value in ("", 3):
        with pytest.raises(ValueError, match=rf"^{name}: "):
            CodingTask(task_id="a", prompt="p", tests=CALLS, **{name: value})


def test_stops_are_a_tuple_also_when_they_come_as_a_list():
    task = CodingTask(task_id="a", prompt="p", tests=CALLS, stop=["\ndef ", "\nclass "])
    assert task.stop == ("\ndef ", "\nclass ")
    assert hash(task.stop)
    assert CodingTask(task_id="a", prompt="p", tests=CALLS).stop == ()
    assert CodingTask.from_row({**task.to_row(), "stop": None}).stop == ()


def test_one_text_for_stops_is_refused_with_the_remedy():
    with pytest.raises(ValueError, match=r"^stop: a list of texts is required; got '# end'. Write \['# end'\]$"):
        CodingTask(task_id="a", prompt="p", tests=CALLS, stop="# end")


@pytest.mark.parametrize("stop", [("",), ("a", ""), (3,), 3, {"a": "b"}])
def test_stops_are_texts_that_hold_something(stop):
    with pytest.raises(ValueError, match=r"^stop: must hold non-empty texts alone; got "):
        CodingTask(task_id="a", prompt="p", tests=CALLS, stop=stop)
