"""Take from a process every system call that a single Python program has no use for.

`prepare` makes a filter once; each forked child then installs it. The filter is an allowlist: a call that is not on
the list fails with EPERM, a call newer than the list with ENOSYS, and a call made through another architecture's entry
kills the process. A filter sees numbers, never the memory that a pointer points to. So it promises nothing about which
files a program opens (`landlock` does) nor about descriptors that the program already holds.

The parts in order: the two tables of system calls, arguments that are allowed, a small assembler for the filter's
instructions (classic BPF), the decisions about arguments, and the functions that make and install a filter. See
https://docs.kernel.org/userspace-api/seccomp_filter.html and seccomp(2).
"""

from __future__ import annotations

import ctypes
import errno
import os
import struct
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from trl_pper.judge.jail import kernel

#: System calls that a program may make with any arguments: each name with its number on x86-64 and on aarch64, "-" for
#: none.
_FREE = (
    # Memory. Libraries map code, so execute permission stays available. Anonymous files are refused: their pages count
    # towards no limit of the process.
    "mmap 9 222, munmap 11 215, mprotect 10 226, mremap 25 216, msync 26 227, brk 12 214,"
    # Descriptors.
    "read 0 63, write 1 64, readv 19 65, writev 20 66, pread64 17 67, pwrite64 18 68, preadv 295 69, pwritev 296 70,"
    "lseek 8 62, close 3 57, close_range 436 436, dup 32 23, dup2 33 -,"
    "dup3 292 24, pipe 22 -, pipe2 293 59, sendfile 40 71, copy_file_range 326 285,"
    "eventfd 284 -, eventfd2 290 19,"
    "poll 7 -, ppoll 271 73, select 23 -, pselect6 270 72, epoll_create 213 -, epoll_create1 291 20, epoll_ctl 233 21,"
    "epoll_wait 232 -, epoll_pwait 281 22, epoll_pwait2 441 441,"
    # Looking at files. shutil.copy2 fails where it may not list extended attributes, and copes where it may not set
    # them.
    "open 2 -, openat 257 56, openat2 437 437, creat 85 -, stat 4 -, lstat 6 -, fstat 5 80, newfstatat 262 79,"
    "statfs 137 43, fstatfs 138 44, getdents 78 -, getdents64 217 61, access 21 -, faccessat 269 48,"
    "faccessat2 439 439, readlink 89 -, readlinkat 267 78, getxattr 191 8, lgetxattr 192 9,"
    "fgetxattr 193 10, listxattr 194 11, llistxattr 195 12, flistxattr 196 13, getcwd 79 17, chdir 80 49,"
    "fchdir 81 50,"
    # Changing files.
    "mkdir 83 -, mkdirat 258 34, rmdir 84 -, unlink 87 -, unlinkat 263 35, rename 82 -, renameat 264 38,"
    "renameat2 316 276, link 86 -, linkat 265 37, symlink 88 -, symlinkat 266 36, truncate 76 45, ftruncate 77 46,"
    "fallocate 285 47, fsync 74 82, fdatasync 75 83, umask 95 166,"
    # Time. A timer's signal reaches only the process that made the timer.
    "clock_gettime 228 113, clock_getres 229 114, clock_nanosleep 230 115, nanosleep 35 101, gettimeofday 96 169,"
    "time 201 -, times 100 153, getitimer 36 102, setitimer 38 103, alarm 37 -, pause 34 -, timer_create 222 107,"
    "timer_settime 223 110, timer_gettime 224 108, timer_getoverrun 225 109, timer_delete 226 111,"
    "timerfd_create 283 85, timerfd_settime 286 86, timerfd_gettime 287 87,"
    # Receiving signals.
    "rt_sigaction 13 134, rt_sigprocmask 14 135, rt_sigreturn 15 139, rt_sigpending 127 136, rt_sigtimedwait 128 137,"
    "rt_sigsuspend 130 133, sigaltstack 131 132, restart_syscall 219 128,"
    # Threads, and reading how they are scheduled.
    "futex_waitv 449 449, set_robust_list 273 99, rseq 334 293, set_tid_address 218 96,"
    "membarrier 324 283, sched_yield 24 124, sched_getaffinity 204 123, getcpu 309 168, sched_getscheduler 145 120,"
    "sched_getparam 143 121, sched_get_priority_max 146 125, sched_get_priority_min 147 126,"
    "sched_rr_get_interval 148 127, getpriority 140 141,"
    # The process and its machine. Lowering one's own limits harms nobody, raising hard ones needs a privilege.
    "getpid 39 172, gettid 186 178, getppid 110 173, getuid 102 174, geteuid 107 175, getgid 104 176, getegid 108 177,"
    "getresuid 118 148, getresgid 120 150, getgroups 115 158, getpgrp 111 -, getpgid 121 155, getsid 124 156,"
    "getrusage 98 165, getrlimit 97 163, setrlimit 160 164, sysinfo 99 179, uname 63 160, getrandom 318 278,"
    "exit 60 93, exit_group 231 94, wait4 61 260, waitid 247 95,"
    # Sockets that exist: nothing here makes, names or connects one. Descriptors sent along with a message over the
    # program's one channel are dropped by the kernel, because the far end reads without asking for them.
    "sendto 44 206, recvfrom 45 207, sendmsg 46 211, recvmsg 47 212, shutdown 48 210, getsockname 51 204,"
    "getpeername 52 205, getsockopt 55 209"
)
#: System calls that a program may make with certain arguments only; `_checked` decides which.
_CHECKED = (
    "clone 56 220, clone3 435 435, fork 57 -, vfork 58 -, kill 62 129, tgkill 234 131, prlimit64 302 261, ioctl 16 29,"
    "fcntl 72 25, prctl 157 167, arch_prctl 158 -, socketpair 53 199, setsockopt 54 208, chmod 90 -, fchmod 91 52,"
    "fchmodat 268 53, fchmodat2 452 452, utime 132 -, utimes 235 -, utimensat 280 88, flock 73 32, fadvise64 221 223,"
    "madvise 28 233, preadv2 327 286, pwritev2 328 287, statx 332 291, futex 202 98"
)
#: Each call up to this number was judged by itself. A newer call gets the answer of a kernel that lacks it, for which
#: libraries are prepared. Numbers of the x32 interface are far beyond.
_LAST_JUDGED = 450

