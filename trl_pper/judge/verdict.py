"""Represent the judgement of a program: an outcome for each test, and the pass rate that follows.

A failed program is data. A program that could not be judged (no test ran, or the sandbox itself failed) has no pass
rate at all, so that an infrastructure failure never reads as a zero.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from typing import Any


class Outcome(StrEnum):
    """A way for a test to end."""

    PASSED = "passed"
    WRONG_ANSWER = "wrong_answer"
    RUNTIME_ERROR = "runtime_error"
    TIMEOUT = "timeout"
    MEMORY_LIMIT = "memory_limit"
    OUTPUT_LIMIT = "output_limit"
    SYNTAX_ERROR = "syntax_error"
    NOT_RUN = "not_run"
    UNSUPPORTED = "unsupported"
    SANDBOX_ERROR = "sandbox_error"


#: Outcomes that say nothing about the program: a single test with such an outcome leaves the verdict without a pass
#: rate, since the rate of the other tests is not the program's.
UNJUDGED = frozenset({Outcome.NOT_RUN, Outcome.UNSUPPORTED, Outcome.SANDBOX_ERROR})


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """The judgement of a program on all tests of its task.

    Args:
        outcomes: The outcome of each test, in the order of the tests.
        message: A description of the first failure, for people; never parsed.
        cpu_seconds: CPU seconds that the program used in all tests together.
        run: "separate" if the program could not reach the tests; "shared" if the tests ran in its process, where a
            verdict can be forged.

    Examples:
        >>> Verdict(outcomes=(Outcome.PASSED, Outcome.WRONG_ANSWER)).pass_rate
        0.5
    """

    outcomes: tuple[Outcome, ...]
    message: str = ""
    cpu_seconds: float = 0.0
    run: str = "separate"

    def __post_init__(self) -> None:
        object.__setattr__(self, "outcomes", tuple(Outcome(outcome) for outcome in self.outcomes))
        # Texts of a program's errors may hold lone surrogates, which cannot be written to a file.
        object.__setattr__(self, "message", self.message.encode("utf-8", "replace").decode())

    @property
    def total(self) -> int:
        """Number of tests."""
        return len(self.outcomes)

    @property
    def passed(self) -> int:
        """Number of tests passed."""
        return sum(outcome is Outcome.PASSED for outcome in self.outcomes)

    @property
    def pass_rate(self) -> float | None:
        """Passed / total in [0, 1], or None if the program was not judged."""
        # A failure of the sandbox must not lower the rate, nor the tests that it left out raise it.
        if not self.outcomes or UNJUDGED.intersection(self.outcomes):
            return None
        return self.passed / self.total

    @property
    def accepted(self) -> bool:
        """Whether the program was judged and passed every test (strict accuracy)."""
        return self.pass_rate == 1.0

    @property
    def reason(self) -> str:
        """One line for people that says why the program was not accepted; "" if it was."""
        if self.accepted:
            return ""
        judged = "not judged" if self.pass_rate is None else f"passes {self.passed} of {self.total} tests"
        first = next((line for line in self.message.splitlines() if line.strip()), "")
        return f"{judged}: {first}" if first else judged

    def to_row(self) -> dict[str, Any]:
        """Return pass_rate, passed, total, outcomes, message and run as plain values that JSON can hold."""
        return {
            "pass_rate": self.pass_rate,
            "passed": self.passed,
            "total": self.total,
            "outcomes": [str(outcome) for outcome in self.outcomes],
            "message": self.message,
            "run": self.run,
        }

    @classmethod
    def uniform(cls, outcome: Outcome, total: int, message: str = "", cpu_seconds: float = 0.0) -> Verdict:
        """Return a verdict with the same outcome for each of `total` tests."""
        return cls(outcomes=(outcome,) * total, message=message, cpu_seconds=cpu_seconds)


def pass_rates(verdicts: Iterable[Verdict]) -> list[float]:
    """Return the pass rates of the judged programs; programs without a pass rate are left out."""
    return [rate for verdict in verdicts if (rate := verdict.pass_rate) is not None]


def shared_note(tasks: int) -> str:
    """Return a line for people on the number of tasks whose tests ran in the program's process; "" for none."""
    return f"{tasks} tasks with shared tests, whose verdicts can be forged" if tasks else ""
