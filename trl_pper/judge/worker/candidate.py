"""A candidate process from its fork to its end: runs one untrusted program, as a script or to answer calls.

Enters: the program's source and, call by call or test by test, plain data. Leaves: plain data. Nothing here is trusted
once the program has started, because the program shares the process: whatever leaves is treated as the program's own
words, never as a verdict. Expected answers never come here.
"""

from __future__ import annotations

import _sitebuiltins
import builtins
import os
import random
import socket

from trl_pper.judge.wire.channel import Wait, frame
from trl_pper.judge.wire.rules import READY
from trl_pper.judge.worker.calls import answer_calls, warm_up
from trl_pper.judge.worker.script import Streams, run_script

#: Descriptors a candidate starts with, after standard input, output and error.
CHANNEL, PROGRAM = 3, 4


def prepare() -> None:
    """Make the interpreter of this process what a program expects; done once, before candidates are forked.

    What is done here costs a candidate nothing: a forked child pays for every page it writes to.
    """
    # `-S` leaves these out; scripts use them. A fixed seed makes verdicts of randomised programs repeat.
    builtins.exit = _sitebuiltins.Quitter("exit", "Ctrl-D")
    builtins.quit = _sitebuiltins.Quitter("quit", "Ctrl-D")
    random.seed(int(os.environ["PYTHONHASHSEED"]))
    os.environ["HOME"] = os.environ["TMPDIR"] = os.getcwd()
    Streams().renew()
    _channels.append(_socket_at(CHANNEL))
    warm_up()


#: The socket object for the descriptor that every candidate has at `CHANNEL`; nothing is there before.
_channels: list[socket.socket] = []
_ready = frame(READY)


def _socket_at(number: int) -> socket.socket:
    some, other = socket.socketpair()
    other.close()
    descriptor = some.detach()
    if descriptor != number:
        os.dup2(descriptor, number)
        os.close(descriptor)
    made = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM, 0, number)
    os.close(number)
    return made


def main(mode: str, max_value_bytes: int, allow: Wait | None = None) -> None:
    """Run the program on descriptor PROGRAM; never returns.

    Args:
        mode: "stdio" for a script, "function" for a program that answers calls.
        max_value_bytes: Encoded size of one value that may leave.
        allow: Called before each piece of work, where a process has to renew its own allowance.
    """
    [channel] = _channels
    source = os.pread(PROGRAM, os.fstat(PROGRAM).st_size, 0)
    os.close(PROGRAM)
    # From here on whatever goes wrong is the program's doing; without this word it is the sandbox's.
    os.write(CHANNEL, _ready)
    if allow is not None:
        allow(channel, 0)
    if mode == "stdio":
        run_script(source, channel, allow)
    else:
        answer_calls(source, channel, max_bytes=max_value_bytes, wait=allow)
    os._exit(0)
