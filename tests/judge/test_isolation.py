"""What a program can reach: no answer, no other process, nothing that outlives it."""

from __future__ import annotations

import os
import secrets
import threading
import time
from pathlib import Path

import pytest

from trl_pper import CodingTask, FunctionTests, Judge, Limits, StdioTests
from trl_pper.judge.jail import namespaces
from trl_pper.judge.levels import IsolationUnavailable
from trl_pper.judge.selftest import descendants
from trl_pper.tasks.task import StdioCase

pytestmark = pytest.mark.hostile


@pytest.fixture(scope="module", params=["namespaces", "landlock", "rlimits"])
def judge(request):
    with Judge(workers=1, isolation=request.param, limits=Limits(cpu_seconds=5.0, processes=8)) as judge:
        yield judge


def assert_alone(judge):
    """Assert that nothing runs in the worker but, at most, its referee."""
    [worker] = judge.processes()
    assert len(descendants(worker)) <= 1
    assert run_function(judge, "def f(): return 1", "assert f() == 1", "f").accepted


def run_function(judge, program, code, entry_point=None):
    task = CodingTask(task_id="t", prompt="p", tests=FunctionTests(code=code, entry_point=entry_point))
    return judge.run([(task, [program])])[0][0]


def run_script(judge, program, expected, given=""):
    tests = StdioTests(cases=(StdioCase(input=given, output=expected),))
    return judge.run([(CodingTask(task_id="t", prompt="p", tests=tests), [program])])[0][0]


def test_the_report_is_measured_and_honest():
    reports = {level: Judge(isolation=level).report() for level in ("namespaces", "landlock", "rlimits")}
    for level in ("namespaces", "landlock"):
        assert set(reports[level].values()) == {"verified"}, reports[level]
    for name in ("cpu limit", "memory limit", "output limit", "nothing outlives a program", "environment kept out"):
        assert reports["rlimits"][name] == "verified", name
    for name in ("files unread", "other programs", "system calls"):
        assert reports["rlimits"][name] == "absent", name


HUNT = """
import gc, os, re, sys
def everything():
    frame, seen = sys._getframe(), []
    while frame is not None:
        seen += [frame.f_locals, frame.f_globals, frame.f_code.co_consts]
        frame = frame.f_back
    seen += gc.get_objects() + [vars(module) for module in list(sys.modules.values()) if hasattr(module, "__dict__")]
    seen += [dict(os.environ), sys.argv, os.listdir(".")]
    for name in ("environ", "cmdline", "status"):
        for process in ("self", os.getppid()):
            try:
                seen.append(open(f"/proc/{process}/{name}", errors="replace").read())
            except OSError:
                pass
    for number in range(256):
        try:
            seen.append(os.pread(number, 1 << 20, 0))
        except OSError:
            pass
    return seen
def finds(word):
    pattern = re.compile(word + "-[0-9a-f]{16}")
    for thing in everything():
        parts = [thing] if isinstance(thing, (str, bytes)) else thing if isinstance(thing, (list, tuple, set)) else ()
        parts = [*thing, *thing.values()] if isinstance(thing, dict) else parts
        for part in parts:
            if isinstance(part, (str, bytes)) and pattern.search(part if isinstance(part, str) else repr(part)):
                return True
    return False
"""


def test_a_function_cannot_find_the_answer(judge):
    answer = f"answer-{secrets.token_hex(8)}"
    planted = "\nplanted = 'planted-' + os.urandom(8).hex()\n"
    program = HUNT + planted + "def f(x): return [finds('planted'), finds('answer')]"
    verdict = run_function(judge, program, f"assert f(0) == [True, False]\nassert f(1) == '{answer}'", "f")
    assert [str(outcome) for outcome in verdict.outcomes] == ["passed", "wrong_answer"]


def test_a_script_cannot_find_the_answer(judge):
    answer = f"answer-{secrets.token_hex(8)}"
    program = HUNT + "\nplanted = 'planted-' + os.urandom(8).hex()\nprint(finds('planted'), finds('answer'))"
    verdict = run_script(judge, program, answer)
    assert "printed 'True False" in verdict.message


def test_the_candidate_descends_from_nothing_that_held_the_tests():
    """Its only ancestor below the host is the zygote, and the referee is a sibling."""
    program = """
import os
chain, pid = [], os.getppid()
while pid > 1:
    command = open(f"/proc/{pid}/cmdline").read()
    chain.append("zygote" if "zygote.py" in command else "other")
    pid = int(open(f"/proc/{pid}/stat").read().rsplit(")", 1)[1].split()[1])
def f(): return chain
"""
    with Judge(workers=1, isolation="rlimits") as judge:
        verdict = run_function(judge, program, "assert f()[0] == 'zygote'\nassert 'zygote' not in f()[1:]", "f")
    assert verdict.accepted, verdict.message


