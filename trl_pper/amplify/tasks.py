"""Add tests to tasks that have a reference solution, and count the programs that pass the old tests but fail the new.

The reference answers new inputs, inside the judge only. Tests are chosen without looking at the programs that they are
meant to expose.
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

#: Inputs tried for each wanted test: some are dropped, and tests with rare answers are preferred among the rest.
_TRIED_PER_TEST = 2

NO_REFERENCE = "no reference"
FAILS_OWN_TESTS = "the reference fails the task's tests"
NOT_DETERMINISTIC = "the reference is not deterministic"
FAILS_TOGETHER = "the reference fails the old and new tests together"
NOTHING_KEPT = "no new input was kept"


@dataclass(frozen=True, kw_only=True)
class AmplifiedTask:
    """A task after amplification.

    Args:
        task: The task, with its new tests if there are any.
        added: The new tests alone, or None.
        added_tests: Number of new tests.
        reason: Reason why there are no new tests, or "".
        tried: Number of new inputs on which the reference was run.
        dropped: Number of new inputs that became no test, by reason.
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
    r"""Add tests to tasks by mutating the inputs of their tests.

    An input becomes a test if the reference answers it within a quarter of the CPU time allowed, gives the same answer
    twice in processes with different hash seeds, and returns a value that can be written as a literal. The reference
    and all further programs given must then pass the test.

    Args:
        tasks: Tasks; a task without a reference stays unchanged.
        judge: Judge that runs the references.
        new_tests: Largest number of tests to add to a task.
        seed: Seed of all inputs, together with a task's id. The order and the number of tasks do not matter.
        references: Further right programs by task id; every new test must accept all of them.

    Returns:
        An entry for each task, in order. The same arguments give the same tests.

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
    """Raise ValueError for invalid options of `amplify_tasks`."""
    if isinstance(new_tests, bool) or not isinstance(new_tests, int) or new_tests < 1:
        raise ValueError(f"new_tests: must be a whole number of at least 1; got {new_tests!r}")
    if isinstance(seed, bool) or not isinstance(seed, int):
        raise ValueError(f"seed: must be a whole number; got {seed!r}")
    unknown = sorted(references.keys() - {task.task_id for task in tasks})
    if unknown:
        raise ValueError(f"references: must be of the {len(tasks)} tasks; got {unknown[0]!r}")


@dataclass(eq=False, kw_only=True)
class _Work:
    """The state of a task during amplification; `reason` is set once it is known to get no tests."""

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
        """Turn answers into tests, with rare answers first."""
        assert self.proposal is not None
        if any(answer.reason == NOT_TWICE_THE_SAME for answer in found):
            # A reference with a random answer may have answered the other inputs by chance, too.
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
        # In turns over the distinct answers: twenty inputs with the same answer test little.
        turns = itertools.zip_longest(*by_answer.values())
        kept = [test for turn in turns for test in turn if test is not None]
        self.tests = kept[:new_tests]
        if kept[new_tests:]:
            self.dropped["more than were asked for"] += len(kept) - new_tests

    def test(self, index: int, output: str, known: Sequence[str]) -> Any:
        """Return the test for an answer, or None if the answer allows no test."""
        assert self.proposal is not None
        try:
            return self.proposal.test(index, output, known)
        except NotLiteral as error:
            self.dropped[f"answer: {str(error).partition(':')[0]}"] += 1
            return None

    def drop(self, verdicts: Sequence[Verdict]) -> None:
        """Drop the tests that any of the references fails."""
        kept = [
            test
            for index, test in enumerate(self.tests)
            if all(verdict.outcomes[index : index + 1] == (Outcome.PASSED,) for verdict in verdicts)
        ]
        if len(kept) < len(self.tests):
            self.dropped["a reference does not pass the test"] += len(self.tests) - len(kept)
        self.tests = kept

    def candidate(self, *, alone: bool) -> CodingTask:
        """Return the task with all tests, or with only the new tests if `alone`."""
        assert self.proposal is not None
        return replace(self.task, tests=self.proposal.added(self.tests)[alone])

    def result(self) -> AmplifiedTask:
        """Return the amplified task."""
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
    """Set the reason of tasks without a trusted reference, and drop further references that fail the tests."""
    for one, verdicts in zip(work, judge.run([(one.task, one.programs) for one in work]), strict=True):
        if not one.programs:
            one.reason = NO_REFERENCE
        elif not verdicts[0].accepted:
            one.reason = FAILS_OWN_TESTS
        one.programs = [program for program, verdict in zip(one.programs, verdicts, strict=True) if verdict.accepted]


def _verify(work: Sequence[_Work], judge: Judge) -> None:
    """Drop tests that a reference fails, and give up tasks whose reference then fails the tests as a whole."""
    for one, verdicts in _judged([one for one in work if one.tests], judge, alone=True):
        one.drop(verdicts)
    # State that tests share, or limits on the whole run, can still make the reference fail.
    for one, verdicts in _judged([one for one in work if one.tests], judge, alone=False):
        if not all(verdict.accepted for verdict in verdicts):
            one.reason = FAILS_TOGETHER


def _judged(work: Sequence[_Work], judge: Judge, *, alone: bool) -> Iterator[tuple[_Work, list[Verdict]]]:
    """Yield tasks with the verdicts on their references, for the new tests alone or after the old tests."""
    yield from zip(work, judge.run([(one.candidate(alone=alone), one.programs) for one in work]), strict=True)


@dataclass(frozen=True, kw_only=True)
class Exposure:
    """The verdicts of new tests on the programs of a task.

    Args:
        task_id: Id of the task.
        programs: Number of programs.
        passed_before: Number of programs that pass every old test.
        exposed: Number of these programs that fail a new test.
        unjudged: Number of these programs that could not be judged by the new tests.
        verdicts: Verdict of the new tests alone, for each program; None for a program that failed an old test.
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
    """Judge programs by the old tests, and the passing programs by the new tests.

    Args:
        before: Tasks before amplification.
        amplified: Results of `amplify_tasks`, in the same order.
        programs: Programs of each task.
        judge: Judge that runs them.
    """
    old = judge.run(list(zip(before, programs, strict=True)))
    # A program that fails an old test needs no new test to expose it.
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
