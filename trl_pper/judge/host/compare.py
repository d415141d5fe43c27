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
- a function: the user's own function decides, and returns a bool. It has to work on the expected outputs.

A checker that travels with the task as source text runs in the worker; see `host.stdio`.
"""

from __future__ import annotations

import io
import math
import re
import threading
import weakref
from collections import Counter, OrderedDict
from collections.abc import Iterator
from itertools import islice
from typing import Any

from trl_pper.judge.wire.exceptions import error_text
from trl_pper.tasks.task import COMPARISONS, Checker, StdioCase, StdioTests

# A decimal fraction or exponent notation; a whole number has no tolerance.
_FLOAT = re.compile(rb"[+-]?(?:(?:\d+\.\d*|\.\d+)(?:[eE][+-]?\d+)?|\d+[eE][+-]?\d+)")
# Each digit can match in a single way: output is hostile, and matching must not take quadratic time.
_NUMBER = re.compile(rb"[+-]?(?:\d+(?:\.\d*)?|\.\d+)(?:[eE][+-]?\d+)?")
_TOLERANCE = 1e-6


class CheckerError(Exception):
    """A checker of the user that fails even on an expected output: it raises, or does not return a bool."""


def outputs_match(printed: bytes, case: StdioCase, tests: StdioTests) -> bool:
    """Return whether `printed` answers `case`.

    Args:
        printed: The program's standard output.
        case: The test.
        tests: The tests that `case` belongs to, with their way to compare.

    Raises:
        CheckerError: The checker fails on an expected output. A checker that fails on the program's output alone gives
            False.
    """
    compare = tests.compare
    if callable(compare):
        if fault := checker_fault(tests):
            raise CheckerError(fault)
        # A checker may well fail on garbage, which then is no answer.
        return _asked(compare, case, printed.decode("utf-8", "replace"))[0]
    wanted = case.output.encode("utf-8", "surrogatepass")
    if printed == wanted:
        return True
    if compare == "exact":
        return False
    if compare in ("lines", "permutation"):
        equal = bytes.__eq__ if compare == "lines" else _tokens_permuted
        mine, theirs = _lines(printed, wanted), _lines(wanted, wanted)
        return len(mine) == len(theirs) and all(map(equal, mine, theirs))
    if compare == "unordered_lines":
        known = Counter(_filled_lines(wanted))
        # One line more is enough to tell a difference.
        return Counter(islice(_filled_lines(printed), known.total() + 1)) == known
    theirs = wanted.split()
    # No more than one token beyond: output of many millions of tokens would take a gigabyte here.
    mine = printed.split(None, len(theirs))
    if len(mine) != len(theirs):
        return False
    # The last of so many has the whitespace at the end of the text.
    mine[-1:] = [token.rstrip() for token in mine[-1:]]
    if compare == "ignore_case":
        mine, theirs = list(map(_folded, mine)), list(map(_folded, theirs))
    if compare == "unordered_tokens":
        return Counter(mine) == Counter(theirs)
    if compare in COMPARISONS:
        return all(map(_answers_match if compare == "yes_no" else _tokens_match, mine, theirs))
    absolute, relative = tests.tolerances
    return all(_floats_match(*pair, absolute, relative) for pair in zip(mine, theirs, strict=True))


class _Trial:
    """The result of a checker on its own expected outputs, once it is known."""

    def __init__(self, tests: StdioTests) -> None:
        # No more than a reference, because tests can hold megabytes.
        self.tests = weakref.ref(tests)
        self.lock = threading.Lock()
        self.fault: str | None = None


_MAX_TRIALS = 1024
_trials: OrderedDict[int, _Trial] = OrderedDict()
_trials_lock = threading.Lock()


def checker_fault(tests: StdioTests) -> str:
    """Return the reason why the function that `tests` compare with cannot judge; "" for one that works, or for none.

    The function is called with the expected output of every test, once and before it sees the output of any program.
    So no program has a part in the reason.
    """
    checker = tests.compare
    if not callable(checker):
        return ""
    with _trials_lock:
        trial = _trials.get(id(tests))
        if trial is None or trial.tests() is not tests:
            trial = _trials[id(tests)] = _Trial(tests)
        _trials.move_to_end(id(tests))
        while len(_trials) > _MAX_TRIALS:
            _trials.popitem(last=False)
    with trial.lock:
        if trial.fault is None:
            said = ((number, _asked(checker, case, case.output)[1]) for number, case in enumerate(tests.cases, 1))
            number, reason = next(((number, reason) for number, reason in said if reason), (0, ""))
            trial.fault = f"the checker fails even on the expected output of test {number}: {reason}" if reason else ""
        return trial.fault


def _asked(checker: Checker, case: StdioCase, output: str) -> tuple[bool, str]:
    """Return the checker's answer and ""; or False and the way in which it failed."""
    try:
        answer: Any = checker(case.input, output, case.output)
        # numpy has a bool of its own, and 0 and 1 are as clear.
        if isinstance(answer, int) or type(answer).__name__ in ("bool", "bool_"):
            return bool(answer), ""
    except BaseException as error:
        # Ctrl-C reaches the main thread alone. A checker may raise anything, such as SystemExit of a script's `main`.
        if isinstance(error, KeyboardInterrupt) and threading.current_thread() is threading.main_thread():
            raise
        return False, f"it raised {': '.join(filter(None, (type(error).__name__, error_text(error))))}"
    kind = "None" if answer is None else f"an object of type {type(answer).__name__}"
    return False, f"it must return a bool, and returned {kind}"


def _lines(text: bytes, wanted: bytes) -> list[bytes]:
    """Return the lines of a text without whitespace at their ends and blank lines at the end.

    A text of more lines than `wanted` has one more, with all that follows in it.
    """
    return [line.rstrip() for line in text.rstrip().split(b"\n", wanted.count(b"\n") + 1)]


def _filled_lines(text: bytes) -> Iterator[bytes]:
    """Yield the lines that are not blank, without whitespace at both ends."""
    return filter(None, map(bytes.strip, io.BytesIO(text)))


def _tokens_permuted(line: bytes, other: bytes) -> bool:
    """Return whether two lines hold the same tokens, each as often."""
    return Counter(line.split()) == Counter(other.split())


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
