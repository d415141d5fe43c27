"""Checkers that travel with the task and run in a jail of their own."""

from __future__ import annotations

import pytest

from trl_pper import CodingTask, Judge, Limits, StdioTests, Verdict
from trl_pper.judge.host import stdio
from trl_pper.tasks.task import StdioCase

DIVISOR = """
def check(input, output, expected):
    return int(output) > 1 and int(input) % int(output) == 0, f"{output.strip()} of {expected}"
"""
TWO = (("12", "12"), ("9", "9"))


@pytest.fixture(scope="module")
def judge():
    limits = Limits(cpu_seconds=0.3, wall_factor=2.0, memory_bytes=256 << 20, output_bytes=1 << 20)
    with Judge(workers=1, limits=limits, cache_size=0) as judge:
        yield judge


def verdict_of(judge: Judge, program: str, checker: str = DIVISOR, cases=TWO, **fields: str) -> Verdict:
    tests = StdioTests(cases=tuple(StdioCase(input=i, output=o) for i, o in cases), checker=checker, **fields)
    [[verdict]] = judge.run([(CodingTask(task_id="t", prompt="p", tests=tests), [program])])
    return verdict


def outcomes(*args, **fields) -> list[str]:
    return [str(outcome) for outcome in verdict_of(*args, **fields).outcomes]


@pytest.fixture
def started(monkeypatch):
    """The mode of every process, in order."""
    modes = []
    real = stdio._Process.__init__

    def kept(self, worker, source, limits, mode) -> None:
        real(self, worker, source, limits, mode)
        modes.append(mode)

    monkeypatch.setattr(stdio._Process, "__init__", kept)
    return modes


def test_a_checker_decides(judge):
    assert verdict_of(judge, "print(3)").accepted
    verdict = verdict_of(judge, "print(4)")
    assert verdict.pass_rate == 0.5
    assert verdict.message == "test 2: printed '4\\n', which the checker refuses: 4 of 9"
    assert outcomes(judge, "print(1)") == ["wrong_answer"] * 2


def test_a_checker_may_answer_without_a_message(judge):
    checker = "check = lambda input, output, expected: output.split() == expected.split()[::-1]"
    assert verdict_of(judge, "print('b a')", checker, [("", "a b")]).accepted
    assert verdict_of(judge, "print('a b')", checker, [("", "a b")]).message.endswith("which the checker refuses")


def test_a_program_that_fails_by_itself_needs_no_checker(judge, started):
    assert outcomes(judge, "1 / 0") == ["runtime_error"] * 2
    assert outcomes(judge, "def") == ["syntax_error"] * 2
    assert outcomes(judge, "n = input()\nwhile n == '9': pass\nprint(3)") == ["passed", "timeout"]
    assert started.count("checker") == 1


@pytest.mark.parametrize(
    ("checker", "reason"),
    [
        ("def check(", "SyntaxError"),
        ("1 / 0", "ZeroDivisionError"),
        ("pass", "must define check(input, output, expected)"),
        ("check = 1", "must define check(input, output, expected)"),
        ("def check(input, output): return True", "TypeError"),
        ("def check(input, output, expected): 1 / 0", "ZeroDivisionError: division by zero (line 1)"),
        ("def check(input, output, expected): return 1", "must return a bool, or a bool and a message; got int"),
        ("def check(input, output, expected): return None, 'x'", "got NoneType"),
        ("def check(input, output, expected): exit(0)", "SystemExit"),
        ("import os\ndef check(input, output, expected): os._exit(0)", "the process ended with status 0"),
        ("import os\ndef check(input, output, expected): os.abort()", "the process was ended by SIG"),
        ("def check(input, output, expected): bytes(1 << 40)", "MemoryError"),
        ("def check(input, output, expected):\n while True: pass", "ran out of cpu time"),
        ("import time\ndef check(input, output, expected): time.sleep(60)", "ran out of wall time"),
        ("import os\ndef check(*_):\n os.write(3, bytes(99))\n os._exit(0)", "answered with garbage"),
    ],
)
def test_a_checker_that_fails_on_the_expected_output_judges_none(judge, checker, reason):
    verdict = verdict_of(judge, "print(3)", checker)
    assert [str(outcome) for outcome in verdict.outcomes] == ["unsupported"] * 2
    assert verdict.message.startswith("test 1: the checker fails even on the expected output: ")
    assert reason in verdict.message


