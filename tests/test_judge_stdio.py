"""Stdio tests: a whole program is judged by what it prints."""

from __future__ import annotations

import pytest

from trl_pper import CodingTask, Judge, Limits, StdioTests, Verdict
from trl_pper.task import StdioCase

NEXT = (("1\n", "2"), ("5\n", "6\n"), ("-1", "0"))


@pytest.fixture(scope="module")
def judge():
    with Judge(workers=2, limits=Limits(cpu_seconds=0.15, memory_bytes=256 << 20, output_bytes=1 << 20)) as judge:
        yield judge


def verdict_of(judge: Judge, program: str, cases=NEXT, compare: str = "tokens") -> Verdict:
    tests = StdioTests(cases=tuple(StdioCase(input=i, output=o) for i, o in cases), compare=compare)
    [[verdict]] = judge.run([(CodingTask(task_id="t", prompt="p", tests=tests), [program])])
    return verdict


def outcomes(judge: Judge, program: str, cases=NEXT, compare: str = "tokens") -> list[str]:
    return [str(outcome) for outcome in verdict_of(judge, program, cases, compare).outcomes]


@pytest.mark.parametrize(
    "program",
    [
        "print(int(input()) + 1)",
        "import sys\nsys.stdout.write(str(int(sys.stdin.readline()) + 1))",
        "import sys\nprint(int(sys.stdin.buffer.read()) + 1)",
        "import os\nos.write(1, str(int(os.read(0, 100)) + 1).encode())",
        "print(int(open(0).read()) + 1)",
        "print(int(open('/dev/stdin').read()) + 1)",
        "if __name__ == '__main__':\n    print(int(input()) + 1)\n    exit()",
        "import sys\nprint(int(input()) + 1)\nsys.exit(0)",
        "import threading\nthreading.Thread(target=lambda: print(int(input()) + 1)).start()",
        "import atexit\natexit.register(lambda: print(int(input()) + 1))",
        "def main():\n    print(n + 1)\nn = int(input())\nmain()",
    ],
)
def test_programs_run_as_scripts(judge, program):
    assert verdict_of(judge, program).accepted


@pytest.mark.parametrize(
    ("program", "expected"),
    [
        ("print(2)", ["passed", "wrong_answer", "wrong_answer"]),
        ("", ["wrong_answer"] * 3),
        ("print(10 // (int(input()) - 5) * 0 + 2)", ["passed", "runtime_error", "wrong_answer"]),
        ("def", ["syntax_error"] * 3),
        ("while True: pass", ["timeout"] * 3),
        ("x = input()\nwhile x == '5': pass\nprint(2)", ["passed", "timeout", "wrong_answer"]),
        ("while True: print('x' * 1000)", ["output_limit"] * 3),
        ("import sys\nwhile True: sys.stderr.write('x' * 1000)", ["output_limit"] * 3),
        ("import os\nwhile True: os.write(2, b'x' * 1000)", ["output_limit"] * 3),
        ("x = bytearray(10**11)", ["memory_limit"] * 3),
        ("x = []\nwhile True: x.append(bytes(1 << 26))", ["memory_limit"] * 3),
        ("exit()", ["wrong_answer"] * 3),
        ("import os\nos._exit(0)", ["wrong_answer"] * 3),
        ("print(int(input()) + 1)\nraise SystemExit(1)", ["runtime_error"] * 3),
        ("print(int(input()) + 1)\n1 / 0", ["runtime_error"] * 3),
        ("import os\nprint(int(input()) + 1, flush=True)\nos.abort()", ["runtime_error"] * 3),
        ("input(); input()", ["runtime_error"] * 3),
        ("import sys\nsys.exit('no')", ["runtime_error"] * 3),
    ],
)
def test_every_way_to_fail_has_its_outcome(judge, program, expected):
    assert outcomes(judge, program) == expected


def test_messages_say_what_was_printed_and_expected(judge):
    assert verdict_of(judge, "print(7)").message == "test 1: printed '7\\n', expected '2'"
    assert "ZeroDivisionError" in verdict_of(judge, "x = 1\n1 / 0").message
    assert "line 2" in verdict_of(judge, "x = 1\n1 / 0").message


def test_tests_do_not_share_state(judge):
    program = "import os\nprint(len(os.listdir('.')), random_state := 0)\nopen('left', 'w').write('x')"
    assert verdict_of(judge, program, cases=[("", "0 0")] * 3).accepted


def test_large_input_and_output_pass_through(judge):
    text = "\n".join(map(str, range(100_000)))
    program = "import sys\nsys.stdout.write(sys.stdin.read())"
    assert verdict_of(judge, program, cases=[(text, text)]).accepted


@pytest.mark.parametrize(
    ("compare", "passes"), [("tokens", False), ("ignore_case", True), ("lines", False), ("exact", False)]
)
def test_the_task_chooses_the_comparison(judge, compare, passes):
    assert verdict_of(judge, "print('YES')", cases=[("", "Yes")], compare=compare).accepted is passes


def test_text_beyond_ascii_and_lone_surrogates(judge):
    assert verdict_of(judge, "print(input())", cases=[("é日本\n", "é日本"), ("\ud800", "\ud800")]).pass_rate == 1.0
