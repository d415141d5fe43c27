"""The pool: order, replacement of workers, sandbox failures, threads, and a caller that is never forked."""

from __future__ import annotations

import concurrent.futures
import dataclasses
import os
import pickle
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence

import pytest

from trl_pper import CodingTask, FunctionTests, Judge, Limits, StdioTests
from trl_pper.judge import levels, selftest
from trl_pper.judge.host import slot as slots
from trl_pper.judge.host.worker import WorkerError
from trl_pper.judge.levels import IsolationUnavailable
from trl_pper.judge.selftest import descendants
from trl_pper.tasks.task import StdioCase


def task_adding(step: int) -> CodingTask:
    tests = FunctionTests(code=f"assert add(1) == {1 + step}\nassert add(2) == {2 + step}", entry_point="add")
    return CodingTask(task_id=f"add {step}", prompt="p", tests=tests)


ADD_ONE = "def add(x): return x + 1"
ECHO = CodingTask(task_id="echo", prompt="p", tests=StdioTests(cases=(StdioCase(input="a", output="a"),)))


@pytest.mark.parametrize(("started", "workers"), [(None, 6), ("2", 3), ("4", 1), ("9", 1)])
def test_processes_of_one_launch_get_the_cores_once(monkeypatch, started, workers):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(6)))
    monkeypatch.delenv("LOCAL_WORLD_SIZE", raising=False)
    if started is not None:
        monkeypatch.setenv("LOCAL_WORLD_SIZE", started)
    assert Judge().workers == workers
    assert Judge(workers=5).workers == 5


@pytest.mark.parametrize("workers", [1, 2])
def test_results_keep_their_order(workers):
    jobs = [(task_adding(step), [f"def add(x): return x + {n}" for n in range(4)]) for step in range(5)]
    with Judge(workers=workers) as judge:
        verdicts = judge.run(jobs)
    assert [[verdict.pass_rate for verdict in row] for row in verdicts] == [
        [1.0 if n == step else 0.0 for n in range(4)] for step in range(5)
    ]


def test_a_pickled_judge_is_a_new_one_with_the_same_settings():
    limits = Limits(cpu_seconds=1.5)
    with Judge(2, "rlimits", limits, cache_size=7, seed=3, shared_tests="refuse") as judge:
        judge.run([(task_adding(1), [ADD_ONE])])
        with pickle.loads(pickle.dumps(judge)) as copied:
            assert copied.processes() == []
            assert (copied.workers, copied.isolation, copied.limits) == (2, "rlimits", limits)
            assert copied._arguments == judge._arguments
            [[verdict]] = copied.run([(task_adding(1), [ADD_ONE])])
            assert verdict.accepted
            assert not set(copied.processes()) & set(judge.processes())


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
        [pid] = judge.processes()
        timer = threading.Timer(0.15, os.kill, (pid, signal.SIGKILL))
        timer.start()
        [[verdict, after]] = judge.run([(task_adding(1), [program, ADD_ONE])])
        timer.join()
        assert verdict.accepted
        assert after.accepted
        assert len(judge.processes()) == 1
        assert judge.processes() != [pid]


@pytest.mark.parametrize("task", [task_adding(1), ECHO])
def test_a_failing_sandbox_is_no_pass_rate(monkeypatch, task):
    attempts = []

    def fail(*_: object, **__: object) -> None:
        attempts.append(1)
        raise WorkerError("broken on purpose")

    monkeypatch.setattr(slots, "judge_function", fail)
    monkeypatch.setattr(slots, "judge_stdio", fail)
    with Judge(workers=1) as judge:
        [[verdict]] = judge.run([(task, [ADD_ONE])])
    assert verdict.pass_rate is None
    assert len(attempts) == 2
    assert {str(outcome) for outcome in verdict.outcomes} == {"sandbox_error"}
    assert verdict.total == (2 if task is not ECHO else 1)
    assert "broken on purpose" in verdict.message


