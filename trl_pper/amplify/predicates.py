"""Things that may be true of a text or a list, such as being sorted: the candidates that `rules` picks from.

Enters: one value. Leaves: yes or no. Pure functions that raise for no plain value.
"""

from __future__ import annotations

import itertools
import operator
import re
from collections.abc import Callable, Iterator
from typing import Any

SEQUENCE_KINDS = (list, tuple, set)
_BRACKETS = {")": "(", "]": "[", "}": "{", ">": "<"}


def numbers_in(value: Any) -> Iterator[float]:
    """Yield all numbers in nested lists, tuples and sets."""
    if type(value) in (int, float):
        yield value
    elif isinstance(value, SEQUENCE_KINDS):
        for item in value:
            yield from numbers_in(item)


def mask_of(text: str) -> str:
    """Return the text with every letter and digit made one of its kind: 03-11-2000 is 99-99-9999."""
    return re.sub(r"[a-z]", "a", re.sub(r"[A-Z]", "A", re.sub(r"\d", "9", text)))


def _is_number(text: str) -> bool:
    return re.fullmatch(r"-?(?:0|[1-9]\d*)(?:\.\d+)?", text) is not None


def _is_balanced(text: str) -> bool:
    waiting: list[str] = []
    for mark in text:
        if mark in _BRACKETS.values():
            waiting.append(mark)
        elif mark in _BRACKETS and (not waiting or waiting.pop() != _BRACKETS[mark]):
            return False
    return not waiting


def _is_ordered(values: Any, compare: Callable[[Any, Any], bool]) -> bool:
    if isinstance(values, set):
        return False
    try:
        return all(compare(one, next_one) for one, next_one in itertools.pairwise(values))
    except TypeError:
        return False


def _is_distinct(values: Any) -> bool:
    return len({repr(value) for value in values}) == len(values)


def _is_rectangular(values: Any) -> bool:
    return len({len(value) if hasattr(value, "__len__") else -1 for value in values}) <= 1


def _is_square(values: Any) -> bool:
    return all(hasattr(value, "__len__") and len(value) == len(values) for value in values)


def _greatest(values: Any) -> float:
    return max((value for value in values if type(value) is int), default=-1)


def _has_no_loops(values: Any) -> bool:
    """Whether pairs of whole numbers, as edges between them, are a forest."""
    root: dict[int, int] = {}

    def find(node: int) -> int:
        while root.setdefault(node, node) != node:
            node = root[node]
        return node

    for value in values:
        if not isinstance(value, list | tuple) or len(value) < 2 or not all(type(end) is int for end in value[:2]):
            return False
        one, other = find(value[0]), find(value[1])
        if one == other:
            return False
        root[one] = other
    return True


#: What may be true of a text.
TEXT_PREDICATES: dict[str, Callable[[Any], bool]] = {
    "a number": _is_number,
    "balanced": _is_balanced,
    "no outer space": lambda text: text == text.strip(),
    "single spaces": lambda text: "  " not in text,
    "letters differ": _is_distinct,
    "neighbours differ": lambda text: _is_ordered(text, operator.ne),
    "sorted": lambda text: _is_ordered(text, operator.le),
    "mirrored": lambda text: text == text[::-1],
    "begins with a letter": lambda text: text[:1].isalpha(),
    "begins with a capital": lambda text: text[:1].isupper(),
    "no leading zero": lambda text: text[:1] != "0",
    "ends like a sentence": lambda text: text[-1:] in (".", "!", "?"),
}
#: What may be true of a list, tuple or set.
SEQUENCE_PREDICATES: dict[str, Callable[[Any], bool]] = {
    "ascending": lambda values: _is_ordered(values, operator.le),
    "descending": lambda values: _is_ordered(values, operator.ge),
    "distinct": _is_distinct,
    "rectangular": _is_rectangular,
    "square": _is_square,
    "forest": _has_no_loops,
    "one type": lambda values: len({type(value) for value in values}) <= 1,
    "below its length": lambda values: _greatest(values) < len(values),
    "up to its length": lambda values: _greatest(values) <= len(values),
    "mirrored": lambda values: isinstance(values, list | tuple) and list(values) == list(values)[::-1],
    "even length": lambda values: len(values) % 2 == 0,
    "neighbours differ": lambda values: isinstance(values, set) or _is_ordered(values, operator.ne),
    "numbers differ": lambda values: len(found := [*numbers_in(list(values))]) == len(set(found)),
    "odd length": lambda values: len(values) % 2 == 1,
}
