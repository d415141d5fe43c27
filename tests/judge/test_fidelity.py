"""Verdicts are those of plain Python, beyond tests of plain values: an interpreter of its own runs each case, too."""

from __future__ import annotations

import subprocess
import sys

import pytest

from trl_pper import CodingTask, FunctionTests, Judge

#: Name: the program, the tests, the pass rate, the way the tests run.
CASES = {
    # Checks that are no asserts.
    "a helper that raises": (
        "def f(x): return 0 if x == 2 else x",
        "def need(a, b):\n    if a != b: raise AssertionError((a, b))\nassert f(1) == 1\nneed(f(2), 2)",
        (0.5, "separate"),
    ),
    "an exit after a pass": (
        "def f(x): return 0 if x == 2 else x",
        "import sys\nassert f(1) == 1\nif f(2) != 2: sys.exit(1)",
        (0.5, "shared"),
    ),
    "a raise in a loop": (
        "def f(x): return x",
        "for x in range(3):\n    if f(x) != x * x: raise ValueError(x)",
        (0.0, "separate"),
    ),
    "an exec": ("def f(x): return 0", "assert f(1) == 0\nexec('assert f(2) == 2')", (0.5, "shared")),
    "a test case used by hand": (
        "def f(x): return x",
        "import unittest\ncheck = unittest.TestCase()\ncheck.assertEqual(f(1), 1)\ncheck.assertEqual(f(2), 3)",
        (0.5, "shared"),
    ),
    "an assert inside what an assert calls": (
        "def f(x): return 1",
        "def ok(x):\n    assert f(x) == x\n    return True\nassert ok(1)\nassert ok(2)",
        (0.5, "separate"),
    ),
    "an assert in a helper that a loop sums up": (
        "def f(x): return 0",
        "def good(x):\n    assert f(x) == x\n    return 1\n"
        "total = 0\nfor x in (1, 2): total += good(x)\nassert total == 2",
        (0.0, "separate"),
    ),
    "code that fails after the last test": (
        "def f(x): return x",
        "assert f(1) == 1\nassert f(2) == 2\nf(3).missing",
        (0.5, "shared"),
    ),
    "an expected failure": (
        "def f(x): return x",
        "def strict(x):\n    assert f(x) > 0\ntry:\n    strict(-5)\n    caught = False\nexcept AssertionError:\n"
        "    caught = True\nassert caught",
        (1.0, "separate"),
    ),
    # Identity and aliasing.
    "rows that are one row": (
        "def f(n): return [[0] * n] * n",
        "g = f(2)\ng[0][0] = 1\nassert g[1][0] == 0",
        (0.0, "shared"),
    ),
    "a mutable default": ("def f(a=[]): return a", "f().append(1)\nassert f() == []", (0.0, "shared")),
    "an answer that is read after another call": (
        "def f(x, a=[]):\n    a.append(x)\n    return a",
        "x = f(1)\ny = f(2)\nassert x == [1]",
        (0.0, "shared"),
    ),
    "an argument that is changed": ("def f(v): v.sort()", "v = [2, 1]\nf(v)\nassert v == [1, 2]", (1.0, "shared")),
    "an argument that a function of the tests keeps": (
        "def f(v):\n    v.append(1)\n    return len(v)",
        "kept = []\ndef ask(): return f(kept)\nassert ask() == 1\nassert ask() == 2",
        (1.0, "shared"),
    ),
    "an argument that a function of the tests returns": (
        "def f(v):\n    v.append(1)\n    return len(v)",
        "kept = []\ndef give(): return kept\nf(give())\nassert kept == [1]",
        (1.0, "shared"),
    ),
    "a default value of a function of the tests": (
        "def f(v):\n    v.append(1)\n    return len(v)",
        "def ask(v=[]): return f(v)\nassert ask() == 1\nassert ask() == 2",
        (1.0, "shared"),
    ),
    "arguments of any number that are changed": (
        "def f(v): v.append(1)",
        "def ask(*values): f(*values)\nkept = []\nask(kept)\nassert kept == [1]",
        (1.0, "shared"),
    ),
    "an item that a function of a library passes on": (
        "def f(rows): rows[0].append(1)",
        "row = [0]\nf(list(filter(None, [row])))\nassert row == [0, 1]",
        (1.0, "shared"),
    ),
    "an argument with two names": (
        "def f(v):\n    v.append(1)\n    return len(v)",
        "a = b = []\nassert f(a) == 1\nassert f(b) == 2",
        (1.0, "shared"),
    ),
    "a function of the tests that makes new arguments": (
        "def f(v):\n    v.append(1)\n    return len(v)",
        "def new(n=0):\n    v = [n]\n    v.append(n)\n    return v\nassert f(new()) == 3\nassert f(new(2)) == 3",
        (1.0, "separate"),
    ),
    "the same object": ("def f(x): return x", "a = [1]\nassert f(a) == a\nassert f(a) is not a", (0.5, "shared")),
    "not a number in a list": ("def f(v): return v", "n = float('nan')\nassert f([n]) == [n]", (1.0, "shared")),
    # What stand-ins would answer.
    "a protocol": (
        "def f(x): return object()",
        "from collections.abc import Callable\nassert isinstance(f(1), Callable)",
        (0.0, "shared"),
    ),
    "an attribute": ("def f(x): return x", "assert hasattr(f(1), '__iter__')", (0.0, "shared")),
    "an exact type": ("class L(list): pass\ndef f(): return L()", "assert type(f()) is list", (0.0, "separate")),
    "a type": ("def f(): return True", "assert isinstance(f(), int)\nassert type(f()) is bool", (1.0, "separate")),
    "a text of a value": (
        "class L(list):\n    def __repr__(self): return 'L'\ndef f(): return L()",
        "assert repr(f()) == '[]'",
        (0.0, "separate"),
    ),
    "distinct objects": ("o = object()\ndef f(x): return o", "assert len({id(f(1)), id(f(2))}) == 2", (0.0, "shared")),
    # Surroundings.
    "output": (
        "def f(x): print(x)",
        "import contextlib, io\nout = io.StringIO()\nwith contextlib.redirect_stdout(out):\n    f(3)\n"
        "assert out.getvalue() == '3\\n'",
        (1.0, "shared"),
    ),
    "a variable": (
        "import os\ndef f(): return os.environ['K']",
        "import os\nos.environ['K'] = 'v'\nassert f() == 'v'",
        (1.0, "shared"),
    ),
    "a mock": (
        "import time\ndef f(): return time.time()",
        "from unittest import mock\nwith mock.patch('time.time', return_value=9):\n    assert f() == 9",
        (1.0, "shared"),
    ),
    # Classes, exceptions and generators of the program.
    "methods of a class": (
        "from collections import OrderedDict\nclass Cache(OrderedDict):\n"
        "    def put(self, k): self[k] = 1; return self\n"
        "    def get(self, k, *_): return len(self)",
        "c = Cache()\nc.put(1)\nc.put(2)\nassert c.get(0) == 2",
        (1.0, "separate"),
    ),
    "attributes of an object": (
        "class P:\n    def __init__(self, x): self.x = x",
        "assert P(3).x == 3\nassert P(1).x == 2",
        (0.5, "shared"),
    ),
    "operators of an object": (
        "class V:\n    def __init__(self, x): self.x = x\n    def __eq__(self, other): return self.x == other.x",
        "assert V(1) == V(1)\nassert V(1) == V(2)",
        (0.5, "shared"),
    ),
    "an exception of the program": (
        "class E(Exception): pass\ndef f(x): raise E(x)",
        "try:\n    f(1)\n    assert False\nexcept E as error:\n    assert error.args == (1,)",
        (1.0, "shared"),
    ),
    "an exception that extends a builtin": (
        "class E(ValueError): pass\ndef f(x): raise E(x)",
        "try:\n    f(1)\n    assert False\nexcept ValueError:\n    pass",
        (1.0, "separate"),
    ),
    "an endless generator": (
        "def f():\n    n = 0\n    while True:\n        yield n\n        n += 1",
        "from itertools import islice\nassert list(islice(f(), 3)) == [0, 1, 2]\nassert next(f()) == 0",
        (1.0, "shared"),
    ),
    "a long iterator": (
        "def f(n): return map(int, range(n))",
        "assert sum(f(300_000)) == 44999850000",
        (1.0, "separate"),
    ),
    "values nested deep": (
        "def f(n):\n    x = []\n    for _ in range(n): x = [x]\n    return x",
        "x = f(200)\nn = 0\nwhile x:\n    x = x[0]\n    n += 1\nassert n == 200",
        (1.0, "separate"),
    ),
    "an object that only has to be true": (
        "import re\ndef f(x): return re.match('a', x)",
        "assert f('ab')\nassert not f('b')",
        (1.0, "separate"),
    ),
    "objects that go back to the program": (
        "class Node:\n    def __init__(self, x, rest): self.x, self.rest = x, rest\n"
        "def build(v):\n    head = None\n    for x in reversed(v): head = Node(x, head)\n    return head\n"
        "def values(head):\n    v = []\n    while head: v, head = v + [head.x], head.rest\n    return v",
        "assert values(build([1, 2])) == [1, 2]\nhead = build([3])\nassert values(head=head) == [3]\n"
        "assert build([]) is None\nassert build([1]) is not None",
        (1.0, "separate"),
    ),
    "an answer that the program changes later": (
        "kept = []\ndef get(): return kept\ndef add(v, x): v.append(x)",
        "add(get(), 1)\nassert get() == [1]\nassert get() == [2]",
        (0.5, "separate"),
    ),
    "items of answers that go back to the program": (
        "class P:\n    x = 1\ndef some(): return [P()]\ndef x_of(p): return p.x",
        "for p in some(): assert x_of(p) == 1\nassert x_of(some()[0]) == 1\nassert list(map(x_of, some())) == [1]",
        (1.0, "shared"),
    ),
    "texts and truths of objects": (
        "import pathlib, re\ndef f(x): return pathlib.Path(x)\ndef g(x): return re.match('a', x)",
        "assert str(f('a')) == 'a'\nassert bool(g('a'))\nassert all(g(x) for x in ('a', 'ab'))\n"
        "assert [x for x in 'ab' if g(x)] == ['a']\nassert g('b') is None\nassert str(f('a')) == 'b'",
        (5 / 6, "separate"),
    ),
    "a result that nobody uses": (
        "class Q:\n    def add(self, x): return self\n    def n(self): return 1",
        "q = Q()\nq.add(1)\nassert q.n() == 1",
        (1.0, "separate"),
    ),
    "a coroutine": ("async def f(x): return 2 * x", "import asyncio\nassert asyncio.run(f(2)) == 4", (1.0, "shared")),
    "threads": (
        "def f(x): return 2 * x",
        "from concurrent.futures import ThreadPoolExecutor\nwith ThreadPoolExecutor(4) as pool:\n"
        "    assert list(pool.map(f, range(4))) == [0, 2, 4, 6]",
        (1.0, "shared"),
    ),
    "a signature": (
        "def f(a, b): pass",
        "import inspect\nassert len(inspect.signature(f).parameters) == 1",
        (0.0, "shared"),
    ),
    "a callback": (
        "def f(g): return g(1)",
        "assert f(lambda x: x + 1) == 2\nassert f(lambda x: -x) == 1",
        (0.5, "shared"),
    ),
    "a text to evaluate": (
        "def f(v): return '+'.join(map(str, v))",
        "assert eval(f([1, 2])) == 3\nassert eval(f([2])) == 3",
        (0.5, "shared"),
    ),
    "a guard": ("def f(x): return x\nif __name__ == '__main__': input()", "assert f(1) == 1", (1.0, "separate")),
    "a builtin that calls the program": (
        "def f(x): return -x",
        "assert list(map(f, [1, 2])) == [-1, -2]\nassert sorted([1, 2], key=f) == [2, 1]",
        (1.0, "separate"),
    ),
}


