"""Families of tasks for the learning bench: what to program, which mistakes are made, and which tests catch them.

A family composes tasks of parts. Compositions of the test split never occur in the train split, nor in the corpus that
base models learn from; each part does. Every mistake of a part is caught by a test of its task.
"""

from __future__ import annotations

import contextlib
import io
import itertools
import random
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any, Literal, Protocol

import numpy as np

from trl_pper import CodingTask, FunctionTests, StdioCase, StdioTests, demo
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


@dataclass(frozen=True, kw_only=True)
class Part:
    """A part of a program: its wording in the prompt, its code, and the code with the mistake that is made in it."""

    name: str
    phrase: str
    code: str
    slip: str
    prone: bool = False


class Composed:
    """A family whose programs put a part into each of three slots.

    Args:
        name: Name of the family.
        slots: The parts of each slot.
        prompt: Text with a place for each slot's phrase.
        body: Completion with a place for each slot's code.
        draw_input: Function that draws an input.
        edges: Inputs that mistakes in edge cases show on.
        stdin: Whether programs read an input from standard input; otherwise `solve` is called with it.
    """

    def __init__(
        self,
        name: str,
        *,
        slots: Sequence[Sequence[Part]],
        prompt: str,
        body: str,
        draw_input: Callable[[random.Random], Any],
        edges: Sequence[Any],
        stdin: bool = False,
    ) -> None:
        self.name, self.slots, self.prompt, self.body = name, slots, prompt, body
        self.draw_input, self.edges, self.stdin = draw_input, edges, stdin
        self._tests = cache(self._choose_tests)

    def tasks(self, split: Split, *, seed: int, count: int, tests: int) -> list[CodingTask]:
        """Return tasks; see `Family`. Compositions with a mistake that no input shows are left out."""
        found: list[CodingTask] = []
        # The held-out tasks are the same for every seed up to their order.
        kinds = self._compositions(split)
        for index in np.random.default_rng([seed, 7]).permutation(len(kinds)):
            task = self._tests(kinds[index])
            if task is not None:
                found.append(with_tests(task, tests))
            if len(found) == count:
                break
        return found

    def corpus(self, seed: int, *, slips: Slips) -> Iterator[tuple[str, str]]:
        """Yield programs; see `Family`."""
        rng, kinds = np.random.default_rng(seed), self._compositions("train")
        while True:
            parts = self._parts(kinds[rng.integers(len(kinds))])
            slipped = (
                rng.random(len(parts)) < [slips.prone if part.prone else slips.other for part in parts]
            ).tolist()
            yield self._prompt(parts), self._body(parts, slipped)

    def reference(self, task_id: str) -> str:
        """Return a right completion; see `Family`."""
        names = task_id.split("/")[1:]
        parts = [next(p for p in slot if p.name == name) for slot, name in zip(self.slots, names, strict=True)]
        return self._body(parts, [False] * len(parts))

    def _compositions(self, split: Split) -> list[tuple[int, ...]]:
        every = itertools.product(*(range(len(slot)) for slot in self.slots))
        # Each pair of the first two parts has exactly one held-out third of the seven.
        return [places for places in every if (np.dot(places, (1, 2, 3)) % 7 == 0) == (split == "test")]

    def _parts(self, places: Sequence[int]) -> list[Part]:
        return [slot[place] for slot, place in zip(self.slots, places, strict=True)]

    def _prompt(self, parts: Sequence[Part]) -> str:
        return self.prompt.format(*(part.phrase for part in parts))

    def _body(self, parts: Sequence[Part], slipped: Sequence[bool]) -> str:
        return self.body.format(*(p.slip if wrong else p.code for p, wrong in zip(parts, slipped, strict=True)))

    def _choose_tests(self, places: tuple[int, ...]) -> CodingTask | None:
        """Return the task of a composition with eight tests that catch every mistake; None if none can."""
        parts = self._parts(places)
        task_id = "/".join([self.name, *(part.name for part in parts)])
        rng = random.Random(task_id)
        pool = list(dict.fromkeys([*(self.draw_input(rng) for _ in range(40)), *self.edges]))
        prompt = self._prompt(parts)
        variants = list(itertools.product((False, True), repeat=len(parts)))
        answers = [self._answers(prompt + self._body(parts, slipped), pool) for slipped in variants]
        right = answers[0]
        caught = np.array([[got != want for got, want in zip(row, right, strict=True)] for row in answers[1:]])
        if any(isinstance(answer, Exception) for answer in right) or not caught.any(axis=1).all():
            return None
        # The input that shows fewest mistakes comes first, so that pass rates are graded.
        chosen = [int(np.argmin(caught.sum(axis=0)))]
        missed = ~caught[:, chosen[0]]
        while missed.any():
            chosen.append(int(np.argmax(caught[missed].sum(axis=0) - caught.sum(axis=0) / 100)))
            missed &= ~caught[:, chosen[-1]]
        chosen += [index for index in range(len(pool)) if index not in chosen][: 8 - len(chosen)]
        return self._task(task_id, prompt, [(pool[index], right[index]) for index in chosen])

    def _task(self, task_id: str, prompt: str, cases: Sequence[tuple[Any, Any]]) -> CodingTask:
        tests: StdioTests | FunctionTests
        if self.stdin:
            tests = StdioTests(cases=tuple(StdioCase(input=given, output=answer) for given, answer in cases))
        else:
            lines = [f"assert solve({', '.join(map(repr, given))}) == {answer!r}" for given, answer in cases]
            tests = FunctionTests(entry_point="solve", code="\n".join(lines))
        return CodingTask(task_id=task_id, prompt=prompt, tests=tests)

    def _answers(self, program: str, inputs: Sequence[Any]) -> list[Any]:
        """Run a program of this family, never a model's, on inputs; a name of an exception is an answer, too."""
        code = compile(program, self.name, "exec")
        return [self._answer(code, given) for given in inputs]

    def _answer(self, code: Any, given: Any) -> Any:
        names: dict[str, Any] = {}
        try:
            if not self.stdin:
                exec(code, names)
                return names["solve"](*given)
            printed = io.StringIO()
            names["input"] = lambda: given
            with contextlib.redirect_stdout(printed):
                exec(code, names)
            return printed.getvalue()
        except Exception as error:
            return error


