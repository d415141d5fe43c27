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
_USUAL_BYTES = 1 << 13
# macOS has no such flag; there a process relies on ignoring the signal, as every Python does unless told otherwise.
_NO_SIGNAL = getattr(socket, "MSG_NOSIGNAL", 0)

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
    flags = _NO_SIGNAL | (socket.MSG_DONTWAIT if wait else 0)
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


class FrameReader:
    """Reads the frames of a stream socket that carries nothing else, mostly with one system call each.

    Args:
        sock: A connected stream socket.
        wait: Waits until the socket is readable; None blocks in the kernel.
    """

    __slots__ = ("_ahead", "_sock", "_wait")

    def __init__(self, sock: socket.socket, wait: Wait | None = None) -> None:
        self._sock = sock
        self._wait = wait
        self._ahead = b""

    def read(self, max_bytes: int) -> bytes:
        """Return the next frame of at most `max_bytes`.

        Raises:
            ChannelClosed: The other side is gone.
            FrameTooBig: A larger frame was announced.
        """
        data = self._ahead or self._more(_USUAL_BYTES)
        while len(data) < _LENGTH.size:
            data += self._more(_USUAL_BYTES)
        (size,) = _LENGTH.unpack_from(data)
        if size > max_bytes:
            raise FrameTooBig(f"a frame of {size} bytes was announced; at most {max_bytes} are accepted")
        end = _LENGTH.size + size
        if len(data) < end:
            data = self._complete(data, end)
        self._ahead = data[end:]
        return data[_LENGTH.size : end]

    def _complete(self, data: bytes, end: int) -> bytes:
        parts, missing = [data], end - len(data)
        while missing > 0:
            parts.append(self._more(min(missing, 1 << 20)))
            missing -= len(parts[-1])
        return b"".join(parts)

    def _more(self, size: int) -> bytes:
        if self._wait is not None:
            self._wait(self._sock, select.POLLIN)
        try:
            part = self._sock.recv(size)
        except ConnectionError as error:
            raise ChannelClosed(str(error)) from None
        if not part:
            raise ChannelClosed("end of stream")
        return part
