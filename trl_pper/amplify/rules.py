"""Find the rules that all known inputs of a task follow, such as being sorted or equally long.

Benchmarks rarely state such rules. A rule that holds by accident is treated like an intended rule, because nothing
here can tell them apart. All functions are pure.
"""

from __future__ import annotations

import itertools
import operator
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

#: Separators inside words, as in 1,a,2,b or key=value. Letters must not move across them.
_PARTS = re.compile(r"\w[-,;:=/|>]\w")


@dataclass(frozen=True, kw_only=True)
class Rule:
    """A condition that holds for every value seen.

    Args:
        name: Name of the rule, for people.
        kinds: Types to which the rule applies.
        holds: Function that returns whether the rule holds for a value.
    """

    name: str
    kinds: tuple[type, ...]
    holds: Callable[[Any], bool]


@dataclass(frozen=True, kw_only=True)
class Relation:
    """A relation between two numbers of every record: feature `one` compared with feature `other` plus `offset`."""

    one: str
    other: str
    how: str
    offset: int = 0

    def holds(self, found: dict[str, float]) -> bool:
        """Return whether the relation holds for a record with these features, or a feature is missing."""
        if self.one not in found or self.other not in found:
            return True
        return _HOW[self.how](found[self.one], found[self.other] + self.offset)

    @property
    def field(self) -> int:
        """Index of the field to which feature `one` belongs."""
        return feature_field(self.one)


@dataclass(frozen=True, kw_only=True)
class Relations(Rule):
    """All relations between the numbers of records, checked together."""

    relations: tuple[Relation, ...]

    @property
    def counts(self) -> dict[int, Relation]:
        """Relation that determines a number field, by index of the field; relations to lengths take precedence."""
        decided: dict[int, Relation] = {}
        for relation in self.relations:
            if relation.how == "==" and relation.one.startswith("value"):
                if relation.field not in decided or relation.other.startswith("length"):
                    decided[relation.field] = relation
        return decided

    @property
    def same_lengths(self) -> list[tuple[int, int]]:
        """Pairs of fields that are always equally long."""
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
    """Return the rules that hold for all `texts`."""
    if not texts:
        return []
    alphabet = frozenset("".join(texts))
    vocabulary = frozenset(word for text in texts for word in text.split())
    mask = text_mask(texts[0])
    rules = [Rule(name="alphabet", kinds=(str,), holds=alphabet.issuperset)]
    # Most texts have inner structure that no rule describes: only texts already seen are allowed.
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
    """Return rules about the common beginning and end of texts, and about the number of each mark such as |."""
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
    # All texts lie between these two in sorting order, and so share their common beginning.
    least, greatest = min(texts), max(texts)
    pairs = itertools.takewhile(lambda pair: pair[0] == pair[1], zip(least, greatest, strict=False))
    return "".join(one for one, _ in pairs)


def sequence_rules(values: Sequence[Any]) -> list[Rule]:
    """Return the rules that hold for each list, tuple or set among `values`."""
    return _true_of_all(SEQUENCE_PREDICATES, SEQUENCE_KINDS, values) if values else []


def record_rules(records: Sequence[Any]) -> list[Rule]:
    """Return the rules that relate the fields of all `records`: equal up to 1, ordered, different, or contained."""
    kinds = tuple({type(record) for record in records})
    all_features = [features(record) for record in records]
    names = [name for name in all_features[0] if all(name in found for found in all_features)]
    relations = [
        relation
        for one, other in itertools.permutations(names, 2)
        # Within a field the rules of texts and sequences apply.
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
    # A single rule for all relations, so that the features of a record are computed once.
    def hold(record: Any) -> bool:
        found = features(record)
        return all(relation.holds(found) for relation in relations)

    return Relations(name="relations", kinds=kinds, holds=hold, relations=relations)


def features(record: Sequence[Any]) -> dict[str, float]:
    """Return the numbers that describe a record: values, lengths, and least, greatest and sum of nested numbers."""
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
    """Return the length that all rows of a grid share, or None; a row may be wrapped in a record of its own."""
    rows = (
        [row[0] if isinstance(row, tuple) and len(row) == 1 else row for row in value] if type(value) is list else []
    )
    widths = {len(row) if isinstance(row, str | list | tuple) else None for row in rows}
    return widths.pop() if len(widths) == 1 else None


def feature_field(feature: str) -> int:
    """Return the index of the field to which a feature belongs."""
    return int(feature.partition(" ")[2])


def _relation(one: str, other: str, pairs: Sequence[tuple[float, float]]) -> Relation | None:
    """Return the strictest plausible relation between two features that holds in all records, or None."""
    sides = {one.partition(" ")[0], other.partition(" ")[0]}
    if sides != {"length"} and ("value" not in sides or not one.startswith("value")):
        # Every pair comes in both orders, so that "less" covers "greater". Only relations to a value are
        # plausible here.
        return _order(one, other, pairs) if sides != {"sum", "value"} and "value" in sides else None
    # Counts are often off by 1: edges of a tree, or gaps between items.
    offsets = (0, 1, -1) if all(type(mine) is int for mine, _ in pairs) and "value" in sides else (0,)
    for offset in offsets:
        if all(mine == theirs + offset for mine, theirs in pairs):
            return Relation(one=one, other=other, how="==", offset=offset)
    return _order(one, other, pairs) if "sum" not in sides else None


def _order(one: str, other: str, pairs: Sequence[tuple[float, float]]) -> Relation | None:
    # From strict to loose: the first relation that always holds is the strictest.
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

    # A search for an item that must exist is a common kind of task.
    rule = Rule(name=f"field {one} is in field {other}", kinds=kinds, holds=inside)
    return [rule] if all(map(inside, records)) else []


def _true_of_all(
    rules: dict[str, Callable[[Any], bool]], kinds: tuple[type, ...], values: Sequence[Any]
) -> list[Rule]:
    return [Rule(name=name, kinds=kinds, holds=holds) for name, holds in rules.items() if all(map(holds, values))]


def _is_choice(texts: Sequence[str]) -> bool:
    """Return whether texts repeat so often that they must be names of a few things."""
    return len(texts) >= 6 and len(set(texts)) <= len(texts) // 3


SEQUENCE_KINDS = (list, tuple, set)
_BRACKETS = {")": "(", "]": "[", "}": "{", ">": "<"}


def numbers_in(value: Any) -> Iterator[float]:
    """Yield all numbers in nested lists, tuples and sets."""
    # `isinstance` would also take bools.
    # `isinstance` would also take bools.
    if type(value) in (int, float):
        yield value
    elif isinstance(value, SEQUENCE_KINDS):
        for item in value:
            yield from numbers_in(item)


def text_mask(text: str) -> str:
    """Return the text with "a", "A" or "9" in place of each letter and digit: 03-11-2000 becomes 99-99-9999."""
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
    # Items may be lists, which cannot be hashed.
    return len({repr(value) for value in values}) == len(values)


def _is_rectangular(values: Any) -> bool:
    return len({len(value) if hasattr(value, "__len__") else -1 for value in values}) <= 1


def _is_square(values: Any) -> bool:
    return all(hasattr(value, "__len__") and len(value) == len(values) for value in values)


def _greatest(values: Any) -> float:
    return max((value for value in values if type(value) is int), default=-1)


def _has_no_loops(values: Any) -> bool:
    """Return whether pairs of whole numbers, taken as edges of a graph, form a forest."""
    # Union-find: the root of each node's tree.
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


#: Conditions that may hold for a text.
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
#: Conditions that may hold for a list, tuple or set.
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
