"""Agreement with the graders of the benchmarks: the imports that they supply, and their comparison of results."""

import json
from dataclasses import replace

import pytest

from tests.support.benchmark_rows import HALF, ROWS
from trl_pper import Judge, load_tasks
from trl_pper.judge.worker.plan import plan_tests
from trl_pper.tasks.formats.fields import APPS_PREAMBLE
from trl_pper.tasks.syntax import with_preamble


@pytest.fixture(scope="module")
def judge():
    with Judge(workers=1) as judge:
        yield judge


def lcb_row(cases, **changes):
    tests = [{"input": json.dumps(given), "output": out, "testtype": "functional"} for given, out in cases]
    return {**ROWS["live_code_bench calls"][0], "starter_code": "", "public_test_cases": json.dumps(tests), **changes}


def apps_row(cases):
    held = {"fn_name": "f", "inputs": [[given] for given, _ in cases], "outputs": [out for _, out in cases]}
    return {**ROWS["apps calls"][0], "starter_code": "", "input_output": json.dumps(held)}


def rates(judge, row, programs):
    [task] = load_tasks([row])
    plan = plan_tests(task.tests.code, setup=task.tests.setup, entry_point=task.entry_point)
    assert plan.separable is not None, plan.reason
    return [verdict.pass_rate for verdict in judge.run([(task, programs)])[0]]


STDIN = "x = sum(map(int, stdin.read().split()))\n"
LCB_LINES = [
    "print(x if gcd(4, 6) == 2 and inf > 1 and datetime.datetime.min < datetime.datetime.max else 0)",
    "print(x if sub(3, 1) == 2 and abs(pow(2, 3, 5)) == 3 and bisect_left([1], 1) == 0 else 0)",
    "print(x if random.random() < 1 and sys.getrecursionlimit() == 50000 and open is builtins.open else 0)",
    "h = []; heappush(h, x); print(h[0] if Counter(ascii_lowercase)['a'] and deque([1]) else 0)",
    "@lru_cache(None)\ndef f(a: Optional[int]) -> List[int]: return loads(dumps([a]))\nprint(f(x)[0])",
]


@pytest.mark.parametrize("line", LCB_LINES)
def test_live_code_bench_programs_have_its_graders_imports(judge, line):
    [task] = load_tasks([ROWS["live_code_bench"][0]])
    [[verdict]] = judge.run([(task, [STDIN + line])])
    assert verdict.accepted, verdict.message


APPS_LINES = [
    "print(x if sqrt(4) == 2 and heapq.nlargest(1, [x]) and math.floor(1.5) == 1 else 0)",
    "print(x if defaultdict(int)[0] == 0 and list(accumulate([1])) and fractions.Fraction(1) else 0)",
    "print(int(np.sum([x])))",
    "def f(a: List[int]) -> Tuple[int]: return a\nprint(f(x))",
]


@pytest.mark.parametrize("line", APPS_LINES)
def test_apps_programs_have_its_graders_imports(judge, line):
    [task] = load_tasks([ROWS["apps"][0]])
    [[verdict]] = judge.run([(task, [STDIN.replace("stdin", "sys.stdin") + line])])
    assert verdict.accepted, verdict.message


def test_only_programs_that_name_numpy_import_it():
    assert "numpy" in with_preamble("print(np.pi)", APPS_PREAMBLE)
    assert "numpy" in with_preamble("print(numpy)", APPS_PREAMBLE)
    bare = with_preamble("print(snp)", APPS_PREAMBLE)
    assert "numpy" not in bare
    assert bare.endswith("Union\nprint(snp)")
    # The rest of a preamble may need it.
    assert with_preamble("f(1)", "import numpy as np\nf = np.abs\n").startswith("import numpy")


NEAR = "def f(x): return {}"


@pytest.mark.parametrize(
    ("expected", "right", "wrong"),
    [
        ("0.30000000000000004", "0.3", "0.3001"),
        ("[[0.33333, 1.0]]", "[(1 / 3, 1)]", "[(1 / 3, 1.1)]"),
        ('{"a": [1e9]}', "{'a': [1000000001.0]}", "{'b': [1e9]}"),
        ("0.0", "1e-9", "1e-6"),
        ("3", "3.0", "3.00000001"),
        ("Infinity", "float('inf')", "1e308"),
        ("-Infinity", "-float('inf')", "float('inf')"),
        ("2.0", "2", "10 ** 400"),
        ("2.0", "2", "'2.0'"),
        ("[1, 2]", "(1, 2)", "{1, 2}"),
        ("[1, 2]", "[1, 2]", "np.array([1, 2])"),
        ("3", "3", "np.array([3])"),
        ("null", "None", "False"),
        ('"a"', "'a'", "['a']"),
        ('{"1": "a"}', "{1: 'a'}", "{1: 'a', '2': 'b'}"),
    ],
)
def test_results_are_compared_as_the_graders_do(judge, expected, right, wrong):
    programs = ["import numpy as np\n" + NEAR.format(value) for value in (right, wrong)]
    assert rates(judge, lcb_row([(1, expected)]), programs) == [1.0, 0.0]
    assert rates(judge, apps_row([(1, json.loads(expected))]), programs) == [1.0, 0.0]
    # Only APPS wraps expected values in a list.
    wrapped = rates(judge, apps_row([(1, [json.loads(expected)])]), programs)
    assert wrapped == [1.0, 0.0] if wrong != "['a']" else [1.0, 1.0]


