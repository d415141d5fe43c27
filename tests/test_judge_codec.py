"""Values cross between processes as exact builtin types, or not at all."""

from __future__ import annotations

import collections
import datetime
import decimal
import enum
import fractions
import math
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trl_pper.judge.codec import MAX_DEPTH, CodecError, decode, encode

BIG = 1 << 24
SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(1 << 200), 1 << 200),
    st.floats(),
    st.complex_numbers(),
    st.text(alphabet=st.characters(), max_size=20),
    st.binary(max_size=20),
    st.decimals(allow_nan=False),
    st.fractions(),
    st.dates(),
    st.times(),
    st.datetimes(timezones=st.none() | st.just(datetime.UTC)),
    st.timedeltas(),
    st.builds(range, st.integers(-9, 9), st.integers(-9, 9), st.integers(1, 5)),
)
HASHABLE = st.recursive(
    SCALARS, lambda inner: st.tuples(inner, inner) | st.frozensets(inner, max_size=4), max_leaves=6
)
VALUES = st.recursive(
    HASHABLE,
    lambda inner: (
        st.lists(inner, max_size=5)
        | st.sets(HASHABLE, max_size=4)
        | st.dictionaries(HASHABLE, inner, max_size=4)
        | st.lists(inner, max_size=4).map(collections.deque)
        | st.tuples(inner)
    ),
    max_leaves=20,
)


def same(a: Any, b: Any) -> bool:
    """Equality that tells types, signs and nans apart."""
    if type(a) is not type(b):
        return False
    if isinstance(a, float):
        return (a == b and math.copysign(1, a) == math.copysign(1, b)) or (math.isnan(a) and math.isnan(b))
    if isinstance(a, complex):
        return same(a.real, b.real) and same(a.imag, b.imag)
    if isinstance(a, list | tuple | collections.deque):
        return len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, dict):
        return len(a) == len(b) and all(same(x, y) for x, y in zip(a.items(), b.items(), strict=True))
    if isinstance(a, set | frozenset):
        # nan is not equal to itself, so that sets with one are compared by size alone.
        return len(a) == len(b)
    return a == b


@settings(max_examples=40)
@given(VALUES)
def test_plain_values_survive_exactly(value):
    assert same(decode(encode(value, max_bytes=BIG)), value)


@given(st.binary(max_size=60))
def test_any_bytes_are_a_value_or_refused(data):
    try:
        decode(data)
    except CodecError:
        pass


@settings(max_examples=40)
@given(VALUES, st.data())
def test_damaged_values_are_a_value_or_refused(value, data):
    encoded = bytearray(encode(value, max_bytes=BIG))
    position = data.draw(st.integers(0, len(encoded) - 1))
    encoded[position] = data.draw(st.integers(0, 255))
    try:
        decode(bytes(encoded), resolve=lambda number: number)
    except CodecError:
        pass


class Colour(enum.IntEnum):
    RED = 3


class Sly(int):
    def __eq__(self, other: object) -> bool:
        return True

    __hash__ = int.__hash__


class SlyText(str):
    def __eq__(self, other: object) -> bool:
        return True

    def __str__(self) -> str:
        return "lie"

    __hash__ = str.__hash__


@pytest.mark.parametrize(
    ("value", "rebuilt"),
    [
        (collections.Counter("aab"), {"a": 2, "b": 1}),
        (collections.OrderedDict(a=1), {"a": 1}),
        (collections.defaultdict(list, a=[1]), {"a": [1]}),
        (collections.namedtuple("P", "x y")(1, 2), (1, 2)),
        (Colour.RED, 3),
        (Sly(7), 7),
        (SlyText("truth"), "truth"),
        ([Sly(1), (SlyText("a"),)], [1, ("a",)]),
        ({1: 2}.values(), None),
        (10 ** (10**5), 10 ** (10**5)),
        ("\ud800", "\ud800"),
        (float("inf"), float("inf")),
        (int, int),
        (type(None), type(None)),
        (len, len),
        (math, math),
    ],
    ids=lambda value: type(value).__name__,
)
def test_subclasses_are_flattened_to_their_builtin(value, rebuilt):
    got = decode(encode(value, max_bytes=BIG))
    if rebuilt is not None:
        assert type(got) is type(rebuilt)
        assert got == rebuilt
    else:
        assert list(got) == list(value)


def test_iterators_and_views_become_iterators_and_views():
    assert list(decode(encode((x * x for x in range(4)), max_bytes=BIG))) == [0, 1, 4, 9]
    assert list(decode(encode(map(str, [1]), max_bytes=BIG))) == ["1"]
    assert decode(encode({1: 2}.keys(), max_bytes=BIG)) == {1: 2}.keys()
    assert decode(encode({1: 2}.items(), max_bytes=BIG)) == {1: 2}.items()


def test_limits_on_depth_size_and_cycles():
    nested: Any = 0
    for _ in range(MAX_DEPTH):
        nested = [nested]
    assert decode(encode(nested, max_bytes=BIG)) == nested
    with pytest.raises(CodecError, match="deeper"):
        encode([nested], max_bytes=BIG)
    loop: list[Any] = []
    loop.append(loop)
    with pytest.raises(CodecError, match="deeper"):
        encode(loop, max_bytes=BIG)
    with pytest.raises(CodecError, match="too big"):
        encode(list(range(1000)), max_bytes=100)
    with pytest.raises(CodecError, match="too big"):
        encode(1 << (1 << 24), max_bytes=BIG)
    with pytest.raises(CodecError, match="longer than"):
        encode(iter(int, 1), max_bytes=BIG)
    with pytest.raises(CodecError, match="exceeds its data"):
        decode(b"l\xff\xff\xff\xff")
    with pytest.raises(CodecError, match="deeper"):
        decode(b"l\x01\0\0\0" * 1000 + b"N")
    with pytest.raises(CodecError, match="too many"):
        decode(b"NN")


def test_objects_cross_only_as_handles():
    thing = object()
    with pytest.raises(CodecError, match="not plain data"):
        encode(thing, max_bytes=BIG)
    data = encode([thing, len], max_bytes=BIG, opaque=lambda value: 7)
    assert decode(data, resolve=lambda number: (number,)) == [(7,), len]
    with pytest.raises(CodecError, match="handle"):
        decode(data)


def test_a_candidate_cannot_name_dangerous_builtins_or_modules():
    for name in ("exec", "eval", "open", "__import__", "compile"):
        with pytest.raises(CodecError, match="cannot cross"):
            decode(b"Y" + len(name).to_bytes(4, "little") + name.encode())
    with pytest.raises(CodecError, match="cannot cross"):
        decode(b"M\x02\0\0\0os")


def test_fractions_and_decimals_stay_exact_and_bounded():
    for value in (fractions.Fraction(1, 3), decimal.Decimal("1.10"), decimal.Decimal("-Infinity")):
        assert decode(encode(value, max_bytes=BIG)) == value
    with pytest.raises(CodecError, match="fraction too big"):
        decode(encode(fractions.Fraction(1, 3 ** (10**5)), max_bytes=BIG))
