"""Limit which files a process may open, for good and without privileges, with the kernel's Landlock.

`prepare` makes a ruleset from the paths that a program may read and the paths that it may also write; `restrict` puts
a process under the ruleset. No path allows execution, no socket may bind or connect over TCP (ABI 4), and no process
outside may be signalled or reached over an abstract socket (ABI 6). Landlock sees files being opened, made, moved and
removed. It promises nothing about names, sizes and modes, which stay visible and, where the user has the right,
changeable; nor about descriptors opened before, UDP, or Unix sockets that have a path.

See https://docs.kernel.org/userspace-api/landlock.html for the interface and its versions.
"""

from __future__ import annotations

import ctypes
import os
import stat
import struct
from collections.abc import Sequence
from dataclasses import dataclass

from trl_pper.judge.jail import kernel

# The same numbers on every architecture that trl_pper runs on.
_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446
_VERSION_WANTED = 1
_PATH_BENEATH = 1
# Since ABI 7 the kernel logs refusals; the attempts of untrusted programs would fill the audit log.
_QUIETLY = 1

_WRITE_FILE, _READ_FILE, _READ_DIR, _REMOVE_DIR, _REMOVE_FILE = (1 << bit for bit in range(1, 6))
_MAKE_CHAR, _MAKE_DIR, _MAKE_REG, _MAKE_SYM = 1 << 6, 1 << 7, 1 << 8, 1 << 12
_REFER, _TRUNCATE = 1 << 13, 1 << 14
#: Number of rights over files that each version of the interface knows; later versions know as many as version 5. The
#: kernel refuses a ruleset with a right that it does not know.
_FILE_RIGHTS = {1: 13, 2: 14, 3: 15, 4: 15}
_MOST_FILE_RIGHTS = 16

_READABLE = _READ_FILE | _READ_DIR
#: Neither devices nor sockets nor pipes with a name, and nothing that talks to a device's driver.
_WRITABLE = (
    _READABLE | _WRITE_FILE | _TRUNCATE | _REMOVE_DIR | _REMOVE_FILE | _MAKE_DIR | _MAKE_REG | _MAKE_SYM | _REFER
)
#: Rights that a rule about a path other than a directory may grant; the kernel refuses others.
_RIGHTS_OF_A_FILE = _READ_FILE | _WRITE_FILE | _TRUNCATE
_TCP_BIND_AND_CONNECT = 0b11
_ABSTRACT_SOCKETS_AND_SIGNALS = 0b11

_RULESET = struct.Struct("<QQQ")
_RULE = struct.Struct("<Qi")

_libc = ctypes.CDLL(None, use_errno=True)

Path = str | os.PathLike[str]


@dataclass(frozen=True, kw_only=True)
class Ruleset:
    """A ruleset held by the kernel; any number of processes may put themselves under it.

    Args:
        descriptor: Descriptor of the ruleset, closed on exec.
        flags: Flags of the system call that puts a process under the ruleset.
    """

    descriptor: int
    flags: int

    def close(self) -> None:
        """Close the descriptor; processes under the ruleset stay under it."""
        os.close(self.descriptor)


def abi_version() -> int:
    """Return the version of the kernel's Landlock interface, 0 where it is missing or turned off."""
    return max(0, int(_libc.syscall(ctypes.c_long(_CREATE_RULESET), None, ctypes.c_long(0), _VERSION_WANTED)))


def prepare(*, readable: Sequence[Path] | None, writable: Sequence[Path], abi: int | None = None) -> Ruleset:
    """Return a ruleset under which only the given files can be opened.

    A directory stands for everything beneath it. A path that does not exist or cannot be reached is left out.

    Args:
        readable: Files and directories that may be read and listed; None leaves reading alone, for a process that is
            already under a ruleset about it.
        writable: Files and directories that may be written too. In a directory, files, directories and symbolic links
            may be made, moved and removed; a single file, such as /dev/null, may be read, written and truncated.
        abi: Version of the interface; the ruleset uses only rights that it knows. By default the kernel's version.

    Raises:
        OSError: The kernel has no Landlock, or refused.
    """
    abi = abi_version() if abi is None else abi
    rights = (1 << _FILE_RIGHTS.get(abi, _MOST_FILE_RIGHTS)) - 1
    if readable is None:
        rights &= ~_READABLE
    ruleset = _create(
        files=rights,
        network=_TCP_BIND_AND_CONNECT if abi >= 4 else 0,
        scopes=_ABSTRACT_SOCKETS_AND_SIGNALS if abi >= 6 else 0,
        abi=abi,
    )
    try:
        for paths, granted in ((readable or (), _READABLE), (writable, _WRITABLE)):
            for path in paths:
                _grant(ruleset, path, granted & rights)
    except OSError:
        ruleset.close()
        raise
    return ruleset


