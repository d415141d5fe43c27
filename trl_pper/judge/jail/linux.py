"""Lock the processes of a worker in on Linux, at the isolation level asked for.

`LinuxJail` changes the worker once, then forks children and seals them. The levels, from strongest to weakest; each
level also prevents all that the next level prevents:

- `namespaces`: a file system of its own with only the libraries, no network, and for each candidate a process
  namespace that dies with it;
- `landlock`: the libraries readable and a single directory writable, no network, no signals or tracing outward;
  needs neither root nor namespaces;
- `seccomp`: only the system calls that an interpreter needs; files stay readable;
- `rlimits`: bounds on the resources that a program uses.

The level below, `processes`, needs no Linux: see `jail.posix.PosixJail`. If the worker is root, a candidate is
moreover a user that nothing else on the machine runs as.

Nothing is promised here: `selftest` finds out which restrictions hold.
"""

from __future__ import annotations

import ctypes
import dataclasses
import fcntl
import os
import resource
import signal
import sys
import sysconfig
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from trl_pper.judge.jail import kernel, landlock, namespaces, seccomp
from trl_pper.judge.jail.posix import (
    FIRST_OWN_DESCRIPTOR,
    Ending,
    Jail,
    LevelUnavailable,
    at_most,
    limit_files,
    signal_child,
)

_CAP_DAC_READ_SEARCH = 2
_LIBRARIES = ("/lib", "/lib64", "/usr/lib", "/usr/lib64", "/usr/local/lib", "/etc/ld.so.cache", "/usr/share/zoneinfo")
_FIRST_UID = 1_879_048_192
# Made after the change of identity, because a change of user clears this setting.
_DIE_WITH_PARENT = kernel.prctl_call(kernel.PR_SET_PDEATHSIG, signal.SIGKILL)
# A program may open /dev/stdin, which leads through its own files in /proc; those of a process that is not dumpable
# belong to root.
_SHOW_OWN_FILES = kernel.prctl_call(kernel.PR_SET_DUMPABLE, 1)
_CLOSE_FROM = [[kernel.close_from_call(first)] for first in range(16)]


@dataclass(frozen=True, kw_only=True)
class Identity:
    """A user that a child runs as.

    Args:
        uid: User and group to become, or None to stay the same user.
        reads_everything: Whether the child retains a capability, CAP_DAC_READ_SEARCH, to read files regardless of
            their mode; needed where the interpreter lies in a directory that only root may enter.
    """

    uid: int | None = None
    reads_everything: bool = False


