"""Change known inputs into new inputs of the same shape.

Types stay the same. Numbers stay in the range seen. Texts keep their words or letters. An input that breaks a rule of
the shape is dropped.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import Any

from trl_pper.amplify.calls import write
from trl_pper.amplify.rules import Relations, features
from trl_pper.amplify.shape import Record, Shape

#: Attempts for each wanted input. Under strict rules most attempts fail.
_ATTEMPTS = 60
_MAX_CHANGES = 3
#: Characters that all attempts for a task may write together: long inputs must not take minutes.
_MAX_WORK_CHARS = 1_000_000


def new_inputs(inputs: Sequence[Record], shape: Shape, *, most: int, key: str) -> list[Record]:
    """Return distinct inputs that are not among `inputs`.

    Args:
        inputs: Known inputs.
        shape: Shape of the known inputs, which the new inputs have too.
        most: Largest number of inputs to return.
        key: Text that seeds every random choice, together with the number of the attempt.
    """
    # As literals, because lists and dictionaries cannot be members of a set.
    seen = {write(plain(given)) for given in inputs}
    found: list[Record] = []
    size = sum(len(write(plain(given))) for given in inputs) // len(inputs)
    for attempt in range(min(_ATTEMPTS * most, _MAX_WORK_CHARS // (size + 1))):
        if len(found) == most:
            break
        # A generator for each attempt: an attempt does not depend on the random numbers used by earlier ones.
        generator = random.Random(f"{key}/{attempt}")
        made = _changed(generator.choice(inputs), shape, generator)
        for _ in range(generator.randrange(_MAX_CHANGES)):
            made = _changed(made, shape, generator)
        made = _repaired(made, shape)
        if shape.allows(made) and (text := write(plain(made))) not in seen:
            seen.add(text)
            found.append(made)
    return found


def plain(value: Any) -> Any:
    """Return a value with plain tuples in place of `Record`s."""
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, list):
        return [plain(item) for item in value]
    return tuple(plain(item) for item in value) if isinstance(value, tuple) else value


def _changed(value: Any, shape: Shape, generator: random.Random) -> Any:
    """Return `value` with a single change somewhere in it."""
    if generator.random() < 0.1:
        # Values of other tests at the same place are valid, and combine in new ways.
        return generator.choice(shape.values)
    kind = type(value)
    if kind is bool:
        return not value
    if kind is int:
        return _changed_int(value, shape, generator)
    if kind is float:
        return _changed_float(value, shape, generator)
    if kind is str:
        return _changed_text(value, generator.choice(shape.values), generator)
    if shape.fields is not None:
        return _changed_record(value, shape, generator)
    if kind in (list, tuple):
        return kind(_changed_items(list(value), shape, generator))
    if kind is set:
        # The order of a set differs between processes.
        items = _changed_items(sorted(value, key=repr), shape, generator)
        return _made(set, items, value)
    if kind is dict:
        return _changed_dictionary(value, shape, generator)
    return generator.choice(shape.values)


def _changed_int(value: int, shape: Shape, generator: random.Random) -> int:
    low, high = int(shape.low), int(shape.high)
    steps = (value + shape.step, value - shape.step, low, high, -value)
    drawn = low + shape.step * generator.randint(0, max(0, high - low) // shape.step)
    # Neighbours, limits and the negative are typical edge cases; random numbers come up three times as often as
    # each.
    return min(high, max(low, generator.choice((*steps, drawn, drawn, drawn))))


def _changed_float(value: float, shape: Shape, generator: random.Random) -> float:
    try:
        low, high = float(shape.low), float(shape.high)
    except OverflowError:
        # The place also has whole numbers too large for a float.
        return -value
    drawn = low + (high - low) * generator.random()
    changed = generator.choice((value + 1.0, value - 1.0, -value, value / 2, drawn, drawn, drawn))
    # `round` takes at most the digits that a float has.
    return round(min(high, max(low, changed)), min(shape.decimals, 15))


def _changed_text(value: str, other: Any, generator: random.Random) -> str:
    """Change words of a text with several words, otherwise letters; `other` is another text seen at the same place."""
    other = other if isinstance(other, str) else value
    if " " in value.strip() or " " in other.strip():
        return " ".join(_rearranged(value.split(" "), other.split(" "), generator))
    return "".join(_rearranged(list(value), list(other), generator))


def _rearranged(mine: list[Any], theirs: list[Any], generator: random.Random) -> list[Any]:
    """Return the parts of `mine` with some dropped, doubled, moved, swapped or borrowed from `theirs`."""
    if not mine:
        return theirs
    at, to = generator.randrange(len(mine)), generator.randrange(len(mine))
    changes: list[Callable[[], list[Any]]] = [
        lambda: mine[:at] + mine[at + 1 :],
        lambda: [*mine[:at], mine[at], *mine[at:]],
        lambda: [*mine[:to], mine[at], *mine[to:]],
        lambda: _with(_with(mine, at, mine[to]), to, mine[at]),
        lambda: mine[::-1],
        lambda: generator.sample(mine, len(mine)),
        lambda: mine[min(at, to) : max(at, to) + 1],
    ]
    if theirs:
        borrowed = generator.choice(theirs)
        changes += [
            lambda: _with(mine, at, borrowed),
            lambda: [*mine[:at], borrowed, *mine[at:]],
            lambda: mine[:at] + theirs[at:],
        ]
    return generator.choice(changes)()


def _with(parts: list[Any], at: int, part: Any) -> list[Any]:
    return [*parts[:at], part, *parts[at + 1 :]]


def _changed_items(items: list[Any], shape: Shape, generator: random.Random) -> list[Any]:
    if shape.item is None:
        return items
    if items and generator.random() < 0.5:
        at = generator.randrange(len(items))
        return _with(items, at, _changed(items[at], shape.item, generator))
    if generator.random() < 0.3:
        length = generator.randint(*shape.lengths)
        items = [generator.choice(shape.item.values) for _ in range(length)]
    else:
        items = _rearranged(items, list(shape.item.values), generator)
    return _in_order(items, shape)


def _in_order(items: list[Any], shape: Shape) -> list[Any]:
    """Return the items sorted if all known inputs are sorted there."""
    # A random change rarely leaves a list sorted, and nearly every attempt would be dropped.
    names = {rule.name for rule in shape.rules}
    if not names & {"ascending", "descending"}:
        return items
    try:
        return sorted(items, reverse="ascending" not in names)
    except TypeError:
        return items


def _changed_dictionary(value: dict[Any, Any], shape: Shape, generator: random.Random) -> dict[Any, Any]:
    pairs = list(value.items())
    if shape.key is None or shape.item is None:
        return value
    if pairs and generator.random() < 0.5:
        at = generator.randrange(len(pairs))
        key, item = pairs[at]
        return dict(_with(pairs, at, (key, _changed(item, shape.item, generator))))
    drawn = (generator.choice(shape.key.values), generator.choice(shape.item.values))
    return dict(_rearranged(pairs, [drawn], generator))


def _changed_record(value: Any, shape: Shape, generator: random.Random) -> Any:
    assert shape.fields is not None
    fields = list(value)
    if not fields or len(fields) != len(shape.fields):
        # An earlier change may have dropped a field.
        return generator.choice(shape.values)
    pairs = [pair for rule in shape.rules if isinstance(rule, Relations) for pair in rule.same_lengths]
    if pairs and generator.random() < 0.3:
        _change_together(fields, generator.choice(pairs), generator)
    else:
        at = generator.randrange(len(fields))
        fields[at] = _changed(fields[at], shape.fields[at], generator)
        for one, other in pairs:
            if at in (one, other) and len(fields[one]) != len(fields[other]):
                fields[one], fields[other] = _evened(fields[one], fields[other])
    return type(value)(fields)


def _change_together(fields: list[Any], pair: tuple[int, int], generator: random.Random) -> None:
    """Drop or double the same position of two fields that are always equally long."""
    length = min(len(fields[index]) for index in pair)
    if not length or not all(isinstance(fields[index], list | tuple | str) for index in pair):
        return
    at, doubled = generator.randrange(length), generator.random() < 0.5
    for index in pair:
        part = fields[index]
        fields[index] = part[:at] + part[at : at + 1] * (2 if doubled else 0) + part[at + 1 :]


def _evened(one: Any, other: Any) -> tuple[Any, Any]:
    if not all(isinstance(part, list | tuple | str) for part in (one, other)):
        return one, other
    length = min(len(one), len(other))
    return one[:length], other[:length]


def _repaired(value: Any, shape: Shape) -> Any:
    """Return `value` with every number corrected that other values determine, such as a count, innermost first."""
    # A change may have put a number or None in the place of a list.
    if shape.fields is not None and isinstance(value, list | tuple) and len(value) == len(shape.fields):
        fields = [_repaired(part, inner) for part, inner in zip(value, shape.fields, strict=True)]
        # A changed list no longer has the length stated before it.
        counts = [count for rule in shape.rules if isinstance(rule, Relations) for count in rule.counts.values()]
        for count in counts:
            found = features(fields).get(count.other)
            if found is not None:
                fields[count.field] = int(found) + count.offset
        return type(value)(fields)
    if shape.item is not None and type(value) in (list, tuple):
        return type(value)(_repaired(part, shape.item) for part in value)
    if shape.item is not None and type(value) is set:
        return _made(set, [_repaired(part, shape.item) for part in sorted(value, key=repr)], value)
    if shape.item is not None and type(value) is dict:
        return {key: _repaired(part, shape.item) for key, part in value.items()}
    return value


# Changed items of a set may be lists, which cannot be hashed.
def _made(kind: type, items: list[Any], otherwise: Any) -> Any:
    try:
        return kind(items)
    except TypeError:
        return otherwise
