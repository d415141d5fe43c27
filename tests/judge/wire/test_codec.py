"""Values cross between processes as exact builtin types, or not at all."""

from __future__ import annotations

import array
import collections
import datetime
import decimal
import enum
import fractions
import itertools
import math
import numbers
import sys
import time
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trl_pper.judge.wire.codec import MAX_DEPTH, CodecError, NotData, decode, encode

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
        decode(bytes(encoded))
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


class SlyDict(dict):
    def items(self) -> Any:
        return [("lie", 0)]


class SlyTally(collections.Counter):
    def __eq__(self, other: object) -> bool:
        return True


class SlyList(list):
    def __iter__(self) -> Any:
        return iter(["lie"])

    def __len__(self) -> int:
        return 9


@pytest.mark.parametrize(
    ("value", "rebuilt"),
    [
        (collections.Counter("aab"), collections.Counter("aab")),
        (collections.OrderedDict(a=1), collections.OrderedDict(a=1)),
        (collections.defaultdict(list, a=[1]), collections.defaultdict(list, a=[1])),
        (collections.defaultdict(lambda: 5, a=1), {"a": 1}),
        (SlyDict(a=1), {"a": 1}),
        (collections.UserList([1, [2]]), collections.UserList([1, [2]])),
        (collections.UserDict(a=1), collections.UserDict(a=1)),
        (collections.UserString("a"), collections.UserString("a")),
        (memoryview(b"ab"), memoryview(b"ab")),
        (array.array("i", [1, 2]), array.array("i", [1, 2])),
        (Colour.RED, 3),
        ({1: 2}.values(), None),
        (10 ** (10**5), 10 ** (10**5)),
        ("\ud800", "\ud800"),
        (float("inf"), float("inf")),
        (int, int),
        (type(None), type(None)),
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


@pytest.mark.parametrize(
    "value",
    [Sly(7), SlyText("truth"), [SlyList([1])], SlyTally("a"), len, math, object(), numbers],
    ids=lambda value: type(value).__name__,
)
def test_objects_that_do_not_read_like_data_are_refused(value):
    with pytest.raises(NotData, match="cannot cross"):
        encode(value, max_bytes=BIG)


@pytest.mark.parametrize("value", [Colour.RED, SlyDict(a=1), [Colour.RED]])
def test_exact_values_have_a_type_that_crosses(value):
    encode(value, max_bytes=BIG)
    with pytest.raises(NotData):
        encode(value, max_bytes=BIG, exact=True)


def test_groups_of_an_iterator_cross_with_their_items():
    got = decode(encode(itertools.groupby("aab"), max_bytes=BIG))
    assert [(key, list(group)) for key, group in got] == [("a", ["a", "a"]), ("b", ["b"])]


def test_iterators_and_views_become_iterators_and_views():
    assert list(decode(encode((x * x for x in range(4)), max_bytes=BIG))) == [0, 1, 4, 9]
    assert list(decode(encode(map(str, [1]), max_bytes=BIG))) == ["1"]
    assert decode(encode({1: 2}.keys(), max_bytes=BIG)) == {1: 2}.keys()
    assert decode(encode({1: 2}.items(), max_bytes=BIG)) == {1: 2}.items()


def test_limits_on_depth_size_and_cycles():
    nested: Any = 0
    for _ in range(MAX_DEPTH):
        nested = [nested]
    limit = sys.getrecursionlimit()
    sys.setrecursionlimit(5000)
    try:
        assert decode(encode(nested, max_bytes=BIG)) == nested
    finally:
        sys.setrecursionlimit(limit)
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
    begun = decode(encode(itertools.count(), max_bytes=10**5))
    assert list(itertools.islice(begun, 1000)) == list(range(1000))
    with pytest.raises(CodecError, match="more than"):
        list(begun)
    with pytest.raises(CodecError, match="exceeds its data"):
        decode(b"l\xff\xff\xff\xff")
    with pytest.raises(CodecError, match=r"deeper|recursion"):
        decode(b"l\x01\0\0\0" * 1000 + b"N")
    with pytest.raises(CodecError, match="too many"):
        decode(b"NN")


def test_a_candidate_cannot_name_dangerous_builtins_or_modules():
    for name in ("exec", "eval", "open", "__import__", "compile"):
        with pytest.raises(CodecError, match="cannot cross"):
            decode(b"Y" + len(name).to_bytes(4, "little") + name.encode())
    with pytest.raises(CodecError, match="unknown tag"):
        decode(b"M\x02\0\0\0os")


def test_fractions_and_decimals_stay_exact_and_bounded():
    for value in (fractions.Fraction(1, 3), decimal.Decimal("1.10"), decimal.Decimal("-Infinity")):
        assert decode(encode(value, max_bytes=BIG)) == value
    with pytest.raises(CodecError, match="fraction too big"):
        decode(encode(fractions.Fraction(1, 3 ** (10**5)), max_bytes=BIG))


def test_named_tuples_keep_fields_that_hide_no_method():
    point = collections.namedtuple("Point", "x y")(1, 2)
    got = decode(encode(point, max_bytes=BIG))
    assert (got.x, got.y, got) == (1, 2, (1, 2))
    assert type(got) is not type(point)
    hiding = collections.namedtuple("Hiding", "count index")(bool, bool)
    assert type(decode(encode(hiding, max_bytes=BIG))) is tuple


def test_a_default_dict_makes_builtins_and_nothing_else():
    for factory in (len, lambda: 1, Sly):
        assert type(decode(encode(collections.defaultdict(factory, a=1), max_bytes=BIG))) is dict
    forged = encode(["f", object, 1, 2], max_bytes=BIG).replace(b"object", b"sorted")
    with pytest.raises(CodecError, match="cannot cross"):
        decode(b"f\x03\0\0\0" + forged[forged.index(b"Y") :])


@pytest.mark.slow
@pytest.mark.parametrize(
    "keys",
    [
        [n * (2**61 - 1) for n in range(100_000)],
        [(n * (2**61 - 1),) for n in range(20_000)],
        [float(n * (2**61 - 1)) + n for n in range(10)] + [n * (2**61 - 1) for n in range(20_000)],
    ],
)
def test_keys_made_to_collide_are_refused_at_once(keys):
    for value in (keys, [part for key in keys for part in (key, 0)]):
        plain = encode(value, max_bytes=BIG)
        # A set or a dict of them would take minutes to make here too.
        for tag in (b"S", b"Z", b"K", b"m", b"E", b"C"):
            started = time.process_time()
            with pytest.raises(CodecError, match="hash"):
                decode(tag + plain[1:])
            assert time.process_time() - started < 2.0


def test_many_ordinary_keys_are_no_collision():
    for keys in (range(-5000, 5000), [str(n) for n in range(5000)], [n / 7 for n in range(5000)]):
        assert decode(encode(set(keys), max_bytes=BIG)) == set(keys)
        assert decode(encode(dict.fromkeys(keys, 1), max_bytes=BIG)) == dict.fromkeys(keys, 1)


def test_arrays_of_numbers_cross_by_value():
    numpy = pytest.importorskip("numpy")
    for value in (
        numpy.arange(6).reshape(2, 3),
        numpy.array([True]),
        numpy.zeros((0, 2)),
        numpy.array(1j),
        numpy.array([1], ">i2"),
        numpy.array(["a", "bc"]),
        numpy.array(["2024-01-01"], "datetime64[D]"),
        numpy.array([None, [1]], dtype=object),
    ):
        got = decode(encode(value, max_bytes=BIG))
        assert (got.dtype, got.shape, got.tolist()) == (value.dtype, value.shape, value.tolist())
        got[...] = value
    for value in (numpy.array([object()]), numpy.array([(1, 2)], "i4,i4"), numpy.zeros(10**7)):
        with pytest.raises(CodecError):
            encode(value, max_bytes=BIG)
    for scalar in (numpy.float64(1.5), numpy.int8(-3), numpy.bool_(True), numpy.str_("a")):
        got = decode(encode(scalar, max_bytes=BIG))
        assert (type(got), got) == (type(scalar), scalar)


@pytest.mark.parametrize(
    ("dtype", "shape", "content"),
    [("|O", (1,), b"12345678"), ("<f8", (2,), b"12345678"), ("<f8", (-1, -1), b"12345678"), ("<f8", [1], b"12345678")],
)
def test_an_array_that_lies_about_itself_is_refused(dtype, shape, content):
    parts = [encode(part, max_bytes=BIG) for part in (dtype, shape, content)]
    with pytest.raises(CodecError):
        decode(b"A" + parts[0][1:] + parts[1] + parts[2])