@pytest.mark.parametrize("isolation", ["namespaces", "landlock", "rlimits"])
def test_every_process_of_a_worker_is_a_child_of_its_zygote(isolation):
    """Referee and candidate are siblings at every level, seen from outside while a program runs."""
    tests = FunctionTests(code="assert f() == 1", entry_point="f")
    program = "import time\ndef f():\n    time.sleep(2)\n    return 1"
    with Judge(workers=1, isolation=isolation) as judge:
        thread = threading.Thread(
            target=judge.run, args=([(CodingTask(task_id="t", prompt="p", tests=tests), [program])],)
        )
        thread.start()
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline:
            family = [pid for worker in judge.processes() for pid in descendants(worker)]
            if len(family) == 2:
                break
            time.sleep(0.01)
        parents = {Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1] for pid in family}
        assert len(family) == 2
        assert parents == {str(judge.processes()[0])}
        thread.join()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may look at another process's namespaces")
def test_a_worker_shares_neither_network_nor_files_with_its_host():
    """What else keeps programs from both must not be all there is."""
    with Judge(workers=1, isolation="namespaces") as judge:
        assert run_function(judge, "def f(): return 1", "assert f() == 1").accepted
        [worker] = judge.processes()
        for kind in ("net", "mnt", "ipc", "uts", "cgroup"):
            assert os.readlink(f"/proc/{worker}/ns/{kind}") != os.readlink(f"/proc/self/ns/{kind}"), kind
        mounts = [line.split() for line in Path(f"/proc/{worker}/mountinfo").read_text().splitlines()]
    options = {mount[4]: mount[5].split(",") for mount in mounts}
    assert {path for path, of in options.items() if "ro" not in of} <= {"/box", "/run", *namespaces.DEVICES}
    assert all("nosuid" in of for path, of in options.items() if path not in namespaces.DEVICES)
    assert "/" in options


@pytest.mark.parametrize(
    "leave",
    [
        "os.setsid()",
        "os.setpgid(0, 0)",
        "[signal.signal(n, signal.SIG_IGN) for n in (1, 2, 15)]",
        "[os.close(n) for n in range(5)]",
        "os.kill(os.getpid(), signal.SIGSTOP)",
    ],
)
@pytest.mark.parametrize("kind", ["function", "script"])
def test_no_process_outlives_its_program(judge, leave, kind):
    program = f"""
import os, signal, time
if os.fork() == 0:
    if os.fork() == 0:
        try:
            {leave}
        except OSError:
            pass
        time.sleep(60)
    os._exit(0)
os.wait()
print("started")
def f(): return "started"
"""
    if kind == "function":
        assert run_function(judge, program, "assert f() == 'started'").accepted
    else:
        assert run_script(judge, program, "started").accepted
    assert_alone(judge)


@pytest.mark.slow
def test_a_fork_bomb_is_contained(judge):
    program = "import os\nwhile True:\n    try: os.fork()\n    except OSError: pass"
    with Judge(workers=1, isolation=judge.isolation, limits=Limits(cpu_seconds=0.15, processes=16)) as small:
        assert str(run_script(small, program, "").outcomes[0]) == "timeout"
        assert_alone(small)
        assert run_script(small, "print(1)", "1").accepted


def test_killing_everything_kills_only_itself(judge):
    if judge.isolation == "rlimits" and os.geteuid() != 0:
        pytest.skip("at this level only root can give programs a user of their own")
    program = "import os, signal\nos.kill(-1, signal.SIGKILL)\ndef f(): return 1"
    assert run_function(judge, program, "assert f() == 1").pass_rate is not None
    assert run_function(judge, "def f(): return 1", "assert f() == 1").accepted


def test_the_environment_holds_nothing_of_the_callers(monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    program = "import os\nprint(sorted(name for name in os.environ if name.startswith(('HF', 'HUGGING', 'VIRTUAL'))))"
    with Judge(workers=1) as judge:
        assert run_script(judge, program, "[]").accepted


def test_a_program_has_an_empty_directory_to_itself(judge):
    program = "import os\nprint(os.listdir('.'))\nopen('x', 'w').write('1')\nprint(open('x').read())"
    for _ in range(2):
        assert run_script(judge, program, "[] 1").accepted


@pytest.mark.parametrize("level", ["namespaces", "landlock", "seccomp"])
def test_a_referee_is_sealed_like_a_candidate(level):
    try:
        judge = Judge(workers=1, isolation=level)
    except IsolationUnavailable as error:
        pytest.skip(str(error))
    with judge:
        task = CodingTask(task_id="t", prompt="p", tests=FunctionTests(code="assert f(1) == 2"))
        [[verdict]] = judge.run([(task, ["def f(x): return 2 * x"])])
        assert (verdict.accepted, verdict.run) == (True, "separate")
        [worker] = judge.processes()
        # The candidate has ended; the referee waits for another program of the task.
        sealed = [pid for pid in descendants(worker) if b"\nSeccomp:\t2\n" in Path(f"/proc/{pid}/status").read_bytes()]
        assert len(sealed) == 1
        status = Path(f"/proc/{sealed[0]}/status").read_text()
        assert "NoNewPrivs:\t1\n" in status
        assert int(status.split("CapEff:\t")[1].split("\n")[0], 16) in (0, 1 << 2)
