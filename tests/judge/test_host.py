"""The host stands: hostile texts of tasks, tests that fail by themselves, and odd or killed calling processes."""

from __future__ import annotations

import json
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from trl_pper import CodingTask, FunctionTests, Judge, Limits, StdioTests, load_tasks
from trl_pper.judge.host import worker as workers
from trl_pper.judge.host.worker import HostUnfit, check_host, remove_abandoned
from trl_pper.tasks.task import StdioCase

ROOT = Path(__file__).parents[2]
GOOD = CodingTask(task_id="good", prompt="p", tests=FunctionTests(code="assert f(1) == 1", entry_point="f"))
IDENTITY = "def f(x): return x"
ONE = (StdioCase(input="1", output="1"),)

#: Expressions that no parser reads, with a word of the reason.
UNREADABLE = {
    "signs": ("-" * 50_000 + "1", "nested too deep"),
    "negations": ("(" + "not " * 50_000 + "1)", "nested too deep"),
    "lambdas": ("(" + "lambda: " * 3000 + "1)", "nested too deep"),
    "a sum": ("0" + "+1" * 50_000, "nested too deep"),
    "attributes": ("int" + ".a" * 50_000, "nested too deep"),
    "calls": ("int" + "()" * 50_000, "nested too deep"),
    "parentheses": ("(" * 5000 + "1" + ")" * 5000, "parentheses"),
    "a null byte": ("1\0", "null bytes"),
    "a surrogate": ("'\ud800'", "surrogates"),
}


@pytest.fixture(scope="module")
def judge():
    with Judge(workers=1, limits=Limits(cpu_seconds=2.0)) as judge:
        yield judge


def function_task(**fields):
    preamble = fields.pop("preamble", None)
    tests = FunctionTests(**{"code": "assert f(1) == 1", "entry_point": "f"} | fields)
    return CodingTask(task_id="bad", prompt="p", tests=tests, preamble=preamble)


@pytest.mark.parametrize(("text", "reason"), UNREADABLE.values(), ids=UNREADABLE.keys())
def test_no_text_of_a_task_takes_another_task_along(judge, text, reason):
    checker = f"def check(given, printed, expected): return True\nx = {text}"
    bad = [
        function_task(code=f"assert f(1) == {text}"),
        function_task(setup=f"y = {text}"),
        function_task(entry_point=text),
        function_task(preamble=f"y = {text}"),
    ]
    special = CodingTask(task_id="bad", prompt="p", tests=StdioTests(cases=ONE, checker=checker))
    jobs = [(GOOD, [IDENTITY]), *((task, [IDENTITY, "what is this"]) for task in bad), (special, ["print(1)"])]
    [good], *rest = judge.run([*jobs, (GOOD, [IDENTITY + "\n"])])
    assert good.accepted
    assert rest.pop()[0].accepted
    for verdict in (verdict for verdicts in rest for verdict in verdicts):
        assert verdict.outcomes == ("unsupported",)
        assert reason in verdict.message


def test_an_entry_point_without_a_name_is_a_fault_of_the_task(judge):
    [[verdict]] = judge.run([(function_task(entry_point="1"), [IDENTITY])])
    assert verdict.outcomes == ("unsupported",)
    assert "entry_point: must name" in verdict.message


def test_unreadable_tests_are_counted_and_cut_without_a_parser(judge):
    tests = json.dumps({"type": "function", "code": "assert f(1) == " + "-" * 50_000 + "1", "entry_point": "f"})
    row = {"task_id": "bad", "prompt": "p", "tests": tests}
    [task] = load_tasks([row], max_tests=1)
    [[verdict]] = judge.run([(task, [IDENTITY])], deadline_seconds=0.0)
    # Whichever comes first, both count the tests.
    assert verdict.outcomes in (("not_run",), ("unsupported",))


@pytest.mark.parametrize("name", ["code", "setup", "entry_point"])
def test_function_tests_are_texts(name):
    with pytest.raises(ValueError, match=f"^{name}: must be text; got int"):
        FunctionTests(**{"code": "assert True", name: 5})


