"""Pair failed programs with the most similar passing program of the same task, and compare the two line by line.

The work is bounded for any buffer by limits on tasks, programs of a task, tokens and lines. No time is measured, so
that the same buffer always gives the same pairs. Texts that were cut say so.
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

#: Passing programs compared in full: the programs that share the most tokens with the failed program.
COMPARED = 2
_CHARACTERS = 8_000
_TOKENS = 150


@dataclass(frozen=True, kw_only=True)
class NearMiss:
    """A failed and a passing program of the same task.

    Args:
        failed: Position of the failed program in the buffer.
        passing: Position of the passing program in the buffer.
        similarity: Fraction of their tokens that they share, in order, in [0, 1].
    """

    failed: int
    passing: int
    similarity: float


@dataclass(frozen=True, kw_only=True)
class NearMisses:
    """The result of a search for near misses.

    Args:
        pairs: Pairs of programs, the most similar first.
        tasks: Number of tasks with failed and passing programs.
        searched: Number of these tasks that were searched.
    """

    pairs: tuple[NearMiss, ...]
    tasks: int
    searched: int


def find_near_misses(buffer: ReplayBuffer, content: Content, *, limit: int = PAIRS) -> NearMisses:
    """Pair failed programs with their most similar passing programs.

    The search takes the tasks with the failed programs of highest pass rate, then of highest P2Value. Within a task it
    takes the programs in the same order.

    Args:
        buffer: Buffer that supplies the text of programs.
        content: Content of the buffer.
        limit: Largest number of pairs returned.
    """
    candidates = _candidates(content)
    tasks = list(candidates)[:TASKS_SEARCHED]
    by_task = [_find_pairs(buffer, *candidates[task]) for task in tasks]
    # In turns over the tasks: every task gets a pair before any task gets a second.
    turns = [(turn, pair) for pairs in by_task for turn, pair in enumerate(pairs)]
    turns.sort(key=lambda one: (one[0], -one[1].similarity))
    chosen = sorted((pair for _, pair in turns[:limit]), key=lambda pair: -pair.similarity)
    return NearMisses(pairs=tuple(chosen), tasks=len(candidates), searched=len(tasks))


def similarity(one: Sequence[str], other: Sequence[str]) -> float:
    """Return the fraction of tokens that two texts share, in order, in [0, 1]; 1 for two empty texts.

    Between their common beginning and end, `_TOKENS` tokens of each text are compared; the rest counts as different.
    """
    # Near misses differ in a few places: cutting the equal ends first leaves little to compare. The matcher's time
    # grows with the square of the length or worse.
    start = _common(one, other)
    end = _common(one[start:][::-1], other[start:][::-1])
    left, right = (text[start : len(text) - end][:_TOKENS] for text in (one, other))
    matcher = SequenceMatcher(None, left, right, autojunk=False)
    same = start + end + sum(block.size for block in matcher.get_matching_blocks())
    total = len(one) + len(other)
    return 2 * same / total if total else 1.0


def _candidates(content: Content) -> dict[int, tuple[list[int], list[int]]]:
    """Return the failed and the passing programs to compare, best first, for each task that has both."""
    passes = content.pass_rates == 1.0
    has_both = _has(content, passes) & _has(content, ~passes)
    places = np.flatnonzero(has_both[content.task])
    # The last key counts most. The sort is stable: equal programs keep the order of the buffer.
    order = places[np.lexsort((-content.p2values[places], -content.pass_rates[places]))]
    found: dict[int, tuple[list[int], list[int]]] = {}
    # Failed programs first, so that their order becomes the order of the tasks.
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
    """Return the number of items with which both sequences begin."""
    for position, (left, right) in enumerate(zip(one, other, strict=False)):
        if left != right:
            return position
    return min(len(one), len(other))


# Limits of the texts and lines in a difference; longer ones are cut, and say so.
LINES = 300
LINE_CHARACTERS = 200

#: Replaced lines that are compared word by word; further lines differ as a whole.
COMPARED_LINES = 40

#: Equal lines shown around different lines.
CONTEXT = 3

#: A row: ["=", line], ["-", parts], ["+", parts], ["~", parts, parts] or ["...", number of equal lines left out].
#: Parts are pieces of a line, by turns equal and different in both lines; the first may be empty.
Row = list[Any]


def difference(failed: str, passing: str) -> list[Row]:
    """Return the rows of the difference from a failed program to a passing program, as plain lists for JSON."""
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
    # A row that stands for a single line would save nothing.
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
        # Such lines share a few words by chance: show them as replaced.
        return ["", one], ["", other]
    parts: tuple[list[str], list[str]] = ([""], [""])
    for kind, start, end, other_start, other_end in matcher.get_opcodes():
        for side, text in zip(parts, (words[start:end], others[other_start:other_end]), strict=True):
            # Pieces take turns, so that the position alone tells equal from different.
            same = len(side) % 2 == 1
            if same != (kind == "equal"):
                side.append("")
            side[-1] += "".join(text)
    return parts
