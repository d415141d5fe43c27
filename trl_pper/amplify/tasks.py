"""Adds tests to tasks that have a reference solution: the same questions, asked of it about more inputs.

Enters: tasks with a trusted `reference`. Leaves: the tasks in order, those that could be given more tests with them,
and what became of each. Programs that the tests are meant to find out are not known here, so that no test is chosen
for whom it fails. A reference runs only inside the judge's jail.

Which programs pass the old tests of a task and fail the new ones.

Enters: amplified tasks and programs. Leaves: counts per task. Programs of tasks without new tests are judged by the
old ones alone; one that could not be judged counts as neither.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from trl_pper.amplify.answers import NOT_TWICE_THE_SAME, Answer, answers
from trl_pper.amplify.calls import NotLiteral
from trl_pper.amplify.proposals import Proposal, propose
from trl_pper.judge.judge import Judge
from trl_pper.judge.verdict import Outcome, Verdict
from trl_pper.tasks.task import CodingTask, Tests

#: Inputs tried for each test wanted: some are dropped, and of the rest those with rare answers are taken first.
_TRIED_PER_TEST = 2

NO_REFERENCE = "no reference"
FAILS_OWN_TESTS = "the reference fails the task's tests"
NOT_DETERMINISTIC = "the reference is not deterministic"
FAILS_TOGETHER = "the reference fails the old and new tests together"
NOTHING_KEPT = "no new input was kept"


@dataclass(frozen=True, kw_only=True)
class AmplifiedTask:
    """A task and what became of it.

    Args:
        task: The task, with its new tests if it got any.
        added: The new tests alone, or None.
        added_tests: Number of new tests.
        reason: Why there are none, or "".
        tried: Number of inputs that the reference was run on.
        dropped: Number of inputs that became no test, by reason.
    """

    task: CodingTask
    added: Tests | None = None
    added_tests: int = 0
    reason: str = ""
    tried: int = 0
    dropped: Mapping[str, int] = field(default_factory=dict)


def amplify_tasks(
    tasks: Sequence[CodingTask],
    judge: Judge,
    *,
    new_tests: int = 20,
    seed: int = 0,
    references: Mapping[str, Sequence[str]] | None = None,
) -> list[AmplifiedTask]:
    r"""Add tests to tasks by mutating the inputs that their tests have.

    An input becomes a test when the reference answers it in a quarter of the time allowed, twice the same in processes
    that hash text differently, and with something that can be written down; and when the reference, and every other
    one given, passes the test.

    Args:
        tasks: Tasks; those without a reference stay as they are.
        judge: Who runs the references.
        new_tests: The most tests added to one task.
        seed: Decides all inputs, together with a task's id; neither the order of tasks nor their number matters.
        references: Further programs by task id that are known to be right; every new test must suit them all.

    Returns:
        One for each task, in order. The same arguments give the same tests.

    Raises:
        ValueError: `new_tests` or `seed` is out of range, or `references` name an unknown task.

    Examples:
        >>> from trl_pper import FunctionTests, Judge
        >>> tests = FunctionTests(entry_point="double", code="assert double(2) == 4\nassert double(9) == 18")
        >>> task = CodingTask(task_id="double", prompt="p", tests=tests, reference="def double(x): return x + x")
        >>> with Judge(workers=1) as judge:
        ...     [amplified] = amplify_tasks([task], judge, new_tests=3)
        >>> amplified.added_tests
        3
    """
    check_options(tasks, new_tests, seed, references or {})
    work = [_Work(task=task, programs=_solutions(task, (references or {}).get(task.task_id, ()))) for task in tasks]
    _check_references(work, judge)
    for one in work:
        if not one.reason:
            one.propose(most=_TRIED_PER_TEST * new_tests, seed=seed)
    open_work = [one for one in work if one.proposal is not None]
    questions = [one.proposal.question for one in open_work if one.proposal is not None]
    for one, found in zip(open_work, answers(questions, judge), strict=True):
        one.take(found, new_tests)
    _verify(work, judge)
    return [one.result() for one in work]


def check_options(
    tasks: Sequence[CodingTask], new_tests: int, seed: int, references: Mapping[str, Sequence[str]]
) -> None:
    """Raise ValueError for what `amplify_tasks` cannot take."""
    if isinstance(new_tests, bool) or not isinstance(new_tests, int) or new_tests < 1:
        raise ValueError(f"new_tests: must be a whole number of at least 1; got {new_tests!r}")
    if isinstance(seed, bool) or not isinstance(seed, int):
        raise ValueError(f"seed: must be a whole number; got {seed!r}")
    unknown = sorted(references.keys() - {task.task_id for task in tasks})
    if unknown:
        raise ValueError(f"references: must be of the {len(tasks)} tasks; got {unknown[0]!r}")


@dataclass(eq=False, kw_only=True)
class _Work:
    """A task on its way: what was found out so far, and the reason once it is known to stay as it is."""

    task: CodingTask
    programs: list[str]
    proposal: Proposal | None = None
    reason: str = ""
    tests: list[Any] = field(default_factory=list)
    tried: int = 0
    dropped: Counter[str] = field(default_factory=Counter)

    def propose(self, *, most: int, seed: int) -> None:
        """Find new inputs."""
        proposal = propose(self.task, most=most, key=f"{seed}/{self.task.task_id}")
        if isinstance(proposal, str):
            self.reason = proposal
        else:
            self.proposal = proposal
            self.tried = len(proposal.question.inputs) - proposal.known

    def take(self, found: Sequence[Answer], new_tests: int) -> None:
        """Turn answers into tests, of those with a rare answer first."""
        assert self.proposal is not None
        if any(answer.reason == NOT_TWICE_THE_SAME for answer in found):
            # Whoever answers one input by chance may have answered the others so.
            self.reason = NOT_DETERMINISTIC
            return
        known = [answer.output for answer in found[: self.proposal.known] if not answer.reason]
        by_answer: dict[str, list[Any]] = {}
        for index in range(self.proposal.known, len(found)):
            test = None if found[index].reason else self.test(index, found[index].output, known)
            if test is not None:
                by_answer.setdefault(found[index].output, []).append(test)
            elif found[index].reason:
                self.dropped[found[index].reason] += 1
        turns = itertools.zip_longest(*by_answer.values())
        kept = [test for turn in turns for test in turn if test is not None]
        self.tests = kept[:new_tests]
        if kept[new_tests:]:
            self.dropped["more than were asked for"] += len(kept) - new_tests

    def test(self, index: int, output: str, known: Sequence[str]) -> Any:
        """Return a test, or None where the answer makes none."""
        assert self.proposal is not None
        try:
            return self.proposal.test(index, output, known)
        except NotLiteral as error:
            self.dropped[f"answer: {str(error).partition(':')[0]}"] += 1
            return None

    def drop(self, verdicts: Sequence[Verdict]) -> None:
        """Drop the tests that one of the references does not pass."""
        kept = [
            test
            for index, test in enumerate(self.tests)
            if all(verdict.outcomes[index : index + 1] == (Outcome.PASSED,) for verdict in verdicts)
        ]
        if len(kept) < len(self.tests):
            self.dropped["a reference does not pass the test"] += len(self.tests) - len(kept)
        self.tests = kept

    def candidate(self, *, alone: bool) -> CodingTask:
        """Return the task with the new tests, or with these alone."""
        assert self.proposal is not None
        return replace(self.task, tests=self.proposal.added(self.tests)[alone])

    def result(self) -> AmplifiedTask:
        """Return what became of the task."""
        dropped = dict(sorted(self.dropped.items()))
        if self.proposal is None or self.reason or not self.tests:
            reason = self.reason or NOTHING_KEPT
            return AmplifiedTask(task=self.task, reason=reason, tried=self.tried, dropped=dropped)
        whole, alone = self.proposal.added(self.tests)
        return AmplifiedTask(
            task=replace(self.task, tests=whole),
            added=alone,
            added_tests=len(self.tests),
            tried=self.tried,
            dropped=dropped,
        )


def _solutions(task: CodingTask, others: Sequence[str]) -> list[str]:
    return list(dict.fromkeys([task.reference, *others])) if task.reference is not None else []


def _check_references(work: Sequence[_Work], judge: Judge) -> None:
    """Note which tasks have no reference that can be trusted; other references that fail are not asked again."""
    for one, verdicts in zip(work, judge.run([(one.task, one.programs) for one in work]), strict=True):
        if not one.programs:
            one.reason = NO_REFERENCE
        elif not verdicts[0].accepted:
            one.reason = FAILS_OWN_TESTS
        one.programs = [program for program, verdict in zip(one.programs, verdicts, strict=True) if verdict.accepted]


def _verify(work: Sequence[_Work], judge: Judge) -> None:
    """Keep the tests that every reference passes, and only where it then passes all tests of the task."""
    for one, verdicts in _judged([one for one in work if one.tests], judge, alone=True):
        one.drop(verdicts)
    for one, verdicts in _judged([one for one in work if one.tests], judge, alone=False):
        if not all(verdict.accepted for verdict in verdicts):
            one.reason = FAILS_TOGETHER


def _judged(work: Sequence[_Work], judge: Judge, *, alone: bool) -> Iterator[tuple[_Work, list[Verdict]]]:
    """Yield tasks with what their references do on the new tests, alone or after the old ones."""
    yield from zip(work, judge.run([(one.candidate(alone=alone), one.programs) for one in work]), strict=True)


@dataclass(frozen=True, kw_only=True)
class Exposure:
    """What new tests say of the programs of one task.

    Args:
        task_id: The task.
        programs: How many there are.
        passed_before: How many pass every old test.
        exposed: How many of these fail a new test.
        unjudged: How many of these the new tests could not be run on.
        verdicts: For each program what the new tests alone say; None for one that failed an old test.
    """

    task_id: str
    programs: int
    passed_before: int
    exposed: int
    unjudged: int
    verdicts: tuple[Verdict | None, ...]


def expose(
    before: Sequence[CodingTask],
    amplified: Sequence[AmplifiedTask],
    programs: Sequence[Sequence[str]],
    judge: Judge,
) -> list[Exposure]:
    """Judge programs by the old tests, and those that pass by the new ones.

    Args:
        before: The tasks as they were.
        amplified: What became of them, in the same order.
        programs: The programs of each.
        judge: Who runs them.
    """
    old = judge.run(list(zip(before, programs, strict=True)))
    passing = [
        [program for program, verdict in zip(some, verdicts, strict=True) if verdict.accepted]
        for some, verdicts in zip(programs, old, strict=True)
    ]
    jobs = [
        (replace(task, tests=one.added), some)
        for task, one, some in zip(before, amplified, passing, strict=True)
        if one.added is not None
    ]
    new = iter(judge.run(jobs))
    return [
        _exposure(task, verdicts, next(new) if one.added is not None else None)
        for task, one, verdicts in zip(before, amplified, old, strict=True)
    ]


def _exposure(task: CodingTask, old: Sequence[Verdict], new: Sequence[Verdict] | None) -> Exposure:
    found = iter(new if new is not None else ())
    verdicts = [next(found, None) if verdict.accepted else None for verdict in old]
    judged = [verdict for verdict in verdicts if verdict is not None]
    return Exposure(
        task_id=task.task_id,
        programs=len(old),
        passed_before=sum(verdict.accepted for verdict in old),
        exposed=sum(verdict.pass_rate is not None and not verdict.accepted for verdict in judged),
        unjudged=sum(verdict.pass_rate is None for verdict in judged),
        verdicts=tuple(verdicts),
    )