@pytest.mark.parametrize(("kills", "outcome"), [(1, "passed"), (2, "runtime_error")])
def test_a_program_that_ends_its_tests_twice_has_failed(kills, outcome):
    """Otherwise a program whose values crash the process of the tests would have no pass rate."""
    killed = set()

    def kill_tests(judge):
        end = time.monotonic() + 20
        while len(killed) < kills and time.monotonic() < end:
            for worker in set(judge.processes()) - killed:
                # The process of the tests is older than that of the program.
                below = sorted(descendants(worker))
                if len(below) >= 2:
                    os.kill(below[-2], signal.SIGKILL)
                    killed.add(worker)
            time.sleep(0.02)

    slow = "import time\ndef add(x, y):\n    time.sleep(0.5)\n    return x + y"
    tests = FunctionTests(code="assert add(1, 2) == 3", entry_point="add", run="separate")
    with Judge(workers=1) as judge:
        thread = threading.Thread(target=kill_tests, args=(judge,))
        thread.start()
        [[verdict]] = judge.run([(CodingTask(task_id="t", prompt="p", tests=tests), [slow])])
        thread.join()
    assert len(killed) == kills
    assert [str(each) for each in verdict.outcomes] == [outcome]
    assert "the process of the tests ended" in verdict.message or outcome == "passed"


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


@pytest.mark.parametrize("isolation", ["auto", "landlock", "rlimits"])
def test_nothing_is_left_behind(isolation, monkeypatch):
    made = []

    def mkdtemp(*args, **options):
        made.append(real(*args, **options))
        return made[-1]

    real = tempfile.mkdtemp
    monkeypatch.setattr(tempfile, "mkdtemp", mkdtemp)
    Judge(workers=2, isolation=isolation)
    before = set(os.listdir("/proc/self/fd"))
    judge = Judge(workers=2, isolation=isolation, limits=Limits(processes=4))
    program = "import os, time\nif os.fork() == 0:\n    time.sleep(60)\nos.makedirs('a/b')\ndef add(x): return x + {}"
    programs = [program.format(n) for n in (1, 2, 3, 1)]
    rates = [verdict.pass_rate for verdict in judge.run([(task_adding(1), programs)])[0]]
    assert rates == [1.0, 0.0, 0.0, 1.0]
    started = judge.processes()
    assert started
    referees = [process for pid in started for process in descendants(pid)]
    assert len(referees) <= len(started)
    judge.close()
    assert not [pid for pid in (*started, *referees) if os.path.exists(f"/proc/{pid}")]
    assert set(os.listdir("/proc/self/fd")) == before
    assert made
    assert not [directory for directory in made if os.path.exists(directory)]


