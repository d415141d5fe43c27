"""The level `processes`, which needs nothing of Linux: as it is on Linux, and with all that only Linux has taken away.

No Mac ran this. What is taken away, and what behaves as it does there, stands in `elsewhere/not_linux.py`.
"""

from __future__ import annotations

import json
import os
import socket
import sys
import threading
import time

import pytest

from tests.judge.elsewhere import count_endings, run_pytest, run_python
from trl_pper import CodingTask, FunctionTests, Judge
from trl_pper.judge.host import function
from trl_pper.judge.host.system import usable_cores
from trl_pper.judge.levels import IsolationUnavailable, choose_level
from trl_pper.judge.wire.channel import MAX_MESSAGE_BYTES, PacketLine, StreamLine

pytestmark = pytest.mark.hostile

CASES = "tests/judge/elsewhere/cases.py"
START = "tests.judge.elsewhere.start"
FILES = [
    f"tests/judge/{name}.py"
    for name in (
        "host/test_stdio", "host/test_function",
        "test_judge",
    )
]  # fmt: skip
#: What names other levels, watches the host from outside, has numpy loaded before, or takes long for what is the same;
#: and what behaves otherwise, and is said to: memory has no bound, CPU time is bounded in whole seconds.
_OTHERWISE = (
    "auto or left_behind or canary or interrupted or worker_that_has_it or blocks_the_tests or endless_answer "
    "or memory or expected10 or cpu_clock or cpu_seconds or one_launch or compiled_once or ends_its_tests "
    "or leaves_no_process or pickled"
)
#: What reaches the next program, or takes back what was printed, by way of files, which this level leaves open.
_BY_FILES = "left or truncates"
NAMES = pytest.mark.parametrize("emulated", [False, True], ids=["named", "emulated"])
FUNCTION = CodingTask(
    task_id="t", prompt="p", tests=FunctionTests(code="assert f(1) == 1\nassert f(2) == 2", entry_point="f")
)


def test_a_sample_of_what_the_judge_does_without_linux():
    found = run_pytest(CASES, "-k", "answer_calls or stronger or empty_directory or ignores", emulated=True)
    assert found["passed"] >= 13


@pytest.mark.slow
@pytest.mark.timeout(800)
@NAMES
def test_what_the_judge_does_at_this_level(emulated):
    assert run_pytest(CASES, emulated=emulated)["passed"] >= 32


@pytest.mark.slow
@pytest.mark.timeout(800)
def test_what_the_judge_does_at_any_level():
    found = run_pytest(*FILES, "-k", f"not ({_OTHERWISE})", emulated=True)
    assert found["passed"] > 150


@pytest.mark.slow
@pytest.mark.timeout(800)
@pytest.mark.parametrize("kind", ["function", "stdio"])
@pytest.mark.skipif(os.geteuid() != 0, reason="hostile programs run here as a user that owns nothing; root can be one")
def test_no_program_forges_a_verdict(kind):
    """What this level promises: the answers are not in a program's process, and its words are no verdict."""
    found = run_pytest(f"tests/judge/test_attacks_{kind}.py", "-k", f"not ({_BY_FILES})", emulated=False)
    assert found["passed"] > 60


@pytest.mark.slow
@pytest.mark.timeout(800)
@pytest.mark.skipif(os.geteuid() != 0, reason="the tests run as an ordinary user already")
def test_no_policy_learns_where_the_judge_is_an_ordinary_user():
    """At `namespaces` and `landlock`, which this user may have in other ways than root."""
    # Some of the ways that take long say nothing more of another user.
    chosen = "trace or learned_over or (guessing and fails) or (tells and not (folder or kept or thrown))"
    options = ("-p", "no:cacheprovider", "-p", "no:xdist", "-k", chosen, "--tb=short")
    done = run_python("-m", "pytest", "tests/judge/test_attacks_policy.py", *options, emulated=False)
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-3000:]
    # Where the machine gives ordinary users no namespaces, the tests of one level are skipped.
    assert count_endings(done.stdout)["passed"] > 20


def test_the_command_line_says_what_is_missing_and_runs_without():
    commands = ["judge", "--selftest"], ["judge", "--selftest", "--isolation", "processes"]
    script = f"from {START} import main; print([main(one) for one in {commands}])"
    said = run_python("-c", script, emulated=True)
    assert said.returncode == 0, said.stderr
    refused, ran = json.loads(said.stdout.splitlines()[-1])
    assert refused not in (0, None)
    assert "isolation: 'auto' cannot be had on this machine (namespaces: it needs Linux; landlock: it" in said.stderr
    assert "--isolation of the other commands" in said.stderr
    assert ran == 1, said.stderr
    assert "isolation level: processes" in said.stdout
    assert "answers kept out            verified" in said.stdout
    assert "memory limit                absent" in said.stdout


