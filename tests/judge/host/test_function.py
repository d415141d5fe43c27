"""Function tests: each test is judged on its own, and nothing a program returns can pass for an answer."""

from __future__ import annotations

import pytest

from trl_pper import CodingTask, FunctionTests, Judge, Limits, Outcome, Verdict

DOUBLE = "assert double(2) == 4\nassert double(0) == 0\nassert double(-3) == -6"


@pytest.fixture(scope="module")
def judge():
    with Judge(workers=2, limits=Limits(cpu_seconds=0.15, memory_bytes=1 << 30)) as judge:
        yield judge


def verdict_of(
    judge: Judge, program: str, code: str = DOUBLE, *, entry_point: str | None = None, setup: str = ""
) -> Verdict:
    tests = FunctionTests(code=code, entry_point=entry_point, setup=setup)
    [[verdict]] = judge.run([(CodingTask(task_id="t", prompt="p", tests=tests), [program])])
    return verdict


def outcomes(judge: Judge, program: str, code: str = DOUBLE, **fields: str) -> list[str]:
    return [str(outcome) for outcome in verdict_of(judge, program, code, **fields).outcomes]


def test_a_right_program_passes(judge):
    verdict = verdict_of(judge, "def double(x): return 2 * x")
    assert verdict.accepted
    assert verdict.total == 3
    assert verdict.cpu_seconds > 0
    assert verdict.message == ""


def test_each_test_is_judged_on_its_own(judge):
    verdict = verdict_of(judge, "def double(x): return x * x")
    assert [str(o) for o in verdict.outcomes] == ["passed", "passed", "wrong_answer"]
    assert verdict.pass_rate == pytest.approx(2 / 3)
    assert "double(-3) == -6" in verdict.message


@pytest.mark.parametrize(
    ("program", "expected"),
    [
        ("def double(x): return x + 1", ["wrong_answer"] * 3),
        ("def double(x): raise KeyError(x)", ["runtime_error"] * 3),
        ("def double(x): return 2 * x if x else 1 / 0", ["passed", "runtime_error", "passed"]),
        ("def double(x:", ["syntax_error"] * 3),
        ("", ["runtime_error"] * 3),
        ("triple = 3", ["runtime_error"] * 3),
        ("raise ValueError('at import')", ["runtime_error"] * 3),
        ("import no_such_module", ["runtime_error"] * 3),
        ("def double(x):\n    while True: pass", ["timeout"] * 3),
        ("while True: pass", ["timeout"] * 3),
        ("def double(x): return [0] * 10**10", ["memory_limit"] * 3),
        ("kept = [0] * 10**10", ["memory_limit"] * 3),
        ("def double(x): return double(x)", ["runtime_error"] * 3),
        ("import sys\nsys.exit(0)", ["runtime_error"] * 3),
        ("import sys\ndef double(x): sys.exit(0)", ["runtime_error"] * 3),
        ("def double(x): exit()", ["runtime_error"] * 3),
        ("import os\ndef double(x): os._exit(0)", ["runtime_error"] * 3),
        ("import os\nos._exit(0)", ["runtime_error"] * 3),
        ("import ctypes\ndef double(x): ctypes.string_at(0)", ["runtime_error"] * 3),
        ("(" * 5000 + ")" * 5000, ["syntax_error"] * 3),
        ("x = '\x00'", ["syntax_error"] * 3),
        ("x = '\ud800'", ["syntax_error"] * 3),
    ],
)
def test_every_way_to_fail_has_its_outcome(judge, program, expected):
    assert outcomes(judge, program) == expected


def test_after_a_crash_the_next_test_meets_a_fresh_program(judge):
    program = "import os\ndef double(x):\n    if x == 0: os._exit(0)\n    return 2 * x"
    assert outcomes(judge, program) == ["passed", "runtime_error", "passed"]


def test_after_one_timeout_a_test_runs_and_after_two_none_does(judge):
    program = "def double(x):\n    while x in {0}: pass\n    return 2 * x"
    assert outcomes(judge, program) == ["passed", "timeout", "passed"]
    code = "\n".join(f"assert double({x}) == {2 * x}" for x in (0, 1, 0, 2, 3))
    assert outcomes(judge, program, code) == ["timeout", "passed", "timeout", "timeout", "timeout"]


