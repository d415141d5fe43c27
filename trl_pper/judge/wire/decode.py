"""Rebuild a value from bytes that an untrusted peer may have made up.

`Decoder` reads a message; `READERS` has a function for each tag, the byte in front of a value. A value is rebuilt from
exact types of the standard library and numpy: none of the peer's code runs. No table is built from keys that were made
to collide. Names in the bytes are looked up in fixed tables, never imported freely.
Malformed bytes end in a `CodecError`, or in another error that `codec.decode` turns into a `CodecError`.
"""

from __future__ import annotations

import array
import collections
import datetime
import decimal
import fractions
import functools
import importlib
import math
import re
from collections.abc import Callable, Iterator
from typing import Any

from trl_pper.judge.wire.rules import (
    COMPLEX,
    COUNT,
    DOUBLE,
    MAX_DEPTH,
    MAX_FRACTION_BYTES,
    MAX_INT_BYTES,
    SAFE_TYPES,
    SMALL,
    CodecError,
    check_hashes,
)


class Decoder:
    """A reader of a single message; its position moves on with each read.

    Args:
        data: The bytes.
        start: Where the value begins in `data`.
    """

    __slots__ = ("data", "position")

    def __init__(self, data: bytes, start: int = 0) -> None:
        self.data = data
        self.position = start

    def message(self) -> Any:
        """Return the value of the message.

        Raises:
            CodecError: The value is malformed, or bytes follow it.
        """
        value = self.read(0)
        if self.position != len(self.data):
            raise CodecError(f"malformed value: {len(self.data) - self.position} bytes too many")
        return value

    def read(self, depth: int) -> Any:
        """Return the next value, which lies `depth` containers deep."""
        position = self.position
        self.position = position + 1
        # Beyond the end this is an IndexError, which `codec.decode` turns into a CodecError.
        return READERS[self.data[position]](self, depth)

    def take(self, size: int) -> bytes:
        """Return the next `size` bytes."""
        end = self.position + size
        if end > len(self.data):
            raise CodecError("malformed value: it ends too early")
        part = self.data[self.position : end]
        self.position = end
        return part

    def count(self) -> int:
        """Return the number of items or bytes that follow."""
        number: int = COUNT.unpack_from(self.data, self.position)[0]
        self.position += 4
        # Every item takes at least one byte, so a count beyond the remaining bytes is a lie; refused before any memory
        # is taken for it.
        if number > len(self.data) - self.position:
            raise CodecError("malformed value: a count exceeds its data")
        return number

    def sized(self) -> bytes:
        """Return the bytes that follow their length."""
        return self.take(self.count())

    def text(self) -> str:
        """Return the text that follows its length in bytes."""
        # A Python string may hold lone surrogates, which strict UTF-8 refuses.
        return self.sized().decode("utf-8", "surrogatepass")

    def items(self, depth: int) -> list[Any]:
        """Return the items that follow their number."""
        if depth > MAX_DEPTH:
            raise CodecError(f"value nested deeper than {MAX_DEPTH} levels")
        depth += 1
        read = self.read
        return [read(depth) for _ in range(self.count())]

    def keys(self, depth: int) -> list[Any]:
        """Return the items that follow their number, checked for colliding hashes."""
        items = self.items(depth)
        check_hashes(items)
        return items

    def pairs(self, depth: int) -> dict[Any, Any]:
        """Return a dict from items that are keys and values in turn."""
        return pairs(self.items(depth))

    def whole_numbers(self, depth: int, count: int) -> list[Any]:
        """Return `count` items, each an exact int or None."""
        items = self.items(depth)
        if len(items) != count or not all(item is None or type(item) is int for item in items):
            raise CodecError(f"malformed value: {count} whole numbers expected")
        return items


_FACTORIES = frozenset(SAFE_TYPES.values())
_MAX_FIELDS = 255
# Booleans, numbers, texts and times; an array of dtype object would hold pointers that the peer chose.
_DTYPE = re.compile(r"[<>|=](?:[biufc][0-9]{1,2}|[US][0-9]{1,6}|[Mm]8(?:\[[0-9]{0,4}[a-zA-Z]{1,2}\])?)")
_WRAPPERS: dict[str, tuple[Callable[[Any], Any], type]] = {
    "UserList": (collections.UserList, list),
    "UserDict": (collections.UserDict, dict),
    "UserString": (collections.UserString, str),
}
_NAMED_TUPLE_ATTRIBUTES = frozenset(dir(collections.namedtuple("_", "")))


