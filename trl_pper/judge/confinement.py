"""Turns a freshly forked child into one that may run an untrusted program: descriptors, limits, identity, session.

Enters: the child's descriptors, its working directory and the limits. Leaves: nothing; the process itself is changed.
This is the level `rlimits`: it bounds what a program uses, keeps it from signalling or tracing other processes when
the worker runs as root, and promises nothing about files it may read. Where the kernel allows it the worker also
leaves the network; `selftest` says whether that held.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import resource
import signal
from collections.abc import Sequence
from dataclasses import dataclass

PR_SET_PDEATHSIG = 1
PR_SET_DUMPABLE = 4
PR_SET_KEEPCAPS = 8
PR_SET_CHILD_SUBREAPER = 36
PR_SET_NO_NEW_PRIVS = 38
_CLONE_NEWIPC = 0x08000000
_CLONE_NEWNET = 0x40000000
_CAP_DAC_READ_SEARCH = 2
_CAP_VERSION_3 = 0x20080522

# Array types are made once, before any fork.
_CapHeader = ctypes.c_uint32 * 2
_CapData = ctypes.c_uint32 * 6
_libc = ctypes.CDLL(None, use_errno=True)


def prctl(option: int, value: int) -> None:
    """Set a property of this process in the kernel.

    Raises:
        OSError: The kernel refused.
    """
    if _libc.prctl(option, ctypes.c_ulong(value), 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), f"prctl({option}, {value})")


@dataclass(frozen=True, kw_only=True)
class Identity:
    """Who a child runs as.

    Args:
        uid: User and group to become, or None to stay.
        reads_everything: Whether to keep the one capability that reads files regardless of their mode; needed where
            the interpreter itself lies in a directory only root may enter.
    """

    uid: int | None = None
    reads_everything: bool = False


def arrange_descriptors(sources: Sequence[int]) -> None:
    """Make `sources` the descriptors 0, 1, 2, ... of this process and close all others."""
    high = [fcntl.fcntl(source, fcntl.F_DUPFD, 128) for source in sources]
    for target, source in enumerate(high):
        os.dup2(source, target)
    os.closerange(len(high), 1024)


def assume(identity: Identity) -> None:
    """Become `identity` for good.

    Raises:
        OSError: The kernel refused.
    """
    if identity.uid is None:
        return
    if identity.reads_everything:
        prctl(PR_SET_KEEPCAPS, 1)
    os.setgroups([])
    os.setresgid(identity.uid, identity.uid, identity.uid)
    os.setresuid(identity.uid, identity.uid, identity.uid)
    if identity.reads_everything:
        _keep_only(1 << _CAP_DAC_READ_SEARCH)


def _keep_only(capabilities: int) -> None:
    header = _CapHeader(_CAP_VERSION_3, 0)
    data = _CapData(capabilities, capabilities, 0, 0, 0, 0)
    if _libc.capset(ctypes.byref(header), ctypes.byref(data)) != 0:
        raise OSError(ctypes.get_errno(), "capset")


def leave_network() -> bool:
    """Move this process and its future children to an empty network; return whether the kernel allowed it."""
    return bool(_libc.unshare(_CLONE_NEWNET | _CLONE_NEWIPC) == 0)


def limit_resources(limits: dict[str, float], *, processes: int) -> None:
    """Set the resource limits of this process from `Limits.to_dict()`; `processes` is counted per user."""
    _lower(resource.RLIMIT_CORE, 0)
    _lower(resource.RLIMIT_AS, int(limits["memory_bytes"]))
    _lower(resource.RLIMIT_FSIZE, int(max(limits["file_bytes"], limits["output_bytes"] + 1)))
    _lower(resource.RLIMIT_NOFILE, int(limits["open_files"]))
    _lower(resource.RLIMIT_NPROC, processes)


def _lower(which: int, value: int) -> None:
    _, hard = resource.getrlimit(which)
    if hard != resource.RLIM_INFINITY:
        value = min(value, hard)
    resource.setrlimit(which, (value, value))


def seal(identity: Identity, *, dumpable: bool, parent: int) -> None:
    """Give up privileges and tie this process's life to its parent's; the last step before untrusted work.

    Args:
        identity: Who to become.
        dumpable: Whether processes of the same user may look into this one. A candidate stays dumpable because a
            program may open /dev/stdin; a referee must not.
        parent: Process id of the parent this process must not outlive.
    """
    assume(identity)
    prctl(PR_SET_DUMPABLE, int(dumpable))
    prctl(PR_SET_NO_NEW_PRIVS, 1)
    # After the change of identity, which clears it.
    prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)
