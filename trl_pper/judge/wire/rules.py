"""What may cross between referee and candidate, and how big it may be: the tables both directions agree on.

Enters: nothing. Leaves: limits, the names of builtins and modules that a value may mention, and the error that says
which rule a value broke. Nothing here reads or writes bytes.
"""

from __future__ import annotations

import builtins
import struct
from collections.abc import Iterable, Sequence
from itertools import islice
from typing import Any, NamedTuple

from trl_pper.judge.verdict import Outcome


class Value(NamedTuple):
    """A candidate's answer: a value, and the arguments of a call where it changed them."""

    kind: str
    value: Any
    changed: Any


class CallBack(NamedTuple):
    """A candidate's request to run a function of the tests."""

    kind: str
    number: Any
    args: Any
    keywords: Any


class Words(NamedTuple):
    """A candidate's account of its program in words: that it is loaded, or the error that ended it.

    Args:
        kind: "loaded", "syntax", "memory", "raised", "refused" or "lacks".
        name: The name of an exception's class.
        said: The text or the only argument of the exception.
        note: The error in a line for people.
    """

    kind: str
    name: Any
    said: Any
    note: Any


#: What a candidate may say, by the first field. These cross as plain tuples, since nothing that a candidate sends may
#: choose a class.
MESSAGES: dict[str, type[Value] | type[CallBack] | type[Words]] = {
    "value": Value,
    "callback": CallBack,
    **dict.fromkeys(("loaded", "syntax", "memory", "raised", "refused", "lacks"), Words),
}

#: What a candidate says of a program that did not get through, and the outcome that it means.
OUTCOME_OF_KIND = {
    "syntax": Outcome.SYNTAX_ERROR,
    "memory": Outcome.MEMORY_LIMIT,
    "raised": Outcome.RUNTIME_ERROR,
}


#: The level that needs nothing of Linux.
PORTABLE_LEVEL = "processes"


#: How outcomes are written on the board that the host reads: one byte per test, 0 where a test has not ended.
OUTCOME_BYTES = {outcome: number for number, outcome in enumerate(Outcome, 1)}


#: What a run says that ended as a script should: ready for another input, or not.
DONE, SPENT = b"+", b"."


READY = b"ready"


MAX_DEPTH = 150
MAX_INT_BYTES = 1 << 20
MAX_ITERATOR_ITEMS = 100_000
#: Normalising a fraction takes a greatest common divisor, which is quadratic in the size.
MAX_FRACTION_BYTES = 4096

#: Modules a value may name across the boundary: pure functions of the standard library that tests commonly use.
CROSSING_MODULES = frozenset(
    "bisect cmath collections copy datetime decimal fractions functools heapq itertools json math operator random re"
    " statistics string time typing".split()
)
#: Builtin functions without side effects; a candidate may hand them to the referee.
SAFE_FUNCTIONS = frozenset(
    "abs all any ascii bin callable chr divmod hash hex len max min oct ord pow repr round sorted sum".split()
)
SAFE_TYPES = {name: value for name, value in vars(builtins).items() if isinstance(value, type)}
SAFE_TYPES["NoneType"] = type(None)
BUILTIN_BY_ID = {id(value): name for name, value in vars(builtins).items() if callable(value)}
BUILTIN_BY_ID[id(type(None))] = "NoneType"

COUNT = struct.Struct("<I")
DOUBLE = struct.Struct("<d")
COMPLEX = struct.Struct("<dd")
SMALL = struct.Struct("<q")
#: The same with the tag in front, as the encoder writes them.
TAGGED_COUNT = struct.Struct("<BI")
TAGGED_DOUBLE = struct.Struct("<Bd")
TAGGED_SMALL = struct.Struct("<Bq")

#: Keys that share one hash are compared with each other; real data has two at most (-1 and -2).
_MAX_SAME_HASH = 500


class CodecError(ValueError):
    """A value cannot cross, or bytes from the other side are not a value; the message says which rule it broke."""


def take(iterator: Iterable[Any], limit: int) -> list[Any]:
    """Return the items of `iterator`, which may be endless.

    Raises:
        CodecError: More than `limit` items.
    """
    items = list(islice(iterator, limit + 1))
    if len(items) > limit:
        raise CodecError(f"iterator longer than {limit} items")
    return items


def check_hashes(keys: Sequence[Any]) -> None:
    """Refuse keys made to share hashes, which would make a table of them take quadratic time.

    Raises:
        CodecError: Too many keys have the same hash.
    """
    # A table of that many keys is quick, whatever their hashes.
    if len(keys) <= _MAX_SAME_HASH:
        return
    hashes = sorted(map(hash, keys))
    if any(map(int.__eq__, hashes, islice(hashes, _MAX_SAME_HASH, None))):
        raise CodecError(f"more than {_MAX_SAME_HASH} keys share one hash")
