"""System calls that the standard library does not offer, by their C names.

Enters: plain numbers and paths. Leaves: nothing, or OSError with the kernel's reason. Linux only; the constants are
the same on x86-64 and aarch64.
"""

from __future__ import annotations

import ctypes
import os

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
_CAP_VERSION_3 = 0x20080522

# Array types are made once, before any fork.
_CapHeader = ctypes.c_uint32 * 2
_CapData = ctypes.c_uint32 * 6
# PyDLL keeps the interpreter's lock during a call, which `fork` needs.
_libc = ctypes.PyDLL(None, use_errno=True)
_prctl = _libc.prctl
_prctl.argtypes = [ctypes.c_int, ctypes.c_ulong, ctypes.c_ulong, ctypes.c_ulong, ctypes.c_ulong]
_fork = _libc.fork
_unshare = _libc.unshare
_setns = _libc.setns
_mount = _libc.mount
_mount.argtypes = [ctypes.c_char_p, ctypes.c_char_p, ctypes.c_char_p, ctypes.c_ulong, ctypes.c_char_p]


def _check(result: int, call: str) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{call}: {os.strerror(number)}")


def fork() -> int:
    """Fork without Python's own at-fork handlers; return 0 in the child and its process id in the parent.

    The handlers reseed `random`, renew locks and list threads, which costs a child about a millisecond of page
    faults. A caller must have one thread only and hold no lock that the child will want.

    Raises:
        OSError: The kernel refused.
    """
    pid: int = _fork()
    if pid < 0:
        _check(-1, "fork")
    return pid


def prctl(option: int, value: int) -> None:
    """Set a property of this process in the kernel.

    Raises:
        OSError: The kernel refused.
    """
    if _prctl(option, value, 0, 0, 0) != 0:
        _check(-1, f"prctl({option}, {value})")


def unshare(flags: int) -> None:
    """Move this process, or its next child in the case of CLONE_NEWPID, to namespaces of its own.

    Raises:
        OSError: The kernel refused.
    """
    if _unshare(flags) != 0:
        _check(-1, f"unshare({flags:#x})")


def set_namespace(descriptor: int, kind: int) -> None:
    """Join the namespace that `descriptor` stands for.

    Raises:
        OSError: The kernel refused.
    """
    if _setns(descriptor, kind) != 0:
        _check(-1, "setns")


def mount(source: str, target: str, kind: str = "", flags: int = 0, options: str = "") -> None:
    """Attach a file system, or change how one is attached.

    Raises:
        OSError: The kernel refused.
    """
    names = [os.fsencode(text) for text in (source, target)]
    result = _mount(*names, kind.encode() or None, flags, options.encode() or None)
    _check(result, f"mount({source!r}, {target!r}, {kind!r}, {flags:#x})")


def change_root(directory: str) -> None:
    """Make `directory`, a mount point, the root of this process and let go of the old one.

    Raises:
        OSError: The kernel refused.
    """
    os.chdir(directory)
    number = _SYS_PIVOT_ROOT[os.uname().machine]
    # Both roots at the same place: the old one lies on top and is then detached; see pivot_root(2).
    _check(_libc.syscall(ctypes.c_long(number), ctypes.c_char_p(b"."), ctypes.c_char_p(b".")), "pivot_root")
    _check(_libc.umount2(ctypes.c_char_p(b"."), _MNT_DETACH), "umount2")
    os.chdir("/")


def keep_only_capabilities(capabilities: int) -> None:
    """Drop every capability that is not in the bit set `capabilities`.

    Raises:
        OSError: The kernel refused.
    """
    header = _CapHeader(_CAP_VERSION_3, 0)
    data = _CapData(capabilities, capabilities, 0, 0, 0, 0)
    _check(_libc.capset(ctypes.byref(header), ctypes.byref(data)), "capset")
