"""Where attacks take place: judges of one isolation level, and what must hold once an attack is over."""

from __future__ import annotations

import contextlib
import os
import tempfile
import time
from collections.abc import Iterator

import pytest

from tests.judge.hostile.attack import ANSWERS, NEXT, PROFILES, SECRET, Attack
from trl_pper import CodingTask, FunctionTests, Judge, StdioTests, Verdict
from trl_pper.judge.levels import IsolationUnavailable
from trl_pper.judge.selftest import descendants
from trl_pper.judge.verdict import Outcome

_SLACK_SECONDS = 3.0

#: By kind of tests: what an honest neighbour is judged by, a right program and a wrong one.
_NEIGHBOURS = {
    FunctionTests: (SECRET, f"def f(x): return {ANSWERS!r}[x]", "def f(x): return None"),
    StdioTests: (NEXT, "print(int(input()) + 1)", "print('no')"),
}


class Arena:
    """Judges with one worker each, made when an attack first needs them."""

    def __init__(self, level: str) -> None:
        self.level = level
        self.judges: dict[str, Judge] = {}
        self.idle: dict[str, int] = {}

    def judge(self, profile: str) -> Judge:
        """Return the judge with the limits called `profile`, its worker started."""
        if profile not in self.judges:
            # No cache: the same honest neighbours run again and again.
            self.judges[profile] = Judge(workers=1, isolation=self.level, limits=PROFILES[profile], cache_size=0)
            self.assert_honest(self.judges[profile], FunctionTests)
            # The worker's referee, and a process that an ordinary user's worker needs for its namespaces.
            self.idle[profile] = self.count_processes(profile)
        return self.judges[profile]

    def count_processes(self, profile: str) -> int:
        """Return how many processes run below the judge's worker."""
        return sum(len(descendants(pid)) for pid in self.judges[profile].processes())

    def run(self, attack: Attack) -> Verdict:
        """Have the attack judged; check that it ended in time and left everything in order."""
        judge = self.judge(attack.profile)
        if attack.accomplice:
            judge.run([(attack.task, [attack.accomplice])])
        started = time.monotonic()
        try:
            [[verdict]] = judge.run([(attack.task, [attack.program])])
        finally:
            elapsed = time.monotonic() - started
            self.assert_in_order(attack)
        assert elapsed < 2 * judge.limits.wall_seconds + _SLACK_SECONDS, f"took {elapsed:.1f} seconds"
        return verdict

    def assert_in_order(self, attack: Attack) -> None:
        """Assert that honest programs are judged right and that nothing runs but the worker and its referee."""
        judge = self.judges[attack.profile]
        # A worker of its own is started for programs that use numpy.
        assert self.count_processes(attack.profile) <= self.idle[attack.profile] * len(judge.processes())
        self.assert_honest(judge, type(attack.tests))

    def assert_honest(self, judge: Judge, kind: type) -> None:
        """Assert that a right program is accepted and a wrong one is not."""
        tests, right, wrong = _NEIGHBOURS[kind]
        [verdicts] = judge.run([(CodingTask(task_id="honest", prompt="p", tests=tests), [right, wrong])])
        assert [verdict.pass_rate for verdict in verdicts] == [1.0, 0.0], [one.message for one in verdicts]

    def withstand(self, attack: Attack) -> Verdict:
        """Run the attack and assert that what was expected came of it; a known hole must still be one."""
        hole, expected = attack.hole_at(self.level), attack.expected_at(self.level)
        try:
            verdict = self.run(attack)
            # Whoever logs it must be able to write it.
            verdict.message.encode()
            shown = f"{attack.target}: {[str(one) for one in verdict.outcomes]} {verdict.message[:500]!r}"
            if expected == "accepted":
                assert verdict.accepted, shown
            elif expected == "rejected":
                assert verdict.pass_rate == 0.0, shown
            elif expected == "judged":
                assert verdict.pass_rate is not None, shown
            else:
                allowed = {Outcome(name) for name in expected.split("|")}
                assert allowed.issuperset(verdict.outcomes), shown
                assert not verdict.accepted, shown
        except Exception as error:
            if hole:
                pytest.xfail(f"{hole} ({type(error).__name__}: {str(error)[:200]})")
            raise
        assert not hole, f"the hole is closed; take its mark away: {hole}"
        return verdict

    def close(self) -> list[int]:
        """End the judges; return the processes that were theirs."""
        pids = [pid for judge in self.judges.values() for pid in judge.processes()]
        pids += [pid for worker in pids for pid in descendants(worker)]
        for judge in self.judges.values():
            judge.close()
        return pids


@contextlib.contextmanager
def open_arena(level: str) -> Iterator[Arena]:
    """Yield an arena; afterwards assert that it left no process, no descriptor and no directory."""
    made = []

    def mkdtemp(*args: object, **options: object) -> str:
        made.append(real(*args, **options))
        return made[-1]

    real = tempfile.mkdtemp
    try:
        Judge(workers=1, isolation=level)
    except IsolationUnavailable as error:
        if os.environ.get("CI"):
            pytest.fail(str(error))
        pytest.skip(str(error))
    before = set(os.listdir("/proc/self/fd"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tempfile, "mkdtemp", mkdtemp)
        # Nothing of the host's environment may show.
        patch.setenv("HF_TOKEN", "hf_secret")
        arena = Arena(level)
        try:
            yield arena
        finally:
            pids = arena.close()
    assert pids or not arena.judges
    assert not [pid for pid in pids if os.path.exists(f"/proc/{pid}")]
    assert set(os.listdir("/proc/self/fd")) == before
    assert not [directory for directory in made if os.path.exists(directory)]
