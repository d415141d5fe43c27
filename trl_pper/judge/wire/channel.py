"""Send and receive bytes between the judge's processes: frames to a candidate, packets to a zygote.

Referee and candidate exchange frames over a stream socket: `send_frame`, `receive_frame` and `FrameReader`. A `wait`
function sets the deadline: it is called before each blocking step, and either returns when the socket is ready or
raises. The host, too, uses frames with both of them.

Host and zygote exchange messages with descriptors attached, over a `Line`. In a `PacketLine` the kernel keeps messages
apart; a `StreamLine` sends the length before each message, for systems whose Unix sockets have no sequenced packets.

Nothing here looks into the bytes: `codec` checks the content of frames.
"""

from __future__ import annotations

import select
import socket
import struct
from collections.abc import Callable, Sequence
from typing import Protocol

_LENGTH = struct.Struct("<Q")
# Most frames fit into this many bytes, header included, and so take a single system call.
_USUAL_BYTES = 1 << 13
# macOS has no such flag; there a process relies on ignoring SIGPIPE, which Python does unless a program changes it.
_NO_SIGNAL = getattr(socket, "MSG_NOSIGNAL", 0)

#: wait(socket, poll event mask): returns when ready, raises to give up.
Wait = Callable[[socket.socket, int], None]


class ChannelClosed(ConnectionError):
    """An error: the process at the other end of the socket is gone."""


class FrameTooBig(ValueError):
    """An error: the sender announced a frame larger than the reader accepts."""


def frame(payload: bytes) -> bytes:
    """Return `payload` with its length in front, 8 bytes, little-endian."""
    return _LENGTH.pack(len(payload)) + payload


def send_frame(sock: socket.socket, payload: bytes, *, wait: Wait | None = None) -> None:
    """Send a frame.

    Args:
        sock: A connected stream socket.
        payload: The frame's bytes.
        wait: Waits until the socket is writable; None blocks in the kernel.

    Raises:
        ChannelClosed: The other side is gone.
    """
    data = memoryview(frame(payload))
    # With a deadline the kernel must never block, so that `wait` decides.
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
            # Memory grows with the bytes that arrive, not with the size that the sender announced.
            part = sock.recv(min(size, 1 << 20))
        except ConnectionError as error:
            raise ChannelClosed(str(error)) from None
        if not part:
            raise ChannelClosed("end of stream")
        parts.append(part)
        size -= len(part)
    return b"".join(parts)


class FrameReader:
    """A reader of a stream socket that carries only frames; most frames take a single system call.

    It reads ahead, so nothing else may read from the same socket.

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


#: The longest message. `StreamLine` takes a longer message for the end of the connection.
MAX_MESSAGE_BYTES = 1 << 16
_MAX_DESCRIPTORS = 16
_MESSAGE_LENGTH = struct.Struct("<I")


class Line(Protocol):
    """A connection between host and zygote, seen from either end."""

    sock: socket.socket

    def send(self, message: bytes | memoryview, descriptors: Sequence[int] = ()) -> None:
        """Send a message; the caller keeps its own descriptors open until the answer arrives."""

    def receive(self) -> bytes:
        """Return the next message, or b"" when the other end is gone."""

    def receive_with_descriptors(self) -> tuple[bytes, list[int]]:
        """Return the next message, as `receive` does, and the descriptors attached to it."""


class PacketLine:
    """A line over a socket of sequenced packets, which Linux has."""

    kind = socket.AF_UNIX, getattr(socket, "SOCK_SEQPACKET", 0)

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock

    def send(self, message: bytes | memoryview, descriptors: Sequence[int] = ()) -> None:
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

    def send(self, message: bytes | memoryview, descriptors: Sequence[int] = ()) -> None:
        """See `Line`."""
        length = _MESSAGE_LENGTH.pack(len(message))
        if descriptors:
            # The descriptors go with the length alone: macOS refuses descriptors on more bytes than the receiver has
            # room for.
            socket.send_fds(self.sock, [length], list(descriptors))
            length = b""
        self.sock.sendall(length + bytes(message))

    def receive(self) -> bytes:
        """See `Line`."""
        return self.receive_with_descriptors()[0]

    def receive_with_descriptors(self) -> tuple[bytes, list[int]]:
        """See `Line`."""
        length, descriptors, _, _ = socket.recv_fds(self.sock, _MESSAGE_LENGTH.size, _MAX_DESCRIPTORS)
        # A stream may split the length itself.
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
