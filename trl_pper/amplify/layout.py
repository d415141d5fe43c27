"""Read the input texts of programs as nested values, and write them back, if all inputs of a task share a layout.

Three layouts are known: a fixed number of lines; a few lines that state the number of rows to follow; and a number of
blocks that each state their number of rows. Texts of any other layout are left alone.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from trl_pper.amplify.shape import Record

_INT = re.compile(r"-?(?:0|[1-9]\d{0,17})")
#: Most numbers on a line of fixed length that count as separate fields; a longer line is a list.
_MAX_FIELDS = 4
_MAX_HEAD, _MAX_ROW_LINES, _MAX_TAIL = 3, 4, 2
#: Offsets between a stated number and the number of rows: a tree has one edge less than nodes.
_OFFSETS = (0, -1)

Lines = list[list[str]]


@dataclass(frozen=True, kw_only=True)
class Count:
    """The place where a text states its number of rows: line, word, and an offset to add to the number."""

    line: int
    word: int
    offset: int

    def rows(self, lines: Sequence[Sequence[str]]) -> int | None:
        """Return the number of rows that `lines` state, or None without a number at that place."""
        if self.line >= len(lines) or self.word >= len(lines[self.line]):
            return None
        text = lines[self.line][self.word]
        return int(text) + self.offset if _INT.fullmatch(text) else None


@dataclass(frozen=True, kw_only=True)
class Line:
    """The layout of a line, the same in all inputs.

    Args:
        numbers: For each word whether it is a whole number; a single entry for all words of a list.
        is_list: Whether the line is a list of any length instead of a fixed number of fields.
    """

    numbers: tuple[bool, ...]
    is_list: bool

    def fields(self, words: Sequence[str]) -> list[Any]:
        """Return the values of a line: a single list, or a value for each word."""
        if self.is_list:
            return [[int(word) if self.numbers[0] else word for word in words]]
        return [int(word) if number else word for word, number in zip(words, self.numbers, strict=True)]

    def text(self, fields: Iterator[Any]) -> str:
        """Return the line with the next values of `fields`."""
        values = next(fields) if self.is_list else list(itertools.islice(fields, len(self.numbers)))
        return " ".join(map(str, values))


@dataclass(frozen=True, kw_only=True)
class Layout:
    """The layout of all inputs of a task.

    Args:
        head: Lines before the rows; all lines if `count` is None.
        count: Place in the head that states the number of rows.
        row: Lines of each row, or the layout of blocks that state their own number of rows.
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
        # `find_layout` has seen this text: the layout covers all of its lines.
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
        """Return the input text that holds the values of `record`."""
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
    """Return the layout that all `texts` share, or None when they share no known layout."""
    if not texts or not all(map(_is_plain, texts)):
        return None
    newlines = {text.endswith("\n") for text in texts}
    cases = [_lines(text) for text in texts]
    newline = newlines != {False}
    # The simplest layout first: with few texts a number may equal the number of rows by accident.
    return _even(cases, newline) or _counted(cases, newline) or _blocks(cases, newline)


def _even(cases: Sequence[Lines], newline: bool) -> Layout | None:
    if len({len(lines) for lines in cases}) != 1:
        return None
    head = _columns(cases)
    return Layout(head=head, newline=newline) if head else None


def _counted(cases: Sequence[Lines], newline: bool) -> Layout | None:
    """Return a layout with a word in the first lines that states the number of rows."""
    # Several layouts may fit: n numbers on a line before n - 1 edges could pass for a row. Rows without lists are
    # the likelier ones.
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
    """Return a layout with a first line that states the number of blocks, each of which states its number of rows."""
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
    """Return whether the count is a number field of its own, so that it can be corrected after rows were changed."""
    return not heads[count.line].is_list and heads[count.line].numbers[count.word]


def _columns(cases: Sequence[Lines]) -> tuple[Line, ...] | None:
    """Return the layout of each line, over cases with equally many lines; None when a line is empty in all of them."""
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
        # A word counts as a number only if it is a number in every case.
        return Line(numbers=tuple(map(all, zip(*numbers, strict=True))), is_list=False)
    return Line(numbers=(all(map(all, numbers)),), is_list=True)


def _fields(lines: Sequence[Line], words: Lines) -> list[Any]:
    return [value for line, given in zip(lines, words, strict=True) for value in line.fields(given)]


def _end(lines: Lines, count: int) -> Lines:
    return lines[len(lines) - count :]


def _lines(text: str) -> Lines:
    return [line.split() for line in text.rstrip("\n").split("\n")]


def _is_plain(text: str) -> bool:
    """Return whether words and line breaks determine a text: no double spaces, and none at the beginning of lines."""
    # Programs that read words do not notice spaces at the ends of lines.
    lines = [line.rstrip(" ") for line in text.rstrip("\n").split("\n")]
    return bool(text.strip()) and all(" ".join(line.split()) == line for line in lines)
