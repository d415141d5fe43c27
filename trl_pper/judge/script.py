"""Runs the program as a script in a candidate process: for tests that feed standard input and read standard output.

Enters: the program's source. Leaves: what it prints, its exit status, and its last words when it failed.
"""

from __future__ import annotations

import atexit
import os
import socket
import sys
import threading

from trl_pper.judge.program import load, report_failure


def run_script(source: bytes, channel: socket.socket) -> None:
    """Run the program as a script; exit as the interpreter would."""
    status = 0
    try:
        load(source)
    except SystemExit as error:
        status = _exit_status(error.code)
    except BaseException as error:
        status = 1
        report_failure(channel, error)
    try:
        threading._shutdown()  # type: ignore[attr-defined]
        atexit._run_exitfuncs()
        sys.stdout.flush()
    except BaseException as error:
        status = status or 120
        report_failure(channel, error)
    finally:
        os._exit(status)


def _exit_status(code: object) -> int:
    if code is None:
        return 0
    return code & 0xFF if isinstance(code, int) else 1
