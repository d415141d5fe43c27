"""Answer the referee's requests in a candidate process: names, attributes and calls of the program.

Results leave as plain data, other objects as numbered handles, and exceptions by name. The program can also call
functions that the tests passed to it: they run in the referee, only while a test waits for the program, and for a
single thread at a time. Nothing that leaves this process is trusted, because the program shares the process.
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
    # There is no builtin `index`: the referee's `__index__` asks for it.
    convert: Callable[[Any], Any] = operator.index if function == "index" else getattr(builtins, function)
    return convert(target)


def _exit(target: Any, name: str | None) -> bool:
    # An exception of the tests does not cross; an empty exception of a builtin class takes its place.
    kind = getattr(builtins, name) if name else None
    # Without the constructor, which wants arguments for some of them, such as UnicodeDecodeError.
    error = None if kind is None else kind.__new__(kind)
    return bool(type(target).__exit__(target, kind, error, None))


def _extends_data(kind: Any) -> bool:
    # Objects of such a class cross as the builtin that it extends, and their class is lost on the way.
    return any(base.__module__ == "builtins" and base is not object for base in kind.__mro__)


#: Functions for the referee's requests other than calls; each needs nothing but its operands.
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
    """The candidate's side of a conversation with the referee.

    Args:
        channel: The socket to the referee.
        namespace: Globals of the program.
        max_bytes: Largest encoded size of a message with a value, in bytes.
        wait: Called before each read, to renew the CPU time of this process.
    """

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
        # Reentrant: a function of the tests can call the program, which calls another function of the tests.
        self.turn = threading.RLock()
        self.process = os.getpid()

    def serve(self) -> None:
        """Answer until the referee hangs up."""
        while True:
            try:
                request = self.reader.read(_MAX_REQUEST_BYTES)
            except ChannelClosed:
                return
            # Instances are numbered anew in each exchange, on both sides.
            self.instances.clear()
            reply = self.answer(request)
            if os.getpid() != self.process:
                # A child that the program forked and that returned here must not answer in its place.
                os._exit(0)
            with self.turn:
                # Threads of the program find out that no test waits any more.
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
            # Without the frame of this method.
            error.__traceback__ = error.__traceback__ and error.__traceback__.tb_next
            words = describe(error, self.instances.name_of)._replace(said=said_by(error))
        return serial + codec.encode(tuple(words), max_bytes=_MAX_WORDS_BYTES)

    def encode(self, value: Any) -> bytes:
        return codec.encode(value, max_bytes=self.max_bytes, opaque=self.number, instances=self.instances)

    def decode(self, message: bytes) -> Any:
        return codec.decode(message, start=COUNT.size, resolve=self.resolve, instances=self.instances)

    def number(self, value: Any) -> bytes:
        """Return the bytes that stand for an object that is not plain data."""
        # A function of the tests that comes back is the referee's own, not an object of the program.
        function = self.function_numbers.get(id(value))
        if function is not None:
            return b"g" + COUNT.pack(function)
        number = self.number_by_id.setdefault(id(value), len(self.objects))
        if number == len(self.objects):
            if number >= _MAX_HANDLES:
                raise codec.CodecError(f"more than {_MAX_HANDLES} objects")
            # Held for ever: a handle must stay valid, and the id of an object that is gone may be given again.
            self.objects.append(value)
        return b"H" + COUNT.pack(number)

    def resolve(self, tag: bytes, number: Any) -> Any:
        """Return the object for a tag and a number, or a library name, that the referee sent."""
        if tag == b"H":
            return self.objects[number]
        if tag == b"L":
            return find_in_library(number)
        if number not in self.functions:
            self.functions[number] = self.function(number)
            self.function_numbers[id(self.functions[number])] = number
        return self.functions[number]

    def function(self, number: int) -> Callable[..., Any]:
        """Return a function that has the referee run the tests' function `number`."""

        def given_by_the_tests(*args: Any, **keywords: Any) -> Any:
            return self.call_back(number, args, keywords)

        return given_by_the_tests

    def call_back(self, number: int, args: tuple[Any, ...], keywords: dict[str, Any]) -> Any:
        """Have the referee run a function of the tests; return its value.

        Raises:
            BaseException: The function raised it; rebuilt by name.
            RuntimeError: No test waits for the program, or this is a child that the program forked.
        """
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
                # Another serial: the function of the tests calls the program before it returns.
                send_frame(self.channel, self.answer(message))
                self.serial = serial
            kind, value, more = self.decode(message)
        if kind == "raised":
            raise rebuild(value, more, self.instances)
        if more is not None:
            write_back((args, keywords), more)
        return value

    def learn_classes(self, names: dict[str, bool]) -> None:
        """Store the names of the classes that the tests define, so that their instances cross by value."""
        self.instances.names = names

    def find_global(self, name: str) -> Any:
        """Return a global of the program.

        Raises:
            NameError: The program does not define it.
        """
        if name in self.namespace:
            return self.namespace[name]
        raise NameError(f"name {name!r} is not defined")

    def call(self, target: Callable[..., Any], args: tuple[Any, ...], keywords: dict[str, Any]) -> tuple[Any, Any]:
        """Call an object of the program; return the result, and the arguments if the call changed them, else None."""
        # The program works on copies. The referee applies the changes to the tests' own objects.
        arguments = changeable(args, keywords, self.instances)
        before = self.snapshot(arguments)
        result = target(*args, **keywords)
        return result, arguments if self.snapshot(arguments) != before else None

    def snapshot(self, arguments: Any) -> bytes:
        """Return bytes that differ if the arguments have changed; they are only ever compared."""
        if arguments is None:
            return b""
        try:
            # The fastest way. From version 3 on, the bytes depend on reference counts, too.
            return marshal.dumps(arguments, 2)
        except ValueError:
            # Not everything in them is of a builtin type.
            pass
        size = len(self.instances.objects)
        try:
            return self.encode(arguments)
        finally:
            self.instances.truncate(size)


def answer_calls(source: bytes, channel: socket.socket, *, max_bytes: int, wait: Wait | None = None) -> None:
    """Run the program's top level, then answer the referee's requests until it hangs up.

    Args:
        source: The program's text in UTF-8.
        channel: The socket to the referee.
        max_bytes: Largest encoded size of a message with a value, in bytes.
        wait: Called before each read, to renew the CPU time of this process.
    """

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
    """Answer some calls on behalf of a stand-in program, so that candidates start with specialised bytecode."""
    # An interpreter rewrites a function's bytecode during its first runs. In a forked process each such write costs
    # the copy of a page.
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
