"""Writes a Python value as bytes that the decoder on the other side of the boundary rebuilds.

Enters: any value. Leaves: bytes within a size, or a `CodecError`. Methods of the value's own class are not called for
data that extends a builtin; what is neither data nor an instance of a shared class is handed to `opaque`.
"""

from __future__ import annotations

import collections
import enum
import types
from collections.abc import Callable, Iterable
from typing import Any

from trl_pper.judge.codec_rules import (
    BUILTIN_BY_ID,
    COUNT,
    CROSSING_MODULES,
    MAX_DEPTH,
    MAX_ITERATOR_ITEMS,
    TAGGED_COUNT,
    CodecError,
    take,
)
from trl_pper.judge.instances import InstanceTable, hashes_by_value, state_of
from trl_pper.judge.writers import FLATTEN, PLAIN_BASES, WRITERS, write_named_tuple

_ITERATOR_MODULES = ("builtins", "itertools")


class Encoder:
    """Collects the bytes of one message.

    Args:
        max_bytes: Largest encoding allowed.
        opaque: Gives the bytes that stand for an object that is not data; None refuses such objects.
        instances: The instances both sides know; None refuses instances of classes.
    """

    __slots__ = ("instances", "max_bytes", "opaque", "out", "pending", "written")

    def __init__(self, max_bytes: int, opaque: Callable[[Any], bytes] | None, instances: InstanceTable | None) -> None:
        self.out: bytearray = bytearray()
        self.max_bytes = max_bytes
        self.opaque = opaque
        self.instances = instances
        #: Instances mentioned in this message, and those of them whose attributes are still to be written.
        self.written: set[int] = set()
        self.pending: collections.deque[Any] = collections.deque()

    def message(self, value: Any) -> bytes:
        """Write `value`, then the attributes of every instance it leads to; return all of it."""
        self.write(value, 0)
        # In turn, not in depth: a linked list may be longer than the stack is deep.
        while self.pending:
            self.write(state_of(self.pending.popleft()), 0)
        self.check_size()
        return bytes(self.out)

    def check_size(self) -> None:
        """Refuse to go on when there is too much already."""
        if len(self.out) > self.max_bytes:
            raise CodecError(f"value too big: more than {self.max_bytes} bytes")

    def write(self, value: Any, depth: int) -> None:
        """Append the bytes of `value`."""
        write = WRITERS.get(type(value))
        if write is not None:
            write(self, value, depth)
        else:
            self.other(value, depth)

    def other(self, value: Any, depth: int) -> None:
        """Append the bytes of a value whose exact type is not one of the plain ones."""
        kind = type(value)
        if self.instance(value, depth) or write_named_tuple(self, value, depth):
            return
        # The first builtin a class extends decides; its own methods are never called.
        for base in kind.__mro__[1:]:
            if base in WRITERS:
                flatten = FLATTEN.get(base)
                WRITERS[base](self, flatten(value) if flatten else value, depth)
                return
        if isinstance(value, types.ModuleType) and value.__name__ in CROSSING_MODULES:
            self.text(b"M", value.__name__)
        elif id(value) in BUILTIN_BY_ID:
            self.text(b"Y", BUILTIN_BY_ID[id(value)])
        elif kind.__module__ in _ITERATOR_MODULES and hasattr(kind, "__next__"):
            self.sequence(b"I", take(value, MAX_ITERATOR_ITEMS), depth)
        elif kind.__module__ == "numpy" and hasattr(kind, "item"):
            self.numpy(value, depth)
        elif self.opaque is not None:
            self.out += self.opaque(value)
        else:
            raise CodecError(f"a {kind.__name__} object is not plain data and cannot cross")

    def instance(self, value: Any, depth: int) -> bool:
        """Append a shared class, a member of a shared enumeration or an instance; return whether it was one."""
        table = self.instances
        if table is None:
            return False
        kind = type(value)
        if isinstance(value, type) and (name := table.name_of(value)) is not None:
            self.text(b"k", name)
            return True
        name = table.name_of(kind)
        if name is None:
            return False
        if issubclass(kind, enum.Enum):
            self.text(b"U", name)
            self.write(value._name_, depth + 1)
            return True
        if issubclass(kind, PLAIN_BASES) or not table.carries(kind):
            return False
        self.reference(table, value, name, depth)
        return True

    def reference(self, table: InstanceTable, value: Any, name: str, depth: int) -> None:
        """Append the number of an instance, and see to it that its attributes follow once."""
        number = table.number(value)
        # What a set or a dict hashes by its attributes needs them at once.
        at_once = number not in self.written and hashes_by_value(type(value))
        self.out += TAGGED_COUNT.pack(0x6F if at_once else 0x4F, number)
        self.text(b"s", name)
        if number in self.written:
            return
        self.written.add(number)
        if at_once:
            self.deeper(depth)
            self.write(state_of(value), depth + 1)
        else:
            self.pending.append(value)

    def deeper(self, depth: int) -> None:
        """Refuse a level below `depth` when it would be too deep."""
        if depth >= MAX_DEPTH:
            raise CodecError(f"value nested deeper than {MAX_DEPTH} levels")

    def numpy(self, value: Any, depth: int) -> None:
        """Append an array of numbers as a block, a numpy scalar as the Python value it stands for."""
        if not hasattr(type(value), "__setitem__"):
            self.write(value.item(), depth + 1)
            return
        if type(value).__name__ != "ndarray" or value.dtype.kind not in "biufc" or value.nbytes > self.max_bytes:
            raise CodecError(f"a numpy {type(value).__name__} of type {value.dtype} cannot cross")
        self.text(b"A", value.dtype.str)
        self.write(tuple(value.shape), depth + 1)
        self.sized(b"b", value.tobytes())

    def sized(self, tag: bytes, payload: bytes) -> None:
        """Append bytes with their length in front."""
        self.out += TAGGED_COUNT.pack(tag[0], len(payload))
        self.out += payload

    def text(self, tag: bytes, value: str) -> None:
        """Append text."""
        self.sized(tag, str.encode(value, "utf-8", "surrogatepass"))

    def sequence(self, tag: bytes, items: Iterable[Any], depth: int) -> None:
        """Append the number of items, then each of them."""
        self.deeper(depth)
        out = self.out
        start = len(out) + 1
        out += tag + b"\0\0\0\0"
        count = 0
        for item in items:
            if len(out) > self.max_bytes:
                self.check_size()
            count += 1
            write = WRITERS.get(type(item))
            if write is not None:
                write(self, item, depth + 1)
            else:
                self.other(item, depth + 1)
        COUNT.pack_into(out, start, count)
