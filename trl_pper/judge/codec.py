"""Carries plain values between the trusted referee and an untrusted candidate as bytes.

Enters: a Python value, or bytes from the other side. Leaves: bytes, or a value rebuilt from exact builtin types, so
that no method written by a candidate ever runs where verdicts are made. Subclasses are flattened to the builtin they
extend (Counter becomes dict, a namedtuple becomes tuple). Depth and size are bounded in both directions. Values that
are not plain data cross as numbered handles when the caller allows it, and are refused otherwise. It is no general
serialiser: shared references are copied, cycles are refused.
"""

from __future__ import annotations

import builtins
import collections
import datetime
import decimal
import fractions
import importlib
import struct
import types
from collections.abc import Callable, Iterable, Iterator
from typing import Any

MAX_DEPTH = 150
MAX_INT_BYTES = 1 << 20
MAX_ITERATOR_ITEMS = 100_000

#: Modules a value may name across the boundary: pure functions of the standard library that tests commonly use.
CROSSING_MODULES = frozenset(
    "bisect cmath collections copy datetime decimal fractions functools heapq itertools json math operator random re"
    " statistics string time typing".split()
)

_COUNT = struct.Struct("<I")
_DOUBLE = struct.Struct("<d")
_COMPLEX = struct.Struct("<dd")
_BUILTIN_BY_ID = {id(value): name for name, value in vars(builtins).items() if callable(value)}
_SAFE_TYPES = {name: value for name, value in vars(builtins).items() if isinstance(value, type)}
_SAFE_TYPES["NoneType"] = type(None)
_ITERATOR_MODULES = ("builtins", "itertools")
_MAX_FRACTION_BYTES = 4096


class CodecError(ValueError):
    """A value cannot cross, or bytes from the other side are not a value; the message says which rule it broke."""


def encode(value: Any, *, max_bytes: int, opaque: Callable[[Any], int] | None = None) -> bytes:
    """Return `value` as bytes.

    Args:
        value: Anything; plain data crosses by value.
        max_bytes: Largest encoding allowed.
        opaque: Gives the handle number of an object that is not plain data; None refuses such objects.

    Raises:
        CodecError: The value is too big, too deep, cyclic, or holds an object that cannot cross.
    """
    encoder = _Encoder(max_bytes, opaque)
    encoder.write(value, 0)
    encoder.check_size()
    return bytes(encoder.out)


def decode(data: bytes, *, resolve: Callable[[int], Any] | None = None) -> Any:
    """Return the value that `data` encodes, built from exact builtin types.

    Args:
        data: Bytes from `encode`, or anything an untrusted peer sent.
        resolve: Gives the object behind a handle number; None refuses handles.

    Raises:
        CodecError: `data` is not one well-formed value.
    """
    decoder = _Decoder(data, resolve)
    try:
        value = decoder.read(0)
    except (struct.error, UnicodeDecodeError, ArithmeticError, TypeError, ValueError, IndexError) as error:
        raise CodecError(f"malformed value: {type(error).__name__}: {error}") from None
    if decoder.position != len(data):
        raise CodecError(f"malformed value: {len(data) - decoder.position} bytes too many")
    return value


