"""What the judge does at the level `processes`; `test_judge_elsewhere` runs this on Linux and where Linux is not."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace

import pytest

from tests.judge.elsewhere.plugin import EMULATED
from trl_pper import CodingTask, FunctionTests, Judge, Limits, StdioTests
from trl_pper.judge import levels as ladder
from trl_pper.judge.levels import IsolationUnavailable
from trl_pper.tasks.task import StdioCase

DOUBLE = FunctionTests(
    code="assert double(2) == 4\nassert double(0) == 0\nassert double(-1) == -2", entry_point="double"
)
NEXT = StdioTests(cases=tuple(StdioCase(input=str(n), output=str(n + 1)) for n in range(3)))


@pytest.fixture(scope="module")
def judge():
    limits = Limits(cpu_seconds=0.5, wall_factor=9.0, output_bytes=1 << 20, files=20, file_bytes=1 << 20)
    with Judge(workers=1, limits=limits, cache_size=0) as judge:
        yield judge


@pytest.fixture(scope="module")
def hurried():
    with Judge(workers=1, limits=Limits(cpu_seconds=0.3, wall_factor=1.0, max_timeouts=1)) as judge:
        yield judge


def verdict_of(judge, program, tests):
    [[verdict]] = judge.run([(CodingTask(task_id="t", prompt="p", tests=tests), [program])])
    return verdict


def outcomes(judge, program, tests):
    return [str(outcome) for outcome in verdict_of(judge, program, tests).outcomes]


def is_running(pid):
    """Return whether process `pid`, no child of this one, is there; one that has ended goes when it is waited for."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    state = subprocess.run(["ps", "-o", "stat=", "-p", str(pid)], capture_output=True, text=True).stdout
    return bool(state.strip()) and not state.startswith("Z")


def assert_gone(*pids):
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline and any(map(is_running, pids)):
        time.sleep(0.02)
    assert not [pid for pid in pids if is_running(pid)]


@pytest.mark.parametrize(
    ("program", "expected"),
    [
        ("def double(x): return 2 * x", ["passed"] * 3),
        ("def double(x): return 4", ["passed", "wrong_answer", "wrong_answer"]),
        ("def double(x): return 4 // x", ["wrong_answer", "runtime_error", "wrong_answer"]),
        (
            "import os\ndef double(x):\n    if x == 0: os._exit(0)\n    return 2 * x",
            ["passed", "runtime_error", "passed"],
        ),
        ("import os\ndef double(x): os.kill(os.getpid(), 11)", ["runtime_error"] * 3),
        ("def double(x:", ["syntax_error"] * 3),
        ("def double(x): return 'x' * 10**8", ["output_limit"] * 3),
        ("import numpy\ndef double(x): return int(2 * numpy.int64(x))", ["passed"] * 3),
    ],
)
def test_programs_that_answer_calls(judge, program, expected):
    # numpy takes longer to load than other programs do.
    with Judge(workers=1, limits=Limits(cpu_seconds=5.0, value_bytes=1 << 20)) as patient:
        assert outcomes(patient, program, DOUBLE) == expected


@pytest.mark.parametrize(
    ("program", "expected"),
    [
        ("print(int(input()) + 1)", ["passed"] * 3),
        ("print(int(open('/dev/stdin').read()) + 1)", ["passed"] * 3),
        ("print(1)", ["passed", "wrong_answer", "wrong_answer"]),
        ("print(1 // int(input()) * 2)", ["runtime_error", "passed", "wrong_answer"]),
        ("import os\nprint(int(input()) + 1, flush=True)\nos._exit(0)", ["passed"] * 3),
        ("import os\nos._exit(3)", ["runtime_error"] * 3),
        ("import os\nwhile True: os.write(1, b'x' * 4096)", ["output_limit"] * 3),
        ("import os\nos.write(1, b'1'); os.ftruncate(1, 0)", ["wrong_answer"] * 3),
        ("import time\nfor n in range(99): open(str(n), 'w')\ntime.sleep(60)", ["output_limit"] * 3),
        ("open('x', 'w').write('x' * (2 << 20))", ["runtime_error"] * 3),
    ],
)
def test_scripts(judge, program, expected):
    assert outcomes(judge, program, NEXT) == expected


