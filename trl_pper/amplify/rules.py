"""Rules that inputs may follow without anybody having said so, and which of them given values all follow.

Enters: values that are known to be inputs. Leaves: the rules that hold for every one of them. Pure functions; a rule
that holds by accident is kept like one that was meant, since nothing here can tell them apart.

Things that may be true of a text or a list, such as being sorted: the candidates that `rules` picks from.

Enters: one value. Leaves: yes or no. Pure functions that raise for no plain value.
"""

from __future__ import annotations

import itertools
import operator
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

#: What holds parts of a text together that letters must not be moved between, as in 1,a,2,b or key=value.
_PARTS = re.compile(r"\w[-,;:=/|>]\w")


@dataclass(frozen=True, kw_only=True)
class Rule:
    """Something that is true of every value seen.

    Args:
        name: What it says, for people.
        kinds: Types it speaks of.
        holds: Whether it is true of a value.
    """

    name: str
    kinds: tuple[type, ...]
    holds: Callable[[Any], bool]


@dataclass(frozen=True, kw_only=True)
class Relation:
    """How two numbers of every record relate: feature `one` compared with feature `other` plus `offset`."""

    one: str
    other: str
    how: str
    offset: int = 0

    def holds(self, found: dict[str, float]) -> bool:
        """Whether it is true of a record with these features; a feature that is not there says nothing."""
        if self.one not in found or self.other not in found:
            return True
        return _HOW[self.how](found[self.one], found[self.other] + self.offset)

    @property
    def field(self) -> int:
        """The field that `one` is of."""
        return feature_field(self.one)


@dataclass(frozen=True, kw_only=True)
class Relations(Rule):
    """All relations of records, looked at together."""

    relations: tuple[Relation, ...]

    @property
    def counts(self) -> dict[int, Relation]:
        """By field, what decides a number that is always as great as another one; lengths before other numbers."""
        decided: dict[int, Relation] = {}
        for relation in self.relations:
            if relation.how == "==" and relation.one.startswith("value"):
                if relation.field not in decided or relation.other.startswith("length"):
                    decided[relation.field] = relation
        return decided

    @property
    def same_lengths(self) -> list[tuple[int, int]]:
        """Fields that are always equally long."""
        return [
            (one.field, feature_field(one.other))
            for one in self.relations
            if one.how == "==" and one.one.startswith("l")
        ]


_HOW: dict[str, Callable[[float, float], bool]] = {
    "==": operator.eq,
    "<": operator.lt,
    "<=": operator.le,
    "!=": operator.ne,
}


def text_rules(texts: Sequence[str]) -> list[Rule]:
    """Return what is true of all `texts`."""
    if not texts:
        return []
    alphabet = frozenset("".join(texts))
    vocabulary = frozenset(word for text in texts for word in text.split())
    mask = text_mask(texts[0])
    rules = [Rule(name="alphabet", kinds=(str,), holds=alphabet.issuperset)]
    if len(set(texts)) > 1 and sum(_PARTS.search(text) is not None for text in texts) > len(texts) / 2:
        rules.append(Rule(name="has parts", kinds=(str,), holds=frozenset(texts).__contains__))
    if any(" " in text for text in texts):
        rules.append(Rule(name="words", kinds=(str,), holds=lambda text: vocabulary.issuperset(text.split())))
    if len(set(texts)) > 1 and all(text_mask(text) == mask for text in texts) and len(set(mask)) > 1:
        rules.append(Rule(name="mask", kinds=(str,), holds=lambda text: text_mask(text) == mask))
    if len(set(texts)) > 1:
        rules += _constant_parts(texts)
    if _is_choice(texts):
        rules.append(Rule(name="choice", kinds=(str,), holds=frozenset(texts).__contains__))
    return rules + _true_of_all(TEXT_PREDICATES, (str,), texts)


def _constant_parts(texts: Sequence[str]) -> list[Rule]:
    """Return rules on how all texts begin and end, and on how often a mark such as | stands in each."""
    start = _shared_start(texts)
    end = _shared_start([text[::-1] for text in texts])[::-1]
    marks = {mark: texts[0].count(mark) for mark in set(texts[0]) if not mark.isalnum() and mark != " "}
    same = {mark: count for mark, count in marks.items() if all(text.count(mark) == count for text in texts)}
    rules = [
        Rule(name="marks", kinds=(str,), holds=lambda text: all(text.count(mark) == n for mark, n in same.items()))
    ]
    if len(start) > 1:
        rules.append(Rule(name="start", kinds=(str,), holds=lambda text: text.startswith(start)))
    if len(end) > 1:
        rules.append(Rule(name="end", kinds=(str,), holds=lambda text: text.endswith(end)))
    return rules


def _shared_start(texts: Sequence[str]) -> str:
    least, greatest = min(texts), max(texts)
    pairs = itertools.takewhile(lambda pair: pair[0] == pair[1], zip(least, greatest, strict=False))
    return "".join(one for one, _ in pairs)


