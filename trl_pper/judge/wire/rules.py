"""Hold the tables that both sides of the wire agree on: messages, limits, and names that may cross.

The first half lists the messages of referee and candidate and the bytes that host, referee and candidate exchange
about outcomes. The second half bounds values: how deep and big they may be, and the builtin types that they may name.
`CodecError` tells which rule a value broke. Nothing here reads or writes bytes.
"""

from __future__ import annotations

import builtins
import struct
from collections.abc import Sequence
from itertools import islice
from typing import Any, NamedTuple

from trl_pper.judge.verdict import Outcome


class Call(NamedTuple):
    """A referee's request to call a function of the program.

    Args:
        operation: "call"; "drop" for a result that nobody needs; "truth", "none" or "text" for whether the result is
            true, whether it is None, or its text; "make" for a result that stays in the candidate, of which the answer
            is the number.
        number: The number of the object whose method is called, or None.
        name: Name of the function or method.
        args: A tuple of arguments.
        keywords: A dict of keyword arguments.
        objects: Numbers of objects in the candidate that are arguments, by the positions and names of these.
        exact: Whether a result must be of exactly a type that crosses.
    """

    operation: str
    number: int | None
    name: str
    args: tuple[Any, ...]
    keywords: dict[str, Any]
    objects: dict[int | str, int]
    exact: bool


class Value(NamedTuple):
    """A candidate's answer: the value of a call."""

    kind: str
    value: Any


class Words(NamedTuple):
    """A candidate's report that its program is loaded, or of the error that ended its loading or a request.

    Args:
        kind: "loaded"; "syntax", "memory" or "raised" for an error of the program; "refused" for a value that is too
            big to cross; "object" for a result that is not data.
        name: The name of the exception's class.
        said: The text of the exception.
        note: A line for people that describes the error.
    """

    kind: str
    name: Any
    said: Any
    note: Any


_WORDS = frozenset(("loaded", "syntax", "memory", "raised", "refused", "object"))


def read_answer(message: Any) -> Value | Words:
    """Return the answer that a decoded message holds.

    Raises:
        CodecError: It holds none.
    """
    # Answers cross as plain tuples, because bytes from a candidate must not choose a class.
    kind = message[0] if type(message) is tuple and message else None
    if kind == "value" and type(kind) is str and len(message) == len(Value._fields):
        return Value._make(message)
    if type(kind) is str and kind in _WORDS and len(message) == len(Words._fields):
        words = Words._make(message)
        if type(words.name) is str is type(words.note):
            return words
    raise CodecError("an answer is a tuple of a known kind")


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


#: A candidate's answer about a script that it has compiled: it runs each test in a child, or can run a single test.
MANY, ONCE = b"+", b"."
#: A candidate's answer after a script that ended normally.
DONE = b"+"
#: A report on the end of such a child: the wait status, and whether it left anything in the working directory.
SCRIPT_ENDING = struct.Struct("<i?")


#: The start of a zygote's report on the end of a candidate, in the layout of C: whether the zygote had to kill it,
#: whether it had left too much in files, the wait status, and user and system time in seconds and microseconds.
ENDING = struct.Struct("@3i4l")


#: Numbers of reports that are not about a test: the program is loaded, failed to load, the test code has ended.
LOADED, FAILED, ENDED = 0xFFFFFFFF, 0xFFFFFFFE, 0xFFFFFFFD
#: A report of shared tests: the secret number, the number of the test, the byte of the outcome; a text follows.
REPORT = struct.Struct("<16sIB")
#: The host's first frame: the secret number, the CPU seconds of each test, the number of timeouts to go on after.
START = struct.Struct("<16sdI")


#: A candidate's first frame, sent before its program runs.
READY = b"ready"


#: Readers and writers recurse; a referee allows for it.
MAX_DEPTH = 400
MAX_INT_BYTES = 1 << 20
#: For numerator and denominator: to reduce a fraction takes a greatest common divisor, quadratic in their size.
MAX_FRACTION_BYTES = 4096

#: The builtin types, which cross by name.
SAFE_TYPES = {name: value for name, value in vars(builtins).items() if isinstance(value, type)}
SAFE_TYPES["NoneType"] = type(None)
TYPE_BY_ID = {id(value): name for name, value in SAFE_TYPES.items()}

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


class NotData(CodecError):
    """An error: a value holds an object that is not data."""


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
