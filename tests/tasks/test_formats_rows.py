"""What becomes of a row of each format, in each of its editions, up to the verdicts of programs."""

import base64
import json
import pickle
import zlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.benchmark_rows import ROWS, SUM, packed
from trl_pper import Judge
from trl_pper.tasks.formats.test_code import literal
from trl_pper.tasks.loading import FORMATS, load_tasks, match_task_id, write_tasks
from trl_pper.tasks.task import CodingTask, StdioTests
from trl_pper.tasks.tests import count_tests

EDITIONS = sorted(ROWS)


def task_of(edition, **changes) -> CodingTask:
    [task] = load_tasks([{**ROWS[edition][0], **changes}], format=edition.split()[0])
    return task


def number_of_tests(task) -> int:
    return len(task.tests.cases) if isinstance(task.tests, StdioTests) else count_tests(task.tests.code)


@pytest.fixture(scope="module")
def judge():
    with Judge(workers=1) as judge:
        yield judge


def test_every_format_is_tried():
    assert {edition.split()[0] for edition in EDITIONS} == set(FORMATS)


@pytest.mark.parametrize("edition", EDITIONS)
def test_the_format_is_told_from_the_columns(edition):
    row = ROWS[edition][0]
    assert load_tasks([row]) == load_tasks([row], format=edition.split()[0])


@pytest.mark.parametrize("edition", EDITIONS)
def test_right_programs_pass_and_others_fail_some_tests(judge, edition):
    _, tests, right, wrong = ROWS[edition]
    task = task_of(edition)
    assert number_of_tests(task) == tests
    good, bad = judge.run([(task, [right, wrong])])[0]
    assert (good.pass_rate, len(good.outcomes), good.message) == (1.0, tests, "")
    assert 0 < bad.pass_rate < 1
    if task.reference is not None:
        assert judge.run([(task, [task.reference])])[0][0].accepted


@pytest.mark.parametrize("suffix", [".jsonl", ".parquet"])
def test_tasks_of_every_format_come_back_equal_from_native_rows(tmp_path, suffix):
    tasks = [task for edition in EDITIONS for task in [task_of(edition, **_name(edition))]]
    if suffix == ".parquet":
        tasks = [task for task in tasks if isinstance(task.prompt, str)]
    write_tasks(tmp_path / f"tasks{suffix}", tasks)
    assert load_tasks(tmp_path / f"tasks{suffix}") == tasks


def _name(edition):
    key = {"apps": "problem_id", "code_contests": "name", "open_r1": "problem_id", "live_code_bench": "question_id"}
    return {key.get(edition.split()[0], "task_id"): edition}


def test_files_named_after_the_streams_are_the_streams():
    assert task_of("code_contests", input_file="stdin", output_file="stdout") == task_of("code_contests")


def test_a_checker_that_is_a_script_refuses_by_score_or_silence(judge):
    for script, rate in (("print('1.0')", 1.0), ("print('note')\nprint(0)", 0.0), ("print(0.5)\nexit(1)", 1.0)):
        task = task_of("open_r1 checker", generated_checker=script)
        assert judge.run([(task, ["print(1)"])])[0][0].pass_rate == rate
    verdict = judge.run([(task_of("open_r1 checker", generated_checker="pass"), ["print(1)"])])[0][0]
    assert verdict.pass_rate is None
    assert "the checker printed no score" in verdict.message


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


@settings(deadline=None)
@given(values)
def test_values_survive_being_written_as_code(value):
    assert eval(literal(value)) == value


@settings(deadline=None)
@given(st.lists(st.tuples(values, values), min_size=1, max_size=4), st.booleans())
def test_any_calls_of_apps_come_back_equal_from_native_rows(cases, wrapped):
    row = {
        **ROWS["apps calls"][0],
        "input_output": json.dumps(
            {
                "fn_name": "f",
                "inputs": [[given] for given, _ in cases],
                "outputs": [[out] if wrapped else out for _, out in cases],
            }
        ),
    }
    [task] = load_tasks([row])
    assert CodingTask.from_row(json.loads(json.dumps(task.to_row()))) == task
    assert count_tests(task.tests.code) == len(cases)