def sequence_rules(values: Sequence[Any]) -> list[Rule]:
    """Return what is true of all lists, tuples and sets among `values`, each taken for itself."""
    return _true_of_all(SEQUENCE_PREDICATES, SEQUENCE_KINDS, values) if values else []


def record_rules(records: Sequence[Any]) -> list[Rule]:
    """Return how the fields of all `records` relate: equal up to one, ordered, different, or one in the other."""
    kinds = tuple({type(record) for record in records})
    all_features = [features(record) for record in records]
    names = [name for name in all_features[0] if all(name in found for found in all_features)]
    relations = [
        relation
        for one, other in itertools.permutations(names, 2)
        if feature_field(one) != feature_field(other)
        and (relation := _relation(one, other, [(found[one], found[other]) for found in all_features]))
    ]
    rules: list[Rule] = []
    if relations:
        rules.append(_relations(tuple(relations), kinds))
    for one, other in itertools.permutations(range(len(records[0])), 2):
        rules += _membership(one, other, records, kinds)
    return rules


def _relations(relations: tuple[Relation, ...], kinds: tuple[type, ...]) -> Relations:
    def hold(record: Any) -> bool:
        found = features(record)
        return all(relation.holds(found) for relation in relations)

    return Relations(name="relations", kinds=kinds, holds=hold, relations=relations)


def features(record: Sequence[Any]) -> dict[str, float]:
    """Return the numbers that say something of a record: values, lengths, and extremes and sums of what is inside."""
    found: dict[str, float] = {}
    for index, value in enumerate(record):
        if type(value) in (int, float):
            found[f"value {index}"] = value
        elif hasattr(value, "__len__"):
            found[f"length {index}"] = len(value)
            width = _width(value)
            if width is not None:
                found[f"width {index}"] = width
            numbers = list(numbers_in(value))
            if numbers:
                found[f"least {index}"] = min(numbers)
                found[f"greatest {index}"] = max(numbers)
                found[f"sum {index}"] = sum(numbers)
    return found


def _width(value: Any) -> int | None:
    """Return the length that all rows of a grid have, whose rows may stand alone in records."""
    rows = (
        [row[0] if isinstance(row, tuple) and len(row) == 1 else row for row in value] if type(value) is list else []
    )
    widths = {len(row) if isinstance(row, str | list | tuple) else None for row in rows}
    return widths.pop() if len(widths) == 1 else None


def feature_field(feature: str) -> int:
    """Return the field that a feature is of."""
    return int(feature.partition(" ")[2])


def _relation(one: str, other: str, pairs: Sequence[tuple[float, float]]) -> Relation | None:
    """Return the strictest relation between two features that holds in all records, of those worth believing."""
    sides = {one.partition(" ")[0], other.partition(" ")[0]}
    if sides != {"length"} and ("value" not in sides or not one.startswith("value")):
        # Greater-than is the same relation from the other side, but for what is compared with a value.
        return _order(one, other, pairs) if sides != {"sum", "value"} and "value" in sides else None
    offsets = (0, 1, -1) if all(type(mine) is int for mine, _ in pairs) and "value" in sides else (0,)
    for offset in offsets:
        if all(mine == theirs + offset for mine, theirs in pairs):
            return Relation(one=one, other=other, how="==", offset=offset)
    return _order(one, other, pairs) if "sum" not in sides else None


def _order(one: str, other: str, pairs: Sequence[tuple[float, float]]) -> Relation | None:
    hows = ("<", "<=", "!=") if one[:5] == other[:5] == "value" else ("<", "<=")
    how = next((how for how in hows if all(_HOW[how](mine, theirs) for mine, theirs in pairs)), None)
    return Relation(one=one, other=other, how=how) if how is not None else None


def _membership(one: int, other: int, records: Sequence[Any], kinds: tuple[type, ...]) -> list[Rule]:
    def inside(record: Any) -> bool:
        item, container = record[one], record[other]
        if isinstance(container, str):
            return isinstance(item, str) and item in container
        return (
            isinstance(item, int | float | str)
            and isinstance(container, list | tuple | set | dict)
            and item in container
        )

    rule = Rule(name=f"field {one} is in field {other}", kinds=kinds, holds=inside)
    return [rule] if all(map(inside, records)) else []


def _true_of_all(
    rules: dict[str, Callable[[Any], bool]], kinds: tuple[type, ...], values: Sequence[Any]
) -> list[Rule]:
    return [Rule(name=name, kinds=kinds, holds=holds) for name, holds in rules.items() if all(map(holds, values))]


def _is_choice(texts: Sequence[str]) -> bool:
    """Whether texts repeat so much that they must be names of a few things."""
    return len(texts) >= 6 and len(set(texts)) <= len(texts) // 3


SEQUENCE_KINDS = (list, tuple, set)
_BRACKETS = {")": "(", "]": "[", "}": "{", ">": "<"}


def numbers_in(value: Any) -> Iterator[float]:
    """Yield all numbers in nested lists, tuples and sets."""
    if type(value) in (int, float):
        yield value
    elif isinstance(value, SEQUENCE_KINDS):
        for item in value:
            yield from numbers_in(item)


def text_mask(text: str) -> str:
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