def _slot(*rows: str) -> tuple[Part, ...]:
    """Return the parts of a slot from rows of "name | phrase | code | slip"; a star marks a prone part."""
    parts = []
    for row in rows:
        name, phrase, code, slip = re.split(r" +\| +", row)
        parts.append(
            Part(name=name.strip("*"), phrase=phrase, code=code, slip=slip.rstrip(), prone=name.startswith("*"))
        )
    return tuple(parts)


STRINGS = Composed(
    "strings",
    slots=(
        _slot(
            "letters | that are letters | c.isalpha() | c.isalnum()",
            "digits | that are digits | c.isdigit() | c.isalpha()",
            "*vowels | that are vowels | c in 'aeiou' | c not in 'aeiou'",
            "*consonants | that are consonants | c.isalpha() and c not in 'aeiou' | c.isalpha() or c not in 'aeiou'",
            "upper | in upper case | c.isupper() | c.islower()",
            "lower | in lower case | c.islower() | c.isupper()",
            "spaceless | other than spaces | c != ' ' | c == ' '",
            "*late | after m | c > 'm' | c >= 'm'",
        ),
        _slot(
            "raise | raise each to upper case | c.upper() | c.lower()",
            "*double | double each | c * 2 | c * 3",
            "next | take the next character of each | chr(ord(c) + 1) | chr(ord(c) - 1)",
            "*swap | swap the case of each | c.swapcase() | c.upper()",
            "bracket | put each in brackets | '[' + c + ']' | '(' + c + ')'",
            "code | take the code of each | str(ord(c)) | chr(ord(c))",
            "dash | put a dash behind each | c + '-' | '-' + c",
        ),
        _slot(
            "joined | all joined | ''.join(ys) | ' '.join(ys)",
            "reversed | all joined in reverse | ''.join(ys[::-1]) | ''.join(ys[::1])",
            "*sorted | all joined in order | ''.join(sorted(ys)) | ''.join(ys)",
            "*first | the first or nothing | ys[0] if ys else '' | ys[0]",
            "last | the last or nothing | ys[-1] if ys else '' | ys[-1]",
            "*different | how many differ | len(set(ys)) | len(ys)",
            "twice | all joined twice | ''.join(ys) * 2 | ''.join(ys) * 3",
        ),
    ),
    prompt="# Keep the characters {}, {}, and return {}.\ndef solve(s):\n",
    body="    xs = [c for c in s if {}]\n    ys = [{} for c in xs]\n    return {}\n",
    draw_input=lambda rng: ("".join(rng.choices("aeimnxABM 37", k=rng.randint(1, 6))),),
    edges=(("",), ("mm",), ("aa",), ("B B",), ("aaAAmm77",), ("zZ mM",)),
)

