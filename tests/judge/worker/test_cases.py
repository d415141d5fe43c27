"""Tests that unittest or pytest would collect give the verdicts that these give."""

from __future__ import annotations

import io
import itertools
import subprocess
import sys
import unittest

import pytest

from trl_pper import CodingTask, FunctionTests, Judge
from trl_pper.judge.worker import pytest_names

RIGHT = "def f(x): return 2 * x"
#: Right for 1 alone.
WRONG = "def f(x): return 2"

UNITTEST = """
import unittest
from unittest import TestCase

class Base(TestCase):
    @classmethod
    def setUpClass(cls):
        cls.ready = True

    def setUp(self):
        self.one = 1

    def tearDown(self):
        del self.one

    def test_one(self):
        self.assertTrue(self.ready)
        self.assertEqual(f(self.one), 2)


class Test(Base):
    def test_many(self):
        for x in (1, 2):
            with self.subTest(x=x):
                self.assertEqual(f(x), 2 * x)

    @unittest.expectedFailure
    def test_broken(self):
        self.assertEqual(f(1), 3)

    @unittest.skip("later")
    def test_later(self):
        self.fail()

    @unittest.skipIf(True, "never here")
    def test_elsewhere(self):
        self.fail()

    def test_raises(self):
        with self.assertRaises(TypeError):
            f(1, 2)

    async def helper(self):
        return f(2)


class Later(unittest.IsolatedAsyncioTestCase):
    async def test_soon(self):
        self.assertEqual(f(2), 4)


if __name__ == "__main__":
    unittest.main()
"""

PYTEST = """
import pytest

@pytest.fixture
def two():
    yield 2

@pytest.fixture(scope="module")
def log():
    return []

def test_plain():
    assert f(1) == 2

@pytest.mark.parametrize("x, y", [(1, 2), (2, 4), pytest.param(3, 6)])
def test_pairs(x, y, log):
    log.append(x)
    assert f(x) == y

@pytest.mark.parametrize("x", range(3))
def test_range(x):
    assert f(x) == 2 * x

def test_fixture(two, tmp_path):
    (tmp_path / "a").write_text("b")
    assert f(two) == 4

def test_near():
    assert f(0.1) == pytest.approx(0.2)

def test_raises():
    with pytest.raises(TypeError, match="argument"):
        f(1, 2)

class TestClass:
    def setup_method(self):
        self.x = 2

    def test_method(self):
        assert f(self.x) == 4

    def test_output(self, capsys):
        print(f(1))
        assert capsys.readouterr().out == "2\\n"
"""


@pytest.fixture(scope="module")
def judge():
    with Judge(workers=1) as judge:
        yield judge


def judged(judge, program, code, entry_point="f", cpu_seconds=None):
    tests = FunctionTests(code=code, entry_point=entry_point)
    task = CodingTask(task_id="t", prompt="p", tests=tests, cpu_seconds=cpu_seconds)
    [[verdict]] = judge.run([(task, [program])])
    assert verdict.run == "shared"
    return verdict


def test_a_test_case_gives_what_unittest_gives(judge):
    # The skipped method is no test; the conditional skip is one, and passes.
    assert judged(judge, RIGHT, UNITTEST).accepted
    verdict = judged(judge, WRONG, UNITTEST)
    scope: dict = {"__name__": "tests_of_f"}
    exec(WRONG + "\n" + UNITTEST, scope)
    module = type(sys)("tests_of_f")
    vars(module).update(scope)
    suite = unittest.defaultTestLoader.loadTestsFromModule(module)
    result = unittest.TextTestRunner(stream=io.StringIO()).run(suite)
    failed = {test.id().split()[0] for test, _ in (*result.failures, *result.errors)}
    # unittest runs the method that is always skipped, too.
    assert (verdict.total, verdict.total - verdict.passed) == (result.testsRun - 1, len(failed))


def test_functions_give_what_pytest_gives(judge, tmp_path):
    path = tmp_path / "test_of_f.py"
    for program in (RIGHT, WRONG):
        verdict = judged(judge, program, PYTEST)
        path.write_text(f"{program}\n{PYTEST}")
        run = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-c", "/dev/null", str(path)]
        said = subprocess.run(run, capture_output=True, text=True, cwd=tmp_path, timeout=120).stdout
        last = said.strip().splitlines()[-1]
        words = last.replace(",", "").split()
        counted = {word: int(number) for number, word in itertools.pairwise(words) if number.isdigit()}
        # A range is no literal list of parameters: its three sets, of which WRONG passes one, are one test.
        assert (verdict.total, sum(counted[word] for word in ("passed", "failed") if word in counted)) == (10, 12)
        assert verdict.passed == counted["passed"] - (2 if program is RIGHT else 1)
        assert verdict.accepted == ("failed" not in counted)


