"""Move a worker into a machine of its own: an empty network, and a file system with only the libraries.

`enter` changes the process for good. Root asks the kernel directly; an ordinary user gets a user namespace first,
where the kernel allows that. Nothing here hides other processes: the process namespace of a candidate does, see
`jail.linux.LinuxJail`.
"""

from __future__ import annotations

import os
import select
import signal
from collections.abc import Sequence
from typing import NoReturn

from trl_pper.judge.jail import kernel

#: Working directory of a program inside, a file system of its own; the only place where it may write.
BOX, SCRATCH = "/box", "/box/room"
#: A file system with a script's standard input, which the script may only read. /dev/stdin leads here, as there is
#: no /proc. Landlock has rules on the directories around these two, since a rule does not cover what is mounted later
#: on the directory itself.
RUN, INPUT = "/run", "/run/script"
STANDARD_INPUT = "/run/script/stdin"
DEVICES = ("/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom")
_HOST_CHECK_MILLISECONDS = 2000
_ROOT_OPTIONS = "size=1m,nr_inodes=4096,mode=755"
_KINDS = kernel.CLONE_NEWNS | kernel.CLONE_NEWNET | kernel.CLONE_NEWIPC | kernel.CLONE_NEWUTS | kernel.CLONE_NEWCGROUP
_READ_ONLY = kernel.MS_RDONLY | kernel.MS_NOSUID | kernel.MS_NODEV
_NO_PROGRAMS = kernel.MS_NOSUID | kernel.MS_NODEV | kernel.MS_NOEXEC


def enter(mount_point: str, *, readable: Sequence[str]) -> int:
    """Move this process into namespaces whose root holds `readable` and places for the rooms of programs.

    Args:
        mount_point: An existing directory to build the new root on; the new root is invisible outside and leaves
            nothing behind.
        readable: Files and directories to show read-only under their own names; missing paths are left out.

    Returns:
        A descriptor of the process namespace of this process, with which it can come back after it made others.

    Raises:
        OSError: The kernel refused a step; the process is then half moved and must end.
    """
    if os.geteuid() == 0:
        kernel.unshare(_KINDS)
    else:
        _enter_user_namespace()
    processes = os.open("/proc/self/ns/pid", os.O_RDONLY | os.O_CLOEXEC)
    # Private, so that no mount made from here on reaches the machine outside.
    kernel.mount("none", "/", flags=kernel.MS_REC | kernel.MS_PRIVATE)
    kernel.mount("tmpfs", mount_point, "tmpfs", kernel.MS_NOSUID | kernel.MS_NODEV, _ROOT_OPTIONS)
    for path in _outermost(readable):
        _show(path, mount_point, _READ_ONLY)
    for device in filter(os.path.exists, DEVICES):
        _show(device, mount_point, None)
    for place in (SCRATCH, INPUT):
        os.makedirs(mount_point + place)
    os.symlink(STANDARD_INPUT, mount_point + "/dev/stdin")
    kernel.change_root(mount_point)
    # Read-only only now: mount points had to be made in it.
    kernel.mount("none", "/", flags=kernel.MS_REMOUNT | kernel.MS_BIND | _READ_ONLY)
    return processes


def open_room(*, scratch_bytes: int, scratch_files: int, script: bool) -> None:
    """Attach the file systems of the next program: the working directory, and a script's standard input.

    A file system of its own has inode numbers, times and sizes that tell nothing of an earlier program.

    Args:
        scratch_bytes: Size of the working directory, and of the standard input.
        scratch_files: Number of files and directories that the working directory may hold.
        script: Whether the program is a script.

    Raises:
        OSError: The kernel refused.
    """
    # One more for the directory itself.
    options = f"size={scratch_bytes},nr_inodes={scratch_files + 1},mode=1777"
    kernel.mount("tmpfs", SCRATCH, "tmpfs", _NO_PROGRAMS, options)
    if script:
        kernel.mount("tmpfs", INPUT, "tmpfs", _NO_PROGRAMS, f"size={scratch_bytes},nr_inodes=2,mode=755")