def test_a_caller_that_dies_takes_its_workers_along():
    script = (
        "import os, sys\n"
        "from trl_pper import CodingTask, FunctionTests, Judge\n"
        "judge = Judge(workers=1)\n"
        "task = CodingTask(task_id='t', prompt='p', tests=FunctionTests(code='assert f() == 1'))\n"
        "assert judge.run([(task, ['def f(): return 1'])])[0][0].accepted\n"
        "print(judge.processes()[0], flush=True)\n"
        "os._exit(0)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=True)
    pid = int(done.stdout)
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline and os.path.exists(f"/proc/{pid}"):
        time.sleep(0.02)
    assert not os.path.exists(f"/proc/{pid}")


def test_auto_takes_the_strongest_level_that_holds():
    refused = {"namespaces": "no", "landlock": ""}
    assert levels.choose_level("auto", probe=refused.__getitem__) == "landlock"
    refused["namespaces"] = ""
    assert levels.choose_level("auto", probe=refused.__getitem__) == "namespaces"
    assert levels.choose_level("landlock", probe=refused.__getitem__) == "landlock"
    # Every level but the strongest is to be asked for by name.
    assert Judge(isolation="landlock").isolation == "landlock"


def test_auto_refuses_to_go_below_landlock():
    reasons = {"namespaces": "unshare failed", "landlock": "no Landlock", "rlimits": ""}
    with pytest.raises(IsolationUnavailable, match=r"unshare failed.*no Landlock.*name a weaker level"):
        levels.choose_level("auto", probe=reasons.__getitem__)
    with pytest.raises(IsolationUnavailable, match="'landlock' cannot be had"):
        levels.choose_level("landlock", probe=reasons.__getitem__)
    assert levels.choose_level("rlimits", probe=reasons.__getitem__) == "rlimits"
    assert Judge(isolation="rlimits").isolation == "rlimits"


def test_a_level_whose_canary_gets_out_does_not_hold(monkeypatch):
    monkeypatch.setitem(selftest._PROMISES, "rlimits", ("files unread",))
    levels._known.clear()
    try:
        with pytest.raises(IsolationUnavailable, match="programs got past: files unread"):
            Judge(isolation="rlimits")
    finally:
        levels._known.clear()


def test_an_unknown_level_is_refused():
    with pytest.raises(ValueError, match="isolation: must be 'auto'"):
        Judge(isolation="strong")


def counting(monkeypatch):
    judged = []

    def judge_function(worker, program, tests, limits, **options):
        judged.append(program)
        return real(worker, program, tests, limits, **options)

    real = slots.judge_function
    monkeypatch.setattr(slots, "judge_function", judge_function)
    return judged


def test_equal_programs_are_judged_once(monkeypatch):
    judged = counting(monkeypatch)
    with Judge(workers=1) as judge:
        [first] = judge.run([(task_adding(1), [ADD_ONE, "", ADD_ONE])])
        again = judge.run([(task_adding(1), [ADD_ONE]), (task_adding(2), [ADD_ONE])])
    assert [verdict.pass_rate for verdict in first] == [1.0, 0.0, 1.0]
    assert [row[0].pass_rate for row in again] == [1.0, 0.0]
    assert judged == [ADD_ONE, "", ADD_ONE]


def test_a_timeout_is_judged_again(monkeypatch):
    judged = counting(monkeypatch)
    with Judge(workers=1, limits=Limits(cpu_seconds=0.1)) as judge:
        for _ in range(2):
            [[verdict]] = judge.run([(task_adding(1), ["while True: pass"])])
            assert {str(outcome) for outcome in verdict.outcomes} == {"timeout"}
    assert len(judged) == 2


def test_the_cache_is_bounded_and_can_be_off(monkeypatch):
    judged = counting(monkeypatch)
    with Judge(workers=1, cache_size=1) as judge:
        judge.run([(task_adding(1), [ADD_ONE, "x = 1", ADD_ONE])])
        assert len(judge.cache) == 1
    with Judge(workers=1, cache_size=0) as judge:
        judge.run([(task_adding(1), [ADD_ONE, ADD_ONE])])
    assert len(judged) == 5
    with pytest.raises(ValueError, match="cache_size: must be a whole number"):
        Judge(cache_size=-1)


def eventually(condition) -> bool:
    """Whether a condition comes true before a machine, however busy, must have got there."""
    deadline = time.monotonic() + 60
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.01)
    # Not asked again: what was true may be over, as a process that has ended.
    return True


def test_verdicts_stream_in_order_while_jobs_are_made():
    made, seen = [], []

    def jobs():
        for step in range(40):
            made.append(step)
            yield task_adding(step), [f"def add(x): return x + {step}", ADD_ONE]

    with Judge(workers=2) as judge:
        for step, verdicts in enumerate(judge.stream(jobs())):
            seen.append(len(made))
            assert verdicts[0].accepted
            assert verdicts[1].accepted == (step == 1)
    assert len(seen) == 40
    # Jobs are not read to the end first.
    assert seen[0] < 40


