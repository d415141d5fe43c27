"""Carry plain values between the trusted referee and an untrusted candidate as bytes.

`decode` rebuilds a value from exact types of the standard library, so that no method written by a candidate ever runs
where verdicts are made. A subclass is flattened to the builtin that it extends; a named tuple keeps the names of its
fields. Depth and size are bounded in both directions. An object that is not data crosses as a number when the caller
allows it, and is refused otherwise. This is no general serialiser: shared references are copied and cycles refused,
except for instances of classes that both sides have.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Any

from trl_pper.judge.wire.decode import Decoder
from trl_pper.judge.wire.encode import Encoder
from trl_pper.judge.wire.instances import InstanceTable
from trl_pper.judge.wire.rules import CROSSING_MODULES, MAX_DEPTH, MAX_ITERATOR_ITEMS, CodecError, take

__all__ = [
    "CROSSING_MODULES",
    "MAX_DEPTH",
    "MAX_ITERATOR_ITEMS",
    "CodecError",
    "decode",
    "encode",
    "take",
]


def encode(
    value: Any,
    *,
    max_bytes: int,
    opaque: Callable[[Any], bytes] | None = None,
    instances: InstanceTable | None = None,
) -> bytes:
    """Return `value` as bytes.

    Args:
        value: Anything; plain data crosses by value.
        max_bytes: Largest encoding allowed.
        opaque: Function from an object that is not data to the bytes that stand for it, a tag and a number or a name;
            None refuses such objects.
        instances: The table of classes that both sides have; None refuses instances.

    Raises:
        CodecError: The value is too big, too deep, cyclic, or holds an object that cannot cross.
    """
    size = 0 if instances is None else len(instances.objects)
    try:
        return Encoder(max_bytes, opaque, instances).message(value)
    except BaseException:
        # The other side never sees a refused value, so its instances must not keep numbers.
        if instances is not None:
            instances.truncate(size)
        raise


def decode(
    data: bytes,
    *,
    start: int = 0,
    resolve: Callable[[bytes, Any], Any] | None = None,
    instances: InstanceTable | None = None,
) -> Any:
    """Return the value that `data` encodes, built from exact types.

    Args:
        data: Bytes from `encode`, or anything an untrusted peer sent.
        start: Where the value begins in `data`.
        resolve: Function from a tag and a number, or a tag and a name, to the object that they stand for; None refuses
            such objects.
        instances: The table of classes that both sides have; None refuses instances.

    Raises:
        CodecError: `data` is not a single well-formed value.
    """
    try:
        return Decoder(data, start, resolve, instances).message()
    except CodecError:
        raise
    # Readers do not check everything themselves: a struct, a constructor of the library, or an attribute or a hash of
    # the tests' own classes may refuse data that the peer made up.
    except (struct.error, ArithmeticError, TypeError, ValueError, LookupError, AttributeError, RuntimeError) as error:
        raise CodecError(f"malformed value: {type(error).__name__}: {error}") from None
