"""Run an untrusted program in a candidate process: as a script, to answer calls, or together with its tests.

The process receives the program's source, then inputs or calls as plain data. Expected answers never come here, except
those of tests that can only run in the program's process. The program shares the process, so nothing in it is trusted
once the program has started: every byte that the process sends is a claim of the program, never a verdict.
"""

from __future__ import annotations

import _sitebuiltins
import builtins
import os
import socket
from collections.abc import Callable

from trl_pper.judge.wire.channel import Wait, frame
from trl_pper.judge.wire.rules import READY
from trl_pper.judge.worker.calls import answer_calls, warm_up
from trl_pper.judge.worker.program import seed_random
from trl_pper.judge.worker.script import open_streams, run_checker, run_scripts
from trl_pper.judge.worker.shared import run_shared, try_setup

#: Descriptors that a candidate starts with, after standard input, output and error; only shared tests have a plan.
CHANNEL, PROGRAM, PLAN = 3, 4, 5


def prepare(room: str) -> None:
    """Prepare the interpreter for programs; the zygote calls this once, before it forks candidates.

    Args:
        room: Path of the working directory of programs.
    """
    # All of this could be done in each candidate, but a forked child pays for every page that it writes to.
    # The interpreter's option `-S` leaves `exit` and `quit` out, and scripts use them.
    builtins.exit = _sitebuiltins.Quitter("exit", "Ctrl-D")
    builtins.quit = _sitebuiltins.Quitter("quit", "Ctrl-D")
    # A fixed seed makes the verdicts of randomised programs repeat.
    seed_random(int(os.environ["PYTHONHASHSEED"]))
    os.environ["HOME"] = os.environ["TMPDIR"] = room
    open_streams()
    _channels.append(_socket_at(CHANNEL))
    warm_up()


#: The socket object for the descriptor `CHANNEL`, made before the fork; only candidates have the descriptor itself.
_channels: list[socket.socket] = []
_ready = frame(READY)


def _socket_at(number: int) -> socket.socket:
    # The constructor of a socket object needs a real socket at the descriptor, so there is one for a moment.
    some, other = socket.socketpair()
    other.close()
    descriptor = some.detach()
    if descriptor != number:
        os.dup2(descriptor, number)
        os.close(descriptor)
    made = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM, 0, number)
    os.close(number)
    return made


def main(mode: str, max_value_bytes: int, allow: Wait | None = None, fork: Callable[[], int] | None = None) -> None:
    """Run the program from descriptor PROGRAM; never returns.

    Args:
        mode: "stdio" for a script, "checker" for a task's checker, "function" for a program that answers calls,
            "setup" for the setup of tests, "shared" for a program that runs together with its tests.
        max_value_bytes: Largest encoded size of a value that the candidate may send, in bytes.
        allow: Called before each input or request, to renew the CPU time of this process; None where the referee or
            the host measures it from outside.
        fork: See `script.run_scripts`.
    """
    [channel] = _channels
    # A candidate that ends before this message is a failure of the sandbox; after it, of the program, which may be too
    # large to read.
    os.write(CHANNEL, _ready)
    source = os.pread(PROGRAM, os.fstat(PROGRAM).st_size, 0)
    os.close(PROGRAM)
    if allow is not None:
        allow(channel, 0)
    if mode == "stdio":
        run_scripts(source, channel, allow, fork)
    elif mode == "checker":
        run_checker(source, channel, allow)
    elif mode == "setup":
        try_setup(source, channel)
    elif mode == "shared":
        plan = os.pread(PLAN, os.fstat(PLAN).st_size, 0)
        os.close(PLAN)
        run_shared(source, plan, channel, allow)
    else:
        answer_calls(source, channel, max_bytes=max_value_bytes, wait=allow)
    os._exit(0)
