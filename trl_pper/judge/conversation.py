"""The referee's side of the talk with a candidate: calls, handles, deadlines, and what follows when it is lost.

Enters: what the test code does to the program's names. Leaves: plain data, builtin exceptions raised by name, or
`Failure` with the outcome of the test that was running. Whatever the candidate sends is data to be checked.
"""

from __future__ import annotations

import builtins
import select
import socket
import time
from typing import Any

from trl_pper.judge import codec
from trl_pper.judge.channel import ChannelClosed, FrameTooBig, receive_frame, send_frame
from trl_pper.judge.cpu_clock import process_cpu_seconds
from trl_pper.judge.endings import OUTCOME_OF_KIND
from trl_pper.verdict import Outcome

_MAX_CONTROL_BYTES = 1 << 20
_QUICK_MILLISECONDS = 5
_TICK_SECONDS = 0.1


class Failure(BaseException):
    """The running test cannot pass; a BaseException so that no `except Exception` in test code swallows it."""

    def __init__(self, outcome: Outcome, message: str) -> None:
        super().__init__(message)
        self.outcome = outcome
        self.message = message


class SandboxBroken(BaseException):
    """The candidate's process never got to its program; nothing can be said of the program."""


class Conversation:
    """Talks to the current candidate, and to its successor after a timeout or a crash."""

    def __init__(self, *, channel: socket.socket, host: socket.socket, pid: int, limits: dict[str, float]) -> None:
        self.channel = channel
        self.host = host
        self.pid = pid
        self.cpu_seconds = float(limits["cpu_seconds"])
        self.wall_seconds = float(limits["wall_seconds"])
        self.max_bytes = int(limits["value_bytes"])
        self.timeouts_left = int(limits["max_timeouts"])
        self.epoch = 0
        self.loaded = False
        self.failure: Failure | None = None
        self.received: list[Handle] = []
        self.allow()

    def allow(self) -> None:
        """Start a test's allowance of CPU and wall time."""
        self.cpu_start = process_cpu_seconds(self.pid) or 0.0
        self.wall_start = time.monotonic()

    def fail(self, outcome: Outcome, message: str) -> Failure:
        """Return the failure to raise, and remember it in case test code catches it."""
        self.failure = Failure(outcome, message)
        return self.failure

    def wait(self, sock: socket.socket, event: int) -> None:
        """Return when `sock` is ready; raise TimeoutError("cpu" or "wall") when the test's allowance is spent."""
        poll = select.poll()
        poll.register(sock, event)
        if poll.poll(_QUICK_MILLISECONDS):
            return
        while True:
            used = (process_cpu_seconds(self.pid) or 0.0) - self.cpu_start
            if used >= self.cpu_seconds:
                raise TimeoutError("cpu")
            if time.monotonic() - self.wall_start >= self.wall_seconds:
                raise TimeoutError("wall")
            if poll.poll(1000 * min(max(self.cpu_seconds - used, 0.001), _TICK_SECONDS)):
                return

    def load(self) -> None:
        """Wait until the candidate has run the program's top level.

        Raises:
            Failure: It did not load.
        """
        self.allow()
        try:
            receive_frame(self.channel, max_bytes=_MAX_CONTROL_BYTES, wait=self.wait)
        except (ChannelClosed, TimeoutError):
            raise SandboxBroken("a candidate ended before it was ready") from None
        kind, _, _, note = self._exchange(None)
        if kind != "loaded":
            raise self.fail(OUTCOME_OF_KIND.get(kind, Outcome.RUNTIME_ERROR), note)
        self.loaded = True
        self.allow()

    def request(self, operation: str, *operands: Any) -> Any:
        """Have the candidate do something; return the value it answers with.

        Raises:
            Failure: The candidate was lost, refused, or ran out of memory.
            BaseException: The builtin exception that the program raised, rebuilt by name.
        """
        if self.timeouts_left <= 0:
            raise self.fail(Outcome.TIMEOUT, "not run after repeated timeouts")
        if not self.loaded:
            self.load()
        try:
            payload = codec.encode((operation, *operands), max_bytes=1 << 28, opaque=self._number)
        except codec.CodecError as error:
            raise self.fail(Outcome.UNSUPPORTED, f"an argument cannot be sent to the program: {error}") from None
        reply = self._exchange(payload, (operation, operands))
        if reply[0] == "value" and len(reply) == 3:
            if reply[2] is not None and operation == "call":
                _write_back((operands[1], operands[2]), reply[2])
            return reply[1]
        raise self._error(reply)

    def _error(self, reply: tuple[Any, ...]) -> BaseException:
        kind, name, text, note = reply if len(reply) == 4 else ("", "", "", "malformed answer")
        if kind == "memory":
            return self.fail(Outcome.MEMORY_LIMIT, note)
        if kind == "refused":
            return self.fail(Outcome.OUTPUT_LIMIT, f"what the program returned cannot be read: {note}")
        if kind != "raised":
            return self.fail(Outcome.RUNTIME_ERROR, "the program answered with garbage")
        return rebuild_exception(name, text, note)

    def _exchange(self, payload: bytes | None, recipe: tuple[str, tuple[Any, ...]] = ("", ())) -> tuple[Any, ...]:
        handles: list[Handle] = []
        self.received = handles

        def resolve(number: int) -> Handle:
            handles.append(Handle(self, self.epoch, number, (*recipe, len(handles))))
            return handles[-1]

        try:
            if payload is not None:
                send_frame(self.channel, payload, wait=self.wait)
            frame = receive_frame(self.channel, max_bytes=2 * self.max_bytes + _MAX_CONTROL_BYTES, wait=self.wait)
            reply = codec.decode(frame, resolve=resolve)
            if type(reply) is not tuple or not reply:
                raise codec.CodecError("an answer is a tuple")
            return reply
        except ChannelClosed:
            raise self._lost("ended") from None
        except TimeoutError as error:
            raise self._lost(str(error)) from None
        except (FrameTooBig, codec.CodecError, RecursionError) as error:
            raise self._lost(f"garbage: {error}") from None
        except Failure:
            # The referee's own timer struck between two halves of an exchange: the stream is out of step.
            raise self._lost("cpu") from None

    def _lost(self, reason: str) -> Failure:
        """Have the host replace the candidate; return the failure it reads from how the old one ended."""
        if reason in ("cpu", "wall"):
            self.timeouts_left -= 1
        more = self.timeouts_left > 0
        send_frame(self.host, codec.encode(("lost", reason, more), max_bytes=_MAX_CONTROL_BYTES))
        outcome, message, pid = codec.decode(receive_frame(self.host, max_bytes=_MAX_CONTROL_BYTES))
        if more:
            _, descriptors, _, _ = socket.recv_fds(self.host, 1, 1)
            self.channel = socket.socket(fileno=descriptors[0])
        self.pid, self.loaded, self.epoch = pid, False, self.epoch + 1
        self.allow()
        return self.fail(Outcome(outcome), message)

    def _number(self, value: Any) -> int:
        if type(value) is not Handle:
            raise codec.CodecError(f"a {type(value).__name__} object is not plain data")
        state = object.__getattribute__(value, "_state")
        if state[1] != self.epoch:
            # The object died with an earlier candidate: do again what led to it.
            operation, operands, ordinal = state[3]
            self.request(operation, *operands)
            if ordinal >= len(self.received):
                raise codec.CodecError("an object of the program was lost with its process")
            state = object.__getattribute__(self.received[ordinal], "_state")
            object.__setattr__(value, "_state", state)
        return int(state[2])


