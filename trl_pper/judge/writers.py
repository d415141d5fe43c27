"""How each type of the standard library that may cross is written.

Enters: a value of one type, and the encoder that collects bytes. Leaves: nothing; the bytes are in the encoder. What
an object that extends one of these types holds is read past its own methods.
"""

from __future__ import annotations

import array
import collections
import datetime
import decimal
import fractions
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

from trl_pper.judge.codec_rules import (
    BUILTIN_BY_ID,
    COMPLEX,
    MAX_INT_BYTES,
    TAGGED_COUNT,
    TAGGED_DOUBLE,
    TAGGED_SMALL,
    CodecError,
)

if TYPE_CHECKING:
    from trl_pper.judge.encoder import Encoder

_SMALL_LIMIT = 1 << 63
#: From this many items on a list of whole numbers or floats is written as one block.
_BLOCK_ITEMS = 4


def write_named_tuple(encoder: Encoder, value: Any, depth: int) -> bool:
    """Append a named tuple with the names of its fields; return whether it was one."""
    fields = getattr(type(value), "_fields", None)
    if not (isinstance(value, tuple) and type(fields) is tuple and all(type(field) is str for field in fields)):
        return False
    encoder.sequence(b"P", (type(value).__name__, fields, *tuple.__iter__(value)), depth)
    return True


def _write_int(encoder: Encoder, value: int, depth: int) -> None:
    if -_SMALL_LIMIT <= value < _SMALL_LIMIT:
        encoder.out += TAGGED_SMALL.pack(0x6A, value)
        return
    bits = int.bit_length(value)
    if bits > 8 * MAX_INT_BYTES - 8:
        raise CodecError(f"integer too big: more than {MAX_INT_BYTES} bytes")
    encoder.sized(b"i", int.to_bytes(value, bits // 8 + 1, "little", signed=True))


def _write_text(encoder: Encoder, value: str, depth: int) -> None:
    data = str.encode(value, "utf-8", "surrogatepass")
    encoder.out += TAGGED_COUNT.pack(0x73, len(data))
    encoder.out += data


def _write_list(encoder: Encoder, value: list[Any], depth: int) -> None:
    if len(value) < _BLOCK_ITEMS or not _write_block(encoder, value, b"[<"):
        encoder.sequence(b"l", value, depth)


def _write_tuple(encoder: Encoder, value: tuple[Any, ...], depth: int) -> None:
    if len(value) < _BLOCK_ITEMS or not _write_block(encoder, value, b"(>"):
        encoder.sequence(b"t", value, depth)


def _write_block(encoder: Encoder, items: Sequence[Any], tags: bytes) -> bool:
    """Append many exact numbers at once; return whether they were that."""
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
    # A factory is code; builtin types are the ones both sides have.
    factory = value.default_factory
    if type(value) is not collections.defaultdict or not (
        factory is None or (isinstance(factory, type) and id(factory) in BUILTIN_BY_ID)
    ):
        _write_dict(encoder, value, depth)
        return
    encoder.sequence(b"f", [factory, *(part for pair in dict.items(value) for part in pair)], depth)


def _exactly(kind: type, tag: bytes) -> Callable[[Encoder, Any, int], None]:
    """Return a writer of `kind`, a dictionary of the standard library, that takes classes extending it for dicts."""

    def write(encoder: Encoder, value: Any, depth: int) -> None:
        exact = type(value) is kind
        # An OrderedDict keeps its order apart from the dict it extends.
        pairs = value.items() if exact else dict.items(value)
        encoder.sequence(tag if exact else b"m", [part for pair in pairs for part in pair], depth)

    return write


def _write_array(encoder: Encoder, value: array.array[Any], depth: int) -> None:
    if type(value) is not array.array or value.typecode == "u":
        raise CodecError(f"an array of type {value.typecode!r} cannot cross")
    encoder.sequence(b"z", (value.typecode, value.tobytes()), depth)


Writer: TypeAlias = "Callable[[Encoder, Any, int], None]"

#: The writer of each type that crosses as itself.
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
#: A class that extends one of these is flattened to it.
PLAIN_BASES = tuple(WRITERS)
#: How the content of an object that extends a builtin is read without its own methods; the other writers do so anyway.
FLATTEN: dict[type, Callable[[Any], Any]] = {
    int: int.__index__,
    list: lambda v: [*list.__iter__(v)],
    tuple: lambda v: (*tuple.__iter__(v),),
}
