"""Takes away from a Python on Linux what a Python on macOS does not have, and makes the rest behave as it does there.

`take_away` is called in the host, after the libraries that were built for Linux were imported, and in the worker
before anything else. It uses nothing of the tests or of trl_pper, because a worker has neither when it starts.
"""

from __future__ import annotations

import _posixsubprocess
import ctypes
import errno
import fcntl
import os
import resource
import select
import socket
import subprocess
import sys
import time
import types

_GONE = {
    os: "memfd_create MFD_ sched_ pidfd_ PIDFD_ P_PIDFD unshare setns CLONE_ setresuid setresgid getresuid getresgid"
    " pipe2 waitid"
    " eventfd EFD_ splice SPLICE_ copy_file_range posix_fadvise POSIX_FADV_ getrandom GRND_ O_PATH O_NOATIME",
    select: "epoll EPOLL",
    fcntl: "F_ADD_SEALS F_GET_SEALS F_SEAL_ F_SETPIPE_SZ F_NOTIFY",
    socket: "MSG_NOSIGNAL MSG_CMSG_CLOEXEC SO_PASSCRED SO_PEERCRED SCM_CREDENTIALS SOCK_CLOEXEC SOCK_NONBLOCK"
    " AF_NETLINK",
}
_NO_SYMBOLS = (
    "prctl unshare setns mount umount2 capset setresuid setresgid setrlimit64 prlimit pivot_root syscall".split()
)
_NO_FOLDERS = ("/proc", "/sys")
#: The room of a Unix socket on macOS.
_SOCKET_BYTES = 8192


def take_away() -> None:
    """Make this process, and those it forks, take their system for macOS."""
    for module, names in _GONE.items():
        for name in [one for one in vars(module) if one.startswith(tuple(names.split()))]:
            delattr(module, name)
    sys.platform = "darwin"
    # Part of the standard library there.
    sys.modules.setdefault("_scproxy", types.SimpleNamespace(_get_proxy_settings=dict, _get_proxies=dict))
    sys.addaudithook(_hide_folders)
    _replace(os, "stat", _stat)
    _replace(ctypes.CDLL, "__getitem__", _symbol)
    _replace(time, "clock_gettime", _clock_gettime)
    _replace(resource, "setrlimit", _setrlimit)
    _replace(os, "fork", _counted)
    _replace(_posixsubprocess, "fork_exec", _counted)
    subprocess._fork_exec = _posixsubprocess.fork_exec
    _replace(socket, "socketpair", _socketpair)
    _replace(socket.socket, "sendmsg", _sendmsg)
    for name in ("bind", "connect"):
        _replace(socket.socket, name, _reach)


def _replace(owner, name, function):
    original = getattr(owner, name)
    setattr(owner, name, lambda *args, **keywords: function(original, *args, **keywords))


def _hide_folders(event, args):
    if event in ("open", "os.listdir", "os.scandir") and _is_hidden(args[0]):
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), args[0])


def _is_hidden(path):
    return isinstance(path, str | os.PathLike) and os.fspath(path).startswith(_NO_FOLDERS)


def _stat(original, path, *args, **keywords):
    if _is_hidden(path):
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path)
    return original(path, *args, **keywords)


def _symbol(original, library, name):
    if name in _NO_SYMBOLS:
        raise AttributeError(f"dlsym(RTLD_DEFAULT, {name}): symbol not found")
    return original(library, name)


def _clock_gettime(original, clock):
    # Negative numbers are Linux's clocks of other processes.
    if clock < 0:
        raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
    return original(clock)


_most_processes = [1 << 30]


def _setrlimit(original, which, limits):
    if which == resource.RLIMIT_AS:
        raise ValueError("current limit exceeds maximum limit")
    if which == resource.RLIMIT_NPROC:
        # Of processes there, of threads as well here.
        _most_processes[0] = limits[0]
        return
    original(which, limits)


def _counted(original, *args):
    if _most_processes[0] <= 1:
        raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))
    return original(*args)


def _socketpair(original, family=socket.AF_UNIX, kind=socket.SOCK_STREAM, proto=0):
    if kind not in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
        raise OSError(errno.EPROTONOSUPPORT, os.strerror(errno.EPROTONOSUPPORT))
    pair = original(family, kind, proto)
    for each in pair:
        each.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SOCKET_BYTES)
    return pair


def _sendmsg(original, sock, buffers, ancillary=(), *args):
    if ancillary and sum(map(len, buffers)) > 64:
        # It depends on what lies unread at the other end; whoever sends little has nothing to fear.
        raise OSError(errno.EMSGSIZE, os.strerror(errno.EMSGSIZE))
    return original(sock, buffers, ancillary, *args)


def _reach(original, sock, address):
    if isinstance(address, str | bytes) and address[:1] in ("\0", b"\0"):
        raise OSError(errno.ENOENT, os.strerror(errno.ENOENT))
    return original(sock, address)
