"""Reads from how a candidate process ended, or from its last words, what that means for the test it was running."""

from __future__ import annotations

import os
import signal

from trl_pper.verdict import Outcome

#: Signals that mean a program had no memory left: the kernel kills, the C library aborts, the stack cannot grow.
_OUT_OF_MEMORY = frozenset((signal.SIGKILL,))


#: What a candidate says of a program that did not get through, and the outcome that it means.
OUTCOME_OF_KIND = {
    "syntax": Outcome.SYNTAX_ERROR,
    "memory": Outcome.MEMORY_LIMIT,
    "raised": Outcome.RUNTIME_ERROR,
}


def outcome_of(status: int) -> tuple[Outcome, str]:
    """Return outcome and message for the wait status of a candidate that ended by itself.

    Args:
        status: As `os.wait4` returns it.
    """
    code = os.waitstatus_to_exitcode(status)
    if code >= 0:
        return Outcome.RUNTIME_ERROR, f"the process ended with status {code}"
    name = signal.Signals(-code).name if -code in signal.valid_signals() else str(-code)
    if -code in _OUT_OF_MEMORY:
        return Outcome.MEMORY_LIMIT, "the process was killed, as the kernel does when memory runs out"
    if -code == signal.SIGXCPU:
        return Outcome.TIMEOUT, "the process was ended by its CPU limit"
    return Outcome.RUNTIME_ERROR, f"the process was ended by {name}"
