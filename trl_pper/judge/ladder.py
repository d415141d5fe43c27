"""Finds the strongest isolation level that holds on this machine, by trying to break each.

Enters: the level wanted, by name or "auto". Leaves: a level whose canaries failed to get out, or an error that says
for every level why not. What was found is remembered for the process.
"""

from __future__ import annotations

import functools

from trl_pper.judge.selftest import escapes
from trl_pper.judge.worker import LevelRefused, WorkerError

#: From strongest to weakest.
ISOLATION_LEVELS = ("namespaces", "landlock", "seccomp", "rlimits")
#: "auto" takes none weaker than this.
WEAKEST_UNASKED = "landlock"


class IsolationUnavailable(OSError):
    """The isolation level asked for does not hold on this machine."""


def choose_level(isolation: str) -> str:
    """Return the level to run at.

    Args:
        isolation: "auto", or one of `ISOLATION_LEVELS`.

    Raises:
        ValueError: Unknown name.
        IsolationUnavailable: The level named, or every level that "auto" may take, does not hold here.
    """
    if isolation not in ("auto", *ISOLATION_LEVELS):
        raise ValueError(f"isolation: must be 'auto' or one of {', '.join(ISOLATION_LEVELS)}; got {isolation!r}")
    allowed = ISOLATION_LEVELS[: ISOLATION_LEVELS.index(WEAKEST_UNASKED) + 1] if isolation == "auto" else (isolation,)
    reasons = []
    for level in allowed:
        reason = _why_not(level)
        if not reason:
            return level
        reasons.append(f"{level}: {reason}")
    remedy = "; to run trusted programs with less, name a weaker level" if isolation != ISOLATION_LEVELS[-1] else ""
    raise IsolationUnavailable(
        f"isolation: {isolation!r} cannot be had on this machine ({'; '.join(reasons)}){remedy}"
    )


@functools.cache
def _why_not(level: str) -> str:
    """Return why `level` does not hold here, or ""."""
    try:
        broken = escapes(level)
    except LevelRefused as error:
        return str(error)
    except WorkerError as error:
        return f"a worker does not start: {error}"
    return f"programs got past: {', '.join(broken)}" if broken else ""
