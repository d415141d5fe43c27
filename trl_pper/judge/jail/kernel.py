"""Make Linux system calls that the standard library does not offer.

Constants have their C names and are the same on x86-64 and aarch64. A refused call raises OSError with the kernel's
reason. A function called `..._call` only prepares a call; `make` makes it, usually in a forked child. Nothing here
decides which calls a jail needs.
"""

from __future__ import annotations

import ctypes
import errno
import os
from collections.abc import Sequence
from typing import Any

PR_SET_PDEATHSIG = 1
PR_SET_DUMPABLE = 4
PR_SET_KEEPCAPS = 8
PR_SET_CHILD_SUBREAPER = 36
PR_SET_NO_NEW_PRIVS = 38

CLONE_NEWNS = 0x00020000
CLONE_NEWCGROUP = 0x02000000
CLONE_NEWUTS = 0x04000000
CLONE_NEWIPC = 0x08000000
CLONE_NEWUSER = 0x10000000
CLONE_NEWPID = 0x20000000
CLONE_NEWNET = 0x40000000

MS_RDONLY = 0x1
MS_NOSUID = 0x2
MS_NODEV = 0x4
MS_NOEXEC = 0x8
MS_REMOUNT = 0x20
MS_NOATIME = 0x400
MS_NODIRATIME = 0x800
MS_BIND = 0x1000
MS_REC = 0x4000
MS_PRIVATE = 0x40000
MS_RELATIME = 0x200000
_MNT_DETACH = 2
_SYS_PIVOT_ROOT = {"x86_64": 155, "aarch64": 41}
_SYS_CLOSE_RANGE = 436
_CAP_VERSION_3 = 0x20080522

# Array types are made once, before any fork: a child that made them would write to more pages.
_CapHeader = ctypes.c_uint32 * 2
_CapData = ctypes.c_uint32 * 6
# PyDLL holds the interpreter's lock during a call. A child of `fork` that did not own it could wait for it for ever.
_libc = ctypes.PyDLL(None, use_errno=True)
_prctl = _libc.prctl
_prctl.argtypes = [ctypes.c_int, ctypes.c_ulong, ctypes.c_ulong, ctypes.c_ulong, ctypes.c_ulong]
_fork = _libc.fork
_wait4 = _libc.wait4
_waitid = _libc.waitid
_unshare = _libc.unshare
_setns = _libc.setns
_mount = _libc.mount
_mount.argtypes = [ctypes.c_char_p, ctypes.c_char_p, ctypes.c_char_p, ctypes.c_ulong, ctypes.c_char_p]


def _check(result: int, call: str) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{call}: {os.strerror(number)}")


#: A function of the C library with its arguments, ready to be called.
Call = tuple[Any, tuple[Any, ...]]


class _Limit(ctypes.Structure):
    _fields_ = (("soft", ctypes.c_ulong), ("hard", ctypes.c_ulong))


def make(calls: Sequence[Call]) -> None:
    """Make the system calls `calls`, in order.

    Raises:
        OSError: The kernel refused a call; the calls after it were not made.
    """
    # A forked child pays for every page that it writes first. Arguments prepared before the fork save most writes.
    for function, arguments in calls:
        if function(*arguments) != 0:
            _check(-1, f"{function.__name__}{arguments}")


def prctl_call(option: int, *values: int) -> Call:
    """Prepare a change of a property of the process."""
    # The kernel refuses some options unless the unused arguments are 0.
    padded = (*values, 0, 0, 0, 0)[:4]
    return _libc["prctl"], (ctypes.c_int(option), *(ctypes.c_ulong(value) for value in padded))


def set_limit_call(which: int, value: int) -> Call:
    """Prepare a change of a resource limit: the soft and the hard limit both become `value`."""
    return _libc["setrlimit"], (ctypes.c_int(which), ctypes.byref(_Limit(value, value)))


def set_user_call(uid: int) -> Call:
    """Prepare a change to the user `uid` that cannot be undone."""
    # Real, effective and saved id: with any of them left over, a process could change back.
    return _libc["setresuid"], tuple(ctypes.c_uint(uid) for _ in range(3))


def keep_only_capabilities_call(capabilities: int) -> Call:
    """Prepare a call that drops every capability not in the bit set `capabilities`."""
    # Effective, permitted and inheritable, capabilities 0 to 31 first; nothing is inherited.
    header, data = _CapHeader(_CAP_VERSION_3, 0), _CapData(capabilities, capabilities, 0, 0, 0, 0)
    return _libc["capset"], (ctypes.byref(header), ctypes.byref(data))