def test_working_is_stopped_by_the_cpu_clock(judge):
    verdict = verdict_of(judge, "def double(x):\n    while True: pass")
    assert [str(outcome) for outcome in verdict.outcomes] == ["timeout"] * 3
    assert "used more than 0.15 CPU seconds" in verdict.message


def test_sleeping_is_stopped_by_the_wall_clock():
    with Judge(workers=1, limits=Limits(cpu_seconds=0.1, wall_factor=1.0, max_timeouts=1)) as judge:
        verdict = verdict_of(judge, "import time\ndef double(x): time.sleep(60)")
    assert [str(outcome) for outcome in verdict.outcomes] == ["timeout"] * 3
    assert "took more than 1.1 seconds" in verdict.message


def test_printing_costs_nothing_and_floods_are_discarded(judge):
    assert verdict_of(judge, "def double(x):\n    print(x)\n    return 2 * x").accepted
    assert outcomes(judge, "def double(x):\n    while True: print('x' * 1000)") == ["timeout"] * 3


@pytest.mark.hostile
@pytest.mark.parametrize(
    "program",
    [
        "class Yes:\n    def __eq__(self, other): return True\ndef double(x): return Yes()",
        "class Yes(int):\n    def __eq__(self, other): return True\ndef double(x): return Yes(99)",
        "class Yes(str):\n    def __eq__(self, other): return True\ndef double(x): return Yes('no')",
        "class Yes(list):\n    def __eq__(self, other): return True\ndef double(x): return Yes()",
        "import unittest.mock\ndef double(x): return unittest.mock.ANY",
        "import builtins\nbuiltins.AssertionError = Warning\ndef double(x): return 99",
        "def double(x):\n    import sys\n    sys.settrace(lambda *a: None)\n    raise AssertionError",
        "import sys\nsys.modules['__main__'].double = lambda x: 99",
    ],
)
def test_no_object_of_the_program_passes_for_an_answer(judge, program):
    verdict = verdict_of(judge, program)
    assert verdict.passed == 0
    assert not verdict.accepted


@pytest.mark.hostile
def test_forged_answers_on_every_descriptor_are_only_wrong_data(judge):
    program = """
import os
def double(x):
    for descriptor in range(64):
        try:
            os.write(descriptor, b"\\x08" + b"\\0" * 7 + b"t\\x02\\0\\0\\0TT" * 3)
        except OSError:
            pass
    os._exit(0)
"""
    assert verdict_of(judge, program).passed == 0


@pytest.mark.hostile
@pytest.mark.parametrize(
    "value",
    [
        "[[]] * 10**7",
        "loop",
        "deep",
        "10**(10**7)",
        "iter(int, 1)",
        "'x' * 10**8",
        "set(range(0, 61 * 2**61, 2**61 - 1))",
    ],
)
def test_values_too_big_or_too_deep_fail_cleanly(judge, value):
    program = f"""
loop = []
loop.append(loop)
deep = []
for _ in range(100000): deep = [deep]
def double(x): return {value}
"""
    verdict = verdict_of(judge, program)
    assert verdict.pass_rate == 0.0
    assert verdict.total == 3


@pytest.mark.hostile
def test_a_redefined_builtin_stays_in_its_program(judge):
    polluter = "import builtins\nbuiltins.sum = lambda values: 0\ndef total(v): return 0"
    victim = "def total(v): return sum(v)"
    tests = FunctionTests(code="assert total([1, 2]) == 3")
    task = CodingTask(task_id="t", prompt="p", tests=tests)
    with Judge(workers=1) as one:
        [[first, second]] = one.run([(task, [polluter, victim])])
    assert first.pass_rate == 0.0
    assert second.pass_rate == 1.0


def test_neighbours_of_a_bad_program_are_judged_normally(judge):
    good = "def double(x): return 2 * x"
    bad = ["def double(x):\n    while True: pass", "import os; os._exit(1)", "x = [0] * 10**10", "def double("]
    task = CodingTask(task_id="t", prompt="p", tests=FunctionTests(code=DOUBLE))
    [verdicts] = judge.run([(task, [program for each in bad for program in (each, good)])])
    assert [verdict.pass_rate for verdict in verdicts] == [0.0, 1.0] * len(bad)


