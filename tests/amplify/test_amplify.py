"""Adding tests to tasks: which inputs, what is dropped and why, and that the reference passes what comes out."""

import random
from dataclasses import replace

import pytest

from trl_pper import CodingTask, FunctionTests, Judge, Limits, StdioTests, amplify_tasks
from trl_pper.amplify import tasks as room
from trl_pper.amplify.calls import NEAR, test_calls
from trl_pper.amplify.tasks import expose
from trl_pper.tasks.task import StdioCase

ECHO = "import sys\nprint(sum(map(int, sys.stdin.read().split()[1:])))\n"


@pytest.fixture(scope="module")
def judge():
    with Judge(workers=1, limits=Limits(cpu_seconds=2.0)) as judge:
        yield judge


def function_task(reference, code, entry_point="f", **others):
    tests = FunctionTests(entry_point=entry_point, code=code, setup=others.pop("setup", ""))
    return CodingTask(task_id=others.pop("task_id", "t"), prompt="p", tests=tests, reference=reference, **others)


def stdio_task(reference, *pairs, **others):
    cases = tuple(StdioCase(input=given, output=out) for given, out in pairs)
    return CodingTask(task_id="s", prompt="p", tests=StdioTests(cases=cases), reference=reference, **others)


DOUBLE = function_task(
    "def f(x): return 2 * x", "assert f(2) == 4\nassert f(0) == 0\nassert f(40) == 80", task_id="double"
)
LONGEST = function_task(
    "def f(words): return max(words, key=len)",
    "assert f(['a', 'bb', 'c']) == 'bb'\nassert f(['ccc', 'd']) == 'ccc'\nassert f(['e', 'ff', 'ggg', 'h']) == 'ggg'",
    task_id="longest",
)
SUM = stdio_task(ECHO, ("3\n1 2 3\n", "6\n"), ("2\n10 4\n", "14\n"), ("5\n1 1 1 1 9\n", "13\n"))


def amplify(judge, task, **options):
    [one] = amplify_tasks([task], judge, **options)
    return one


def arguments(one):
    return [tuple(call.arguments) for call in test_calls(one.added)]


def test_tests_are_added_and_the_reference_passes_old_and_new(judge):
    for task in (DOUBLE, LONGEST, SUM):
        one = amplify(judge, task, new_tests=7)
        assert (one.reason, one.added_tests) == ("", 7)
        [[verdict]] = judge.run([(one.task, [task.reference])])
        assert verdict.passed == verdict.total == 10
        assert replace(one.task, tests=task.tests) == task


def test_new_inputs_are_distinct_and_none_of_the_old_ones(judge):
    one = amplify(judge, DOUBLE)
    found = [given for (given,) in arguments(one)]
    assert len(set(found)) == len(found) == 20
    assert not {2, 0, 40} & set(found)
    assert all(type(given) is int and 0 <= given <= 40 for given in found)


def test_the_seed_decides_the_tests_whatever_the_other_tasks(judge):
    forward = amplify_tasks([DOUBLE, LONGEST, SUM], judge, new_tests=5, seed=3)
    backward = amplify_tasks([SUM, LONGEST, DOUBLE], judge, new_tests=5, seed=3)
    assert forward == backward[::-1]
    assert amplify(judge, LONGEST, new_tests=5, seed=4).added != forward[1].added
    # Two tasks that differ in their names alone do not share their inputs.
    assert amplify(judge, replace(LONGEST, task_id="other"), new_tests=5, seed=3).added != forward[1].added


@pytest.mark.parametrize(
    ("task", "reason"),
    [
        (replace(DOUBLE, reference=None), room.NO_REFERENCE),
        (replace(DOUBLE, reference="def f(x): return 3 * x"), room.FAILS_OWN_TESTS),
        (replace(DOUBLE, reference="def f(x): return ("), room.FAILS_OWN_TESTS),
        (function_task("def f(x): return x", "y = 4\nassert f(y) == 4"), "no test calls the function with literals"),
        (function_task("def f(x): return x", "assert f(True) == True\nassert f(False) == False"),
         "no new input follows the rules of the known ones"),
        (stdio_task("print(input())", ("a  b\n", "a  b\n")), "the inputs have no layout that is known"),
    ],
)  # fmt: skip
def test_a_task_that_cannot_be_given_tests_stays_as_it_is(judge, task, reason):
    one = amplify(judge, task)
    assert one.task is task
    assert (one.reason, one.added, one.added_tests) == (reason, None, 0)


def test_inputs_on_which_the_reference_raises_are_dropped(judge):
    task = function_task("def f(x):\n    assert x != 5\n    return x", "assert f(3) == 3\nassert f(9) == 9")
    one = amplify(judge, task)
    assert one.dropped == {"raises": 1}
    assert sorted(given for (given,) in arguments(one)) == [4, 6, 7, 8]


def test_inputs_that_take_too_long_are_dropped(judge):
    slow = "def f(x):\n    while x == 5: pass\n    return x"
    one = amplify(judge, function_task(slow, "assert f(3) == 3\nassert f(7) == 7", cpu_seconds=0.4))
    assert one.dropped == {"timeout": 1}
    assert sorted(given for (given,) in arguments(one)) == [4, 6]


