"""Lists the families of tasks of the learning bench: what to program, and which mistakes are made in it.

`lists` has the parts of the demo, with slips of a single token. `strings` adds edge cases that are forgotten: the
empty text, and a repeated character. `conditionals` takes wrong branches: conditions are swapped and branches dropped.
`stdin` reads and prints, and errs in formats too. Compositions of the test split never occur in the train split, nor
in a corpus; each part occurs in both.
"""

from __future__ import annotations

import functools
import random
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import product
from typing import Any, Protocol

from compositions import Composed, Part, Slips, Split, Step

from trl_pper import CodingTask, FunctionTests, demo
from trl_pper.demo import base_model
from trl_pper.demo.tasks import composition

__all__ = ["FAMILIES", "Family", "Slips", "Split"]

_POOL_SIZE = 40
_LONGEST = 6
_SMALL = (1, 2, 3, 4, 5)
_FACTORS = (2, 3, 4, 5)


class Family(Protocol):
    """A family of tasks."""

    @property
    def name(self) -> str:
        """Name in task ids, files and tables."""

    def tasks(self, split: Split, *, seed: int, count: int, tests: int) -> list[CodingTask]:
        """Return at most `count` tasks of a split, with `tests` tests each, at most 8; equal for equal arguments."""

    def corpus(self, seed: int, *, slips: Slips) -> Iterator[tuple[str, str]]:
        """Yield endless pairs of prompt and completion of the train compositions, with slips."""

    def reference(self, task_id: str) -> str:
        """Return a completion that passes every test of a task."""

    def programs_with_slips(self, task_id: str) -> list[str]:
        """Return the completions of a task with a slip in one part or in several; those of one part come first."""


class Lists:
    """The demo's family: a filter, a map and a reduction over integers, with slips of a single token."""

    name = "lists"

    def tasks(self, split: Split, *, seed: int, count: int, tests: int) -> list[CodingTask]:
        """Return tasks; see `Family`."""
        return [_with_tests(task, tests) for task in _demo_tasks(split, seed)[:count]]

    def corpus(self, seed: int, *, slips: Slips) -> Iterator[tuple[str, str]]:
        """Yield programs; see `Family`."""
        return base_model.corpus(seed, prone=slips.prone, other=slips.other)

    def reference(self, task_id: str) -> str:
        """Return a right completion; see `Family`."""
        return composition(task_id).completion()

    def programs_with_slips(self, task_id: str) -> list[str]:
        """Return wrong completions; see `Family`."""
        asked = composition(task_id)
        every = sorted(product((False, True), (False, True), (False, True)), key=sum)
        # The first has no slip.
        return [asked.completion(slips) for slips in every[1:]]


#: Building the tasks takes a second, and the bench asks for the same again and again.
_demo_tasks = functools.cache(demo.demo_tasks)


def _with_tests(task: CodingTask, number: int) -> CodingTask:
    assert isinstance(task.tests, FunctionTests)
    # Each line of the code is a test.
    return replace(task, tests=replace(task.tests, code="\n".join(task.tests.code.splitlines()[:number])))


def _part(name: str, phrase: str, code: str, *slips: str, k: Sequence[int | str] = ()) -> Part:
    return Part(name=name, phrase=phrase, code=code, slips=slips, constants=tuple(k))


def _distinct(values: Sequence[Any]) -> list[Any]:
    # Lists cannot be keys.
    return list({repr(value): value for value in values}.values())


def _near(steps: Sequence[Step]) -> list[int]:
    """Return numbers at which programs with these constants may differ."""
    numbers = [step.constant for step in steps if isinstance(step.constant, int)]
    return [sign * number + shift for number in [0, *numbers] for sign in (1, -1) for shift in (-1, 0, 1)]


def _numbers(rng: random.Random, steps: Sequence[Step], least: int = 0) -> list[list[int]]:
    near = _near(steps)
    pool = [[], [0]] if least == 0 else []
    for _ in range(_POOL_SIZE):
        palette = [rng.choice(near), rng.choice(near), rng.randint(-9, 9), rng.randint(-9, 9)]
        # Drawn with replacement, so that numbers repeat.
        pool.append(rng.choices(palette, k=rng.randint(1, _LONGEST)))
    return _distinct(pool + [[number] for number in sorted(set(near))])