def test_methods_that_the_code_calls_are_tests_once(judge):
    code = "class TestF:\n    def test_a(self): assert f(1) == 2\n    def test_b(self): assert f(2) == 4\n"
    code += "t = TestF()\nt.test_a()\nt.test_b()"
    assert judged(judge, WRONG, code).pass_rate == 0.5
    assert judged(judge, RIGHT, code).accepted


def test_functions_that_the_code_finds_by_name_run_once(judge):
    code = "assert f(1) == 2\ndef test_two():\n    assert f(2) == 4\n"
    loop = "for name, each in list(globals().items()):\n    if name.startswith('test_'): each()\n"
    for text in (code, code + loop):
        assert judged(judge, WRONG, text).pass_rate == 0.5
        assert judged(judge, RIGHT, text).accepted


#: Name: test code, the pass rate of the right program, that of the wrong one.
FORMS = {
    "unittest by another name": (
        "import unittest as ut\nclass T(ut.TestCase):\n    def test_a(self): self.assertEqual(f(2), 4)\n"
        "    def test_b(self): self.assertEqual(f(1), 2)\nif __name__ == '__main__': ut.main()",
        (1.0, 0.5),
    ),
    "main by its own name": (
        "from unittest import TestCase, main\nclass T(TestCase):\n    def test_a(self): self.assertEqual(f(2), 4)\n"
        "    def test_b(self): self.assertEqual(f(1), 2)\nif __name__ == '__main__': main()",
        (1.0, 0.5),
    ),
    "a runner whose result is the exit status": (
        "import sys, unittest\nclass T(unittest.TestCase):\n    def test_a(self): self.assertEqual(f(2), 4)\n"
        "    def test_b(self): self.assertEqual(f(1), 2)\nif __name__ == '__main__':\n"
        "    suite = unittest.defaultTestLoader.loadTestsFromTestCase(T)\n"
        "    sys.exit(not unittest.TextTestRunner().run(suite).wasSuccessful())",
        (1.0, 0.5),
    ),
    "methods that are made at run time": (
        "import unittest\nclass T(unittest.TestCase):\n    def test_a(self): self.assertEqual(f(1), 2)\n"
        "def method(x): return lambda self: self.assertEqual(f(x), 2 * x)\n"
        "for x in (2, 3): setattr(T, f'test_{x}', method(x))",
        (1.0, 0.0),
    ),
    "skips of the test code": (
        "import unittest\nclass T(unittest.TestCase):\n    def test_a(self): self.skipTest('later')\n"
        "    def test_b(self): self.assertEqual(f(2), 4)",
        (1.0, 0.5),
    ),
    "skips inside functions": (
        "import pytest\ndef test_a(): pytest.skip('later')\ndef test_b(): assert f(2) == 4",
        (1.0, 0.5),
    ),
    "marks of parameter sets": (
        "import pytest\n@pytest.mark.parametrize('x', [pytest.param(1, marks=pytest.mark.slow), pytest.param(2,"
        " marks=[pytest.mark.skip]), pytest.param(0, marks=pytest.mark.xfail), 3])\n"
        "def test_a(x): assert f(x) == 2 * x",
        (1.0, 0.75),
    ),
    "parameters by keyword": (
        "import pytest\n@pytest.mark.parametrize(argnames='x', argvalues=[1, 2])\ndef test_a(x): assert f(x) == 2 * x",
        (1.0, 0.5),
    ),
    "parameters of a class": (
        "import pytest\n@pytest.mark.parametrize('x', [1, 2])\nclass TestA:\n"
        "    def test_a(self, x): assert f(x) == 2 * x\n"
        "    def test_b(self, x): assert f(x) > 0",
        (1.0, 0.75),
    ),
    "parameters of a fixture": (
        "import pytest\n@pytest.fixture(params=[1, 2])\ndef x(request): return request.param\n"
        "@pytest.fixture\ndef y(x): return 2 * x\ndef test_a(x, y): assert f(x) == y\ndef test_b(): assert f(1) == 2",
        (1.0, 0.5),
    ),
    "parameters for a fixture": (
        "import pytest\n@pytest.fixture\ndef x(request): return 2 * request.param\n"
        "@pytest.mark.parametrize('x', [0.5, 1], indirect=True)\ndef test_a(x): assert f(x) == 2 * x",
        (1.0, 0.5),
    ),
    "a request": (
        "import pytest\nlog = []\n@pytest.fixture(name='two')\ndef make_two(request):\n"
        "    request.addfinalizer(lambda: log.append(1))\n    return 2\n"
        "def test_a(request): assert f(request.getfixturevalue('two')) == 4\n"
        "def test_b(two): assert log == [1] and f(1) == 2",
        (1.0, 0.5),
    ),
    "fixtures that a mark asks for": (
        "import pytest\nk = []\n@pytest.fixture\ndef fill(): k.append(2)\n"
        "@pytest.mark.usefixtures('fill')\ndef test_a(): assert f(k[0]) == 4\ndef test_b(): assert f(1) == 2",
        (1.0, 0.5),
    ),
    "a class method without a decorator": (
        "class TestA:\n    def setup_class(cls): cls.x = 2\n    def test_a(self): assert f(self.x) == 4\n"
        "    def test_b(self): assert f(1) == 2",
        (1.0, 0.5),
    ),
    "a class that opts out": (
        "class TestData:\n    __test__ = False\n    def test_a(self): assert False\n"
        "def test_a(): assert f(2) == 4\ndef test_b(): assert f(1) == 2",
        (1.0, 0.5),
    ),
    "arguments of patches": (
        "import time\nfrom unittest.mock import patch\n@patch('time.time', return_value=2)\n"
        "def test_a(now): assert f(time.time()) == 4\n@patch('time.sleep')\n@patch('time.time', return_value=1)\n"
        "def test_b(now, sleep): assert f(time.time()) == 2",
        (1.0, 0.5),
    ),
    "conditions in texts": (
        "import pytest\n@pytest.mark.skipif('sys.version_info < (3,)', reason='old')\ndef test_a(): assert f(2) == 4\n"
        "@pytest.mark.xfail(strict=True)\ndef test_b(): assert f(1) == 3",
        (1.0, 0.5),
    ),
    "a guard that calls all tests": (
        "def test_a(): assert f(2) == 4\ndef test_b(): assert f(1) == 2\nif __name__ == '__main__':\n"
        "    for name, each in list(globals().items()):\n        if name.startswith('test_'): each()",
        (1.0, 0.5),
    ),
}


