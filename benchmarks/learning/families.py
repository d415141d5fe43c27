"""Families of tasks for the learning bench: what to program, which mistakes are made, and which tests catch them.

A family composes tasks of parts. Compositions of the test split never occur in the train split, nor in the corpus that
base models learn from; each part does. Every mistake of a part is caught by a test of its task.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal, Protocol

from trl_pper import CodingTask, FunctionTests, StdioTests, demo
from trl_pper.demo import base_model

Split = Literal["train", "test"]


@dataclass(frozen=True, kw_only=True)
class Slips:
    """Probabilities of a mistake in each part of a program of the corpus.

    Args:
        prone: In the parts in which the imagined author errs often.
        other: In the other parts.
    """

    prone: float
    other: float


class Family(Protocol):
    """A family of tasks."""

    name: str

    def tasks(self, split: Split, *, seed: int, count: int, tests: int) -> list[CodingTask]:
        """Return at most `count` tasks of a split, with at most `tests` tests each; equal for equal arguments."""

    def corpus(self, seed: int, *, slips: Slips) -> Iterator[tuple[str, str]]:
        """Yield endless pairs of prompt and completion of the train compositions, with slips."""

    def reference(self, task_id: str) -> str:
        """Return a completion that passes every test of a task."""


class Lists:
    """The demo's family: a filter, a map and a reduction over integers, with slips of a single token."""

    name = "lists"

    def tasks(self, split: Split, *, seed: int, count: int, tests: int) -> list[CodingTask]:
        """Return tasks; see `Family`."""
        return [with_tests(task, tests) for task in demo.demo_tasks(split, seed=seed)[:count]]

    def corpus(self, seed: int, *, slips: Slips) -> Iterator[tuple[str, str]]:
        """Yield programs; see `Family`."""
        return base_model.corpus(seed, prone=slips.prone, other=slips.other)

    def reference(self, task_id: str) -> str:
        """Return a right completion; see `Family`."""
        program = demo.reference_program(task_id)
        return program[program.index("):\n") + 3 :]


def with_tests(task: CodingTask, number: int) -> CodingTask:
    """Return a task with its first tests only."""
    if isinstance(task.tests, StdioTests):
        return replace(task, tests=replace(task.tests, cases=task.tests.cases[:number]))
    assert isinstance(task.tests, FunctionTests)
    # A test is a line of the code in all families.
    return replace(task, tests=replace(task.tests, code="\n".join(task.tests.code.splitlines()[:number])))


FAMILIES: dict[str, Family] = {family.name: family for family in (Lists(),)}
