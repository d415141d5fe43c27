"""Runs the program's top level in a candidate process, and puts what it raised into words.

Enters: source text. Leaves: the globals of a fresh `__main__`, or a failure as four strings sent to whoever asked.
"""

from __future__ import annotations

import builtins
import socket
import sys
import types
from typing import Any

from trl_pper.judge import codec
from trl_pper.judge.channel import send_frame

_FILE_NAME = "program.py"
_MAX_MESSAGE_CHARS = 500


def load(source: bytes) -> dict[str, Any]:
    """Run the program as a fresh `__main__`; return its globals."""
    code = compile(source.decode("utf-8", "surrogatepass"), _FILE_NAME, "exec", dont_inherit=True)
    main_module = types.ModuleType("__main__")
    main_module.__dict__.update(__builtins__=builtins, __file__=_FILE_NAME)
    sys.modules["__main__"] = main_module
    exec(code, main_module.__dict__)
    return main_module.__dict__


def describe(error: BaseException) -> tuple[str, str, str, str]:
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


def report_failure(channel: socket.socket, error: BaseException) -> None:
    """Send the failure of the program's top level as `(kind, exception name, text, text for people)`."""
    kind, *details = describe(error)
    if _is_compile_error(error):
        kind = "syntax"
    send_frame(channel, codec.encode((kind, *details), max_bytes=1 << 16))