@pytest.mark.parametrize(
    "failure",
    ["1 / 0", "return 'yes'", "exit()", "import os; os._exit(0)", "while True: pass", "return bytes(1 << 40)"],
)
@pytest.mark.parametrize("place", [0, 1, 2])
def test_a_checker_that_fails_on_the_output_alone_fails_the_test(judge, failure, place):
    checker = f"def check(input, output, expected):\n if 'bad' in output:\n  {failure}\n return True"
    program = f"n = input()\nprint('bad' if n == '{place}' else n)"
    verdict = verdict_of(judge, program, checker, [(str(n), str(n)) for n in range(3)])
    expected = ["wrong_answer" if n == place else "passed" for n in range(3)]
    assert [str(outcome) for outcome in verdict.outcomes] == expected
    assert "printed 'bad\\n', on which the checker fails" in verdict.message


def test_outputs_that_slow_the_checker_down_are_soon_refused(judge, started):
    checker = "def check(input, output, expected):\n while 'slow' in output: pass\n return True"
    assert outcomes(judge, "print('slow')", checker, [(str(n), "x") for n in range(9)]) == ["wrong_answer"] * 9
    assert started.count("checker") <= 2 * judge.limits.max_timeouts + 1


def test_a_checker_process_serves_a_single_program(judge, started):
    # Answers True only if this process has seen no other output.
    checker = "seen = []\ndef check(input, output, expected):\n seen.append(output)\n return len(set(seen)) == 1"
    tests = StdioTests(cases=tuple(StdioCase(input=i, output=o) for i, o in TWO), checker=checker)
    task = CodingTask(task_id="t", prompt="p", tests=tests)
    assert [verdict.pass_rate for verdict in judge.run([(task, ["print(1)", "print(2)"])])[0]] == [1.0, 1.0]
    assert started == ["stdio", "checker"] * 2


@pytest.mark.parametrize(
    ("printing", "length"),
    [
        ("print('x' * (1 << 19), end='')", 1 << 19),
        ("import os\nos.write(1, bytes(range(256)) * 4)", 1024),
        ("import struct, sys\nsys.stdout.buffer.write(struct.pack('<Q', 1 << 63) + b'+')", 9),
        ("import sys\nsys.stdout.buffer.write('\\ud800'.encode('utf-8', 'surrogatepass'))", 3),
        ("print(end='')", 0),
    ],
)
def test_a_checker_sees_any_output_whole(judge, printing, length):
    # What is no UTF-8 arrives as a replacement for each byte.
    checker = "def check(input, output, expected): return len(output) == int(expected), '\\ud800'"
    verdict = verdict_of(judge, printing, checker, [("\ud800", str(length))] * 2)
    assert verdict.accepted or "\\x" in printing or "range" in printing, verdict.message


def test_an_output_beyond_the_limit_reaches_no_checker(judge, started):
    assert outcomes(judge, "print('x' * (1 << 21))") == ["output_limit"] * 2
    assert "checker" not in started


def test_outputs_are_held_only_up_to_a_bound(judge, started, monkeypatch):
    monkeypatch.setattr(stdio, "_MAX_HELD_BYTES", 100)
    checker = "def check(input, output, expected): return output == 60 * expected"
    assert verdict_of(judge, "print(60 * input(), end='')", checker, [(str(n), str(n)) for n in range(5)]).accepted
    # Two outputs fit; the program's own process ends before the checker's begins.
    assert started == ["stdio", "checker"] * 3


@pytest.mark.parametrize("level", ["namespaces", "landlock"])
def test_a_checker_is_locked_in_and_finds_no_program(level):
    checker = """
import os, socket
def tried(action):
    try:
        action()
    except OSError:
        return False
    return True
def check(input, output, expected):
    open('mine', 'w').close()
    reached = [
        tried(lambda: open('/etc/passwd')), tried(lambda: open('../outside', 'w')), tried(os.fork),
        tried(lambda: socket.create_connection(('127.0.0.1', 9))), tried(lambda: os.kill(os.getppid(), 9)),
    ]
    return not any(reached) and os.listdir('.') == ['mine'], str(reached)
"""
    program = "import os\nopen('left', 'w').close()\nprint(os.listdir('.'))\nassert 'mine' not in os.listdir('.')"
    with Judge(workers=1, isolation=level) as judge:
        assert verdict_of(judge, program, checker).message == ""


def test_what_a_checker_prints_goes_nowhere(judge):
    checker = "def check(input, output, expected):\n print('x' * 9999)\n return input == '12' and output == '3\\n'"
    assert verdict_of(judge, "print(3)", checker, [("12", "12")]).accepted


def test_a_checker_in_another_language_judges_none(judge):
    verdict = verdict_of(judge, "print(3)", "#include <testlib.h>", checker_language="cpp")
    assert [str(outcome) for outcome in verdict.outcomes] == ["unsupported"] * 2
    assert "written in cpp" in verdict.message


def test_verdicts_by_checkers_are_remembered_apart():
    with Judge(workers=1) as judge:
        assert verdict_of(judge, "print(3)").pass_rate == 1.0
        assert verdict_of(judge, "print(3)", "def check(*_): return False").pass_rate == 0.0