_ARCHITECTURES = ("x86_64", "aarch64")
#: The kernel's number for the architecture of the entry that a call came through.
AUDIT_ARCHITECTURE = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}

_PR_SET_SECCOMP = 22
_SECCOMP_MODE_FILTER = 2
_MAX_INSTRUCTIONS = 4096

# Flags of clone: all namespaces, and CLONE_PARENT, which would make the new process a child of somebody else.
_CLONE_ELSEWHERE = 0x00020000 | 0x7E000000 | 0x00008000
_CLONE_THREAD = 0x00010000
_AF_UNIX = 1
_SOL_SOCKET = 1
# Streams and sequenced packets. A Unix datagram socket reaches any socket by name with no connect before it.
_PAIR_TYPES = [kind | flags for kind in (1, 5) for flags in (0, 0x800, 0x80000, 0x80800)]
# SO_REUSEADDR, SNDBUF, RCVBUF, KEEPALIVE, LINGER, RCVTIMEO, SNDTIMEO: none attaches a program to a socket.
_SOCKET_OPTIONS = (2, 7, 8, 9, 13, 20, 21)
# TCGETS, TIOCGWINSZ, FIONREAD, FIONBIO, FIONCLEX, FIOCLEX, FICLONE (pathlib copies files with it since 3.14).
_IOCTLS = (0x5401, 0x5413, 0x541B, 0x5421, 0x5450, 0x5451, 0x40049409)
# Duplicating, flags, F_GETLK and F_OFD_GETLK, pipe sizes and seals. F_SETOWN and F_SETSIG would have the kernel
# signal another process.
_FCNTLS = (0, 1, 2, 3, 4, 5, 9, 36, 1030, 1031, 1032, 1033, 1034)
# F_SETLK, F_SETLKW and the same for open files (F_OFD_*).
_LOCKS = (6, 7, 37, 38)
# MADV_NORMAL to MADV_DONTNEED, FREE, DONTFORK, DOFORK, MERGEABLE to DODUMP, WIPEONFORK and KEEPONFORK. Not COLD,
# PAGEOUT and POPULATE_READ, with which a process chooses which files the kernel keeps in memory, and asks for it.
_ADVICE = (0, 1, 2, 3, 4, 8, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19)
# PR_GET_DUMPABLE, PR_SET_NAME, PR_GET_NAME, PR_GET_NO_NEW_PRIVS, PR_SET_VMA (names of mappings).
_PRCTLS = (3, 15, 16, 39, 0x53564D41)
# PR_SET_PDEATHSIG, PR_SET_DUMPABLE and PR_SET_SECCOMP.
_SEALING_PRCTLS = (1, 4, 22)
_FUTEX_PRIVATE = 128
# FUTEX_WAIT and FUTEX_WAIT_BITSET, which FUTEX_CLOCK_REALTIME may go with.
_FUTEX_WAITS = (0, 9, 256, 265)
_STATX_UNIQUE = 0x4000
# ARCH_SET_FS, ARCH_GET_FS, and asking for a processor's wide registers, as numerical libraries do.
_ARCH_PRCTLS = (0x1002, 0x1003, 0x1021, 0x1022, 0x1023)

