"""Runs the program as a script in a candidate process, once for each input that the host sends.

Enters: the program's source and inputs, one at a time. Leaves: what the program prints, on descriptor 1, and after
each run a frame that says how it ended. Between two runs the interpreter is put back as far as that is cheap; the host
trusts a run that was not the first only when it passes, and checks one of those in a fresh process.
"""

from __future__ import annotations

import _thread
import atexit
import builtins
import gc
import os
import random
import signal
import socket
import sys
import threading
import types
from typing import TextIO

from trl_pper.judge.wire import codec
from trl_pper.judge.wire.channel import ChannelClosed, FrameReader, Wait, send_frame
from trl_pper.judge.wire.rules import DONE, SPENT, Words
from trl_pper.judge.worker.program import compile_program, describe, run

#: Descriptors a script starts with, after those of every candidate: files behind the standard streams.
OUTPUT, ERRORS, INPUT = 5, 6, 7
_MAX_INPUT_BYTES = 1 << 40
_MAX_WORDS_BYTES = 1 << 16


def run_script(source: bytes, channel: socket.socket, wait: Wait | None = None) -> None:
    """Run the program on every input that arrives, calling `wait` before each; never returns."""
    state, streams, reader = _State(), Streams(), FrameReader(channel, wait)
    code: types.CodeType | None = None
    while True:
        try:
            given = reader.read(_MAX_INPUT_BYTES)
        except ChannelClosed:
            os._exit(0)
        _connect(given, streams)
        try:
            code = code or compile_program(source)
        except BaseException as error:
            words = codec.encode(tuple(describe(error)._replace(kind="syntax")), max_bytes=_MAX_WORDS_BYTES)
        else:
            words = _run_once(code, streams)
            state.restore()
        send_frame(channel, words)


class Streams:
    """The text streams of `sys` over descriptors 0 to 2."""

    def __init__(self) -> None:
        self._output: TextIO | None = None
        self._errors: TextIO | None = None

    def renew(self) -> None:
        """Give `sys` a new input, and new outputs unless the last run left them as they were."""
        sys.stdin = sys.__stdin__ = open(0, encoding="utf-8", errors="surrogateescape", closefd=False)  # type: ignore[misc]
        if not self._intact():
            self._output = open(1, "w", encoding="utf-8", errors="surrogateescape", closefd=False)
            self._errors = open(2, "w", encoding="utf-8", errors="backslashreplace", closefd=False, buffering=1)
        vars(sys).update(stdout=self._output, __stdout__=self._output, stderr=self._errors, __stderr__=self._errors)

    def flush(self) -> None:
        """Write out what was printed, as an interpreter does at its end, also where `sys.stdout` is another by now."""
        output = getattr(sys, "stdout", None)
        if output is not None and not getattr(output, "closed", False):
            output.flush()
        try:
            self._output.flush()  # type: ignore[union-attr]
        except ValueError:
            # It was closed, or its buffer taken from it.
            pass

    def _intact(self) -> bool:
        output, errors = self._output, self._errors
        try:
            same = output is not None and sys.stdout is output and sys.stderr is errors
            return same and not (output.closed or errors.closed or output.line_buffering or output.write_through)  # type: ignore[union-attr]
        except (AttributeError, ValueError):
            # Its buffer was taken from it.
            return False


def _connect(given: bytes, streams: Streams) -> None:
    """Put `given` on standard input and the output file on standard output, whatever the last run did to them."""
    os.ftruncate(INPUT, 0)
    view = memoryview(given)
    while view:
        view = view[os.pwrite(INPUT, view, len(given) - len(view)) :]
    os.lseek(INPUT, 0, os.SEEK_SET)
    os.dup2(INPUT, 0)
    os.dup2(OUTPUT, 1)
    os.dup2(ERRORS, 2)
    streams.renew()


def _run_once(code: types.CodeType, streams: Streams) -> bytes:
    """Run the program from start to exit as an interpreter would; return what to tell the host."""
    failure: Words | None = None
    try:
        run(code)
    except SystemExit as error:
        failure = _exit_failure(error.code)
    except BaseException as error:
        failure = describe(error)
    alone = _thread._count() == 0 and not threading._threading_atexits  # type: ignore[attr-defined]
    try:
        if not alone:
            threading._shutdown()  # type: ignore[attr-defined]
        atexit._run_exitfuncs()
        streams.flush()
    except BaseException as error:
        failure = failure or describe(error)
    if failure is not None:
        return codec.encode(tuple(failure), max_bytes=_MAX_WORDS_BYTES)
    return DONE if alone else SPENT


def _exit_failure(code: object) -> Words | None:
    status = 0 if code is None else code & 0xFF if isinstance(code, int) else 1
    if not status:
        return None
    return Words(kind="raised", name="SystemExit", said=str(status), note=f"exit status {status}")


class _State:
    """What a run may have changed in the interpreter and the next one should find as it was."""

    def __init__(self) -> None:
        self.seed = int(os.environ["PYTHONHASHSEED"])
        self.builtins = dict(vars(builtins))
        self.environment = dict(os.environ)
        self.directory = os.getcwd()
        self.recursion_limit = sys.getrecursionlimit()
        self.digits_limit = sys.get_int_max_str_digits()

    def restore(self) -> None:
        sys.settrace(None)
        sys.setprofile(None)
        names = vars(builtins)
        if names != self.builtins:
            names.clear()
            names.update(self.builtins)
        if os.environ != self.environment:
            os.environ.clear()
            os.environ.update(self.environment)
        os.chdir(self.directory)
        sys.argv[:] = ["program.py"]
        sys.setrecursionlimit(self.recursion_limit)
        sys.set_int_max_str_digits(self.digits_limit)
        signal.setitimer(signal.ITIMER_REAL, 0)
        threading.stack_size(0)
        gc.enable()
        random.seed(self.seed)