def test_long_numbers_stay_whole(judge):
    """The tests of APPS hold numbers that Python refuses to convert to or from decimal digits."""
    digits = "-" + "1234567890" * 500
    pairs = f'{{"inputs": ["x", {digits}], "outputs": [{digits}, [[{digits}]]]}}'
    task = task_of("apps", input_output=pairs)
    assert [(case.input, case.output) for case in task.tests.cases] == [("x", digits), (digits, digits)]
    calls = f'{{"fn_name": "f", "inputs": [[{digits}], [1]], "outputs": [{digits}, 2]}}'
    task = task_of("apps calls", input_output=calls, starter_code="")
    [[same, other]] = judge.run([(task, ["def f(x): return x or 0", "def f(x): return x + 1"])])
    assert (same.pass_rate, other.pass_rate) == (0.5, 0.5)
    assert [outcome.value for outcome in same.outcomes] == ["passed", "wrong_answer"]


def test_lines_words_and_plain_values_of_apps_become_text():
    assert [(case.input, case.output) for case in task_of("apps").tests.cases] == [
        ("1 2\n", "3\n"),
        ("3\n4", "7"),
        ("5 6\n7", "18"),
    ]


def test_the_prompt_of_apps_says_how_the_program_is_called():
    assert task_of("apps").prompt == "\nQUESTION:\nAdd.\n\nUse Standard Input format\n\nANSWER:\n"
    prompt = task_of("apps calls").prompt
    assert "Use Call-Based format" in prompt
    assert "from typing import List\n\nclass Solution:\n    def f(self, x: List[int]) -> int:" in prompt


def test_ids_and_what_is_known_of_tasks():
    known = {e: (t.task_id, t.difficulty, t.source, t.cpu_seconds) for e in EDITIONS for t in [task_of(e)]}
    assert known["apps"] == ("APPS/7", "interview", None, None)
    assert known["code_contests"] == ("1_A. Add", "A", None, 1.5)
    assert known["open_r1"] == ("p1", "EASY", "apps", None)
    assert known["open_r1 checker"] == ("p3", "800", None, 2.0)
    assert known["live_code_bench calls"] == ("99", "hard", "leetcode", None)
    assert known["native"] == ("add", "easy", None, 2.0)
    assert task_of("code_contests").reference == SUM
    assert task_of("apps").reference == SUM
    assert task_of("humaneval").reference == ROWS["humaneval"][0]["prompt"] + "    return x / 2\n"


def test_code_contests_tests_stay_public_private_generated():
    private = {"input": ["8"] * 300, "output": ["8"] * 300}
    cases = task_of("code_contests", private_tests=private).tests.cases
    assert [case.input for case in cases] == ["1 2\n", *["8"] * 300, "3 4\n", "5\n"]


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"time_limit": None}, None),
        ({"time_limit": 2}, 2.0),
        ({"time_limit": {"seconds": 0, "nanos": 0}}, None),
        ({"time_limit": {"seconds": 3, "nanos": None}}, 3.0),
    ],
)
def test_a_time_limit_is_cpu_seconds(changes, expected):
    assert task_of("code_contests", **changes).cpu_seconds == expected


def test_code_contests_is_read_in_other_layouts_as_well():
    pairs = [{"input": "1 2", "output": "3"}]
    tests = [{"input": {"stdin": "1 2"}, "output": {"stdout": "3"}}]
    rows = [
        {"name": "a", "description": "Add.", "tests": pairs, "solution": SUM},
        {"id": 3, "content": "Add.", "test": json.dumps(tests), "labels": '{"name": "b", "difficulty": "HARD"}'},
        {"name": "c", "description": "Add.", "public_tests": pairs, "difficulty": 0,
         "solutions": [{"language": "PYTHON3", "solution": SUM}]},
    ]  # fmt: skip
    tasks = load_tasks(rows)
    assert [task.task_id for task in tasks] == ["a", "b", "c"]
    assert len({task.tests for task in tasks}) == 1
    assert [task.difficulty for task in tasks] == [None, "HARD", None]
    assert [task.reference for task in tasks] == [SUM, None, SUM]


def test_a_function_without_a_class_is_called_by_its_name():
    assert task_of("apps calls", starter_code="def f(x):").entry_point == "f"
    assert task_of("apps calls").entry_point == "Solution().f"
    solution = json.dumps(["class Solution:\n    def f(self, x): return x"])
    assert task_of("apps calls", starter_code="", solutions=solution).entry_point == "Solution().f"


class Exploit:
    def __reduce__(self):
        return (print, ("unpickled",))


