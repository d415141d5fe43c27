"""Runs one untrusted program in a process of its own and answers what the host or the referee asks of it.

Enters: the program's source and, call by call, plain data. Leaves: plain data. Nothing here is trusted once the
program has started, because the program shares the process: whatever leaves is treated as the program's own words,
never as a verdict. Expected answers never come here.
"""

from __future__ import annotations

import _sitebuiltins
import atexit
import builtins
import collections
import os
import random
import socket
import sys
import threading
import types
from collections.abc import Callable
from typing import Any

from trl_pper.judge import codec
from trl_pper.judge.channel import ChannelClosed, receive_frame, send_frame

#: Descriptors a candidate starts with, after standard input, output and error.
CHANNEL, PROGRAM = 3, 4
READY = b"ready"
_FILE_NAME = "program.py"
_MAX_MESSAGE_CHARS = 500
_MAX_HANDLES = 100_000


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


def _load(source: bytes) -> dict[str, Any]:
    """Run the program as a fresh `__main__`; return its globals."""
    code = compile(source.decode("utf-8", "surrogatepass"), _FILE_NAME, "exec", dont_inherit=True)
    main_module = types.ModuleType("__main__")
    main_module.__dict__.update(__builtins__=builtins, __file__=_FILE_NAME)
    sys.modules["__main__"] = main_module
    exec(code, main_module.__dict__)
    return main_module.__dict__


def _describe(error: BaseException) -> tuple[str, str, str, str]:
    """Return (kind, builtin exception name, text, text for people) of `error`."""
    kind = "memory" if isinstance(error, MemoryError) else "raised"
    name = next((c.__name__ for c in type(error).__mro__ if getattr(builtins, c.__name__, None) is c), "Exception")
    try:
        text = str(error)[:_MAX_MESSAGE_CHARS]
    except BaseException:
        text = ""
    line = ""
    traceback = error.__traceback__
    while traceback is not None:
        if traceback.tb_frame.f_code.co_filename == _FILE_NAME:
            line = f" (line {traceback.tb_lineno})"
        traceback = traceback.tb_next
    label = type(error).__name__
    return kind, name, text, f"{label}: {text}{line}" if text else f"{label}{line}"


def _is_compile_error(error: BaseException) -> bool:
    """Whether the program never started: compiling failed, rather than a compile() of its own."""
    traceback = error.__traceback__
    while traceback is not None:
        if traceback.tb_frame.f_code.co_filename == _FILE_NAME:
            return False
        traceback = traceback.tb_next
    return not isinstance(error, SystemExit | KeyboardInterrupt)


def _report_load_failure(channel: socket.socket, error: BaseException) -> None:
    kind, *details = _describe(error)
    if _is_compile_error(error):
        kind = "syntax"
    send_frame(channel, codec.encode((kind, *details), max_bytes=1 << 16))


def run_script(source: bytes, channel: socket.socket) -> None:
    """Run the program as a script; exit as the interpreter would."""
    status = 0
    try:
        _load(source)
    except SystemExit as error:
        status = _exit_status(error.code)
    except BaseException as error:
        status = 1
        _report_load_failure(channel, error)
    try:
        threading._shutdown()  # type: ignore[attr-defined]
        atexit._run_exitfuncs()
        sys.stdout.flush()
    except BaseException as error:
        status = status or 120
        _report_load_failure(channel, error)
    finally:
        os._exit(status)


def _exit_status(code: object) -> int:
    if code is None:
        return 0
    return code & 0xFF if isinstance(code, int) else 1


class _Calls:
    """Answers the referee: names, attributes and calls of the program's objects."""

    def __init__(self, namespace: dict[str, Any], max_bytes: int) -> None:
        self.namespace = namespace
        self.max_bytes = max_bytes
        self.objects: list[Any] = []
        self.number_by_id: dict[int, int] = {}

    def handle(self, value: Any) -> int:
        number = self.number_by_id.setdefault(id(value), len(self.objects))
        if number == len(self.objects):
            if number >= _MAX_HANDLES:
                raise codec.CodecError(f"more than {_MAX_HANDLES} objects")
            self.objects.append(value)
        return number

    def encode(self, value: Any) -> bytes:
        return codec.encode(value, max_bytes=self.max_bytes, opaque=self.handle)

    def answer(self, request: bytes) -> bytes:
        operation, *operands = codec.decode(request, resolve=lambda number: self.objects[number])
        try:
            return self.encode(("value", *getattr(self, f"do_{operation}")(*operands)))
        except codec.CodecError as error:
            return codec.encode(("refused", "", str(error), str(error)), max_bytes=1 << 16)
        except BaseException as error:
            error.__traceback__ = error.__traceback__ and error.__traceback__.tb_next
            return codec.encode(_describe(error), max_bytes=1 << 16)

    def do_global(self, name: str) -> tuple[Any, None]:
        if name in self.namespace:
            return self.namespace[name], None
        raise NameError(f"name {name!r} is not defined")

    def do_attribute(self, target: Any, name: str) -> tuple[Any, None]:
        return getattr(target, name), None

    def do_items(self, target: Any) -> tuple[Any, None]:
        return codec.take(iter(target), codec.MAX_ITERATOR_ITEMS), None

    def do_truth(self, target: Any) -> tuple[Any, None]:
        return bool(target), None

    def do_length(self, target: Any) -> tuple[Any, None]:
        return len(target), None

    def do_item(self, target: Any, key: Any) -> tuple[Any, None]:
        return target[key], None

    def do_call(self, target: Callable[..., Any], args: tuple[Any, ...], keywords: dict[str, Any]) -> tuple[Any, Any]:
        mutable = any(type(arg) in _MUTABLE for arg in (*args, *keywords.values()))
        before = self.encode((args, keywords)) if mutable else b""
        result = target(*args, **keywords)
        # Arguments go back only when the call changed them.
        changed = mutable and self.encode((args, keywords)) != before
        return result, (args, keywords) if changed else None


#: A tuple may hold something mutable.
_MUTABLE = frozenset((list, dict, set, bytearray, tuple, collections.deque))


def answer_calls(source: bytes, channel: socket.socket, *, max_bytes: int) -> None:
    """Load the program, then answer the referee's requests until it hangs up."""
    try:
        namespace = _load(source)
    except BaseException as error:
        _report_load_failure(channel, error)
        return
    send_frame(channel, codec.encode(("loaded", "", "", ""), max_bytes=1 << 16))
    calls = _Calls(namespace, max_bytes)
    while True:
        try:
            request = receive_frame(channel, max_bytes=1 << 40)
        except ChannelClosed:
            return
        send_frame(channel, calls.answer(request))
