"""Build the demo's tasks, from a family of programs that compose a filter, a map and a reduction over integers.

Every composition belongs to either the train or the test split; no task of the train split and no program of the
shipped model's corpus has a composition of the test split. The tests catch every one-token slip. The only code that
runs here is text of this family, never a model's program.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import product
from typing import Literal, TypeAlias

import numpy as np

from trl_pper.tasks.task import CodingTask, FunctionTests

TRAIN_TASKS = 200
TESTS_PER_TASK = 8
_POOL_SIZE = 40
_LONGEST_LIST = 6
# Attempts for each composition to find constants with which every slip shows.
_DRAWS = 4


def demo_tasks(split: Split = "train", seed: int = 0) -> list[CodingTask]:
    """Build the demo's tasks.

    Args:
        split: "train" (200 tasks to learn from) or "test" (all held-out tasks, 60 to 80).
        seed: Seed of the constants, and of the train compositions that occur.

    Returns:
        Tasks with distinct ids, equal for equal arguments. In each task every slip changes the answer to a test.
    """
    rng = np.random.default_rng([seed, ("train", "test").index(split)])
    kinds = compositions(split)
    tasks: list[CodingTask] = []
    # The held-out compositions are the same for every seed, because the shipped model must not have seen them.
    for index in rng.permutation(len(kinds)):
        draws = (draw_composition(kinds[index], rng) for _ in range(_DRAWS))
        asked = next((asked for asked in draws if _every_slip_shows(asked)), None)
        if asked is not None:
            tasks.append(_task(asked))
        if len(tasks) == TRAIN_TASKS:
            break
    return tasks


def reference_program(task_id: str) -> str:
    """Return the right program of a task, with comment and signature.

    Raises:
        ValueError: The id is not of this family.
    """
    asked = composition(task_id)
    return asked.prompt + asked.completion()


def _task(asked: Composition) -> CodingTask:
    program = asked.prompt + asked.completion()
    inputs = _chosen_inputs(asked)
    answers = _outcomes(program, inputs)
    code = "\n".join(f"assert {ENTRY_POINT}({xs}) == {answer}" for xs, answer in zip(inputs, answers, strict=True))
    tests = FunctionTests(entry_point=ENTRY_POINT, code=code)
    return CodingTask(task_id=asked.task_id, prompt=asked.prompt, tests=tests)


def _every_slip_shows(asked: Composition) -> bool:
    """Return whether each slip changes an answer on the pool of inputs."""
    pool = _input_pool(asked)
    answers = _outcomes(asked.prompt + asked.completion(), pool)
    slips = ((True, False, False), (False, True, False), (False, False, True))
    # Some slips leave no trace: after the filter x > 5, x - 1 has as many positive values as x + 1.
    return all(_outcomes(asked.prompt + asked.completion(slip), pool) != answers for slip in slips)


def _chosen_inputs(asked: Composition) -> list[list[int]]:
    """Choose inputs that catch every mutant that the pool can catch, and let most mutants pass some of them."""
    pool = _input_pool(asked)
    answers = _outcomes(asked.prompt + asked.completion(), pool)
    caught = np.array(
        [
            [got != want for got, want in zip(_outcomes(mutant, pool), answers, strict=True)]
            for mutant in mutants(asked)
        ]
    )
    catches = caught.sum(axis=0)
    # The mildest input comes first: many mutants pass it, so that pass rates are graded.
    chosen = [int(np.argmin(catches))]
    missed = caught.any(axis=1) & ~caught[:, chosen[0]]
    while missed.any():
        # The number of newly caught mutants decides. Among equals the input that catches least in total wins,
        # again for graded pass rates.
        chosen.append(int(np.argmax(caught[missed].sum(axis=0) - catches / (1 + len(caught)))))
        missed &= ~caught[:, chosen[-1]]
    chosen += [index for index in range(len(pool)) if index not in chosen][: max(0, TESTS_PER_TASK - len(chosen))]
    return [pool[index] for index in chosen]


def _input_pool(asked: Composition) -> list[list[int]]:
    """Draw distinct lists: some values near a constant, some that the filter keeps, some at random."""
    # The same task has the same inputs, whatever the seed.
    rng = random.Random(asked.task_id)
    keeps = asked.steps[0].code()
    kept = eval(f"[x for x in range(-9, 10) if {keeps}]")
    near = [sign * (step.constant or 0) + shift for step in asked.steps for sign in (1, -1) for shift in (-1, 0, 1)]
    pool: list[list[int]] = []
    while len(pool) < _POOL_SIZE:
        palette = [rng.choice(near), rng.choice(kept), rng.choice(kept), rng.randint(-9, 9)]
        values = rng.choices(palette, k=rng.randint(1, _LONGEST_LIST))
        if values not in pool:
            pool.append(values)
    # Empty and single lists come last, and are chosen only for mutants that they catch: longer lists tell more
    # programs apart.
    return pool + [xs for xs in ([], *([value] for value in sorted(set(near)))) if xs not in pool]


_SWAPS = (
    (">", ">=", "<", "<=", "==", "!="),
    ("+", "-", "*", "//", "%"),
    ("sum", "max", "min", "len"),
)
_TOKEN = re.compile(r"[<>=!]=|//|[-+*%<>]|\b(?:sum|max|min|len)\b|\b\d\b")


def mutants(asked: Composition) -> Iterator[str]:
    """Yield the programs with another operator or function name, or a constant raised by 1, at a single place."""
    body = asked.completion()
    for match in _TOKEN.finditer(body):
        for other in _replacements(match.group()):
            yield asked.prompt + body[: match.start()] + other + body[match.end() :]


def _replacements(token: str) -> list[str]:
    if token.isdigit():
        return [str(int(token) + 1)]
    return [other for group in _SWAPS if token in group for other in group if other != token]


def _outcomes(program: str, inputs: list[list[int]]) -> list[object]:
    namespace: dict[str, Callable[[list[int]], object]] = {}
    # Not in the judge: the text is composed from the tables below.
    exec(program, namespace)
    return [_outcome(namespace[ENTRY_POINT], xs) for xs in inputs]


def _outcome(function: Callable[[list[int]], object], xs: list[int]) -> object:
    try:
        return function(list(xs))
    except (TypeError, ValueError, ZeroDivisionError) as error:
        # An error is an answer too: a mutant may be caught because it fails.
        return type(error).__name__


Split: TypeAlias = Literal["train", "test"]

ENTRY_POINT = "solve"


@dataclass(frozen=True, kw_only=True)
class Component:
    """A filter, a map or a reduction.

    Args:
        name: Name in task ids.
        phrase: English text for the comment; `{k}` stands for the constant.
        code: The right expression.
        slip: The same expression with a wrong token, the typical mistake of a careless author.
        constants: Values for `{k}`; empty if there is no constant.
    """

    name: str
    phrase: str
    code: str
    slip: str
    constants: tuple[int, ...] = ()


_SMALL = (1, 2, 3, 4, 5)
_FACTORS = (2, 3, 4, 5)

FILTERS = (
    Component(name="above", phrase="greater than {k}", code="x > {k}", slip="x >= {k}", constants=_SMALL),
    Component(name="at_least", phrase="at least {k}", code="x >= {k}", slip="x > {k}", constants=_SMALL),
    Component(name="below", phrase="less than {k}", code="x < {k}", slip="x <= {k}", constants=_SMALL),
    Component(name="at_most", phrase="at most {k}", code="x <= {k}", slip="x < {k}", constants=_SMALL),
    Component(name="even", phrase="even", code="x % 2 == 0", slip="x % 2 != 0"),
    Component(name="odd", phrase="odd", code="x % 2 != 0", slip="x % 2 == 0"),
    Component(
        name="multiple", phrase="multiples of {k}", code="x % {k} == 0", slip="x // {k} == 0", constants=_FACTORS
    ),
    Component(name="unequal", phrase="different from {k}", code="x != {k}", slip="x == {k}", constants=_SMALL),
    Component(name="near", phrase="within {k} of zero", code="abs(x) <= {k}", slip="abs(x) < {k}", constants=_FACTORS),
    Component(
        name="far", phrase="more than {k} from zero", code="abs(x) > {k}", slip="abs(x) >= {k}", constants=_FACTORS
    ),
)
MAPS = (
    Component(name="add", phrase="add {k} to each", code="x + {k}", slip="x - {k}", constants=_SMALL),
    Component(name="subtract", phrase="subtract {k} from each", code="x - {k}", slip="x + {k}", constants=_SMALL),
    Component(name="multiply", phrase="multiply each by {k}", code="x * {k}", slip="x + {k}", constants=_FACTORS),
    Component(name="square", phrase="square each", code="x * x", slip="x + x"),
    Component(
        name="divide", phrase="divide each by {k} rounding down", code="x // {k}", slip="x % {k}", constants=_FACTORS
    ),
    Component(
        name="remainder", phrase="take each modulo {k}", code="x % {k}", slip="x // {k}", constants=(3, 4, 5, 6)
    ),
    Component(name="reflect", phrase="subtract each from {k}", code="{k} - x", slip="{k} + x", constants=_SMALL),
    Component(
        name="distance",
        phrase="take the distance of each from {k}",
        code="abs(x - {k})",
        slip="abs(x + {k})",
        constants=_SMALL,
    ),
)
REDUCTIONS = (
    Component(name="total", phrase="the sum", code="sum(ys)", slip="len(ys)"),
    Component(name="largest", phrase="the largest", code="max(ys, default=0)", slip="min(ys, default=0)"),
    Component(name="smallest", phrase="the smallest", code="min(ys, default=0)", slip="max(ys, default=0)"),
    Component(
        name="ends",
        phrase="the largest plus the smallest",
        code="max(ys, default=0) + min(ys, default=0)",
        slip="max(ys, default=0) - min(ys, default=0)",
    ),
    Component(
        name="peak",
        phrase="the largest square",
        code="max((y * y for y in ys), default=0)",
        slip="max((y + y for y in ys), default=0)",
    ),
    Component(
        name="positives",
        phrase="how many are positive",
        code="sum(y > 0 for y in ys)",
        slip="sum(y >= 0 for y in ys)",
    ),
    Component(
        name="squares",
        phrase="the sum of the squares",
        code="sum(y * y for y in ys)",
        slip="sum(y + y for y in ys)",
    ),
)


@dataclass(frozen=True, kw_only=True)
class Step:
    """A component with its constant; None for a component without a constant."""

    component: Component
    constant: int | None = None

    @property
    def label(self) -> str:
        """The step's part of a task id, for instance `at_least-3`."""
        return self.component.name if self.constant is None else f"{self.component.name}-{self.constant}"

    @property
    def phrase(self) -> str:
        """The step in English."""
        return self.component.phrase.format(k=self.constant)

    def code(self, *, slipped: bool = False) -> str:
        """Return the step in Python, right or with its slip."""
        return (self.component.slip if slipped else self.component.code).format(k=self.constant)