SETUPS = {
    "raise ValueError('boo')": "ValueError: boo",
    "assert 1 == 2": "AssertionError",
    "from math import nothing_there": "ImportError: cannot import name 'nothing_there'",
    "raise KeyboardInterrupt": "KeyboardInterrupt",
    "kept = [0] * 10**10": "MemoryError",
    "def f(): return f()\nf()": "RecursionError",
}


@pytest.mark.parametrize("run", ["separate", "shared"])
@pytest.mark.parametrize(("setup", "reason"), SETUPS.items(), ids=map(repr, SETUPS))
def test_a_setup_that_fails_by_itself_blames_no_program(judge, setup, reason, run):
    task = function_task(setup=setup, run=run)
    [verdicts] = judge.run([(task, [IDENTITY, "def f(x): return 3", "what is this", "raise ValueError"])])
    for verdict in verdicts:
        assert verdict.outcomes == ("unsupported",)
        assert verdict.message.startswith(f"the setup fails by itself: {reason}")


@pytest.mark.parametrize("run", ["separate", "shared"])
def test_a_setup_without_end_blames_no_program(run):
    with Judge(workers=1, limits=Limits(cpu_seconds=0.1)) as judge:
        [[verdict]] = judge.run([(function_task(setup="while True: pass", run=run), [IDENTITY])])
    assert verdict.outcomes == ("unsupported",)
    assert verdict.message == "the setup fails by itself: it takes more than 0.1 CPU seconds"


@pytest.mark.parametrize(
    ("setup", "run"),
    [
        ("import os\nos.mkdir('folder')\nopen('file', 'x').close()\nos.chdir('folder')", "shared"),
        ("import os\nos.chdir = os.getcwd = os.unlink = None", "shared"),
        ("from solution import f as g\nassert g(1) == 1", "shared"),
        ("assert globals()['f'](1) == 1", "shared"),
        ("g = f\nassert g(1) == 1", "separate"),
        ("import collections\nclass Node:\n    pass\nbest = 1", "separate"),
    ],
)
def test_a_setup_that_works_is_run_as_before(judge, setup, run):
    [verdicts] = judge.run([(function_task(setup=setup, run=run), [IDENTITY, "def f(x): return 3", IDENTITY + " "])])
    assert [verdict.pass_rate for verdict in verdicts] == [1.0, 0.0, 1.0]


def test_a_preamble_that_fails_is_found_before_any_program(judge):
    # Without the trial the first program would be a failure of its own.
    task = function_task(preamble="1 / 0")
    [verdicts] = judge.run([(task, ["what is this", "raise ValueError", IDENTITY])])
    assert {verdict.outcomes for verdict in verdicts} == {("unsupported",)}
    assert "the task's preamble fails by itself: ZeroDivisionError" in verdicts[0].message


def test_a_preamble_of_a_script_may_read_the_input(judge):
    task = CodingTask(task_id="t", prompt="p", tests=StdioTests(cases=ONE), preamble="given = int(input())")
    [verdicts] = judge.run([(task, ["print(given)", "print(2)"])])
    assert [verdict.pass_rate for verdict in verdicts] == [1.0, 0.0]


HIGHEST = {
    "cpu_seconds": 86_400.0, "wall_factor": 1000.0, "memory_bytes": 1 << 47, "output_bytes": 1 << 40,
    "value_bytes": 1 << 40, "processes": 10**6, "threads": 10**6, "files": 10**9, "file_bytes": 1 << 40,
    "open_files": 1 << 20, "max_timeouts": 10**9,
}  # fmt: skip


@pytest.mark.parametrize("name", HIGHEST)
def test_limits_have_an_upper_bound(name):
    for value in (2 * HIGHEST[name], HIGHEST[name] * 10**300 if isinstance(HIGHEST[name], int) else 1e300):
        words = f"{HIGHEST[name]:,.0f}; got {value!r:.80}"
        with pytest.raises(ValueError, match=rf"^{name}: must be .*{re.escape(words)}$"):
            Limits(**{name: value})