class Handle:
    """Stands in the referee for an object that only the candidate has; offers attributes, calls and iteration."""

    __slots__ = ("_state",)
    __hash__ = object.__hash__

    def __init__(self, conversation: Conversation, epoch: int, number: int, recipe: tuple[Any, ...]) -> None:
        object.__setattr__(self, "_state", (conversation, epoch, number, recipe))

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return _conversation(self).request("attribute", self, name)

    def __call__(self, *args: Any, **keywords: Any) -> Any:
        """Have the candidate call its object."""
        return _conversation(self).request("call", self, args, keywords)

    def __iter__(self) -> Any:
        return iter(_conversation(self).request("items", self))

    def __eq__(self, other: object) -> bool:
        if type(other) is Handle and other is not self:
            raise _unsupported(self, "comparing two objects of the program")
        return other is self

    def __bool__(self) -> bool:
        return _conversation(self).request("truth", self) is True

    def __len__(self) -> int:
        length = _conversation(self).request("length", self)
        return length if type(length) is int and length >= 0 else 0

    def __getitem__(self, key: Any) -> Any:
        return _conversation(self).request("item", self, key)


def _conversation(handle: Handle) -> Conversation:
    conversation: Conversation = object.__getattribute__(handle, "_state")[0]
    return conversation


def _unsupported(handle: Handle, what: str) -> Failure:
    return _conversation(handle).fail(Outcome.UNSUPPORTED, f"{what} is not supported")


def _refuse(name: str) -> Any:
    def method(self: Handle, *_: Any) -> Any:
        raise _unsupported(self, f"{name} on an object of the program")

    return method


for _name in "lt le gt ge add sub mul truediv floordiv mod neg radd rsub rmul contains setitem setattr".split():
    setattr(Handle, f"__{_name}__", _refuse(f"__{_name}__"))


def rebuild_exception(name: object, text: object, note: object) -> BaseException:
    """Return the builtin exception called `name`, marked as having come from the program."""
    kind = getattr(builtins, name, None) if isinstance(name, str) else None
    if not (isinstance(kind, type) and issubclass(kind, BaseException)):
        kind = RuntimeError
    try:
        error = kind(text)
    except TypeError:
        error = RuntimeError(text)
    error.pper_note = str(note)  # type: ignore[attr-defined]
    return error


def _write_back(mine: Any, theirs: Any) -> None:
    """Make the containers in `mine`, the arguments of a call, hold what the program left in them."""
    kind = type(mine)
    if type(theirs) is not kind:
        return
    if kind in (list, tuple) and len(mine) == len(theirs):
        for index, (old, new) in enumerate(zip(mine, theirs, strict=True)):
            if type(old) is type(new) and type(old) in _CONTAINERS:
                _write_back(old, new)
            elif kind is list:
                mine[index] = new
    elif kind is list or kind is bytearray:
        mine[:] = theirs
    elif kind is dict:
        if list(mine) == list(theirs):
            for key, old in mine.items():
                if type(old) is type(theirs[key]) and type(old) in _CONTAINERS:
                    _write_back(old, theirs[key])
                else:
                    mine[key] = theirs[key]
        else:
            mine.clear()
            mine.update(theirs)
    elif kind is set:
        mine.clear()
        mine.update(theirs)
    elif kind.__name__ == "deque":
        mine.clear()
        mine.extend(theirs)


_CONTAINERS = (list, tuple, dict, set, bytearray)