@dataclass(frozen=True, kw_only=True)
class Composition:
    """A filter, a map and a reduction, in this order: the program that a task asks for."""

    steps: tuple[Step, Step, Step]

    @property
    def kinds(self) -> tuple[str, str, str]:
        """Names of the filter, the map and the reduction, without constants; the splits share no such triple."""
        chosen, mapped, reduced = self.steps
        return chosen.component.name, mapped.component.name, reduced.component.name

    @property
    def task_id(self) -> str:
        """The task id, which `composition` reads back."""
        return "/".join(["demo", *(step.label for step in self.steps)])

    @property
    def prompt(self) -> str:
        """A comment that states the task, and the function's signature."""
        chosen, mapped, reduced = (step.phrase for step in self.steps)
        return f"# Keep the numbers {chosen}, {mapped}, and return {reduced}.\ndef {ENTRY_POINT}(xs):\n"

    def completion(self, slips: tuple[bool, bool, bool] = (False, False, False)) -> str:
        """Return the function's body.

        Args:
            slips: Whether the filter, the map and the reduction have their slip instead of the right code.
        """
        chosen, mapped, reduced = (step.code(slipped=slip) for step, slip in zip(self.steps, slips, strict=True))
        return f"    xs = [x for x in xs if {chosen}]\n    ys = [{mapped} for x in xs]\n    return {reduced}\n"