def _texts(rng: random.Random, steps: Sequence[Step]) -> list[str]:
    letters = [step.constant for step in steps if isinstance(step.constant, str)]
    near = [chr(ord(letter) + shift) for letter in letters for shift in (-1, 0, 1)] or ["m"]
    pool = ["", "aa", "BB", "77"]
    for _ in range(_POOL_SIZE):
        palette = [rng.choice(near), *rng.choices("abeioxyzABEXYZ", k=3), rng.choice("0379"), rng.choice("- ")]
        pool.append("".join(rng.choices(palette, k=rng.randint(1, 9))))
    return _distinct(pool)


STRINGS = Composed(
    name="strings",
    slots=(
        (
            _part("vowels", "that are vowels", 'c in "aeiou"', 'c not in "aeiou"'),
            _part("others", "that are no vowels", 'c not in "aeiou"', 'c in "aeiou"'),
            _part("upper", "in upper case", "c.isupper()", "c.islower()"),
            _part("lower", "in lower case", "c.islower()", "c.isupper()"),
            _part("before", "before {k}", 'c < "{k}"', 'c <= "{k}"', k="dgmp"),
            _part("after", "after {k}", 'c > "{k}"', 'c >= "{k}"', k="dgmp"),
            _part("letters", "that are letters", "c.isalpha()", "c.isalnum()"),
            _part("word", "that are letters or digits", "c.isalnum()", "c.isalpha()"),
            _part("unequal", "other than {k}", 'c != "{k}"', 'c == "{k}"', k="abxy"),
        ),
        (
            _part("head", "take the first {k}", '"".join(cs[:{k}])', '"".join(cs[{k}:])', k=(2, 3, 4)),
            _part("tail", "drop the first {k}", '"".join(cs[{k}:])', '"".join(cs[:{k}])', k=(1, 2, 3)),
            _part("unique", "drop repeated ones", '"".join(dict.fromkeys(cs))', '"".join(cs)'),
            _part("sort", "sort them", '"".join(sorted(cs))', '"".join(sorted(set(cs)))'),
            _part("raised", "raise them", '"".join(cs).upper()', '"".join(cs).lower()'),
            _part("swap", "swap their case", '"".join(cs).swapcase()', '"".join(cs).upper()'),
            _part("stretch", "write each {k} times", '"".join(c * {k} for c in cs)', '"".join(cs) * {k}', k=(2, 3)),
            _part("dashes", "put dashes between", '"-".join(cs)', '"".join(cs)'),
        ),
        (
            _part("length", "the length", "len(t)", "len(set(t))"),
            _part("first", "the first or a dot", 't[0] if t else "."', "t[0]"),
            _part("last", "the last or a dot", 't[-1] if t else "."', "t[-1]"),
            _part("largest", "the largest or a dot", 'max(t, default=".")', "max(t)", 'min(t, default=".")'),
            _part("place", "the place of the first {k}", 't.find("{k}")', 't.rfind("{k}")', k="abxy"),
            _part("double", "the text twice", "t + t", "t + t[::-1]"),
            _part("reverse", "the reversed text", "t[::-1]", "t[1:]"),
        ),
    ),
    prompt="# Keep the characters {}, {}, and return {}.\ndef solve(s):\n",
    body="    cs = [c for c in s if {}]\n    t = {}\n    return {}\n",
    draw_inputs=_texts,
)


def _either(condition: str, then: str, otherwise: str) -> str:
    return f"    if {condition}:\n        {then}\n    else:\n        {otherwise}\n"


def _when(condition: str, then: str, otherwise: str | None = None) -> str:
    return f"    if {condition}:\n        {then}\n" + ("" if otherwise is None else f"    {otherwise}\n")


