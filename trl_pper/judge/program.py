"""Runs the program's top level in a candidate process, and puts what it raised into words.

Enters: source text. Leaves: the globals of a fresh `__main__`, or a failure as four strings.
"""

from __future__ import annotations

import builtins
import sys
import types
from typing import Any

_FILE_NAME = "program.py"
_MAX_MESSAGE_CHARS = 500


def compile_program(source: bytes) -> types.CodeType:
    """Compile the program's text; whatever this raises means that it never started."""
    return compile(source.decode("utf-8", "surrogatepass"), _FILE_NAME, "exec", dont_inherit=True)


def run(code: types.CodeType) -> dict[str, Any]:
    """Run the program as a fresh `__main__`; return its globals."""
    main_module = types.ModuleType("__main__")
    namespace = main_module.__dict__
    namespace["__builtins__"] = builtins
    namespace["__file__"] = _FILE_NAME
    sys.modules["__main__"] = main_module
    exec(code, namespace)
    return namespace


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
