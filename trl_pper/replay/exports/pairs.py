"""Choose pairs of a better and a worse program of the same prompt, for preference training and reward models.

Pairs are chosen task by task, and depend on no other task. Distances are between completions, the texts that are
learned. Truncated completions and repairs take no part: a truncated completion lacks its end, and a repair is a right
program by construction, with nothing to compare it with.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from trl_pper.generation.source import is_number
from trl_pper.replay.experience import Experience, chat_json, repaired_task

STRATEGIES = ("closest", "random", "mixed")

#: Differences of fractions round: 0.3 - 0.1 is a little below 0.2.
_ROUNDING = 1e-9


@dataclass(frozen=True, kw_only=True)
class PairRule:
    """How pairs are chosen.

    Args:
        strategy: "closest" for the pairs of the smallest Levenshtein distance, "random" for any, "mixed" for half of
            each; of an odd number of pairs a task, a coin decides about the last.
        pairs_per_task: Largest number of pairs of a task, at least 1.
        min_gap: Smallest difference of the two pass rates, in [0, 1]. The worse program is always below the better.
        min_pass_rate: Smallest pass rate of the better program, in [0, 1].
        seed: Seed of the random choices, at least 0.

    Raises:
        ValueError: An argument is out of range; the message names it.
    """

    strategy: str = "closest"
    pairs_per_task: int = 1
    min_gap: float = 0.0
    min_pass_rate: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        if self.strategy not in STRATEGIES:
            raise ValueError(f"strategy: must be one of {', '.join(STRATEGIES)}; got {self.strategy!r:.80}")
        for name, least in (("pairs_per_task", 1), ("seed", 0)):
            check_whole(name, getattr(self, name), least=least)
        for name in ("min_gap", "min_pass_rate"):
            check_rate(name, getattr(self, name))


@dataclass(frozen=True, kw_only=True)
class Pair:
    """Two programs of the same prompt, of which `chosen` has the higher pass rate."""

    chosen: Experience
    rejected: Experience

    @property
    def gap(self) -> float:
        """The difference of the two pass rates, in (0, 1]."""
        return self.chosen.pass_rate - self.rejected.pass_rate


def check_rate(name: str, value: float) -> None:
    """Raise ValueError unless an argument is a number in [0, 1]."""
    if not (is_number(value) and 0.0 <= value <= 1.0):
        raise ValueError(f"{name}: must be in [0, 1]; got {value!r:.80}")


def check_whole(name: str, value: int, *, least: int) -> None:
    """Raise ValueError unless an argument is a whole number of at least `least`."""
    if not is_number(value, whole=True) or value < least:
        raise ValueError(f"{name}: must be a whole number of at least {least}; got {value!r:.80}")


def choose_pairs(experiences: Iterable[Experience], rule: PairRule) -> list[Pair]:
    """Choose pairs of each task, in the order of the tasks.

    Two programs with equal completions are no pair. Of equal distances the programs stored first count.

    Args:
        experiences: Judged programs.
        rule: How pairs are chosen.

    Returns:
        The pairs; at least one.

    Raises:
        ValueError: There is no pair; the message says what the tasks have, and what to do.
    """
    grouped = group_pairs(experiences, rule)
    chosen = [
        pair
        for task_id, pairs in zip(grouped.tasks, grouped.candidates, strict=True)
        for pair in _choose(task_id, pairs, rule)
    ]
    if not chosen:
        reason = _why_none(grouped.tasks, grouped.candidates, rule, grouped.left_out)
        raise ValueError(f"nothing to export: {reason}")
    return chosen


@dataclass(frozen=True, kw_only=True)
class GroupedPairs:
    """The programs that pairs can be made of, and the pairs of each task.

    Args:
        tasks: The programs of each task by their prompt.
        candidates: The pairs of each task, in the same order.
        left_out: Number of truncated completions and repairs, which are not among the programs.
    """

    tasks: dict[str, dict[str, list[Experience]]]
    candidates: list[TaskPairs]
    left_out: int


def group_pairs(experiences: Iterable[Experience], rule: PairRule) -> GroupedPairs:
    """Return the pairs that each task has, of which `choose_pairs` takes some."""
    tasks: dict[str, dict[str, list[Experience]]] = {}
    left_out = 0
    for one in experiences:
        if one.truncated or repaired_task(one.task_id) != one.task_id:
            left_out += 1
            continue
        # A task may have been asked for in several ways. Only answers to the same prompt can be compared.
        prompt = one.prompt if isinstance(one.prompt, str) else chat_json(one.prompt)
        tasks.setdefault(one.task_id, {}).setdefault(prompt, []).append(one)
    candidates = [TaskPairs(list(prompts.values()), rule) for prompts in tasks.values()]
    return GroupedPairs(tasks=tasks, candidates=candidates, left_out=left_out)


def _choose(task_id: str, pairs: TaskPairs, rule: PairRule) -> Iterator[Pair]:
    number = min(rule.pairs_per_task, pairs.total)
    near: list[int] = []
    chance = _generator(rule.seed, task_id)
    if rule.strategy == "closest":
        near = pairs.closest(number)
    elif rule.strategy == "mixed":
        # The number asked for is halved, not the number there is: a task with few pairs has all of them in any case.
        half, odd = divmod(rule.pairs_per_task, 2)
        near = pairs.closest(min(number, half + odd * int(chance.integers(2))))
    drawn = pairs.random(number - len(near), chance, without=near) if rule.strategy != "closest" else []
    for place in (*near, *drawn):
        better, worse = pairs.at(place)
        yield Pair(chosen=better, rejected=worse)


def _generator(seed: int, task_id: str) -> np.random.Generator:
    # Of its own for each task, so that other tasks and their order change nothing.
    text = f"{int(seed)}:{task_id}".encode("utf-8", "surrogatepass")
    return np.random.default_rng(int.from_bytes(hashlib.sha256(text).digest()[:16]))


class _PromptPairs:
    """The pairs of programs for one prompt, numbered: those of each better program in turn.

    Args:
        programs: The programs for the prompt, in the order stored.
        rule: The bounds on pass rates.
    """

    def __init__(self, programs: list[Experience], rule: PairRule) -> None:
        rates = np.array([one.pass_rate for one in programs])
        # By pass rate, so that the programs that are worse enough than another are the first so many.
        order = np.argsort(rates, kind="stable")
        self.programs = programs
        #: Positions of the worse programs, those of equal pass rates in the order stored.
        self.worse = order
        self.better = np.flatnonzero(rates >= rule.min_pass_rate)
        below = np.searchsorted(rates[order], rates[self.better], side="left")
        far = np.searchsorted(rates[order], rates[self.better] - rule.min_gap + _ROUNDING, side="right")
        #: For each better program the number of worse programs, and the number of the first pair after its own.
        self.reach = np.minimum(below, far)
        self.ends = np.cumsum(self.reach)
        self.texts = [_learned(one) for one in programs]
        self.worse_texts = [self.texts[place] for place in order[: self.reach.max(initial=0)]]

    @property
    def total(self) -> int:
        """Number of pairs, those of equal texts among them."""
        return int(self.ends[-1]) if len(self.ends) else 0

    def equal(self) -> list[int]:
        """Return the numbers of the pairs whose texts are equal."""
        places: dict[str, list[int]] = {}
        for place, text in enumerate(self.worse_texts):
            places.setdefault(text, []).append(place)
        starts = self.ends - self.reach
        return [
            int(start) + place
            for start, reach, better in zip(starts, self.reach, self.better, strict=True)
            for place in places.get(self.texts[better], ())
            if place < reach
        ]

    def at(self, number: int) -> tuple[int, int]:
        """Return the positions of the better and the worse program of a pair."""
        row = int(np.searchsorted(self.ends, number, side="right"))
        return int(self.better[row]), int(self.worse[number - int(self.ends[row] - self.reach[row])])

    def distances(self, row: int, at_most: int | None) -> NDArray[np.int64]:
        """Return the Levenshtein distances from the better program of a row to its worse programs, shape [reach].

        Distances above `at_most` are reported as `at_most + 1`, without the time that computing them would take.
        """
        # Imported late: only exports of pairs need it.
        from rapidfuzz.distance import Levenshtein
        from rapidfuzz.process import cdist

        text, others = self.texts[self.better[row]], self.worse_texts[: self.reach[row]]
        found = cdist([text], others, scorer=Levenshtein.distance, score_cutoff=at_most, dtype=np.int64)
        return np.asarray(found[0], np.int64)


class TaskPairs:
    """The pairs of programs of a task, numbered over all of its prompts; pairs of equal texts have no number here.

    Args:
        prompts: The programs for each prompt.
        rule: The bounds on pass rates.
    """

    def __init__(self, prompts: list[list[Experience]], rule: PairRule) -> None:
        self.prompts = [_PromptPairs(programs, rule) for programs in prompts]
        self.starts = np.cumsum([0, *(one.total for one in self.prompts)])
        self.equal = {
            int(start) + number
            for start, one in zip(self.starts, self.prompts, strict=False)
            for number in one.equal()
        }
        self.total = int(self.starts[-1]) - len(self.equal)

    def at(self, place: int) -> tuple[Experience, Experience]:
        """Return the better and the worse program of a pair."""
        prompt = int(np.searchsorted(self.starts, place, side="right")) - 1
        better, worse = self.prompts[prompt].at(place - int(self.starts[prompt]))
        programs = self.prompts[prompt].programs
        return programs[better], programs[worse]

    def closest(self, number: int) -> list[int]:
        """Return the `number` pairs of the smallest distances, the smallest first."""
        if not number:
            return []
        # In each: distance, prompt, positions of the two programs, number of the pair.
        kept: list[tuple[int, int, int, int, int]] = []
        for prompt, (start, pairs) in enumerate(zip(self.starts, self.prompts, strict=False)):
            for row in np.flatnonzero(pairs.reach):
                at_most = kept[-1][0] if len(kept) == number else None
                distances = pairs.distances(int(row), at_most)
                near = distances > 0
                if at_most is not None:
                    near &= distances <= at_most
                first = int(start + pairs.ends[row] - pairs.reach[row])
                kept += [
                    (
                        int(distances[place]),
                        prompt,
                        int(pairs.better[row]),
                        int(pairs.worse[place]),
                        first + int(place),
                    )
                    for place in np.flatnonzero(near)
                ]
                kept.sort()
                del kept[number:]
        return [one[-1] for one in kept]

    def smallest_distance(self) -> int:
        """Return the Levenshtein distance of the closest pair, in characters; the task has to have a pair."""
        from rapidfuzz.distance import Levenshtein

        better, worse = self.at(self.closest(1)[0])
        return Levenshtein.distance(_learned(better), _learned(worse))

    def random(self, number: int, chance: np.random.Generator, *, without: list[int]) -> list[int]:
        """Return `number` different pairs at random, without some."""
        without_these = self.equal | set(without)
        # As many more as may have to be skipped. There can be far too many pairs to list them.
        most = min(int(self.starts[-1]), number + len(without_these))
        drawn = chance.choice(int(self.starts[-1]), size=most, replace=False) if number else np.empty(0, np.int64)
        return [int(place) for place in drawn if int(place) not in without_these][:number]


def _learned(one: Experience) -> str:
    # Chat templates strip answers, and white space around them is not learned. In a continued text it may be code.
    return one.completion if isinstance(one.prompt, str) else one.completion.strip()


def _why_none(
    tasks: dict[str, dict[str, list[Experience]]], candidates: list[TaskPairs], rule: PairRule, left_out: int
) -> str:
    """Return the reason why no task has a pair, with counts and a remedy."""
    also = f" ({left_out} truncated completions and repairs are left out)" if left_out else ""
    if not tasks:
        return f"there is no whole program to make pairs of{also}; add judged programs first"
    if equal := sum(bool(pairs.equal) for pairs in candidates):
        return (
            f"the pairs of {equal} of the {len(tasks)} tasks are of equal completions (distance 0), and the other "
            f"tasks have none{also}. Equal programs with different pass rates come of tests that differ from run to "
            "run: judge again, or collect other programs"
        )
    good = [
        [one.pass_rate >= rule.min_pass_rate for programs in prompts.values() for one in programs]
        for prompts in tasks.values()
    ]
    above, below = sum(map(all, good)), sum(not any(one) for one in good)
    return (
        f"none of the {len(tasks)} tasks has both a program with a pass rate of at least {rule.min_pass_rate:g} and, "
        f"for the same prompt, a worse one{f', by min_gap={rule.min_gap:g}' if rule.min_gap else ''}; {above} have "
        f"only programs of at least {rule.min_pass_rate:g}, {below} have only others{also}. Collect more programs per "
        "task, or lower min_pass_rate or min_gap"
    )
