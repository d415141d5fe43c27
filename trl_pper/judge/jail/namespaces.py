"""Gives a worker a machine of its own: an empty network, and a file system with nothing in it but the libraries.

Enters: the paths that must stay readable and the sizes of the scratch directory. Leaves: nothing; the process is
changed for good. As root the kernel is asked directly; an ordinary user gets a user namespace first, where the kernel
allows that. Nothing here hides other processes: that is the candidate's process namespace, see `confinement`.
"""

from __future__ import annotations

import os
import select
import signal
from collections.abc import Sequence
from typing import NoReturn

from trl_pper.judge.jail import kernel

#: Working directory of programs inside; the only place they may write.
SCRATCH = "/box"
#: A file system of a few files that only this process may write: what /dev/stdin leads to, there being no /proc.
RUN = "/run"
STANDARD_INPUT = "/run/stdin"
DEVICES = ("/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom")
_HOST_CHECK_MILLISECONDS = 2000
_ROOT_OPTIONS = "size=1m,nr_inodes=4096,mode=755"
_KINDS = kernel.CLONE_NEWNS | kernel.CLONE_NEWNET | kernel.CLONE_NEWIPC | kernel.CLONE_NEWUTS | kernel.CLONE_NEWCGROUP
_READ_ONLY = kernel.MS_RDONLY | kernel.MS_NOSUID | kernel.MS_NODEV


def enter(mount_point: str, *, readable: Sequence[str], scratch_bytes: int, scratch_files: int) -> int:
    """Move this process into namespaces whose root holds `readable` and an empty `SCRATCH`, the working directory.

    Args:
        mount_point: An existing directory to build the new root on; nothing of it is visible outside or left behind.
        readable: Files and directories to show read-only under their own names; those that do not exist are left out.
        scratch_bytes: Size of the scratch directory.
        scratch_files: Files and directories it may hold.

    Returns:
        A descriptor of the process namespace that this process is in, to come back to after making others.

    Raises:
        OSError: The kernel refused a step; the process is then between two worlds and must end.
    """
    if os.geteuid() == 0:
        kernel.unshare(_KINDS)
    else:
        _enter_user_namespace()
    processes = os.open("/proc/self/ns/pid", os.O_RDONLY | os.O_CLOEXEC)
    kernel.mount("none", "/", flags=kernel.MS_REC | kernel.MS_PRIVATE)
    kernel.mount("tmpfs", mount_point, "tmpfs", kernel.MS_NOSUID | kernel.MS_NODEV, _ROOT_OPTIONS)
    for path in _outermost(readable):
        _show(path, mount_point, _READ_ONLY)
    for device in filter(os.path.exists, DEVICES):
        _show(device, mount_point, None)
    scratch = mount_point + SCRATCH
    os.mkdir(scratch)
    options = f"size={scratch_bytes},nr_inodes={scratch_files},mode=1777"
    kernel.mount("tmpfs", scratch, "tmpfs", kernel.MS_NOSUID | kernel.MS_NODEV | kernel.MS_NOEXEC, options)
    os.mkdir(mount_point + RUN)
    run = f"size={scratch_bytes},nr_inodes=4,mode=755"
    kernel.mount("tmpfs", mount_point + RUN, "tmpfs", kernel.MS_NOSUID | kernel.MS_NODEV | kernel.MS_NOEXEC, run)
    os.symlink(STANDARD_INPUT, mount_point + "/dev/stdin")
    kernel.change_root(mount_point)
    # Only now: mount points had to be made in it.
    kernel.mount("none", "/", flags=kernel.MS_REMOUNT | kernel.MS_BIND | _READ_ONLY)
    os.chdir(SCRATCH)
    return processes


def input_file() -> int:
    """Return a descriptor of a new, empty file behind /dev/stdin."""
    if os.path.exists(STANDARD_INPUT):
        os.unlink(STANDARD_INPUT)
    return os.open(STANDARD_INPUT, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)


def _enter_user_namespace() -> None:
    uid, gid = os.getuid(), os.getgid()
    kernel.unshare(kernel.CLONE_NEWUSER | _KINDS)
    for name, content in (("setgroups", "deny"), ("uid_map", f"{uid} {uid} 1"), ("gid_map", f"{gid} {gid} 1")):
        with open(f"/proc/self/{name}", "w") as file:
            file.write(content)
    # Coming back from another process namespace takes rights over one's own, so it has to be a new one too.
    kernel.unshare(kernel.CLONE_NEWPID)
    host, child = os.getppid(), kernel.fork()
    if child:
        _accompany(child, host)
    kernel.prctl(kernel.PR_SET_PDEATHSIG, signal.SIGKILL)


def _accompany(child: int, host: int) -> NoReturn:
    """Stay as long as `child`, the first process of its namespace, and end it when the host is gone."""
    os.closerange(0, 1 << 10)
    ended = select.poll()
    ended.register(os.pidfd_open(child), select.POLLIN)
    while not ended.poll(_HOST_CHECK_MILLISECONDS):
        if os.getppid() != host:
            break
    os._exit(0)


def _outermost(paths: Sequence[str]) -> list[str]:
    """Return the existing `paths` without those that lie in another of them."""
    found: list[str] = []
    for path in sorted({os.path.normpath(path) for path in paths if os.path.exists(path)}):
        if not any(path.startswith(outer + "/") for outer in found):
            found.append(path)
    return found


def _show(path: str, root: str, flags: int | None) -> None:
    """Show `path` at the same place under `root`, with the mount `flags` or, when None, as it is."""
    target = root + path
    if os.path.isdir(path):
        os.makedirs(target, exist_ok=True)
    else:
        os.makedirs(os.path.dirname(target), exist_ok=True)
        os.close(os.open(target, os.O_CREAT | os.O_WRONLY))
    kernel.mount(path, target, flags=kernel.MS_BIND | kernel.MS_REC)
    if flags is not None:
        kernel.mount("none", target, flags=kernel.MS_REMOUNT | kernel.MS_BIND | flags | _flags_in_force(path))


def _flags_in_force(path: str) -> int:
    """Return the mount flags that hold at `path`; a user namespace may not loosen them."""
    status = os.statvfs(path).f_flag
    # These four have the same value in both worlds.
    same = status & (kernel.MS_RDONLY | kernel.MS_NOSUID | kernel.MS_NODEV | kernel.MS_NOEXEC)
    times = (
        (os.ST_NOATIME, kernel.MS_NOATIME),
        (os.ST_NODIRATIME, kernel.MS_NODIRATIME),
        (os.ST_RELATIME, kernel.MS_RELATIME),
    )
    return same | sum(mount_flag for status_flag, mount_flag in times if status & status_flag)