@pytest.mark.parametrize("name", FORMS)
def test_a_form_gives_what_its_runner_gives(judge, name):
    code, rates = FORMS[name]
    got = tuple(judged(judge, program, code).pass_rate for program in (RIGHT, WRONG))
    assert got == rates


def test_functions_in_blocks_are_collected(judge):
    code = "import sys\nif sys.version_info > (3,):\n    def test_a():\n        assert f(1) == 2\n"
    code += "try:\n    pass\nfinally:\n    def test_b():\n        assert f(2) == 4\n"
    assert judged(judge, WRONG, code).pass_rate == 0.5
    assert judged(judge, RIGHT, code).accepted


def test_a_check_that_nothing_calls_gets_the_entry_point(judge):
    code = "def check(candidate):\n    assert candidate(1) == 2\n    assert candidate(2) == 4\n"
    task = CodingTask(task_id="t", prompt="p", tests=FunctionTests(code=code, entry_point="f"))
    [[right, wrong]] = judge.run([(task, [RIGHT, WRONG])])
    assert (right.pass_rate, wrong.pass_rate, right.run) == (1.0, 0.5, "separate")


def test_what_fails_before_a_class_fails_its_tests(judge):
    code = "import unittest\nclass T(unittest.TestCase):\n    @classmethod\n    def setUpClass(cls): cls.x = f(2)\n"
    code += "    def test_a(self): self.assertEqual(self.x, 4)\n    def test_b(self): self.assertEqual(self.x, 4)\n"
    assert judged(judge, RIGHT, code).accepted
    verdict = judged(judge, "def f(x): raise KeyError(x)", code)
    assert [str(each) for each in verdict.outcomes] == ["runtime_error"] * 2
    assert "KeyError" in verdict.message


@pytest.mark.parametrize(
    "program",
    [
        "import sys\ndef f(x): sys.exit(0)",
        "import os\ndef f(x): os._exit(0)",
        "import os, atexit\natexit.register(os._exit, 0)\ndef f(x): raise SystemExit",
        "import unittest\nunittest.TestCase.assertEqual = lambda *_: None\ndef f(x): return 0",
        "import unittest\ndef f(x):\n    unittest.TestCase.assertEqual = lambda *_: None\n    return 0",
        "import unittest\ndef f(x): raise unittest.SkipTest('no')",
        "class Yes:\n    def __eq__(self, other): return True\ndef f(x): return Yes()",
        "class Yes(int):\n    def __eq__(self, other): return True\ndef f(x): return None",
        "__pper_test__ = None\ndef f(x):\n    globals()['__pper_test__'] = lambda n: open('x', 'w')\n    return 0",
        "import unittest\nunittest.TestSuite.run = lambda *_: None\ndef f(x): return 0",
        "import threading\ndef f(x):\n    threading.current_thread().run = print\n    return 0",
        "def f(x):\n    while True: pass",
    ],
)
def test_known_tricks_pass_no_shared_test(program, judge):
    case = "import unittest\nclass T(unittest.TestCase):\n"
    case += "    def test_a(self): self.assertEqual(f(1), 2)\n    def test_b(self): self.assertEqual(f(2), 4)\n"
    verdict = judged(judge, program, case, cpu_seconds=1.0)
    assert (verdict.passed, verdict.total) == (0, 2), verdict.outcomes
    plain = "import inspect\nassert inspect.isfunction(f)\nassert f(1) == 2\nassert f(2) == 4"
    assert judged(judge, program, plain, cpu_seconds=1.0).passed <= 1