def test_a_checker_that_travels_with_the_tests_decides(judge):
    checker = "def check(input, output, expected):\n while 'x' in output: pass\n return int(output) > int(input)"
    tests = replace(NEXT, checker=checker)
    assert outcomes(judge, "print(2)", tests) == ["passed", "passed", "wrong_answer"]
    assert outcomes(judge, "n = input()\nprint('x' if n == '1' else 5)", tests) == ["passed", "wrong_answer", "passed"]


def test_a_program_has_an_empty_directory_to_itself(judge):
    program = "import os\nprint(os.listdir('.'))\nopen('x', 'w').write('1')\nprint(open('x').read())"
    for _ in range(2):
        assert verdict_of(judge, program, StdioTests(cases=(StdioCase(input="", output="[] 1"),))).accepted


def test_threads_are_allowed(judge):
    program = "import threading\nt = threading.Thread(target=lambda: print(int(input()) + 1))\nt.start()\nt.join()"
    assert verdict_of(judge, program, NEXT).accepted


@pytest.mark.parametrize("program", ["while True: pass", "def double(x):\n    while True: pass"])
def test_work_without_end_is_ended_by_the_cpu_clock(judge, program):
    """Not by the wall clock, and each program twice at most."""
    verdict = verdict_of(judge, program, DOUBLE if "def" in program else NEXT)
    assert [str(outcome) for outcome in verdict.outcomes] == ["timeout"] * 3
    assert "took more than" not in verdict.message
    assert "wall" not in verdict.message
    assert ("ended by its CPU limit" in verdict.message) == EMULATED
    # Whole seconds where only the process itself knows how much it used.
    assert 0.9 < verdict.cpu_seconds < (4.5 if EMULATED else 2.0)


def test_each_test_has_its_own_cpu_time():
    """What a process used for earlier tests is not counted again."""
    program = (
        "import time\nend = time.process_time() + 0.7\nwhile time.process_time() < end: pass\nprint(int(input()) + 1)"
    )
    with Judge(workers=1, limits=Limits(cpu_seconds=1.0, wall_factor=20.0)) as judge:
        verdict = verdict_of(judge, program, NEXT)
    assert verdict.accepted, verdict.message
    assert verdict.cpu_seconds > 2.0


@pytest.mark.parametrize("program", ["import time\ntime.sleep(60)", "import time\ndef double(x): time.sleep(60)"])
def test_sleep_without_end_is_ended_by_the_wall_clock(hurried, program):
    verdict = verdict_of(hurried, program, DOUBLE if "def" in program else NEXT)
    assert [str(outcome) for outcome in verdict.outcomes] == ["timeout"] * 3
    assert "wall" in verdict.message or "took more than 1.3 seconds" in verdict.message


def test_a_program_that_ignores_cpu_limits_meets_the_wall_clock(hurried):
    program = "import signal\nsignal.signal(signal.SIGXCPU, signal.SIG_IGN)\nwhile True: pass"
    assert outcomes(hurried, program, NEXT) == ["timeout"] * 3


def test_random_numbers_repeat(judge):
    said = [verdict_of(judge, "import random\nprint(random.random())", NEXT).message for _ in range(2)]
    assert "printed '0." in said[0]
    assert said[0] == said[1]


def test_a_program_is_by_itself(judge):
    """Neither what it prints to nor what it was written in reaches the next one."""
    program = "import os\nprint(int(input()) + 1)\ntry: os.pwrite(4, b'print(0)', 0)\nexcept OSError: pass"
    assert verdict_of(judge, program, NEXT).accepted
    assert verdict_of(judge, "print(int(input()) + 1)", NEXT).accepted


