"""A candidate process from its fork to its end: gets the interpreter ready, then runs one untrusted program.

Enters: the program's source and, call by call, plain data. Leaves: plain data. Nothing here is trusted once the
program has started, because the program shares the process: whatever leaves is treated as the program's own words,
never as a verdict. Expected answers never come here.
"""

from __future__ import annotations

import _sitebuiltins
import builtins
import os
import random
import socket
import sys

from trl_pper.judge.calls import answer_calls
from trl_pper.judge.channel import send_frame
from trl_pper.judge.script import run_script

#: Descriptors a candidate starts with, after standard input, output and error.
CHANNEL, PROGRAM = 3, 4
READY = b"ready"


def main(*, mode: str, limits: dict[str, float]) -> None:
    """Run the program on descriptor PROGRAM; never returns."""
    source = os.pread(PROGRAM, os.fstat(PROGRAM).st_size, 0)
    os.close(PROGRAM)
    channel = socket.socket(fileno=CHANNEL)
    _prepare_interpreter()
    # From here on whatever goes wrong is the program's doing; without this word it is the sandbox's.
    send_frame(channel, READY)
    if mode == "stdio":
        run_script(source, channel)
    else:
        answer_calls(source, channel, max_bytes=int(limits["value_bytes"]))
    os._exit(0)


def _prepare_interpreter() -> None:
    # `-S` leaves these out; scripts use them. A fixed seed makes verdicts of randomised programs repeat.
    builtins.exit = _sitebuiltins.Quitter("exit", "Ctrl-D")
    builtins.quit = _sitebuiltins.Quitter("quit", "Ctrl-D")
    random.seed(0)
    os.environ["HOME"] = os.environ["TMPDIR"] = os.getcwd()
    sys.stdin = open(0, encoding="utf-8", errors="surrogateescape", closefd=False)
    sys.stdout = open(1, "w", encoding="utf-8", errors="surrogateescape", closefd=False)
    sys.stderr = open(2, "w", encoding="utf-8", errors="backslashreplace", closefd=False, buffering=1)
    vars(sys).update(__stdin__=sys.stdin, __stdout__=sys.stdout, __stderr__=sys.stderr)
