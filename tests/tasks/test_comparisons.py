"""Comparisons with a name: tasks that compare with a function are rows of files and data sets."""

import datasets
import pytest

from trl_pper import (
    CodingTask,
    Judge,
    StdioCase,
    StdioTests,
    load_tasks,
    pass_rate_reward,
    register_comparison,
    task_rows,
)
from trl_pper.tasks import task as tasks_room
from trl_pper.tasks.loading import write_tasks
from trl_pper.tasks.task import COMPARISONS


def divides(given: str, output: str, expected: str) -> bool:
    return int(given) % int(output) == 0


def never(given: str, output: str, expected: str) -> bool:
    return output == expected


@pytest.fixture(autouse=True)
def registry(monkeypatch):
    """An empty registry, and the former one afterwards."""
    found: dict = {}
    monkeypatch.setattr(tasks_room, "_registered", found)
    return found


def divisor(compare) -> CodingTask:
    tests = StdioTests(cases=(StdioCase(input="12", output="3"),), compare=compare)
    return CodingTask(task_id="divisor", prompt="Print a divisor.", tests=tests)


def test_a_registered_function_is_written_by_name_and_read_back(tmp_path):
    register_comparison("divides", divides)
    task = divisor(divides)
    assert divisor("divides") == task
    assert '"compare": "divides"' in tasks_room.tests_to_json(task.tests)
    assert tasks_room.tests_from_json(tasks_room.tests_to_json(task.tests)).compare is divides
    for name in ("tasks.jsonl", "tasks.parquet"):
        write_tasks(tmp_path / name, [task])
        assert load_tasks(tmp_path / name) == [task]


def test_rows_with_a_name_are_rewarded_by_the_function():
    register_comparison("divides", divides)
    rows = datasets.Dataset.from_list(task_rows([divisor(divides)] * 3))
    written = ["input(); print(4)", "input(); print(5)", "print('none')"]
    with Judge(workers=1) as judge:
        given = dict(prompts=rows["prompt"][:], tests=rows["tests"][:], task_id=rows["task_id"][:])
        assert pass_rate_reward(judge)(completions=written, **given) == [1.0, 0.0, 0.0]


def test_an_unregistered_name_is_refused_with_the_remedy(registry):
    register_comparison("divides", divides)
    rows = task_rows([divisor(divides)])
    registry.clear()
    with pytest.raises(
        ValueError, match=r"^compare: .* got 'divides'. register_comparison\(name, function\) registers"
    ):
        CodingTask.from_row(rows[0])
    register_comparison("never", never)
    with pytest.raises(ValueError, match=r"a name that is registered in this process \(never\); got 'divides'"):
        load_tasks(rows)


def test_a_function_without_a_name_is_refused_with_the_remedy():
    register_comparison("never", never)
    for compare in (divides, lambda *_: True):
        with pytest.raises(
            ValueError, match=r"^compare: a function cannot be written to a file; got .*function.* which"
        ):
            task_rows([divisor(compare)])


def test_a_name_means_one_function():
    register_comparison("divides", divides)
    register_comparison("divides", divides)
    with pytest.raises(ValueError, match=r"^name: 'divides' is the name of <function divides at"):
        register_comparison("divides", never)
    # As a cell of a notebook defines it anew.
    code = "def divides(given, output, expected):\n    return False\n"
    names = {"__name__": __name__}
    exec(code, names)
    register_comparison("divides", names["divides"])
    assert divisor("divides").tests.compare is names["divides"]
    one, other = ((lambda *_, n=n: bool(n)) for n in range(2))
    register_comparison("unnamed", one)
    with pytest.raises(ValueError, match=r"^name: 'unnamed' is the name of"):
        register_comparison("unnamed", other)


@pytest.mark.parametrize("name", [*COMPARISONS, "floats"])
def test_names_of_comparisons_stay_what_they_are(name):
    with pytest.raises(ValueError, match=rf"^name: '{name}' is a comparison of every task already"):
        register_comparison(name, divides)


def test_names_and_functions_are_checked():
    for name in ("", "two words", "floats(0,1)", None, 3):
        with pytest.raises(ValueError, match=r"^name: must be letters, digits"):
            register_comparison(name, divides)
    with pytest.raises(TypeError, match=r"^checker: must be a function of input, output and expected output; got 'x'"):
        register_comparison("x", "x")

    class Unhashable(list):
        def __call__(self, *texts):
            return True

    with pytest.raises(ValueError, match=r"^compare: must be hashable"):
        register_comparison("x", Unhashable())