CONDITIONALS = Composed(
    name="conditionals",
    slots=(
        (
            _part(
                "floor", "Raise x to {k} if below", _when("x < {k}", "x = {k}"), _when("x > {k}", "x = {k}"), k=_SMALL
            ),
            _part(
                "cap", "Lower x to {k} if above", _when("x > {k}", "x = {k}"), _when("x < {k}", "x = {k}"), k=_SMALL
            ),
            _part(
                "clamp",
                "Limit x to -{k} and {k}",
                _when("x < -{k}", "x = -{k}", "elif x > {k}:\n        x = {k}"),
                _when("x < -{k}", "x = -{k}"),
                _when("x > {k}", "x = {k}"),
                k=_FACTORS,
            ),
            _part("unsigned", "Negate x if negative", _when("x < 0", "x = -x"), _when("x > 0", "x = -x")),
            _part("even", "Add 1 to x if odd", _when("x % 2 != 0", "x += 1"), _when("x % 2 == 0", "x += 1")),
            _part(
                "away",
                "Move x by {k} away from zero",
                _when("x < 0", "x -= {k}", "elif x > 0:\n        x += {k}"),
                _either("x < 0", "x -= {k}", "x += {k}"),
                k=_SMALL,
            ),
            _part("double", "Double x from {k} on", _when("x >= {k}", "x *= 2"), _when("x > {k}", "x *= 2"), k=_SMALL),
            _part(
                "clear",
                "Clear x within {k} of zero",
                _when("-{k} < x < {k}", "x = 0"),
                _when("x < {k}", "x = 0"),
                k=_FACTORS,
            ),
        ),
        (
            _part(
                "halve",
                "halve it if even or else add {k}",
                _either("x % 2 == 0", "y = x // 2", "y = x + {k}"),
                _either("x % 2 != 0", "y = x // 2", "y = x + {k}"),
                k=_SMALL,
            ),
            _part(
                "divide",
                "divide it by {k} if possible or else negate it",
                _either("x % {k} == 0", "y = x // {k}", "y = -x"),
                _either("x % {k} != 0", "y = x // {k}", "y = -x"),
                k=_FACTORS,
            ),
            _part(
                "square",
                "square it below {k} or else add {k}",
                _either("x < {k}", "y = x * x", "y = x + {k}"),
                _either("x > {k}", "y = x * x", "y = x + {k}"),
                k=_SMALL,
            ),
            _part(
                "mirror",
                "negate it above {k} or else double it",
                _either("x > {k}", "y = -x", "y = x * 2"),
                "    y = -x\n",
                k=_SMALL,
            ),
            _part(
                "distance",
                "take its distance from {k}",
                _either("x > {k}", "y = x - {k}", "y = {k} - x"),
                "    y = x - {k}\n",
                k=_SMALL,
            ),
            _part(
                "triple",
                "triple it if negative or else add {k}",
                _either("x < 0", "y = x * 3", "y = x + {k}"),
                _either("x > 0", "y = x * 3", "y = x + {k}"),
                k=_SMALL,
            ),
            _part(
                "scale",
                "take 1 for zero or else multiply by {k}",
                _either("x == 0", "y = 1", "y = x * {k}"),
                "    y = x * {k}\n",
                k=_FACTORS,
            ),
            _part(
                "lessen",
                "subtract {k} above it",
                "    y = x\n" + _when("x > {k}", "y -= {k}"),
                "    y = x\n" + _when("x < {k}", "y -= {k}"),
                k=_FACTORS,
            ),
        ),
        (
            _part(
                "larger",
                "the larger of it and {k}",
                _when("y > {k}", "return y", "return {k}"),
                _when("y < {k}", "return y", "return {k}"),
                k=_SMALL,
            ),
            _part(
                "smaller",
                "the smaller of it and {k}",
                _when("y < {k}", "return y", "return {k}"),
                _when("y > {k}", "return y", "return {k}"),
                k=_SMALL,
            ),
            _part(
                "parity",
                "even or odd",
                _when("y % 2 == 0", 'return "even"', 'return "odd"'),
                _when("y % 2 != 0", 'return "even"', 'return "odd"'),
            ),
            _part(
                "sign",
                "its sign",
                _when("y > 0", "return 1", "if y < 0:\n        return -1\n    return 0"),
                _when("y > 0", "return 1", "return -1"),
                _when("y > 0", "return 1", "return 0"),
            ),
            _part(
                "size", "its size", _when("y < 0", "return -y", "return y"), _when("y > 0", "return -y", "return y")
            ),
            _part(
                "rest",
                "its rest by {k} or 0 if negative",
                _when("y < 0", "return 0", "return y % {k}"),
                "    return y % {k}\n",
                k=(3, 4, 5, 6),
            ),
            _part(
                "halved",
                "half of it from {k} on or else it",
                _when("y >= {k}", "return y // 2", "return y"),
                _when("y > {k}", "return y // 2", "return y"),
                k=_SMALL,
            ),
        ),
    ),
    prompt="# {}, {}, and return {}.\ndef solve(x):\n",
    body="{}{}{}",
    # Shuffled, so that equally good inputs differ from task to task.
    draw_inputs=lambda rng, steps: rng.sample(range(-20, 21), 41),
)


