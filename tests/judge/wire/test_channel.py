"""Frames between processes: whole however they arrive, and never longer than their reader accepts."""

from __future__ import annotations

import itertools
import socket
import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trl_pper.judge.wire.channel import ChannelClosed, FrameReader, FrameTooBig, frame, receive_frame

READERS = {
    "one frame": lambda sock: lambda size: receive_frame(sock, max_bytes=size),
    "many frames": lambda sock: FrameReader(sock).read,
}


@pytest.fixture(params=READERS)
def make_reader(request):
    return READERS[request.param]


def sent(data: bytes) -> socket.socket:
    """Return a socket at which the data arrives, and then the end."""
    ours, theirs = socket.socketpair()
    with theirs:
        theirs.sendall(data)
    return ours


@settings(deadline=None)
@given(st.lists(st.binary(max_size=20_000), max_size=4), st.sets(st.integers(1, 40_000), max_size=4))
def test_frames_come_out_whole_wherever_the_stream_is_cut(payloads, cuts):
    stream = b"".join(map(frame, payloads))
    edges = [0, *sorted(cut for cut in cuts if cut < len(stream)), len(stream)]
    parts = [stream[start:end] for start, end in itertools.pairwise(edges)]
    ours, theirs = socket.socketpair()

    def send_next(sock: socket.socket, event: int) -> None:
        # Only when what came before may have been read.
        theirs.sendall(parts.pop(0)) if parts else theirs.close()

    with ours, theirs:
        reader = FrameReader(ours, send_next)
        assert [reader.read(20_000) for _ in payloads] == payloads


def test_a_frame_may_be_as_long_as_its_reader_accepts(make_reader):
    with sent(frame(bytes(100))) as sock:
        assert make_reader(sock)(100) == bytes(100)


def test_a_longer_frame_is_refused_by_its_length_alone(make_reader):
    ours, theirs = socket.socketpair()
    with ours, theirs:
        # No byte of it is there to be waited for.
        theirs.sendall(struct.pack("<Q", 101))
        ours.settimeout(5)
        with pytest.raises(FrameTooBig, match="a frame of 101 bytes was announced; at most 100 are accepted"):
            make_reader(ours)(100)


@pytest.mark.parametrize("stream", [b"", b"\1\0\0", frame(b"word")[:-1]])
def test_a_stream_that_ends_within_a_frame_is_closed(make_reader, stream):
    with sent(stream) as sock, pytest.raises(ChannelClosed, match="end of stream"):
        make_reader(sock)(100)
