"""Write a Python value as bytes that the decoder on the other side rebuilds.

`Encoder` collects the bytes of a message; `WRITERS` has a function for each type of the standard library that may
cross. An object that extends such a type may be written as that type, and its content is read without calling methods
of its own class; only plain attributes such as `real`, `numerator`, `days` and `maxlen` may be properties of that
class. A value that is too big or too deep, or that cannot cross, ends in a `CodecError`.
"""

from __future__ import annotations

import array
import collections
import datetime
import decimal
import fractions
import itertools
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, TypeAlias

from trl_pper.judge.wire.rules import (
    COMPLEX,
    COUNT,
    MAX_DEPTH,
    MAX_INT_BYTES,
    TAGGED_COUNT,
    TAGGED_DOUBLE,
    TAGGED_SMALL,
    TYPE_BY_ID,
    CodecError,
    NotData,
)

_ITERATOR_MODULES = ("builtins", "itertools")
#: Kinds of numpy's types that cross: booleans, numbers, texts and times.
_DTYPE_KINDS = "biufcUSMm"
#: A class that extends a builtin reads like it unless it defines any of these.
_READING = frozenset(
    f"__{name}__"
    for name in "eq ne lt le gt ge len iter getitem contains bool add radd sub rsub mul rmul truediv rtruediv mod rmod"
    " neg abs int float index round".split()
)


class Encoder:
    """A collector of the bytes of a single message.

    Args:
        max_bytes: Largest encoding allowed.
        exact: See `codec.encode`.
    """

    __slots__ = ("exact", "max_bytes", "out")

    def __init__(self, max_bytes: int, exact: bool = False) -> None:
        self.out: bytearray = bytearray()
        self.max_bytes = max_bytes
        self.exact = exact

    def message(self, value: Any) -> bytes:
        """Return the bytes of `value`.

        Raises:
            CodecError: The value is too big, too deep, or holds an object that cannot cross.
        """
        self.write(value, 0)
        self.check_size()
        return bytes(self.out)

    def check_size(self) -> None:
        """Raise `CodecError` when the bytes collected exceed the bound."""
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
        """Append the bytes of a value with an exact type that is not in `WRITERS`."""
        kind = type(value)
        if kind.__module__ == "numpy" and hasattr(kind, "dtype"):
            self.numpy(value, depth)
            return
        if write_named_tuple(self, value, depth):
            return
        if id(value) in TYPE_BY_ID:
            self.text(b"Y", TYPE_BY_ID[id(value)])
            return
        if kind is itertools.groupby:
            # A group can be read only until the next one is asked for.
            self.sequence(b"I", ((key, iter(list(group))) for key, group in value), depth)
            return
        if kind.__module__ in _ITERATOR_MODULES and hasattr(kind, "__next__"):
            self.iterator(value, depth)
            return
        # The first builtin that the class extends decides. Methods of the class itself are not called: they may fail
        # or run for ever.
        for base in kind.__mro__[1:]:
            if base in WRITERS and not self.exact and _reads_like(kind, base):
                flatten = FLATTEN.get(base)
                WRITERS[base](self, flatten(value) if flatten else value, depth)
                return
        raise NotData(f"a {kind.__name__} object is not plain data and cannot cross")

    def deeper(self, depth: int) -> None:
        """Raise `CodecError` when a level below `depth` would be too deep."""
        # A value that contains itself ends here too.
        if depth >= MAX_DEPTH:
            raise CodecError(f"value nested deeper than {MAX_DEPTH} levels")

    def iterator(self, value: Iterable[Any], depth: int) -> None:
        """Append the items of an iterator, which may be endless: as many as fit into half of the bound."""
        start, whole = len(self.out), True

        def items() -> Iterator[Any]:
            nonlocal whole
            for item in value:
                if len(self.out) > self.max_bytes // 2:
                    whole = False
                    return
                yield item

        self.sequence(b"I", items(), depth)
        if not whole:
            # Whoever reads beyond the last item gets an error.
            self.out[start : start + 1] = b"J"

    def numpy(self, value: Any, depth: int) -> None:
        """Append an array or a scalar of numpy as a block."""
        scalar = not hasattr(type(value), "__setitem__")
        if type(value).__name__ == "ndarray" and value.dtype.kind == "O":
            self.sequence(b"O", (tuple(value.shape), *value.flat), depth)
            return
        if value.dtype.kind not in _DTYPE_KINDS or not (scalar or type(value).__name__ == "ndarray"):
            raise NotData(f"a numpy {type(value).__name__} of type {value.dtype} cannot cross")
        if value.nbytes > self.max_bytes:
            raise CodecError(f"value too big: more than {self.max_bytes} bytes")
        # The data go as raw bytes; `dtype.str` tells the byte order.
        self.text(b"n" if scalar else b"A", value.dtype.str)
        self.write(tuple(value.shape), depth + 1)
        self.sized(b"b", value.tobytes())

    def sized(self, tag: bytes, payload: bytes) -> None:
        """Append `tag`, the length of `payload`, and `payload`."""
        self.out += TAGGED_COUNT.pack(tag[0], len(payload))
        self.out += payload

    def text(self, tag: bytes, value: str) -> None:
        """Append `tag`, the length of `value` in bytes, and `value` as UTF-8."""
        self.sized(tag, str.encode(value, "utf-8", "surrogatepass"))

    def sequence(self, tag: bytes, items: Iterable[Any], depth: int) -> None:
        """Append `tag`, the number of items, and each item."""
        self.deeper(depth)
        out = self.out
        start = len(out) + 1
        # The number of items is filled in at the end: an iterator does not know its length.
        out += tag + b"\0\0\0\0"
        count = 0
        for item in items:
            # At every item, since shared references are copied: a few nested lists can stand for billions of items.
            if len(out) > self.max_bytes:
                self.check_size()
            count += 1
            # `write` in place, which spares a call for each item.
            write = WRITERS.get(type(item))
            if write is not None:
                write(self, item, depth + 1)
            else:
                self.other(item, depth + 1)
        COUNT.pack_into(out, start, count)


