"""Programs that try to have no pass rate instead of a low one."""

from __future__ import annotations

import pytest

from tests.judge.hostile.unjudgeable import PROGRAMS, TESTS
from trl_pper import CodingTask, FunctionTests, Judge, Limits, StdioTests
from trl_pper.tasks.task import StdioCase

pytestmark = [pytest.mark.hostile, pytest.mark.slow]

LIMITS = Limits(cpu_seconds=0.3, wall_factor=3.0, memory_bytes=512 << 20, max_timeouts=1)


@pytest.fixture(scope="module")
def judge():
    # Nothing here depends on the isolation level.
    with Judge(workers=2, limits=LIMITS) as judge:
        yield judge


@pytest.mark.timeout(300)
@pytest.mark.parametrize("run", ["auto", "shared"])
@pytest.mark.parametrize("name", TESTS)
def test_no_value_and_no_deed_leaves_a_program_out(judge, name, run):
    tests = FunctionTests(code=TESTS[name], entry_point="f", run=run)
    [verdicts] = judge.run([(CodingTask(task_id=name, prompt="p", tests=tests), list(PROGRAMS.values()))])
    left_out = {n: verdict.message for n, verdict in zip(PROGRAMS, verdicts, strict=True) if verdict.pass_rate is None}
    assert not left_out
    assert sum(verdict.accepted for verdict in verdicts) <= 1


def test_arguments_made_of_answers_leave_no_program_out(judge):
    big = "def f(x): return 'a' * (15 << 20)"
    deep = "def f(x):\n    a = []\n    for _ in range(398): a = [a]\n    return a"
    tests = FunctionTests(code="assert f(f(1) * 20) == 'x'", entry_point="f", run="separate")
    [verdicts] = judge.run([(CodingTask(task_id="t", prompt="p", tests=tests), [big, deep])])
    assert [verdict.pass_rate for verdict in verdicts] == [0.0, 0.0], [verdict.message for verdict in verdicts]


@pytest.mark.parametrize(
    "tests",
    [
        FunctionTests(code="assert f(1) == 1", entry_point="f"),
        FunctionTests(code="assert f(1) == 1", entry_point="f", run="shared"),
        StdioTests(cases=(StdioCase(input="", output="1"),)),
    ],
    ids=["separate", "shared", "stdio"],
)
def test_a_program_too_large_to_read_has_failed(tests):
    with Judge(workers=1, limits=Limits(memory_bytes=64 << 20)) as judge:
        program = "x = '" + "a" * (100 << 20) + "'"
        [[verdict]] = judge.run([(CodingTask(task_id="t", prompt="p", tests=tests), [program])])
    assert verdict.pass_rate == 0.0


@pytest.mark.timeout(120)
def test_files_that_come_and_go_leave_no_program_out():
    """The limit on files may end the process of the program between two of its tests."""
    program = """
import os, time
for number in range(70): open(str(number), "wb").write(b"x" * (1 << 20))
end = time.monotonic() + time.monotonic_ns() // 1000 % 97 / 1000
while time.monotonic() < end: pass
for number in range(70): os.unlink(str(number))
os._exit(0)
"""
    cases = tuple(StdioCase(input=str(number), output="1") for number in range(60))
    task = CodingTask(task_id="t", prompt="p", tests=StdioTests(cases=cases))
    with Judge(workers=1, isolation="landlock") as judge:
        [[verdict]] = judge.run([(task, [program])])
    assert verdict.pass_rate == 0.0


def test_names_of_a_file_take_its_room_once():
    program = """
import os, time
with open("a", "wb") as file: file.write(b"x" * (1 << 20))
for number in range(200): os.link("a", str(number))
time.sleep(0.5)
print(len(os.listdir()))
"""
    task = CodingTask(task_id="t", prompt="p", tests=StdioTests(cases=(StdioCase(input="", output="201"),)))
    with Judge(workers=1, isolation="landlock", limits=Limits(file_bytes=2 << 20)) as judge:
        [[verdict]] = judge.run([(task, [program])])
    assert verdict.accepted, verdict.message
