"""Hold the tables that both sides of the wire agree on: messages, limits, and names that may cross.

The first half lists the messages of a candidate and the bytes that host, referee and candidate exchange about
outcomes. The second half bounds values: how deep and big they may be, and the builtins and modules that they may name.
`CodecError` tells which rule a value broke. Nothing here reads or writes bytes.
"""

from __future__ import annotations

import builtins
import struct
from collections.abc import Iterable, Sequence
from itertools import islice
from typing import Any, NamedTuple

from trl_pper.judge.verdict import Outcome


class Value(NamedTuple):
    """A candidate's answer: a value, and the arguments of the call if the call changed them, otherwise None."""

    kind: str
    value: Any
    changed: Any


class CallBack(NamedTuple):
    """A candidate's request to run function `number` of the tests."""

    kind: str
    number: Any
    args: Any
    keywords: Any


class Words(NamedTuple):
    """A candidate's report that its program is loaded, or of the error that ended its loading or a request.

    Args:
        kind: "loaded"; "syntax", "memory" or "raised" for an error of the program; "refused" for a value that cannot
            cross; "lacks" for a class that the program does not define.
        name: The name of the exception's class.
        said: The text or the only argument of the exception; for "lacks" the name of the class.
        note: A line for people that describes the error.
    """

    kind: str
    name: Any
    said: Any
    note: Any


#: The messages that a candidate may send, by their first field. They cross as plain tuples, because bytes from a
#: candidate must not choose a class.
MESSAGES: dict[str, type[Value] | type[CallBack] | type[Words]] = {
    "value": Value,
    "callback": CallBack,
    **dict.fromkeys(("loaded", "syntax", "memory", "raised", "refused", "lacks"), Words),
}

#: The outcome of a program that failed, by the kind of the candidate's report.
OUTCOME_OF_KIND = {
    "syntax": Outcome.SYNTAX_ERROR,
    "memory": Outcome.MEMORY_LIMIT,
    "raised": Outcome.RUNTIME_ERROR,
}


#: The isolation level that needs no Linux.
PORTABLE_LEVEL = "processes"


#: The byte of each outcome on the board, a file that the host reads: a byte per test, 0 for a test that has not ended.
OUTCOME_BYTES = {outcome: number for number, outcome in enumerate(Outcome, 1)}


#: A candidate's answer after a script that ended normally: fit for another input, or not.
DONE, SPENT = b"+", b"."


#: A candidate's first frame, sent before its program runs.
READY = b"ready"


#: Readers and writers recurse: this many levels fit into Python's recursion limit.
MAX_DEPTH = 150
MAX_INT_BYTES = 1 << 20
MAX_ITERATOR_ITEMS = 100_000
#: For numerator and denominator: to reduce a fraction takes a greatest common divisor, quadratic in their size.
MAX_FRACTION_BYTES = 4096

#: Modules that a value may name: modules of the standard library with pure functions that tests commonly use.
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

#: Keys with the same hash are compared with each other; in real data at most two share a hash (-1 and -2).
_MAX_SAME_HASH = 500


class CodecError(ValueError):
    """An error: a value cannot cross, or bytes from the other side are no value; the message names the broken rule."""


def take(iterator: Iterable[Any], limit: int) -> list[Any]:
    """Return the items of `iterator`, which may be endless, as a list.

    Raises:
        CodecError: More than `limit` items.
    """
    items = list(islice(iterator, limit + 1))
    if len(items) > limit:
        raise CodecError(f"iterator longer than {limit} items")
    return items


def check_hashes(keys: Sequence[Any]) -> None:
    """Raise `CodecError` when too many keys share a hash.

    A dict or set of keys that collide takes quadratic time to build, and an untrusted peer can choose such keys.

    Raises:
        CodecError: Too many keys have the same hash.
    """
    # A table of that many keys is quick, whatever their hashes.
    if len(keys) <= _MAX_SAME_HASH:
        return
    # Sorted, equal hashes are neighbours: more than the limit share a hash if two that far apart are equal.
    hashes = sorted(map(hash, keys))
    if any(map(int.__eq__, hashes, islice(hashes, _MAX_SAME_HASH, None))):
        raise CodecError(f"more than {_MAX_SAME_HASH} keys share one hash")