@pytest.fixture(scope="module")
def judge():
    with Judge(workers=1) as judge:
        yield judge


def judged(judge: Judge, program: str, code: str, **fields: object):
    tests = FunctionTests(code=code, **{"entry_point": None, **fields})
    [[verdict]] = judge.run([(CodingTask(task_id="t", prompt="p", tests=tests), [program])])
    return verdict


@pytest.mark.parametrize("name", CASES)
def test_a_verdict_is_that_of_plain_python(judge, name):
    program, code, expected = CASES[name]
    verdict = judged(judge, program, code)
    assert (verdict.pass_rate, verdict.run) == (pytest.approx(expected[0]), expected[1]), verdict.message
    # The interpreter imports the program, so that its main guard does not run, and executes the tests in its globals.
    both = f"import types\nm = types.ModuleType('solution')\nexec({program!r}, vars(m))\nexec({code!r}, vars(m))"
    plain = subprocess.run([sys.executable, "-c", both], capture_output=True, timeout=60, stdin=subprocess.DEVNULL)
    assert verdict.accepted == (plain.returncode == 0), plain.stderr.decode()[-500:]


def test_a_check_that_a_block_swallows_has_failed(judge):
    code = "import contextlib\nwith contextlib.suppress(AssertionError):\n    assert f(2) == 2\nassert f(1) == 1"
    assert judged(judge, "def f(x): return 1", code).pass_rate == 0.5
    code = "try:\n    f(1)\n    assert False, 'must raise'\nexcept Exception:\n    pass"
    assert judged(judge, "def f(x): return 1", code).pass_rate == 0.0
    assert judged(judge, "def f(x): return 1 / 0", code).accepted


