"""Describe an exception as plain data, and make an exception of the same class from that data.

The class is named, and must be a builtin or a class that both sides define. When an exception is made again, no
constructor but that of a builtin runs. Traceback, cause and notes do not cross.
"""

from __future__ import annotations

import builtins
from collections.abc import Callable
from typing import Any

from trl_pper.judge.wire.instances import InstanceTable
from trl_pper.judge.wire.rules import CodecError

_MAX_MESSAGE_CHARS = 500
_SCALARS = (str, int, float, bool, type(None))


def error_name(error: BaseException, shared: Callable[[type], str | None] = lambda kind: None) -> str:
    """Return the name of the first class in the MRO of `error` that the other side has, at worst "Exception".

    Args:
        error: The exception.
        shared: Function from a class to the name under which both sides define it, or None.
    """
    for kind in type(error).__mro__:
        name = shared(kind) or (kind.__name__ if getattr(builtins, kind.__name__, None) is kind else None)
        if name is not None:
            return name
    return "Exception"


def error_text(error: BaseException) -> str:
    """Return the text of `error`, cut to 500 characters, or "" when it cannot be made."""
    # `str` may call code of the program: an exception class or an argument with a `__str__` of its own.
    try:
        return str(error)[:_MAX_MESSAGE_CHARS]
    except BaseException:
        return ""


def said_by(error: BaseException) -> Any:
    """Return the only argument of `error` if the text of `error` shows it, otherwise the text.

    Only a str, int, float, bool or None is returned as an argument.
    """
    # The text alone would lose something: a KeyError shows its key in quotes, and a StopIteration and a SystemExit
    # carry a value.
    text = error_text(error)
    try:
        args = error.args
        if type(args) is tuple and len(args) == 1 and type(args[0]) in _SCALARS:
            return args[0] if text in (str(args[0]), repr(args[0])) else text
    except BaseException:
        pass
    return text


def rebuild(name: object, said: object, instances: InstanceTable) -> BaseException:
    """Return an exception of this side's class `name`.

    Args:
        name: Name of a builtin exception or of a shared class, from an untrusted peer.
        said: The only argument of the exception; "" for none.
        instances: The table of classes that both sides have.

    Returns:
        The exception; a RuntimeError when no exception class has that name or it cannot be made.
    """
    kind: object = None
    if isinstance(name, str):
        kind = getattr(builtins, name, None)
        if name in instances.names:
            try:
                kind = instances.find(name)
            except CodecError:
                kind = Exception
    if not (isinstance(kind, type) and issubclass(kind, BaseException)):
        kind = RuntimeError
    try:
        # `__new__` without `__init__`, which may want other arguments or do more than keep them.
        error = kind.__new__(kind, said)
        error.args = () if said == "" else (said,)
    except (TypeError, ValueError):
        error = RuntimeError(said)
    return error
