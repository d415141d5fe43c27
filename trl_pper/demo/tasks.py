"""The demo's tasks: what to program, and tests that catch every one-token mistake.

Enters: a split and a seed. Leaves: tasks over `trl_pper.demo.family`, those of the test split composed as no task of
the train split and no program of the shipped model's corpus is. What runs here is only text of that family, never a
model's.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Iterator

import numpy as np

from trl_pper.demo.family import ENTRY_POINT, Composition, Split, composition, compositions, draw_composition
from trl_pper.task import CodingTask, FunctionTests

TRAIN_TASKS = 200
TESTS_PER_TASK = 8
_POOL_SIZE = 40
_LONGEST_LIST = 6
_DRAWS = 4


def demo_tasks(split: Split = "train", seed: int = 0) -> list[CodingTask]:
    """Build the demo's tasks.

    Args:
        split: "train" (200 tasks, to learn from) or "test" (all that are held out, 60 to 80 tasks).
        seed: Chooses the constants and which compositions of the train split occur. The held-out compositions are the
            same for every seed, because the shipped model must not have seen them either.

    Returns:
        Tasks with distinct ids, equal for equal arguments. In each of them every slip changes some answer.
    """
    rng = np.random.default_rng([seed, ("train", "test").index(split)])
    kinds = compositions(split)
    tasks: list[CodingTask] = []
    for index in rng.permutation(len(kinds)):
        draws = (draw_composition(kinds[index], rng) for _ in range(_DRAWS))
        asked = next((asked for asked in draws if _every_slip_shows(asked)), None)
        if asked is not None:
            tasks.append(_task(asked))
        if len(tasks) == TRAIN_TASKS:
            break
    return tasks


def reference_program(task_id: str) -> str:
    """Return the right program of a task, comment and signature included.

    Raises:
        ValueError: The id is not one of this family.
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
    """Tell whether each slip changes an answer; subtracting instead of adding, say, leaves no trace in some sums."""
    pool = _input_pool(asked)
    answers = _outcomes(asked.prompt + asked.completion(), pool)
    slips = ((True, False, False), (False, True, False), (False, False, True))
    return all(_outcomes(asked.prompt + asked.completion(slip), pool) != answers for slip in slips)


def _chosen_inputs(asked: Composition) -> list[list[int]]:
    """Choose inputs that catch every mutant the pool can catch, and leave most mutants something to pass."""
    pool = _input_pool(asked)
    answers = _outcomes(asked.prompt + asked.completion(), pool)
    caught = np.array(
        [
            [got != want for got, want in zip(_outcomes(mutant, pool), answers, strict=True)]
            for mutant in mutants(asked)
        ]
    )
    catches = caught.sum(axis=0)
    # The mildest input comes first: it is what a mutant can still pass, so that pass rates are graded.
    chosen = [int(np.argmin(catches))]
    missed = caught.any(axis=1) & ~caught[:, chosen[0]]
    while missed.any():
        # A new catch outweighs everything; among equals the input that catches least in all wins, for grading again.
        chosen.append(int(np.argmax(caught[missed].sum(axis=0) - catches / (1 + len(caught)))))
        missed &= ~caught[:, chosen[-1]]
    chosen += [index for index in range(len(pool)) if index not in chosen][: max(0, TESTS_PER_TASK - len(chosen))]
    return [pool[index] for index in chosen]


def _input_pool(asked: Composition) -> list[list[int]]:
    """Draw distinct lists of few values: some beside a constant, some that the filter keeps, some of any kind."""
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
    # Last, so that they are chosen only for what they catch: longer lists tell more programs apart.
    return pool + [xs for xs in ([], *([value] for value in sorted(set(near)))) if xs not in pool]


_SWAPS = (
    (">", ">=", "<", "<=", "==", "!="),
    ("+", "-", "*", "//", "%"),
    ("sum", "max", "min", "len"),
)
_TOKEN = re.compile(r"[<>=!]=|//|[-+*%<>]|\b(?:sum|max|min|len)\b|\b\d\b")


def mutants(asked: Composition) -> Iterator[str]:
    """Yield every program that differs from the right one in a single operator, function name or constant."""
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
    exec(program, namespace)
    return [_outcome(namespace[ENTRY_POINT], xs) for xs in inputs]


def _outcome(function: Callable[[list[int]], object], xs: list[int]) -> object:
    try:
        return function(list(xs))
    except (TypeError, ValueError, ZeroDivisionError) as error:
        return type(error).__name__
