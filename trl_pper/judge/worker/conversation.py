"""Send calls of the test code to a candidate, enforce deadlines, and replace a candidate that is lost.

A call returns plain data, raises the program's exception as the nearest builtin exception, or raises `Failure` with
the outcome of the running test. All bytes from the candidate are untrusted and checked. `Function` and `Instance`
stand in the test code for what the program defines; tests that need more of it run shared (see `tasks.separable`).
"""

from __future__ import annotations

import itertools
import socket
from collections.abc import Mapping
from typing import Any

from trl_pper.judge.verdict import Outcome
from trl_pper.judge.wire import codec
from trl_pper.judge.wire.allowance import Allowance
from trl_pper.judge.wire.channel import ChannelClosed, FrameReader, FrameTooBig, receive_frame, send_frame
from trl_pper.judge.wire.exceptions import rebuild
from trl_pper.judge.wire.rules import COUNT, OUTCOME_OF_KIND, Call, Value, Words, read_answer

_MAX_CONTROL_BYTES = 1 << 20
_MAX_REQUEST_BYTES = 1 << 28


class Failure(BaseException):
    """Raised in test code when the running test cannot pass.

    Args:
        outcome: The outcome of the test.
        message: A message for people.
    """

    # A BaseException, so that no `except Exception` in test code catches it.
    def __init__(self, outcome: Outcome, message: str) -> None:
        super().__init__(message)
        self.outcome = outcome
        self.message = message


class SandboxBroken(BaseException):
    """Raised when a candidate ended before it reached its program; the program gets no verdict."""


class Function:
    """A function or class of the program, or a method of an object that it made.

    Args:
        conversation: The connection to the program.
        name: Its name.
        instance: The object whose method it is, or None.
        makes: Whether it is a class: a call returns an `Instance`.
    """

    __slots__ = ("conversation", "instance", "makes", "name")

    def __init__(
        self, conversation: Conversation, name: str, instance: _State | None = None, *, makes: bool = False
    ) -> None:
        self.conversation = conversation
        self.name = name
        self.instance = instance
        self.makes = makes

    def __call__(self, *args: Any, **keywords: Any) -> Any:
        """Have the candidate call it."""
        if self.makes:
            return Instance(self, args, keywords)
        return self.conversation.call("call", self, args, keywords)


def drop(function: Function, *args: Any, **keywords: Any) -> None:
    """Call a function of the program whose result the tests do not use."""
    if function.makes:
        Instance(function, args, keywords)
    else:
        function.conversation.call("drop", function, args, keywords)


def truth(function: Function, *args: Any, **keywords: Any) -> bool:
    """Call a function of the program, and return whether the result, which may be any object, is true."""
    # Anything that the program sends in place of a bool counts as False.
    return function.conversation.call("truth", function, args, keywords) is True


def none(function: Function, *args: Any, **keywords: Any) -> bool | None:
    """Call a function of the program, and return None if the result is None, else True in its place."""
    return None if function.conversation.call("none", function, args, keywords) is True else True


def text(function: Function, *args: Any, **keywords: Any) -> str:
    """Call a function of the program, and return the text of the result, which may be any object."""
    answer = function.conversation.call("text", function, args, keywords)
    if type(answer) is not str:
        raise function.conversation.fail(Outcome.RUNTIME_ERROR, "the program answered with garbage")
    return answer


def make(function: Function, *args: Any, **keywords: Any) -> Instance:
    """Call a function of the program whose result only the program gets, in a further call."""
    return Instance(function, args, keywords)


#: Functions that call the program in rewritten test code, by their operations.
OPERATIONS = {each.__name__: each for each in (drop, truth, none, text, make)}


class Instance:
    """An object that stays in the program: the tests call its methods or pass it to the program, and nothing else.

    Args:
        maker: The class or function that makes it.
        args: Arguments of the maker.
        keywords: Keyword arguments of the maker.
    """

    # A single name that no method has, since every other attribute is a method of the program's.
    __slots__ = ("_pper_state",)

    def __init__(self, maker: Function, args: tuple[Any, ...], keywords: dict[str, Any]) -> None:
        self._pper_state = _State(maker, args, keywords)
        # At once: an error of the constructor belongs here.
        self._pper_state.number_now()

    def __getattr__(self, name: str) -> Function:
        return Function(self._pper_state.maker.conversation, name, self._pper_state)


