"""Find the shape that the inputs of a task share: types, ranges, lengths and rules.

A `Shape` decides whether another value could be an input of the task.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from trl_pper.amplify.rules import Rule, record_rules, sequence_rules, text_rules

#: Longest tuple or list that counts as a record of fields when all inputs have the same length there.
_MAX_FIELDS = 3
#: Fewest distinct numbers from which a common divisor is inferred.
_MIN_NUMBERS_FOR_STEP = 4
_SEQUENCES = (list, tuple, set)


class Record(tuple[Any, ...]):
    """A tuple with places of different meaning: the arguments of a call, or the numbers on a line."""

    __slots__ = ()


@dataclass(frozen=True, kw_only=True)
class Shape:
    """The common properties of the values at a single place in all inputs.

    Args:
        values: All values seen at this place.
        kinds: Their types.
        low, high: The least and the greatest number among them.
        has_zero: Whether 0 is among them; it is a special case for many tasks.
        step: Greatest common divisor of the whole numbers among them; 1 if there are too few to tell.
        decimals: Largest number of decimals of a float.
        lengths: Least and greatest length of the values that have a length.
        fields: Shapes of the places of records, or None if the values are not records.
        key: Shape of the keys of dictionaries.
        item: Shape of the items of lists, tuples and sets, and of the values of dictionaries.
        rules: Further rules that hold for all values.
    """

    values: tuple[Any, ...]
    kinds: frozenset[type]
    low: float = 0
    high: float = 0
    has_zero: bool = False
    step: int = 1
    decimals: int = 0
    lengths: tuple[int, int] = (0, 0)
    fields: tuple[Shape, ...] | None = None
    key: Shape | None = None
    item: Shape | None = None
    rules: tuple[Rule, ...] = ()

    def allows(self, value: Any) -> bool:
        """Return whether `value` is like the values seen."""
        kind = type(value)
        if kind not in self.kinds:
            return False
        if kind is bool or value is None:
            return True
        if kind in (int, float):
            return self._allows_number(value)
        if not self.lengths[0] <= len(value) <= self.lengths[1]:
            return False
        # Benchmarks do not state their preconditions. A rule that every known input follows counts as a
        # precondition, at the cost of some valid inputs.
        return self._allows_parts(value) and all(rule.holds(value) for rule in self.rules if kind in rule.kinds)

    def _allows_number(self, value: float) -> bool:
        if not self.low <= value <= self.high or (value == 0 and not self.has_zero):
            return False
        if isinstance(value, float):
            return count_decimals(value) <= self.decimals
        return value % self.step == 0

    def _allows_parts(self, value: Any) -> bool:
        if isinstance(value, dict):
            key, item = self.key, self.item
            return all(
                key is not None and item is not None and key.allows(name) and item.allows(part)
                for name, part in value.items()
            )
        if self.fields is not None:
            return len(value) == len(self.fields) and all(
                shape.allows(part) for shape, part in zip(self.fields, value, strict=True)
            )
        if isinstance(value, _SEQUENCES):
            return all(self.item is not None and self.item.allows(part) for part in value)
        return True


def find_shape(values: Sequence[Any], *, margin: bool = False) -> Shape:
    """Return the shape that `values` share.

    Args:
        values: At least one value; `Record`s must all have the same length.
        margin: Whether to allow lengths 1 below the least and 1 above the greatest seen, but no unseen emptiness.
    """
    numbers = [value for value in values if type(value) in (int, float)]
    sized = [value for value in values if hasattr(value, "__len__")]
    sequences = [value for value in sized if isinstance(value, _SEQUENCES)]
    texts = [value for value in sized if isinstance(value, str)]
    dictionaries = [value for value in sized if isinstance(value, dict)]
    is_record = bool(sequences) and len(sequences) == len(values) and _are_records(sequences)
    items = [item for value in sequences if not is_record for item in _items(value)]
    items += [item for value in dictionaries for item in value.values()]
    keys = [key for value in dictionaries for key in value]
    inner = functools.partial(find_shape, margin=margin)
    shortest, longest = min(map(len, sized), default=0), max(map(len, sized), default=0)
    # Only lengths have a margin. For numbers, 0, 1 or 1001 break too many preconditions.
    if margin and longest > shortest:
        shortest, longest = max(min(1, shortest), shortest - 1), longest + 1
    rules = [*text_rules(texts), *([] if is_record else sequence_rules(sequences))]
    return Shape(
        values=tuple(values),
        kinds=frozenset(map(type, values)),
        low=min(numbers, default=0),
        high=max(numbers, default=0),
        has_zero=0 in numbers,
        step=_step([number for number in numbers if isinstance(number, int)]),
        decimals=max((count_decimals(number) for number in numbers if isinstance(number, float)), default=0),
        lengths=(shortest, longest),
        fields=tuple(map(inner, zip(*sequences, strict=True))) if is_record else None,
        key=inner(keys) if keys else None,
        item=inner(items) if items else None,
        rules=tuple([*rules, *record_rules(sequences)] if is_record else rules),
    )


def count_decimals(value: float) -> int:
    """Return the number of decimals of a float; at least 100 for floats written with a negative exponent."""
    # 1e-07 has decimals that its text does not show: no known input with fewer decimals allows it.
    return len(f"{value!r}".partition("e")[0].partition(".")[2]) + (100 if "e-" in repr(value) else 0)


def _items(value: Any) -> list[Any]:
    # The order of a set differs between processes.
    return sorted(value, key=repr) if isinstance(value, set) else list(value)


def _are_records(values: Sequence[Any]) -> bool:
    """Return whether the places of sequences differ in meaning."""
    # Marked as such by the readers of calls and layouts.
    if all(isinstance(value, Record) for value in values):
        return True
    if any(isinstance(value, set) for value in values) or len({len(value) for value in values}) != 1:
        return False
    columns = [{type(item) for item in column} for column in zip(*values, strict=True)]
    if not columns or any(len(kinds) != 1 for kinds in columns) or len(values) < 2:
        return False
    # Places of different types, as in ("name", 3), differ in meaning even if there are few examples.
    if len({frozenset(kinds) for kinds in columns}) > 1:
        return len(columns) <= 2 * _MAX_FIELDS
    # Short sequences of the same length in many inputs are more likely points than lists.
    return 2 <= len(columns) <= _MAX_FIELDS and len(values) > _MAX_FIELDS


def _step(numbers: Sequence[int]) -> int:
    if len(set(numbers)) < _MIN_NUMBERS_FOR_STEP:
        return 1
    return math.gcd(*numbers) or 1
