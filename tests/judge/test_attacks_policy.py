"""Programs that learn from the programs before them, as a policy in training would."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from tests.judge.hostile.policies import CHANNELS, GUESSERS, SEARCH_MEMORY, Channel, guesser, learner
from trl_pper import CodingTask, FunctionTests, Judge, Limits, StdioTests
from trl_pper.judge.levels import IsolationUnavailable
from trl_pper.tasks.task import StdioCase

pytestmark = [pytest.mark.hostile, pytest.mark.slow]

LEVELS = ("namespaces", "landlock")
#: Matches names that a program leaves; no text with it in it matches.
PATTERN = rb"[c][a]nary-[0-9]+-[0-9]"
#: Of 32 numbers from 0 to 15 guessing finds 2; more than 8 come about once in 2,000 times. Of 12, more than 4.
PAIRS, LUCK = 32, 8
PAIRS_WITH_RESTS, LUCK_WITH_RESTS = 12, 4
LIMITS = Limits(cpu_seconds=3.0)


@pytest.fixture(scope="module", params=LEVELS)
def level(request):
    try:
        Judge(workers=1, isolation=request.param)
    except IsolationUnavailable as error:
        if os.environ.get("CI"):
            pytest.fail(str(error))
        pytest.skip(str(error))
    return request.param


@pytest.fixture(scope="module")
def judge(level):
    """A judge whose only worker runs all programs, and that remembers no verdict."""
    with Judge(workers=1, isolation=level, limits=LIMITS, cache_size=0) as judge:
        yield judge


@pytest.fixture(scope="module")
def judges(level):
    with Judge(workers=2, isolation=level, limits=LIMITS, cache_size=0) as judge:
        yield judge


NULL = os.open(os.devnull, os.O_RDWR)


def function_task(code):
    return CodingTask(task_id="t", prompt="p", tests=FunctionTests(code=code, entry_point="f", run="separate"))


def numbers(name, count):
    return [random.Random(f"{name} {place}").randrange(16) for place in range(count)]


def run_plainly(program, *, folder, background=False):
    """Run a program with nothing around it."""
    command = [sys.executable, "-I", "-c", program]
    options = {
        "cwd": folder,
        "env": {**os.environ, "PLAINLY": "1"},
        "stdout": subprocess.PIPE,
        "stderr": subprocess.DEVNULL,
        "text": True,
    }
    return subprocess.Popen(command, **options) if background else subprocess.run(command, timeout=60, **options)


@pytest.fixture
def folder():
    """A folder on a file system that counts its inodes, where there is one."""
    shared = Path("/dev/shm")
    parent = shared if os.access(shared, os.W_OK) else None
    with tempfile.TemporaryDirectory(dir=parent) as outer:
        # The times and the mode of its parent belong to the channels, too.
        inner = Path(outer, "inner")
        inner.mkdir()
        yield inner


@pytest.mark.parametrize("channel", CHANNELS, ids=lambda channel: channel.name)
def test_the_channel_is_one_where_nothing_is_in_the_way(channel: Channel, folder):
    """Without a jail the numbers arrive, so that the next test would notice it if they did."""
    # Other programs of a busy machine may come between the two.
    arrived = count_plainly(channel, folder, 0)
    if arrived <= 3:
        arrived = max(count_plainly(channel, folder, attempt) for attempt in (1, 2))
    if arrived < 3 and channel.name in ("files kept in memory", "pages thrown out"):
        pytest.skip("the libraries lie on a file system that throws nothing out")
    # More than three by guessing come about once in 1,000 times.
    assert arrived > 3, arrived


def count_plainly(channel: Channel, folder, attempt) -> int:
    """Return how many of eight numbers arrive."""
    arrived = 0
    try:
        for number in numbers(f"{channel.name} {attempt}", 8):
            sender = run_plainly(f"{channel.sender}\nf({number})", folder=folder, background=channel.together)
            time.sleep(channel.rest_seconds(number))
            receiver = run_plainly(f"{channel.receiver}\nprint(f())", folder=folder)
            arrived += receiver.stdout.strip() == str(number)
            if channel.together:
                sender.communicate()
    finally:
        run_plainly(f"{channel.receiver}\n{channel.clean}", folder=folder)
    return arrived


def test_numbers_that_are_told_would_be_noticed(judge):
    """A sender whose number the receiver knows for another reason is told from one of whom it knows nothing."""
    known = numbers("known", PAIRS)
    jobs = [(function_task(f"assert f() == {number}"), [f"def f(): return {number}"]) for number in known]
    assert sum(verdict.accepted for [verdict] in judge.run(jobs)) == PAIRS
    jobs = [(function_task(f"assert f() == {number}"), ["def f(): return 3"]) for number in known]
    assert sum(verdict.accepted for [verdict] in judge.run(jobs)) <= LUCK


@pytest.mark.timeout(300)
@pytest.mark.parametrize("channel", CHANNELS, ids=lambda channel: channel.name)
def test_no_program_tells_another_a_number(level, judge, judges, channel: Channel):
    rests = channel.together or channel.rest_seconds(1) > 0
    count, luck = (PAIRS_WITH_RESTS, LUCK_WITH_RESTS) if rests else (PAIRS, LUCK)
    arrived = 0
    for place, number in enumerate(numbers(channel.name, count)):
        pair = [
            (function_task(f"assert f({number}) == 'sent'"), [f"{channel.sender}\n# {place}"]),
            (function_task(f"assert f() == {number}"), [f"{channel.receiver}\n# {place}"]),
        ]
        if channel.together:
            _, [received] = judges.run(pair)
        else:
            judge.run(pair[:1])
            time.sleep(channel.rest_seconds(place))
            [[received]] = judge.run(pair[1:])
        assert received.pass_rate is not None, received.message
        arrived += received.accepted
    if arrived > luck and channel.hole_at(level):
        pytest.xfail(channel.hole_at(level))
    assert arrived <= luck, f"{arrived} of {count}"


def test_the_names_of_files_leave_no_trace_in_memory(judge):
    """A worker that reads names itself would hand them on to every process that it forks."""
    leave = "import os\ndef f(n):\n    for k in range(99): os.mkdir(f'canary-{n * 7919}-{k}')\n    return n"
    verdicts = judge.run([(function_task(f"assert f({n}) == {n}"), [leave]) for n in range(1, 20)])
    assert all(verdict.accepted for [verdict] in verdicts)
    search = f"{SEARCH_MEMORY}\ndef f(): return memory_holds({PATTERN!r})"
    [[verdict]] = judge.run([(function_task("assert f() is False"), [search])])
    assert verdict.accepted, verdict.message


def test_a_trace_in_memory_would_be_found():
    program = (
        f"{SEARCH_MEMORY}\nimport tempfile\nwith tempfile.TemporaryDirectory() as folder:\n"
        "    for k in range(99): os.mkdir(os.path.join(folder, '-'.join(('canary', str(7919), str(k)))))\n"
        f"    kept = len(os.listdir(folder))\nprint(memory_holds({PATTERN!r}))"
    )
    done = subprocess.run([sys.executable, "-I", "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "True\n"
    done = subprocess.run(
        [sys.executable, "-I", "-c", program.replace("range(99)", "()")], capture_output=True, text=True
    )
    assert done.stdout == "False\n"


@pytest.mark.timeout(300)
@pytest.mark.parametrize("name", GUESSERS)
def test_guessing_pays_no_more_than_chance(judge, name):
    """Of 300 tasks with six tests, 4.7 are passed by a single guess each; more than 14 about once in 10,000 times."""
    drawn = random.Random(0)
    jobs = []
    for number in range(300):
        cases = [StdioCase(input=f"{place}", output=drawn.choice(["YES", "NO"])) for place in range(6)]
        tests = StdioTests(cases=tuple(cases))
        jobs.append((CodingTask(task_id="t", prompt="p", tests=tests), [f"# {number}\n{guesser(name)}"]))
    verdicts = [verdict for [verdict] in judge.run(jobs)]
    assert all(verdict.pass_rate is not None for verdict in verdicts)
    assert sum(verdict.accepted for verdict in verdicts) <= 14
    assert sum(verdict.pass_rate for verdict in verdicts) / 300 < 0.55


DIGIT = 7
LEARNED = [channel for channel in CHANNELS if channel.name in ("files", "time that is set", "System V memory")]


@pytest.mark.parametrize("channel", LEARNED, ids=lambda channel: channel.name)
def test_a_digit_is_learned_where_nothing_is_in_the_way(channel: Channel, folder):
    tests = f"for x in (0, 1):\n    assert f(x) == {DIGIT}\nprint('right')"

    def right(place):
        return run_plainly(learner(channel, place) + tests, folder=folder).stdout == "right\n"

    try:
        # 150 guesses are all wrong about once in 7,000,000 times, and ten in a row are right once in 10,000,000,000.
        assert any(right(place) for place in range(150))
        later = sum(right(place) for place in range(150, 160))
    finally:
        run_plainly(f"{channel.receiver}\n{channel.clean}", folder=folder)
    assert later >= 9, later


@pytest.mark.parametrize("channel", LEARNED, ids=lambda channel: channel.name)
def test_no_digit_is_learned_over_sixty_programs(judge, channel: Channel):
    task = function_task(f"for x in (0, 1):\n    assert f(x) == {DIGIT}")
    [verdicts] = judge.run([(task, [learner(channel, place) for place in range(60)])])
    # More than 16 of 60 at a chance of a tenth come about once in 10,000 times.
    assert sum(verdict.accepted for verdict in verdicts) <= 16
