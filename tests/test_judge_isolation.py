"""What a program can reach: no answer, no other process, nothing that outlives it."""

from __future__ import annotations

import os
import secrets

import pytest

from trl_pper import CodingTask, FunctionTests, Judge, Limits, StdioTests
from trl_pper.judge.selftest import processes_under
from trl_pper.task import StdioCase

pytestmark = pytest.mark.hostile


@pytest.fixture(scope="module")
def judge():
    with Judge(workers=1, limits=Limits(cpu_seconds=5.0)) as judge:
        yield judge


def run_function(judge, program, code, entry_point=None):
    task = CodingTask(task_id="t", prompt="p", tests=FunctionTests(code=code, entry_point=entry_point))
    return judge.run([(task, [program])])[0][0]


def run_script(judge, program, expected, given=""):
    tests = StdioTests(cases=(StdioCase(input=given, output=expected),))
    return judge.run([(CodingTask(task_id="t", prompt="p", tests=tests), [program])])[0][0]


def test_the_report_is_measured_and_honest(judge):
    report = judge.report()
    assert set(report.values()) <= {"verified", "absent"}
    for name in ("cpu limit", "memory limit", "output limit", "process group killed", "answers kept out"):
        assert report[name] == "verified", name
    assert report["filesystem"] == "absent"


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


def test_the_candidate_descends_from_nothing_that_held_the_tests(judge):
    """Every ancestor up to the host is the zygote alone, and the referee is no ancestor."""
    program = """
import os
chain, pid = [], os.getppid()
while pid > 1:
    command = open(f"/proc/{pid}/cmdline").read()
    chain.append("zygote" if "zygote.py" in command else "other")
    pid = int(open(f"/proc/{pid}/stat").read().rsplit(")", 1)[1].split()[1])
def f(): return chain
"""
    verdict = run_function(judge, program, "assert f()[0] == 'zygote'\nassert 'zygote' not in f()[1:]", "f")
    assert verdict.accepted, verdict.message


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
        {leave}
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
    worker = judge._idle.get()
    judge._idle.put(worker)
    assert processes_under(worker.directory) == []


@pytest.mark.slow
def test_a_fork_bomb_is_contained(judge):
    program = "import os\nwhile True:\n    try: os.fork()\n    except OSError: pass"
    with Judge(workers=1, limits=Limits(cpu_seconds=0.15, processes=16)) as small:
        assert str(run_script(small, program, "").outcomes[0]) == "timeout"
        worker = small._idle.get()
        small._idle.put(worker)
        assert processes_under(worker.directory) == []
        assert run_script(small, "print(1)", "1").accepted


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give programs a user of their own")
def test_killing_everything_kills_only_itself(judge):
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
