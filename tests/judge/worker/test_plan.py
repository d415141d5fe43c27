"""What counts as a test, and which names tests expect from the program."""

from __future__ import annotations

import ast

import pytest

from trl_pper.judge.worker.plan import BadTests, plan_tests
from trl_pper.tasks.tests import count_tests, why_no_test


@pytest.mark.parametrize(
    ("code", "count"),
    [
        ("assert f(1)", 1),
        ("assert f(1)\nassert f(2), 'message'", 2),
        ("assert True\nassert 1\nassert 'x', 'y'\nassert f(1)", 1),
        ("assert False", 1),
        ("for x in range(3):\n    assert f(x)\n    assert f(-x)", 1),
        ("if f(1):\n    assert f(2)\nelse:\n    assert f(3)", 1),
        ("with open('x'):\n    assert f(1)", 1),
        ("try:\n    f(1)\n    assert False\nexcept ValueError:\n    pass", 1),
        ("with pytest.raises(ValueError):\n    f(1)", 1),
        ("def check(c):\n    with pytest.raises(ValueError):\n        c(1)\ncheck(f)", 1),
        ("def check(c):\n    assert c(1)\n    assert True\n    assert c(2)\ncheck(f)", 2),
        ("def check(c):\n    assert c(1)", 0),
        ("def check(c):\n    assert c(1)\nassert f(2)", 1),
        ("def one(c):\n    assert c(1)\ndef all_(c):\n    x = 1\n    one(c)\n    assert c(2)\nall_(f)", 2),
        ("def check(c):\n    def inner():\n        assert c(1)\n    inner()\ncheck(f)", 1),
        ("def check(c):\n    def inner():\n        assert c(1)\ncheck(f)", 0),
        ("class T:\n    def test(self):\n        assert f(1)", 0),
        ("g = lambda: 1\nx = f(1)", 0),
        ("not python (", 0),
        ("", 0),
    ],
)
def test_statements_that_hold_an_assert_are_counted(code, count):
    assert count_tests(code) == count


def test_the_text_of_a_test_is_that_of_its_source():
    code = "def check(c):\n    assert c('é') == [\n        1]; assert c(2)\r\n    assert c(3) is c(4)\rcheck(f)"
    expected = ["assert c('é') == [\n        1]", "assert c(2)", "assert c(3) is c(4)"]
    assert list(plan_tests(code).texts) == expected


def test_tests_are_numbered_in_source_order():
    plan = plan_tests("def check(c):\n    assert c(1)\nassert f(2)\ncheck(f)\nassert f(3)")
    assert list(plan.texts) == ["assert c(1)", "assert f(2)", "assert f(3)"]


@pytest.mark.parametrize(
    ("code", "setup", "entry_point", "names"),
    [
        ("assert f(1) == 2", "", None, {"f"}),
        ("assert f(g(1)) == len(h)", "", None, {"f", "g", "h"}),
        ("import math\nassert f(math.pi)", "", None, {"f"}),
        ("x = 1\nassert f(x)", "", "f", {"f"}),
        ("assert f(x)", "x = 1", "f", {"f"}),
        ("assert sum(1, 2) == 3", "", None, {"sum"}),
        ("assert f(sum([1]))", "", None, {"f"}),
        ("assert check(1)", "", "check", {"check"}),
        ("def check(candidate):\n    assert candidate(1)\ncheck(f)", "", "f", {"f"}),
        (
            "def check(candidate):\n    from math import pi\n    y = helper(pi)\n    assert candidate(y)\ncheck(f)",
            "",
            "f",
            {"f", "helper"},
        ),
        ("def check(c):\n    assert c(1)\ncheck(Solution().run)", "", "Solution().run", {"Solution"}),
        ("assert [f(y) for y in range(3)]", "", None, {"f"}),
        ("assert f(1)", "def helper(): return other()", None, {"f", "other"}),
        ("assert abs(f(1)) < 1", "", "f", {"f"}),
        ("assert list(max(1, 2))", "", "max", {"max"}),
    ],
)
def test_names_the_program_must_supply(code, setup, entry_point, names):
    assert set(plan_tests(code, setup=setup, entry_point=entry_point).program_names) == names


def test_standard_modules_are_never_taken_from_the_program():
    plan = plan_tests("assert math.isclose(f(1), 2)", entry_point="f")
    assert plan.module_names == {"math"}
    assert plan_tests("assert datetime(1) == f()", entry_point="f").module_names == frozenset()
    assert plan_tests("assert math.f() == 1", entry_point="math").module_names == frozenset()


def test_why_there_is_no_test():
    assert "nothing calls check" in why_no_test(ast.parse("def check(f):\n    assert f(1)"))
    assert "no test that runs" in why_no_test(ast.parse("x = 1"))
    with pytest.raises(BadTests, match="no test that runs"):
        plan_tests("x = 1")