@pytest.mark.slow
@pytest.mark.timeout(800)
def test_a_model_is_trained_where_linux_is_not():
    """Import, collection, judge, trainer and report, from one command."""
    options = ["--rounds", "1", "--output", "home/demo", "--isolation", "processes"]
    show = "import json, sys; print(json.dumps(json.load(open('home/demo/summary.json'))))"
    script = f"import sys; from {START} import main; assert main(['demo', *{options!r}]) in (0, None); {show}"
    said = run_python("-c", script, emulated=True)
    assert said.returncode == 0, said.stderr[-3000:]
    summary = json.loads(said.stdout.strip().splitlines()[-1])
    assert summary["isolation"] == "processes"
    assert summary["programs_judged"] > 0


@pytest.mark.skipif(os.geteuid() != 0, reason="this is an ordinary user")
def test_root_is_refused_since_programs_would_be_root():
    with pytest.raises(
        IsolationUnavailable, match="programs would be processes of root; run the judge as an ordinary"
    ):
        Judge(isolation="processes")


@pytest.mark.parametrize("kind", [PacketLine, StreamLine])
def test_messages_arrive_whole_with_their_descriptors(kind):
    ours, theirs = socket.socketpair(*kind.kind)
    ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 17)
    messages = [b"one", b"2" * MAX_MESSAGE_BYTES, b"three"]
    with ours, theirs, open(__file__, "rb") as file:
        sending = threading.Thread(target=lambda: [kind(ours).send(one, [file.fileno()] * 2) for one in messages])
        sending.start()
        for message in messages:
            received, descriptors = kind(theirs).receive_with_descriptors()
            assert received == message
            assert [os.fstat(one).st_ino for one in descriptors] == [os.fstat(file.fileno()).st_ino] * 2
            for one in descriptors:
                os.close(one)
        sending.join()
        kind(theirs).send(b"answer")
        assert kind(ours).receive() == b"answer"
        theirs.close()
        assert kind(ours).receive() == b""


def test_a_message_that_comes_in_pieces_is_put_together():
    ours, theirs = socket.socketpair()

    def send():
        for piece in (b"\5\0", b"\0\0he", b"l", b"lo"):
            theirs.sendall(piece)
            time.sleep(0.03)

    with ours, theirs:
        sending = threading.Thread(target=send)
        sending.start()
        assert StreamLine(ours).receive() == b"hello"
        sending.join()


def test_a_stream_cut_off_or_announcing_too_much_is_at_its_end():
    for sent in (b"\5\0", b"\5\0\0\0four", (MAX_MESSAGE_BYTES + 1).to_bytes(4, "little") + b"x"):
        ours, theirs = socket.socketpair()
        with ours:
            with theirs:
                theirs.sendall(sent)
            assert StreamLine(ours).receive() == b""


def test_a_channel_stays_open_until_the_referee_has_it(monkeypatch):
    """What is closed while it is under way gets lost on macOS."""
    lent, real = [], socket.send_fds

    def send_fds(sock, buffers, descriptors):
        if buffers == [b"+"]:
            lent.append((descriptors[0], os.fstat(descriptors[0]).st_ino))
        return real(sock, buffers, descriptors)

    def receive_frame(*args, **options):
        if lent:
            time.sleep(0.05)
            assert os.fstat(lent[-1][0]).st_ino == lent[-1][1]
            listened.append(lent[-1])
        return received(*args, **options)

    listened, received = [], function.receive_frame
    monkeypatch.setattr(socket, "send_fds", send_fds)
    with Judge(workers=1) as judge:
        monkeypatch.setattr(function, "receive_frame", receive_frame)
        lent.clear()
        # One for each program, and one for each candidate that takes the place of one that crashed.
        [verdicts] = judge.run([(FUNCTION, ["def f(x): return x", "import os\ndef f(x): os._exit(0)"])])
        assert [verdict.pass_rate for verdict in verdicts] == [1.0, 0.0]
        assert len(lent) == 4
        assert {*listened} >= {lent[0], lent[1]}
        assert [number for number, inode in lent if _inode(number) == inode] == []


def _inode(number):
    try:
        return os.fstat(number).st_ino
    except OSError:
        return None


def test_cores_are_counted_where_affinity_is_unknown(monkeypatch):
    assert usable_cores() == len(os.sched_getaffinity(0))
    monkeypatch.delattr(os, "sched_getaffinity")
    monkeypatch.setattr(os, "cpu_count", lambda: 7)
    assert usable_cores() == 7
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert usable_cores() == 1


def test_a_weaker_level_is_named_only_where_there_is_one(monkeypatch):
    def refuse(level):
        return "no"

    with pytest.raises(IsolationUnavailable, match=r"name a weaker level \(seccomp, rlimits, processes\)"):
        choose_level("auto", probe=refuse)
    with pytest.raises(IsolationUnavailable, match=r"\(processes: no\)$"):
        choose_level("processes", probe=refuse)
    monkeypatch.setattr(sys, "platform", "darwin")
    with pytest.raises(IsolationUnavailable, match=r"name a weaker level \(processes\).*bounds neither memory nor"):
        choose_level("seccomp", probe=refuse)
