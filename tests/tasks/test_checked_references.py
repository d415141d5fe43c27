"""References of tasks, checked by a judge while the tasks are loaded."""

import logging

import pytest

from trl_pper import CodingTask, FunctionTests, Judge, StdioCase, StdioTests, load_tasks

TESTS = FunctionTests(code="assert f(1) == 1\nassert f(2) == 4", entry_point="f")
SQUARE, SAME = "def f(x): return x * x", "def f(x): return x"


def task(name, reference, tests=TESTS, **others):
    return CodingTask(task_id=name, prompt="p", tests=tests, reference=reference, **others)


@pytest.fixture(scope="module")
def judge():
    with Judge(workers=1) as judge:
        yield judge


def test_tasks_whose_references_fail_are_left_out(judge, caplog):
    needs = FunctionTests(code="import no_such_library\nassert f(1) == 1", entry_point="f")
    prints = StdioTests(cases=(StdioCase(input="", output="3"),))
    tasks = [
        task("right", SQUARE),
        task("wrong", SAME),
        task("none", None),
        task("lacks", SQUARE, needs),
        task("prints", "print(3)", prints),
        task("raises", "print(1 / 0)", prints),
        task("helped", "print(x)", prints, preamble="x = 3"),
    ]
    errors: list[str] = []
    with caplog.at_level(logging.WARNING):
        kept = load_tasks(tasks, check_references=judge, errors=errors)
    assert [one.task_id for one in kept] == ["right", "none", "prints", "helped"]
    assert errors == [
        "wrong: reference: passes 1 of 2 tests: assert f(2) == 4",
        "lacks: reference: not judged: the tests need the module no_such_library, which is not installed here",
        "raises: reference: passes 0 of 1 tests: test 1: ZeroDivisionError: division by zero (line 1)",
    ]
    [record] = caplog.records
    assert record.getMessage().startswith(
        "source: 3 of 6 references do not pass, and their tasks are left out: wrong:"
    )


def test_only_tests_that_are_kept_count(judge):
    assert len(load_tasks([task("wrong", SAME)], max_tests=1, check_references=judge)) == 1


def test_references_are_not_checked_unless_asked_for():
    assert len(load_tasks([task("wrong", SAME)])) == 1


def test_no_right_reference_at_all_is_an_error(judge):
    with pytest.raises(ValueError, match="check_references: no reference passes; wrong: reference: passes 1 of 2"):
        load_tasks([task("wrong", SAME)], check_references=judge)


@pytest.mark.parametrize("given", [True, "judge"])
def test_references_are_checked_by_a_judge_alone(given):
    with pytest.raises(TypeError, match="check_references: must be a Judge"):
        load_tasks([task("right", SQUARE)], check_references=given)
