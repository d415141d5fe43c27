"""Send requests of the test code to a candidate, enforce deadlines, and replace a candidate that is lost.

A request returns plain data or a handle, raises the program's exception rebuilt by name, or raises `Failure` with the
outcome of the running test. All bytes from the candidate are untrusted and checked. While the referee waits for an
answer, the program may call functions that the tests passed to it; these functions run here, on plain data.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Mapping
from typing import Any

from trl_pper.judge.verdict import Outcome
from trl_pper.judge.wire import codec
from trl_pper.judge.wire.allowance import Allowance
from trl_pper.judge.wire.callbacks import Callbacks
from trl_pper.judge.wire.channel import ChannelClosed, FrameReader, FrameTooBig, receive_frame, send_frame
from trl_pper.judge.wire.exceptions import error_name, rebuild, said_by
from trl_pper.judge.wire.instances import InstanceTable, changeable
from trl_pper.judge.wire.rules import COUNT, MESSAGES, OUTCOME_OF_KIND, CallBack, Value, Words
from trl_pper.judge.wire.write_back import write_back
from trl_pper.judge.worker.handles import Handle

_MAX_CONTROL_BYTES = 1 << 20
_MAX_REQUEST_BYTES = 1 << 28
#: Bound on nested exchanges: test code calls the program, which calls a function of the tests, and so on.
_MAX_NESTING = 30


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


class _Stale(Exception):
    """Raised when a message refers to an object that died with an earlier candidate."""


class Conversation:
    """A connection to the present candidate, and to its successor after a timeout or a crash.

    Args:
        channel: The socket to the candidate.
        host: The socket to the host, which replaces a lost candidate.
        pid: The candidate's process id.
        limits: From `Limits.to_dict()`.
        namespace: Globals of the test code, to look its classes up in.
        class_names: Names of the classes of the tests; see `InstanceTable`.
        tests: Number of tests; the wall time of all tests together is bounded by it.
    """

    def __init__(
        self,
        *,
        channel: socket.socket,
        host: socket.socket,
        pid: int,
        limits: Mapping[str, float],
        namespace: Mapping[str, Any] | None = None,
        class_names: Mapping[str, bool] | None = None,
        tests: int = 1,
    ) -> None:
        self.host = host
        self.pid = pid
        self.allowance = Allowance(
            cpu_seconds=float(limits["cpu_seconds"]), wall_seconds=float(limits["wall_seconds"]), tests=tests
        )
        self.max_bytes = int(limits["value_bytes"])
        self.timeouts_left = int(limits["max_timeouts"])
        self.epoch = 0
        self.loaded = False
        self.failure: Failure | None = None
        self.received: list[Handle] = []
        self.callbacks = Callbacks()
        self.class_names = dict(class_names or {})
        self.instances = InstanceTable({} if namespace is None else namespace, self.class_names, trusted=True)
        self.serial = 0
        #: Number of exchanges under way; above 1, a function of the tests was called by the program and calls it.
        self.nesting = 0
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
        if self.class_names:
            self.request("classes", self.class_names)
        self.allow()

    def request(self, operation: str, *operands: Any) -> Any:
        """Send a request to the candidate, and return the value of its answer.

        Args:
            operation: "call", or a name that `worker.calls` knows.
            operands: Values and handles; for "call" the object to call, a tuple of arguments and a dict of keywords.

        Raises:
            Failure: The candidate was lost or ran out of memory, or the request or the answer could not cross.
            SandboxBroken: A new candidate ended before it reached the program.
            BaseException: The exception that the program raised, rebuilt by name.
        """
        if self.timeouts_left <= 0:
            raise self.fail(Outcome.TIMEOUT, "not run after repeated timeouts")
        if self.allowance.is_spent():
            raise self.fail(Outcome.TIMEOUT, "the tests took too long together")
        if self.nesting >= _MAX_NESTING:
            raise self.fail(Outcome.RUNTIME_ERROR, "the program and the tests call each other too deep")
        if not self.loaded:
            self.load()
        # Instances keep their numbers through all nested exchanges, so that both sides mean the same objects.
        if self.nesting == 0:
            self.instances.clear()
        try:
            payload = self._encode((operation, *operands))
        except codec.CodecError as error:
            raise self.fail(Outcome.UNSUPPORTED, f"an argument cannot be sent to the program: {error}") from None
        reply = self._exchange(payload, (operation, operands))
        if isinstance(reply, Value):
            # The program changed copies of its arguments, and the tests look at their own objects.
            if reply.changed is not None and operation == "call":
                write_back((operands[1], operands[2]), reply.changed)
            return reply.value
        raise self._error(operation, reply)

    def _error(self, operation: str, words: Words) -> BaseException:
        kind, name, text, note = words
        if kind == "memory":
            return self.fail(Outcome.MEMORY_LIMIT, str(note))
        if kind == "refused":
            return self.fail(Outcome.OUTPUT_LIMIT, f"what the program returned cannot be read: {note}")
        if kind == "lacks":
            # Only a class of the tests that holds more than attributes can be missing. With any other claim a program
            # could avoid a verdict.
            if type(text) is not str or self.class_names.get(text, True):
                return self.fail(Outcome.RUNTIME_ERROR, "the program answered with garbage")
            return self.fail(Outcome.UNSUPPORTED, f"the program defines no class {text} for the tests' instances")
        if operation == "call" and name == "StopIteration":
            # Inside `map` or an iterator of the tests it would end a loop before the asserts in it have run.
            name, text = "RuntimeError", f"the program raised StopIteration: {note}"
        error = rebuild(name, text, self.instances)
        # Marks exceptions of the program, which mean another outcome than exceptions of the test code.
        error.pper_note = str(note)  # type: ignore[attr-defined]
        return error

    def _exchange(self, payload: bytes | None, recipe: tuple[str, tuple[Any, ...]] = ("", ())) -> Value | Words:
        """Send a request, serve the program's calls meanwhile, and return its answer.

        Args:
            payload: The encoded request; None to wait for the report of a new candidate.
            recipe: Operation and operands, for the handles in the answer.
        """
        epoch, handles = self.epoch, list[Handle]()
        if payload is not None:
            self.serial += 1
        serial = COUNT.pack(self.serial & 0xFFFFFFFF)
        resolve = self._resolver(handles, recipe)
        self.nesting += 1
        try:
            if payload is not None:
                send_frame(self.channel, serial + payload, wait=self.wait)
            while True:
                reply = self._receive(serial, resolve)
                if not isinstance(reply, CallBack):
                    self.received = handles
                    return reply
                send_frame(self.channel, serial + self._call_back(reply, epoch), wait=self.wait)
        except ChannelClosed:
            raise self._lost("ended") from None
        except TimeoutError as error:
            raise self._lost(str(error)) from None
        # The process of a program that sends garbage is not used any further.
        except (FrameTooBig, codec.CodecError, RecursionError) as error:
            raise self._lost(f"garbage: {error}") from None
        except Failure as failure:
            # The referee's own timer interrupted an exchange, or a function of the tests failed while the program
            # waited for its result. The next bytes on this stream would belong to the old exchange.
            if self.epoch == epoch:
                self._lost("cpu" if failure.outcome is Outcome.TIMEOUT else "a call that cannot be judged")
            raise self.fail(failure.outcome, failure.message) from None
        finally:
            self.nesting -= 1

    def _receive(self, serial: bytes, resolve: Callable[[bytes, Any], Any]) -> Value | CallBack | Words:
        frame = self.reader.read(2 * self.max_bytes + _MAX_CONTROL_BYTES)
        # A late message, such as one from a thread of the program, must not pass for the next answer.
        if not frame.startswith(serial):
            raise codec.CodecError("an answer to another question")
        reply: Any = codec.decode(frame, start=len(serial), resolve=resolve, instances=self.instances)
        kind = reply[0] if type(reply) is tuple and reply else None
        message = MESSAGES.get(kind) if type(kind) is str else None
        if message is None or len(reply) != len(message._fields):
            raise codec.CodecError("an answer is a tuple of a known kind")
        answer = message._make(reply)
        if isinstance(answer, Words) and not (type(answer.name) is str is type(answer.note)):
            raise codec.CodecError("an answer that tells of an error tells it in words")
        return answer

    def _call_back(self, request: CallBack, epoch: int) -> bytes:
        """Run the function of the tests that the program calls; return the encoded result.

        Raises:
            Failure: The function failed in a way that decides the test, or its result cannot cross.
        """
        _, number, args, keywords = request
        if type(args) is not tuple or type(keywords) is not dict or not all(type(key) is str for key in keywords):
            raise codec.CodecError("a malformed call of a function of the tests")
        function = self.callbacks.find(number)
        self.allowance.check()
        earlier = self.failure
        try:
            arguments = changeable(args, keywords, self.instances)
            before = self._snapshot(arguments)
            value = function(*args, **keywords)
            answer = ("value", value, arguments if self._snapshot(arguments) != before else None)
        except (Failure, SandboxBroken):
            raise
        except MemoryError:
            raise self.fail(Outcome.MEMORY_LIMIT, "a function of the tests ran out of memory") from None
        except BaseException as error:
            answer = ("raised", error_name(error, self.instances.name_of), said_by(error))
        if self.epoch != epoch or self.failure is not earlier:
            # A request inside the function failed, and test code caught the failure.
            raise self.failure or self.fail(Outcome.RUNTIME_ERROR, "the program was lost in a call")
        try:
            return self._encode(answer)
        except codec.CodecError as error:
            raise self.fail(
                Outcome.UNSUPPORTED, f"what a function of the tests returned cannot be sent to the program: {error}"
            ) from None

    def _snapshot(self, arguments: Any) -> bytes:
        if arguments is None:
            return b""
        size = len(self.instances.objects)
        try:
            return self._encode(arguments)
        finally:
            self.instances.truncate(size)

    def _encode(self, message: tuple[Any, ...]) -> bytes:
        while True:
            try:
                return codec.encode(
                    message, max_bytes=_MAX_REQUEST_BYTES, opaque=self._opaque, instances=self.instances
                )
            except _Stale as stale:
                self._revive(stale.args[0])

    def _opaque(self, value: Any) -> bytes:
        if type(value) is not Handle:
            return self.callbacks.encode(value)
        state = object.__getattribute__(value, "_state")
        if state.epoch != self.epoch:
            raise _Stale(value)
        return b"H" + COUNT.pack(state.number)

    def _revive(self, handle: Handle) -> None:
        """Get an object of an earlier candidate again, by repeating its request with the present candidate."""
        operation, operands, ordinal = object.__getattribute__(handle, "_state").recipe
        self.request(operation, *operands)
        if ordinal >= len(self.received):
            raise self.fail(Outcome.RUNTIME_ERROR, "an object of the program was lost with its process")
        object.__setattr__(handle, "_state", object.__getattribute__(self.received[ordinal], "_state"))

    def _resolver(self, handles: list[Handle], recipe: tuple[str, tuple[Any, ...]]) -> Callable[[bytes, Any], Any]:
        def resolve(tag: bytes, number: Any) -> Any:
            if tag == b"g":
                return self.callbacks.find(number)
            if tag != b"H":
                raise codec.CodecError("the program names a function of the library")
            # The position counts handles in the order of the bytes, which is the same when the request is repeated.
            handles.append(Handle(self, self.epoch, number, (*recipe, len(handles))))
            return handles[-1]

        return resolve

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