class LinuxJail(Jail):
    """A jail for every level but "processes".

    Args:
        level: Any of `levels.ISOLATION_LEVELS` but the last.
        directory: A directory that only this worker uses; programs work in it, except at the level "namespaces", which
            brings its own file system.
        imports: Import paths that programs may use beside the standard library.
        limits: From `Limits.to_dict()`.

    Raises:
        LevelUnavailable: The machine does not offer `level`.
    """

    def __init__(self, level: str, *, directory: str, imports: Sequence[str], limits: Mapping[str, float]) -> None:
        super().__init__(level, directory=directory, limits=limits)
        self._directory = directory
        self._own_processes: int | None = None
        #: Rulesets of candidates and referees, beside the ruleset that this process is under itself.
        self._scope: landlock.Ruleset | None = None
        self._referee_scope: landlock.Ruleset | None = None
        self._script = False
        self._filter: seccomp.Filter | None = None
        self._template_filter: seccomp.Filter | None = None
        self._referee_filter: seccomp.Filter | None = None
        # Processes that a candidate leaves behind become children of this process, which can then find and kill them.
        kernel.prctl(kernel.PR_SET_CHILD_SUBREAPER, 1)
        kernel.prctl(kernel.PR_SET_NO_NEW_PRIVS, 1)
        self._tasks_outside = _count_tasks(os.getuid()) if os.geteuid() != 0 else 0
        readable = library_paths(imports)
        spare_uid = _spare_uid() if os.geteuid() == 0 else None
        try:
            # Opened now: at some levels /proc is soon out of reach.
            self._children = os.open(f"/proc/self/task/{os.getpid()}/children", os.O_RDONLY | os.O_CLOEXEC)
            if level == "namespaces":
                self._enter_namespaces(directory, readable)
            else:
                self._leave_network()
            if level in ("namespaces", "landlock"):
                self._enter_landlock(readable)
        except OSError as error:
            raise LevelUnavailable(str(error)) from error
        if level != "rlimits":
            if not seccomp.supported():
                raise LevelUnavailable("the kernel offers no system call filter for this architecture")
            self._filter = seccomp.prepare(processes=limits["processes"] > 1)
            self._template_filter = seccomp.prepare(processes=True, template=True)
            self._referee_filter = seccomp.prepare(processes=False)
        self.candidate_identity, self.referee_identity = _identities(spare_uid, imports)
        if self.candidate_identity.uid is not None:
            os.setgroups([])
            os.setresgid(*[self.candidate_identity.uid] * 3)
        # No other process of the same user can trace this process or read its memory.
        kernel.prctl(kernel.PR_SET_DUMPABLE, 0)
        self._keep_descriptors_apart()
        limit_files(limits)
        self._sealing = self._seal_of_candidates(template=False)
        self._template_sealing = self._seal_of_candidates(template=True)
        self._script_sealing = self._seal_of_scripts()
        self._referee_sealing = self._seal_of_referees()

    def _enter_namespaces(self, directory: str, readable: Sequence[str]) -> None:
        self._own_processes = namespaces.enter(directory, readable=readable)
        self.room = namespaces.SCRATCH
        # A user namespace counts its own tasks only: this worker's two, its referee's and the candidate's.
        self._tasks_outside = 3
        # Tried once and undone: a kernel that refuses must do so here, not at the first candidate.
        kernel.unshare(kernel.CLONE_NEWPID)
        kernel.set_namespace(self._own_processes, kernel.CLONE_NEWPID)

    def _leave_network(self) -> None:
        if os.geteuid() == 0:
            try:
                kernel.unshare(kernel.CLONE_NEWNET | kernel.CLONE_NEWIPC)
            except OSError:
                # These levels do not depend on it; `selftest` finds out whether the network is out of reach.
                pass

    def _enter_landlock(self, readable: Sequence[str]) -> None:
        if landlock.abi_version() == 0:
            if self.level == "landlock":
                raise LevelUnavailable("the kernel has no Landlock, or it is not enabled at boot")
            return
        devices = namespaces.DEVICES
        if self.process_namespaces:
            # This process is under no ruleset, since a process under a ruleset may mount nothing. It writes a script's
            # standard input to RUN; a candidate may only read there, even if it is the same user.
            writable = [namespaces.BOX, *devices]
            self._scope = landlock.prepare(readable=[*readable, namespaces.RUN], writable=writable)
            self._referee_scope = landlock.prepare(readable=readable, writable=devices)
        else:
            landlock.restrict(landlock.prepare(readable=readable, writable=[self._directory, *devices]))
            self._referee_scope = landlock.prepare(readable=None, writable=devices)
            # Each candidate has another, see `open_room`; this one holds the descriptor's number.
            self._scope = landlock.prepare(readable=None, writable=devices)

    def open_room(self, *, script: bool) -> None:
        """Make the working directory of the next candidate, and limit the candidate to it. See `Jail.open_room`."""
        self._script = script
        if self.process_namespaces:
            limits = self.limits
            namespaces.open_room(
                scratch_bytes=int(limits["file_bytes"]), scratch_files=int(limits["files"]), script=script
            )
            return
        super().open_room(script=script)
        if self._scope is not None:
            # A rule is about a directory, not about its name, so each new directory needs a rule of its own.
            made = landlock.prepare(readable=None, writable=[self.room, *namespaces.DEVICES])
            os.dup2(made.descriptor, self._scope.descriptor, inheritable=False)
            made.close()

    def close_room(self) -> bool:
        """Remove the working directory; return False if it must be emptied first."""
        if not self.process_namespaces:
            return super().close_room()
        namespaces.close_room(script=self._script)
        return True

    @property
    def process_namespaces(self) -> bool:
        """Whether the level is "namespaces", where each candidate has a process namespace that dies with it."""
        return self._own_processes is not None

    @property
    def bounded_files(self) -> bool:
        """Whether programs write to a file system with a fixed size, which the level "namespaces" brings."""
        return self.process_namespaces

    @property
    def may_leave_processes(self) -> bool:
        """Whether a candidate can have started processes that outlive it."""
        return not self.process_namespaces and (self._filter is None or self.limits["processes"] > 1)

    def fork_candidate(self) -> int:
        """Fork a child that is to be a candidate; return 0 in the child."""
        if self._own_processes is None:
            return kernel.fork()
        # The next child is the first process of a new namespace; children after it belong to this process's own again.
        kernel.unshare(kernel.CLONE_NEWPID)
        pid = kernel.fork()
        if pid:
            kernel.set_namespace(self._own_processes, kernel.CLONE_NEWPID)
        return pid

    def fork_referee(self) -> int:
        """Fork a child that is to be a referee; return 0 in the child."""
        return kernel.fork()

    def input_file(self) -> int:
        """Return a descriptor of a new, empty file for a script's standard input."""
        return namespaces.input_file() if self.process_namespaces else os.memfd_create("input")

    def children(self) -> list[int]:
        """Return the process ids of this process's children."""
        return [int(pid) for pid in os.pread(self._children, 1 << 16, 0).split()]

    def has_ended(self, pid: int) -> bool:
        """Return whether child `pid` has ended; the child is not reaped."""
        return kernel.has_ended(pid)

    def end_child(self, pid: int, ending: Ending | None = None) -> None:
        """Kill child `pid` and its process group, and note how it ended."""
        signal_child(pid, signal.SIGKILL)
        ending = ending or Ending()
        address = ctypes.addressof(ending)
        kernel.wait4(pid, address + Ending.status.offset, address + Ending.times.offset)

    def _keep_descriptors_apart(self) -> None:
        """Move this process's own descriptors above the descriptors that children get."""
        self._children = _move_up(self._children)
        if self._own_processes is not None:
            self._own_processes = _move_up(self._own_processes)
        if self._scope is not None and self._referee_scope is not None:
            self._scope = dataclasses.replace(self._scope, descriptor=_move_up(self._scope.descriptor))
            moved = _move_up(self._referee_scope.descriptor)
            self._referee_scope = dataclasses.replace(self._referee_scope, descriptor=moved)

    @property
    def _forks_scripts(self) -> bool:
        # Nothing finds the processes that a script leaves behind before the next test. Without a filter a script can
        # start processes, whatever its limits say.
        return self._filter is not None and self.limits["processes"] == 1

    def _seal_of_candidates(self, *, template: bool) -> list[kernel.Call]:
        """Return the system calls with which a child gives up all rights that a program must not have.

        Args:
            template: Whether the child forks a child for each test of a script, and gives up the rest there.
        """
        limits, identity = self.limits, self.candidate_identity
        calls = [
            kernel.set_limit_call(resource.RLIMIT_AS, at_most(resource.RLIMIT_AS, int(limits["memory_bytes"]))),
            *_assume(identity),
        ]
        if not template:
            calls += self._last_rights()
        calls.append(_DIE_WITH_PARENT)
        if self._scope is not None:
            calls.append(landlock.restrict_call(self._scope))
        if template and self._template_filter is not None:
            calls.append(seccomp.install_call(self._template_filter))
        elif self._filter is not None:
            # In its own namespace a candidate has number 1; at other levels the child itself writes its number, which
            # is not known before the fork.
            seccomp.name_process(self._filter, 1)
            calls.append(seccomp.install_call(self._filter))
        return calls

    def _last_rights(self, *, beside: int = 0) -> list[kernel.Call]:
        """Return the calls about tasks and own files, which a template leaves to its children.

        Args:
            beside: Number of tasks of the same user that belong to the program's own worker.
        """
        # RLIMIT_NPROC counts all tasks of the user, so tasks outside of the jail come on top. A template has no such
        # limit: where programs of other workers are the same user, it could fork no child while these have threads.
        tasks = int(self.limits["processes"] + self.limits["threads"]) + beside
        if self.candidate_identity.uid is None:
            tasks += self._tasks_outside
        calls = [kernel.set_limit_call(resource.RLIMIT_NPROC, at_most(resource.RLIMIT_NPROC, tasks))]
        return calls if self.process_namespaces else [*calls, _SHOW_OWN_FILES]

    def _seal_of_scripts(self) -> list[kernel.Call]:
        """Return the system calls with which a template's child gives up what the template has kept."""
        calls = [*self._last_rights(beside=1), _DIE_WITH_PARENT]
        if self._filter is not None:
            calls.append(seccomp.install_call(self._filter))
        return calls

    def _seal_of_referees(self) -> list[kernel.Call]:
        """Return the system calls with which a child gives up all rights that test code must not have."""
        # As hard as a candidate: test code runs on data that a program chose.
        calls = [
            kernel.set_limit_call(resource.RLIMIT_AS, at_most(resource.RLIMIT_AS, int(self.limits["memory_bytes"]))),
            *_assume(self.referee_identity),
            _DIE_WITH_PARENT,
        ]
        if self._referee_scope is not None:
            calls.append(landlock.restrict_call(self._referee_scope))
        if self._referee_filter is not None:
            calls.append(seccomp.install_call(self._referee_filter))
        return calls

    def seal_candidate(self, parent: int, descriptors: int, *, script: bool = False) -> None:
        """Give up all rights that a program must not have, with system calls prepared before the fork."""
        template = script and self._forks_scripts
        if self._filter is not None and not self.process_namespaces:
            seccomp.name_process(self._filter, os.getpid())
        kernel.make(self._template_sealing if template else self._sealing)
        kernel.make(_CLOSE_FROM[descriptors])
        _check_parent(parent)

    def script_fork(self) -> Callable[[], int] | None:
        """Return a function with which a candidate forks a sealed child for each test. See `Jail.script_fork`."""
        return self._fork_script if self._forks_scripts else None

    def _fork_script(self) -> int:
        parent = os.getpid()
        pid = kernel.fork()
        if pid == 0:
            if self._filter is not None:
                seccomp.name_process(self._filter, os.getpid())
            kernel.make(self._script_sealing)
            _check_parent(parent)
        return pid

    def seal_referee(self, parent: int, descriptors: int) -> None:
        """Give up all rights, as a candidate does; a referee may start no process at all."""
        if self._referee_filter is not None:
            seccomp.name_process(self._referee_filter, os.getpid())
        kernel.make(self._referee_sealing)
        kernel.make(_CLOSE_FROM[descriptors])
        _check_parent(parent)


