"""The pool: order, replacement of workers, sandbox failures, threads, and a caller that is never forked."""

from __future__ import annotations

import concurrent.futures
import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from trl_pper import CodingTask, FunctionTests, Judge, Limits, StdioTests
from trl_pper.judge import IsolationUnavailable, pool
from trl_pper.judge.selftest import processes_under
from trl_pper.judge.worker import WorkerError
from trl_pper.task import StdioCase


def task_adding(step: int) -> CodingTask:
    tests = FunctionTests(code=f"assert add(1) == {1 + step}\nassert add(2) == {2 + step}", entry_point="add")
    return CodingTask(task_id=f"add {step}", prompt="p", tests=tests)


ADD_ONE = "def add(x): return x + 1"
ECHO = CodingTask(task_id="echo", prompt="p", tests=StdioTests(cases=(StdioCase(input="a", output="a"),)))


@pytest.mark.parametrize("workers", [1, 2])
def test_results_keep_their_order(workers):
    jobs = [(task_adding(step), [f"def add(x): return x + {n}" for n in range(4)]) for step in range(5)]
    with Judge(workers=workers) as judge:
        verdicts = judge.run(jobs)
    assert [[verdict.pass_rate for verdict in row] for row in verdicts] == [
        [1.0 if n == step else 0.0 for n in range(4)] for step in range(5)
    ]


def test_nothing_to_do():
    with Judge() as judge:
        assert judge.run([]) == []
        assert judge.run([(task_adding(1), [])]) == [[]]
        assert [len(row) for row in judge.run([(task_adding(1), []), (task_adding(1), [ADD_ONE])])] == [0, 1]


def test_works_without_with_and_again_after_close():
    judge = Judge(workers=1)
    assert judge.run([(task_adding(1), [ADD_ONE])])[0][0].accepted
    judge.close()
    assert judge.run([(ECHO, ["print(input())"])])[0][0].accepted
    judge.close()
    judge.close()


def test_usable_from_many_threads():
    with Judge(workers=2) as judge, concurrent.futures.ThreadPoolExecutor(6) as threads:
        futures = [threads.submit(judge.run, [(task_adding(1), [ADD_ONE, ""])]) for _ in range(12)]
        for future in futures:
            assert [verdict.pass_rate for verdict in future.result()[0]] == [1.0, 0.0]


def test_a_killed_worker_is_replaced_and_its_program_judged():
    program = "import time\ndef add(x):\n    time.sleep(0.3)\n    return x + 1"
    with Judge(workers=1) as judge:
        judge.run([(ECHO, ["print(input())"])])
        worker = judge._idle.get()
        judge._idle.put(worker)
        timer = threading.Timer(0.15, os.kill, (worker.process.pid, signal.SIGKILL))
        timer.start()
        [[verdict, after]] = judge.run([(task_adding(1), [program, ADD_ONE])])
        timer.join()
        assert verdict.accepted
        assert after.accepted
        replacement = judge._idle.get()
        judge._idle.put(replacement)
        assert replacement is not worker


@pytest.mark.parametrize("task", [task_adding(1), ECHO])
def test_a_failing_sandbox_is_no_pass_rate(monkeypatch, task):
    attempts = []

    def fail(*_: object) -> None:
        attempts.append(1)
        raise WorkerError("broken on purpose")

    monkeypatch.setattr(pool, "judge_function", fail)
    monkeypatch.setattr(pool, "judge_stdio", fail)
    with Judge(workers=1) as judge:
        [[verdict]] = judge.run([(task, [ADD_ONE])])
    assert verdict.pass_rate is None
    assert len(attempts) == 2
    assert {str(outcome) for outcome in verdict.outcomes} == {"sandbox_error"}
    assert verdict.total == (2 if task is not ECHO else 1)
    assert "broken on purpose" in verdict.message


def test_a_worker_that_cannot_start_is_no_pass_rate(monkeypatch):
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with Judge(workers=1) as judge:
        [[verdict]] = judge.run([(ECHO, ["print(input())"])])
    assert verdict.pass_rate is None


def test_the_caller_is_never_forked(monkeypatch):
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("the caller was forked")

    forked = []
    os.register_at_fork(before=lambda: forked.append(1))
    monkeypatch.setattr(os, "fork", refuse)
    monkeypatch.setattr(os, "forkpty", refuse)
    with Judge(workers=2) as judge:
        rows = judge.run([(task_adding(1), [ADD_ONE] * 3), (ECHO, ["print(input())"] * 3)])
    assert all(verdict.accepted for row in rows for verdict in row)
    assert forked == []


def test_nothing_is_left_behind():
    before = set(os.listdir("/proc/self/fd"))
    judge = Judge(workers=2)
    program = "import os, time\nif os.fork() == 0:\n    time.sleep(60)\nos.makedirs('a/b')\ndef add(x): return x + 1"
    assert all(verdict.accepted for verdict in judge.run([(task_adding(1), [program] * 4)])[0])
    workers = [judge._idle.get() for _ in range(2)]
    started = [worker for worker in workers if worker is not None]
    assert started
    for worker in started:
        assert processes_under(worker.directory) == []
        assert os.listdir(worker.directory) == []
    for worker in workers:
        judge._idle.put(worker)
    judge.close()
    for worker in started:
        assert worker.process.returncode is not None
        assert not os.path.exists(worker.directory)
    assert set(os.listdir("/proc/self/fd")) == before


def test_a_caller_that_dies_takes_its_workers_along():
    script = (
        "import os, sys\n"
        "from trl_pper import CodingTask, FunctionTests, Judge\n"
        "judge = Judge(workers=1)\n"
        "task = CodingTask(task_id='t', prompt='p', tests=FunctionTests(code='assert f() == 1'))\n"
        "assert judge.run([(task, ['def f(): return 1'])])[0][0].accepted\n"
        "print(judge._idle.get().process.pid, flush=True)\n"
        "os._exit(0)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=True)
    pid = int(done.stdout)
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline and os.path.exists(f"/proc/{pid}"):
        time.sleep(0.02)
    assert not os.path.exists(f"/proc/{pid}")


def test_isolation_is_named_truthfully():
    assert Judge().isolation == "rlimits"
    assert Judge(isolation="rlimits").isolation == "rlimits"
    for level in ("namespaces", "landlock", "seccomp"):
        with pytest.raises(IsolationUnavailable, match="not available"):
            Judge(isolation=level)
    with pytest.raises(ValueError, match="isolation: must be 'auto'"):
        Judge(isolation="strong")


@pytest.mark.parametrize("workers", [0, -1, 1.5, True, "2"])
def test_workers_are_validated(workers):
    with pytest.raises(ValueError, match="workers: must be a whole number"):
        Judge(workers=workers)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("cpu_seconds", 0),
        ("cpu_seconds", float("nan")),
        ("wall_factor", -1),
        ("memory_bytes", 1.5),
        ("memory_bytes", 1000),
        ("processes", True),
        ("open_files", 3),
        ("output_bytes", "1"),
    ],
)
def test_limits_are_validated(field, value):
    with pytest.raises(ValueError, match=f"^{field}: "):
        Limits(**{field: value})


def test_jobs_are_validated():
    judge = Judge(workers=1)
    with pytest.raises(TypeError, match=r"jobs\[0\]: must start with a CodingTask"):
        judge.run([("task", ["x"])])
    with pytest.raises(TypeError, match="Wrap it in a list"):
        judge.run([(ECHO, "print(1)")])
    with pytest.raises(TypeError, match="program 1: must be text"):
        judge.run([(ECHO, ["print(1)", None])])
