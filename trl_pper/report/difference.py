"""The difference of two programs, line by line and within lines, as plain lists for JSON.

Enters: two texts. Leaves: rows. Long texts and long lines are cut, and the rows say so; what is left takes time
bounded by these limits.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from difflib import SequenceMatcher
from typing import Any

LINES = 300
LINE_CHARACTERS = 200

#: Replaced lines that are compared word by word; others differ as a whole.
COMPARED = 40

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
            rows += _changed(left[start:end], right[other_start:other_end], words=max(0, COMPARED - compared))
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