def test_making_jobs_overlaps_with_judging():
    def jobs():
        for step in range(4):
            # Nothing is asked of the stream here: the verdicts before this job come by themselves.
            assert eventually(lambda step=step: len(judge.cache) == step)
            yield task_adding(1), [f"def add(x): return x + 1  # {step}"]

    with Judge(workers=1) as judge:
        assert [verdict.accepted for [verdict] in judge.stream(jobs())] == [True] * 4


def test_a_stream_runs_nothing_after_its_deadline(monkeypatch):
    judged = counting(monkeypatch)

    def jobs():
        yield task_adding(1), ["import time\ntime.sleep(60)"]
        time.sleep(0.6)
        yield from ((task_adding(1), [f"{ADD_ONE}  # {number}"]) for number in range(9))

    with Judge(workers=1) as judge:
        rows = [*judge.stream(jobs(), deadline_seconds=0.5)]
        assert [[verdict.pass_rate for verdict in row] for row in rows] == [[None]] * 10
        assert len(judged) == 1


def test_submitted_programs_are_judged_without_being_asked_for():
    with Judge(workers=2) as judge:
        future = judge.submit(task_adding(1), [ADD_ONE, "def add(x): return x"])
        seen = []
        future.add_done_callback(lambda done: seen.append([verdict.pass_rate for verdict in done.result()]))
        assert eventually(lambda: seen)
        assert seen == [[1.0, 0.0]]
        assert judge.submit(task_adding(1), []).result() == []


def test_a_submitted_job_can_be_cancelled_until_it_begins():
    slow = "import time\ntime.sleep(0.5)\ndef add(x): return x + 1"
    with Judge(workers=1) as judge:
        first, second, third = (judge.submit(task_adding(step), [slow]) for step in (1, 2, 1))
        assert second.cancel()
        assert eventually(first.running)
        assert not first.cancel()
        assert [verdict.accepted for verdict in first.result()] == [True]
        assert [verdict.accepted for verdict in third.result()] == [True]
        assert second.cancelled()


def test_an_error_beyond_the_sandbox_reaches_the_future(monkeypatch):
    def fail(*_: object, **__: object) -> None:
        raise MemoryError("of the host")

    monkeypatch.setattr(slots, "judge_function", fail)
    with Judge(workers=2) as judge:
        future = judge.submit(task_adding(1), [ADD_ONE] * 5)
        with pytest.raises(MemoryError, match="of the host"):
            future.result()
        with pytest.raises(MemoryError, match="of the host"):
            judge.run([(task_adding(1), [ADD_ONE]), (ECHO, ["print(input())"])])
        assert judge.run([(ECHO, ["print(input())"])])[0][0].accepted


def test_pairs_come_back_in_order_and_by_task():
    one, two = task_adding(1), task_adding(2)
    pairs = [(task, f"def add(x): return x + {step}") for step in (1, 2) for task in (one, two, one)]
    seen = []
    with Judge(workers=2) as judge:
        verdicts = judge.run_pairs(pairs, on_judged=lambda places, rows: seen.append((places, len(rows))))
        assert [verdict.accepted for verdict in verdicts] == [True, False, True, False, True, False]
        assert seen == [([0, 2, 3, 5], 4), ([1, 4], 2)]
        assert judge.run_pairs([]) == []
        del seen[:]
        with pytest.raises(TypeError, match=r"pairs\[2\]: the program must be text; got int"):
            judge.run_pairs([(one, "a"), (two, "b"), (one, 5)], on_judged=lambda *given: seen.append(given))
        assert seen == []
        with pytest.raises(TypeError, match=r"pairs\[0\]: must be a CodingTask with a program"):
            judge.run_pairs([("add 1", "a")])


def test_pairs_may_be_made_as_they_are_read():
    class Lazy(Sequence):
        """Tasks that live only as long as somebody holds them: the next one may get the identity of the last."""

        def __len__(self):
            return 6

        def __getitem__(self, place):
            if place >= 6:
                raise IndexError
            return task_adding(place), f"def add(x): return x + {place}"

    with Judge(workers=1) as judge:
        assert [verdict.accepted for verdict in judge.run_pairs(Lazy())] == [True] * 6


