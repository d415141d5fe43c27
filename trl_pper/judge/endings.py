"""Reads from how a candidate process ended, or from its last words, what that means for the test it was running."""

from __future__ import annotations

import os
import signal
from collections.abc import Mapping
from typing import Any

from trl_pper.verdict import Outcome

#: What a candidate says of a program that did not get through, and the outcome that it means.
OUTCOME_OF_KIND = {
    "syntax": Outcome.SYNTAX_ERROR,
    "memory": Outcome.MEMORY_LIMIT,
    "raised": Outcome.RUNTIME_ERROR,
}


def ended_well(ending: Mapping[str, Any]) -> bool:
    """Return whether the candidate exited by itself with status 0."""
    return ending["status"] == 0 and not ending["killed"] and not ending["overrun"]


def outcome_of(ending: Mapping[str, Any]) -> tuple[Outcome, str]:
    """Return outcome and message for a candidate that fell silent.

    Args:
        ending: The zygote's answer to "kill": the wait "status" as `os.wait4` returns it, whether the process had to
            be "killed" by the zygote, and which limit on files it had "overrun".
    """
    if ending["overrun"]:
        return Outcome.OUTPUT_LIMIT, f"the program {ending['overrun']}"
    if ending["killed"]:
        return Outcome.RUNTIME_ERROR, "the process hung up without ending"
    code = os.waitstatus_to_exitcode(int(ending["status"]))
    if code >= 0:
        return Outcome.RUNTIME_ERROR, f"the process ended with status {code}"
    if -code == signal.SIGKILL:
        return Outcome.MEMORY_LIMIT, "the process was killed, as the kernel does when memory runs out"
    if -code == signal.SIGXCPU:
        return Outcome.TIMEOUT, "the process was ended by its CPU limit"
    name = signal.Signals(-code).name if -code in signal.valid_signals() else str(-code)
    return Outcome.RUNTIME_ERROR, f"the process was ended by {name}"
