"""Decide whether the output of a program is the output that a test expects; on the host, on bytes.

- `tokens`: tokens between ASCII whitespace are equal in order. Two tokens are equal as text, or, if the expected
  token is a decimal fraction or in exponent notation, within max(1e-6, 1e-6 * |expected|). Integers must match digit
  by digit.
- `ignore_case`: as `tokens`, without regard to upper and lower case.
- `lines`: lines are equal after whitespace at their ends and blank lines at the end are dropped.
- `exact`: every character is equal.
- `floats(abs, rel)`: tokens are equal in order, where two numbers, whole or not, may differ by
  max(abs, rel * |expected|).
- a checker: the user's own function decides.
"""

from __future__ import annotations

import math
import re

from trl_pper.tasks.task import COMPARISONS, Checker, StdioCase, StdioTests

_FLOAT = re.compile(rb"[+-]?(?:(?:\d+\.\d*|\.\d+)(?:[eE][+-]?\d+)?|\d+[eE][+-]?\d+)")
# Each digit can be matched in one way only: output is hostile, and matching must not take quadratic time.
_NUMBER = re.compile(rb"[+-]?(?:\d+(?:\.\d*)?|\.\d+)(?:[eE][+-]?\d+)?")
_TOLERANCE = 1e-6


class CheckerError(Exception):
    """The user's checker does not work even on the expected output."""


def outputs_match(printed: bytes, case: StdioCase, tests: StdioTests) -> bool:
    """Return whether `printed` answers `case`.

    Args:
        printed: The program's standard output.
        case: The test.
        tests: The tests of the case, with the way to compare.

    Raises:
        CheckerError: The checker raises on the expected output, too. A checker that raises on the program's output
            alone says False.
    """
    compare = tests.compare
    if callable(compare):
        return _check(compare, case, printed.decode("utf-8", "replace"))
    wanted = case.output.encode("utf-8", "surrogatepass")
    if printed == wanted:
        return True
    if compare == "exact":
        return False
    if compare == "lines":
        return _lines(printed) == _lines(wanted)
    if compare == "ignore_case":
        printed, wanted = _folded(printed), _folded(wanted)
    mine, theirs = printed.split(), wanted.split()
    if len(mine) != len(theirs):
        return False
    if compare in COMPARISONS:
        return all(map(_tokens_match, mine, theirs))
    absolute, relative = tests.tolerances
    return all(_floats_match(*pair, absolute, relative) for pair in zip(mine, theirs, strict=True))


def _check(checker: Checker, case: StdioCase, output: str) -> bool:
    try:
        return bool(checker(case.input, output, case.output))
    except Exception as error:
        try:
            checker(case.input, case.output, case.output)
        except Exception:
            raise CheckerError(f"the checker raised {type(error).__name__}: {error}") from error
        return False


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
    return _FLOAT.fullmatch(expected) is not None and _floats_match(printed, expected, _TOLERANCE, _TOLERANCE)


def _floats_match(printed: bytes, expected: bytes, absolute: float, relative: float) -> bool:
    if printed == expected:
        return True
    if not _NUMBER.fullmatch(expected) or not _NUMBER.fullmatch(printed):
        return False
    mine, theirs = float(printed), float(expected)
    if not (math.isfinite(mine) and math.isfinite(theirs)):
        return False
    return abs(mine - theirs) <= max(absolute, relative * abs(theirs))
