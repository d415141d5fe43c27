"""Composes coding tasks of parts, each with the mistakes that are made in it, for the families of the learning bench.

A program of a family is a sequence of parts, one for each slot. Tests are chosen so that they catch every mistake and,
as far as eight tests can, every program that mixes up a part or a constant. The only code that runs here is text of
the families' own tables, never a model's program.
"""

from __future__ import annotations

import functools
import io
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any, Literal, TypeAlias

import numpy as np

from trl_pper import CodingTask, FunctionTests, StdioCase, StdioTests

Split: TypeAlias = Literal["train", "test"]
Constant: TypeAlias = int | str

MAX_TESTS = 8
ENTRY_POINT = "solve"
#: Passes over the compositions of a split, each with other constants.
_PASSES = 12
#: Weights of the places in the three slots, whose sum modulo the size of the last slot decides the split. The last
#: weight has an inverse modulo that size, so that each pair of the first two parts has one held-out third.
_WEIGHTS = (1, 2, 3)


@dataclass(frozen=True, kw_only=True)
class Part:
    """A part of a program.

    Args:
        name: Name in task ids, without hyphens.
        phrase: English text for the comment; `{k}` stands for the constant.
        code: The right code.
        slips: The same code with a mistake of a careless author, for each such mistake.
        constants: Values for `{k}`; empty if there is no constant.
    """

    name: str
    phrase: str
    code: str
    slips: tuple[str, ...]
    constants: tuple[Constant, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Step:
    """A part with its constant; None for a part without a constant."""

    part: Part
    constant: Constant | None = None

    @property
    def label(self) -> str:
        """The step's part of a task id, for instance `floor-3`."""
        return self.part.name if self.constant is None else f"{self.part.name}-{self.constant}"

    @property
    def phrase(self) -> str:
        """The step in English."""
        return self._filled(self.part.phrase)

    @property
    def codes(self) -> tuple[str, ...]:
        """The right code, and the code with each slip."""
        return tuple(self._filled(code) for code in (self.part.code, *self.part.slips))

    def _filled(self, text: str) -> str:
        return text.replace("{k}", str(self.constant))


@dataclass(frozen=True, kw_only=True)
class Slips:
    """How often an imagined author errs in the programs of a corpus.

    Args:
        prone: Probability of a slip in a part in which the author errs often.
        other: Probability of a slip in another part.
        spared: For each slot, the number of its last parts that are not prone. `lists` has the demo's prone parts
            instead, and ignores it.
    """

    prone: float = 0.85
    other: float = 0.05
    spared: tuple[int, int, int] = (0, 0, 0)


@dataclass(frozen=True, kw_only=True)
class Composed:
    """A family whose programs put a part into each of three slots.

    Args:
        name: Name of the family.
        slots: The parts of each slot. The number of the last is not a multiple of 3.
        prompt: Text of a prompt, with a place for the phrase of each slot.
        body: Text of a completion, with a place for the code of each slot.
        draw_inputs: Function that draws inputs for the steps of a program: arguments of the function, or text for
            standard input.
        reads_stdin: Whether programs read standard input and print; otherwise they define `solve`.
    """

    name: str
    slots: tuple[tuple[Part, ...], ...]
    prompt: str
    body: str
    draw_inputs: Callable[[random.Random, Sequence[Step]], list[Any]]
    reads_stdin: bool = False

    def tasks(self, split: Split, *, seed: int, count: int, tests: int) -> list[CodingTask]:
        """Return tasks with distinct ids, equal for equal arguments.

        Args:
            split: "train" or "test". The splits share every part and no composition of parts.
            seed: Seed of the constants and of the order.
            count: Largest number of tasks. Every composition occurs once before any occurs with other constants.
            tests: Number of tests of each task, at most 8. Eight catch every slip, alone and together, and the first
                few are the same for any number.

        Raises:
            ValueError: An argument is out of range.
        """
        if count < 1 or not 1 <= tests <= MAX_TESTS:
            raise ValueError(f"count, tests: at least 1 task and 1 to {MAX_TESTS} tests; got {count} and {tests}")
        kinds = self.compositions(split)
        rng = np.random.default_rng([seed, ("train", "test").index(split)])
        found: dict[str, CodingTask] = {}
        for _ in range(_PASSES):
            for index in rng.permutation(len(kinds)):
                if len(found) == count:
                    break
                steps = draw_steps(kinds[index], rng)
                inputs = None if self.task_id(steps) in found else self._chosen_inputs(steps)
                if inputs is not None:
                    found[self.task_id(steps)] = self._task(steps, inputs[:tests])
        return list(found.values())

    def corpus(self, seed: int, *, slips: Slips) -> Iterator[tuple[str, str]]:
        """Yield endless pairs of prompt and completion of the train compositions, with slips."""
        rng = np.random.default_rng(seed)
        kinds = self.compositions("train")
        prone = {
            part for slot, spared in zip(self.slots, slips.spared, strict=True) for part in slot[: len(slot) - spared]
        }
        while True:
            steps = draw_steps(kinds[rng.integers(len(kinds))], rng)
            slipped = rng.random(len(steps)) < [slips.prone if s.part in prone else slips.other for s in steps]
            chosen = [
                step.codes[int(rng.integers(1, len(step.codes))) if wrong else 0]
                for step, wrong in zip(steps, slipped, strict=True)
            ]
            yield self._prompt(steps), self.body.format(*chosen)

    def reference(self, task_id: str) -> str:
        """Return the right completion of a task.

        Raises:
            ValueError: The id is not of this family.
        """
        return self._completion(self.steps(task_id))

    def programs_with_slips(self, task_id: str) -> list[str]:
        """Return the completions of a task with a slip in one part or in several; those of one part come first."""
        right, *slipped = product(*(step.codes for step in self.steps(task_id)))
        slipped.sort(key=lambda codes: _differences(codes, right))
        return [self.body.format(*codes) for codes in slipped]

    def compositions(self, split: Split) -> list[tuple[Part, ...]]:
        """Return every composition of a split.

        Raises:
            ValueError: `split` is neither "train" nor "test".
        """
        if split not in ("train", "test"):
            raise ValueError(f'split: must be "train" or "test"; got {split!r}')
        places = product(*(range(len(slot)) for slot in self.slots))
        return [
            tuple(slot[place] for slot, place in zip(self.slots, chosen, strict=True))
            for chosen in places
            if (int(np.dot(chosen, _WEIGHTS)) % len(self.slots[-1]) == 0) == (split == "test")
        ]

    def task_id(self, steps: Sequence[Step]) -> str:
        """Return the id of the task of these steps, which `steps` reads back."""
        return "/".join([self.name, *(step.label for step in steps)])

    def steps(self, task_id: str) -> tuple[Step, ...]:
        """Parse a task id.

        Raises:
            ValueError: The id is not of this family.
        """
        name, *labels = task_id.split("/")
        if name != self.name or len(labels) != len(self.slots):
            raise ValueError(f"task_id: must read {self.name}/ and {len(self.slots)} parts; got {task_id!r}")
        return tuple(self._step(label, slot) for label, slot in zip(labels, self.slots, strict=True))

    def _step(self, label: str, slot: Sequence[Part]) -> Step:
        for part in slot:
            for constant in part.constants or (None,):
                step = Step(part=part, constant=constant)
                if step.label == label:
                    return step
        known = ", ".join(part.name for part in slot)
        raise ValueError(f"task_id: {label!r} is no part of {self.name}; known at this place: {known}")

    def _prompt(self, steps: Sequence[Step]) -> str:
        return self.prompt.format(*(step.phrase for step in steps))

    def _completion(self, steps: Sequence[Step]) -> str:
        return self.body.format(*(step.codes[0] for step in steps))

    def _confusions(self, steps: Sequence[Step]) -> list[str]:
        """Return the completions with another part or another constant at a single place."""
        found = []
        for place, (step, slot) in enumerate(zip(steps, self.slots, strict=True)):
            for part in slot:
                # Another part takes the same constant where it can.
                constants = part.constants if step.constant is None or part == step.part else (step.constant,)
                for constant in constants[:3] or (None,):
                    other = Step(part=part, constant=constant)
                    if other != step:
                        found.append(self._completion([*steps[:place], other, *steps[place + 1 :]]))
        return found

    def _chosen_inputs(self, steps: Sequence[Step]) -> list[Any] | None:
        """Choose inputs that catch every slip, and let most slips pass some; None if eight cannot."""
        # The same task has the same inputs, whatever the seed.
        rng = random.Random(self.task_id(steps))
        pool = self.draw_inputs(rng, steps)
        prompt = self._prompt(steps)
        right = self._answers(prompt + self._completion(steps), pool)
        slips, confusions = (
            np.array(
                [
                    [got != want for got, want in zip(self._answers(prompt + text, pool), right, strict=True)]
                    for text in texts
                ]
            )
            for texts in (self.programs_with_slips(self.task_id(steps)), self._confusions(steps))
        )
        # Two slips may mend each other; a single slip must show.
        if not slips[: sum(len(step.part.slips) for step in steps)].any(axis=1).all():
            return None
        catches = slips.sum(axis=0) + confusions.sum(axis=0)
        # The mildest input comes first: many wrong programs pass it, so that pass rates are graded.
        chosen = [int(np.argmin(catches))]
        for caught in (slips, confusions):
            missed = caught.any(axis=1) & ~caught[:, chosen].any(axis=1)
            while missed.any() and (caught is slips or len(chosen) < MAX_TESTS):
                # The number of newly caught programs decides. Among equals the input that catches least in total
                # wins, again for graded pass rates.
                chosen.append(int(np.argmax(caught[missed].sum(axis=0) - catches / (1 + catches.max()))))
                missed &= ~caught[:, chosen[-1]]
        rest = [index for index in range(len(pool)) if index not in chosen]
        chosen += rng.sample(rest, max(0, MAX_TESTS - len(chosen)))
        # In any order, so that the first few are tests as good as any, which miss some of the slips.
        rng.shuffle(chosen)
        return [pool[index] for index in chosen] if len(chosen) <= MAX_TESTS else None

    def _task(self, steps: Sequence[Step], inputs: Sequence[Any]) -> CodingTask:
        answers = self._answers(self._prompt(steps) + self._completion(steps), inputs)
        tests: StdioTests | FunctionTests
        if self.reads_stdin:
            cases = [StdioCase(input=text, output=answer) for text, answer in zip(inputs, answers, strict=True)]
            # By lines, because a slip may print the right numbers on the wrong lines.
            tests = StdioTests(cases=tuple(cases), compare="lines")
        else:
            lines = [f"assert {ENTRY_POINT}({x!r}) == {y!r}" for x, y in zip(inputs, answers, strict=True)]
            tests = FunctionTests(entry_point=ENTRY_POINT, code="\n".join(lines))
        return CodingTask(task_id=self.task_id(steps), prompt=self._prompt(steps), tests=tests)

    def _answers(self, program: str, inputs: Sequence[Any]) -> list[Any]:
        if self.reads_stdin:
            code = compile(program, self.name, "exec")
            return [_answer(_printed, code, text) for text in inputs]
        namespace: dict[str, Any] = {}
        # Not in the judge: the text is composed from the families' tables.
        exec(program, namespace)
        return [_answer(namespace[ENTRY_POINT], value) for value in inputs]


def draw_steps(parts: Sequence[Part], rng: np.random.Generator) -> tuple[Step, ...]:
    """Return the parts, each with a constant drawn from its own."""
    return tuple(
        # Not `rng.choice`, which would return a type of numpy's.
        Step(part=part, constant=part.constants[rng.integers(len(part.constants))] if part.constants else None)
        for part in parts
    )


def _differences(some: Sequence[str], others: Sequence[str]) -> int:
    return sum(a != b for a, b in zip(some, others, strict=True))


def _answer(function: Callable[..., Any], *arguments: Any) -> Any:
    try:
        return function(*arguments)
    except (TypeError, ValueError, IndexError, ZeroDivisionError, EOFError) as error:
        # An error is an answer too: a wrong program may be caught because it fails.
        return (type(error).__name__,)


def _printed(code: Any, text: str) -> str:
    """Return the output of a program on a text as its standard input."""
    lines, output = io.StringIO(text), io.StringIO()

    def read() -> str:
        line = lines.readline()
        if not line:
            raise EOFError
        return line.rstrip("\n")

    exec(code, {"input": read, "print": functools.partial(print, file=output)})
    return output.getvalue()