def pairs(parts: list[Any]) -> dict[Any, Any]:
    """Return a dict from `parts`, keys and values in turn, checked for colliding hashes."""
    if len(parts) % 2:
        raise CodecError("malformed value: a key without a value")
    keys = parts[::2]
    check_hashes(keys)
    return dict(zip(keys, parts[1::2], strict=True))


def _read_small(decoder: Decoder, depth: int) -> int:
    value: int = SMALL.unpack_from(decoder.data, decoder.position)[0]
    decoder.position += 8
    return value


def _read_double(decoder: Decoder, depth: int) -> float:
    value: float = DOUBLE.unpack_from(decoder.data, decoder.position)[0]
    decoder.position += 8
    return value


def _read_int(decoder: Decoder, depth: int) -> int:
    payload = decoder.sized()
    if len(payload) > MAX_INT_BYTES:
        raise CodecError(f"integer too big: more than {MAX_INT_BYTES} bytes")
    return int.from_bytes(payload, "little", signed=True)


def _block(typecode: str) -> Callable[[Decoder], list[Any]]:
    return lambda decoder: array.array(typecode, decoder.sized()).tolist()


_whole_block, _float_block = _block("q"), _block("d")


def _read_fraction(decoder: Decoder, depth: int) -> fractions.Fraction:
    numerator, denominator = decoder.whole_numbers(depth, 2)
    if max(numerator.bit_length(), denominator.bit_length()) > 8 * MAX_FRACTION_BYTES:
        raise CodecError("fraction too big")
    return fractions.Fraction(numerator, denominator)


def _read_deque(decoder: Decoder, depth: int) -> collections.deque[Any]:
    maxlen, *items = decoder.items(depth)
    if maxlen is not None and type(maxlen) is not int:
        raise CodecError("malformed value: a deque's maxlen is a whole number or None")
    return collections.deque(items, maxlen)


def _read_counter(decoder: Decoder, depth: int) -> collections.Counter[Any]:
    counter: collections.Counter[Any] = collections.Counter()
    # `Counter.update` would add counts, which need not be numbers.
    dict.update(counter, decoder.pairs(depth))
    return counter


def _read_default_dict(decoder: Decoder, depth: int) -> Any:
    factory, *parts = decoder.items(depth)
    # A look-up of a missing key calls the factory, so it must be a builtin type.
    if factory is not None and not (isinstance(factory, type) and factory in _FACTORIES):
        raise CodecError("malformed value: a defaultdict makes builtins")
    return collections.defaultdict(factory, pairs(parts))


def _read_array(decoder: Decoder, depth: int) -> array.array[Any]:
    typecode, content = decoder.items(depth)
    if type(typecode) is not str or typecode not in set(array.typecodes) - {"u"} or type(content) is not bytes:
        raise CodecError("malformed value: an array is a type and bytes")
    return array.array(typecode, content)


def _read_ndarray(decoder: Decoder, depth: int) -> Any:
    dtype, shape, content = decoder.text(), decoder.read(depth + 1), decoder.read(depth + 1)
    if _DTYPE.fullmatch(dtype) is None or type(shape) is not tuple or type(content) is not bytes:
        raise CodecError("malformed value: an array of numbers is a type, a shape and bytes")
    if not all(type(size) is int and size >= 0 for size in shape) or len(shape) > 32:
        raise CodecError("malformed value: a shape is a tuple of sizes")
    # Loaded only when such an array arrives: the judge itself does not need numpy.
    try:
        numpy = importlib.import_module("numpy")
    except ImportError:
        raise CodecError("an array of numbers cannot cross: numpy is not installed here") from None
    kind = numpy.dtype(dtype)
    if math.prod(shape) * kind.itemsize != len(content):
        raise CodecError("malformed value: an array's shape does not fit its data")
    if not kind.itemsize:
        return numpy.zeros(shape, dtype=kind)
    # `frombuffer` gives a read-only view of the bytes.
    return numpy.frombuffer(content, dtype=kind).reshape(shape).copy()


def _read_objects(decoder: Decoder, depth: int) -> Any:
    shape, *items = decoder.items(depth)
    if type(shape) is not tuple or not all(type(size) is int and size >= 0 for size in shape) or len(shape) > 32:
        raise CodecError("malformed value: a shape is a tuple of sizes")
    if math.prod(shape) != len(items):
        raise CodecError("malformed value: an array's shape does not fit its data")
    filled = importlib.import_module("numpy").empty(len(items), dtype=object)
    # One by one: numpy would take a list of lists for a table.
    for place, item in enumerate(items):
        filled[place] = item
    return filled.reshape(shape)


def _begun(items: list[Any]) -> Iterator[Any]:
    """Yield the items of an iterator that is too long to cross as a whole."""
    yield from items
    raise CodecError(f"an iterator of the program has more than {len(items)} items")


