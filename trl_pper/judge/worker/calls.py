"""Answer the referee's calls of the program's functions in a candidate process.

Results leave as plain data, and exceptions by name. Objects that the tests make of the program's classes stay here
under numbers. Nothing that leaves this process is trusted, because the program shares the process.
"""

from __future__ import annotations

import os
import socket
from typing import Any

from trl_pper.judge.wire import codec
from trl_pper.judge.wire.channel import ChannelClosed, FrameReader, Wait, send_frame
from trl_pper.judge.wire.rules import COUNT, Call, Words
from trl_pper.judge.worker.program import MODULE_NAME, compile_program, describe, run

_MAX_OBJECTS = 100_000
_WARM_UPS = 64
_MAX_REQUEST_BYTES = 1 << 40
_MAX_WORDS_BYTES = 1 << 16
_FIRST_SERIAL = COUNT.pack(0)


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
        self.process = os.getpid()

    def serve(self) -> None:
        """Answer until the referee hangs up."""
        while True:
            try:
                request = self.reader.read(_MAX_REQUEST_BYTES)
            except ChannelClosed:
                return
            reply = self.answer(request)
            if os.getpid() != self.process:
                # A child that the program forked and that returned here must not answer in its place.
                os._exit(0)
            send_frame(self.channel, reply)

    def answer(self, request: bytes) -> bytes:
        """Return the reply to one request."""
        serial = request[: COUNT.size]
        try:
            call = Call._make(codec.decode(request, start=COUNT.size))
            value = self.call(call)
            return serial + codec.encode(("value", value), max_bytes=self.max_bytes, exact=call.exact)
        except codec.NotData as error:
            words = Words(kind="object", name="", said=str(error), note=str(error))
        except codec.CodecError as error:
            words = Words(kind="refused", name="", said=str(error), note=str(error))
        except BaseException as error:
            # Without the frame of this method.
            error.__traceback__ = error.__traceback__ and error.__traceback__.tb_next
            words = describe(error)
        return serial + codec.encode(tuple(words), max_bytes=_MAX_WORDS_BYTES)

    def call(self, call: Call) -> Any:
        """Make a call; return what its operation asks for."""
        if call.number is not None:
            function = getattr(self.objects[call.number], call.name)
        elif call.name in self.namespace:
            function = self.namespace[call.name]
        else:
            raise NameError(f"name {call.name!r} is not defined")
        args, keywords = list(call.args), call.keywords
        for place, number in call.objects.items():
            if isinstance(place, str):
                keywords[place] = self.objects[number]
            else:
                args[place] = self.objects[number]
        result = function(*args, **keywords)
        if call.operation == "make":
            if len(self.objects) >= _MAX_OBJECTS:
                raise codec.CodecError(f"more than {_MAX_OBJECTS} objects")
            self.objects.append(result)
            return len(self.objects) - 1
        if call.operation == "truth":
            return bool(result)
        if call.operation == "none":
            return result is None
        if call.operation == "text":
            return str(result)
        return result if call.operation == "call" else None


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
        namespace = run(code, MODULE_NAME)
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
        call = Call("call", None, "f", (3, [1, 2, 3, 4], "a", {"a": 1.5}), {}, {}, False)
        for _ in range(_WARM_UPS):
            calls.answer(_FIRST_SERIAL + codec.encode(tuple(call), max_bytes=_MAX_WORDS_BYTES))
            send_frame(theirs, _FIRST_SERIAL)
            calls.reader.read(_MAX_WORDS_BYTES)
