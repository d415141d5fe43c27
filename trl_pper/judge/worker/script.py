"""Run the program as a script in a candidate process, once for each input that the host sends, or run a checker.

The program prints to descriptor 1, a file that the host reads. A frame on the channel reports how each run ended.

Between two runs the interpreter is restored only as far as that is cheap, so an earlier run can influence a later one.
The host allows for it: a test that fails in a used process counts only after a repetition in a fresh process, and the
host repeats a single passed test, too.

A checker that travels with a task runs in a candidate process as well, which prints to nowhere: see `run_checker`.
"""

from __future__ import annotations

import _thread
import atexit
import builtins
import functools
import gc
import os
import random
import signal
import socket
import sys
import threading
import types
from collections.abc import Callable
from typing import Any, TextIO

from trl_pper.judge.wire import codec
from trl_pper.judge.wire.channel import ChannelClosed, FrameReader, Wait, send_frame
from trl_pper.judge.wire.rules import DONE, SPENT, Words
from trl_pper.judge.worker.program import compile_program, describe, run

#: Descriptors that a script starts with, after the descriptors of every candidate: the files of the standard streams.
OUTPUT, ERRORS, INPUT = 5, 6, 7
_MAX_INPUT_BYTES = 1 << 40
_MAX_WORDS_BYTES = 1 << 16
_MAX_MESSAGE_CHARS = 500


def run_script(source: bytes, channel: socket.socket, wait: Wait | None = None) -> None:
    """Run the program on every input that arrives; never returns.

    Args:
        source: The program's text in UTF-8.
        channel: The socket to the host.
        wait: Called before each input is read, to renew the CPU time of this process.
    """
    # Scripts may read and print numbers of any length, as on judges of contests; the CPU limit bounds the conversion.
    sys.set_int_max_str_digits(0)
    if not os.path.exists("/dev/stdout"):
        builtins.open = _open_output
    state, streams, reader = _State(), Streams(), FrameReader(channel, wait)
    code: types.CodeType | None = None
    while True:
        try:
            given = reader.read(_MAX_INPUT_BYTES)
        except ChannelClosed:
            # Without the exit handlers that the program may have registered.
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


def run_checker(source: bytes, channel: socket.socket, wait: Wait | None = None) -> None:
    """Run a checker on every output that arrives, between its input and the expected output; never returns.

    Args:
        source: The checker's text in UTF-8; it defines `check`.
        channel: The socket to the host.
        wait: Called before each text is read, to renew the CPU time of this process.
    """
    # The checker has to read what a script may print.
    sys.set_int_max_str_digits(0)
    reader = FrameReader(channel, wait)
    check: Callable[[str, str, str], object] | None = None
    answer: tuple[bool | None, str]
    while True:
        try:
            given, printed, expected = (reader.read(_MAX_INPUT_BYTES) for _ in range(3))
        except ChannelClosed:
            os._exit(0)
        try:
            check = check or _load_check(source)
            # The host encodes its own texts with "surrogatepass"; a program may have printed any bytes.
            given_text, expected_text = (text.decode("utf-8", "surrogatepass") for text in (given, expected))
            answer = _checker_answer(check(given_text, printed.decode("utf-8", "replace"), expected_text))
        except BaseException as error:
            answer = None, describe(error).note
        send_frame(channel, codec.encode(answer, max_bytes=_MAX_WORDS_BYTES))


def _load_check(source: bytes) -> Callable[[str, str, str], object]:
    found: Callable[[str, str, str], object] | None = run(compile_program(source), "checker").get("check")
    if not callable(found):
        raise TypeError("the checker must define check(input, output, expected)")
    return found


def _checker_answer(value: Any) -> tuple[bool, str]:
    accepted, said = value if isinstance(value, tuple) and len(value) == 2 else (value, "")
    if not isinstance(accepted, bool):
        kind = type(accepted).__name__[:_MAX_MESSAGE_CHARS]
        raise TypeError(f"check must return a bool, or a bool and a message; got {kind}")
    return accepted, str(said or "")[:_MAX_MESSAGE_CHARS]


_OUTPUTS = {"/dev/stdout": 1, "/dev/stderr": 2}
_open = builtins.open


