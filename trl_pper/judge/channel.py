"""Sends and receives length-prefixed frames over a stream socket, waiting only as long as its owner allows.

Enters and leaves: bytes. The owner of a `wait` function decides deadlines: it is called before each blocking step and
either returns when the socket is ready or raises.
"""

from __future__ import annotations

import select
import socket
import struct
from collections.abc import Callable

_LENGTH = struct.Struct("<Q")

#: wait(socket, poll event mask): returns when ready, raises to give up.
Wait = Callable[[socket.socket, int], None]


class ChannelClosed(ConnectionError):
    """The other side is gone."""


class FrameTooBig(ValueError):
    """The other side announced more bytes than its reader accepts."""


def frame(payload: bytes) -> bytes:
    """Return the bytes that carry `payload`."""
    return _LENGTH.pack(len(payload)) + payload


def send_frame(sock: socket.socket, payload: bytes, *, wait: Wait | None = None) -> None:
    """Send one frame.

    Args:
        sock: A connected stream socket.
        payload: The frame's bytes.
        wait: Waits until the socket is writable; None blocks in the kernel.

    Raises:
        ChannelClosed: The other side is gone.
    """
    data = memoryview(frame(payload))
    flags = socket.MSG_NOSIGNAL | (socket.MSG_DONTWAIT if wait else 0)
    try:
        while data:
            try:
                data = data[sock.send(data, flags) :]
            except BlockingIOError:
                assert wait is not None
                wait(sock, select.POLLOUT)
    except (BrokenPipeError, ConnectionError) as error:
        raise ChannelClosed(str(error)) from None


def receive_frame(sock: socket.socket, *, max_bytes: int, wait: Wait | None = None) -> bytes:
    """Return the next frame.

    Args:
        sock: A connected stream socket.
        max_bytes: Largest frame accepted.
        wait: Waits until the socket is readable; None blocks in the kernel.

    Raises:
        ChannelClosed: The other side is gone.
        FrameTooBig: A frame larger than `max_bytes` was announced.
    """
    (size,) = _LENGTH.unpack(_receive_exactly(sock, _LENGTH.size, wait))
    if size > max_bytes:
        raise FrameTooBig(f"a frame of {size} bytes was announced; at most {max_bytes} are accepted")
    return _receive_exactly(sock, size, wait)


def _receive_exactly(sock: socket.socket, size: int, wait: Wait | None) -> bytes:
    parts = []
    while size:
        if wait is not None:
            wait(sock, select.POLLIN)
        try:
            part = sock.recv(min(size, 1 << 20))
        except ConnectionError as error:
            raise ChannelClosed(str(error)) from None
        if not part:
            raise ChannelClosed("end of stream")
        parts.append(part)
        size -= len(part)
    return b"".join(parts)
