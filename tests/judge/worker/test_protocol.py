"""Whatever comes out of a candidate's process is a value, a failed test or an error of the codec, in bounded time."""

from __future__ import annotations

import os
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trl_pper import CodingTask, FunctionTests, Judge, Limits
from trl_pper.judge.verdict import Outcome
from trl_pper.judge.wire import codec
from trl_pper.judge.wire.channel import ChannelClosed, receive_frame, send_frame
from trl_pper.judge.wire.instances import InstanceTable
from trl_pper.judge.wire.rules import COUNT, CodecError
from trl_pper.judge.worker.conversation import Conversation, Failure, SandboxBroken

LIMITS = Limits(cpu_seconds=1.0, wall_factor=1.0, value_bytes=1 << 20).to_dict()
PLAIN = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(st.characters(), max_size=9)
    | st.binary(max_size=9),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.tuples(inner, inner)
        | st.dictionaries(st.text(max_size=3) | st.integers(), inner, max_size=3)
    ),
    max_leaves=12,
)
#: What a candidate might say: something well-formed of every kind, with any data in it.
WORDS = st.one_of(
    st.tuples(st.just("value"), PLAIN, PLAIN),
    st.tuples(st.sampled_from(["raised", "memory", "refused", "lacks", "loaded", "syntax"]), PLAIN, PLAIN, PLAIN),
    st.tuples(st.just("raised"), st.sampled_from(dir(__builtins__)), PLAIN, st.text(max_size=5)),
    st.tuples(st.just("callback"), PLAIN, PLAIN, PLAIN),
    st.tuples(st.just("callback"), st.just(0), st.tuples(PLAIN), st.just({})),
    PLAIN,
)


class Node:
    """A class that the tests and the program share."""

    def __init__(self, value: object = None) -> None:
        self.value = value


def table() -> InstanceTable:
    return InstanceTable({"Node": Node}, {"Node": False}, trusted=True)


def resolve(tag: bytes, number: Any) -> Any:
    return tag, number


@settings(max_examples=150)
@given(st.binary(max_size=80))
def test_any_bytes_are_a_value_or_refused(data):
    try:
        codec.decode(data, resolve=resolve, instances=table())
    except CodecError:
        pass


@settings(max_examples=150)
@given(PLAIN, st.lists(st.tuples(st.floats(0, 1), st.integers(0, 255)), min_size=1, max_size=4), st.booleans())
def test_damaged_messages_are_a_value_or_refused(value, damages, with_instance):
    head = Node(value)
    head.next = head  # type: ignore[attr-defined]
    message = ("value", [value, head] if with_instance else value, None)
    data = bytearray(codec.encode(message, max_bytes=1 << 20, instances=table()))
    for place, byte in damages:
        data[int(place * (len(data) - 1))] = byte
    try:
        codec.decode(bytes(data), resolve=resolve, instances=table())
    except CodecError:
        pass


@settings(max_examples=60)
@given(PLAIN)
def test_instances_survive_with_cycles_and_identity(value):
    first, second = Node(value), Node([value])
    first.other, second.other = second, first  # type: ignore[attr-defined]
    got = codec.decode(codec.encode((first, second, first), max_bytes=1 << 20, instances=table()), instances=table())
    assert got[0] is got[2]
    assert got[0].other is got[1]
    assert got[1].other is got[0]
    assert repr(got[0].value) == repr(value)
    assert type(got[0]) is Node


AWKWARD = [
    *(-0.0, float("nan"), float("-inf"), 1j, "\ud800", "\0", "é" * 99, b"\xff", True),
    *(2**63, -(2**63), -(2**63) - 1, 10**4000),
    *([True, 1, 1.0], [1] * 9, [1.0] * 9, (1,) * 9, [2**70] * 9, [0, 2**63, 5, 7, 9], {1: [2], "1": (3,)}, [[]] * 5),
]


@pytest.mark.parametrize("value", AWKWARD, ids=lambda value: ascii(value)[:20])
def test_awkward_values_are_rebuilt_exactly(value):
    got = codec.decode(codec.encode(value, max_bytes=1 << 20))
    assert type(got) is type(value)
    # Told apart by how they are written: signs of zeros, nans, types of what is inside.
    assert repr(got) == repr(value)


@contextmanager
def conversation(
    candidate: Callable[[socket.socket, bytes], None], namespace: dict[str, Any]
) -> Iterator[Conversation]:
    """Yield a conversation with a thread that reads each request and lets `candidate` answer it as it likes.

    The host's side gives no other candidate: what is lost stays lost.
    """
    ours, theirs = socket.socketpair()
    host, referee = socket.socketpair()

    def serve() -> None:
        try:
            send_frame(theirs, b"ready")
            send_frame(theirs, COUNT.pack(0) + codec.encode(("loaded", "", "", ""), max_bytes=1000))
            while True:
                candidate(theirs, receive_frame(theirs, max_bytes=1 << 20))
        except (ChannelClosed, OSError):
            pass

    def replace() -> None:
        try:
            while True:
                _, reason, more = codec.decode(receive_frame(host, max_bytes=1 << 20))
                answer = ("timeout" if reason in ("cpu", "wall") else "runtime_error", reason, os.getpid())
                send_frame(host, codec.encode(answer, max_bytes=1 << 20))
                if more:
                    dead, other = socket.socketpair()
                    other.close()
                    socket.send_fds(host, [b"+"], [dead.fileno()])
                    dead.close()
        except (ChannelClosed, OSError):
            pass

    threads = [threading.Thread(target=target, daemon=True) for target in (serve, replace)]
    for thread in threads:
        thread.start()
    talk = Conversation(
        channel=ours, host=referee, pid=os.getpid(), limits=LIMITS, namespace=namespace, class_names={"Node": False}
    )
    try:
        yield talk
    finally:
        for each in (talk.channel, ours, theirs, host, referee):
            try:
                each.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass
            each.close()
        for thread in threads:
            thread.join()