@pytest.mark.parametrize("name", ["check", "sum", "max", "list", "sorted"])
def test_an_entry_point_may_have_any_name(judge, name):
    code = f"assert {name}(70) == 71\nassert {name}(1) == 2"
    right, wrong = f"def {name}(x): return x + 1", f"def {name}(x): return x"
    for entry_point in (name, None):
        assert verdict_of(judge, right, code, entry_point=entry_point).accepted
        assert verdict_of(judge, wrong, code, entry_point=entry_point).passed == 0


def test_a_program_cannot_answer_for_what_the_tests_import(judge):
    program = """
import builtins
class math:
    isclose = staticmethod(lambda *a, **k: True)
def abs(x): return 0
def round(*a): return 4
builtins.abs = abs
def double(x): return 99
"""
    code = "assert abs(double(2) - 4) < 1e-6\nassert math.isclose(double(2), 4)\nassert round(double(2)) == 4"
    assert outcomes(judge, program, code, entry_point="double") == ["wrong_answer"] * 3
    assert verdict_of(judge, "def double(x): return 2.0 * x", code, entry_point="double").accepted


def test_humaneval_check_calls_its_candidate(judge):
    code = """
METADATA = {}
def check(candidate):
    assert True, "This prints if this assert fails"
    for x in range(3):
        assert candidate(x) == 2 * x
    assert candidate(helper(1)) == 4
check(double)
"""
    program = "def helper(x): return x + 1\ndef double(x): return 2 * x"
    assert outcomes(judge, program, code, entry_point="double") == ["passed", "passed"]
    assert outcomes(judge, program.replace("2 * x", "x * x"), code, entry_point="double") == ["wrong_answer", "passed"]


def test_methods_of_a_solution_class_are_called(judge):
    code = "def check(f):\n    assert f(n=2) == 4\n    assert f(n=0) == 0\ncheck(Solution().double)"
    program = "class Solution:\n    def double(self, n):\n        while n == 2: pass\n        return 2 * n"
    right = program.replace("while n == 2: pass", "pass")
    assert verdict_of(judge, right, code, entry_point="Solution().double").accepted
    # The object of the first process is made again in the second.
    assert outcomes(judge, program, code, entry_point="Solution().double") == ["timeout", "passed"]


def test_arguments_changed_in_place_are_seen_by_the_tests(judge):
    code = "v = [3, 1, [2]]\nw = v\nkeep = v[2]\nchange(v)\n"
    code += "assert v == [1, 3, [2, 9]]\nassert w is v\nassert keep == [2, 9]"
    program = "def change(v):\n    v[:2] = sorted(v[:2])\n    v[2].append(9)"
    assert outcomes(judge, program, code, entry_point="change") == ["passed"] * 3
    code = "d = {'a': [1]}\ns = {1}\nchange(d, s)\nassert d == {'a': [1, 2], 'b': 3}\nassert s == {1, 2}"
    program = "def change(d, s):\n    d['a'].append(2)\n    d['b'] = 3\n    s.add(2)"
    assert outcomes(judge, program, code, entry_point="change") == ["passed"] * 2
    code = "from collections import Counter\nc = Counter(a=5, b=1)\nchange(c)\nassert dict(c) == {'a': 1, 'z': 0}"
    program = "def change(c):\n    c['a'], c['z'] = 1, 0\n    del c['b']"
    assert outcomes(judge, program, code, entry_point="change") == ["passed"]


def test_iterators_and_views_can_be_listed(judge):
    code = "assert list(make(3)) == [0, 1, 2]\nassert next(make(2)) == 0\nassert sorted(make(0)) == []"
    for made in (
        "(i for i in range(n))",
        "map(int, range(n))",
        "iter(list(range(n)))",
        "dict.fromkeys(range(n)).__iter__()",
    ):
        assert verdict_of(judge, f"def make(n): return {made}", code, entry_point="make").accepted