def compositions(split: Split) -> list[tuple[Component, Component, Component]]:
    """Return every (filter, map, reduction) of a split.

    Raises:
        ValueError: `split` is neither "train" nor "test".
    """
    if split not in ("train", "test"):
        raise ValueError(f'split: must be "train" or "test"; got {split!r}')
    return [
        (FILTERS[f], MAPS[m], REDUCTIONS[r])
        for f, m, r in product(range(len(FILTERS)), range(len(MAPS)), range(len(REDUCTIONS)))
        # Each pair of a filter and a map has exactly one held-out reduction: 3 has an inverse modulo the 7
        # reductions. All parts of a held-out task are thus known from training, and only their combination is
        # new.
        if ((f + 2 * m + 3 * r) % len(REDUCTIONS) == 0) == (split == "test")
    ]


def draw_composition(kinds: tuple[Component, Component, Component], rng: np.random.Generator) -> Composition:
    """Return a composition of the given components, each with a constant drawn from its own."""
    chosen, mapped, reduced = (
        Step(component=kind, constant=int(rng.choice(kind.constants)) if kind.constants else None) for kind in kinds
    )
    return Composition(steps=(chosen, mapped, reduced))


def composition(task_id: str) -> Composition:
    """Parse a task id.

    Args:
        task_id: For instance `demo/at_least-3/square/total`.

    Raises:
        ValueError: The id is not of this family.
    """
    prefix, *labels = task_id.split("/")
    if prefix != "demo" or len(labels) != 3:
        raise ValueError(f"task_id: must read demo/<filter>/<map>/<reduction>; got {task_id!r}")
    chosen, mapped, reduced = (
        _step(label, components) for label, components in zip(labels, (FILTERS, MAPS, REDUCTIONS), strict=True)
    )
    return Composition(steps=(chosen, mapped, reduced))


def _step(label: str, components: tuple[Component, ...]) -> Step:
    name, _, constant = label.partition("-")
    for component in components:
        if component.name == name and constant in map(str, component.constants or ("",)):
            return Step(component=component, constant=int(constant) if constant else None)
    known = ", ".join(component.name for component in components)
    raise ValueError(f"task_id: {label!r} is no step of the demo's family; known at this place: {known}")
