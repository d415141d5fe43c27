import json

import pytest

from trl_pper.task import CodingTask, FunctionTests, StdioCase, StdioTests
from trl_pper.task import tests_from_json as from_json
from trl_pper.task import tests_to_json as to_json

CASES = StdioTests(cases=[StdioCase(input="1\n", output="2\n"), StdioCase(input="", output="é")], compare="lines")
CALLS = FunctionTests(code="assert f(1) == 2", entry_point="f", setup="import math")


@pytest.mark.parametrize("tests", [CASES, CALLS, FunctionTests(code="assert f()")])
@pytest.mark.parametrize("prompt", ["do it", [{"role": "user", "content": "do it"}]])
def test_native_rows_go_through_json_and_come_back(tests, prompt):
    task = CodingTask(task_id="a", prompt=prompt, tests=tests)
    assert CodingTask.from_row(json.loads(json.dumps(task.to_row()))) == task


def test_tests_are_read_from_objects_as_well():
    assert from_json(json.loads(to_json(CASES))) == CASES


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
        ('{"type": "function"}', "tests.code"),
        ('{"type": "function", "code": "f(1)"}', "at least one test"),
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