# Codes of classic BPF instructions; jumps compare the accumulator with the operand.
_LOAD, _RETURN, _JUMP = 0x20, 0x06, 0x05
_IF_EQUAL, _IF_AT_LEAST, _IF_ANY_BIT = 0x15, 0x35, 0x45
_INSTRUCTION = struct.Struct("<HBBI")
_OPERAND_OFFSET_BYTES = 4
#: How far a test may jump: eight bits, less one for a plain jump that may come between the test and what it reaches.
_REACH = 254


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("instructions", ctypes.c_void_p))


@dataclass(frozen=True, eq=False)
class _Return:
    value: int


@dataclass(frozen=True, eq=False)
class _Load:
    offset_bytes: int
    then: _Decision


@dataclass(frozen=True, eq=False)
class _Test:
    code: int
    #: The number to compare with; None for the id of the process that installs the filter.
    operand: int | None
    then: _Decision
    otherwise: _Decision


_Decision = _Return | _Load | _Test


class _Instruction(NamedTuple):
    code: int
    if_true: int
    if_false: int
    operand: int | None


class _Assembler:
    """A writer of a decision as instructions, from the last instruction to the first.

    A part of a decision that is used twice is written once. Places count from the end.
    """

    # Backwards, because jumps only go forward: every target has its place before the instruction that refers to it.

    def __init__(self) -> None:
        self.backwards: list[_Instruction] = []
        self.places: dict[_Decision, int] = {}

    def add(self, code: int, if_true: int, if_false: int, operand: int | None) -> None:
        self.backwards.append(_Instruction(code, if_true, if_false, operand))

    def distance(self, place: int) -> int:
        """Return the number of instructions that the next instruction would jump over to get to `place`."""
        return len(self.backwards) - place - 1

    def place(self, decision: _Decision) -> None:
        """Add the instructions of `decision`, the last instruction first."""
        if isinstance(decision, _Return):
            self.add(_RETURN, 0, 0, decision.value)
        elif isinstance(decision, _Load):
            self.bring_within(0, decision.then)
            self.add(_LOAD, 0, 0, decision.offset_bytes)
        else:
            self.bring_within(_REACH, decision.then)
            self.bring_within(_REACH, decision.otherwise)
            # The other branch may have pushed this target out of reach.
            self.bring_within(_REACH, decision.then)
            if_true, if_false = (self.distance(self.places[one]) for one in (decision.then, decision.otherwise))
            self.add(decision.code, if_true, if_false, decision.operand)
        self.places[decision] = len(self.backwards) - 1

    def bring_within(self, reach: int, decision: _Decision) -> None:
        """Make sure that the next instruction can jump to `decision` over at most `reach` instructions."""
        if decision not in self.places:
            self.place(decision)
        elif (distance := self.distance(self.places[decision])) > reach:
            # A plain jump has 32 bits for its distance, a test only 8.
            self.add(_JUMP, 0, 0, distance)
            self.places[decision] = len(self.backwards) - 1


def _fail(number: int) -> _Return:
    return _Return(0x00050000 | number)


_ALLOW = _Return(0x7FFF0000)
_KILL = _Return(0x80000000)
_REFUSE = _fail(errno.EPERM)
_UNKNOWN = _fail(errno.ENOSYS)


def _argument(index: int, then: _Decision) -> _Decision:
    # The low half of 64 bits: the kernel takes every argument judged here for an int and ignores the upper half.
    return _Load(16 + 8 * index, then)


def _search(actions: Mapping[int, _Decision], default: _Decision) -> _Decision:
    """Return a balanced decision tree that maps the accumulator's value to its action, or to `default`."""
    # Ranges of equal actions, since a filter runs at every system call and must be short.
    edges = {0: default}
    for value in sorted(actions):
        edges[value] = actions[value]
        edges[value + 1] = default
    ranges: list[tuple[int, _Decision]] = []
    for first, action in edges.items():
        if not ranges or ranges[-1][1] != action:
            ranges.append((first, action))
    return _tree(ranges)


def _tree(ranges: Sequence[tuple[int, _Decision]]) -> _Decision:
    if len(ranges) == 1:
        return ranges[0][1]
    middle = len(ranges) // 2
    return _Test(_IF_AT_LEAST, ranges[middle][0], _tree(ranges[middle:]), _tree(ranges[:middle]))


