"""Functions that the tests hand to the program run where the tests are, on plain data, and cannot be abused."""

from __future__ import annotations

import pytest

from trl_pper import CodingTask, FunctionTests, Judge, Limits


@pytest.fixture(scope="module")
def judge():
    with Judge(workers=1, limits=Limits(cpu_seconds=0.3, memory_bytes=1 << 30)) as judge:
        yield judge


def outcomes(judge: Judge, program: str, code: str, **fields: str) -> list[str]:
    task = CodingTask(task_id="t", prompt="p", tests=FunctionTests(code=code, **fields))
    [[verdict]] = judge.run([(task, [program])])
    # Never more than two tests that ran out of time, and a test more.
    assert verdict.cpu_seconds < 4 * judge.limits.cpu_seconds
    return [str(outcome) for outcome in verdict.outcomes]


APPLY = "def apply(g, *values): return g(*values)"


@pytest.mark.parametrize(
    ("setup", "given"),
    [
        ("", "lambda x: x + 1"),
        ("def inc(x): return x + 1", "inc"),
        ("class Inc:\n    def add(self, x): return x + 1", "Inc().add"),
        ("class Inc:\n    def __call__(self, x): return x + 1", "Inc()"),
        ("import functools\ndef add(a, b): return a + b", "functools.partial(add, 1)"),
        ("import functools\n@functools.lru_cache\ndef inc(x): return x + 1", "inc"),
        ("", "(1).__add__"),
        ("import math", "math.factorial"),
        ("import operator", "operator.itemgetter(0)"),
        ("", "str.upper"),
        ("", "len"),
        ("", "sorted"),
    ],
)
def test_functions_of_every_kind_can_be_given(judge, setup, given):
    argument = {"operator.itemgetter(0)": "[7]", "str.upper": "'a'", "len": "'abc'", "sorted": "[2, 1]"}.get(
        given, "3"
    )
    code = f"assert apply({given}, {argument}) == ({given})({argument})"
    assert outcomes(judge, APPLY, code, setup=setup) == ["passed"]
    assert outcomes(judge, "def apply(g, *values): return None", code, setup=setup) == ["wrong_answer"]


def test_a_key_function_and_a_comparator_work(judge):
    code = "assert order(['bb', 'a', 'ccc'], lambda s: -len(s)) == ['ccc', 'bb', 'a']"
    assert outcomes(judge, "def order(values, key): return sorted(values, key=key)", code) == ["passed"]
    code = "assert order([3, 1, 2], lambda a, b: b - a) == [3, 2, 1]"
    program = "import functools\ndef order(values, c): return sorted(values, key=functools.cmp_to_key(c))"
    assert outcomes(judge, program, code) == ["passed"]


def test_what_a_function_records_is_seen_by_the_tests(judge):
    code = "seen = []\nwalk([1, [2, 3]], seen.append)\nassert seen == [1, 2, 3]"
    program = "def walk(v, visit):\n    for x in v:\n        walk(x, visit) if isinstance(x, list) else visit(x)"
    assert outcomes(judge, program, code) == ["passed"]
    assert outcomes(judge, program.replace("visit(x)", "visit(0)"), code) == ["wrong_answer"]


def test_a_function_kept_by_the_program_is_called_later(judge):
    program = "class Bus:\n    def on(self, f): self.f = f\n    def emit(self, x): return self.f(x)"
    code = "bus = Bus()\nbus.on(lambda x: x * 2)\nassert bus.emit(4) == 8\nassert bus.emit('a') == 'aa'"
    assert outcomes(judge, program, code) == ["passed", "passed"]


def test_a_function_that_changes_arguments_changes_the_programs(judge):
    code = "def fill(v): v.append(9)\nassert run(fill) == [1, 9]"
    assert outcomes(judge, "def run(f):\n    v = [1]\n    f(v)\n    return v", code) == ["passed"]


def test_a_function_given_back_is_the_same_function(judge):
    code = "def g(): return 5\nassert same(g) is g\nassert same(g)() == 5"
    assert outcomes(judge, "def same(f): return f", code) == ["passed", "passed"]


def test_exceptions_cross_functions_in_both_directions(judge):
    code = "def bad(x): raise KeyError(x)\nassert guard(bad) == 'caught'"
    program = "def guard(f):\n    try:\n        f('k')\n    except KeyError as error:\n        return 'caught'"
    assert outcomes(judge, program, code) == ["passed"]
    code = """
def bad(x): raise KeyError(x)
try:
    apply(bad, 'k')
    assert False
except KeyError as error:
    assert error.args == ('k',)
"""
    assert outcomes(judge, APPLY, code) == ["passed"]


def test_a_function_of_the_tests_may_call_the_program(judge):
    program = "def down(f, n): return f(n)\ndef half(n): return n // 2"
    code = "assert down(lambda n: half(n) + 1, 10) == 6\n"
    code += "def recurse(n): return 0 if n == 0 else 1 + down(recurse, n - 1)\nassert down(recurse, 9) == 9"
    assert outcomes(judge, program, code) == ["passed", "passed"]


def test_nesting_has_a_bound(judge):
    code = (
        "def recurse(n): return down(recurse, n + 1)\nassert down(recurse, 0) == 9\nassert down(lambda n: n, 5) == 5"
    )
    assert outcomes(judge, "def down(f, n): return f(n)", code) == ["runtime_error", "passed"]