@pytest.mark.parametrize(
    ("private", "message"),
    [
        (base64.b64encode(zlib.compress(pickle.dumps(Exploit()))).decode(), "only plain data"),
        (base64.b64encode(zlib.compress(pickle.dumps(json.dumps([]))) [:-5]).decode(), "cut off"),
        (base64.b64encode(b"no zlib").decode(), "got neither"),
        (base64.b64encode(zlib.compress(b"no pickle")).decode(), "got neither"),
        ("???", "got neither"),
        (packed({"a": 1}), "must be a list"),
    ],
)  # fmt: skip
def test_private_tests_are_unpickled_into_plain_data_alone(private, message, capsys):
    with pytest.raises(ValueError, match=f"row 1: private_test_cases: .*{message}"):
        task_of("live_code_bench", private_test_cases=private)
    assert capsys.readouterr().out == ""


CASES = ROWS["open_r1"][0]["verification_info"]["test_cases"]


@pytest.mark.parametrize(
    ("edition", "changes", "message"),
    [
        ("apps", {"input_output": ""}, "input_output: required"),
        ("apps", {"input_output": "{"}, "input_output: malformed JSON"),
        ("apps", {"input_output": "[]"}, "input_output: must be an object"),
        ("apps", {"input_output": '{"inputs": [], "outputs": []}'}, "input_output: a task needs at least one test"),
        ("apps", {"input_output": '{"inputs": ["1"], "outputs": []}'}, "input_output: each input needs an output"),
        (
            "apps",
            {"input_output": '{"inputs": [{"a": 1}], "outputs": ["1"]}'},
            r"input_output\[0\]\.input: must be text",
        ),
        (
            "apps calls",
            {"input_output": '{"fn_name": "f", "inputs": [1], "outputs": [1]}'},
            r"inputs\[0\]: must be a list",
        ),
        ("apps calls", {"input_output": '{"fn_name": "f", "inputs": [], "outputs": []}'}, "inputs: a task needs"),
        ("apps calls", {"input_output": '{"fn_name": "f(", "inputs": [[]], "outputs": [1]}'}, "fn_name: must be"),
        ("apps", {"question": " "}, "question: required"),
        ("apps", {"problem_id": None}, "problem_id: required"),
        ("code_contests", {"public_tests": None, "generated_tests": None}, "tests: a task needs at least one test"),
        ("code_contests", {"public_tests": [{"input": "1"}]}, r"public_tests\[0\]\.output: required"),
        ("code_contests", {"public_tests": {"input": ["1"], "output": []}}, "public_tests: each input"),
        ("code_contests", {"input_file": "input.txt"}, "input_file: programs use the file 'input.txt'"),
        ("code_contests", {"input_file": "stdin", "output_file": "out.txt"}, "output_file: programs use the file"),
        ("code_contests", {"difficulty": 99}, "difficulty: must be in 0"),
        (
            "open_r1",
            {"verification_info": {"language": "cpp", "test_cases": CASES}},
            r"language: must be python; got 'cpp'",
        ),
        ("open_r1", {"verification_info": {"test_cases": []}}, "test_cases: a task needs at least one test"),
        ("open_r1", {"verification_info": {"test_cases": None}}, "test_cases: must be a list"),
        (
            "open_r1",
            {"verification_info": {"test_cases": [*CASES, {"fn_name": "f", "input": "", "output": ""}]}},
            "the type of all",
        ),
        ("open_r1", {"verification_info": {"test_cases": [{"input": "1"}]}}, r"test_cases\[0\]\.output: required"),
        ("open_r1", {"prompt": None}, "prompt: required"),
        ("open_r1 checker", {"language": "cpp"}, "language: must be python; got 'cpp'"),
        ("open_r1 checker", {"input_mode": "file"}, "input_mode: must be stdio"),
        ("open_r1 checker", {"official_tests": []}, "official_tests: a task needs at least one test"),
        (
            "live_code_bench",
            {"public_test_cases": "[]", "private_test_cases": None},
            "test_cases: a task needs at least",
        ),
        ("live_code_bench calls", {"metadata": "{}"}, r"metadata\.func_name: required"),
        (
            "live_code_bench calls",
            {"private_test_cases": json.dumps([{"input": "1", "output": "1", "testtype": "stdin"}])},
            "testtype of all",
        ),
        ("humaneval evalplus", {"base_input": [], "plus_input": None}, "base_input: a task needs at least one test"),
        ("humaneval evalplus", {"base_input": [3]}, r"base_input\[0\]: must be a list"),
        ("humaneval evalplus", {"canonical_solution": "    return ("}, "canonical_solution: must be Python"),
        ("humaneval evalplus", {"entry_point": "other"}, "canonical_solution: must define the function other"),
        ("humaneval evalplus", {"task_id": "Mbpp/2"}, "base_input: .*evalplus/mbppplus"),
        ("native", {"cpu_seconds": -1}, "cpu_seconds: must be"),
    ],
)
def test_a_malformed_row_names_the_field(edition, changes, message):
    with pytest.raises(ValueError, match=f"row 1: .*{message}"):
        task_of(edition, **changes)


