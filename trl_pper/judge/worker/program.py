"""Compile and run the top level of a program, describe the exceptions that it raises, and seed random numbers.

This runs in a candidate, together with the program. A description is therefore a claim of the program, not a verdict.
"""

from __future__ import annotations

import builtins
import random
import sys
import types
from typing import Any

from trl_pper.judge.wire.exceptions import error_name, error_text
from trl_pper.judge.wire.rules import Words
from trl_pper.tasks.syntax import why_unreadable

_FILE_NAME = "program.py"
_MAX_LABEL_CHARS = 100


def compile_program(source: bytes) -> types.CodeType:
    """Compile the program's text.

    Raises:
        BaseException: The text is not a Python program, or too large to compile; nothing of it has run.
    """
    # The host encodes the text with "surrogatepass". `compile` refuses a byte order mark in a str.
    text = source.decode("utf-8", "surrogatepass").removeprefix("\ufeff")
    try:
        return compile(text, _FILE_NAME, "exec", dont_inherit=True)
    except (RecursionError, MemoryError) as error:
        # The parser's own words for it are no help, or none at all.
        raise SyntaxError(why_unreadable(error)) from None


def run(code: types.CodeType, name: str = "__main__") -> dict[str, Any]:
    """Run the program as a fresh module, and return its globals.

    Args:
        code: The compiled program.
        name: Name of the module: "__main__" for a script. The graders of function tests import a program or execute
            it under another name, so that `if __name__ == "__main__":` does not run.
    """
    module = types.ModuleType(name)
    namespace = module.__dict__
    namespace["__builtins__"] = builtins
    namespace["__file__"] = _FILE_NAME
    # `pickle`, `dataclasses` and `typing` look classes up by the name of their module.
    sys.modules[name] = sys.modules["__main__"] = module
    exec(code, namespace)
    return namespace


def seed_random(seed: int) -> None:
    """Seed the generators of random numbers, NumPy's as well where NumPy is loaded."""
    random.seed(seed)
    numpy = sys.modules.get("numpy")
    if numpy is not None:
        numpy.random.seed(seed)


#: Name of the module of a program under function tests; tests may import it.
MODULE_NAME = "solution"


def describe(error: BaseException) -> Words:
    """Return a description of `error`, an exception that the program raised, that can cross to another process."""
    kind = "memory" if isinstance(error, MemoryError) else "raised"
    line = ""
    traceback = error.__traceback__
    # The last frame in the program's own text is the line its author can look at.
    while traceback is not None:
        if traceback.tb_frame.f_code.co_filename == _FILE_NAME:
            line = f" (line {traceback.tb_lineno})"
        traceback = traceback.tb_next
    label, text = type(error).__name__[:_MAX_LABEL_CHARS], error_text(error)
    note = f"{label}: {text}{line}" if text else f"{label}{line}"
    return Words(kind=kind, name=error_name(error), said=text, note=note)