_SMALL_LIMIT = 1 << 63
#: Lists and tuples of at least this many ints or floats are written as a single block.
_BLOCK_ITEMS = 4


def write_named_tuple(encoder: Encoder, value: Any, depth: int) -> bool:
    """Append a named tuple with the names of its fields; return whether `value` is a named tuple."""
    fields = getattr(type(value), "_fields", None)
    if not (isinstance(value, tuple) and type(fields) is tuple and all(type(field) is str for field in fields)):
        return False
    encoder.sequence(b"P", (type(value).__name__, fields, *tuple.__iter__(value)), depth)
    return True


def _write_int(encoder: Encoder, value: int, depth: int) -> None:
    if -_SMALL_LIMIT <= value < _SMALL_LIMIT:
        # The tag b"j".
        encoder.out += TAGGED_SMALL.pack(0x6A, value)
        return
    bits = int.bit_length(value)
    if bits > 8 * MAX_INT_BYTES - 8:
        raise CodecError(f"integer too big: more than {MAX_INT_BYTES} bytes")
    encoder.sized(b"i", int.to_bytes(value, bits // 8 + 1, "little", signed=True))


def _write_text(encoder: Encoder, value: str, depth: int) -> None:
    data = str.encode(value, "utf-8", "surrogatepass")
    # The tag b"s"; text is frequent, so the bytes are appended without a call of `text`.
    encoder.out += TAGGED_COUNT.pack(0x73, len(data))
    encoder.out += data


def _write_list(encoder: Encoder, value: list[Any], depth: int) -> None:
    if len(value) < _BLOCK_ITEMS or not _write_block(encoder, value, b"[<"):
        encoder.sequence(b"l", value, depth)


def _write_tuple(encoder: Encoder, value: tuple[Any, ...], depth: int) -> None:
    if len(value) < _BLOCK_ITEMS or not _write_block(encoder, value, b"(>"):
        encoder.sequence(b"t", value, depth)


def _write_block(encoder: Encoder, items: Sequence[Any], tags: bytes) -> bool:
    """Append `items` as a block when all are ints or all are floats; return whether they are."""
    # Exact types: True is an int as well, and must arrive as True.
    kind = type(items[0])
    if (kind is not int and kind is not float) or set(map(type, items)) != {kind}:
        return False
    try:
        block = array.array("q" if kind is int else "d", items)
    except OverflowError:
        return False
    encoder.sized(tags[:1] if kind is int else tags[1:], block.tobytes())
    return True


def _write_dict(encoder: Encoder, value: dict[Any, Any], depth: int) -> None:
    encoder.sequence(b"m", [part for pair in dict.items(value) for part in pair], depth)


def _write_default_dict(encoder: Encoder, value: Any, depth: int) -> None:
    # A factory is code, and only builtin types are sure to exist on both sides; otherwise the content goes as a dict.
    factory = value.default_factory
    if type(value) is not collections.defaultdict or not (factory is None or id(factory) in TYPE_BY_ID):
        _write_dict(encoder, value, depth)
        return
    encoder.sequence(b"f", [factory, *(part for pair in dict.items(value) for part in pair)], depth)


def _exactly(kind: type, tag: bytes) -> Callable[[Encoder, Any, int], None]:
    """Return a writer of `kind`, a subclass of dict in the standard library; classes that extend it become dicts."""

    def write(encoder: Encoder, value: Any, depth: int) -> None:
        exact = type(value) is kind
        # An OrderedDict keeps its order outside of the dict that it extends, so `dict.items` would lose it.
        pairs = value.items() if exact else dict.items(value)
        encoder.sequence(tag if exact else b"m", [part for pair in pairs for part in pair], depth)

    return write


def _write_view(encoder: Encoder, value: memoryview, depth: int) -> None:
    if value.format != "B" or value.ndim != 1:
        raise NotData("a memoryview of anything but bytes cannot cross")
    encoder.sized(b"v", bytes(value))


def _reads_like(kind: type, base: type) -> bool:
    """Return whether objects of `kind`, which extends `base`, compare, iterate and compute as those of `base` do."""
    for each in kind.__mro__[: kind.__mro__.index(base)]:
        if each.__module__.partition(".")[0] not in sys.stdlib_module_names and not _READING.isdisjoint(vars(each)):
            return False
    return True


def _write_array(encoder: Encoder, value: array.array[Any], depth: int) -> None:
    if type(value) is not array.array or value.typecode == "u":
        raise NotData(f"an array of type {value.typecode!r} cannot cross")
    encoder.sequence(b"z", (value.typecode, value.tobytes()), depth)


Writer: TypeAlias = "Callable[[Encoder, Any, int], None]"

#: The writer of each type that crosses as itself. Writers call methods of the builtin, such as `set.__iter__`, because
#: the value may be of a class that overrides them.
WRITERS: dict[type, Writer] = {
    type(None): lambda e, v, d: e.out.extend(b"N"),
    bool: lambda e, v, d: e.out.extend(b"T" if v else b"F"),
    type(Ellipsis): lambda e, v, d: e.out.extend(b"e"),
    int: _write_int,
    float: lambda e, v, d: e.out.extend(TAGGED_DOUBLE.pack(0x64, v)),
    complex: lambda e, v, d: e.out.extend(b"c" + COMPLEX.pack(v.real, v.imag)),
    str: _write_text,
    bytes: lambda e, v, d: e.sized(b"b", bytes.__getitem__(v, slice(None))),
    bytearray: lambda e, v, d: e.sized(b"B", bytes(memoryview(v))),
    list: _write_list,
    tuple: _write_tuple,
    set: lambda e, v, d: e.sequence(b"S", set.__iter__(v), d),
    frozenset: lambda e, v, d: e.sequence(b"Z", frozenset.__iter__(v), d),
    dict: _write_dict,
    collections.Counter: _exactly(collections.Counter, b"C"),
    collections.OrderedDict: _exactly(collections.OrderedDict, b"Q"),
    collections.defaultdict: _write_default_dict,
    collections.deque: lambda e, v, d: e.sequence(b"q", (v.maxlen, *collections.deque.__iter__(v)), d),
    type({}.keys()): lambda e, v, d: e.sequence(b"K", v, d),
    type({}.values()): lambda e, v, d: e.sequence(b"V", v, d),
    type({}.items()): lambda e, v, d: e.sequence(b"E", [part for pair in v for part in pair], d),
    collections.UserList: lambda e, v, d: e.sequence(b"u", ("UserList", v.data), d),
    collections.UserDict: lambda e, v, d: e.sequence(b"u", ("UserDict", v.data), d),
    collections.UserString: lambda e, v, d: e.sequence(b"u", ("UserString", v.data), d),
    memoryview: _write_view,
    range: lambda e, v, d: e.sequence(b"r", (v.start, v.stop, v.step), d),
    slice: lambda e, v, d: e.sequence(b"x", (v.start, v.stop, v.step), d),
    array.array: _write_array,
    decimal.Decimal: lambda e, v, d: e.text(b"D", decimal.Decimal.__str__(v)),
    fractions.Fraction: lambda e, v, d: e.sequence(b"R", (v.numerator, v.denominator), d),
    datetime.date: lambda e, v, d: e.text(b"y", datetime.date.isoformat(v)),
    datetime.time: lambda e, v, d: e.text(b"h", datetime.time.isoformat(v)),
    datetime.datetime: lambda e, v, d: e.text(b"a", datetime.datetime.isoformat(v)),
    datetime.timedelta: lambda e, v, d: e.sequence(b"w", (v.days, v.seconds, v.microseconds), d),
}
#: For builtins with a writer that does not read past overridden methods by itself: the content as the exact builtin.
FLATTEN: dict[type, Callable[[Any], Any]] = {
    int: int.__index__,
    list: lambda v: [*list.__iter__(v)],
    tuple: lambda v: (*tuple.__iter__(v),),
}
