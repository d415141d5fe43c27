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
from trl_pper.judge.wire.rules import COUNT, CodecError
from trl_pper.judge.worker.conversation import Conversation, Failure, Function, SandboxBroken

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
    st.tuples(st.just("value"), PLAIN),
    st.tuples(st.just("value"), PLAIN, PLAIN),
    st.tuples(st.sampled_from(["raised", "memory", "refused", "object", "loaded", "syntax"]), PLAIN, PLAIN, PLAIN),
    st.tuples(st.just("raised"), st.sampled_from(dir(__builtins__)), PLAIN, st.text(max_size=5)),
    PLAIN,
)


@settings(max_examples=150)
@given(st.binary(max_size=80))
def test_any_bytes_are_a_value_or_refused(data):
    try:
        codec.decode(data)
    except CodecError:
        pass


@settings(max_examples=150)
@given(PLAIN, st.lists(st.tuples(st.floats(0, 1), st.integers(0, 255)), min_size=1, max_size=4))
def test_damaged_messages_are_a_value_or_refused(value, damages):
    data = bytearray(codec.encode(("value", value), max_bytes=1 << 20))
    for place, byte in damages:
        data[int(place * (len(data) - 1))] = byte
    try:
        codec.decode(bytes(data))
    except CodecError:
        pass


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
def conversation(candidate: Callable[[socket.socket, bytes], None]) -> Iterator[Conversation]:
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
    talk = Conversation(channel=ours, host=referee, pid=os.getpid(), limits=LIMITS)
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
        return Function(talk, "f")(1, [2])
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

    with conversation(speak) as talk:
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

    with conversation(speak) as talk:
        result = ask(talk)
        assert is_plain(result) or isinstance(result, BaseException)


def answering(*words: Any) -> Callable[[socket.socket, bytes], None]:
    """Return a candidate that says `words` whatever it is asked."""

    def speak(channel: socket.socket, request: bytes) -> None:
        for word in words:
            send_frame(channel, request[:4] + codec.encode(word, max_bytes=1 << 20))

    return speak


def test_a_silent_candidate_is_stopped_by_the_wall_clock():
    with conversation(answering()) as talk:
        result = ask(talk)
    assert isinstance(result, Failure)
    assert result.outcome is Outcome.TIMEOUT


def test_an_answer_to_another_question_is_no_answer():
    def speak(channel: socket.socket, request: bytes) -> None:
        send_frame(channel, COUNT.pack(99) + codec.encode(("value", 4), max_bytes=1000))

    with conversation(speak) as talk:
        result = ask(talk)
    assert isinstance(result, Failure)
    assert result.outcome is Outcome.RUNTIME_ERROR


def test_the_second_of_two_answers_is_not_taken_for_the_next():
    with conversation(answering(("value", 1), ("value", 4))) as talk:
        assert ask(talk) == 1
        assert isinstance(ask(talk), Failure)


@pytest.mark.parametrize("number", [None, "0", 1.0, [0], True])
def test_an_object_has_a_number_or_the_test_fails(number):
    with conversation(answering(("value", number))) as talk, pytest.raises(Failure) as raised:
        Function(talk, "C", makes=True)(1)
    assert raised.value.outcome is Outcome.RUNTIME_ERROR


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
    values = codec.encode(('value', items), max_bytes=1 << 24)
    at = values.index(b'l', 5)
    serial = bytes([1 if kind == b'S' else 2, 0, 0, 0])
    send_frame(calls.channel, serial + values[:at] + kind + values[at + 1:])
    return 1
"""
    tests = FunctionTests(code="assert f(b'S') == 1\nassert f(b'm') == 1", entry_point="f")
    # CPU time of the worker and of all it started, the referee among them, counts once it has ended.
    used = sum(os.times()[2:4])
    with Judge(workers=1, limits=Limits(cpu_seconds=2.0)) as judge:
        [[verdict]] = judge.run([(CodingTask(task_id="t", prompt="p", tests=tests), [program])])
    assert [str(outcome) for outcome in verdict.outcomes] == ["runtime_error"] * 2
    assert 0 < sum(os.times()[2:4]) - used < 20