def _read_scalar(decoder: Decoder, depth: int) -> Any:
    array_of_one = _read_ndarray(decoder, depth)
    if array_of_one.shape != ():
        raise CodecError("malformed value: a scalar has no shape")
    return array_of_one[()]


def _read_wrapper(decoder: Decoder, depth: int) -> Any:
    name, data = decoder.items(depth)
    if type(name) is not str or name not in _WRAPPERS or type(data) is not _WRAPPERS[name][1]:
        raise CodecError("malformed value: no such class of the library")
    return _WRAPPERS[name][0](data)


def _read_named_tuple(decoder: Decoder, depth: int) -> tuple[Any, ...]:
    name, fields, *values = decoder.items(depth)
    if type(name) is not str or type(fields) is not tuple or len(fields) != len(values):
        raise CodecError("malformed value: a named tuple is a name, its fields and their values")
    return tuple.__new__(named_tuple_class(name, fields), values)


@functools.lru_cache(maxsize=64)
def named_tuple_class(name: str, fields: tuple[Any, ...]) -> type:
    """Return a named tuple class; tuple itself where a field is no valid name or would hide a method."""
    if len(fields) > _MAX_FIELDS or not all(type(field) is str and field.isascii() for field in (name, *fields)):
        return tuple
    if _NAMED_TUPLE_ATTRIBUTES.intersection(fields):
        return tuple
    try:
        # The constructor checks every name before it compiles anything.
        return collections.namedtuple(name, fields)
    except ValueError:
        return tuple


def _read_type(decoder: Decoder, depth: int) -> Any:
    name = decoder.text()
    if name not in SAFE_TYPES:
        raise CodecError(f"builtin {name!r} cannot cross")
    return SAFE_TYPES[name]


def _unknown(decoder: Decoder, depth: int) -> Any:
    raise CodecError(f"malformed value: unknown tag {decoder.data[decoder.position - 1]!r}")


_BY_TAG: dict[bytes, Callable[[Decoder, int], Any]] = {
    b"N": lambda r, d: None,
    b"T": lambda r, d: True,
    b"F": lambda r, d: False,
    b"e": lambda r, d: Ellipsis,
    b"j": _read_small,
    b"i": _read_int,
    b"d": _read_double,
    b"c": lambda r, d: complex(*COMPLEX.unpack(r.take(16))),
    b"s": lambda r, d: r.text(),
    b"b": lambda r, d: r.sized(),
    b"B": lambda r, d: bytearray(r.sized()),
    b"l": lambda r, d: r.items(d),
    b"t": lambda r, d: tuple(r.items(d)),
    b"[": lambda r, d: _whole_block(r),
    b"<": lambda r, d: _float_block(r),
    b"(": lambda r, d: tuple(_whole_block(r)),
    b">": lambda r, d: tuple(_float_block(r)),
    b"S": lambda r, d: set(r.keys(d)),
    b"Z": lambda r, d: frozenset(r.keys(d)),
    b"m": lambda r, d: r.pairs(d),
    b"C": _read_counter,
    b"Q": lambda r, d: collections.OrderedDict(r.pairs(d)),
    b"f": _read_default_dict,
    b"q": _read_deque,
    b"K": lambda r, d: dict.fromkeys(r.keys(d)).keys(),
    b"V": lambda r, d: dict(enumerate(r.items(d))).values(),
    b"E": lambda r, d: r.pairs(d).items(),
    b"r": lambda r, d: range(*r.whole_numbers(d, 3)),
    b"x": lambda r, d: slice(*r.items(d)),
    b"I": lambda r, d: iter(r.items(d)),
    b"J": lambda r, d: _begun(r.items(d)),
    b"D": lambda r, d: decimal.Decimal(r.text()),
    b"R": _read_fraction,
    b"y": lambda r, d: datetime.date.fromisoformat(r.text()),
    b"h": lambda r, d: datetime.time.fromisoformat(r.text()),
    b"a": lambda r, d: datetime.datetime.fromisoformat(r.text()),
    b"w": lambda r, d: datetime.timedelta(*r.whole_numbers(d, 3)),
    b"z": _read_array,
    b"A": _read_ndarray,
    b"P": _read_named_tuple,
    b"Y": _read_type,
    b"n": _read_scalar,
    b"O": _read_objects,
    b"u": _read_wrapper,
    b"v": lambda r, d: memoryview(r.sized()),
}
#: The reader of each tag, at the index of its byte: a list is faster to look up than a dict of bytes.
READERS = [_BY_TAG.get(bytes((tag,)), _unknown) for tag in range(256)]