def _one_of(index: int, values: Iterable[int], *, otherwise: _Decision) -> _Decision:
    return _argument(index, _search(dict.fromkeys(values, _ALLOW), otherwise))


def _checked(*, processes: bool, template: bool) -> dict[str, _Decision]:
    """Return the decision for each name in `_CHECKED`.

    Args:
        processes: Whether the program may start processes.
        template: Whether the filter is for a process that forks children, which put themselves under another filter.
    """
    lock = _ALLOW if processes else _fail(0)
    new_process = _ALLOW if processes else _fail(errno.EAGAIN)
    clone = _Test(_IF_ANY_BIT, _CLONE_THREAD, _ALLOW, new_process)
    # A call must pass every filter of a process, and each names another process. The filter of the child decides.
    is_self = _ALLOW if template else _Test(_IF_EQUAL, None, _ALLOW, _REFUSE)
    prctls = (*_PRCTLS, *_SEALING_PRCTLS) if template else _PRCTLS
    pair = _one_of(1, _PAIR_TYPES, otherwise=_REFUSE)
    option = _one_of(2, _SOCKET_OPTIONS, otherwise=_REFUSE)
    return {
        "fork": new_process,
        "vfork": new_process,
        "clone": _argument(0, _Test(_IF_ANY_BIT, _CLONE_ELSEWHERE, _REFUSE, clone)),
        # Its flags lie behind a pointer, so the filter cannot see them; without clone3 the C library uses clone.
        "clone3": _UNKNOWN,
        # Groups are negative numbers and 0; -1 is every process. So only a single process can be equal.
        "kill": _argument(0, is_self),
        "tgkill": _argument(0, is_self),
        "prlimit64": _argument(0, _Test(_IF_EQUAL, 0, _ALLOW, is_self)),
        # ENOTTY is the answer of a device that does not know the request.
        "ioctl": _one_of(1, _IOCTLS, otherwise=_fail(errno.ENOTTY)),
        "fcntl": _argument(1, _search(dict.fromkeys(_FCNTLS, _ALLOW) | dict.fromkeys(_LOCKS, lock), _REFUSE)),
        "prctl": _one_of(0, prctls, otherwise=_REFUSE),
        "arch_prctl": _one_of(0, _ARCH_PRCTLS, otherwise=_REFUSE),
        # Neither Landlock nor an open descriptor keeps a user from changing the modes and times of own files, so these
        # calls do nothing. They report success, for programs that copy files.
        **dict.fromkeys(("chmod", "fchmod", "fchmodat", "fchmodat2", "utime", "utimes", "utimensat"), _fail(0)),
        # A lock on a library would be seen by every program that runs at the same time. A program that is alone needs
        # none of its own files locked.
        "flock": lock,
        # Whether a file is in memory outlives a program: no program throws files out, or learns of it without reading.
        "fadvise64": _fail(0),
        "madvise": _one_of(2, _ADVICE, otherwise=_fail(errno.EINVAL)),
        # Words of memory that are not a process's own may be those of a library that another program has mapped, too.
        # Waiting for them is allowed, as a thread's end is awaited so, and waking others is not.
        "futex": _argument(
            1, _Test(_IF_ANY_BIT, _FUTEX_PRIVATE, _ALLOW, _search(dict.fromkeys(_FUTEX_WAITS, _ALLOW), lock))
        ),
        # STATX_MNT_ID_UNIQUE asks for a number that the kernel counts up with every file system that is attached.
        "statx": _argument(3, _Test(_IF_ANY_BIT, _STATX_UNIQUE, _fail(errno.EINVAL), _ALLOW)),
        # The last of six arguments are flags, such as RWF_NOWAIT.
        **dict.fromkeys(("preadv2", "pwritev2"), _one_of(5, (0,), otherwise=_fail(errno.EOPNOTSUPP))),
        "socketpair": _argument(0, _Test(_IF_EQUAL, _AF_UNIX, pair, _REFUSE)),
        "setsockopt": _argument(1, _Test(_IF_EQUAL, _SOL_SOCKET, option, _REFUSE)),
    }


def _read_table(table: str) -> dict[str, dict[str, int]]:
    rows = [row.split() for row in table.split(",")]
    return {
        architecture: {row[0]: int(row[column]) for row in rows if row[column] != "-"}
        for column, architecture in enumerate(_ARCHITECTURES, start=1)
    }


#: Numbers of system calls by architecture and name: calls allowed with any arguments, and calls that are checked.
FREE_CALLS = _read_table(_FREE)
CHECKED_CALLS = _read_table(_CHECKED)


