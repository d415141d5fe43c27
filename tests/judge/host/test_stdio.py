"""Stdio tests: a whole program is judged by what it prints."""

from __future__ import annotations

import subprocess
import sys
import time

import pytest

from trl_pper import CodingTask, Judge, Limits, StdioTests, Verdict
from trl_pper.judge.host import stdio
from trl_pper.judge.host import worker as workers
from trl_pper.tasks.task import StdioCase

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
        "n = int(input())\nopen('/dev/stderr', 'w').write('x')\nopen('/dev/stdout', 'w').write(str(n + 1))",
        "if __name__ == '__main__':\n    print(int(input()) + 1)\n    exit()",
        "import sys\nprint(int(input()) + 1)\nsys.exit(0)",
        "import threading\nthreading.Thread(target=lambda: print(int(input()) + 1)).start()",
        "import atexit\natexit.register(lambda: print(int(input()) + 1))",
        "def main():\n    print(n + 1)\nn = int(input())\nmain()",
        "import sys\nprint(int(input()) + 1)\nsys.stdout.close()",
        "import sys\nprint(int(input()) + 1)\nsys.stdout = None",
        "import sys\nprint(int(input()) + 1)\ndel sys.stdout",
        "import io, sys\nprint(int(input()) + 1)\nsys.stdout = io.StringIO()",
        "import io, sys\nsys.stdout = io.TextIOWrapper(sys.stdout.detach())\nprint(int(input()) + 1)",
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


#: Has `seen`, a list of the inputs that the process at hand was given before.
REMEMBERING = """
import sys, types
memory = vars(sys.modules.setdefault("memory", types.ModuleType("memory")))
seen = memory.setdefault("seen", [])
given = input()
"""


def test_what_one_input_leaves_is_no_part_of_the_next(judge):
    # Each input is shorter than the one before.
    program, cases = "import sys\nprint(int(sys.stdin.read()) + 1)", [("333", "334"), ("22", "23"), ("1", "2")]
    assert verdict_of(judge, program, cases).accepted


def test_a_program_is_compiled_once(judge):
    compiled = "x = [\n" + "(1, 2, 3, 4),\n" * 4_000 + "]\n"
    one = verdict_of(judge, f"#1\n{compiled}print(int(input()) + 1)", [("1", "2")]).cpu_seconds
    ten = verdict_of(judge, f"#2\n{compiled}print(int(input()) + 1)", [(str(n), str(n + 1)) for n in range(10)])
    assert ten.accepted
    assert ten.cpu_seconds < 5 * one


@pytest.mark.parametrize(
    ("change", "is_as_it_was"),
    [
        ("builtins.len = max", "len('a') == 1"),
        ("os.environ['LEFT'] = '1'", "'LEFT' not in os.environ"),
        ("os.chdir('/')", "os.getcwd() != '/'"),
        ("sys.argv.append('left')", "sys.argv == ['program.py']"),
        ("sys.stdout = sys.stderr", "sys.stdout.fileno() == 1"),
        ("sys.stdin.close()", "not sys.stdin.closed"),
        ("sys.settrace(lambda *_: None)", "sys.gettrace() is None"),
        ("sys.setprofile(lambda *_: None)", "sys.getprofile() is None"),
        ("sys.setrecursionlimit(5000)", "sys.getrecursionlimit() < 5000"),
        ("sys.set_int_max_str_digits(5000)", "sys.get_int_max_str_digits() == 0"),
        ("signal.setitimer(signal.ITIMER_REAL, 60)", "signal.getitimer(signal.ITIMER_REAL) == (0, 0)"),
        ("threading.stack_size(1 << 20)", "threading.stack_size() == 0"),
        ("gc.disable()", "gc.isenabled()"),
        ("random.random()", "random.getstate() == random.Random(0).getstate()"),
        ("left = 1", "'left' not in globals()"),
    ],
)
def test_a_run_finds_the_interpreter_as_it_was(judge, change, is_as_it_was):
    modules = "import builtins, gc, os, random, signal, sys, threading"
    program = f"{modules}\nassert {is_as_it_was}\nprint(int(input()) + 1)\n{change}\nassert not ({is_as_it_was})"
    assert verdict_of(judge, program).accepted


def test_no_module_remembers_an_earlier_test(judge):
    program = f"{REMEMBERING}print(len(seen))\nseen.append(given)"
    assert verdict_of(judge, program, [(str(n), "0") for n in range(6)]).accepted


@pytest.mark.parametrize("answer", [True, False])
def test_a_program_has_a_single_try_at_each_test(judge, answer):
    seen = []

    def compare(given, output, expected):
        seen.append(given)
        return answer

    cases = [(str(n), "") for n in range(6)]
    assert verdict_of(judge, "print(input())", cases, compare=compare).pass_rate == answer
    # First the expected outputs, on which a function has to work, then an output of the program for each test.
    assert seen == 2 * [given for given, _ in cases]