@pytest.mark.skipif(not EMULATED, reason="Linux counts threads with processes, of all of a user's programs together")
def test_a_program_can_start_no_process(judge):
    program = "import os\ntry: os.fork()\nexcept BlockingIOError: print(int(input()) + 1)"
    assert verdict_of(judge, program, NEXT).accepted


def test_processes_in_the_group_of_a_program_end_with_it(tmp_path):
    tmp_path.chmod(0o777)
    program = (
        "import os, time\npid = os.fork()\nif pid == 0:\n    time.sleep(600)\nwith open(input(), 'w') as file:\n"
        "    file.write(str(pid))\nprint('started')"
    )
    tests = StdioTests(cases=(StdioCase(input=str(tmp_path / "pid"), output="started"),))
    with Judge(workers=1, limits=Limits(cpu_seconds=2.0, processes=4)) as judge:
        assert verdict_of(judge, program, tests).accepted
        assert_gone(int((tmp_path / "pid").read_text()))


def test_a_host_that_dies_takes_everything_along(tmp_path):
    left = tmp_path / "pid"
    done = subprocess.run(
        [sys.executable, "-m", "tests.judge.elsewhere.host", left],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert_gone(int(done.stdout), int(left.read_text()[:-1]))


def test_a_killed_worker_leaves_no_program_and_is_replaced(tmp_path):
    left = tmp_path / "pid"
    program = "import os, time\nopen(input(), 'a').write(f'{os.getpid()}.')\ntime.sleep(600)"
    tests = StdioTests(cases=(StdioCase(input=str(left), output=""),))
    found = []
    with Judge(workers=1, limits=Limits(cpu_seconds=0.5, wall_factor=2.0)) as judge:
        thread = threading.Thread(target=lambda: found.append(verdict_of(judge, program, tests)))
        thread.start()
        while not left.exists() or not left.read_text().endswith("."):
            time.sleep(0.01)
        [pid] = judge.processes()
        os.kill(pid, signal.SIGKILL)
        assert_gone(int(left.read_text().split(".")[0]))
        thread.join()
        assert str(found[0].outcomes[0]) == "timeout"
        assert judge.processes() != [pid]


def test_nothing_is_left_when_a_judge_is_closed():
    before = sorted(os.listdir("/dev/fd"))
    with Judge(workers=2) as judge:
        assert verdict_of(judge, "def double(x): return 2 * x", DOUBLE).accepted
        workers = judge.processes()
    assert workers
    assert_gone(*workers)
    assert sorted(os.listdir("/dev/fd")) == before


def test_the_report_is_honest():
    report = Judge(workers=1).report()
    kept = {"cpu limit", "output limit", "file limit", "answers kept out", "environment kept out"}
    if EMULATED:
        kept |= {"process limit", "nothing outlives a program"}
        assert {name for name, state in report.items() if state == "verified"} == kept
    else:
        assert kept <= {name for name, state in report.items() if state == "verified"}
        assert report["nothing outlives a program"] == "absent"
    assert report["files unread"] == report["network"] == report["system calls"] == "absent"


@pytest.mark.skipif(not EMULATED, reason="Linux has stronger levels")
@pytest.mark.parametrize("isolation", ["auto", "landlock", "rlimits"])
def test_stronger_levels_say_what_is_missing_and_name_this_one(isolation):
    message = rf"isolation: '{isolation}' cannot be had .* needs Linux.*name a weaker level \(processes\).*"
    options = r"isolation='processes' of Judge, judge_isolation of PPERConfig, --judge_isolation of `trl-pper train`, "
    lacks = r".*--isolation of .*bounds neither memory nor the network nor which files"
    with pytest.raises(IsolationUnavailable, match=message + options + lacks):
        ladder.choose_level(isolation)