@functools.wraps(_open)
def _open_output(file: Any, *args: Any, **keywords: Any) -> Any:
    """Open a file, or a copy of an output stream by its name in /dev."""
    # In a jail without /proc these names lead nowhere.
    number = _OUTPUTS.get(file) if isinstance(file, str) else None
    return _open(file if number is None else os.dup(number), *args, **keywords)


class Streams:
    """The text streams of `sys` over descriptors 0, 1 and 2."""

    def __init__(self) -> None:
        self._output: TextIO | None = None
        self._errors: TextIO | None = None

    def renew(self) -> None:
        """Set a new `sys.stdin`, and new output streams if the last run replaced or changed them."""
        sys.stdin = sys.__stdin__ = open(0, encoding="utf-8", errors="surrogateescape", closefd=False)  # type: ignore[misc]
        if not self._intact():
            self._output = open(1, "w", encoding="utf-8", errors="surrogateescape", closefd=False)
            self._errors = open(2, "w", encoding="utf-8", errors="backslashreplace", closefd=False, buffering=1)
        vars(sys).update(stdout=self._output, __stdout__=self._output, stderr=self._errors, __stderr__=self._errors)

    def flush(self) -> None:
        """Flush the standard output, as an interpreter does at its end."""
        # The program may have replaced `sys.stdout`, after it had printed to the first stream.
        output = getattr(sys, "stdout", None)
        if output is not None and not getattr(output, "closed", False):
            output.flush()
        try:
            self._output.flush()  # type: ignore[union-attr]
        except ValueError:
            # The program closed the stream or detached its buffer.
            pass

    def _intact(self) -> bool:
        output, errors = self._output, self._errors
        try:
            same = output is not None and sys.stdout is output and sys.stderr is errors
            return same and not (output.closed or errors.closed or output.line_buffering or output.write_through)  # type: ignore[union-attr]
        except (AttributeError, ValueError):
            # The program detached the buffer.
            return False


def _connect(given: bytes, streams: Streams) -> None:
    """Write `given` to the input file, and connect descriptors 0 to 2 to the files of the standard streams."""
    os.ftruncate(INPUT, 0)
    view = memoryview(given)
    while view:
        view = view[os.pwrite(INPUT, view, len(given) - len(view)) :]
    # `pwrite` leaves the position alone, and the last run has moved it: duplicated descriptors share it.
    os.lseek(INPUT, 0, os.SEEK_SET)
    # The last run may have closed or redirected any of the three.
    os.dup2(INPUT, 0)
    os.dup2(OUTPUT, 1)
    os.dup2(ERRORS, 2)
    streams.renew()


def _run_once(code: types.CodeType, streams: Streams) -> bytes:
    """Run the program from start to exit, as an interpreter would.

    Returns:
        The payload for the host: DONE, SPENT where the process must not run the program again, or an encoded failure.
    """
    failure: Words | None = None
    try:
        run(code)
    except SystemExit as error:
        failure = _exit_failure(error.code)
    except BaseException as error:
        failure = describe(error)
    # A thread that is still running, or a hook of `threading` that would end one, can disturb the next run.
    alone = _thread._count() == 0 and not threading._threading_atexits  # type: ignore[attr-defined]
    try:
        if not alone:
            # As at the end of an interpreter: wait for all threads that are not daemons.
            threading._shutdown()  # type: ignore[attr-defined]
        atexit._run_exitfuncs()
        streams.flush()
    except BaseException as error:
        failure = failure or describe(error)
    if failure is not None:
        return codec.encode(tuple(failure), max_bytes=_MAX_WORDS_BYTES)
    return DONE if alone else SPENT


def _exit_failure(code: object) -> Words | None:
    # As a shell sees it: text given to `sys.exit` means status 1, and a number counts modulo 256.
    status = 0 if code is None else code & 0xFF if isinstance(code, int) else 1
    if not status:
        return None
    return Words(kind="raised", name="SystemExit", said=str(status), note=f"exit status {status}")


class _State:
    """The state of the interpreter before the first run, to be restored after each run."""

    def __init__(self) -> None:
        self.seed = int(os.environ["PYTHONHASHSEED"])
        self.builtins = dict(vars(builtins))
        self.environment = dict(os.environ)
        self.directory = os.getcwd()
        self.recursion_limit = sys.getrecursionlimit()
        self.digits_limit = sys.get_int_max_str_digits()

    def restore(self) -> None:
        # No more than is cheap: modules that a run changed stay changed.
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
