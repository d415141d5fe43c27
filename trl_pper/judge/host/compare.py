"""Compare the output of a program with the expected output of a test, on the host and on bytes.

- `tokens`: tokens between ASCII whitespace are equal in order. A token matches as text or, where the expected token is
  a decimal fraction or in exponent notation, within max(1e-6, 1e-6 * |expected|). Whole numbers must match digit by
  digit. A token of several numbers joined by commas, of which a decimal fraction, matches number by number.
- `ignore_case`: as `tokens`, with upper and lower case alike.
- `lines`: lines are equal after whitespace at their ends and blank lines at the end are dropped.
- `exact`: every character is equal.
- `unordered_lines`: the same lines, each as often, in any order; whitespace at both ends of a line and blank lines are
  dropped.
- `unordered_tokens`: the same tokens, each as often, in any order and on any lines. Tokens are equal as text.
- `permutation`: lines in order, where each line holds the same tokens, each as often, in any order. Tokens are equal
  as text, and blank lines at the end are dropped.
- `yes_no`: as `tokens`, but where the token "yes" or "no" is expected, upper and lower case are alike.
- `floats(abs, rel)`: tokens are equal in order, where two numbers, whole or not, may differ by
  max(abs, rel * |expected|).
- a function: the user's own function decides.

A checker that travels with the task as source text runs in the worker; see `host.stdio`.
"""

from __future__ import annotations

import math
import re
from collections import Counter

from trl_pper.tasks.task import COMPARISONS, Checker, StdioCase, StdioTests

# A decimal fraction or exponent notation; a whole number has no tolerance.
_FLOAT = re.compile(rb"[+-]?(?:(?:\d+\.\d*|\.\d+)(?:[eE][+-]?\d+)?|\d+[eE][+-]?\d+)")
# Each digit can match in a single way: output is hostile, and matching must not take quadratic time.
_NUMBER = re.compile(rb"[+-]?(?:\d+(?:\.\d*)?|\.\d+)(?:[eE][+-]?\d+)?")
_TOLERANCE = 1e-6


class CheckerError(Exception):
    """A checker of the user that raises even on the expected output."""


def outputs_match(printed: bytes, case: StdioCase, tests: StdioTests) -> bool:
    """Return whether `printed` answers `case`.

    Args:
        printed: The program's standard output.
        case: The test.
        tests: The tests that `case` belongs to, with their way to compare.

    Raises:
        CheckerError: The checker raises on the expected output, too. A checker that raises on the program's output
            alone gives False.
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
    if compare == "unordered_lines":
        return _counted_lines(printed) == _counted_lines(wanted)
    if compare == "permutation":
        return _counted_tokens(printed) == _counted_tokens(wanted)
    if compare == "ignore_case":
        printed, wanted = _folded(printed), _folded(wanted)
    mine, theirs = printed.split(), wanted.split()
    if len(mine) != len(theirs):
        return False
    if compare == "unordered_tokens":
        return Counter(mine) == Counter(theirs)
    if compare in COMPARISONS:
        return all(map(_answers_match if compare == "yes_no" else _tokens_match, mine, theirs))
    absolute, relative = tests.tolerances
    return all(_floats_match(*pair, absolute, relative) for pair in zip(mine, theirs, strict=True))


def _check(checker: Checker, case: StdioCase, output: str) -> bool:
    try:
        return bool(checker(case.input, output, case.output))
    except Exception as error:
        # A checker may well raise on garbage; only its answer on the correct output shows whose fault that is.
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


def _counted_lines(text: bytes) -> Counter[bytes]:
    return Counter(filter(None, map(bytes.strip, text.split(b"\n"))))


def _counted_tokens(text: bytes) -> list[Counter[bytes]]:
    """Return the number of each token on each line."""
    return [Counter(line.split()) for line in _lines(text)]


def _folded(text: bytes) -> bytes:
    # Output need not be UTF-8: bytes that are not survive the round trip unchanged.
    return text.decode("utf-8", "surrogateescape").casefold().encode("utf-8", "surrogateescape")


def _tokens_match(printed: bytes, expected: bytes) -> bool:
    if printed == expected:
        return True
    if b"," in expected:
        return _joined_match(printed.split(b","), expected.split(b","))
    return _FLOAT.fullmatch(expected) is not None and _floats_match(printed, expected, _TOLERANCE, _TOLERANCE)


def _joined_match(printed: list[bytes], expected: list[bytes]) -> bool:
    """Return whether numbers that commas joined match one by one, some expected number being a decimal fraction."""
    return (
        len(printed) == len(expected)
        and all(map(_NUMBER.fullmatch, expected))
        and any(map(_FLOAT.fullmatch, expected))
        and all(map(_tokens_match, printed, expected))
    )


def _answers_match(printed: bytes, expected: bytes) -> bool:
    answer = expected.lower()
    return printed.lower() == answer if answer in (b"yes", b"no") else _tokens_match(printed, expected)


def _floats_match(printed: bytes, expected: bytes, absolute: float, relative: float) -> bool:
    if printed == expected:
        return True
    if not _NUMBER.fullmatch(expected) or not _NUMBER.fullmatch(printed):
        return False
    mine, theirs = float(printed), float(expected)
    # 1e999 reads as infinity, and a relative tolerance of an infinite number accepts everything.
    if not (math.isfinite(mine) and math.isfinite(theirs)):
        return False
    return abs(mine - theirs) <= max(absolute, relative * abs(theirs))
