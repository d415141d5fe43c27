"""What the judge's benchmark has judged: problems with tests, and right programs that are all different.

Enters: numbers. Leaves: plain data that every contender turns into its own form. Programs and tests are tiny, so that
what is measured is the contender's own cost; they import nothing, which favours whoever starts a fresh interpreter.
"""

from __future__ import annotations

from dataclasses import dataclass

ENTRY_POINT = "add"
TESTS_PER_FUNCTION = 8


@dataclass(frozen=True)
class FunctionProblem:
    """A function to write, in HumanEval's form; problems of different numbers have different tests.

    Args:
        number: What sets this problem apart.
    """

    number: int

    @property
    def prompt(self) -> str:
        """What a program begins with."""
        return f"def {ENTRY_POINT}(x: int, values: list[int]) -> int:\n"

    @property
    def inputs(self) -> list[list[object]]:
        """The arguments of each call."""
        return [[n, [n, self.number, 3]] for n in range(TESTS_PER_FUNCTION)]

    @property
    def expected(self) -> list[int]:
        """What each call returns."""
        return [2 * n + self.number + 3 for n in range(TESTS_PER_FUNCTION)]

    @property
    def test(self) -> str:
        """The tests as HumanEval writes them: a function `check` of asserts."""
        calls = zip(self.inputs, self.expected, strict=True)
        asserts = (f"    assert candidate({x!r}, {values!r}) == {result}\n" for (x, values), result in calls)
        return "def check(candidate):\n" + "".join(asserts)

    def completions(self, count: int) -> list[str]:
        """Return `count` right completions of the prompt, no two equal."""
        return [f"    return x + sum(values)  # {n}\n" for n in range(count)]

    @property
    def wrong_completion(self) -> str:
        """A completion that fails every test."""
        return "    return -1\n"


@dataclass(frozen=True)
class StdioProblem:
    """A program to write that adds the numbers of a line.

    Args:
        number: What sets this problem apart.
        tests: Number of its tests.
    """

    number: int
    tests: int

    @property
    def cases(self) -> list[tuple[str, str]]:
        """Input and expected output of each test."""
        return [(f"{n} {self.number}\n", f"{n + self.number}\n") for n in range(self.tests)]

    @property
    def program(self) -> str:
        """A right program, of this problem alone."""
        return f"print(sum(map(int, input().split())))  # {self.number}\n"


#: A problem with the completions to be judged on it.
FunctionJob = tuple[FunctionProblem, list[str]]


def function_jobs(programs: int, per_task: int) -> list[FunctionJob]:
    """Return `programs` right programs, `per_task` to each problem."""
    problems = [FunctionProblem(number) for number in range(programs // per_task)]
    return [(problem, problem.completions(per_task)) for problem in problems]


def stdio_problems(programs: int, tests: int) -> list[StdioProblem]:
    """Return `programs` problems of `tests` tests, each with its own program."""
    return [StdioProblem(number, tests) for number in range(programs)]
