"""Decides whether what a program printed is what a test expects; runs on the host, on bytes.

- `tokens`: tokens between ASCII whitespace are equal in order. A token equals another as text, or, where the expected
  one is a decimal fraction or in exponent notation, within max(1e-6, 1e-6 * |expected|). Integers must match digit by
  digit.
- `ignore_case`: the same, upper and lower case being alike.
- `lines`: lines are equal after whitespace at their ends and blank lines at the end are dropped.
- `exact`: every character is equal.
"""

from __future__ import annotations

import math
import re

_FLOAT = re.compile(rb"[+-]?(?:(?:\d+\.\d*|\.\d+)(?:[eE][+-]?\d+)?|\d+[eE][+-]?\d+)")
_NUMBER = re.compile(rb"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?")
_TOLERANCE = 1e-6


def outputs_match(printed: bytes, expected: str, *, compare: str) -> bool:
    """Return whether `printed` answers `expected`.

    Args:
        printed: The program's standard output.
        expected: The test's output.
        compare: "tokens", "ignore_case", "lines" or "exact".
    """
    wanted = expected.encode("utf-8", "surrogatepass")
    if printed == wanted:
        return True
    if compare == "exact":
        return False
    if compare == "lines":
        return _lines(printed) == _lines(wanted)
    if compare == "ignore_case":
        printed, wanted = _folded(printed), _folded(wanted)
    mine, theirs = printed.split(), wanted.split()
    return len(mine) == len(theirs) and all(map(_tokens_match, mine, theirs))


def _lines(text: bytes) -> list[bytes]:
    lines = [line.rstrip() for line in text.split(b"\n")]
    while lines and not lines[-1]:
        lines.pop()
    return lines


def _folded(text: bytes) -> bytes:
    return text.decode("utf-8", "surrogateescape").casefold().encode("utf-8", "surrogateescape")


def _tokens_match(printed: bytes, expected: bytes) -> bool:
    if printed == expected:
        return True
    if not _FLOAT.fullmatch(expected) or not _NUMBER.fullmatch(printed):
        return False
    mine, theirs = float(printed), float(expected)
    if not (math.isfinite(mine) and math.isfinite(theirs)):
        return False
    return abs(mine - theirs) <= max(_TOLERANCE, _TOLERANCE * abs(theirs))
