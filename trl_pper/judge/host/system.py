"""Use the operating system to deal with workers: system calls of Linux, or of every POSIX system.

The isolation level decides between the two. They give a line to the zygote, files without a name, and the process at
the other end of a channel. The worker's part of the same choice is `jail.linux` or `jail.posix`.
"""

from __future__ import annotations

import contextlib
import fcntl
import io
import os
import signal
import socket
import struct
import tempfile
from collections.abc import Iterator
from typing import Protocol

from trl_pper.judge.wire.channel import Line, PacketLine, StreamLine
from trl_pper.judge.wire.rules import PORTABLE_LEVEL

#: Process, user and group, as Linux attaches them to a message.
_CREDENTIALS = struct.Struct("iII")


def usable_cores() -> int:
    """Return the number of cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


class HostSystem(Protocol):
    """The system calls that a host needs."""

    #: Whether a worker may load libraries before it forks.
    preloads: bool

    def line_pair(self) -> tuple[Line, socket.socket]:
        """Return the host's end of a new line and the socket that is the zygote's."""

    def sealed_file(self, content: bytes) -> contextlib.AbstractContextManager[int]:
        """Lend a descriptor of a file without a name that holds `content` and through which it cannot be changed."""

    def output_file(self) -> contextlib.AbstractContextManager[int]:
        """Lend a descriptor of an empty file without a name, to which a program appends its output."""

    def board_file(self) -> io.FileIO:
        """Return a new file without a name, to be written through its descriptor by another process."""

    def expect_process(self, channel: socket.socket) -> None:
        """Prepare `channel` for `first_word`."""

    def first_word(self, channel: socket.socket, size: int, known: int) -> tuple[bytes, int]:
        """Receive the first `size` bytes of a process; return them with its process id on the host.

        Args:
            channel: The socket to the process.
            size: Number of bytes.
            known: Process id as seen by the parent, which may be in another process namespace.
        """

    def end_orphan(self, pid: int) -> None:
        """End the candidate of a zygote that died before it could end the candidate itself.

        Args:
            pid: Process id of the candidate as seen by the zygote.
        """


class LinuxHost:
    """Sequenced packets, files in memory with seals, and credentials attached to messages."""

    preloads = True

    def line_pair(self) -> tuple[Line, socket.socket]:
        """See `HostSystem`."""
        ours, theirs = socket.socketpair(*PacketLine.kind)
        return PacketLine(ours), theirs

    @contextlib.contextmanager
    def sealed_file(self, content: bytes) -> Iterator[int]:
        """See `HostSystem`; nothing else can change the file either."""
        descriptor = os.memfd_create("pper", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        try:
            _write_all(descriptor, content)
            os.lseek(descriptor, 0, os.SEEK_SET)
            seals = fcntl.F_SEAL_SEAL | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE
            fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, seals)
            yield descriptor
        finally:
            os.close(descriptor)

    @contextlib.contextmanager
    def output_file(self) -> Iterator[int]:
        """See `HostSystem`; the file may grow, never shrink."""
        descriptor = os.memfd_create("pper", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        try:
            fcntl.fcntl(descriptor, fcntl.F_SETFL, os.O_APPEND)
            fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK)
            yield descriptor
        finally:
            os.close(descriptor)

    def board_file(self) -> io.FileIO:
        """See `HostSystem`."""
        return open(os.memfd_create("pper"), "rb", buffering=0)

    def expect_process(self, channel: socket.socket) -> None:
        """See `HostSystem`."""
        channel.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)

    def first_word(self, channel: socket.socket, size: int, known: int) -> tuple[bytes, int]:
        """See `HostSystem`; the kernel says who speaks."""
        word, attached, _, _ = channel.recvmsg(size, socket.CMSG_SPACE(_CREDENTIALS.size))
        if not attached:
            return b"", 0
        channel.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 0)
        return word, int(_CREDENTIALS.unpack(attached[0][2])[0])

    def end_orphan(self, pid: int) -> None:
        """See `HostSystem`; the kernel ends a candidate with its parent."""


class PosixHost:
    """Streams, and files on the disk that lose their name before anything is written to them."""

    #: The library that numpy computes with on macOS need not work in a process forked after it was loaded.
    preloads = False

    def line_pair(self) -> tuple[Line, socket.socket]:
        """See `HostSystem`."""
        ours, theirs = socket.socketpair(*StreamLine.kind)
        return StreamLine(ours), theirs

    @contextlib.contextmanager
    def sealed_file(self, content: bytes) -> Iterator[int]:
        """See `HostSystem`."""
        writing, path = tempfile.mkstemp(prefix="trl-pper-")
        try:
            reading = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        finally:
            os.unlink(path)
        try:
            _write_all(writing, content)
        finally:
            os.close(writing)
        try:
            yield reading
        finally:
            os.close(reading)

    @contextlib.contextmanager
    def output_file(self) -> Iterator[int]:
        """See `HostSystem`; a program can shorten the file."""
        with self.board_file() as file:
            fcntl.fcntl(file.fileno(), fcntl.F_SETFL, os.O_APPEND)
            yield file.fileno()

    def board_file(self) -> io.FileIO:
        """See `HostSystem`."""
        descriptor, path = tempfile.mkstemp(prefix="trl-pper-")
        os.unlink(path)
        return open(descriptor, "rb", buffering=0)

    def expect_process(self, channel: socket.socket) -> None:
        """See `HostSystem`; nothing has to be done."""

    def first_word(self, channel: socket.socket, size: int, known: int) -> tuple[bytes, int]:
        """See `HostSystem`."""
        return channel.recv(size), known

    def end_orphan(self, pid: int) -> None:
        """See `HostSystem`."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(pid, signal.SIGKILL)


def host_system(level: str) -> HostSystem:
    """Return the system calls for a worker at isolation level `level`."""
    return PosixHost() if level == PORTABLE_LEVEL else LinuxHost()


def _write_all(descriptor: int, content: bytes) -> None:
    view = memoryview(content)
    while view:
        view = view[os.write(descriptor, view) :]
