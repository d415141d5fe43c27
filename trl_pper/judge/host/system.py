"""Give the host the sockets and files that lead to a worker, and the process id at the other end of a channel.

The isolation level decides: `LinuxHost` uses calls that only Linux has, and `PosixHost`, for the level "processes",
calls that every POSIX system has. In the worker the same choice is between `jail.linux.LinuxJail` and
`jail.posix.PosixJail`.
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

#: Process, user and group id: `struct ucred`, which Linux attaches to a message; see unix(7).
_CREDENTIALS = struct.Struct("iII")


def usable_cores() -> int:
    """Return the number of cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


class ProcessHandle(Protocol):
    """A way to end a process that may have ended already."""

    def kill(self) -> None:
        """Kill the process, if it has not ended."""


class HostSystem(Protocol):
    """A host's access to its operating system, for its dealings with workers."""

    #: Whether a worker may load libraries before it forks.
    preloads: bool

    def line_pair(self) -> tuple[Line, socket.socket]:
        """Return the host's end of a new line, and the socket of the zygote's end."""

    def sealed_file(self, content: bytes) -> contextlib.AbstractContextManager[int]:
        """Lend a descriptor of a nameless file that holds `content`, and that cannot be changed through it."""

    def output_file(self) -> contextlib.AbstractContextManager[int]:
        """Lend a descriptor of an empty nameless file to which a program's output is appended."""

    def board_file(self) -> io.FileIO:
        """Return a new nameless file, to be written by another process through its descriptor."""

    def expect_process(self, channel: socket.socket) -> None:
        """Prepare `channel` for `first_word`."""

    def first_word(self, channel: socket.socket, size: int, known: int) -> tuple[bytes, int]:
        """Receive the first `size` bytes that a process sends; return them and its process id as the host sees it.

        Args:
            channel: The socket to the process.
            size: Number of bytes.
            known: The process id as its parent sees it, maybe in another process namespace.
        """

    def process_handle(self, pid: int) -> contextlib.AbstractContextManager[ProcessHandle]:
        """Lend a handle of a process that may be running.

        Args:
            pid: Its process id as the host sees it.
        """

    def end_orphan(self, pid: int) -> None:
        """End the candidate of a zygote that died before it could do so.

        Args:
            pid: The candidate's process id as the zygote saw it.
        """


class LinuxHost:
    """A host on Linux: sequenced packets, sealed files in memory, and credentials attached to messages."""

    preloads = True

    def line_pair(self) -> tuple[Line, socket.socket]:
        """See `HostSystem`."""
        ours, theirs = socket.socketpair(*PacketLine.kind)
        return PacketLine(ours), theirs

    @contextlib.contextmanager
    def sealed_file(self, content: bytes) -> Iterator[int]:
        """See `HostSystem`; the file cannot be changed in any other way either."""
        descriptor = os.memfd_create("pper", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        try:
            _write_all(descriptor, content)
            os.lseek(descriptor, 0, os.SEEK_SET)
            # Seals belong to the file itself, whichever descriptor leads to it.
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
            # The host reads from the size that it saw last: a program must not take back what it printed.
            fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK)
            yield descriptor
        finally:
            os.close(descriptor)

    def board_file(self) -> io.FileIO:
        """See `HostSystem`."""
        return open(os.memfd_create("pper"), "rb", buffering=0)

    def expect_process(self, channel: socket.socket) -> None:
        """See `HostSystem`."""
        # Set before the process exists: the kernel attaches credentials when a message is sent, not when it is read.
        channel.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)

    def first_word(self, channel: socket.socket, size: int, known: int) -> tuple[bytes, int]:
        """See `HostSystem`; the kernel gives the process id."""
        # Translated by the kernel into the process namespace of the reader.
        word, attached, _, _ = channel.recvmsg(size, socket.CMSG_SPACE(_CREDENTIALS.size))
        if not attached:
            return b"", 0
        channel.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 0)
        return word, int(_CREDENTIALS.unpack(attached[0][2])[0])

    @contextlib.contextmanager
    def process_handle(self, pid: int) -> Iterator[ProcessHandle]:
        """See `HostSystem`; the handle stays that of this process when another process gets its number."""
        try:
            descriptor = os.pidfd_open(pid)
        except ProcessLookupError:
            descriptor = -1
        try:
            yield _LinuxProcess(descriptor)
        finally:
            if descriptor >= 0:
                os.close(descriptor)

    def end_orphan(self, pid: int) -> None:
        """See `HostSystem`; nothing has to be done, since the kernel kills a candidate with its parent."""


class _LinuxProcess:
    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor

    def kill(self) -> None:
        """See `ProcessHandle`."""
        if self.descriptor >= 0:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self.descriptor, signal.SIGKILL)


class _LeftToItsZygote:
    def kill(self) -> None:
        """See `ProcessHandle`; the zygote kills the process, which is its child and the candidate."""


class PosixHost:
    """A host on any POSIX system: stream sockets, and disk files unlinked before anything is written to them."""

    #: On macOS the library that numpy computes with need not work in a process forked after it was loaded.
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
        """See `HostSystem`; a program can shorten the file, which no seal prevents here."""
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

    @contextlib.contextmanager
    def process_handle(self, pid: int) -> Iterator[ProcessHandle]:
        """See `HostSystem`."""
        yield _LeftToItsZygote()

    def end_orphan(self, pid: int) -> None:
        """See `HostSystem`."""
        # A candidate leads a process group of its own.
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(pid, signal.SIGKILL)


def host_system(level: str) -> HostSystem:
    """Return the operating system's side for a worker at isolation level `level`."""
    return PosixHost() if level == PORTABLE_LEVEL else LinuxHost()


def _write_all(descriptor: int, content: bytes) -> None:
    view = memoryview(content)
    while view:
        view = view[os.write(descriptor, view) :]
