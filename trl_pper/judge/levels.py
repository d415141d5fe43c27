"""Choose the isolation level of a judge, by trying to break the levels on this machine.

`selftest` runs hostile programs at a level. The level holds if none of them gets past a guarantee of the level. The
result is remembered as long as this process lives.
"""

from __future__ import annotations

import sys
from collections.abc import Callable

from trl_pper.judge.host.worker import HostUnfit, LevelRefused, WorkerError
from trl_pper.judge.selftest import escapes
from trl_pper.judge.wire.rules import PORTABLE_LEVEL

#: All levels, from strongest to weakest.
ISOLATION_LEVELS = ("namespaces", "landlock", "seccomp", "rlimits", PORTABLE_LEVEL)
#: The weakest level that "auto" may take. At the levels below, programs can read the files of this machine, so they
#: have to be asked for by name.
WEAKEST_UNASKED = "landlock"
_PORTABLE = (
    "runs programs in processes apart, with limits on CPU time, wall time, output, the size of files and descriptors; "
    "it bounds neither memory nor the network nor which files a program reads, writes and runs"
)


class IsolationUnavailable(OSError):
    """Raised when the requested isolation level does not hold on this machine."""


def choose_level(isolation: str, *, probe: Callable[[str], str] | None = None) -> str:
    """Return the level to run programs at.

    Args:
        isolation: "auto" for the strongest level that holds, or a member of `ISOLATION_LEVELS`.
        probe: Returns the reason why a level does not hold here, or "" if it holds; by default hostile programs try
            to break the level.

    Raises:
        ValueError: `isolation` is not the name of a level.
        IsolationUnavailable: The named level, or every level that "auto" may take, does not hold here.
    """
    check_level(isolation)
    allowed = ISOLATION_LEVELS[: ISOLATION_LEVELS.index(WEAKEST_UNASKED) + 1] if isolation == "auto" else (isolation,)
    reasons = []
    for level in allowed:
        try:
            reason = (probe or _why_not)(level)
        except HostUnfit as error:
            # No other level would be better off.
            raise IsolationUnavailable(f"isolation: no worker can start on this machine: {error}") from error
        if not reason:
            return level
        reasons.append(f"{level}: {reason}")
    raise IsolationUnavailable(
        f"isolation: {isolation!r} cannot be had on this machine ({'; '.join(reasons)}){_remedy(allowed[-1])}"
    )


def check_level(isolation: object) -> None:
    """Raise ValueError unless `isolation` is "auto" or the name of a level."""
    if isolation not in ("auto", *ISOLATION_LEVELS):
        raise ValueError(f"isolation: must be 'auto' or one of {', '.join(ISOLATION_LEVELS)}; got {isolation!r}")


def _remedy(level: str) -> str:
    """Return advice for a machine on which `level` does not hold, as the end of a sentence."""
    weaker = [one for one in ISOLATION_LEVELS[ISOLATION_LEVELS.index(level) + 1 :] if not _misses(one)]
    if not weaker:
        return ""
    lacks = f"; {PORTABLE_LEVEL!r} {_PORTABLE}" if weaker == [PORTABLE_LEVEL] else ""
    return (
        f"; to run trusted programs with less, name a weaker level ({', '.join(weaker)}): isolation={weaker[0]!r} of "
        f"Judge, judge_isolation of PPERConfig, --judge_isolation of `trl-pper train`, --isolation of the other "
        f"commands{lacks}"
    )


def _misses(level: str) -> str:
    """Return the reason why this operating system cannot have `level`, or ""."""
    return "" if level == PORTABLE_LEVEL or sys.platform == "linux" else "it needs Linux"


#: Reasons why levels do not hold here, "" for those that hold, as far as they were tried.
_known: dict[str, str] = {}


def _why_not(level: str) -> str:
    """Return the reason why `level` does not hold here, or "".

    Raises:
        HostUnfit: No worker can start here at all.
    """
    if level not in _known:
        try:
            _known[level] = _tried(level)
        except HostUnfit:
            raise
        except WorkerError as error:
            # It may start the next time, and is not remembered.
            return f"a worker does not start: {error}"
    return _known[level]


def _tried(level: str) -> str:
    # Without starting a worker, which could only fail.
    if missing := _misses(level):
        return missing
    try:
        # A machine may offer a level without all of its guarantees.
        broken = escapes(level)
    except LevelRefused as error:
        return str(error)
    return f"programs got past: {', '.join(broken)}" if broken else ""
