"""Sends and receives length-prefixed frames over a stream socket, waiting only as long as its owner allows.

Enters and leaves: bytes. The owner of a `wait` function decides deadlines: it is called before each blocking step and
either returns when the socket is ready or raises.

The line between the host and a worker's zygote: messages one at a time, with descriptors attached.

Enters and leaves: bytes and descriptors. In `PacketLine` the kernel keeps messages apart; `StreamLine` sends the
length of each before it, for systems whose Unix sockets know no packets that arrive in order.
"""

from __future__ import annotations

import select
import socket
import struct
from collections.abc import Callable, Sequence
from typing import Protocol

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


#: The longest message; a longer one is taken for the end of the line.
MAX_MESSAGE_BYTES = 1 << 16
_MAX_DESCRIPTORS = 16
_MESSAGE_LENGTH = struct.Struct("<I")


class Line(Protocol):
    """One end of a line."""

    sock: socket.socket

    def send(self, message: bytes, descriptors: Sequence[int] = ()) -> None:
        """Send a message; the caller keeps its own copies of the descriptors until there is an answer."""

    def receive(self) -> bytes:
        """Return the next message, or b"" when the other end is gone."""

    def receive_with_descriptors(self) -> tuple[bytes, list[int]]:
        """Return the next message, as `receive` does, and the descriptors that came with it."""


class PacketLine:
    """A line over a socket of sequenced packets, as Linux has them."""

    kind = socket.AF_UNIX, getattr(socket, "SOCK_SEQPACKET", 0)

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock

    def send(self, message: bytes, descriptors: Sequence[int] = ()) -> None:
        """See `Line`."""
        if descriptors:
            socket.send_fds(self.sock, [message], list(descriptors))
        else:
            self.sock.send(message)

    def receive(self) -> bytes:
        """See `Line`."""
        return self.sock.recv(MAX_MESSAGE_BYTES)

    def receive_with_descriptors(self) -> tuple[bytes, list[int]]:
        """See `Line`."""
        message, descriptors, _, _ = socket.recv_fds(self.sock, MAX_MESSAGE_BYTES, _MAX_DESCRIPTORS)
        return message, descriptors


class StreamLine:
    """A line over a stream socket, which every POSIX system has."""

    kind = socket.AF_UNIX, socket.SOCK_STREAM

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock

    def send(self, message: bytes, descriptors: Sequence[int] = ()) -> None:
        """See `Line`."""
        length = _MESSAGE_LENGTH.pack(len(message))
        if descriptors:
            # With the length alone: macOS refuses descriptors that come with more than the receiver has room for.
            socket.send_fds(self.sock, [length], list(descriptors))
            length = b""
        self.sock.sendall(length + message)

    def receive(self) -> bytes:
        """See `Line`."""
        return self.receive_with_descriptors()[0]

    def receive_with_descriptors(self) -> tuple[bytes, list[int]]:
        """See `Line`."""
        length, descriptors, _, _ = socket.recv_fds(self.sock, _MESSAGE_LENGTH.size, _MAX_DESCRIPTORS)
        length += self._exactly(_MESSAGE_LENGTH.size - len(length)) if length else b""
        if len(length) < _MESSAGE_LENGTH.size or _MESSAGE_LENGTH.unpack(length)[0] > MAX_MESSAGE_BYTES:
            return b"", descriptors
        size = _MESSAGE_LENGTH.unpack(length)[0]
        message = self._exactly(size)
        return message if len(message) == size else b"", descriptors

    def _exactly(self, size: int) -> bytes:
        """Return the next `size` bytes, or fewer when the other end is gone."""
        data = b""
        while len(data) < size and (part := self.sock.recv(size - len(data))):
            data += part
        return data