def test_threads_of_the_program_take_turns(judge):
    program = """
from concurrent.futures import ThreadPoolExecutor
def run(f, values):
    with ThreadPoolExecutor(4) as pool:
        return list(pool.map(f, values))
"""
    code = "assert run(lambda x: x * x, list(range(50))) == [x * x for x in range(50)]"
    assert outcomes(judge, program, code) == ["passed"]


@pytest.mark.hostile
def test_a_thread_left_over_cannot_call_between_tests(judge):
    program = """
import threading, time
log = []
def spin(f):
    while True:
        try:
            f(1)
        except RuntimeError as error:
            log.append(str(error))
            return
def start(f): threading.Thread(target=spin, args=(f,), daemon=True).start()
def value(x):
    time.sleep(0.05)
    return x
def logged(): return log[0]
"""
    code = "start(lambda x: x)\n" + "\n".join(f"assert value({i}) == {i}" for i in range(5))
    assert outcomes(judge, program, code) == ["passed"] * 5
    assert outcomes(
        judge, program, "import time\nstart(lambda x: x)\ntime.sleep(0.2)\nassert 'only while' in logged()"
    ) == ["passed"]


@pytest.mark.hostile
def test_a_forked_child_of_the_program_cannot_speak_for_it():
    program = """
import os
def run(f):
    pid = os.fork()
    if pid == 0:
        try:
            f(1)
        finally:
            os._exit(0)
    os.waitpid(pid, 0)
    return f(2)
def both(x):
    os.fork()
    return x
"""
    code = "assert run(lambda x: x) == 2\nassert both(3) == 3\nassert both(4) == 4"
    with Judge(workers=1, limits=Limits(processes=16)) as judge:
        assert outcomes(judge, program, code) == ["passed"] * 3


@pytest.mark.hostile
@pytest.mark.parametrize("function", ["lambda x: x", "lambda x: [1] * 1000", "seen.append"])
def test_calling_back_for_ever_is_a_timeout(judge, function):
    program = "def run(f):\n    while True: f(1)\ndef ok(): return 1"
    assert outcomes(judge, program, f"seen = []\nassert run({function}) == 1\nassert ok() == 1") == [
        "timeout",
        "passed",
    ]


@pytest.mark.hostile
def test_tests_inside_a_callback_renew_no_allowance(judge):
    # All tests together may take the longer the more there are.
    code = "def check(x):\n    assert x == 1\nrun(check)" + "\nassert ok() == 1" * 60
    program = "def run(f):\n    while True: f(1)\ndef ok(): return 1"
    outcomes(judge, program, code)


@pytest.mark.hostile
@pytest.mark.parametrize(
    "attack",
    [
        "forge(('callback', 99, (1,), {}))",
        "forge(('callback', -1, (1,), {}))",
        "forge(('callback', 0, 5, {}))",
        "forge(('callback', 0, (1,), {1: 2}))",
        "forge(('callback', 'x', (1,), {}))",
        "forge(('callback',))",
        "forge(('callback', True, (1,), {}))",
        "forge(('answer', 1))",
        "forge(5)",
    ],
)
def test_forged_words_fail_the_test_and_the_next_one_is_judged(judge, attack):
    program = f"""
import gc, socket, struct
from trl_pper.judge.wire import codec
from trl_pper.judge.wire.channel import send_frame
def forge(message):
    calls = next(o for o in gc.get_objects() if type(o).__name__ == '_Calls')
    send_frame(calls.channel, calls.serial + codec.encode(message, max_bytes=1000))
def run(f):
    {attack}
    return 1
def ok(): return 1
"""
    code = "assert run(lambda x: x) == 1\nassert ok() == 1"
    assert outcomes(judge, program, code) == ["runtime_error", "passed"]


@pytest.mark.hostile
def test_an_answer_forged_ahead_is_only_the_programs_word(judge):
    program = """
import gc
from trl_pper.judge.wire import codec
from trl_pper.judge.wire.channel import send_frame
def run(f):
    calls = next(o for o in gc.get_objects() if type(o).__name__ == '_Calls')
    send_frame(calls.channel, calls.serial + codec.encode(('value', 77, None), max_bytes=1000))
    return f(1)
def late(): return 3
"""
    code = "assert run(lambda x: x) == 1\nassert late() == 3\nassert late() == 3"
    assert outcomes(judge, program, code)[0] != "passed"


@pytest.mark.hostile
def test_hostile_arguments_reach_the_function_as_plain_data_only(judge):
    program = """
class Yes(int):
    def __eq__(self, other): return True
    __hash__ = int.__hash__
class Any:
    def __eq__(self, other): return True
def run(f): return f(Yes(99)) or f(Any())
"""
    assert outcomes(judge, program, "assert run(lambda x: x == 5)") == ["wrong_answer"]


def test_functions_that_could_do_harm_are_not_offered(judge):
    for setup, given in (("import os", "os.getenv"), ("import subprocess", "subprocess.run")):
        assert outcomes(judge, APPLY, f"assert apply({given}, 'HOME')", setup=setup) == ["unsupported"]


def test_a_function_may_return_any_plain_data_or_function(judge):
    code = "assert twice(lambda a: lambda b: a * b) == 12"
    assert outcomes(judge, "def twice(f): return f(3)(4)", code) == ["passed"]