def _stdin_texts(rng: random.Random, steps: Sequence[Step]) -> list[str]:
    """Draw texts in the format that the first step reads."""
    reading = steps[0].part.name
    texts = []
    for numbers in _numbers(rng, steps, least=1 if reading == "commas" else 0):
        line = " ".join(map(str, numbers))
        cut = rng.randint(0, len(numbers))
        if reading == "commas":
            texts.append(line.replace(" ", ","))
        elif reading == "counted":
            texts.append("\n".join(map(str, [len(numbers), *numbers])))
        elif reading == "lines":
            texts.append("\n".join(" ".join(map(str, half)) for half in (numbers[:cut], numbers[cut:])))
        elif reading == "leading":
            texts.append(f"{rng.choice([cut, len(numbers)])}\n{line}")
        elif reading == "headed":
            texts.append(f"{rng.choice([line, rng.randint(1, 9)])}\n{line}")
        elif reading == "words":
            words = ["abcdefghi"[: 1 + abs(number) % 9] for number in numbers]
            texts.append(rng.choice([" ", " ", "  "]).join(words))
        else:
            texts.append(line)
    return _distinct([f"{text}\n" for text in texts])


def _read(source: str) -> str:
    return f"xs = [int(w) for w in {source}]\n"


def _keep(condition: str) -> str:
    return f"ys = [x for x in xs if {condition}]\n"


STDIN = Composed(
    name="stdin",
    slots=(
        (
            _part("line", "Read a line of numbers", _read("input().split()"), _read("input()")),
            _part("commas", "Read numbers with commas between", _read('input().split(",")'), _read("input().split()")),
            _part(
                "counted",
                "Read n and n lines",
                "xs = [int(input()) for _ in range(int(input()))]\n",
                "xs = [int(input()) for _ in range(int(input()) - 1)]\n",
            ),
            _part(
                "lines",
                "Read two lines of numbers",
                _read('(input() + " " + input()).split()'),
                _read("(input() + input()).split()"),
            ),
            _part(
                "leading",
                "Read n and a line of which n count",
                "n = int(input())\n" + _read("input().split()[:n]"),
                "n = int(input())\n" + _read("input().split()"),
            ),
            _part(
                "headed",
                "Skip a line and read a line of numbers",
                "input()\n" + _read("input().split()"),
                _read("input().split()"),
            ),
            _part(
                "words",
                "Read the lengths of words",
                "xs = [len(w) for w in input().split()]\n",
                'xs = [len(w) for w in input().split(" ")]\n',
            ),
        ),
        (
            _part("above", "keep those above {k}", _keep("x > {k}"), _keep("x >= {k}"), k=_SMALL),
            _part("at_most", "keep those up to {k}", _keep("x <= {k}"), _keep("x < {k}"), k=_SMALL),
            _part("even", "keep the even", _keep("x % 2 == 0"), _keep("x % 2 != 0")),
            _part(
                "multiply",
                "multiply by {k}",
                "ys = [x * {k} for x in xs]\n",
                "ys = [x + {k} for x in xs]\n",
                k=_FACTORS,
            ),
            _part("square", "square them", "ys = [x * x for x in xs]\n", "ys = [x + x for x in xs]\n"),
            _part("rest", "drop the first", "ys = xs[1:]\n", "ys = xs[:1]\n"),
            _part("unique", "drop repeated ones", "ys = list(dict.fromkeys(xs))\n", "ys = list(xs)\n"),
            _part("short", "keep the first {k}", "ys = xs[:{k}]\n", "ys = xs[{k}:]\n", k=(1, 2, 3)),
        ),
        (
            _part("total", "the sum", "sum(ys)", "len(ys)"),
            _part("spaced", "all in a line", "*ys", '*ys, sep="\\n"'),
            _part("stacked", "each on a line", '*ys, sep="\\n"', "*ys"),
            _part("commas", "all with commas between", '*ys, sep=","', '*ys, sep=", "'),
            _part("largest", "the largest or none", 'max(ys, default="none")', "max(ys)", 'min(ys, default="none")'),
            _part("positive", "how many are positive", "sum(y > 0 for y in ys)", "sum(y >= 0 for y in ys)"),
            _part("exceeds", "whether the sum exceeds {k}", "sum(ys) > {k}", "sum(ys) >= {k}", k=_SMALL),
        ),
    ),
    prompt="# {}, {}, and print {}.\n",
    body="{}{}print({})\n",
    draw_inputs=_stdin_texts,
    reads_stdin=True,
)

FAMILIES: dict[str, Family] = {family.name: family for family in (Lists(), STRINGS, CONDITIONALS, STDIN)}