def test_programs_run_under_the_highest_limits():
    script = CodingTask(task_id="s", prompt="p", tests=StdioTests(cases=ONE), cpu_seconds=86_400)
    with Judge(workers=1, limits=Limits(**HIGHEST)) as judge:
        rows = judge.run([(GOOD, [IDENTITY, "def f(x): return 2"]), (script, ["print(1)", "print(2)"])])
    assert [[verdict.pass_rate for verdict in row] for row in rows] == [[1.0, 0.0]] * 2


@pytest.mark.parametrize("seconds", [1e300, 86_401, 10**400])
def test_cpu_seconds_of_a_row_are_at_most_a_day(tmp_path, seconds):
    row = GOOD.to_row() | {"cpu_seconds": seconds}
    (tmp_path / "tasks.jsonl").write_text(json.dumps(GOOD.to_row()) + "\n" + json.dumps(row) + "\n")
    with pytest.raises(ValueError, match=r"tasks.jsonl:2: cpu_seconds: must be .* at most 86,400 seconds, a day"):
        load_tasks(tmp_path / "tasks.jsonl")


SCRIPT = """
import os, sys, time
from trl_pper.judge.judge import Judge
from trl_pper.tasks.task import CodingTask, FunctionTests, StdioCase, StdioTests
script = StdioTests(cases=(StdioCase(input="1", output="1"),) * 2)
function = FunctionTests(code="assert f(1) == 1", entry_point="f")
shared = FunctionTests(code="assert f(1) == 1", entry_point="f", run="shared")
scripts, functions = ["print(1)", "print(2)"], ["def f(x): return x", "def f(x): return 2"]
jobs = [(script, scripts), (function, functions), (shared, functions)]
jobs = [(CodingTask(task_id="t", prompt="p", tests=tests), programs) for tests, programs in jobs]
try:
    with Judge(workers=2, isolation=sys.argv[1]) as judge:
        said = [[verdict.pass_rate for verdict in row] for row in judge.run(jobs)]
        if sys.argv[3:]:
            open(sys.argv[2], "w").write(repr(said))
            time.sleep(60)
except OSError as error:
    said = f"{type(error).__name__}: {error}"
open(sys.argv[2], "w").write(repr(said))
"""
RIGHT = repr([[1.0, 0.0]] * 3)


def command(level, answer, *more):
    return [sys.executable, "-c", SCRIPT, level, str(answer), *more]


def started(command, prefix="", **options):
    """Run a command under a shell that does `prefix` first."""
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT)} | options.pop("env", {})
    shell = ["sh", "-c", f'{prefix} exec "$0" "$@"'] if "exec" not in prefix else ["sh", "-c", prefix]
    return subprocess.run([*shell, *command], env=environment, timeout=60, **options)


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&-", "<&- 2>&-", ">&- 2>&-", "<&- >&- 2>&-"])
def test_a_caller_without_standard_streams(tmp_path, closed):
    started(command("auto", tmp_path / "answer"), f'exec "$0" "$@" {closed}')
    assert (tmp_path / "answer").read_text() == RIGHT


@pytest.mark.parametrize("open_files", [20, 40])
def test_a_caller_with_too_few_open_files_is_told(tmp_path, open_files):
    started(command("auto", tmp_path / "answer"), f"ulimit -n {open_files};")
    answer = (tmp_path / "answer").read_text()
    assert "IsolationUnavailable: isolation: no worker can start on this machine: a worker needs to open 64" in answer
    assert f"may open {open_files}; raise the limit" in answer


@pytest.mark.parametrize("name", ["a b 'q\" ü:,%s$X", "x" * 200, "back\\slash\n"])
def test_temporary_folders_of_any_name(tmp_path, name):
    (tmp_path / name).mkdir()
    started(command("auto", tmp_path / "answer"), env={"TMPDIR": str(tmp_path / name)})
    assert (tmp_path / "answer").read_text() == RIGHT
    assert list((tmp_path / name).iterdir()) == []


