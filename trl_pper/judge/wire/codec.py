"""Carry plain values between the trusted referee and an untrusted candidate as bytes.

`decode` rebuilds a value from exact types of the standard library and numpy, so that no method written by a candidate
ever runs where verdicts are made. A named tuple keeps the names of its fields. Depth and size are bounded in both
directions. An object that is not data is refused. This is no general serialiser: shared references are copied and
cycles refused.
"""

from __future__ import annotations

import struct
from typing import Any

from trl_pper.judge.wire.decode import Decoder
from trl_pper.judge.wire.encode import Encoder
from trl_pper.judge.wire.rules import MAX_DEPTH, CodecError, NotData

__all__ = ["MAX_DEPTH", "CodecError", "NotData", "decode", "encode"]


def encode(value: Any, *, max_bytes: int, exact: bool = False) -> bytes:
    """Return `value` as bytes.

    Args:
        value: Anything; plain data crosses by value.
        max_bytes: Largest encoding allowed.
        exact: Whether to refuse an object that extends a builtin; otherwise it crosses as that builtin if it reads
            like it.

    Raises:
        NotData: The value holds an object that cannot cross.
        CodecError: The value is too big, too deep or cyclic.
    """
    return Encoder(max_bytes, exact).message(value)


def decode(data: bytes, *, start: int = 0) -> Any:
    """Return the value that `data` encodes, built from exact types.

    Args:
        data: Bytes from `encode`, or anything an untrusted peer sent.
        start: Where the value begins in `data`.

    Raises:
        CodecError: `data` is not a single well-formed value.
    """
    try:
        return Decoder(data, start).message()
    except CodecError:
        raise
    # Readers do not check everything themselves: a struct or a constructor of the library may refuse data that the
    # peer made up.
    except (struct.error, ArithmeticError, TypeError, ValueError, LookupError, AttributeError, RuntimeError) as error:
        raise CodecError(f"malformed value: {type(error).__name__}: {error}") from None