@pytest.mark.parametrize("failure", [RuntimeError("can't start new thread"), KeyboardInterrupt()])
def test_a_thread_that_cannot_be_had_costs_no_slot(monkeypatch, failure):
    start = threading.Thread.start

    def fail(thread):
        raise failure

    judge = Judge(workers=2)
    monkeypatch.setattr(threading.Thread, "start", fail)
    with pytest.raises(type(failure)):
        judge.run([(task_adding(1), [ADD_ONE]), (task_adding(1), [])])
    monkeypatch.setattr(threading.Thread, "start", start)
    assert judge.run([(task_adding(1), [ADD_ONE] * 3)])[0][2].accepted
    judge.close()


def test_interrupts_cost_no_slot():
    script = (
        "import os, signal, sys, threading\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "from trl_pper import CodingTask, FunctionTests, Judge\n"
        "task = CodingTask(task_id='t', prompt='p', tests=FunctionTests(code='assert f() == 1'))\n"
        "judge, interrupted = Judge(workers=4), 0\n"
        "for number in range(24):\n"
        "    timer = threading.Timer(number / 5_000, os.kill, (os.getpid(), signal.SIGINT))\n"
        "    try:\n"
        "        timer.start()\n"
        "        judge.run([(task, [f'def f(): return 1  # {number} {n}']) for n in range(3)] + [(task, [])])\n"
        "        timer.join()\n"
        "    except (KeyboardInterrupt, RuntimeError) as error:\n"
        # A condition of Python's own that is interrupted while it waits may find its lock open.
        "        assert KeyboardInterrupt in (type(error), type(error.__context__)), error\n"
        "        interrupted += 1\n"
        "assert judge.run([(task, ['def f(): return 1'])])[0][0].accepted\n"
        "judge.close()\n"
        "print(interrupted)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stderr[-3000:]
    assert int(done.stdout) > 5


def test_a_callback_may_fail_and_may_use_the_judge(caplog):
    def leave(_):
        raise SystemExit(1)

    with Judge(workers=1) as judge:
        judge.submit(task_adding(1), [ADD_ONE]).add_done_callback(leave)
        inner = []
        future = judge.submit(task_adding(2), [ADD_ONE])
        future.add_done_callback(lambda _: inner.append(judge.run([(task_adding(1), [ADD_ONE + " "])])[0][0].accepted))
        assert [verdict.accepted for verdict in future.result()] == [False]
        assert eventually(lambda: inner == [True])


def test_many_jobs_behind_a_slow_one_cost_each_the_same(monkeypatch):
    """The work grows with the jobs, not with their square: counted, as clocks depend on the machine."""
    checked = []
    done = concurrent.futures.Future.done
    monkeypatch.setattr(concurrent.futures.Future, "done", lambda future: checked.append(1) or done(future))
    slow = "import time\ntime.sleep(1)\ndef add(x): return x + 1"
    with Judge(workers=2) as judge:
        judge.run([(task_adding(1), [ADD_ONE])])
        del checked[:]
        jobs = [(task_adding(1), [slow]), *[(task_adding(1), [ADD_ONE])] * 2000]
        assert sum(verdict.accepted for [verdict] in judge.stream(jobs)) == 2001
    assert len(checked) < 40 * 2001


def test_many_callers_get_what_one_after_the_other_would():
    """A naive twin beside jobs of every size from several threads, some of which are cancelled on the way."""
    rng = random.Random(0)
    plans = [[(step % 3, [rng.randrange(3) for _ in range(step % 4)]) for step in range(8)] for _ in range(6)]

    def call(plan):
        jobs = [(task_adding(step), [f"def add(x): return x + {n}" for n in added]) for step, added in plan]
        lost = judge.submit(task_adding(0), [f"def add(x): return x  # {id(plan)}"] * 2)
        found = [[verdict.accepted for verdict in row] for row in judge.run(jobs)]
        return found, lost.cancel() or len(lost.result()) == 2

    with Judge(workers=2) as judge, concurrent.futures.ThreadPoolExecutor(6) as threads:
        results = list(threads.map(call, plans))
    assert results == [([[n == step for n in added] for step, added in plan], True) for plan in plans]


def test_an_abandoned_stream_breaks_off_what_is_in_flight():
    slow = "import time\ntime.sleep(30)"
    with Judge(workers=2) as judge:
        started = time.monotonic()
        stream = judge.stream([(task_adding(1), [ADD_ONE]), (task_adding(1), [slow]), (task_adding(2), [slow])])
        assert next(stream)[0].accepted
        stream.close()
        assert time.monotonic() - started < 10
        assert judge.run([(task_adding(2), ["def add(x): return x + 2"])])[0][0].accepted


def test_a_deadline_leaves_the_rest_unjudged_and_a_usable_judge():
    slow = "import time\ntime.sleep(30)\ndef add(x): return x + 1"
    with Judge(workers=1) as judge:
        judge.run([(ECHO, ["print(input())"])])
        started = time.monotonic()
        [[first], [second, third]] = judge.run(
            [(task_adding(1), [ADD_ONE]), (task_adding(1), [slow, ADD_ONE + " "])], deadline_seconds=1.5
        )
        assert time.monotonic() - started < 8
        assert first.accepted
        for verdict in (second, third):
            assert verdict.pass_rate is None
            assert [str(outcome) for outcome in verdict.outcomes] == ["not_run", "not_run"]
            assert "deadline" in verdict.message
        assert judge.run([(task_adding(1), [ADD_ONE + "  "])])[0][0].accepted


def test_an_interrupted_caller_leaves_no_process():
    script = (
        # A shell's background jobs start with this signal ignored, and so would the caller.
        "import signal, sys\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "from trl_pper import CodingTask, FunctionTests, Judge\n"
        "judge = Judge(workers=2)\n"
        "task = CodingTask(task_id='t', prompt='p', tests=FunctionTests(code='assert f() == 1'))\n"
        "judge.run([(task, ['def f(): return 1'])])\n"
        "print(*judge.processes(), flush=True)\n"
        "judge.run([(task, ['import time\\ntime.sleep(60)', 'while True: pass'])])\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", script], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    with process:
        pids = list(map(int, process.stdout.readline().split()))
        time.sleep(0.5)
        running = [pid for worker in pids for pid in (worker, *descendants(worker))]
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=30)
    assert "KeyboardInterrupt" in errors
    assert pids
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline and any(os.path.exists(f"/proc/{pid}") for pid in running):
        time.sleep(0.02)
    assert not [pid for pid in running if os.path.exists(f"/proc/{pid}")]


