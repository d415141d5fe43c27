"""Near misses: failed programs, each with the passing program of the same task that it is most like.

Enters: a buffer and what it holds. Leaves: pairs of positions, the most alike first, and their differences line by
line. The work is bounded whatever the buffer holds: tasks, programs of a task and tokens compared are limited, and no
time is measured, so that the same buffer gives the same pairs.

The difference of two programs, line by line and within lines, as plain lists for JSON.

Enters: two texts. Leaves: rows. Long texts and long lines are cut, and the rows say so; what is left takes time
bounded by these limits.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trl_pper.replay.buffer import ReplayBuffer
from trl_pper.report.content import Content

PAIRS = 60
TASKS_SEARCHED = 200
FAILED_OF_A_TASK = 4
PASSING_OF_A_TASK = 12

#: Passing programs compared in full: those that share the most tokens with the failed one.
COMPARED = 2
_CHARACTERS = 8_000
_TOKENS = 150


@dataclass(frozen=True, kw_only=True)
class NearMiss:
    """Two programs of one task.

    Args:
        failed: Position of the one that failed.
        passing: Position of the one that passes.
        similarity: Share of their tokens that they have in common, in order, in [0, 1].
    """

    failed: int
    passing: int
    similarity: float


@dataclass(frozen=True, kw_only=True)
class NearMisses:
    """What a search found.

    Args:
        pairs: The most alike first; of every task one before any task has two.
        tasks: Tasks that have failed and passing programs.
        searched: How many of these were searched.
    """

    pairs: tuple[NearMiss, ...]
    tasks: int
    searched: int


def find_near_misses(buffer: ReplayBuffer, content: Content, *, limit: int = PAIRS) -> NearMisses:
    """Pair failed programs with the nearest passing ones.

    Searched are the tasks with the failed programs of highest pass rate, then of highest P2Value; of each task again
    those of highest pass rate.

    Args:
        buffer: Where the text of programs comes from.
        content: What it holds.
        limit: Most pairs returned.
    """
    candidates = _candidates(content)
    tasks = list(candidates)[:TASKS_SEARCHED]
    by_task = [_find_pairs(buffer, *candidates[task]) for task in tasks]
    turns = [(turn, pair) for pairs in by_task for turn, pair in enumerate(pairs)]
    turns.sort(key=lambda one: (one[0], -one[1].similarity))
    chosen = sorted((pair for _, pair in turns[:limit]), key=lambda pair: -pair.similarity)
    return NearMisses(pairs=tuple(chosen), tasks=len(candidates), searched=len(tasks))


def similarity(one: Sequence[str], other: Sequence[str]) -> float:
    """Return the share of tokens two texts have in common, in order, in [0, 1]; 1 for two empty ones.

    Beyond what they begin and end with together, `_TOKENS` of each are compared and the rest counts as different.
    """
    start = _common(one, other)
    end = _common(one[start:][::-1], other[start:][::-1])
    left, right = (text[start : len(text) - end][:_TOKENS] for text in (one, other))
    matcher = SequenceMatcher(None, left, right, autojunk=False)
    same = start + end + sum(block.size for block in matcher.get_matching_blocks())
    total = len(one) + len(other)
    return 2 * same / total if total else 1.0


def _candidates(content: Content) -> dict[int, tuple[list[int], list[int]]]:
    """Return for each task with both its failed and its passing programs, the best first, as many as are compared."""
    passes = content.pass_rates == 1.0
    has_both = _has(content, passes) & _has(content, ~passes)
    places = np.flatnonzero(has_both[content.task])
    # The last key counts most; a stable order keeps equal ones as they are stored.
    order = places[np.lexsort((-content.p2values[places], -content.pass_rates[places]))]
    found: dict[int, tuple[list[int], list[int]]] = {}
    for place in [*order[~passes[order]].tolist(), *order[passes[order]].tolist()]:
        failed, passing = found.setdefault(int(content.task[place]), ([], []))
        kept, room = (passing, PASSING_OF_A_TASK) if passes[place] else (failed, FAILED_OF_A_TASK)
        if len(kept) < room:
            kept.append(place)
    return found


def _has(content: Content, chosen: NDArray[np.bool_]) -> NDArray[np.bool_]:
    return np.asarray(np.bincount(content.task, chosen, minlength=len(content.tasks)) > 0)


def _find_pairs(buffer: ReplayBuffer, failed: Sequence[int], passing: Sequence[int]) -> list[NearMiss]:
    places = [*failed, *passing]
    texts = dict(zip(places, (_tokens(one.program) for one in buffer.take(places)), strict=True))
    counts = {place: Counter(texts[place]) for place in passing}
    pairs = []
    for place in failed:
        own = Counter(texts[place])
        shared = {other: _overlap(own, counts[other]) for other in passing}
        compared = sorted(passing, key=lambda other: -shared[other])[:COMPARED]
        found = [
            NearMiss(failed=place, passing=other, similarity=similarity(texts[place], texts[other]))
            for other in compared
        ]
        pairs.append(max(found, key=lambda pair: pair.similarity))
    return sorted(pairs, key=lambda pair: -pair.similarity)


def _overlap(one: Counter[str], other: Counter[str]) -> float:
    return 2 * (one & other).total() / max(1, one.total() + other.total())


def _tokens(text: str) -> list[str]:
    return re.findall(r"\w+|[^\w\s]|\n", text[:_CHARACTERS])


def _common(one: Sequence[str], other: Sequence[str]) -> int:
    """Return how many items two sequences begin with together."""
    for position, (left, right) in enumerate(zip(one, other, strict=False)):
        if left != right:
            return position
    return min(len(one), len(other))


LINES = 300
LINE_CHARACTERS = 200

#: Replaced lines that are compared word by word; others differ as a whole.
COMPARED_LINES = 40

#: Lines that are the same, shown around those that differ.
CONTEXT = 3

#: One row: ["=", line], ["-", parts], ["+", parts], ["~", parts, parts] or ["...", number of equal lines left out].
#: Parts are pieces of a line that are in turn the same in both lines and different; the first may be empty.
Row = list[Any]


def difference(failed: str, passing: str) -> list[Row]:
    """Return the rows that lead from a failed program to a passing one."""
    left, right = _lines(failed), _lines(passing)
    rows: list[Row] = []
    compared = 0
    blocks = SequenceMatcher(None, left, right, autojunk=False).get_opcodes()
    for index, (kind, start, end, other_start, other_end) in enumerate(blocks):
        if kind == "equal":
            rows += _context(left[start:end], first=index == 0, last=index == len(blocks) - 1)
        else:
            rows += _changed(left[start:end], right[other_start:other_end], words=max(0, COMPARED_LINES - compared))
            compared += min(end - start, other_end - other_start)
    return rows


def _lines(text: str) -> list[str]:
    lines = text.split("\n", LINES)
    if len(lines) > LINES:
        left_out = lines.pop().count("\n") + 1
        lines.append(f"[{left_out:,} more lines]")
    return [_cut(line) for line in lines]


def _cut(line: str) -> str:
    surplus = len(line) - LINE_CHARACTERS
    return line if surplus <= 0 else f"{line[:LINE_CHARACTERS]} [{surplus:,} more characters]"


def _context(lines: list[str], *, first: bool, last: bool) -> Iterator[Row]:
    before = 0 if first else CONTEXT
    after = 0 if last else CONTEXT
    left_out = len(lines) - before - after
    if left_out <= 1:
        yield from (["=", line] for line in lines)
        return
    yield from (["=", line] for line in lines[:before])
    yield ["...", left_out]
    yield from (["=", line] for line in lines[len(lines) - after :])


def _changed(left: list[str], right: list[str], *, words: int) -> Iterator[Row]:
    paired = min(len(left), len(right))
    for number, (one, other) in enumerate(zip(left, right, strict=False)):
        yield ["~", *(_parts(one, other) if number < words else (["", one], ["", other]))]
    yield from (["-", ["", line]] for line in left[paired:])
    yield from (["+", ["", line]] for line in right[paired:])


def _parts(one: str, other: str) -> tuple[list[str], list[str]]:
    words, others = (re.findall(r"\w+|\s+|[^\w\s]", line) for line in (one, other))
    matcher = SequenceMatcher(None, words, others, autojunk=False)
    if matcher.ratio() < 0.3:
        # What little they share is chance: the lines were replaced.
        return ["", one], ["", other]
    parts: tuple[list[str], list[str]] = ([""], [""])
    for kind, start, end, other_start, other_end in matcher.get_opcodes():
        for side, text in zip(parts, (words[start:end], others[other_start:other_end]), strict=True):
            same = len(side) % 2 == 1
            if same != (kind == "equal"):
                side.append("")
            side[-1] += "".join(text)
    return parts