def test_a_wrong_program_is_run_as_a_right_one_is(judge, monkeypatch):
    """Otherwise a program could see from the number or the order of processes how another program has done."""
    deeds = []
    run, send = stdio._Script.run, workers.Worker._send
    monkeypatch.setattr(stdio._Script, "run", lambda *args: deeds.append(args[1]) or run(*args))
    monkeypatch.setattr(workers.Worker, "_send", lambda *args: deeds.append(args[1]["op"]) or send(*args))
    seen = []
    checker = "def check(given, printed, expected): return printed == expected + chr(10)"
    for fields in ({}, {"compare": "exact"}, {"checker": checker}):
        for program, rate in (("print(int(input()) + 1)", 1.0), ("print(int(input()) + 2)", 0.0)):
            newline = "\n" if "compare" in fields else ""
            cases = tuple(StdioCase(input=str(n), output=f"{n + 1}{newline}") for n in range(5))
            task = CodingTask(task_id="t", prompt="p", tests=StdioTests(cases=cases, **fields))
            deeds.clear()
            assert judge.run([(task, [program])])[0][0].pass_rate == rate
            seen.append(list(deeds))
        assert seen[-1] == seen[-2]
        assert len(seen[-1]) > 6


def test_after_two_timeouts_no_test_runs(judge):
    program = "n = int(input())\nwhile n: pass\nprint('no more')"
    cases = [(n, "no more") for n in ("0", "1", "0", "2", "0")]
    assert outcomes(judge, program, cases) == ["passed", "timeout", "passed", "timeout", "timeout"]


@pytest.mark.parametrize(
    ("program", "clock"), [("while True: pass", "cpu"), ("import time\nwhile True: time.sleep(9)", "wall")]
)
def test_work_is_stopped_by_the_cpu_clock_and_sleep_by_the_wall(judge, program, clock):
    assert verdict_of(judge, program, cases=[("", "")]).message == f"test 1: ran out of {clock} time"


def test_large_input_and_output_pass_through(judge):
    text = "\n".join(map(str, range(100_000)))
    program = "import sys\nsys.stdout.write(sys.stdin.read())"
    assert verdict_of(judge, program, cases=[(text, text)]).accepted


@pytest.mark.parametrize(
    ("compare", "passes"), [("tokens", False), ("ignore_case", True), ("lines", False), ("exact", False)]
)
def test_the_task_chooses_the_comparison(judge, compare, passes):
    assert verdict_of(judge, "print('YES')", cases=[("", "Yes")], compare=compare).accepted is passes


def test_numbers_of_any_length_are_read_and_printed(judge):
    digits = "1" + "0" * 9999
    assert verdict_of(judge, "print(int(input()) + 1)", [(digits, f"{digits[:-1]}1"), ("9" * 9999, digits)]).accepted


RECURSING = """
import functools, sys
sys.setrecursionlimit(10**6)
@functools.lru_cache(None)
def f(n): return n and 1 + f(n - 1)
print(f(50_000))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have lower hard limits on stacks")
@pytest.mark.parametrize("kibibytes", [1024, 8192])
def test_a_callers_stack_limit_decides_nothing(kibibytes):
    program = f"""
import resource
from trl_pper import CodingTask, Judge, StdioTests
from trl_pper.tasks.task import StdioCase
resource.setrlimit(resource.RLIMIT_STACK, ({kibibytes << 10}, resource.getrlimit(resource.RLIMIT_STACK)[1]))
task = CodingTask(task_id="t", prompt="p", tests=StdioTests(cases=(StdioCase(input="", output="50000"),)))
with Judge(workers=1) as judge:
    [[verdict]] = judge.run([(task, [{RECURSING!r}])])
assert verdict.accepted, verdict.message
"""
    subprocess.run([sys.executable, "-c", program], check=True)


def test_text_beyond_ascii_and_lone_surrogates(judge):
    assert verdict_of(judge, "print(input())", cases=[("é日本\n", "é日本"), ("\ud800", "\ud800")]).pass_rate == 1.0


@pytest.mark.parametrize(("given", "judged"), [("x" * 65_536, True), ("x" * 65_537, False), ("é" * 40_000, False)])
def test_an_input_that_no_file_may_hold_judges_nothing(given, judged):
    with Judge(workers=1, limits=Limits(file_bytes=65_536)) as judge:
        verdict = verdict_of(judge, "print(len(input()))", [(given, str(len(given)))])
    assert verdict.accepted is judged
    if not judged:
        assert [str(outcome) for outcome in verdict.outcomes] == ["unsupported"]
        assert "more than file_bytes, 65536, allows" in verdict.message


def test_a_carriage_return_is_a_character_like_others(judge):
    program = "import sys\nprint(repr(input()), repr(sys.stdin.read()), sys.stdin.name)"
    assert verdict_of(judge, program, [("a\r\nb\r\n", r"'a\r' 'b\r\n' <stdin>")]).accepted


@pytest.mark.parametrize(
    ("code", "status"), [("2**70", 255), ("-2**70", 255), ("256 + 3", 3), ("-1", 255), ("'x'", 1)]
)
def test_exit_statuses_are_those_of_an_interpreter(judge, code, status):
    verdict = verdict_of(judge, f"print(1, flush=True)\nraise SystemExit({code})", [("", "1")])
    assert verdict.message == f"test 1: exit status {status}"


def test_blank_lines_cost_the_host_nothing(judge):
    program = "print(int(input()) + 1)" + "\n" * 300_000 + "pass"
    start = time.process_time()
    assert verdict_of(judge, program).accepted
    assert time.process_time() - start < 2.0


def test_a_database_that_locks_itself(judge):
    program = """
import sqlite3
input()
base = sqlite3.connect("base")
for mode in ("wal", "delete"):
    base.execute(f"pragma journal_mode={mode}")
    base.execute("create table if not exists t(a)")
    base.execute("insert into t values (1)")
    base.commit()
print(base.execute("select count(*) from t").fetchone()[0])
"""
    assert verdict_of(judge, program, [("1", "2"), ("2", "2")]).accepted
