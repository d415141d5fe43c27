"""Run the program as a script in a process of its own for each test, or run a checker.

A candidate compiles the program once. The host then sends the descriptors of each test, and the candidate forks a
child that runs the program; where programs may start processes it runs a single test itself instead. So every test
finds an interpreter in which nothing has run. The program prints to descriptor 1, a file that the host reads. A frame
on the test's channel reports how the run ended.

A checker that travels with a task runs in a candidate process as well, which prints to nowhere: see `run_checker`.
"""

from __future__ import annotations

import _thread
import atexit
import builtins
import fcntl
import functools
import os
import socket
import sys
import threading
import types
from collections.abc import Callable, Sequence
from typing import Any, TextIO

from trl_pper.judge.wire import codec
from trl_pper.judge.wire.channel import ChannelClosed, FrameReader, Wait, frame, send_frame
from trl_pper.judge.wire.rules import DONE, MANY, ONCE, READY, SCRIPT_ENDING, Words
from trl_pper.judge.worker.program import compile_program, describe, run

#: Descriptors that a candidate for scripts has: its channel to the host and the file behind /dev/stdin from the start,
#: then those of a test, of which the channel takes the place of the candidate's own.
CHANNEL, INPUT, OUTPUT, ERRORS = 3, 5, 6, 7
_DESCRIPTORS_PER_TEST = 3
_MAX_INPUT_BYTES = 1 << 40
_MAX_WORDS_BYTES = 1 << 16
_MAX_MESSAGE_CHARS = 500
_READY = frame(READY)


def run_scripts(
    source: bytes, channel: socket.socket, wait: Wait | None = None, fork: Callable[[], int] | None = None
) -> None:
    """Run the program on every test that arrives; never returns.

    Args:
        source: The program's text in UTF-8.
        channel: The socket to the host, on descriptor CHANNEL.
        wait: Called before the input is read, to renew the CPU time of this process.
        fork: Forks a sealed child and returns 0 in it; None where this process is to run a single test itself.
    """
    # Scripts may read and print numbers of any length, as on judges of contests; the CPU limit bounds the conversion.
    sys.set_int_max_str_digits(0)
    if not os.path.exists("/dev/stdout"):
        builtins.open = _open_output
    try:
        code = compile_program(source)
    except BaseException as error:
        send_frame(channel, codec.encode(tuple(describe(error)._replace(kind="syntax")), max_bytes=_MAX_WORDS_BYTES))
        os._exit(0)
    send_frame(channel, ONCE if fork is None else MANY)
    while True:
        word, descriptors, _, _ = socket.recv_fds(channel, 1, _DESCRIPTORS_PER_TEST)
        if not word:
            os._exit(0)
        # The flags belong to the open file, which all children share.
        fcntl.fcntl(INPUT, fcntl.F_SETFL, 0)
        pid = fork() if fork is not None else 0
        if pid == 0:
            try:
                _run_test(code, descriptors, channel, wait)
            finally:
                # Whatever happens, a child never returns into the loop.
                os._exit(125)
        for descriptor in descriptors:
            os.close(descriptor)
        _, status = os.waitpid(pid, 0)
        send_frame(channel, SCRIPT_ENDING.pack(status, _room_is_used()))


def _room_is_used() -> bool:
    try:
        return bool(os.listdir())
    except OSError:
        # The program has closed the directory.
        return True


def _run_test(code: types.CodeType, descriptors: Sequence[int], channel: socket.socket, wait: Wait | None) -> None:
    """Run the program once; never returns."""
    for descriptor, number in zip(descriptors, (CHANNEL, OUTPUT, ERRORS), strict=True):
        os.dup2(descriptor, number)
    for descriptor in set(descriptors) - {OUTPUT, ERRORS}:
        os.close(descriptor)
    # A candidate that ends before this message is a failure of the sandbox; after it, of the program.
    os.write(CHANNEL, _READY)
    given = FrameReader(channel, wait).read(_MAX_INPUT_BYTES)
    _connect(given)
    send_frame(channel, _run_once(code))
    # Without the exit handlers that the program may have registered since.
    os._exit(0)


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


_streams: dict[str, TextIO] = {}


def open_streams() -> None:
    """Set the text streams of `sys` over descriptors 0, 1 and 2; called once, before any fork."""
    # As the interpreter does: a carriage return is a character like others.
    _streams["stdin"] = open(0, encoding="utf-8", errors="surrogateescape", closefd=False, newline="\n")
    _streams["stdout"] = open(1, "w", encoding="utf-8", errors="surrogateescape", closefd=False)
    _streams["stderr"] = open(2, "w", encoding="utf-8", errors="backslashreplace", closefd=False, buffering=1)
    for name, stream in _streams.items():
        stream.buffer.raw.name = f"<{name}>"  # type: ignore[attr-defined]
        vars(sys).update({name: stream, f"__{name}__": stream})


def _flush_streams() -> None:
    """Flush the standard output, as an interpreter does at its end."""
    # The program may have replaced `sys.stdout`, after it had printed to the first stream.
    output = getattr(sys, "stdout", None)
    if output is not None and not getattr(output, "closed", False):
        output.flush()
    try:
        _streams["stdout"].flush()
    except ValueError:
        # The program closed the stream or detached its buffer.
        pass


def _connect(given: bytes) -> None:
    """Write `given` to the input file, and connect descriptors 0 to 2 to the files of the standard streams."""
    os.ftruncate(INPUT, 0)
    view = memoryview(given)
    while view:
        view = view[os.pwrite(INPUT, view, len(given) - len(view)) :]
    # `pwrite` leaves the position alone, and an earlier test has moved it.
    os.lseek(INPUT, 0, os.SEEK_SET)
    os.dup2(INPUT, 0)
    os.dup2(OUTPUT, 1)
    os.dup2(ERRORS, 2)


def _run_once(code: types.CodeType) -> bytes:
    """Run the program from start to exit, as an interpreter would.

    Returns:
        The payload for the host: DONE, or an encoded failure.
    """
    failure: Words | None = None
    try:
        run(code)
    except SystemExit as error:
        failure = _exit_failure(error.code)
    except BaseException as error:
        failure = describe(error)
    try:
        # A thread that is still running, or a hook of `threading` that would end one.
        if _thread._count() or threading._threading_atexits:  # type: ignore[attr-defined]
            # As at the end of an interpreter: wait for all threads that are not daemons.
            threading._shutdown()  # type: ignore[attr-defined]
        atexit._run_exitfuncs()
        _flush_streams()
    except BaseException as error:
        failure = failure or describe(error)
    return DONE if failure is None else codec.encode(tuple(failure), max_bytes=_MAX_WORDS_BYTES)


def _exit_failure(code: object) -> Words | None:
    # As a shell sees it: text given to `sys.exit` means status 1, and a number counts modulo 256.
    # A number that is too large for C is status 255.
    status = (
        0 if code is None else 1 if not isinstance(code, int) else code & 0xFF if -(2**63) <= code < 2**63 else 255
    )
    if not status:
        return None
    return Words(kind="raised", name="SystemExit", said=str(status), note=f"exit status {status}")
