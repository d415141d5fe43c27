"""The line between the host and a worker's zygote: messages one at a time, with descriptors attached.

Enters and leaves: bytes and descriptors. In `PacketLine` the kernel keeps messages apart; `StreamLine` sends the
length of each before it, for systems whose Unix sockets know no packets that arrive in order.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Sequence
from typing import Protocol

#: The longest message; a longer one is taken for the end of the line.
MAX_MESSAGE_BYTES = 1 << 16
_MAX_DESCRIPTORS = 16
_LENGTH = struct.Struct("<I")


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
        length = _LENGTH.pack(len(message))
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
        length, descriptors, _, _ = socket.recv_fds(self.sock, _LENGTH.size, _MAX_DESCRIPTORS)
        length += self._exactly(_LENGTH.size - len(length)) if length else b""
        if len(length) < _LENGTH.size or _LENGTH.unpack(length)[0] > MAX_MESSAGE_BYTES:
            return b"", descriptors
        size = _LENGTH.unpack(length)[0]
        message = self._exactly(size)
        return message if len(message) == size else b"", descriptors

    def _exactly(self, size: int) -> bytes:
        """Return the next `size` bytes, or fewer when the other end is gone."""
        data = b""
        while len(data) < size and (part := self.sock.recv(size - len(data))):
            data += part
        return data
