"""The demo's family of programs: every composition of a filter, a map and a reduction over a list of integers.

Enters: names and constants. Leaves: the English comment, the right Python body and bodies with slips. Compositions are
divided once and for all into a train and a test split; nothing here runs a program.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from typing import Literal, TypeAlias

import numpy as np

Split: TypeAlias = Literal["train", "test"]

ENTRY_POINT = "solve"


@dataclass(frozen=True, kw_only=True)
class Component:
    """One step of a composition.

    Args:
        name: Its name in task ids.
        phrase: What the comment says; `{k}` stands for the constant.
        code: The right expression.
        slip: The same expression with one wrong token: the mistake that a careless author makes here.
        constants: Values that `{k}` may take; empty when there is none.
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
    """A component together with its constant (None when it takes none)."""

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
    """A filter, a map and a reduction, in that order: what one task asks for."""

    steps: tuple[Step, Step, Step]

    @property
    def kinds(self) -> tuple[str, str, str]:
        """Names of the filter, the map and the reduction, without constants: what the splits are disjoint in."""
        chosen, mapped, reduced = self.steps
        return chosen.component.name, mapped.component.name, reduced.component.name

    @property
    def task_id(self) -> str:
        """The whole composition as text; `composition` reads it back."""
        return "/".join(["demo", *(step.label for step in self.steps)])

    @property
    def prompt(self) -> str:
        """A comment that says what to compute, and the function's signature."""
        chosen, mapped, reduced = (step.phrase for step in self.steps)
        return f"# Keep the numbers {chosen}, {mapped}, and return {reduced}.\ndef {ENTRY_POINT}(xs):\n"

    def completion(self, slips: tuple[bool, bool, bool] = (False, False, False)) -> str:
        """Return the function's body.

        Args:
            slips: For the filter, the map and the reduction, whether to write its slip instead of the right code.
        """
        chosen, mapped, reduced = (step.code(slipped=slip) for step, slip in zip(self.steps, slips, strict=True))
        return f"    xs = [x for x in xs if {chosen}]\n    ys = [{mapped} for x in xs]\n    return {reduced}\n"


def compositions(split: Split) -> list[tuple[Component, Component, Component]]:
    """Return every (filter, map, reduction) of a split.

    Each pair of a filter and a map meets exactly one held-out reduction and all the others in the train split.

    Raises:
        ValueError: `split` is neither "train" nor "test".
    """
    if split not in ("train", "test"):
        raise ValueError(f'split: must be "train" or "test"; got {split!r}')
    return [
        (FILTERS[f], MAPS[m], REDUCTIONS[r])
        for f, m, r in product(range(len(FILTERS)), range(len(MAPS)), range(len(REDUCTIONS)))
        if ((f + 2 * m + 3 * r) % len(REDUCTIONS) == 0) == (split == "test")
    ]


def draw_composition(kinds: tuple[Component, Component, Component], rng: np.random.Generator) -> Composition:
    """Give each component a constant drawn from its own."""
    chosen, mapped, reduced = (
        Step(component=kind, constant=int(rng.choice(kind.constants)) if kind.constants else None) for kind in kinds
    )
    return Composition(steps=(chosen, mapped, reduced))


def composition(task_id: str) -> Composition:
    """Read a task id back.

    Args:
        task_id: For instance `demo/at_least-3/square/total`.

    Raises:
        ValueError: The id is not one of this family.
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