def in_mounts(changes, level, answer):
    """Judge with other mounts, as `changes` makes them."""
    if os.geteuid() != 0 or shutil.which("unshare") is None:
        pytest.skip("needs root and unshare")
    prefix = f'exec unshare -m sh -c \'mount --make-rprivate / && {changes} && exec "$0" "$@"\' "$0" "$@"'
    done = started(command(level, answer), prefix, capture_output=True, text=True)
    if done.returncode and "permitted" in done.stderr:
        pytest.skip("no mounts may be made here")
    return answer.read_text()


@pytest.mark.parametrize("level", ["auto", "rlimits"])
def test_a_machine_without_proc_is_told(tmp_path, level):
    answer = in_mounts("umount -l /proc", level, tmp_path / "answer")
    assert "IsolationUnavailable: isolation: no worker can start on this machine: /proc is not mounted" in answer


def test_a_process_that_can_write_nowhere_is_told(monkeypatch):
    with Judge(workers=1) as judge:
        monkeypatch.setattr("tempfile.tempdir", "/dev/null/none")
        [[verdict]] = judge.run([(GOOD, [IDENTITY])])
    assert verdict.outcomes == ("sandbox_error",)
    assert "no folder for a worker can be made" in verdict.message
    assert "set TMPDIR" in verdict.message


def test_a_worker_that_does_not_start_leaves_no_folder(tmp_path, monkeypatch):
    with Judge(workers=1) as judge:
        monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
        monkeypatch.setattr("sys.executable", "/no/python")
        [[verdict]] = judge.run([(GOOD, [IDENTITY])])
    assert verdict.outcomes == ("sandbox_error",)
    assert "a worker cannot be started" in verdict.message
    assert list(tmp_path.iterdir()) == []


def test_a_start_that_fails_is_tried_again(monkeypatch):
    known = dict(vars(sys.modules["trl_pper.judge.levels"])["_known"])
    monkeypatch.setattr("trl_pper.judge.levels._known", {})
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (63, hard))
    try:
        with pytest.raises(HostUnfit, match="raise the limit"):
            check_host("landlock")
        with pytest.raises(OSError, match="raise the limit"):
            Judge(workers=1)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert Judge(workers=1).isolation in ("namespaces", "landlock"), known


@pytest.mark.parametrize("level", ["namespaces", "landlock", "rlimits"])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGKILL])
def test_the_next_judge_removes_what_a_killed_one_left(tmp_path, monkeypatch, level, number):
    folder = tmp_path / "tmp"
    folder.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(folder))
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "TMPDIR": str(folder)}
    # Under nohup the signal would be ignored.
    host = subprocess.Popen(
        command(level, tmp_path / "answer", "stay"),
        env=environment,
        preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_DFL),
    )
    try:
        end = time.monotonic() + 30
        while not (tmp_path / "answer").exists() or not (tmp_path / "answer").read_text():
            assert time.monotonic() < end
            assert host.poll() is None
            time.sleep(0.05)
        if (tmp_path / "answer").read_text() != RIGHT:
            pytest.skip(f"the level {level} cannot be had here")
        left = set(folder.iterdir())
        assert left
        # A live process loses nothing.
        Judge(workers=1, isolation=level).close()
        assert set(folder.iterdir()) == left
    finally:
        host.send_signal(number)
        host.wait()
    assert set(folder.iterdir()) == left
    Judge(workers=1, isolation=level).close()
    assert list(folder.iterdir()) == []