class _State:
    """The way to an object of the program: how it was made, and its number in the present candidate."""

    def __init__(self, maker: Function, args: tuple[Any, ...], keywords: dict[str, Any]) -> None:
        self.maker = maker
        self.arguments = args, keywords
        self.number = 0
        self.epoch = -1

    def number_now(self) -> int:
        """Return the number under which the present candidate knows the object, after making it again if need be."""
        conversation = self.maker.conversation
        # A candidate that replaces a lost one has objects of its own.
        while self.epoch != conversation.epoch:
            number = conversation.call("make", self.maker, *self.arguments)
            if type(number) is not int:
                raise conversation.fail(Outcome.RUNTIME_ERROR, "the program answered with garbage")
            self.number, self.epoch = number, conversation.epoch
        return self.number


class Conversation:
    """A connection to the present candidate, and to its successor after a timeout or a crash.

    Args:
        channel: The socket to the candidate.
        host: The socket to the host, which replaces a lost candidate.
        pid: The candidate's process id.
        limits: From `Limits.to_dict()`.
        exact: Whether an object must be of exactly a type that crosses; otherwise objects that extend such a type and
            read like it cross as that type.
        tests: Number of tests; the wall time of all tests together is bounded by it.
    """

    def __init__(
        self,
        *,
        channel: socket.socket,
        host: socket.socket,
        pid: int,
        limits: Mapping[str, float],
        exact: bool = False,
        tests: int = 1,
    ) -> None:
        self.host = host
        self.pid = pid
        self.allowance = Allowance(
            cpu_seconds=float(limits["cpu_seconds"]), wall_seconds=float(limits["wall_seconds"]), tests=tests
        )
        self.max_bytes = int(limits["value_bytes"])
        self.timeouts_left = int(limits["max_timeouts"])
        self.exact = exact
        self.epoch = 0
        self.loaded = False
        self.failure: Failure | None = None
        self.serial = 0
        #: Whether the host is being asked for another candidate, an exchange that must not be interrupted.
        self.replacing = False
        self._use(channel)
        self.allow()

    def _use(self, channel: socket.socket) -> None:
        self.channel = channel
        self.wait = self.allowance.waiter(channel)
        self.reader = FrameReader(channel, self.wait)

    def allow(self) -> None:
        """Start the CPU and wall time of a test."""
        self.allowance.start(self.pid)

    def fail(self, outcome: Outcome, message: str) -> Failure:
        """Return the failure to raise, and remember it."""
        # Test code may catch it; the test fails all the same.
        self.failure = Failure(outcome, message)
        return self.failure

    def load(self) -> None:
        """Wait until the candidate has run the program's top level.

        Raises:
            Failure: The program did not load.
            SandboxBroken: The candidate ended before it reached the program.
        """
        self.allow()
        try:
            self.reader.read(_MAX_CONTROL_BYTES)
        except (ChannelClosed, TimeoutError):
            if self.allowance.is_spent():
                raise self.fail(Outcome.TIMEOUT, "the tests took too long together") from None
            raise SandboxBroken("a candidate ended before it was ready") from None
        # Nothing is sent: a candidate reports by itself, with serial 0.
        self.serial = 0
        reply = self._exchange(None)
        if not isinstance(reply, Words) or reply.kind != "loaded":
            note = str(reply.note) if isinstance(reply, Words) else "the program answered before it was asked"
            raise self.fail(OUTCOME_OF_KIND.get(reply.kind, Outcome.RUNTIME_ERROR), note)
        self.loaded = True
        # Loading has had its time, and a test has its own.
        self.allow()

    def call(self, operation: str, function: Function, args: tuple[Any, ...], keywords: dict[str, Any]) -> Any:
        """Have the candidate call a function, and return the value of its answer.

        Args:
            operation: See `wire.rules.Call`.
            function: The function.
            args: Arguments, plain data or instances.
            keywords: Keyword arguments, plain data or instances.

        Raises:
            Failure: The candidate was lost or ran out of memory, or the call or the answer could not cross.
            SandboxBroken: A new candidate ended before it reached the program.
            BaseException: The exception that the program raised, as the nearest builtin exception.
        """
        if self.timeouts_left <= 0:
            raise self.fail(Outcome.TIMEOUT, "not run after repeated timeouts")
        if self.allowance.is_spent():
            raise self.fail(Outcome.TIMEOUT, "the tests took too long together")
        if not self.loaded:
            self.load()
        number = None if function.instance is None else function.instance.number_now()
        # Objects that stayed in the program cross by their numbers.
        objects: dict[int | str, int] = {
            place: each._pper_state.number_now()
            for place, each in itertools.chain[tuple[int | str, Any]](enumerate(args), keywords.items())
            if type(each) is Instance
        }
        if objects:
            args = tuple(None if place in objects else each for place, each in enumerate(args))
            keywords = {name: None if name in objects else each for name, each in keywords.items()}
        request = Call(operation, number, function.name, args, keywords, objects, self.exact)
        try:
            payload = codec.encode(tuple(request), max_bytes=_MAX_REQUEST_BYTES)
        except codec.CodecError as error:
            # Too big or too deep an argument may be made of what the program has returned.
            made = (self.serial > 0 or self.epoch > 0) and not isinstance(error, codec.NotData)
            outcome = Outcome.OUTPUT_LIMIT if made else Outcome.UNSUPPORTED
            raise self.fail(outcome, f"an argument cannot be sent to the program: {error}") from None
        reply = self._exchange(payload)
        if isinstance(reply, Value):
            return reply.value
        raise self._error(reply)

    def _error(self, words: Words) -> BaseException:
        kind, name, text, note = words
        if kind == "memory":
            return self.fail(Outcome.MEMORY_LIMIT, str(note))
        if kind == "refused":
            return self.fail(Outcome.OUTPUT_LIMIT, f"what the program returned cannot be read: {note}")
        if kind == "object":
            return self.fail(Outcome.RUNTIME_ERROR, f"the program gave an object where the tests need a value: {note}")
        if name == "StopIteration":
            # Inside `map` or an iterator of the tests it would end a loop before the asserts in it have run.
            name, text = "RuntimeError", f"the program raised StopIteration: {note}"
        error = rebuild(name, text)
        # Marks exceptions of the program, which mean another outcome than exceptions of the test code.
        error.pper_note = str(note)  # type: ignore[attr-defined]
        return error

    def _exchange(self, payload: bytes | None) -> Value | Words:
        """Send a request and return its answer; None waits for the report of a new candidate."""
        epoch = self.epoch
        if payload is not None:
            self.serial += 1
        serial = COUNT.pack(self.serial & 0xFFFFFFFF)
        try:
            if payload is not None:
                send_frame(self.channel, serial + payload, wait=self.wait)
            return self._receive(serial)
        except ChannelClosed:
            raise self._lost("ended") from None
        except TimeoutError as error:
            raise self._lost(str(error)) from None
        # The process of a program that sends garbage is not used any further.
        except (FrameTooBig, codec.CodecError, RecursionError) as error:
            raise self._lost(f"garbage: {error}") from None
        except Failure as failure:
            # The referee's own timer interrupted an exchange. The next bytes on this stream would belong to it.
            if self.epoch == epoch:
                self._lost("cpu")
            raise self.fail(failure.outcome, failure.message) from None

    def _receive(self, serial: bytes) -> Value | Words:
        frame = self.reader.read(2 * self.max_bytes + _MAX_CONTROL_BYTES)
        # A late message, such as one from a thread of the program, must not pass for the next answer.
        if not frame.startswith(serial):
            raise codec.CodecError("an answer to another question")
        return read_answer(codec.decode(frame, start=len(serial)))

    def _lost(self, reason: str) -> Failure:
        """Have the host replace the candidate; return the failure that follows from the end of the old candidate.

        Args:
            reason: "cpu" or "wall" for a limit, "ended" for a closed channel, or a description.
        """
        if reason in ("cpu", "wall"):
            self.timeouts_left -= 1
        more = self.timeouts_left > 0
        self.replacing = True
        try:
            send_frame(self.host, codec.encode(("lost", reason, more), max_bytes=_MAX_CONTROL_BYTES))
            outcome, message, pid = codec.decode(receive_frame(self.host, max_bytes=_MAX_CONTROL_BYTES))
            if more:
                _, descriptors, _, _ = socket.recv_fds(self.host, 1, 1)
                self.channel.close()
                self._use(socket.socket(fileno=descriptors[0]))
        finally:
            self.replacing = False
        if reason == "ended" and outcome == Outcome.TIMEOUT.value:
            # The limit of its own process ended it, on a system where other processes cannot see its CPU time.
            self.timeouts_left -= 1
        self.pid, self.loaded, self.epoch = pid, False, self.epoch + 1
        self.allow()
        return self.fail(Outcome(outcome), message)
