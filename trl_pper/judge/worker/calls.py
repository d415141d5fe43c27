"""Answers, in a candidate process, what test code asks of the program: names, attributes and calls.

Enters: requests as plain data. Leaves: plain data, handles for everything else, exceptions by name, and calls of the
functions that the tests handed over, which run in the referee. Nothing that leaves is trusted: it is the program's own
words. Functions of the tests can be called only while a test waits for the program, from any one thread at a time.
"""

from __future__ import annotations

import builtins
import marshal
import operator
import os
import socket
import threading
from collections.abc import Callable
from typing import Any

from trl_pper.judge.wire import codec
from trl_pper.judge.wire.callbacks import find_in_library
from trl_pper.judge.wire.channel import ChannelClosed, FrameReader, Wait, send_frame
from trl_pper.judge.wire.exceptions import rebuild, said_by
from trl_pper.judge.wire.instances import InstanceTable, MissingClass, changeable
from trl_pper.judge.wire.rules import COUNT, Words
from trl_pper.judge.wire.write_back import write_back
from trl_pper.judge.worker.program import compile_program, describe, run

_MAX_HANDLES = 100_000
_WARM_UPS = 64
_MAX_REQUEST_BYTES = 1 << 40
_MAX_WORDS_BYTES = 1 << 16
_FIRST_SERIAL = COUNT.pack(0)


def _convert(function: str, target: Any) -> Any:
    convert: Callable[[Any], Any] = operator.index if function == "index" else getattr(builtins, function)
    return convert(target)


def _exit(target: Any, name: str | None) -> bool:
    kind = getattr(builtins, name) if name else None
    return bool(type(target).__exit__(target, kind, kind() if kind else None, None))


def _extends_data(kind: Any) -> bool:
    # Objects of such a class cross as the builtin it extends, so that their class is not known any more.
    return any(base.__module__ == "builtins" and base is not object for base in kind.__mro__)


#: What the referee may ask for besides a call: each needs nothing but its operands.
_OPERATIONS: dict[str, Callable[..., Any]] = {
    "attribute": getattr,
    "set_attribute": setattr,
    "delete_attribute": delattr,
    "items": lambda target: codec.take(iter(target), codec.MAX_ITERATOR_ITEMS),
    "next": next,
    "truth": bool,
    "length": len,
    "item": operator.getitem,
    "set_item": operator.setitem,
    "delete_item": operator.delitem,
    "convert": _convert,
    "operator": lambda name, *operands: getattr(operator, f"__{name}__")(*operands),
    "enter": lambda target: type(target).__enter__(target),
    "exit": _exit,
    "is_instance": isinstance,
    "extends_data": _extends_data,
}