def test_the_number_of_tests_is_that_of_the_code(judge):
    code = "assert f(1) == 1\nfor x in f(0): assert x\nassert f(2) == 2"
    for program in ("def f(x): return x", "", "def f(x): raise SystemExit", "def f(", "import os\nos._exit(0)"):
        assert judged(judge, program, code).total == 3


def test_tests_that_fail_by_themselves_blame_no_program(judge):
    program = "def f(x): return x"
    for code, setup in (
        ("assert f(1) == 1", "1 / 0"),
        ("d = {}\nd['x']\nassert f(1) == 1", ""),
        ("import no_such_module\nassert f(1) == 1", ""),
        ("assert f(1) ==", ""),
    ):
        verdict = judged(judge, program, code, setup=setup)
        assert verdict.pass_rate is None
        assert verdict.message
    assert judged(judge, "def g(): pass", "assert f(1) == 1").pass_rate == 0.0


def test_a_preamble_that_fails_blames_no_program(judge):
    tests = FunctionTests(code="assert f(1) == 1")
    for preamble, rates in (("import no_such_module", [None, None]), ("K = 1", [1.0, 0.0])):
        task = CodingTask(task_id="t", prompt="p", tests=tests, preamble=preamble)
        [verdicts] = judge.run([(task, ["def f(x): return x", "def f(x): return K / 0"])])
        assert [verdict.pass_rate for verdict in verdicts] == rates


def test_a_task_may_ask_for_a_way_to_run(judge):
    program, code = "def f(x): return x", "assert f(1) == 1"
    assert judged(judge, program, code, run="shared").run == "shared"
    assert judged(judge, program, code, run="separate").run == "separate"
    verdict = judged(judge, program, "assert f(1) is f(1)", run="separate")
    assert verdict.pass_rate is None
    assert "cannot run separate" in verdict.message


def test_shared_tests_can_be_refused():
    with Judge(workers=1, shared_tests="refuse") as judge:
        verdict = judged(judge, "def f(x): return x", "assert f(1) is f(1)\nassert f(2) == 2")
        assert (verdict.pass_rate, verdict.total) == (None, 2)
        assert "refuses" in verdict.message
        assert judged(judge, "def f(x): return x", "assert f(1) == 1").accepted
    with pytest.raises(ValueError, match="shared_tests"):
        Judge(workers=1, shared_tests="maybe")
