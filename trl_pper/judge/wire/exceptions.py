"""Puts an exception into words that cross the boundary, and makes one of the same name from them.

Enters: an exception, or its name and what it says as plain data. Leaves: the reverse. An exception is known by the
name of a builtin or of a class that both sides define; no constructor but a builtin's runs.
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
    """Return the name of the first class of `error` that the other side has; `shared` names those that it defines."""
    for kind in type(error).__mro__:
        name = shared(kind) or (kind.__name__ if getattr(builtins, kind.__name__, None) is kind else None)
        if name is not None:
            return name
    return "Exception"


def error_text(error: BaseException) -> str:
    """Return the text of `error`, which may hold objects that refuse to be shown, or nothing."""
    try:
        return str(error)[:_MAX_MESSAGE_CHARS]
    except BaseException:
        return ""


def said_by(error: BaseException) -> Any:
    """Return the only argument of `error` where that is what its text shows, or else the text.

    A KeyError shows its key in quotes, a StopIteration and a SystemExit carry a value.
    """
    text = error_text(error)
    try:
        args = error.args
        if type(args) is tuple and len(args) == 1 and type(args[0]) in _SCALARS:
            return args[0] if text in (str(args[0]), repr(args[0])) else text
    except BaseException:
        pass
    return text


def rebuild(name: object, said: object, instances: InstanceTable) -> BaseException:
    """Return an exception of this side's class called `name` that says `said`; a RuntimeError when there is none."""
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
        error = kind.__new__(kind, said)
        # Without the constructor, which may want other arguments.
        error.args = () if said == "" else (said,)
    except (TypeError, ValueError):
        error = RuntimeError(said)
    return error
