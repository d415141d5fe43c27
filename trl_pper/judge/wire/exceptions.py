"""Describe an exception as plain data, and make a builtin exception from that data.

When an exception is made again, only the constructor of a builtin runs. Traceback, cause and notes do not cross, and
of the arguments only the text: tests that look into an exception run in one process with the program.
"""

from __future__ import annotations

import builtins

_MAX_MESSAGE_CHARS = 500


def error_name(error: BaseException) -> str:
    """Return the name of the first builtin class in the MRO of `error`."""
    names = (kind.__name__ for kind in type(error).__mro__ if getattr(builtins, kind.__name__, None) is kind)
    return next(names, "Exception")


def error_text(error: BaseException) -> str:
    """Return the text of `error`, cut to 500 characters, or "" when it cannot be made."""
    # `str` may call code of the program: an exception class or an argument with a `__str__` of its own.
    try:
        return str(error)[:_MAX_MESSAGE_CHARS]
    except BaseException:
        return ""


def rebuild(name: object, said: object) -> BaseException:
    """Return an exception of the builtin class `name`, which an untrusted peer chose, with the text `said`.

    Returns:
        The exception; a RuntimeError when no exception class has that name or it cannot be made.
    """
    kind: object = getattr(builtins, name, None) if isinstance(name, str) else None
    if not (isinstance(kind, type) and issubclass(kind, BaseException)):
        kind = RuntimeError
    try:
        # `__new__` without `__init__`, which may want other arguments or do more than keep them.
        error = kind.__new__(kind, said)
        error.args = (said,)
    except (TypeError, ValueError):
        error = RuntimeError(said)
    return error