def test_not_a_number_equals_itself_alone(judge):
    for row in (lcb_row([(1, "NaN"), (2, "[NaN]")]), apps_row([(1, float("nan")), (2, [float("nan")])])):
        [task] = load_tasks([row])
        nan, zero = "def f(x): return float('nan') if x == 1 else [float('nan')]", "def f(x): return 0.0"
        assert [one.pass_rate for one in judge.run([(task, [nan, zero])])[0]] == [1.0, 0.0]


def test_objects_of_a_program_do_not_pass_for_numbers(judge):
    forged = "class A(float):\n    __eq__ = __le__ = __ge__ = lambda self, other: True\n    __hash__ = None\n"
    plain = forged.replace("(float)", "")
    programs = [text + "def f(x): return A()" for text in (forged, plain)]
    assert rates(judge, lcb_row([(1, "2.5"), (2, "3")]), programs) == [0.0, 0.0]


REFERENCE_LOOP = """
def ref_func(values):
    return sum(values)

def assertion(out, exp, atol):
    assert out == exp, "wrong"

def check(candidate):
    inputs = [[[4, 1]], [[3]]]
    for i, inp in enumerate(inputs):
        assertion(candidate(*inp), ref_func(*inp), 0)
"""


def test_a_reference_does_not_see_what_programs_change(judge):
    [task] = load_tasks([{**HALF, "canonical_solution": "    return x\n", "test": REFERENCE_LOOP}])
    cheat = "def half(x):\n    x.clear()\n    return 0"
    for run in ("auto", "shared"):
        asked = replace(task, tests=replace(task.tests, run=run))
        right, wrong = judge.run([(asked, ["def half(x): return sum(x)", cheat])])[0]
        assert (right.pass_rate, wrong.pass_rate) == (1.0, 0.0)


def test_no_number_is_near_infinity(judge):
    row = {
        **HALF,
        "canonical_solution": "    return float(x) / 2\n",
        "base_input": [[1]],
        "plus_input": [[float("inf")]],
    }
    [task] = load_tasks([{**row, "atol": 1e-6}])
    right, wrong = judge.run([(task, ["def half(x): return x / 2", "def half(x): return 0.5"])])[0]
    assert (right.pass_rate, wrong.pass_rate) == (1.0, 0.5)


def test_rows_may_hold_python_literals_where_json_is_asked_for(judge):
    info = {
        "language": "python",
        "test_cases": [{"input": "1", "output": "2", "type": "stdin_stdout", "fn_name": None}],
    }
    row = {"problem_id": "p", "prompt": "Add one.", "verification_info": str(info)}
    [task] = load_tasks([row])
    assert judge.run([(task, ["print(int(input()) + 1)"])])[0][0].accepted
    [again] = load_tasks([{**row, "verification_info": {**info, "test_cases": str(info["test_cases"])}}])
    assert again.tests == task.tests
    for text in ("{'a': open('x')}", "{'a'", "nothing", "{1, 2}", "[" * 5000):
        with pytest.raises(ValueError, match="verification_info: malformed JSON"):
            load_tasks([{**row, "verification_info": text}])


def test_the_first_solution_that_parses_is_the_reference():
    old, new = "print 3", "print(3)"
    [task] = load_tasks([{**ROWS["apps"][0], "solutions": json.dumps([old, None, new])}])
    assert task.reference == new
    solutions = {"language": [3, 1, 3], "solution": [old, new + " # 2", new]}
    [task] = load_tasks([{**ROWS["code_contests"][0], "solutions": solutions}])
    assert task.reference == new


def test_rows_of_taco_are_read_as_those_of_apps(judge):
    row = {
        "question": "Double.",
        "solutions": json.dumps(["print 2", "def double(x):\n    return 2 * x\n"]),
        "starter_code": "#User function Template for python3\n",
        "input_output": json.dumps({"fn_name": "double", "inputs": [[2], [0.1]], "outputs": [4, [0.2]]}),
        "difficulty": "EASY",
        "name": None,
        "url": "https://example.org/double",
        "time_limit": "1.0 seconds",
    }
    [task] = load_tasks([row])
    assert (task.task_id, task.difficulty) == (row["url"], "EASY")
    [[verdict]] = judge.run([(task, [task.reference])])
    assert (verdict.accepted, verdict.total) == (True, 2)


@pytest.mark.parametrize("stream", ["stdin", ""])
def test_streams_are_no_files_of_code_contests(stream):
    row = ROWS["code_contests"][0]
    assert load_tasks([{**row, "input_file": stream}]) == load_tasks([row])
    with pytest.raises(ValueError, match=r"output_file: programs use the file 'out\.txt'"):
        load_tasks([{**row, "output_file": "out.txt"}])