def test_programs_that_use_numpy_get_a_worker_that_has_it():
    task = CodingTask(
        task_id="n", prompt="p", tests=FunctionTests(code="assert total([1, 2]) == 3", entry_point="total")
    )
    program = (
        "import sys\nloaded = 'numpy' in sys.modules\nimport numpy\ndef total(x): return int(numpy.sum(x)) * loaded"
    )
    with Judge(workers=1) as judge:
        assert judge.run([(task, [program])])[0][0].accepted
        assert len(judge.processes()) == 1
        plain = "import sys\ndef total(x): return sum(x) * ('numpy' not in sys.modules)"
        assert judge.run([(task, [plain])])[0][0].accepted
        assert len(judge.processes()) == 2


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
    with pytest.raises(TypeError, match=r"jobs\[0\]: must be a CodingTask"):
        judge.run([("task", ["x"])])
    with pytest.raises(TypeError, match="Wrap it in a list"):
        judge.run([(ECHO, "print(1)")])
    with pytest.raises(TypeError, match="program 1: must be text"):
        judge.run([(ECHO, ["print(1)", None])])


BURN = "import time\nend = time.process_time() + 0.6\nwhile time.process_time() < end: pass\n"


@pytest.mark.parametrize(
    ("tests", "program"),
    [
        (
            FunctionTests(code="assert f(1) == 1", entry_point="f"),
            "def f(x):\n    " + BURN.replace("\n", "\n    ") + "return x",
        ),
        (ECHO.tests, BURN + "print(input())"),
    ],
)
def test_cpu_seconds_of_a_task_take_the_place_of_the_judges(tests, program):
    """In one worker, one after the other, so that what one task allows is not what the next one gets."""
    tasks = [
        CodingTask(task_id=str(seconds), prompt="p", tests=tests, cpu_seconds=seconds)
        for seconds in (5.0, 0.2, None, 6.0)
    ]
    with Judge(workers=1, limits=Limits(cpu_seconds=0.3)) as judge:
        verdicts = judge.run([(task, [program]) for task in tasks])
    assert [verdict.outcomes[0].value for [verdict] in verdicts] == ["passed", "timeout", "timeout", "passed"]