def library_paths(imports: Sequence[str]) -> tuple[str, ...]:
    """Return the paths that an interpreter must be able to read: its own, shared libraries, and `imports`."""
    own = [sysconfig.get_path(name) for name in ("stdlib", "platstdlib")]
    extra = os.environ.get("LD_LIBRARY_PATH", "").split(":")
    return tuple(path for path in (*own, sys.base_prefix + "/lib", *_LIBRARIES, *extra, *imports) if path)


def _assume(identity: Identity) -> list[kernel.Call]:
    """Return the system calls with which a process becomes `identity` for good."""
    kept = 1 << _CAP_DAC_READ_SEARCH if identity.reads_everything else 0
    calls = []
    if identity.uid is not None:
        # Otherwise the change of user would drop the capability, too.
        if kept:
            calls.append(kernel.prctl_call(kernel.PR_SET_KEEPCAPS, 1))
        calls.append(kernel.set_user_call(identity.uid))
    if kept or identity.uid is None:
        # Leaving uid 0 drops every capability. A process that stays the same user, root or not, keeps its own or those
        # of its user namespace, so they must be dropped here.
        calls.append(kernel.keep_only_capabilities_call(kept))
    return calls


def _check_parent(parent: int) -> None:
    """End this process if its parent ended before `_DIE_WITH_PARENT` was in force."""
    # In a process namespace of its own the parent has number 0.
    if os.getppid() not in (parent, 0):
        os._exit(1)