def ask(talk: Conversation) -> Any:
    """Ask once, as test code does; return the value, or the exception that a test would see."""
    started = time.thread_time()
    try:
        return talk.request("call", [].append, (1, [2]), {})
    except (Failure, SandboxBroken, Exception) as error:
        return error
    finally:
        assert time.thread_time() - started < 5


def is_plain(value: Any) -> bool:
    if type(value) in (list, tuple):
        return all(map(is_plain, value))
    if type(value) is dict:
        return all(is_plain(part) for pair in value.items() for part in pair)
    return type(value) in (type(None), bool, int, float, complex, str, bytes, bytearray)


@settings(max_examples=60, deadline=None)
@given(st.lists(WORDS, min_size=1, max_size=3))
def test_any_words_of_a_candidate_are_data_or_a_failure(words):
    def speak(channel: socket.socket, request: bytes) -> None:
        for word in words:
            send_frame(channel, request[:4] + codec.encode(word, max_bytes=1 << 20))
        channel.shutdown(socket.SHUT_WR)

    with conversation(speak, {}) as talk:
        # The first answer is to the class names, which are sent before the call.
        for _ in range(3):
            result = ask(talk)
            assert is_plain(result) or isinstance(result, BaseException)


@settings(max_examples=60, deadline=None)
@given(st.binary(max_size=60), st.booleans(), st.booleans())
def test_any_bytes_of_a_candidate_are_a_failure_or_data(data, framed, with_serial):
    def speak(channel: socket.socket, request: bytes) -> None:
        payload = (request[:4] if with_serial else b"") + data
        channel.sendall(struct.pack("<Q", len(payload)) + payload if framed else payload)
        channel.shutdown(socket.SHUT_WR)

    with conversation(speak, {}) as talk:
        result = ask(talk)
        assert is_plain(result) or isinstance(result, BaseException)


def answering(*words: Any) -> Callable[[socket.socket, bytes], None]:
    """Return a candidate that answers the class names rightly and then says `words`."""

    def speak(channel: socket.socket, request: bytes) -> None:
        operation = codec.decode(request, start=4, resolve=resolve)[0]
        for word in [("value", None, None)] if operation == "classes" else words:
            send_frame(channel, request[:4] + codec.encode(word, max_bytes=1 << 20))

    return speak


def test_a_silent_candidate_is_stopped_by_the_wall_clock():
    with conversation(answering(), {}) as talk:
        result = ask(talk)
    assert isinstance(result, Failure)
    assert result.outcome is Outcome.TIMEOUT


def test_an_answer_to_another_question_is_no_answer():
    def speak(channel: socket.socket, request: bytes) -> None:
        send_frame(channel, COUNT.pack(99) + codec.encode(("value", 4, None), max_bytes=1000))

    with conversation(speak, {}) as talk:
        result = ask(talk)
    assert isinstance(result, Failure)
    assert result.outcome is Outcome.RUNTIME_ERROR


def test_the_second_of_two_answers_is_not_taken_for_the_next():
    with conversation(answering(("value", 1, None), ("value", 4, None)), {}) as talk:
        assert ask(talk) == 1
        assert isinstance(ask(talk), Failure)


@pytest.mark.parametrize("number", [1, 5, -1, True, None, "0", 2**40])
def test_a_function_that_was_never_given_cannot_be_called(number):
    with conversation(answering(("callback", number, (1,), {})), {}) as talk:
        result = ask(talk)
    assert isinstance(result, Failure)
    assert result.outcome is Outcome.RUNTIME_ERROR


def test_instances_of_unknown_numbers_or_classes_are_refused():
    for number, name in ((7, "Node"), (0, "Other"), (0, "__builtins__"), (0, "")):
        data = b"O" + COUNT.pack(number) + codec.encode(name, max_bytes=100)
        with pytest.raises(CodecError):
            codec.decode(data + codec.encode({}, max_bytes=100), instances=table())


@pytest.mark.parametrize("state", [None, [], {1: 2}, {"x": 1, 2: 3}, "text"])
def test_attributes_that_are_none_are_refused(state):
    data = b"O" + COUNT.pack(0) + codec.encode("Node", max_bytes=100) + codec.encode(state, max_bytes=100)
    with pytest.raises(CodecError):
        codec.decode(data, instances=table())


@pytest.mark.hostile
def test_keys_made_to_collide_do_not_hold_up_the_tests():
    program = """
BAD = [n * (2**61 - 1) for n in range(100_000)]
class Raw:
    pass
def f(kind):
    import gc
    from trl_pper.judge.wire import codec
    from trl_pper.judge.wire.channel import send_frame
    calls = next(o for o in gc.get_objects() if type(o).__name__ == '_Calls')
    items = BAD if kind == b'S' else [part for n in BAD for part in (n, 0)]
    values = codec.encode(('value', items, None), max_bytes=1 << 24)
    at = values.index(b'l', 5)
    send_frame(calls.channel, calls.serial + values[:at] + kind + values[at + 1:])
    return 1
"""
    tests = FunctionTests(code="assert f(b'S') == 1\nassert f(b'm') == 1", entry_point="f")
    # CPU time of the worker and of all it started, the referee among them, counts once it has ended.
    used = sum(os.times()[2:4])
    with Judge(workers=1, limits=Limits(cpu_seconds=2.0)) as judge:
        [[verdict]] = judge.run([(CodingTask(task_id="t", prompt="p", tests=tests), [program])])
    assert [str(outcome) for outcome in verdict.outcomes] == ["runtime_error"] * 2
    assert 0 < sum(os.times()[2:4]) - used < 20
