"""Give a container the content of a copy that was changed on the other side.

The container stays the same object, so that every reference to it on this side sees the change. Containers inside it
stay the same objects as far as container and copy have the same shape.
"""

from __future__ import annotations

import array
import collections
from collections.abc import Callable
from typing import Any


def write_back(mine: Any, theirs: Any) -> bool:
    """Give the container `mine` the content of `theirs`.

    Args:
        mine: Any value; only containers of the standard library and numpy arrays can be changed.
        theirs: The changed copy.

    Returns:
        Whether `mine` is a container of the same type as `theirs` and now has the same content.
    """
    kind = type(mine)
    renew = _RENEW.get(kind)
    if type(theirs) is not kind:
        return False
    if renew is not None:
        return renew(mine, theirs)
    return kind.__module__ == "numpy" and kind.__name__ == "ndarray" and _renew_numbers(mine, theirs)


def _renew_tuple(mine: tuple[Any, ...], theirs: tuple[Any, ...]) -> bool:
    if len(mine) != len(theirs):
        return False
    # A tuple itself cannot change, only its items can. A list, not a generator: the items after a failure are written
    # back as well, such as the arguments of a call after a number.
    return all([write_back(old, new) or _same(old, new) for old, new in zip(mine, theirs, strict=True)])


def _same(old: Any, new: Any) -> bool:
    return old is new or (type(old) is type(new) and type(old) in _SCALARS and old == new)


def _renew_list(mine: list[Any], theirs: list[Any]) -> bool:
    if len(mine) == len(theirs):
        theirs = [old if write_back(old, new) else new for old, new in zip(mine, theirs, strict=True)]
    mine[:] = theirs
    return True


def _renew_dict(mine: dict[Any, Any], theirs: dict[Any, Any]) -> bool:
    renewed = {key: mine[key] if key in mine and write_back(mine[key], new) else new for key, new in theirs.items()}
    mine.clear()
    mine.update(renewed)
    return True


def _renew_set(mine: set[Any], theirs: set[Any]) -> bool:
    mine &= theirs
    mine |= theirs
    return True


def _renew_sequence(mine: Any, theirs: Any) -> bool:
    # A deque has no slice assignment.
    mine.clear()
    mine.extend(theirs)
    return True


def _renew_block(mine: Any, theirs: Any) -> bool:
    mine[:] = theirs
    return True


def _renew_array(mine: Any, theirs: Any) -> bool:
    if mine.typecode != theirs.typecode:
        return False
    mine[:] = theirs
    return True


def _renew_numbers(mine: Any, theirs: Any) -> bool:
    if mine.shape != theirs.shape or mine.dtype != theirs.dtype or not mine.flags.writeable:
        return False
    mine[...] = theirs
    return True


_SCALARS = frozenset((int, float, complex, bool, str, bytes, type(None)))

_RENEW: dict[type, Callable[[Any, Any], bool]] = {
    tuple: _renew_tuple,
    list: _renew_list,
    dict: _renew_dict,
    collections.OrderedDict: _renew_dict,
    collections.defaultdict: _renew_dict,
    # `Counter.update` adds counts, which is harmless after `clear`.
    collections.Counter: _renew_dict,
    set: _renew_set,
    bytearray: _renew_block,
    array.array: _renew_array,
    collections.deque: _renew_sequence,
}
#: Types of which a copy can be written back.
CONTAINERS = frozenset(_RENEW)