def test_inputs_without_a_printed_answer_are_dropped(judge):
    task = stdio_task("n = int(input())\nif n != 5: print(n)", ("3\n", "3\n"), ("7\n", "7\n"))
    one = amplify(judge, task)
    assert one.dropped == {"prints nothing": 1}
    assert sorted(case.input for case in one.added.cases) == ["4\n", "6\n"]


@pytest.mark.parametrize(
    "body", ["[*set(x)]", "x + [str(random.random())]", "[str(id(x))] + x"], ids=["set order", "random", "address"]
)
def test_a_reference_that_answers_by_chance_is_no_reference(judge, body):
    # With words of one letter that sort themselves, the tests of the task do not notice.
    reference = f"import random\ndef f(x): return {body} if len(x) > 2 and x[0] > 'b' else x"
    code = "assert f(['a']) == ['a']\nassert f(['b', 'c', 'd', 'e', 'f', 'g']) == ['b', 'c', 'd', 'e', 'f', 'g']"
    one = amplify(judge, function_task(reference, code))
    assert one.reason == room.NOT_DETERMINISTIC
    assert one.added is None


def test_a_set_is_an_answer_whatever_its_order(judge):
    code = "assert f(['a', 'b']) == {'a', 'b'}\nassert f(['b', 'c', 'd']) == {'b', 'c', 'd'}"
    one = amplify(judge, function_task("def f(x): return set(x)", code))
    assert one.added_tests == 13
    assert "== {'" in one.added.code


@pytest.mark.parametrize(
    ("reference", "known"),
    [
        ("def f(x): return (x, [x], {x: {x}}, None, 'é\\n')", "(3, [3], {3: {3}}, None, 'é\\n')"),
        ("def f(x): return {'a': set(), 'b': ()}", "{'a': set(), 'b': ()}"),
        ("def f(x): return bytes([x])", "b'\\x03'"),
    ],
)
def test_answers_of_every_plain_type_are_written_down(judge, reference, known):
    task = function_task(reference, f"assert f(3) == {known}\nassert f(9) != 0")
    one = amplify(judge, replace(task, tests=replace(task.tests, code=f"assert f(3) == {known}\nassert f(9) == f(9)")))
    assert one.reason == "no new input follows the rules of the known ones"
    one = amplify(judge, replace(task, tests=replace(task.tests, code=f"assert f(3) == {known}\nassert f(9)")))
    assert one.added_tests == 5
    [[right, wrong]] = judge.run([(one.task, [reference, "def f(x): return x"])])
    assert right.accepted
    assert not wrong.accepted


@pytest.mark.parametrize("value", ["object()", "lambda: 1", "frozenset([x])", "float('nan')", "1j"])
def test_answers_without_a_literal_are_dropped(judge, value):
    task = function_task(f"def f(x): return x if x in (3, 9) else {value}", "assert f(3) == 3\nassert f(9) == 9")
    one = amplify(judge, task)
    assert one.reason == room.NOTHING_KEPT
    assert one.tried == sum(one.dropped.values()) == 5


def test_answers_of_a_kind_that_no_test_knows_are_dropped(judge):
    task = function_task("def f(x): return x if x > 4 else None", "assert f(9) == 9\nassert f(3) is None")
    assert amplify(judge, task).added_tests == 5
    task = function_task("def f(x): return x if x != 5 else None", "assert f(9) == 9\nassert f(3) == 3")
    assert amplify(judge, task).dropped == {"answer: another kind of answer than those known": 1}


def test_floats_are_compared_as_the_tests_of_the_task_do(judge):
    reference = "def f(x): return x / 3"
    exact = amplify(judge, function_task(reference, "assert f(3.0) == 1.0\nassert f(9.0) == 3.0"), new_tests=3)
    assert all(line.startswith(f"assert {NEAR}(f(") for line in exact.added.code.splitlines())
    near = function_task(reference, "assert abs(f(3.0) - 1.0) < 0.25\nassert f(9.0) == 3.0")
    near = amplify(judge, near, new_tests=3)
    assert all(line.startswith("assert abs(f(") and line.endswith("< 0.25") for line in near.added.code.splitlines())
    off_by = "def f(x): return x / 3 + {}"
    [[close, far]] = judge.run([(one_task(exact), [off_by.format(1e-8), off_by.format(1e-3)])])
    assert close.pass_rate == 1.0
    assert far.pass_rate == 0.0
    [[close, far]] = judge.run([(one_task(near), [off_by.format(0.2), off_by.format(0.3)])])
    assert close.pass_rate == 1.0
    assert far.pass_rate == 0.0


def one_task(one):
    return replace(one.task, tests=one.added)


def test_a_test_treats_what_is_expected_as_it_treats_the_result(judge):
    code = "assert set(f([1, 2])) == set([2, 1])\nassert set(f([5, 3, 1])) == {1, 3, 5}"
    one = amplify(judge, function_task("def f(x): return sorted(x)", code))
    [[other]] = judge.run([(one.task, ["def f(x): return sorted(x, reverse=True)"])])
    assert other.accepted