CONDITIONALS = Composed(
    "conditionals",
    slots=(
        _slot(
            "larger | x is larger than y | x > y | x < y",
            "*even | x is even | x % 2 == 0 | x % 2 == 1",
            "negative | y is negative | y < 0 | y > 0",
            "positive | x is positive | x > 0 | x < 0",
            "*equal | x equals y | x == y | x != y",
            "*both | both are even | x % 2 == 0 and y % 2 == 0 | x % 2 == 0 or y % 2 == 0",
            "third | x is a multiple of 3 | x % 3 == 0 | x % 3 == 1",
            "*five | x is at least 5 | x >= 5 | x > 5",
        ),
        _slot(
            "sum | the sum | x + y | x - y",
            "*product | the product | x * y | x + y",
            "distance | the distance | abs(x - y) | x - y",
            "*larger | the larger | max(x, y) | min(x, y)",
            "square | the square of x | x * x | x + x",
            "half | half of x | x // 2 | x % 2",
            "less | x less 3 | x - 3 | x + 3",
        ),
        _slot(
            "minus | minus x | -x | x",
            "*difference | y less x | y - x | x - y",
            "*smaller | the smaller | min(x, y) | max(x, y)",
            "triple | three times x | x * 3 | x * 2",
            "zero | zero | 0 | 1",
            "*square | the square of y | y * y | y + y",
            "size | the size of x | abs(x) | x",
        ),
    ),
    prompt="# If {}, return {}, otherwise {}.\ndef solve(x, y):\n",
    body="    if {}:\n        return {}\n    return {}\n",
    draw_input=lambda rng: (rng.randint(-9, 9), rng.randint(-9, 9)),
    edges=((0, 0), (5, 2), (5, 5), (-3, -3), (2, 4)),
)

STDIN = Composed(
    "stdin",
    slots=(
        _slot(
            "positive | positive | x > 0 | x >= 0",
            "*negative | negative | x < 0 | x > 0",
            "even | even | x % 2 == 0 | x % 2 == 1",
            "*odd | odd | x % 2 == 1 | x % 2 == 0",
            "*small | below 10 | x < 10 | x <= 10",
            "large | above 5 | x > 5 | x < 5",
            "third | multiples of 3 | x % 3 == 0 | x % 3 == 1",
            "other | other than 4 | x != 4 | x == 4",
        ),
        _slot(
            "double | double them | x * 2 | x * 3",
            "*square | square them | x * x | x + x",
            "raise | add 1 to each | x + 1 | x - 1",
            "*lower | take 2 from each | x - 2 | x + 2",
            "negate | negate them | -x | x",
            "*size | take their sizes | abs(x) | -x",
            "ten | multiply them by 10 | x * 10 | x + 10",
        ),
        _slot(
            "sum | their sum | sum(ys) | len(ys)",
            "*largest | the largest or 0 | max(ys, default=0) | max(ys)",
            "smallest | the smallest or 0 | min(ys, default=0) | min(ys)",
            "*all | all in a line | *ys | ys",
            "mean | the mean or 0 | sum(ys) // max(len(ys), 1) | sum(ys) // len(ys)",
            "*sorted | all in order | *sorted(ys) | *ys",
            "reversed | all in reverse | *ys[::-1] | *ys[::1]",
        ),
    ),
    prompt="# Read a line of integers, keep those that are {}, {}, and print {}.\n",
    body="xs = list(map(int, input().split()))\nys = [{1} for x in xs if {0}]\nprint({2})\n",
    draw_input=lambda rng: " ".join(
        str(rng.choice([0, 4, 5, 10, rng.randint(-9, 19)])) for _ in range(rng.randint(1, 6))
    ),
    edges=("0", "4", "10", "-3", "1"),
    stdin=True,
)


def with_tests(task: CodingTask, number: int) -> CodingTask:
    """Return a task with its first tests only."""
    if isinstance(task.tests, StdioTests):
        return replace(task, tests=replace(task.tests, cases=task.tests.cases[:number]))
    assert isinstance(task.tests, FunctionTests)
    # A test is a line of the code in all families.
    return replace(task, tests=replace(task.tests, code="\n".join(task.tests.code.splitlines()[:number])))


FAMILIES: dict[str, Family] = {family.name: family for family in (Lists(), STRINGS, CONDITIONALS, STDIN)}
