"""Code that a benchmark puts before every program."""

import ast

import pytest

from trl_pper import CodingTask, FunctionTests, Judge, StdioTests
from trl_pper.tasks.syntax import with_preamble
from trl_pper.tasks.task import StdioCase

PREAMBLE = "from typing import List"


@pytest.mark.parametrize("preamble", [PREAMBLE, PREAMBLE + "\n"])
def test_a_preamble_stands_on_lines_of_its_own(preamble):
    assert with_preamble("x: List = []", preamble) == "from typing import List\nx: List = []"
    assert with_preamble("x = 1", None) == "x = 1"
    assert with_preamble("", preamble) == "from typing import List\n"


@pytest.mark.parametrize(
    "program",
    [
        "from __future__ import annotations\nx = 1",
        '"""Doc\x0c."""\nfrom __future__ import annotations\nfrom __future__ import division\nx = 1\n',
        "from __future__ import (\n    annotations,\n)",
        "from __future__ import annotations\r\nx = 1\r\n",
        "\ufefffrom __future__ import annotations\n",
        "x = '__future__'",
    ],
)
def test_future_imports_stay_first(program):
    text = with_preamble(program, PREAMBLE)
    compile(text, "program", "exec")
    names = [node.names[0].name for node in ast.parse(text).body if isinstance(node, ast.ImportFrom)]
    assert "List" in names
    assert text.count(PREAMBLE) == 1


def test_a_program_that_does_not_parse_gets_it_too():
    assert with_preamble("from __future__ import (", PREAMBLE) == f"{PREAMBLE}\nfrom __future__ import ("


def test_the_judge_runs_programs_after_their_tasks_preamble():
    code, program = "assert f([1]) == 1", "def f(x: List[int]) -> int:\n    return HELP(x)\n"
    bare = CodingTask(task_id="a", prompt="p", tests=FunctionTests(code=code, entry_point="f"))
    helped = CodingTask(
        task_id="b", prompt="p", tests=bare.tests, preamble="from typing import List\nHELP = sum", reference=program
    )
    reads = CodingTask(
        task_id="c", prompt="p", tests=StdioTests(cases=(StdioCase(input="", output="3"),)), preamble="x = 3"
    )
    with Judge(workers=1) as judge:
        # The same program and tests with and without it: no remembered verdict may stand for the other.
        [[without], [with_it], [printed]] = judge.run([(bare, [program]), (helped, [program]), (reads, ["print(x)"])])
    assert not without.accepted
    assert with_it.accepted
    assert printed.accepted