class _Encoder:
    def __init__(self, max_bytes: int, opaque: Callable[[Any], int] | None) -> None:
        self.out = bytearray()
        self.max_bytes = max_bytes
        self.opaque = opaque

    def check_size(self) -> None:
        if len(self.out) > self.max_bytes:
            raise CodecError(f"value too big: more than {self.max_bytes} bytes")

    def write(self, value: Any, depth: int) -> None:
        if depth > MAX_DEPTH:
            raise CodecError(f"value nested deeper than {MAX_DEPTH} levels")
        self.check_size()
        kind = type(value)
        write = _WRITERS.get(kind)
        if write is not None:
            write(self, value, depth)
            return
        # The first builtin a class extends decides; its own methods are never called.
        for base in kind.__mro__[1:]:
            if base in _FLATTENED:
                _WRITERS[base](self, value, depth)
                return
        if isinstance(value, types.ModuleType) and value.__name__ in CROSSING_MODULES:
            self.text(b"M", value.__name__)
        elif id(value) in _BUILTIN_BY_ID:
            self.text(b"Y", _BUILTIN_BY_ID[id(value)])
        elif value is type(None):
            self.text(b"Y", "NoneType")
        elif kind.__module__ in _ITERATOR_MODULES and hasattr(kind, "__next__"):
            self.sequence(b"I", take(value, MAX_ITERATOR_ITEMS), depth)
        elif kind.__module__ == "numpy" and hasattr(kind, "item") and not hasattr(kind, "__setitem__"):
            self.write(value.item(), depth + 1)
        elif self.opaque is not None:
            self.raw(b"H", _COUNT.pack(self.opaque(value)))
        else:
            raise CodecError(f"a {kind.__name__} object is not plain data and cannot cross")

    def raw(self, tag: bytes, payload: bytes) -> None:
        self.out += tag
        self.out += payload

    def sized(self, tag: bytes, payload: bytes) -> None:
        self.out += tag
        self.out += _COUNT.pack(len(payload))
        self.out += payload

    def text(self, tag: bytes, value: str) -> None:
        self.sized(tag, str.encode(value, "utf-8", "surrogatepass"))

    def integer(self, value: int) -> None:
        bits = int.bit_length(value)
        if bits > 8 * MAX_INT_BYTES - 8:
            raise CodecError(f"integer too big: more than {MAX_INT_BYTES} bytes")
        self.sized(b"i", int.to_bytes(value, bits // 8 + 1, "little", signed=True))

    def sequence(self, tag: bytes, items: Iterable[Any], depth: int) -> None:
        start = len(self.out) + 1
        self.out += tag + b"\0\0\0\0"
        count = 0
        for item in items:
            self.write(item, depth + 1)
            count += 1
        _COUNT.pack_into(self.out, start, count)

    def mapping(self, tag: bytes, pairs: Iterable[tuple[Any, Any]], depth: int) -> None:
        self.sequence(tag, (part for pair in pairs for part in pair), depth)


def take(iterator: Iterator[Any], limit: int) -> list[Any]:
    """Return the items of `iterator`, which may be endless.

    Raises:
        CodecError: More than `limit` items.
    """
    items: list[Any] = []
    for item in iterator:
        if len(items) == limit:
            raise CodecError(f"iterator longer than {limit} items")
        items.append(item)
    return items


def _write_range(encoder: _Encoder, value: range, depth: int) -> None:
    encoder.sequence(b"r", (value.start, value.stop, value.step), depth)


def _write_delta(encoder: _Encoder, value: datetime.timedelta, depth: int) -> None:
    encoder.sequence(b"w", (value.days, value.seconds, value.microseconds), depth)


_WRITERS: dict[type, Callable[[_Encoder, Any, int], None]] = {
    type(None): lambda e, v, d: e.raw(b"N", b""),
    bool: lambda e, v, d: e.raw(b"T" if v else b"F", b""),
    type(Ellipsis): lambda e, v, d: e.raw(b"e", b""),
    int: lambda e, v, d: e.integer(v),
    float: lambda e, v, d: e.raw(b"d", _DOUBLE.pack(float.__float__(v))),
    complex: lambda e, v, d: e.raw(b"c", _COMPLEX.pack(v.real, v.imag)),
    str: lambda e, v, d: e.text(b"s", v),
    bytes: lambda e, v, d: e.sized(b"b", bytes.__getitem__(v, slice(None))),
    bytearray: lambda e, v, d: e.sized(b"B", bytes(memoryview(v))),
    list: lambda e, v, d: e.sequence(b"l", list.__iter__(v), d),
    tuple: lambda e, v, d: e.sequence(b"t", tuple.__iter__(v), d),
    set: lambda e, v, d: e.sequence(b"S", set.__iter__(v), d),
    frozenset: lambda e, v, d: e.sequence(b"Z", frozenset.__iter__(v), d),
    dict: lambda e, v, d: e.mapping(b"m", dict.items(v), d),
    collections.deque: lambda e, v, d: e.sequence(b"q", (v.maxlen, *collections.deque.__iter__(v)), d),
    type({}.keys()): lambda e, v, d: e.sequence(b"K", v, d),
    type({}.values()): lambda e, v, d: e.sequence(b"V", v, d),
    type({}.items()): lambda e, v, d: e.mapping(b"E", v, d),
    range: _write_range,
    slice: lambda e, v, d: e.sequence(b"x", (v.start, v.stop, v.step), d),
    decimal.Decimal: lambda e, v, d: e.text(b"D", decimal.Decimal.__str__(v)),
    fractions.Fraction: lambda e, v, d: e.sequence(b"R", (v.numerator, v.denominator), d),
    datetime.date: lambda e, v, d: e.text(b"y", datetime.date.isoformat(v)),
    datetime.time: lambda e, v, d: e.text(b"h", datetime.time.isoformat(v)),
    datetime.datetime: lambda e, v, d: e.text(b"a", datetime.datetime.isoformat(v)),
    datetime.timedelta: _write_delta,
}
#: Bases that a subclass is flattened to. bool, range and slice cannot be extended.
_FLATTENED = frozenset(_WRITERS)


class _Decoder:
    def __init__(self, data: bytes, resolve: Callable[[int], Any] | None) -> None:
        self.data = data
        self.position = 0
        self.resolve = resolve

    def take(self, size: int) -> bytes:
        end = self.position + size
        if end > len(self.data):
            raise CodecError("malformed value: it ends too early")
        part = self.data[self.position : end]
        self.position = end
        return part

    def count(self) -> int:
        number: int = _COUNT.unpack(self.take(4))[0]
        # Every item takes at least one byte, so a count beyond the remaining bytes is a lie.
        if number > len(self.data) - self.position:
            raise CodecError("malformed value: a count exceeds its data")
        return number

    def sized(self) -> bytes:
        return self.take(self.count())

    def text(self) -> str:
        return self.sized().decode("utf-8", "surrogatepass")

    def items(self, depth: int) -> list[Any]:
        return [self.read(depth + 1) for _ in range(self.count())]

    def pairs(self, depth: int) -> dict[Any, Any]:
        parts = self.items(depth)
        if len(parts) % 2:
            raise CodecError("malformed value: a key without a value")
        return dict(zip(parts[::2], parts[1::2], strict=True))

    def read(self, depth: int) -> Any:
        if depth > MAX_DEPTH + 1:
            raise CodecError(f"value nested deeper than {MAX_DEPTH} levels")
        tag = self.take(1)
        read = _READERS.get(tag)
        if read is None:
            raise CodecError(f"malformed value: unknown tag {tag!r}")
        return read(self, depth)

    def integer(self) -> int:
        payload = self.sized()
        if len(payload) > MAX_INT_BYTES:
            raise CodecError(f"integer too big: more than {MAX_INT_BYTES} bytes")
        return int.from_bytes(payload, "little", signed=True)

    def plain_items(self, depth: int, count: int) -> list[Any]:
        items = self.items(depth)
        if len(items) != count or not all(item is None or type(item) is int for item in items):
            raise CodecError(f"malformed value: {count} whole numbers expected")
        return items


def _read_fraction(decoder: _Decoder, depth: int) -> fractions.Fraction:
    numerator, denominator = decoder.plain_items(depth, 2)
    # Normalising takes the greatest common divisor, quadratic in the size.
    if max(numerator.bit_length(), denominator.bit_length()) > 8 * _MAX_FRACTION_BYTES:
        raise CodecError("fraction too big")
    return fractions.Fraction(numerator, denominator)


def _read_deque(decoder: _Decoder, depth: int) -> collections.deque[Any]:
    maxlen, *items = decoder.items(depth)
    if maxlen is not None and type(maxlen) is not int:
        raise CodecError("malformed value: a deque's maxlen is a whole number or None")
    return collections.deque(items, maxlen)


def _read_type(decoder: _Decoder, depth: int) -> Any:
    name = decoder.text()
    # Functions cross only towards the candidate, which resolves handles by number and so passes `resolve`.
    if name in _SAFE_TYPES:
        return _SAFE_TYPES[name]
    if name in SAFE_FUNCTIONS:
        return getattr(builtins, name)
    raise CodecError(f"builtin {name!r} cannot cross")


#: Builtin functions without side effects; a candidate may hand them to the referee.
SAFE_FUNCTIONS = frozenset(
    "abs all any ascii bin callable chr divmod hash hex len max min oct ord pow repr round sorted sum".split()
)


def _read_module(decoder: _Decoder, depth: int) -> types.ModuleType:
    name = decoder.text()
    if name not in CROSSING_MODULES:
        raise CodecError(f"module {name!r} cannot cross")
    return importlib.import_module(name)


def _read_handle(decoder: _Decoder, depth: int) -> Any:
    number = _COUNT.unpack(decoder.take(4))[0]
    if decoder.resolve is None:
        raise CodecError("a handle cannot cross here")
    return decoder.resolve(number)


_READERS: dict[bytes, Callable[[_Decoder, int], Any]] = {
    b"N": lambda r, d: None,
    b"T": lambda r, d: True,
    b"F": lambda r, d: False,
    b"e": lambda r, d: Ellipsis,
    b"i": lambda r, d: r.integer(),
    b"d": lambda r, d: _DOUBLE.unpack(r.take(8))[0],
    b"c": lambda r, d: complex(*_COMPLEX.unpack(r.take(16))),
    b"s": lambda r, d: r.text(),
    b"b": lambda r, d: r.sized(),
    b"B": lambda r, d: bytearray(r.sized()),
    b"l": lambda r, d: r.items(d),
    b"t": lambda r, d: tuple(r.items(d)),
    b"S": lambda r, d: set(r.items(d)),
    b"Z": lambda r, d: frozenset(r.items(d)),
    b"m": lambda r, d: r.pairs(d),
    b"q": _read_deque,
    b"K": lambda r, d: dict.fromkeys(r.items(d)).keys(),
    b"V": lambda r, d: dict(enumerate(r.items(d))).values(),
    b"E": lambda r, d: r.pairs(d).items(),
    b"r": lambda r, d: range(*r.plain_items(d, 3)),
    b"x": lambda r, d: slice(*r.items(d)),
    b"I": lambda r, d: iter(r.items(d)),
    b"D": lambda r, d: decimal.Decimal(r.text()),
    b"R": _read_fraction,
    b"y": lambda r, d: datetime.date.fromisoformat(r.text()),
    b"h": lambda r, d: datetime.time.fromisoformat(r.text()),
    b"a": lambda r, d: datetime.datetime.fromisoformat(r.text()),
    b"w": lambda r, d: datetime.timedelta(*r.plain_items(d, 3)),
    b"Y": _read_type,
    b"M": _read_module,
    b"H": _read_handle,
}