def prepare_scope(*, abi: int | None = None) -> Ruleset:
    """Return a ruleset that takes away no file, only access to the processes outside.

    A process under it, already under another ruleset or not, can trace or look into no process outside, its parent
    included, and where the kernel can prevent it (ABI 6) signal none. The process must have given up its capabilities
    first: with CAP_PERFMON the kernel lets a process read the environment and the memory map of any other.

    Args:
        abi: As in `prepare`.

    Raises:
        OSError: The kernel has no Landlock, or refused.
    """
    abi = abi_version() if abi is None else abi
    scopes = _ABSTRACT_SOCKETS_AND_SIGNALS if abi >= 6 else 0
    if abi < 2:
        # A ruleset must handle a right. Making devices is no loss: it needs a privilege anyway.
        return _create(files=_MAKE_CHAR, network=0, scopes=scopes, abi=abi)
    # Every ruleset forbids moving files between directories unless it grants that right.
    ruleset = _create(files=_REFER, network=0, scopes=scopes, abi=abi)
    try:
        _grant(ruleset, "/", _REFER)
    except OSError:
        ruleset.close()
        raise
    return ruleset


def restrict_call(ruleset: Ruleset) -> kernel.Call:
    """Prepare the system call of `restrict`, for a process that has already set no_new_privs."""
    return kernel.numbered_call(_RESTRICT_SELF, ruleset.descriptor, ruleset.flags)


def restrict(ruleset: Ruleset) -> None:
    """Put this thread, and all threads and processes that it starts from now on, under a ruleset for good.

    Rulesets add up, sixteen at most: a right that any of them refuses stays refused. The thread also sets
    no_new_privs. From here on it may mount nothing, not even in a namespace of its own.

    Raises:
        OSError: The kernel refused.
    """
    # Without no_new_privs the kernel refuses a ruleset from a process without privileges.
    kernel.make([kernel.prctl_call(kernel.PR_SET_NO_NEW_PRIVS, 1), restrict_call(ruleset)])


def _create(*, files: int, network: int, scopes: int, abi: int) -> Ruleset:
    attributes = _RULESET.pack(files, network, scopes)
    arguments = ctypes.c_char_p(attributes), ctypes.c_long(len(attributes)), ctypes.c_long(0)
    descriptor = _libc.syscall(ctypes.c_long(_CREATE_RULESET), *arguments)
    if descriptor < 0:
        raise _refusal("making a ruleset")
    return Ruleset(descriptor=descriptor, flags=_QUIETLY if abi >= 7 else 0)


def _grant(ruleset: Ruleset, path: Path, rights: int) -> None:
    # O_PATH needs no right to read the file itself.
    try:
        beneath = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except (FileNotFoundError, NotADirectoryError, PermissionError):
        return
    try:
        if not stat.S_ISDIR(os.fstat(beneath).st_mode):
            rights &= _RIGHTS_OF_A_FILE
        rule = ctypes.c_char_p(_RULE.pack(rights, beneath))
        arguments = ctypes.c_long(ruleset.descriptor), ctypes.c_long(_PATH_BENEATH), rule, ctypes.c_long(0)
        if _libc.syscall(ctypes.c_long(_ADD_RULE), *arguments) != 0:
            raise _refusal(f"a rule about {os.fspath(path)}")
    finally:
        os.close(beneath)


def _refusal(what: str) -> OSError:
    number = ctypes.get_errno()
    return OSError(number, f"Landlock, {what}: {os.strerror(number)}")