def test_builtin_exceptions_cross_by_name(judge):
    code = """
try:
    f(1)
    assert False
except ValueError as error:
    assert str(error) == "bad 1"
"""
    assert outcomes(judge, "def f(x): raise ValueError(f'bad {x}')", code) == ["passed"]
    assert outcomes(judge, "class Mine(ValueError): pass\ndef f(x): raise Mine(f'bad {x}')", code) == ["passed"]
    assert outcomes(judge, "def f(x): raise TypeError(f'bad {x}')", code) == ["runtime_error"]
    assert outcomes(judge, "def f(x): return 1", code) == ["wrong_answer"]


def test_pytest_raises_is_a_test(judge):
    code = "import pytest\nwith pytest.raises(ValueError, match='bad'):\n    f(1)\nassert callable(f)"
    with Judge(workers=1) as patient:
        assert outcomes(patient, "def f(x): raise ValueError('bad')", code) == ["passed", "passed"]
        assert outcomes(patient, "def f(x): return 1", code) == ["runtime_error", "passed"]
        assert outcomes(patient, "def f(x): raise KeyError('bad')", code) == ["runtime_error", "passed"]


def test_what_key_errors_and_stop_iterations_hold_crosses(judge):
    code = """
try:
    f(1)
    assert False
except KeyError as error:
    assert error.args == (1,)
try:
    f('a')
    assert False
except KeyError as error:
    assert str(error) == "'a'"
"""
    assert outcomes(judge, "def f(x): raise KeyError(x)", code) == ["passed", "passed"]


def test_dictionaries_of_the_library_keep_what_they_can_do(judge):
    program = """
import collections
def tally(v): return collections.Counter(v)
def groups(v): return collections.defaultdict(list, v)
def ordered(v): return collections.OrderedDict(v)
def top(c): return c.most_common(1)
"""
    code = """
from collections import Counter, OrderedDict
assert tally("aab").most_common(1) == [("a", 2)]
assert tally("aab")["z"] == 0
assert groups({"a": [1]})["z"] == []
assert ordered([("b", 1), ("a", 2)]) == OrderedDict([("b", 1), ("a", 2)])
assert not ordered([("b", 1), ("a", 2)]) == OrderedDict([("a", 2), ("b", 1)])
assert top(Counter("aab")) == [("a", 2)]
"""
    assert outcomes(judge, program, code) == ["passed"] * 6


def test_arrays_of_numbers_are_compared_by_the_tests(judge):
    pytest.importorskip("numpy")
    code = "import numpy as np\nassert np.allclose(scale(np.array([1.0, 2.0])), [2.0, 4.0])\n"
    code += "v = np.zeros(3)\nfill(v)\nassert v.tolist() == [1.0, 1.0, 1.0]\nassert isinstance(scale(v), np.ndarray)"
    program = "def scale(v): return v * 2\ndef fill(v): v += 1"
    with Judge(workers=1) as patient:
        assert outcomes(patient, program, code) == ["passed"] * 3
        assert outcomes(patient, program.replace("* 2", "* 3"), code)[0] == "wrong_answer"


def test_an_iterator_is_not_used_up_before_the_call(judge):
    code = "assert both(iter([1, 2]), [3]) == [1, 2, 3]"
    assert outcomes(judge, "def both(a, b): return [*a, *b]", code) == ["passed"]


@pytest.mark.slow
@pytest.mark.hostile
def test_a_test_over_the_items_of_an_endless_answer_ends(judge):
    code = "def check(x):\n    assert slow(x) == 1\nfor x in f():\n    check(x)\nassert f() == 1"
    program = "def f(): return [1] * 10**5\ndef slow(x):\n    for _ in range(10**6): pass\n    return 1"
    verdict = verdict_of(judge, program, code)
    assert Outcome.TIMEOUT in verdict.outcomes
    assert verdict.cpu_seconds < 20


def test_swallowing_a_timeout_does_not_hide_it(judge):
    code = """
for _ in range(1):
    try:
        f()
    except BaseException:
        pass
    assert _ == 0
"""
    assert outcomes(judge, "def f():\n    while True: pass", code) == ["timeout"]
    assert outcomes(judge, "def f(): raise KeyError", code) == ["passed"]


def test_a_failure_between_tests_fails_those_that_follow(judge):
    code = "assert f(1) == 1\nx = f(2)\nassert x == 2\nassert f(1) == 1"
    program = "def f(x):\n    if x == 2: raise KeyError\n    return x"
    assert outcomes(judge, program, code) == ["passed", "runtime_error", "runtime_error"]