def test_floats_inside_other_values_have_a_tolerance(judge):
    code = "assert f([1.5, 2.0]) == {'a': [(1.5, 1)]}\nassert f([2.0, 0.5]) == {'a': [(2.0, 1)]}"
    one = amplify(judge, function_task("def f(x): return {'a': [(x[0], 1)]}", code))
    assert NEAR in one.added.code
    answers = ["def f(x): return {'a': [(x[0] + 1e-9, 1)]}", "def f(x): return {'a': [(x[0], 2)]}"]
    [[close, far]] = judge.run([(one_task(one), answers)])
    assert close.accepted
    assert far.passed == 0


def test_methods_names_and_spread_lists_are_called_as_they_were(judge):
    code = (
        "def check(candidate):\n    assert candidate(a=3, b='x') == 'xxx'\n    assert candidate(a=1, b='yy') == 'yy'\n"
    )
    reference = "class Solution:\n    def g(self, a, b): return a * b"
    one = amplify(judge, function_task(reference, f"{code}\ncheck(Solution().g)", "Solution().g"), new_tests=4)
    assert one.added_tests == 4
    assert all("Solution().g(a=" in line for line in one.added.code.splitlines())
    spread = amplify(judge, function_task("def f(x): return x", "assert f(*[3]) == 3\nassert f(*[9]) == 9"))
    assert spread.added_tests == 5


def test_all_references_must_agree(judge):
    other = "def f(x): return 2 * x if x < 20 else 80 if x == 40 else 0"
    wrong = "def f(x): return 0"
    one = amplify(judge, DOUBLE, references={"double": [other, wrong]}, new_tests=30)
    assert one.dropped["a reference does not pass the test"] > 3
    assert one.added_tests > 3
    assert all(given < 20 for (given,) in arguments(one))


def test_programs_that_only_pass_the_old_tests_are_exposed(judge):
    programs = ["def f(x): return 2 * x", "def f(x): return 2 * x if x in (2, 0, 40) else 1", "def f(x): return 7"]
    sum_only_three = "print({'3': 6, '2': 14, '5': 13}[input()])"
    before = [DOUBLE, replace(LONGEST, reference=None), SUM]
    found = expose(
        before, amplify_tasks(before, judge, new_tests=5), [programs, [LONGEST.reference], [sum_only_three]], judge
    )
    figures = [(one.programs, one.passed_before, one.exposed, one.unjudged) for one in found]
    assert figures == [(3, 2, 1, 0), (1, 1, 0, 0), (1, 1, 1, 0)]
    assert [verdict is None or verdict.pass_rate for verdict in found[0].verdicts] == [1.0, 0.0, True]


def test_counts_stay_right_in_texts(judge):
    one = amplify(judge, SUM)
    assert one.added_tests == 20
    for case in one.added.cases:
        first, second, rest = case.input.split("\n")
        assert int(first) == len(second.split())
        assert rest == ""
        assert all(1 <= int(word) <= 10 for word in second.split())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"new_tests": 0}, "new_tests: must be a whole number of at least 1; got 0"),
        ({"new_tests": True}, "new_tests: must be a whole number of at least 1; got True"),
        ({"seed": "a"}, "seed: must be a whole number; got 'a'"),
        ({"references": {"nobody": []}}, "references: must be of the 1 tasks; got 'nobody'"),
    ],
)
def test_bad_options_are_named(judge, options, message):
    with pytest.raises(ValueError, match=message):
        amplify_tasks([DOUBLE], judge, **options)


def test_the_reference_has_what_the_benchmark_supplies(judge):
    call = function_task(
        "def f(x): return sqrt(x)", "assert f(4) == 2\nassert f(9) == 3", preamble="from math import sqrt"
    )
    read = stdio_task("print(isqrt(int(input())))", ("4\n", "2\n"), ("9\n", "3\n"), preamble="from math import isqrt")
    assert [one.added_tests for one in amplify_tasks([call, read], judge)] == [4, 4]


def test_no_task_gives_no_task(judge):
    assert amplify_tasks([], judge) == []


def test_the_generator_of_the_caller_is_left_alone(judge):
    random.seed(1)
    before = random.getstate()
    amplify(judge, DOUBLE, new_tests=2)
    assert random.getstate() == before


def test_the_seed_of_a_judge_decides_hashes_and_random_numbers():
    cases = (StdioCase(input="", output="1\n"),)
    tests = StdioTests(cases=cases, compare=lambda given, output, expected: seen.add(output) or True)
    task = CodingTask(task_id="t", prompt="p", tests=tests)
    program = "import random\nprint(hash('abc'), random.random())"
    found = []
    for seed in (0, 1, 1):
        seen = set()
        with Judge(workers=1, seed=seed, cache_size=0) as seeded:
            seeded.run([(task, [program, program])])
        # A function first sees the expected output.
        found.append(seen - {"1\n"})
    assert len(found[0]) == 1
    assert found[0] != found[1] == found[2]
    for seed in (-1, True, 2**32, "a"):
        with pytest.raises(ValueError, match="seed: must be a whole number from 0 to 4294967295"):
            Judge(seed=seed)