def test_a_class_of_the_program_is_compared_by_its_own_rules(judge):
    program = "class F:\n    def __init__(self, a, b): self.a, self.b = a, b\n"
    program += "    def __eq__(self, other): return self.a / self.b == other"
    assert judged(judge, program, "assert F(1, 2) == 0.5", entry_point="F").accepted


def test_texts_to_evaluate_reach_nothing(judge):
    secret = "().__class__.__base__.__subclasses__() and 3"
    assert judged(judge, f"def f(v): return {secret!r}", "assert eval(f([1, 2])) == 3").pass_rate == 0.0
    code = "class C:\n    x = 42\nassert f(1).format(c=C(), n=1) == '42'"
    assert judged(judge, "def f(x): return '{c.x}'", code).pass_rate == 0.0
    assert judged(judge, "def f(x): return '4{n}'", code.replace("'42'", "'41'")).accepted


def test_a_missing_fixture_is_the_fault_of_the_tests(judge):
    [[verdict]] = judge.run(
        [
            (
                CodingTask(
                    task_id="t", prompt="p", tests=FunctionTests(code="def test_a(client):\n    assert f(client)")
                ),
                [RIGHT],
            )
        ]
    )
    assert verdict.pass_rate is None
    assert "the fixture client" in verdict.message


def test_an_endless_test_costs_its_own_time_only(judge):
    code = "import inspect\nassert f(0) == 0\nassert inspect.isfunction(f)\nassert f(1) == 2\nassert f(2) == 4"
    program = "def f(x):\n    while x == 1: pass\n    return 2 * x"
    assert [str(each) for each in judged(judge, program, code).outcomes] == ["passed", "passed", "timeout", "passed"]


@pytest.mark.parametrize(
    ("actual", "expected", "options"),
    [
        *[(1.0 + step, 1.0, {}) for step in (0, 1e-7, 9e-7, 2e-6, 1e-3)],
        *[(0.0 + step, 0.0, {}) for step in (1e-13, 1e-11)],
        *[([1.0, 2.0 + step], [1.0, 2.0], {}) for step in (1e-7, 1e-3)],
        *[({"a": 1.0 + step}, {"a": 1.0}, {}) for step in (1e-7, 1e-3)],
        *[(1.0 + step, 1.0, {"abs": 0.01}) for step in (0.001, 0.1)],
        *[(1.0 + step, 1.0, {"rel": 0.01}) for step in (0.001, 0.1)],
        (float("nan"), float("nan"), {}),
        (float("nan"), float("nan"), {"nan_ok": True}),
        (float("inf"), float("inf"), {}),
        (1e300, float("inf"), {}),
        ("a", 1.0, {}),
        (None, None, {}),
        ((1, 2), (1, 2), {}),
        ([1], [1, 2], {}),
    ],
)
def test_the_names_of_pytest_judge_like_pytest(actual, expected, options):
    assert (actual == pytest_names.approx(expected, **options)) == (actual == pytest.approx(expected, **options))
    assert (pytest_names.approx(expected, **options) != actual) == (pytest.approx(expected, **options) != actual)


def test_the_raises_of_pytest_names_is_that_of_pytest():
    for raises in (pytest_names.raises, pytest.raises):
        with raises(ValueError, match="b+") as info:
            raise ValueError("abba")
        assert (info.type, info.value.args) == (ValueError, ("abba",))
        with pytest.raises(KeyError), raises(ValueError):
            raise KeyError
        assert raises(ZeroDivisionError, lambda x: 1 / x, 0).type is ZeroDivisionError
    with pytest.raises(AssertionError, match="DID NOT RAISE"), pytest_names.raises(ValueError):
        pass
    with pytest.raises(AssertionError, match="does not match"), pytest_names.raises(ValueError, match="x"):
        raise ValueError("y")