def close_room(*, script: bool) -> None:
    """Detach the file systems of a program that has ended.

    Raises:
        OSError: The kernel refused.
    """
    for place in (SCRATCH, INPUT) if script else (SCRATCH,):
        kernel.detach(place)


def input_file() -> int:
    """Return a descriptor of a new, empty file behind /dev/stdin."""
    return os.open(STANDARD_INPUT, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)


def _enter_user_namespace() -> None:
    # Read before the call: without a mapping the ids read as those of nobody.
    uid, gid = os.getuid(), os.getgid()
    kernel.unshare(kernel.CLONE_NEWUSER | _KINDS)
    # The kernel lets an ordinary user map a group only after `setgroups` is denied, see user_namespaces(7).
    for name, content in (("setgroups", "deny"), ("uid_map", f"{uid} {uid} 1"), ("gid_map", f"{gid} {gid} 1")):
        with open(f"/proc/self/{name}", "w") as file:
            file.write(content)
    # To come back from another process namespace, a process needs rights over its own namespace. So that namespace,
    # too, must be new and belong to the user namespace.
    kernel.unshare(kernel.CLONE_NEWPID)
    host, child = os.getppid(), kernel.fork()
    if child:
        _accompany(child, host)
    kernel.prctl(kernel.PR_SET_PDEATHSIG, signal.SIGKILL)


def _accompany(child: int, host: int) -> NoReturn:
    """Wait until `child` ends or the host is gone, then end this process.

    The child, the first process of its namespace, ends with this process.
    """
    os.closerange(0, 1 << 10)
    ended = select.poll()
    ended.register(os.pidfd_open(child), select.POLLIN)
    while not ended.poll(_HOST_CHECK_MILLISECONDS):
        if os.getppid() != host:
            break
    os._exit(0)


def _outermost(paths: Sequence[str]) -> list[str]:
    """Return the existing paths that lie in no other of `paths`, sorted."""
    found: list[str] = []
    for path in sorted({os.path.normpath(path) for path in paths if os.path.exists(path)}):
        if not any(path.startswith(outer + "/") for outer in found):
            found.append(path)
    return found


def _show(path: str, root: str, flags: int | None) -> None:
    """Show `path` at the same place under `root`.

    Args:
        path: A file or a directory.
        root: The directory that becomes the root.
        flags: Mount flags to add; None leaves the mount as it is.
    """
    target = root + path
    if os.path.isdir(path):
        os.makedirs(target, exist_ok=True)
    else:
        os.makedirs(os.path.dirname(target), exist_ok=True)
        os.close(os.open(target, os.O_CREAT | os.O_WRONLY))
    kernel.mount(path, target, flags=kernel.MS_BIND | kernel.MS_REC)
    # In two steps: the kernel ignores most flags of a bind mount until it is remounted, see mount(2).
    if flags is not None:
        kernel.mount("none", target, flags=kernel.MS_REMOUNT | kernel.MS_BIND | flags | _flags_in_force(path))


def _flags_in_force(path: str) -> int:
    """Return the mount flags in force at `path`."""
    # A user namespace may not loosen them: a remount that leaves out any is refused.
    status = os.statvfs(path).f_flag
    # These four flags have the same value in statvfs and in mount.
    same = status & (kernel.MS_RDONLY | kernel.MS_NOSUID | kernel.MS_NODEV | kernel.MS_NOEXEC)
    times = (
        (os.ST_NOATIME, kernel.MS_NOATIME),
        (os.ST_NODIRATIME, kernel.MS_NODIRATIME),
        (os.ST_RELATIME, kernel.MS_RELATIME),
    )
    return same | sum(mount_flag for status_flag, mount_flag in times if status & status_flag)
