"""Compare the labels of a preference set with the verdicts on its programs.

A pair is the wrong way round if its rejected program has the higher pass rate. Programs that the sandbox could not
judge are counted, and decide nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from trl_pper.generation.dataset import DatasetSource, LabelledProgram
from trl_pper.generation.extraction import extract
from trl_pper.replay.experience import Experience
from trl_pper.tasks.task import CodingTask

#: The labels in the order in which they are shown.
LABELS = ("chosen", "rejected", "desirable", "undesirable")


@dataclass(frozen=True, kw_only=True)
class LabelCount:
    """The number of programs with a label, of those with a verdict, and of those that pass every test."""

    programs: int
    judged: int
    passed: int


@dataclass(frozen=True, kw_only=True)
class LabelReport:
    """A record of the labels of a set and the verdicts on its programs.

    Args:
        counts: The numbers of each label that occurs.
        pairs: Number of pairs of which both programs have a verdict.
        reversed: Pairs whose rejected program has the higher pass rate.
        tied: Pairs whose programs have the same pass rate.
    """

    counts: Mapping[str, LabelCount] = field(default_factory=dict)
    pairs: int = 0
    reversed: int = 0
    tied: int = 0

    def line(self) -> str:
        """Return the record in a readable line."""
        passed = [f"{one.passed} of {one.judged} {label}" for label, one in self.counts.items()]
        parts = [f"{' and '.join(passed)} programs pass every test"]
        if self.pairs:
            parts.append(
                f"of {self.pairs} pairs {self.reversed} are the wrong way round, and {self.tied} have equal pass rates"
            )
        unjudged = sum(one.programs - one.judged for one in self.counts.values())
        return "; ".join(parts + [f"{unjudged} programs have no verdict"] * bool(unjudged))


def compare_labels(
    source: DatasetSource, tasks: Sequence[CodingTask], experiences: Iterable[Experience]
) -> LabelReport:
    """Compare the labels of a set with the verdicts on its programs.

    Args:
        source: The set.
        tasks: The tasks that its programs were judged for, with the prompts of that collection.
        experiences: The judged programs, such as the buffer of the collection.
    """
    rates = _PassRates(experiences)
    by_label: dict[str, list[float | None]] = {}
    pairs: dict[int, dict[str, float | None]] = {}
    for one in source.labelled(tasks):
        rate = rates.find(one)
        by_label.setdefault(one.label, []).append(rate)
        pairs.setdefault(one.row, {})[one.label] = rate
    gaps = [
        chosen - rejected
        for pair in pairs.values()
        if (chosen := pair.get("chosen")) is not None and (rejected := pair.get("rejected")) is not None
    ]
    return LabelReport(
        counts={label: _count(by_label[label]) for label in LABELS if label in by_label},
        pairs=len(gaps),
        reversed=sum(gap < 0 for gap in gaps),
        tied=sum(gap == 0 for gap in gaps),
    )


class _PassRates:
    """The pass rates of judged programs, found by the completion; by its program where another completion has it."""

    def __init__(self, experiences: Iterable[Experience]) -> None:
        self._by_completion: dict[tuple[str, str], float] = {}
        self._by_program: dict[tuple[str, str], float] = {}
        for one in experiences:
            self._by_completion[one.task_id, one.completion] = one.pass_rate
            self._by_program[one.task_id, one.program] = one.pass_rate

    def find(self, one: LabelledProgram) -> float | None:
        """Return the pass rate of a program; None if it has no verdict."""
        task = one.task
        rate = self._by_completion.get((task.task_id, one.completion))
        if rate is None:
            # Equal programs are a single experience, with the completion that came last.
            program = extract(one.completion, prompt=task.prompt, entry_point=task.entry_point).program
            rate = self._by_program.get((task.task_id, program))
        return rate


def _count(rates: Sequence[float | None]) -> LabelCount:
    judged = [rate for rate in rates if rate is not None]
    return LabelCount(programs=len(rates), judged=len(judged), passed=sum(rate == 1.0 for rate in judged))