def test_folders_that_only_look_like_ours_stay(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / ".owner").touch()
    (tmp_path / "trl-pper-judge-mine1234").mkdir()
    (tmp_path / "trl-pper-judge-mine5678").mkdir()
    (tmp_path / "trl-pper-judge-mine5678" / "results").touch()
    (tmp_path / "trl-pper-judge-file").touch()
    (tmp_path / "trl-pper-judge-link").symlink_to(tmp_path / "elsewhere")
    before = sorted(tmp_path.rglob("*"))
    remove_abandoned()
    assert sorted(tmp_path.rglob("*")) == before
    directory, owned = workers._own_directory()
    remove_abandoned()
    assert Path(directory).exists()
    os.close(owned)
    remove_abandoned()
    assert not Path(directory).exists()
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to make a folder of another user")
def test_folders_of_another_user_stay(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    directory, owned = workers._own_directory()
    os.close(owned)
    os.chown(directory, 65534, 65534)
    remove_abandoned()
    assert Path(directory).exists()


@pytest.mark.parametrize("level", ["namespaces", "landlock"])
@pytest.mark.parametrize("threads", ["", "4", "32", "100"])
def test_pools_of_threads_take_the_time_of_their_work(level, threads):
    # Tasks that wait for each other would wait for ever if the limit kept a thread from starting.
    program = (
        "from concurrent.futures import ThreadPoolExecutor\nimport threading\n"
        f"pool = ThreadPoolExecutor({threads})\nmeeting = threading.Barrier({threads or 4})\n"
        f"def f(x): return sum(pool.map(lambda _: (meeting.wait(), x)[1], range({threads or 4}))) // {threads or 4}\n"
    )
    shared = function_task(run="shared")
    script = CodingTask(task_id="s", prompt="p", tests=StdioTests(cases=ONE * 2))
    start = time.monotonic()
    with Judge(workers=1, isolation=level) as judge:
        rows = judge.run([(GOOD, [program]), (shared, [program]), (script, [program + "print(f(int(input())))"])])
    assert [row[0].pass_rate for row in rows] == [1.0] * 3
    assert time.monotonic() - start < 20


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have lower hard limits on stacks")
def test_a_caller_with_a_large_stack_has_threads(tmp_path):
    script = SCRIPT.replace('"def f(x): return x"', repr(POOL))
    run = [sys.executable, "-c", script, "auto", str(tmp_path / "answer")]
    started(run, "ulimit -s 1048576;")
    assert (tmp_path / "answer").read_text() == RIGHT


#: Twenty threads at once.
POOL = """
from concurrent.futures import ThreadPoolExecutor
import threading
meeting = threading.Barrier(20)
def f(x): return sum(ThreadPoolExecutor(20).map(lambda _: (meeting.wait(), x)[1], range(20))) // 20
"""


#: A caller that ignores or blocks signals, and prints the verdicts on a right program, a loop and an exit.
_ODD_SIGNALS = """
import signal, sys
odd = signal.Signals[sys.argv[1]]
signal.signal(odd, signal.SIG_IGN) if sys.argv[2] == "ignored" else signal.pthread_sigmask(signal.SIG_BLOCK, [odd])
from trl_pper import CodingTask, FunctionTests, Judge, Limits, StdioTests
from trl_pper.tasks.task import StdioCase
programs = ["def f(x): return x", "def f(x):\\n while True: pass", "import os\\nos._exit(3)"]
tests = FunctionTests(code="assert f(1) == 1", entry_point="f", run=sys.argv[3])
script = CodingTask(task_id="s", prompt="p", tests=StdioTests(cases=(StdioCase(input="1", output="1"),)))
with Judge(workers=1, isolation=sys.argv[4], limits=Limits(cpu_seconds=0.5)) as judge:
    task = CodingTask(task_id="t", prompt="p", tests=tests)
    found = judge.run([(task, programs), (script, ["print(1)", "exit(4)"])])
print(*[f"{verdict.outcomes[0]}" for row in found for verdict in row])
"""


@pytest.mark.parametrize(
    ("number", "state", "run", "level"),
    [
        ("SIGCHLD", "ignored", "separate", "auto"),
        ("SIGCHLD", "ignored", "shared", "rlimits"),
        ("SIGPROF", "blocked", "shared", "auto"),
        ("SIGXCPU", "ignored", "separate", "auto"),
    ],
)
def test_signals_that_a_caller_ignores_or_blocks(number, state, run, level):
    line = [sys.executable, "-c", _ODD_SIGNALS, number, state, run, level]
    done = subprocess.run(line, capture_output=True, text=True, check=False, timeout=100)
    assert done.stdout.split() == ["passed", "timeout", "runtime_error", "passed", "runtime_error"], done.stderr[
        -2000:
    ]