def test_verdicts_under_other_cpu_seconds_are_not_the_same(monkeypatch):
    judged = counting(monkeypatch)
    tasks = [dataclasses.replace(task_adding(1), cpu_seconds=seconds) for seconds in (None, 5.0, 5.0, 10.0)]
    with Judge(workers=1) as judge:
        judge.run([(task, [ADD_ONE]) for task in tasks])
    # The last one states what the judge allows anyway.
    assert len(judged) == 2


def test_abort_settles_every_future_and_leaves_no_process():
    with Judge(workers=2) as judge:
        assert judge.run([(task_adding(1), [ADD_ONE])])[0][0].accepted
        endless = dataclasses.replace(task_adding(1), cpu_seconds=3600.0)
        futures = [judge.submit(endless, [f"while True: pass  # {n}", ADD_ONE]) for n in range(5)]
        assert eventually(lambda: len(judge.processes()) == 2 and all(map(descendants, judge.processes())))
        running = [pid for worker in judge.processes() for pid in (worker, *descendants(worker))]
        started = time.monotonic()
        judge.abort()
        assert time.monotonic() - started < 5
        rates = [verdict.pass_rate for future in futures for verdict in future.result(0)]
        assert len(rates) == 10
        assert set(rates) <= {None, 1.0}
        assert judge.processes() == []
        assert not [pid for pid in running if os.path.exists(f"/proc/{pid}")]
        assert judge.run([(task_adding(2), [ADD_ONE + "+ 1"])])[0][0].accepted


def test_an_error_waits_for_no_program():
    futures = []

    def fail():
        with Judge(workers=1) as judge:
            futures.append(judge.submit(dataclasses.replace(task_adding(1), cpu_seconds=3600.0), ["while True: pass"]))
            time.sleep(0.5)
            raise ValueError("of the caller")

    started = time.monotonic()
    with pytest.raises(ValueError, match="of the caller"):
        fail()
    assert time.monotonic() - started < 20
    assert futures[0].result(0)[0].pass_rate is None


def test_abort_waits_for_no_worker_that_starts(monkeypatch, tmp_path):
    (tmp_path / "zygote.py").write_text("import time\ntime.sleep(600)\n")
    with Judge(workers=1) as judge:
        with monkeypatch.context() as patched:
            patched.setattr("trl_pper.judge.host.worker._ZYGOTE", tmp_path / "zygote.py")
            future = judge.submit(task_adding(1), [ADD_ONE])
            assert eventually(judge.processes)
            (pid,) = judge.processes()
            started = time.monotonic()
            judge.abort()
        assert time.monotonic() - started < 5
        assert future.result(0)[0].pass_rate is None
        assert not os.path.exists(f"/proc/{pid}")
        assert judge.run([(task_adding(1), [ADD_ONE])])[0][0].accepted