def test_test_code_that_cannot_be_judged_is_unsupported(judge):
    for code in ("assert f(", "def check(f):\n    assert f() == 1", "import no_such_module\nassert f() == 1"):
        verdict = verdict_of(judge, "def f(): return 1", code)
        assert verdict.pass_rate is None
        assert verdict.message


def test_setup_runs_before_the_tests(judge):
    assert verdict_of(judge, "def f(x): return x", "assert f(K) == math.pi", setup="import math\nK = math.pi").accepted


def test_each_call_of_a_checking_function_is_a_test(judge):
    code = "def check(f, x):\n    assert f(x) == 1\ncheck(f, 1)\ncheck(f, 2)\ncheck(f, 1)"
    assert outcomes(judge, "def f(x): return x", code, entry_point="f") == ["passed", "wrong_answer", "passed"]
    assert outcomes(judge, "def f(x): return 1", code, entry_point="f") == ["passed"] * 3


def test_random_and_hash_order_repeat():
    program = "import random\ndef f(): return [random.random(), list({'a', 'b', 'c', 'd'}), hash('x')]"
    code = "assert f() == 0"
    shown = set()
    for _ in range(2):
        with Judge(workers=1) as judge:
            task = CodingTask(task_id="t", prompt="p", tests=FunctionTests(code="assert str(f()) == 0\n" + code))
            spy = program + "\ng = f\ndef f(): raise ValueError(str(g()))"
            [[verdict]] = judge.run([(task, [spy])])
            shown.add(verdict.message)
    assert len(shown) == 1


def test_many_programs_of_one_task_meet_the_same_tests(judge):
    """The referee is kept from program to program; what one program did must not show in the next."""
    code = "seen = []\nseen.append(f(1))\nassert seen == [2]\nassert len(seen) == 1\nassert random.random() == K"
    setup = "import random\nK = random.Random(0).random()"
    program, wrong = "def f(x): return x + 1", "def f(x): return x"
    tests = FunctionTests(code=code, setup=setup, entry_point="f")
    task = CodingTask(task_id="t", prompt="p", tests=tests)
    other = CodingTask(task_id="u", prompt="p", tests=FunctionTests(code="assert f(0) == 0", entry_point="f"))
    with Judge(workers=1) as one:
        rows = one.run([(task, [program, wrong, program]), (other, [program, wrong]), (task, [program])])
    assert [[verdict.passed for verdict in row] for row in rows] == [[3, 2, 3], [0, 1], [3]]


@pytest.mark.hostile
def test_a_value_that_keeps_tests_busy_costs_its_program_alone(judge):
    code = "assert sum(1 for _ in range(f(1))) == 3"
    task = CodingTask(task_id="t", prompt="p", tests=FunctionTests(code=code, entry_point="f"))
    [[first, second]] = judge.run([(task, ["def f(x): return 10**12", "def f(x): return 3"])])
    assert [str(outcome) for outcome in first.outcomes] == ["timeout"]
    assert second.accepted


@pytest.mark.hostile
def test_a_value_of_too_much_memory_costs_its_program_alone(judge):
    task = CodingTask(task_id="t", prompt="p", tests=FunctionTests(code="assert len(bytes(f(1))) == 3"))
    [[first, second]] = judge.run([(task, ["def f(x): return 2**31", "def f(x): return 3"])])
    assert [str(outcome) for outcome in first.outcomes] == ["memory_limit"]
    assert second.accepted


@pytest.mark.slow
@pytest.mark.hostile
def test_a_value_that_blocks_the_tests_at_once_is_a_timeout():
    # A sum over a range is one loop in C that no signal interrupts.
    code = "assert sum(range(f(1))) == 10\nassert f(1) == 5"
    task = CodingTask(task_id="t", prompt="p", tests=FunctionTests(code=code, entry_point="f"))
    with Judge(workers=1, limits=Limits(cpu_seconds=0.1, wall_factor=0.1)) as judge:
        [[first, second]] = judge.run([(task, ["def f(x): return 10**13", "def f(x): return 5"])])
    assert [str(outcome) for outcome in first.outcomes] == ["timeout", "timeout"]
    assert second.accepted