class _Calls:
    """Answers the referee, and calls it back."""

    def __init__(
        self, channel: socket.socket, namespace: dict[str, Any], max_bytes: int, wait: Wait | None = None
    ) -> None:
        self.channel = channel
        self.reader = FrameReader(channel, wait)
        self.namespace = namespace
        self.max_bytes = max_bytes
        self.objects: list[Any] = []
        self.number_by_id: dict[int, int] = {}
        self.functions: dict[int, Callable[..., Any]] = {}
        self.function_numbers: dict[int, int] = {}
        self.instances = InstanceTable(namespace, {}, trusted=False)
        self.operations = _OPERATIONS | {"classes": self.learn_classes, "global": self.find_global}
        #: Number of the request being answered; None while no test waits.
        self.serial: bytes | None = None
        self.turn = threading.RLock()
        self.process = os.getpid()

    def serve(self) -> None:
        """Answer until the referee hangs up."""
        while True:
            try:
                request = self.reader.read(_MAX_REQUEST_BYTES)
            except ChannelClosed:
                return
            self.instances.clear()
            reply = self.answer(request)
            if os.getpid() != self.process:
                # A child that the program forked and let run on has no part in the conversation.
                os._exit(0)
            with self.turn:
                self.serial = None
                send_frame(self.channel, reply)

    def answer(self, request: bytes) -> bytes:
        """Return the reply to one request."""
        serial = self.serial = request[: COUNT.size]
        try:
            operation, *operands = self.decode(request)
            changed = None
            if operation == "call":
                value, changed = self.call(*operands)
            else:
                value = self.operations[operation](*operands)
            return serial + self.encode(("value", value, changed))
        except MissingClass as error:
            words = Words(kind="lacks", name="", said=str(error), note="")
        except codec.CodecError as error:
            words = Words(kind="refused", name="", said=str(error), note=str(error))
        except BaseException as error:
            error.__traceback__ = error.__traceback__ and error.__traceback__.tb_next
            words = describe(error, self.instances.name_of)._replace(said=said_by(error))
        return serial + codec.encode(tuple(words), max_bytes=_MAX_WORDS_BYTES)

    def encode(self, value: Any) -> bytes:
        return codec.encode(value, max_bytes=self.max_bytes, opaque=self.number, instances=self.instances)

    def decode(self, message: bytes) -> Any:
        return codec.decode(message, start=COUNT.size, resolve=self.resolve, instances=self.instances)

    def number(self, value: Any) -> bytes:
        """Return the bytes that stand for an object that is not data."""
        function = self.function_numbers.get(id(value))
        if function is not None:
            return b"g" + COUNT.pack(function)
        number = self.number_by_id.setdefault(id(value), len(self.objects))
        if number == len(self.objects):
            if number >= _MAX_HANDLES:
                raise codec.CodecError(f"more than {_MAX_HANDLES} objects")
            self.objects.append(value)
        return b"H" + COUNT.pack(number)

    def resolve(self, tag: bytes, number: Any) -> Any:
        """Return what a tag and a number of the referee's stand for here."""
        if tag == b"H":
            return self.objects[number]
        if tag == b"L":
            return find_in_library(number)
        if number not in self.functions:
            self.functions[number] = self.function(number)
            self.function_numbers[id(self.functions[number])] = number
        return self.functions[number]

    def function(self, number: int) -> Callable[..., Any]:
        """Return a function that runs the tests' function `number` in the referee."""

        def given_by_the_tests(*args: Any, **keywords: Any) -> Any:
            return self.call_back(number, args, keywords)

        return given_by_the_tests

    def call_back(self, number: int, args: tuple[Any, ...], keywords: dict[str, Any]) -> Any:
        """Have the referee run a function of the tests; return or raise what it does."""
        if os.getpid() != self.process:
            raise RuntimeError("a function of the tests cannot be called from another process")
        with self.turn:
            serial = self.serial
            if serial is None:
                raise RuntimeError("a function of the tests can be called only while a test waits for the program")
            send_frame(self.channel, serial + self.encode(("callback", number, args, keywords)))
            while True:
                message = self.reader.read(_MAX_REQUEST_BYTES)
                if message.startswith(serial):
                    break
                # The tests' function calls the program in its turn.
                send_frame(self.channel, self.answer(message))
                self.serial = serial
            kind, value, more = self.decode(message)
        if kind == "raised":
            raise rebuild(value, more, self.instances)
        if more is not None:
            write_back((args, keywords), more)
        return value

    def learn_classes(self, names: dict[str, bool]) -> None:
        """Take the names of the classes that the tests define."""
        self.instances.names = names

    def find_global(self, name: str) -> Any:
        """Return a global of the program."""
        if name in self.namespace:
            return self.namespace[name]
        raise NameError(f"name {name!r} is not defined")

    def call(self, target: Callable[..., Any], args: tuple[Any, ...], keywords: dict[str, Any]) -> tuple[Any, Any]:
        """Call an object of the program; return the result, and the arguments if the call changed them."""
        arguments = changeable(args, keywords, self.instances)
        before = self.snapshot(arguments)
        result = target(*args, **keywords)
        return result, arguments if self.snapshot(arguments) != before else None

    def snapshot(self, arguments: Any) -> bytes:
        """Return the bytes of arguments, to see whether a call changed them."""
        if arguments is None:
            return b""
        try:
            # Version 2 depends on nothing but the values. Nobody reads these bytes as values again.
            return marshal.dumps(arguments, 2)
        except ValueError:
            # Something in them is not plain data.
            pass
        size = len(self.instances.objects)
        try:
            return self.encode(arguments)
        finally:
            self.instances.truncate(size)


def answer_calls(source: bytes, channel: socket.socket, *, max_bytes: int, wait: Wait | None = None) -> None:
    """Load the program, then answer the referee's requests, calling `wait` before each, until it hangs up."""

    def tell(words: Words) -> None:
        send_frame(channel, _FIRST_SERIAL + codec.encode(tuple(words), max_bytes=_MAX_WORDS_BYTES))

    try:
        code = compile_program(source)
    except BaseException as error:
        return tell(describe(error)._replace(kind="syntax"))
    try:
        namespace = run(code)
    except BaseException as error:
        return tell(describe(error))
    tell(Words(kind="loaded", name="", said="", note=""))
    return _Calls(channel, namespace, max_bytes, wait).serve()


def warm_up() -> None:
    """Answer some calls of a program that is not there, so that forked candidates find the code specialised.

    An interpreter rewrites a function's code while it runs for the first times; in a forked process each of those
    writes costs the copy of a page.
    """
    ours, theirs = socket.socketpair()
    with ours, theirs:
        calls = _Calls(ours, {"f": lambda *args: args[0]}, 1 << 20)
        requests: list[tuple[Any, ...]] = [
            ("global", "f"),
            ("call", calls.namespace["f"], (3, [1, 2, 3, 4], "a", {"a": 1.5}), {}),
        ]
        for _ in range(_WARM_UPS):
            for request in requests:
                calls.answer(_FIRST_SERIAL + codec.encode(request, max_bytes=_MAX_WORDS_BYTES, opaque=calls.number))
            send_frame(theirs, _FIRST_SERIAL)
            calls.reader.read(_MAX_WORDS_BYTES)
