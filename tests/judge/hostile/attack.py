"""What an attack is: a program, the tests it is judged by, and what must come of it."""

from __future__ import annotations

import secrets
from dataclasses import dataclass, replace

import pytest

from trl_pper import CodingTask, FunctionTests, Limits, StdioTests
from trl_pper.tasks.task import StdioCase

LEVELS = ("namespaces", "landlock")

_TIGHT = Limits(
    cpu_seconds=0.2, wall_factor=2.0, memory_bytes=256 << 20, output_bytes=1 << 20, value_bytes=4 << 20,
    file_bytes=1 << 20, files=200, open_files=64, max_timeouts=1,
)  # fmt: skip
PROFILES = {
    # For what runs into a limit.
    "tight": _TIGHT,
    # For what needs time to look around.
    "patient": replace(_TIGHT, cpu_seconds=4.0, wall_factor=1.0),
    # For what starts processes.
    "family": replace(_TIGHT, processes=8),
}

NUMBER = 10**9 + secrets.randbelow(10**9)
WORD = f"answer-{secrets.token_hex(8)}"
LIST = [secrets.randbelow(10**6) + 1000 for _ in range(3)]
#: Three tests whose answers no program can know, by different ways to compare.
ANSWERS = {1: NUMBER, 2: WORD, 3: LIST}
SECRET = FunctionTests(
    code=f"assert f(1) == {NUMBER}\nassert f(2) in ({WORD!r}, 'other')\nassert not f(3) != {LIST}", entry_point="f"
)
#: The same in a single test, for what costs a second each time.
ONE = FunctionTests(code=f"assert f(1) == {NUMBER}", entry_point="f")
#: A script's secret: the output of each of three inputs.
SECRET_OUTPUT = StdioTests(cases=tuple(StdioCase(input=str(n), output=f"{WORD}-{n}") for n in range(3)))
#: What an honest script prints for two inputs.
NEXT = StdioTests(cases=tuple(StdioCase(input=str(n), output=str(n + 1)) for n in range(2)))


def silent(output: str = "refused", given: str = "") -> StdioTests:
    """Return the tests of a script that is to print `output` and nothing else."""
    return StdioTests(cases=(StdioCase(input=given, output=output),))


@dataclass(frozen=True, kw_only=True)
class Attack:
    """A hostile program.

    Args:
        name: Short and unique.
        target: The property attacked, in one sentence.
        program: The program's text.
        tests: What it is judged by.
        expected: "rejected" for a pass rate of 0; "accepted" when being refused is what the tests ask for; "judged"
            for any pass rate; or the outcomes that any test may have, separated by bars. By level where levels differ.
        profile: Which of `PROFILES` it runs under.
        accomplice: A program judged just before, on the same worker.
        hole: Why the attack succeeds today: the known holes, by level.
        slow: Whether it takes more than three seconds.
    """

    name: str
    target: str
    program: str
    tests: FunctionTests | StdioTests
    expected: dict[str, str] | str = "rejected"
    profile: str = "tight"
    accomplice: str = ""
    hole: dict[str, str] | str = ""
    slow: bool = False

    @property
    def task(self) -> CodingTask:
        """The task whose program this pretends to be."""
        return CodingTask(task_id=self.name, prompt="p", tests=self.tests)

    def expected_at(self, level: str) -> str:
        """Return what must come of the attack at `level`."""
        return self.expected if isinstance(self.expected, str) else self.expected[level]

    def hole_at(self, level: str) -> str:
        """Return why the attack succeeds at `level`, or ""."""
        return self.hole if isinstance(self.hole, str) else self.hole.get(level, "")


def harmless(program: str, tests: FunctionTests | StdioTests, **options: str) -> Attack:
    """Return a program that does no more than it may, as an attack that is to be accepted."""
    return Attack(name="control", target="control", program=program, tests=tests, expected="accepted", **options)


def parametrize(attacks: list[Attack]) -> pytest.MarkDecorator:
    """Run a test once for each attack."""
    names = [attack.name for attack in attacks]
    assert len(set(names)) == len(names), sorted(name for name in names if names.count(name) > 1)
    rows = [pytest.param(one, id=one.name, marks=[pytest.mark.slow] if one.slow else []) for one in attacks]
    return pytest.mark.parametrize("attack", rows)