def _move_up(descriptor: int) -> int:
    moved = fcntl.fcntl(descriptor, fcntl.F_DUPFD_CLOEXEC, FIRST_OWN_DESCRIPTOR)
    os.close(descriptor)
    return moved


def _count_tasks(uid: int) -> int:
    # Threads count as tasks, as they do for RLIMIT_NPROC.
    count = 0
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                if os.stat(f"/proc/{name}").st_uid == uid:
                    count += len(os.listdir(f"/proc/{name}/task"))
            # The process has ended meanwhile.
            except OSError:
                continue
    return count


def _identities(uid: int | None, imports: Sequence[str]) -> tuple[Identity, Identity]:
    """Return the identities of candidate and referee: users `uid` and `uid + 1`, if this process may become them."""
    if uid is None:
        return Identity(), Identity()
    for reads_everything in (False, True):
        candidate = Identity(uid=uid, reads_everything=reads_everything)
        if _can_read_as(candidate, [os.path.dirname(os.__file__), *filter(os.path.isdir, imports)]):
            return candidate, Identity(uid=uid + 1, reads_everything=reads_everything)
    return Identity(), Identity()


def _spare_uid() -> int:
    """Return a user id that this process's user namespace has and that is unlikely to be in use.

    It and the next are a pair that belongs to this worker.
    """
    # A pair for each worker, so that its processes neither count against the limits of another worker nor reach its
    # processes.
    with open("/proc/self/uid_map") as file:
        first, _, count = max((tuple(map(int, line.split())) for line in file), key=lambda row: row[2])
    wanted = _FIRST_UID + 2 * os.getpid()
    return wanted if first <= wanted < first + count - 1 else first + count - 2 - 2 * (os.getpid() % (count // 8 + 1))


def _can_read_as(identity: Identity, directories: Sequence[str]) -> bool:
    pid = kernel.fork()
    if pid == 0:
        try:
            os.setgroups([])
            os.setresgid(*[identity.uid or 0] * 3)
            kernel.make(_assume(identity))
            for directory in directories:
                os.listdir(directory)
            os._exit(0)
        finally:
            os._exit(1)
    return os.waitpid(pid, 0)[1] == 0
