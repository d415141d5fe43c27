"""Propose new inputs for a task: a question for the reference, and tests once the reference has answered.

Nothing is run here.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

from trl_pper.amplify.answers import Question, as_script
from trl_pper.amplify.calls import (
    MAX_CHARS,
    NotLiteral,
    TestCall,
    assertion,
    only_assertions,
    read,
    test_calls,
    with_assertions,
    write,
)
from trl_pper.amplify.layout import find_layout
from trl_pper.amplify.mutate import new_inputs, plain
from trl_pper.amplify.shape import Record, find_shape
from trl_pper.tasks.syntax import with_preamble
from trl_pper.tasks.task import CodingTask, FunctionTests, StdioCase, StdioTests, Tests

NO_LITERAL_CALL = "no test calls the function with literals"
UNKNOWN_LAYOUT = "the inputs have no layout that is known"
NO_NEW_INPUT = "no new input follows the rules of the known ones"
#: Longest known input that is changed, in characters.
_MAX_INPUT_CHARS = 2_000
#: Known inputs sent to the reference with the new ones, to learn the kinds of its answers.
_MAX_KNOWN = 30


class Proposal(Protocol):
    """New inputs to ask the reference about, and the way its answers become tests."""

    @property
    def known(self) -> int:
        """Number of inputs that come from existing tests; they are the first."""

    @property
    def question(self) -> Question:
        """Program and inputs for the reference run."""

    def test(self, index: int, output: str, known: Sequence[str]) -> Any:
        """Return the test that input `index` gives `output`; raise NotLiteral if there can be no such test."""

    def added(self, tests: Sequence[Any]) -> tuple[Tests, Tests]:
        """Return the task's tests with `tests` added, and the added tests alone."""


def propose(task: CodingTask, *, most: int, key: str) -> Proposal | str:
    """Return at most `most` new inputs for a task with a reference, or the reason why there are none.

    Args:
        task: The task.
        most: Largest number of new inputs.
        key: Text that seeds every random choice.
    """
    if isinstance(task.tests, StdioTests):
        return _propose_texts(task, task.tests, most, key)
    return _propose_calls(task, task.tests, most, key)


@dataclass(frozen=True, kw_only=True)
class _Texts:
    """New inputs of a program that reads standard input."""

    question: Question
    tests: StdioTests
    known: int

    def test(self, index: int, output: str, known: Sequence[str]) -> StdioCase:
        # A result that no known test has is likely an input that the task does not allow.
        if not any(map(_has_nan, known)) and _has_nan(output):
            raise NotLiteral("not a number")
        return StdioCase(input=self.question.inputs[index], output=output)

    def added(self, tests: Sequence[StdioCase]) -> tuple[Tests, Tests]:
        return replace(self.tests, cases=(*self.tests.cases, *tests)), replace(self.tests, cases=tuple(tests))


def _has_nan(output: str) -> bool:
    return any(word.strip("+-(),[]") in ("nan", "inf") for word in output.casefold().split())


def _propose_texts(task: CodingTask, tests: StdioTests, most: int, key: str) -> Proposal | str:
    texts = [text for text in dict.fromkeys(case.input for case in tests.cases) if len(text) <= _MAX_INPUT_CHARS]
    layout = find_layout(texts)
    if layout is None:
        return UNKNOWN_LAYOUT
    records = [layout.record(text) for text in texts]
    made = [layout.text(record) for record in new_inputs(records, find_shape(records), most=most, key=key)]
    if not made:
        return NO_NEW_INPUT
    known = texts[:_MAX_KNOWN]
    inputs = tuple(dict.fromkeys([*known, *made]))
    question = Question(program=_program(task), inputs=inputs, cpu_seconds=task.cpu_seconds)
    return _Texts(question=question, tests=tests, known=len(known))


@dataclass(frozen=True, kw_only=True)
class _Calls:
    """New arguments of a function."""

    question: Question
    tests: FunctionTests
    known: int
    calls: tuple[TestCall, ...]
    near: TestCall | None

    def test(self, index: int, output: str, known: Sequence[str]) -> str:
        value = read(output.strip())
        # None or text where numbers are usual is likely the reference's way to reject an input.
        if _kind(value) not in {_kind(read(text.strip())) for text in known}:
            raise NotLiteral("another kind of answer than those known")
        call = self.calls[index]
        line = assertion(str(self.tests.entry_point), call, call.arguments, value, near=self.near)
        if len(line) > MAX_CHARS:
            raise NotLiteral("too long")
        return line

    def added(self, tests: Sequence[str]) -> tuple[Tests, Tests]:
        return with_assertions(self.tests, list(tests)), only_assertions(self.tests, list(tests))


def _kind(value: Any) -> str:
    return "number" if type(value) in (int, float) else type(value).__name__


def _propose_calls(task: CodingTask, tests: FunctionTests, most: int, key: str) -> Proposal | str:
    calls = [call for call in test_calls(tests) if len(_asked(call)) <= _MAX_INPUT_CHARS]
    if not calls:
        return NO_LITERAL_CALL
    # Arguments correspond only between calls of the same signature.
    groups: dict[Any, list[TestCall]] = {}
    for call in calls:
        groups.setdefault(call.signature, []).append(call)
    made = [
        replace(_commonest(group), arguments=Record(plain(arguments)))
        for number, group in enumerate(groups.values())
        for arguments in _new_arguments(group, math.ceil(most * len(group) / len(calls)), f"{key}/{number}")
    ]
    if not made:
        return NO_NEW_INPUT
    known = {_asked(call): call for call in calls[:_MAX_KNOWN]}
    every = known | {_asked(call): call for call in made}
    script = as_script(_program(task), str(tests.entry_point))
    question = Question(program=script, inputs=tuple(every), cpu_seconds=task.cpu_seconds)
    near = next((call for call in calls if call.kind == "near"), None)
    return _Calls(question=question, tests=tests, known=len(known), calls=tuple(every.values()), near=near)


def _program(task: CodingTask) -> str:
    """Return the reference with the preamble, as the judge runs programs of the task."""
    return with_preamble(task.reference or "", task.preamble)


def _new_arguments(group: Sequence[TestCall], most: int, key: str) -> list[Record]:
    inputs = [call.arguments for call in group]
    return new_inputs(inputs, find_shape(inputs, margin=True), most=most, key=key) if inputs[0] else []


def _commonest(group: Sequence[TestCall]) -> TestCall:
    [(template, _)] = Counter(call.template for call in group).most_common(1)
    return next(call for call in group if call.template == template)


def _asked(call: TestCall) -> str:
    """Return the arguments of a call in the form that the driver script of `answers` reads."""
    places = len(call.arguments) - len(call.keywords)
    keywords = dict(zip(call.keywords, call.arguments[places:], strict=True))
    return write((plain(call.arguments[:places]), keywords))