def numbered_call(number: int, *values: int) -> Call:
    """Prepare the system call `number`, for calls that the C library has no function for."""
    return _libc["syscall"], tuple(ctypes.c_long(value) for value in (number, *values))


def close_from_call(first: int) -> Call:
    """Prepare a call that closes every descriptor from `first` on."""
    return numbered_call(_SYS_CLOSE_RANGE, first, 0x7FFFFFFF, 0)


def fork() -> int:
    """Fork without Python's own at-fork handlers; return 0 in the child and the child's process id in the parent.

    The caller must have a single thread and hold no lock that the child will want.

    Raises:
        OSError: The kernel refused.
    """
    # The handlers reseed `random`, renew locks and list threads: the child would copy every page that they write to.
    pid: int = _fork()
    if pid < 0:
        _check(-1, "fork")
    return pid


def wait4(pid: int, status_address: int, usage_address: int) -> bool:
    """Wait until child `pid` ends, and have the kernel write how; return False where there is no such child.

    Args:
        pid: The child.
        status_address: Address of an int for the wait status.
        usage_address: Address of a `struct rusage`, 144 bytes.
    """
    while _wait4(pid, ctypes.c_void_p(status_address), 0, ctypes.c_void_p(usage_address)) < 0:
        if ctypes.get_errno() != errno.EINTR:
            return False
    return True


#: A `siginfo_t`; the first number is that of the signal, 0 for none.
_SIGNAL_INFO = (ctypes.c_int * 32)()


def has_ended(pid: int) -> bool:
    """Return whether child `pid` has ended; the child is not reaped.

    Raises:
        OSError: There is no such child.
    """
    _SIGNAL_INFO[0] = 0
    _check(_waitid(os.P_PID, pid, ctypes.byref(_SIGNAL_INFO), os.WEXITED | os.WNOHANG | os.WNOWAIT), "waitid")
    ended = _SIGNAL_INFO[0] != 0
    # It holds the exit status, which the program chose; see `posix.Ending`.
    ctypes.memset(_SIGNAL_INFO, 0, ctypes.sizeof(_SIGNAL_INFO))
    return ended


def prctl(option: int, value: int) -> None:
    """Set a property of this process in the kernel.

    Raises:
        OSError: The kernel refused.
    """
    if _prctl(option, value, 0, 0, 0) != 0:
        _check(-1, f"prctl({option}, {value})")


def unshare(flags: int) -> None:
    """Move this process to new namespaces; with CLONE_NEWPID its next child, not the process itself.

    Raises:
        OSError: The kernel refused.
    """
    if _unshare(flags) != 0:
        _check(-1, f"unshare({flags:#x})")


def set_namespace(descriptor: int, kind: int) -> None:
    """Join the namespace of `descriptor`, a file of /proc/PID/ns; with CLONE_NEWPID only for children to come.

    Raises:
        OSError: The kernel refused.
    """
    if _setns(descriptor, kind) != 0:
        _check(-1, "setns")


def mount(source: str, target: str, kind: str = "", flags: int = 0, options: str = "") -> None:
    """Attach a file system, or change the flags of a mount.

    Raises:
        OSError: The kernel refused.
    """
    names = [os.fsencode(text) for text in (source, target)]
    result = _mount(*names, kind.encode() or None, flags, options.encode() or None)
    _check(result, f"mount({source!r}, {target!r}, {kind!r}, {flags:#x})")


def detach(target: str) -> None:
    """Detach the file system that was attached last at `target`.

    Raises:
        OSError: The kernel refused.
    """
    _check(_libc.umount2(ctypes.c_char_p(os.fsencode(target)), _MNT_DETACH), "umount2")


def change_root(directory: str) -> None:
    """Make `directory`, a mount point, the root of this process and detach the old root.

    Raises:
        OSError: The kernel refused.
    """
    os.chdir(directory)
    number = _SYS_PIVOT_ROOT[os.uname().machine]
    # New and old root in the same place: the old root lies on top and is then detached, so that no directory for it is
    # needed inside the new root. See pivot_root(2).
    _check(_libc.syscall(ctypes.c_long(number), ctypes.c_char_p(b"."), ctypes.c_char_p(b".")), "pivot_root")
    detach(".")
    os.chdir("/")