def _assemble(architecture: str, *, processes: bool, template: bool) -> list[_Instruction]:
    actions: dict[int, _Decision] = dict.fromkeys(range(_LAST_JUDGED + 1), _REFUSE)
    actions |= dict.fromkeys(FREE_CALLS[architecture].values(), _ALLOW)
    decisions = _checked(processes=processes, template=template)
    actions |= {number: decisions[name] for name, number in CHECKED_CALLS[architecture].items()}
    # Offsets into `struct seccomp_data`: the call's number at 0, the architecture at 4. The architecture is checked
    # first, since a number means another call elsewhere.
    known = _Load(0, _search(actions, _UNKNOWN))
    assembler = _Assembler()
    assembler.place(_Load(4, _Test(_IF_EQUAL, AUDIT_ARCHITECTURE[architecture], known, _KILL)))
    return assembler.backwards[::-1]


class Filter:
    """A filter ready to be installed.

    Args:
        instructions: The encoded program.
        process_id_offsets: Offsets in `instructions`, in bytes, to which `name_process` writes the id of the process.
    """

    def __init__(self, instructions: bytes, process_id_offsets: Sequence[int]) -> None:
        self.instructions = instructions
        self.process_id_offsets = process_id_offsets
        # All objects that `install` needs are made here: each page of memory that a forked child writes first is
        # copied for it.
        self._code = ctypes.create_string_buffer(instructions, len(instructions))
        self.process_ids = [ctypes.c_uint32.from_buffer(self._code, offset) for offset in process_id_offsets]
        self._program = _Program(len(instructions) // _INSTRUCTION.size, ctypes.addressof(self._code))
        self.address = ctypes.addressof(self._program)


def supported() -> bool:
    """Return whether this machine's architecture has a table here and its kernel takes filters."""
    # Asks for a filter at address 0: a kernel that takes filters complains about the address.
    try:
        kernel.make([kernel.prctl_call(_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, 0)])
    except OSError as error:
        return _this_architecture() in _ARCHITECTURES and error.errno == errno.EFAULT
    return False


def _this_architecture() -> str:
    # A 32-bit interpreter on a 64-bit kernel makes its calls through another entry, with other numbers.
    return os.uname().machine if sys.maxsize > 1 << 32 else "32-bit"


def prepare(*, processes: bool, template: bool = False, architecture: str | None = None) -> Filter:
    """Return a new filter; called once, before any fork.

    Args:
        template: Whether the filter is for a process that compiles a program and then forks children for it, each of
            which installs another filter. It may signal any process.
        processes: Whether the program may start processes (never other programs). They inherit the filter as it is:
            each of them may signal the process that installed the filter, and no other process.
        architecture: Name as in `os.uname().machine`; by default this machine's.

    Raises:
        ValueError: The module has no table for the architecture.
    """
    architecture = architecture or _this_architecture()
    if architecture not in _ARCHITECTURES:
        raise ValueError(f"architecture: must be one of {', '.join(_ARCHITECTURES)}; got {architecture!r}")
    return _encode(_assemble(architecture, processes=processes, template=template))


def _encode(program: Sequence[_Instruction]) -> Filter:
    if len(program) > _MAX_INSTRUCTIONS:
        raise AssertionError(f"the kernel takes {_MAX_INSTRUCTIONS} instructions; the filter has {len(program)}")
    return Filter(
        instructions=b"".join(_INSTRUCTION.pack(*one[:3], one.operand or 0) for one in program),
        process_id_offsets=[
            _INSTRUCTION.size * index + _OPERAND_OFFSET_BYTES
            for index, one in enumerate(program)
            if one.operand is None
        ],
    )


def name_process(filter_: Filter, process_id: int) -> None:
    """Write the id of the process that will install the filter into it, as that process sees its own id."""
    for own in filter_.process_ids:
        own.value = process_id


def install_call(filter_: Filter) -> kernel.Call:
    """Prepare the system call of `install`, for a process named in the filter that has already set no_new_privs."""
    return kernel.prctl_call(_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, filter_.address)


def install(filter_: Filter) -> None:
    """Put this thread, and all threads and processes that it starts from now on, under a filter for good.

    Meant for a process just forked, which has a single thread. The thread also sets no_new_privs.

    Raises:
        OSError: The kernel refused.
    """
    # Without no_new_privs the kernel refuses a filter from a process without privileges.
    name_process(filter_, os.getpid())
    kernel.make([kernel.prctl_call(kernel.PR_SET_NO_NEW_PRIVS, 1), install_call(filter_)])
