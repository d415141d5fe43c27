"""Answers, in a candidate process, what test code asks of the program: names, attributes and calls.

Enters: requests as plain data. Leaves: plain data, handles for everything else, and exceptions by name. Nothing that
leaves is trusted: it is the program's own words.
"""

from __future__ import annotations

import collections
import socket
from collections.abc import Callable
from typing import Any

from trl_pper.judge import codec
from trl_pper.judge.channel import ChannelClosed, receive_frame, send_frame
from trl_pper.judge.program import compile_program, describe, run

_MAX_HANDLES = 100_000


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
            return codec.encode(describe(error), max_bytes=1 << 16)

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
        code = compile_program(source)
    except BaseException as error:
        _, *details = describe(error)
        send_frame(channel, codec.encode(("syntax", *details), max_bytes=1 << 16))
        return
    try:
        namespace = run(code)
    except BaseException as error:
        send_frame(channel, codec.encode(describe(error), max_bytes=1 << 16))
        return
    send_frame(channel, codec.encode(("loaded", "", "", ""), max_bytes=1 << 16))
    calls = _Calls(namespace, max_bytes)
    while True:
        try:
            request = receive_frame(channel, max_bytes=1 << 40)
        except ChannelClosed:
            return
        send_frame(channel, calls.answer(request))