def test_a_script_of_evalplus_that_has_no_loop_is_taken_as_it_is():
    script = "def assertion(out, exp):\n    assert out == exp\nassertion(half(4), 2)\nassertion(half(3), 1.5)\n"
    task = task_of("mbpp plus", test=script)
    assert task.tests.code == script


def test_an_evalplus_script_without_asserts_gives_way_to_asserts():
    task = task_of("mbpp plus", test="def assertion(out, exp, atol):\n    out == exp\n" + "assertion(half(4), 2, 0)\n")
    assert task.tests.code == "assert half(4) == 2"


def test_a_script_of_evalplus_may_bring_its_own_reference(judge):
    script = (
        "def assertion(out, exp, atol):\n    assert out == exp\n\ndef ref_func(x): return x / 2\n"
        "inputs = [[4], [3]]\nfor i, inp in enumerate(inputs):\n    assertion(half(*inp), ref_func(*inp), 0)\n"
    )
    task = task_of("mbpp plus", test=script)
    [[good, bad]] = judge.run([(task, ["def half(x): return x / 2", "def half(x): return 2"])])
    assert (good.pass_rate, bad.pass_rate) == (1.0, 0.5)


def test_a_zero_of_a_polynomial_is_any_zero(judge):
    row = {
        "task_id": "HumanEval/32", "entry_point": "find_zero", "atol": 1e-4, "base_input": [[[-4, 0, 1]]],
        "prompt": "def poly(xs, x):\n    return sum(c * x ** i for i, c in enumerate(xs))\n\n\ndef find_zero(xs):\n",
        "canonical_solution": "    return 2.0\n",
    }  # fmt: skip
    [task] = load_tasks([row])
    [verdicts] = judge.run([(task, [f"def find_zero(xs): return {x}" for x in (2.0, -2.0, 1.0)])])
    assert [verdict.pass_rate for verdict in verdicts] == [1.0, 1.0, 0.0]


def test_rows_of_programs_find_the_tasks_of_apps():
    for raw in (7, "7", "0007", "apps/7", "APPS/7"):
        assert match_task_id(raw, {"APPS/7", "MBPP/8"}) == "APPS/7"
    assert match_task_id(7, {"APPS/7", "MBPP/7"}) is None
    assert match_task_id("\u0667", {"APPS/7"}) is None


@pytest.mark.parametrize("edition", EDITIONS)
@settings(deadline=None)
@given(st.data())
def test_whatever_a_field_holds_a_row_is_read_or_malformed(edition, data):
    row = ROWS[edition][0]
    field = data.draw(st.sampled_from(sorted(row)))
    value = data.draw(
        values | values.map(json.dumps) | st.sampled_from(["{}", "[]", "[{}]", "\0", "\ud800", b"\xff", -1])
    )
    try:
        [task] = load_tasks([{**row, field: value}], format=edition.split()[0])
    except ValueError as error:
        assert str(error).startswith(("row 1: ", "source: "))  # noqa: PT017
    else:
        load_tasks([task], max_tests=1)
        assert CodingTask.from_row(json.loads(json.dumps(task.to_row()))) == task


@pytest.mark.parametrize(
    "edition",
    [
        edition
        for edition in EDITIONS
        if edition.split()[0] in ("apps", "open_r1", "code_contests") and edition != "open_r1 checker"
    ],
)
@settings(deadline=None)
@given(st.data())
def test_whatever_its_tests_hold_a_row_is_read_or_malformed(edition, data):
    row = ROWS[edition][0]
    field = {"apps": "input_output", "open_r1": "verification_info", "code_contests": "public_tests"}[
        edition.split()[0]
    ]
    inside = dict(json.loads(row[field]) if isinstance(row[field], str) else row[field])
    inside[data.draw(st.sampled_from(sorted(inside)))] = data.draw(values)
    try:
        load_tasks([{**row, field: inside}])
    except ValueError as error:
        assert str(error).startswith("row 1: ")  # noqa: PT017


