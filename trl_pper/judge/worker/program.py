"""Runs the program's top level in a candidate process, and puts what it raised into words.

Enters: source text. Leaves: the globals of a fresh `__main__`, or a failure as four strings.
"""

from __future__ import annotations

import builtins
import sys
import types
from collections.abc import Callable
from typing import Any

from trl_pper.judge.wire.exceptions import error_name, error_text
from trl_pper.judge.wire.rules import Words

_FILE_NAME = "program.py"
_MAX_LABEL_CHARS = 100


def compile_program(source: bytes) -> types.CodeType:
    """Compile the program's text; whatever this raises means that it never started."""
    return compile(
        source.decode("utf-8", "surrogatepass").removeprefix("\ufeff"), _FILE_NAME, "exec", dont_inherit=True
    )


def run(code: types.CodeType) -> dict[str, Any]:
    """Run the program as a fresh `__main__`; return its globals."""
    main_module = types.ModuleType("__main__")
    namespace = main_module.__dict__
    namespace["__builtins__"] = builtins
    namespace["__file__"] = _FILE_NAME
    sys.modules["__main__"] = main_module
    exec(code, namespace)
    return namespace


def describe(error: BaseException, shared: Callable[[type], str | None] = lambda kind: None) -> Words:
    """Return `error` in words.

    Args:
        error: What the program raised.
        shared: Gives the name of a class that the tests define too; without one, builtins alone have names.
    """
    kind = "memory" if isinstance(error, MemoryError) else "raised"
    line = ""
    traceback = error.__traceback__
    while traceback is not None:
        if traceback.tb_frame.f_code.co_filename == _FILE_NAME:
            line = f" (line {traceback.tb_lineno})"
        traceback = traceback.tb_next
    label, text = type(error).__name__[:_MAX_LABEL_CHARS], error_text(error)
    note = f"{label}: {text}{line}" if text else f"{label}{line}"
    return Words(kind=kind, name=error_name(error, shared), said=text, note=note)
