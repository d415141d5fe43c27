"""Input texts of programs as nested values and back, where all inputs of a task have one recognisable layout.

Enters: the input texts of a task. Leaves: a `Layout` that turns each into a record of numbers, words and lists, and a
record into text. Three layouts are known: always as many lines; a few lines of which one says how many rows follow;
and a number of blocks that each say how many rows they have. Texts of any other layout are left alone.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from trl_pper.amplify.shape import Record

_INT = re.compile(r"-?(?:0|[1-9]\d{0,17})")
#: Longest line of always as many numbers whose places count as fields; a longer one is a list.
_MAX_FIELDS = 4
_MAX_HEAD, _MAX_ROW_LINES, _MAX_TAIL = 3, 4, 2
#: Offsets between the number that a text states and its number of rows; a tree has one edge less than nodes.
_OFFSETS = (0, -1)

Lines = list[list[str]]


@dataclass(frozen=True, kw_only=True)
class Count:
    """Where a text says how many rows it has: which line and which word, and what to add to it."""

    line: int
    word: int
    offset: int

    def rows(self, lines: Sequence[Sequence[str]]) -> int | None:
        """Return the number of rows that `lines` state, or None without any such number."""
        if self.line >= len(lines) or self.word >= len(lines[self.line]):
            return None
        text = lines[self.line][self.word]
        return int(text) + self.offset if _INT.fullmatch(text) else None


@dataclass(frozen=True, kw_only=True)
class Line:
    """What the words of one line are in all inputs.

    Args:
        numbers: For each word whether it is a whole number; one entry for all words of a list.
        is_list: Whether the line is a list, of any length, and not so many fields.
    """

    numbers: tuple[bool, ...]
    is_list: bool

    def fields(self, words: Sequence[str]) -> list[Any]:
        """Return the values of a line: one list, or one for each word."""
        if self.is_list:
            return [[int(word) if self.numbers[0] else word for word in words]]
        return [int(word) if number else word for word, number in zip(words, self.numbers, strict=True)]

    def text(self, fields: Iterator[Any]) -> str:
        """Return the line that the next values of `fields` make."""
        values = next(fields) if self.is_list else list(itertools.islice(fields, len(self.numbers)))
        return " ".join(map(str, values))


@dataclass(frozen=True, kw_only=True)
class Layout:
    """How every input of a task is laid out.

    Args:
        head: Lines before the rows; with `count` None there are no others.
        count: Where the head says how many rows follow.
        row: Lines of each row: a list of one `Line` each, or another layout for blocks of their own length.
        tail: Lines after the rows.
        newline: Whether texts end in a line break.
    """

    head: tuple[Line, ...]
    count: Count | None = None
    row: tuple[Line, ...] | Layout = ()
    tail: tuple[Line, ...] = ()
    newline: bool = True

    def record(self, text: str) -> Record:
        """Return the values in an input."""
        lines = _lines(text)
        found, rest = self._taken(lines)
        assert not rest
        return found

    def _taken(self, lines: Lines) -> tuple[Record, Lines]:
        head, rest = lines[: len(self.head)], lines[len(self.head) :]
        fields = _fields(self.head, head)
        if self.count is not None:
            rows = []
            for _ in range(self.count.rows(head) or 0):
                if isinstance(self.row, Layout):
                    row, rest = self.row._taken(rest)
                else:
                    row, rest = Record(_fields(self.row, rest[: len(self.row)])), rest[len(self.row) :]
                rows.append(row)
            fields.append(rows)
            fields += _fields(self.tail, rest[: len(self.tail)])
            rest = rest[len(self.tail) :]
        return Record(fields), rest

    def text(self, record: Sequence[Any]) -> str:
        """Return the input that has the values of `record`."""
        return "\n".join(self._texts(record)) + "\n" * self.newline

    def _texts(self, record: Sequence[Any]) -> list[str]:
        fields = iter(record)
        texts = [line.text(fields) for line in self.head]
        if self.count is not None:
            for row in next(fields):
                if isinstance(self.row, Layout):
                    texts += self.row._texts(row)
                else:
                    parts = iter(row)
                    texts += [line.text(parts) for line in self.row]
            texts += [line.text(fields) for line in self.tail]
        return texts


def find_layout(texts: Sequence[str]) -> Layout | None:
    """Return the layout of all `texts`, or None when they have no layout that is known here."""
    if not texts or not all(map(_is_plain, texts)):
        return None
    newlines = {text.endswith("\n") for text in texts}
    cases = [_lines(text) for text in texts]
    newline = newlines != {False}
    return _even(cases, newline) or _counted(cases, newline) or _blocks(cases, newline)


def _even(cases: Sequence[Lines], newline: bool) -> Layout | None:
    if len({len(lines) for lines in cases}) != 1:
        return None
    head = _columns(cases)
    return Layout(head=head, newline=newline) if head else None


def _counted(cases: Sequence[Lines], newline: bool) -> Layout | None:
    """Return a layout in which a word of the first lines says how many rows of equally many lines follow.

    Where several fit, the one whose rows are the most alike does: a list of n numbers before n - 1 edges is no row.
    """
    fitting = list(_counted_layouts(cases, newline))
    return min(fitting, key=lambda one: sum(line.is_list for line in one.row), default=None)  # type: ignore[union-attr]


def _counted_layouts(cases: Sequence[Lines], newline: bool) -> Iterator[Layout]:
    for head, word, offset, size, tail in itertools.product(
        range(1, _MAX_HEAD + 1), range(_MAX_FIELDS), _OFFSETS, range(1, _MAX_ROW_LINES + 1), range(_MAX_TAIL + 1)
    ):
        for line in range(head):
            count = Count(line=line, word=word, offset=offset)
            stated = [count.rows(lines[:head]) for lines in cases]
            if any(
                rows is None or rows < 0 or head + rows * size + tail != len(lines)
                for rows, lines in zip(stated, cases, strict=True)
            ):
                continue
            starts = [(lines, start) for lines in cases for start in range(head, len(lines) - tail, size)]
            heads, tails = (
                _columns([lines[:head] for lines in cases]),
                _columns([_end(lines, tail) for lines in cases]),
            )
            inner = _columns([lines[start : start + size] for lines, start in starts])
            if heads and inner and (tails or not tail) and _stays(heads, count):
                yield Layout(head=heads, count=count, row=inner, tail=tails or (), newline=newline)


def _blocks(cases: Sequence[Lines], newline: bool) -> Layout | None:
    """Return a layout in which a first line says how many blocks follow, each of which says how many rows it has."""
    outer = Count(line=0, word=0, offset=0)
    if any(len(lines[0]) != 1 or not outer.rows(lines) for lines in cases):
        return None
    for word, offset, size in itertools.product(range(_MAX_FIELDS), _OFFSETS, range(1, _MAX_ROW_LINES + 1)):
        inner = Count(line=0, word=word, offset=offset)
        blocks = [_split(lines[1:], outer.rows(lines) or 0, inner, size) for lines in cases]
        if any(found is None for found in blocks):
            continue
        every = [block for found in blocks for block in found or []]
        heads = _columns([block[:1] for block in every])
        rows = _columns([block[at : at + size] for block in every for at in range(1, len(block), size)])
        if heads and rows and _stays(heads, inner):
            block = Layout(head=heads, count=inner, row=rows)
            return Layout(head=(Line(numbers=(True,), is_list=False),), count=outer, row=block, newline=newline)
    return None


def _split(lines: Lines, blocks: int, count: Count, size: int) -> list[Lines] | None:
    found = []
    for _ in range(blocks):
        rows = count.rows(lines)
        if rows is None or rows < 0 or 1 + rows * size > len(lines):
            return None
        found.append(lines[: 1 + rows * size])
        lines = lines[1 + rows * size :]
    return None if lines else found


def _stays(heads: Sequence[Line], count: Count) -> bool:
    """Whether the count is a field of its own, so that it can be put right."""
    return not heads[count.line].is_list and heads[count.line].numbers[count.word]


def _columns(cases: Sequence[Lines]) -> tuple[Line, ...] | None:
    """Return what each line is in all cases, which have equally many; None when one is no line of words."""
    if not cases or not cases[0]:
        return None
    found = [_line(column) for column in zip(*cases, strict=True)]
    return tuple(line for line in found if line is not None) if None not in found else None


def _line(column: Sequence[Sequence[str]]) -> Line | None:
    lengths = {len(words) for words in column}
    numbers = [[_INT.fullmatch(word) is not None for word in words] for words in column]
    if lengths == {0}:
        return None
    if len(lengths) == 1 and max(lengths) <= _MAX_FIELDS:
        return Line(numbers=tuple(map(all, zip(*numbers, strict=True))), is_list=False)
    return Line(numbers=(all(map(all, numbers)),), is_list=True)


def _fields(lines: Sequence[Line], words: Lines) -> list[Any]:
    return [value for line, given in zip(lines, words, strict=True) for value in line.fields(given)]


def _end(lines: Lines, count: int) -> Lines:
    return lines[len(lines) - count :]


def _lines(text: str) -> Lines:
    return [line.split() for line in text.rstrip("\n").split("\n")]


def _is_plain(text: str) -> bool:
    """Whether words and line breaks say everything: no outer or double spaces, except at the ends of lines."""
    lines = [line.rstrip(" ") for line in text.rstrip("\n").split("\n")]
    return bool(text.strip()) and all(" ".join(line.split()) == line for line in lines)