LEETCODE = {
    "task_id": "two-sum",
    "difficulty": "Easy",
    "problem_description": "Find the most. ",
    "starter_code": "class Solution:\n    def most(self, numbers: List[int]) -> int:\n        ",
    "prompt": "from typing import *\nfrom functools import *\n\nclass Node:\n    pass\n",
    "completion": "class Solution:\n    def most(self, numbers: List[int]):\n        return reduce(max, numbers)\n",
    "entry_point": "Solution().most",
    "test": "def check(candidate):\n    assert candidate(numbers=[1, 2]) == 2\n    assert candidate([4]) == 4\n",
    "query": "You are an expert.",
}  # fmt: skip


def test_a_leetcode_row_asks_its_question_with_its_imports(judge):
    [task] = load_tasks([LEETCODE])
    assert task.prompt == (
        "\nQUESTION:\nFind the most.\n\nfrom typing import List\n\nclass Solution:\n"
        "    def most(self, numbers: List[int]) -> int:\n        \nUse Call-Based format\n\nANSWER:\n"
    )
    assert (task.preamble, task.difficulty, task.reference) == (LEETCODE["prompt"], "Easy", LEETCODE["completion"])
    assert judge.run([(task, [task.reference])])[0][0].accepted
    [bare] = load_tasks([{**LEETCODE, "completion": None, "starter_code": ""}])
    assert (bare.reference, "Solution" in bare.prompt) == (None, False)


@pytest.mark.parametrize("edition", [name for name in EDITIONS if "calls" in name])
def test_called_functions_need_no_import_from_typing(judge, edition):
    task = task_of(edition)
    assert task.entry_point is not None
    _, _, right, _ = ROWS[edition]
    annotated = right.replace("):", ") -> List[Optional[Dict]]:", 1)
    assert annotated != right
    assert judge.run([(task, [annotated])])[0][0].accepted


STOPS = {
    "humaneval": ("\nclass ", "\n# ", "\nif __name__", "\nprint(", "\nassert ", "\ndef test", "\ndef main("),
    "mbpp": ('\n"""', "\nif __name__", "\nprint(", "\nassert ", "\ndef test", "\ndef main("),
    "apps": ("\nQUESTION:",),
    "code_contests": ("\nQUESTION:",),
    "live_code_bench": ("\nQUESTION:",),
    "classeval": ("\nQUESTION:",),
    "big_code_bench": ("\nclass ", "\n# ", "\nif __name__", "\nprint("),
    "open_r1": (),
    "native": (),
}


@pytest.mark.parametrize("edition", EDITIONS)
def test_continued_prompts_say_where_something_else_begins(edition):
    stop, expected = task_of(edition).stop, STOPS[edition.split()[0]]
    assert set(expected) <= set(stop)
    assert bool(stop) == bool(expected)
    # These begin helpers of the function, or the function once more.
    assert not {"\ndef ", "\nimport ", "\nfrom ", "\n```"} & set(stop)


@pytest.mark.parametrize(
    ("name", "stop"), [("check", "\ndef check("), ("main", "\ndef main("), ("tester", "\ndef test")]
)
def test_the_function_asked_for_is_no_stop(name, stop):
    prompt = f'def {name}(x):\n    """ Halve. """\n'
    assert stop not in task_of("humaneval", entry_point=name, prompt=prompt).stop
    assert stop in task_of("humaneval").stop
    row = {"task_id": 1, "text": "Double.", "test_list": [f"assert {name}(2) == 4"]}
    [task] = load_tasks([row])
    assert stop not in task.stop
    assert "\n# " not in task.stop


def test_mbpp_imports_precede_programs_and_other_setup_the_tests(judge):
    row = {"task_id": 1, "text": "A root.", "test_list": ["assert root(4) == 2"]}
    [helped] = load_tasks([{**row, "test_setup_code": "import math"}])
    assert helped.preamble == "import math"
    assert judge.run([(helped, ["def root(x): return math.sqrt(x)"])])[0][0].accepted
    for setup in ("import math\nfour = 4", "x = Pair(1, 2)", "", "("):
        [task] = load_tasks([{**row, "test_setup_code": setup}])
        assert task.preamble is None
