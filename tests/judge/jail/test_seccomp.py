"""The system call filter: what it decides for every number, and what a real program can and cannot do under it."""

from __future__ import annotations

import errno
import json
import os
import random
import re
import struct
import subprocess
import sys
from pathlib import Path

import pytest

from tests.judge.hostile.attempts import BARE_JUDGE, ROOT, TRY_EACH
from trl_pper.judge.jail import seccomp

OWN = 4321
ALLOW, KILL = 0x7FFF0000, 0x80000000
X86_64, AARCH64 = "x86_64", "aarch64"
needs_filters = pytest.mark.skipif(not seccomp.supported(), reason="this machine takes no system call filters")

HEADERS = {
    X86_64: Path("/usr/include/x86_64-linux-gnu/asm/unistd_64.h"),
    AARCH64: Path("/usr/include/asm-generic/unistd.h"),
}


def fail(number):
    return 0x00050000 | number


def numbers_in_header(architecture):
    """Read the kernel's own table; a number may be given by the name that 64-bit machines share with 32-bit ones."""
    if not HEADERS[architecture].exists():
        pytest.skip(f"no {HEADERS[architecture]} to compare with")
    found = {}
    for name, value in re.findall(r"#define __(NR\w*)[ \t]+(\w+)", HEADERS[architecture].read_text()):
        found[name] = int(value) if value.isdigit() else found.get(value.removeprefix("__"))
    return {name.removeprefix("NR_"): number for name, number in found.items() if number is not None}


class Machine:
    """Interprets a filter as the kernel does, but refuses what the kernel would not have loaded."""

    def __init__(self, architecture, *, processes=False, template=False):
        self.architecture = architecture
        made = seccomp.prepare(processes=processes, template=template, architecture=architecture)
        code = bytearray(made.instructions)
        for offset in made.process_id_offsets:
            struct.pack_into("<I", code, offset, OWN)
        self.program = list(struct.iter_unpack("<HBBI", code))
        self.steps = 0

    def decide(self, number, *arguments, audit=None):
        audit = seccomp.AUDIT_ARCHITECTURE[self.architecture] if audit is None else audit
        words = [argument & (2**64 - 1) for argument in (*arguments, *[0] * 6)[:6]]
        data = struct.pack("<IIQ6Q", number & 0xFFFFFFFF, audit, 0x7000, *words)
        return interpret(self, data)


def interpret(machine, data):
    place, accumulator, machine.steps = 0, 0, 0
    while True:
        code, if_true, if_false, operand = machine.program[place]
        place, machine.steps = place + 1, machine.steps + 1
        if code == 0x06:
            return operand
        if code == 0x20:
            assert operand % 4 == 0
            (accumulator,) = struct.unpack_from("<I", data, operand)
        elif code == 0x05:
            place += operand
        else:
            holds = {0x15: accumulator == operand, 0x35: accumulator >= operand, 0x45: bool(accumulator & operand)}
            place += if_true if holds[code] else if_false


@pytest.fixture(scope="module", params=[X86_64, AARCH64])
def architecture(request):
    return request.param


@pytest.fixture(scope="module")
def machine(architecture):
    return Machine(architecture)


def number_of(architecture, name):
    return {**seccomp.FREE_CALLS[architecture], **seccomp.CHECKED_CALLS[architecture]}.get(name)


def test_the_tables_are_the_kernels(architecture):
    kernel = numbers_in_header(architecture)
    compared = 0
    for name, number in {**seccomp.FREE_CALLS[architecture], **seccomp.CHECKED_CALLS[architecture]}.items():
        if number > max(kernel.values()):
            continue  # Newer than these headers.
        assert kernel[name] == number, name
        compared += 1
    assert compared > 140


def test_a_name_one_architecture_lacks_is_one_its_kernel_lacks():
    kernel = numbers_in_header(AARCH64)
    names = seccomp.FREE_CALLS[X86_64].keys() | seccomp.CHECKED_CALLS[X86_64].keys()
    lacking = {name for name in names if number_of(AARCH64, name) is None}
    assert {"open", "fork", "arch_prctl"} <= lacking
    assert not lacking & kernel.keys()
    assert seccomp.FREE_CALLS[AARCH64].keys() <= seccomp.FREE_CALLS[X86_64].keys()


def test_no_number_stands_twice(architecture):
    numbers = [*seccomp.FREE_CALLS[architecture].values(), *seccomp.CHECKED_CALLS[architecture].values()]
    assert len(numbers) == len(set(numbers))


NEVER = (
    "execve execveat ptrace process_vm_readv process_vm_writev process_madvise process_mrelease kcmp mount umount2"
    " open_tree move_mount fsopen fsconfig fsmount fspick mount_setattr pivot_root chroot unshare setns bpf"
    " io_uring_setup io_uring_enter io_uring_register io_setup io_submit userfaultfd perf_event_open add_key"
    " request_key keyctl open_by_handle_at name_to_handle_at init_module finit_module delete_module reboot kexec_load"
    " swapon swapoff setuid setgid setreuid setregid setresuid setresgid setfsuid setfsgid setgroups capset setpgid"
    " setsid socket connect bind listen accept accept4 shmget shmat shmctl shmdt msgget msgsnd msgrcv msgctl semget"
    " semop semctl semtimedop mq_open mq_unlink mq_notify mq_timedsend mq_timedreceive inotify_init1"
    " inotify_add_watch fanotify_init fanotify_mark mincore quotactl personality memfd_create memfd_secret"
    " landlock_create_ruleset"
    " landlock_add_rule landlock_restrict_self seccomp sched_setscheduler sched_setparam sched_setaffinity"
    " sched_setattr setpriority ioprio_set vmsplice splice tee move_pages migrate_pages mbind set_mempolicy"
    " set_mempolicy_home_node tkill rt_sigqueueinfo rt_tgsigqueueinfo pidfd_open pidfd_send_signal pidfd_getfd"
    " mknodat fchown fchownat setxattr fsetxattr removexattr settimeofday clock_settime adjtimex clock_adjtime"
    " sethostname setdomainname acct vhangup syslog lookup_dcookie get_robust_list mlockall sync syncfs"
).split()
NEVER_ON_X86_64 = "ioperm iopl modify_ldt mknod chown lchown inotify_init uselib create_module _sysctl".split()


def test_what_no_program_needs_is_refused(architecture):
    kernel = numbers_in_header(architecture)
    names = NEVER + (NEVER_ON_X86_64 if architecture == X86_64 else [])
    for processes in (False, True):
        machine = Machine(architecture, processes=processes)
        for name in names:
            assert number_of(architecture, name) is None
            assert machine.decide(kernel[name], 1, 1, 1) == fail(errno.EPERM), name


def test_free_calls_are_free(architecture):
    for processes in (False, True):
        machine = Machine(architecture, processes=processes)
        for name, number in seccomp.FREE_CALLS[architecture].items():
            assert machine.decide(number, -1, -1, -1, -1, -1, -1) == ALLOW, name
            # The kernel walks the filter for every number when it is installed.
            assert machine.steps <= 12


CLONE_VM, CLONE_THREAD, SIGCHLD = 0x100, 0x10000, 17
NAMESPACES = [0x20000, 0x2000000, 0x4000000, 0x8000000, 0x10000000, 0x20000000, 0x40000000]
THREAD = 0x3D0F00

PRETENDED = ("chmod", "fchmod", "fchmodat", "fchmodat2", "utime", "utimes", "utimensat", "fadvise64")
LOCKS = (6, 7, 37, 38)
ADVICE = (0, 1, 2, 3, 4, 8, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19)

CHECKS = [
    ("clone", (THREAD,), ALLOW),
    ("clone", (THREAD | 0xABCD << 32,), ALLOW),
    ("clone", (SIGCHLD,), fail(errno.EAGAIN)),
    ("clone", (SIGCHLD | CLONE_VM | 0x4000,), fail(errno.EAGAIN)),
    ("clone", (SIGCHLD | CLONE_THREAD << 32,), fail(errno.EAGAIN)),
    *[("clone", (flag | base,), fail(errno.EPERM)) for flag in NAMESPACES for base in (SIGCHLD, THREAD)],
    ("clone", (SIGCHLD | 0x8000,), fail(errno.EPERM)),
    ("clone3", (0, 0), fail(errno.ENOSYS)),
    ("fork", (), fail(errno.EAGAIN)),
    ("vfork", (), fail(errno.EAGAIN)),
    ("kill", (OWN, 9), ALLOW),
    ("kill", (OWN | 1 << 40, 9), ALLOW),
    *[("kill", (target, 9), fail(errno.EPERM)) for target in (0, -1, -OWN, 1, OWN + 1, OWN << 32, 0xFFFFFFFF)],
    ("tgkill", (OWN, OWN + 7, 6), ALLOW),
    *[("tgkill", (target, OWN, 6), fail(errno.EPERM)) for target in (0, -1, -OWN, OWN + 7)],
    ("prlimit64", (0, 7, 0, 4096), ALLOW),
    ("prlimit64", (OWN, 7, 4096, 0), ALLOW),
    ("prlimit64", (OWN + 1, 7, 0, 4096), fail(errno.EPERM)),
    *[("ioctl", (0, request), ALLOW) for request in (0x5401, 0x541B, 0x5413, 0x5421, 0x5450, 0x5451)],
    # TIOCSTI, TIOCSCTTY, TIOCLINUX, FIOASYNC, FIOSETOWN.
    *[("ioctl", (0, request), fail(errno.ENOTTY)) for request in (0x5412, 0x540E, 0x541C, 0x5452, 0x8901, 0)],
    *[("fcntl", (0, command), ALLOW) for command in (0, 1, 2, 3, 4, 5, 9, 36, 1030, 1031, 1032, 1033)],
    *[("fcntl", (0, command), fail(0)) for command in LOCKS],
    *[("flock", (0, operation), fail(0)) for operation in (1, 2, 5, 6, 8)],
    *[("madvise", (0, 4096, advice), ALLOW) for advice in (0, 1, 2, 3, 4, 8, 14, 15, 16)],
    # REMOVE, HWPOISON, COLD, PAGEOUT, POPULATE_READ, POPULATE_WRITE, DONTNEED_LOCKED, COLLAPSE.
    *[("madvise", (0, 4096, advice), fail(errno.EINVAL)) for advice in (9, 100, 20, 21, 22, 23, 24, 25)],
    *[(name, (0, 0, 1, 0, 0, 0), ALLOW) for name in ("preadv2", "pwritev2")],
    *[(name, (0, 0, 1, 0, 0, 8), fail(errno.EOPNOTSUPP)) for name in ("preadv2", "pwritev2")],
    *[("futex", (0, operation), ALLOW) for operation in (128, 129, 0x189, 0, 9, 256 | 9)],
    # Shared WAKE, REQUEUE, CMP_REQUEUE, WAKE_OP, LOCK_PI, WAKE_BITSET.
    *[("futex", (0, operation), fail(0)) for operation in (1, 3, 4, 5, 6, 10, 256 | 1)],
    *[("statx", (0, 0, 0, mask), ALLOW) for mask in (0x7FF, 0xFFF, 0x1FFF)],
    *[("statx", (0, 0, 0, mask), fail(errno.EINVAL)) for mask in (0x4000, 0x4FFF, 0xFFFFFFFF)],
    # F_SETOWN, F_SETSIG, F_SETOWN_EX, F_SETLEASE, F_NOTIFY.
    *[("fcntl", (0, command), fail(errno.EPERM)) for command in (8, 10, 15, 1024, 1026)],
    *[("prctl", (option,), ALLOW) for option in (3, 15, 16, 39, 0x53564D41)],
    # PDEATHSIG, DUMPABLE, KEEPCAPS, SECCOMP, SECUREBITS, MM, CHILD_SUBREAPER, NO_NEW_PRIVS, CAP_AMBIENT, PTRACER.
    *[("prctl", (option, 1), fail(errno.EPERM)) for option in (1, 4, 8, 22, 28, 35, 36, 38, 47, 0x59616D61, -1)],
    ("arch_prctl", (0x1002,), ALLOW),
    ("arch_prctl", (0x1012,), fail(errno.EPERM)),
    *[("socketpair", (1, kind), ALLOW) for kind in (1, 1 | 0x80000, 1 | 0x800, 5 | 0x80800)],
    # Datagrams, and raw sockets, which are datagrams by another name.
    *[("socketpair", (1, kind), fail(errno.EPERM)) for kind in (2, 3, 2 | 0x80000, 3 | 0x800, 0)],
    *[("socketpair", (family, 1), fail(errno.EPERM)) for family in (0, 2, 10, 16, 30)],
    *[("setsockopt", (0, 1, option), ALLOW) for option in (2, 7, 8, 9, 13, 20, 21)],
    # SO_ATTACH_FILTER, SO_ATTACH_BPF, SO_SNDBUFFORCE.
    *[("setsockopt", (0, 1, option), fail(errno.EPERM)) for option in (26, 50, 32)],
    *[("setsockopt", (0, level, 7), fail(errno.EPERM)) for level in (0, 6, 41)],
    # Done in words only: error 0 is success.
    *[(name, (0, 0o777, 0), fail(0)) for name in PRETENDED],
]


@pytest.mark.parametrize("name", sorted(seccomp.CHECKED_CALLS[X86_64]))
def test_checked_calls(machine, name):
    checks = [(arguments, decision) for checked, arguments, decision in CHECKS if checked == name]
    assert checks
    number = number_of(machine.architecture, name)
    for arguments, decision in checks if number is not None else ():
        assert machine.decide(number, *arguments) == decision, arguments


def test_a_program_that_may_start_processes(architecture):
    machine = Machine(architecture, processes=True)
    for name in ("fork", "vfork"):
        number = number_of(architecture, name)
        assert number is None or machine.decide(number) == ALLOW
    clone = number_of(architecture, "clone")
    assert machine.decide(clone, SIGCHLD) == machine.decide(clone, THREAD) == ALLOW
    assert machine.decide(clone, SIGCHLD | NAMESPACES[0]) == fail(errno.EPERM)
    assert machine.decide(number_of(architecture, "kill"), OWN + 1, 9) == fail(errno.EPERM)


def test_other_entries_to_the_kernel(machine):
    read = number_of(machine.architecture, "read")
    foreign = [0x40000003, 0x40000028, 0, *seccomp.AUDIT_ARCHITECTURE.values()]
    for audit in set(foreign) - {seccomp.AUDIT_ARCHITECTURE[machine.architecture]}:
        assert machine.decide(read, audit=audit) == KILL
    # The x32 interface has the same architecture and one more bit in the number.
    for number in (*range(600), 512, 547):
        assert machine.decide(number | 0x40000000) == fail(errno.ENOSYS)
    assert machine.decide(-1) == fail(errno.ENOSYS)


def read_naively(architecture, processes, template, number, arguments):
    """Decide by reading the rules one after the other, with none of the module's machinery."""
    names = {number: name for name, number in seccomp.CHECKED_CALLS[architecture].items()}
    first, second, third = (argument & 0xFFFFFFFF for argument in arguments[:3])
    if number in seccomp.FREE_CALLS[architecture].values():
        return ALLOW
    if number not in names:
        return fail(errno.EPERM) if number <= 450 else fail(errno.ENOSYS)
    if names[number] == "clone3":
        return fail(errno.ENOSYS)
    if names[number] in PRETENDED:
        return fail(0)
    if names[number] in ("fork", "vfork", "clone"):
        flags = first if names[number] == "clone" else 0
        if flags & (sum(NAMESPACES) | 0x8000):
            return fail(errno.EPERM)
        return ALLOW if processes or flags & CLONE_THREAD else fail(errno.EAGAIN)
    if names[number] == "ioctl":
        known = second in (0x5401, 0x5413, 0x541B, 0x5421, 0x5450, 0x5451, 0x40049409)
        return ALLOW if known else fail(errno.ENOTTY)
    if names[number] == "flock" or (names[number] == "fcntl" and second in LOCKS):
        return ALLOW if processes else fail(0)
    if names[number] == "madvise":
        return ALLOW if third in ADVICE else fail(errno.EINVAL)
    if names[number] in ("preadv2", "pwritev2"):
        return fail(errno.EOPNOTSUPP) if arguments[5] & 0xFFFFFFFF else ALLOW
    if names[number] == "futex":
        return ALLOW if processes or second & 128 or second in (0, 9, 256, 265) else fail(0)
    if names[number] == "statx":
        return fail(errno.EINVAL) if arguments[3] & 0x4000 else ALLOW
    kind = second & ~0x80800
    allowed = {
        "kill": template or first == OWN,
        "tgkill": template or first == OWN,
        "prlimit64": template or first in (0, OWN),
        "fcntl": second in (*range(6), 9, 36, *range(1030, 1035)),
        "prctl": first in (3, 15, 16, 39, 0x53564D41) or (template and first in (1, 4, 22)),
        "arch_prctl": first in (0x1002, 0x1003, 0x1021, 0x1022, 0x1023),
        "socketpair": first == 1 and kind in (1, 5),
        "setsockopt": second == 1 and third in (2, 7, 8, 9, 13, 20, 21),
    }
    return ALLOW if allowed[names[number]] else fail(errno.EPERM)


@pytest.mark.parametrize(("processes", "template"), [(False, False), (True, False), (True, True)])
def test_the_tree_decides_as_the_table_reads(architecture, processes, template):
    machine, draw = Machine(architecture, processes=processes, template=template), random.Random(0)
    interesting = [
        0,
        1,
        2,
        3,
        4,
        5,
        7,
        8,
        9,
        13,
        15,
        21,
        22,
        26,
        37,
        OWN,
        OWN + 1,
        -1,
        0x800,
        0x80001,
        0x80802,
        0x1002,
        0x5401,
    ]
    interesting += [0x5402, 0x10000, 0x8000, 1 << 17, 1 << 31, 1 << 32, OWN | 1 << 63, 0x53564D41, 0x40049409, 1030]
    checked = set(seccomp.CHECKED_CALLS[architecture].values())
    for number in range(601):
        for _ in range(200 if number in checked else 4):
            arguments = [draw.choice([*interesting, draw.getrandbits(64), draw.getrandbits(12)]) for _ in range(6)]
            expected = read_naively(architecture, processes, template, number, arguments)
            assert machine.decide(number, *arguments) == expected, (number, arguments)


def test_a_tree_larger_than_its_jumps_reach(machine):
    actions = {3 * value: seccomp._Return(value) for value in range(700)}
    assembler = seccomp._Assembler()
    assembler.place(seccomp._Load(0, seccomp._search(actions, seccomp._ALLOW)))
    # The same interpreter over another program.
    large = Machine(machine.architecture)
    large.program = assembler.backwards[::-1]
    assert any(code == 0x05 for code, *_ in large.program)
    assert max(max(one.if_true, one.if_false) for one in large.program) <= 255
    for number in range(2101):
        expected = ALLOW if number % 3 or number >= 2100 else number // 3
        assert large.decide(number) == expected


def test_an_unknown_architecture_is_named():
    with pytest.raises(ValueError, match=r"architecture: must be one of x86_64, aarch64; got 'vax'"):
        seccomp.prepare(processes=False, architecture="vax")


# From here on a real process lives under the filter.

PREAMBLE = f"""{BARE_JUDGE}
import ctypes, errno, json, os, signal
from trl_pper.judge.jail import seccomp
libc = ctypes.CDLL(None, use_errno=True)
def call(number, *arguments):
    if libc.syscall(*(ctypes.c_long(argument) for argument in (number, *arguments))) < 0:
        raise OSError(ctypes.get_errno(), "refused")
def ending(action):
    pid = os.fork()
    if pid == 0:
        try:
            action()
            os._exit(0)
        except BaseException as error:
            print(repr(error), file=sys.stderr, flush=True)
        os._exit(99)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
"""
TRY_ALL = f"""
import asyncio, multiprocessing, socket, subprocess, threading
attempts = json.loads(sys.argv[1])
near, far = socket.socketpair()
seccomp.install(seccomp.prepare(processes=False))
parent, checked = os.getppid(), seccomp.CHECKED_CALLS[os.uname().machine]
{TRY_EACH}"""
ORDINARY = "an ordinary user"


def run(script, *arguments, user="this user", given=""):
    """Run a script in an interpreter of its own, which is the system's where this one's is hidden from the user."""
    python, options = sys.executable, {}
    if user == ORDINARY:
        if os.geteuid() != 0:
            pytest.skip("the tests run as an ordinary user already")
        python, options = "/usr/bin/python3", {"user": 65534, "group": 65534, "extra_groups": []}
        probe = f"import sys\nassert sys.version_info >= (3, 11)\nopen({str(ROOT / 'trl_pper/__init__.py')!r})"
        if not os.path.exists(python) or subprocess.run([python, "-c", probe], stderr=-3, **options).returncode:
            pytest.skip("no system interpreter that can read the sources")
    done = subprocess.run(
        [python, "-c", PREAMBLE + script, *arguments],
        input=given,
        capture_output=True,
        text=True,
        timeout=60,
        cwd="/",
        env={"PATH": os.environ["PATH"], "OMP_NUM_THREADS": "2"},
        check=False,
        **options,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


EPERM, EAGAIN, ENOTTY = errno.EPERM, errno.EAGAIN, errno.ENOTTY
REFUSED = {
    "fork": ("os.fork()", EAGAIN),
    "subprocess": ("subprocess.run(['/bin/true'])", EAGAIN),
    "posix_spawn": ("os.posix_spawn('/bin/true', ['true'], {})", EAGAIN),
    "multiprocessing": ("multiprocessing.get_context('fork').Process(target=print).start()", EAGAIN),
    "asyncio subprocess": ("asyncio.run(asyncio.create_subprocess_exec('/bin/true'))", EAGAIN),
    "exec": ("os.execv('/bin/true', ['true'])", EPERM),
    "exec of a descriptor": ("os.execve(os.open('/bin/true', os.O_RDONLY), ['true'], {})", EPERM),
    "TCP socket": ("socket.socket()", EPERM),
    "UDP socket": ("socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)", EPERM),
    "Unix socket": ("socket.socket(socket.AF_UNIX)", EPERM),
    "netlink socket": ("socket.socket(16, socket.SOCK_RAW)", EPERM),
    "datagram pair": ("socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)", EPERM),
    "bind": ("near.bind(chr(0) + 'name')", EPERM),
    "connect": ("near.connect(chr(0) + 'name')", EPERM),
    "listen": ("near.listen()", EPERM),
    "accept": ("near.accept()", EPERM),
    "attach a filter to a socket": ("near.setsockopt(socket.SOL_SOCKET, 26, b'x' * 16)", EPERM),
    "signal the parent": ("os.kill(parent, 0)", EPERM),
    "signal everybody": ("os.kill(-1, 0)", EPERM),
    "signal the group": ("os.kill(0, 0)", EPERM),
    "signal the group by its number": ("os.killpg(os.getpgrp(), 0)", EPERM),
    "own the signals of a descriptor": ("import fcntl; fcntl.fcntl(near, fcntl.F_SETOWN, parent)", EPERM),
    "choose the signal of a descriptor": ("import fcntl; fcntl.fcntl(near, fcntl.F_SETSIG, 9)", EPERM),
    "pidfd": ("os.pidfd_open(os.getpid())", EPERM),
    "outlive the parent": ("from trl_pper.judge.jail.kernel import prctl; prctl(1, 0)", EPERM),
    "be dumpable": ("from trl_pper.judge.jail.kernel import prctl; prctl(4, 1)", EPERM),
    "anonymous file": ("os.memfd_create('name')", EPERM),
    "new session": ("os.setsid()", EPERM),
    "new group": ("os.setpgid(0, 0)", EPERM),
    "change user": ("os.setuid(os.getuid())", EPERM),
    "another namespace": ("call(checked['clone'], 0x10000011)", EPERM),
    "be niced": ("os.nice(1)", EPERM),
    "choose processors": ("os.sched_setaffinity(0, os.sched_getaffinity(0))", EPERM),
    "limits of the parent": ("import resource; resource.prlimit(parent, resource.RLIMIT_CPU)", EPERM),
    "named pipe": ("import tempfile; os.mkfifo(tempfile.mktemp())", EPERM),
    "a terminal's process group": ("os.tcgetpgrp(0)", ENOTTY),
    "another filter": ("seccomp.install(seccomp.prepare(processes=True))", EPERM),
}

KEPT = {
    "standard input": "assert input() == 'given' and not sys.stdin.isatty()",
    "threads": """
found = []
threads = [threading.Thread(target=found.append, args=(number,)) for number in range(4)]
[thread.start() for thread in threads], [thread.join() for thread in threads]
assert sorted(found) == [0, 1, 2, 3]""",
    "large stacks": "threading.stack_size(1 << 26); t = threading.Thread(target=print); t.start(); t.join()",
    "a pool of threads": """
import concurrent.futures
with concurrent.futures.ThreadPoolExecutor(3) as pool:
    assert list(pool.map(len, ["a", "bb"])) == [1, 2]""",
    "asyncio": "asyncio.run(asyncio.wait_for(asyncio.to_thread(len, 'abc'), 5))",
    "asyncio streams": """
async def talk():
    left, right = socket.socketpair()
    _, writer = await asyncio.open_connection(sock=left)
    reader, _ = await asyncio.open_connection(sock=right)
    writer.writelines([b'wo', b'rd\\n'])
    await writer.drain()
    assert await reader.readline() == b'word\\n'
asyncio.run(talk())""",
    "the pair from before": "near.sendall(b'word'); assert far.recv(9) == b'word' and near.getsockname() == ''",
    "messages": "near.sendmsg([b'a', b'b']); assert far.recvmsg(9)[0] == b'ab'",
    "time limits on sockets": "near.settimeout(0.01); near.settimeout(None); near.setblocking(True)",
    "pipe": "read, write = os.pipe(); os.write(write, b'x'); assert os.read(read, 1) == b'x'",
    "waiting": """
import select, selectors
read, write = os.pipe()
assert select.select([read], [write], [], 0) == ([], [write], [])
for kind in (select.poll, select.epoll):
    waiting = kind()
    waiting.register(write)
    assert waiting.poll(0)""",
    "files": """
import fcntl, pathlib, shutil, tempfile
with tempfile.TemporaryDirectory() as folder:
    first = pathlib.Path(folder, 'first')
    first.write_text('words' * 1000)
    os.truncate(first, 10), first.chmod(0o600), os.utime(first), first.stat(), os.statvfs(first), os.access(first, 4)
    shutil.copy2(first, folder + '/second'), shutil.copytree(folder, folder + '/a/b')
    os.symlink(first, folder + '/link'), os.link(first, folder + '/hard'), os.rename(first, folder + '/a/first')
    with open(folder + '/second', 'r+') as file:
        fcntl.flock(file, fcntl.LOCK_EX), fcntl.lockf(file, fcntl.LOCK_UN), os.fsync(file.fileno())
        os.pwrite(file.fileno(), b'W', 0), os.posix_fallocate(file.fileno(), 0, 100)
        assert os.pread(file.fileno(), 5, 0) == b'Words' and not file.isatty()
    assert {entry.name for entry in os.scandir(folder)} == {'second', 'a', 'link', 'hard'}
    os.chdir(folder), os.mkdir('c'), os.rmdir('c'), os.chdir('/')
assert not os.path.exists(folder)""",
    "copying between descriptors": """
import tempfile
with tempfile.TemporaryFile() as a, tempfile.TemporaryFile() as b:
    a.write(b'word'), a.flush()
    assert os.sendfile(b.fileno(), a.fileno(), 0, 4) == 4
    assert os.copy_file_range(a.fileno(), b.fileno(), 4, 0, 0) == 4""",
    "mapped memory": """
import mmap, tempfile
with tempfile.TemporaryFile() as file, mmap.mmap(-1, 1 << 20) as memory:
    file.truncate(1 << 16)
    with mmap.mmap(file.fileno(), 0) as mapped:
        memory[:3] = mapped[:3] = b'abc'
        mapped.flush(), memory.resize(1 << 21), memory.madvise(mmap.MADV_DONTNEED)""",
    "signals to itself": """
def note(number, frame): caught.append(number)
caught = []
for number in (signal.SIGUSR1, signal.SIGUSR2, signal.SIGTERM, signal.SIGALRM):
    signal.signal(number, note)
os.kill(os.getpid(), 0), os.kill(os.getpid(), signal.SIGUSR1), signal.raise_signal(signal.SIGUSR2)
signal.pthread_kill(threading.get_ident(), signal.SIGTERM)
# Again and again, since the first may come before the pause.
signal.setitimer(signal.ITIMER_REAL, 0.005, 0.005), signal.pause(), signal.setitimer(signal.ITIMER_REAL, 0)
assert caught[:4] == [signal.SIGUSR1, signal.SIGUSR2, signal.SIGTERM, signal.SIGALRM]
assert signal.alarm(100) == 0 and signal.alarm(0) == 100""",
    "faulthandler": "import faulthandler as f; f.dump_traceback_later(60); f.cancel_dump_traceback_later()",
    "time": """
import time
time.sleep(0.001), time.time(), time.localtime(), os.times(), time.process_time(), time.get_clock_info('monotonic')""",
    "who and where": """
import getpass, platform
os.getresuid(), os.getgroups(), os.getpgrp(), os.getsid(0), os.uname(), platform.platform(), os.cpu_count()
os.sched_getaffinity(0), os.getpriority(os.PRIO_PROCESS, 0), os.sched_yield(), os.urandom(9), os.umask(0o77)
os.sched_getscheduler(0), os.sched_get_priority_max(0), os.getloadavg(), os.sysconf('SC_PAGE_SIZE')""",
    "limits": """
import resource
soft, hard = resource.getrlimit(resource.RLIMIT_STACK)
resource.setrlimit(resource.RLIMIT_STACK, (1 << 22, hard)), resource.getrusage(resource.RUSAGE_SELF)
resource.prlimit(os.getpid(), resource.RLIMIT_CORE)
sys.setrecursionlimit(10000)""",
    "no children": """
try: os.wait()
except ChildProcessError: pass""",
    "name": "assert libc.prctl(15, b'name') == 0",
    "terminal size": "import shutil; assert shutil.get_terminal_size((80, 24)).columns == 80",
    "arithmetic": """
import decimal, fractions, hashlib, random, zlib
decimal.getcontext().prec = 500
assert str(decimal.Decimal(2).sqrt()).startswith('1.41421') and pow(3, 10**5, 10**9 + 7) and 3**10000
hashlib.sha256(zlib.compress(random.randbytes(1 << 16))).hexdigest()""",
    "database": """
import sqlite3, tempfile
with tempfile.TemporaryDirectory() as folder:
    base = sqlite3.connect(folder + '/base')
    base.execute('create table a(b)'), base.execute('insert into a values(7)'), base.commit()
    assert base.execute('select * from a').fetchone() == (7,)
    base.close()""",
    "numpy": """
import importlib.util
if importlib.util.find_spec('numpy'):
    import numpy
    square = numpy.arange(250000.0).reshape(500, 500)
    assert (square @ numpy.eye(500) == square).all()
    numpy.linalg.svd(square[:50, :50]), numpy.random.default_rng(0).normal(size=9)""",
}


@pytest.fixture(scope="module", params=["this user", ORDINARY])
def heard(request):
    attempts = {**{name: code for name, (code, _) in REFUSED.items()}, **KEPT}
    return json.loads(run(TRY_ALL, json.dumps(attempts), user=request.param, given="given\n").splitlines()[-1])


@needs_filters
def test_what_a_program_is_refused(heard):
    assert {name: heard[name] for name in REFUSED} == {name: number for name, (_, number) in REFUSED.items()}


@needs_filters
def test_what_a_program_keeps(heard):
    assert {name: heard[name] for name in KEPT} == dict.fromkeys(KEPT, "done")


@needs_filters
def test_every_forbidden_call_fails_in_a_real_process():
    kernel = numbers_in_header(os.uname().machine)
    script = """
if os.geteuid() == 0:
    os.setgroups([]), os.setresgid(65534, 65534, 65534), os.setresuid(65534, 65534, 65534)
seccomp.install(seccomp.prepare(processes=False))
heard = {}
for name, number in json.loads(sys.argv[1]).items():
    heard[name] = libc.syscall(ctypes.c_long(number), *[ctypes.c_long(0)] * 6), ctypes.get_errno()
print(json.dumps(heard))
"""
    heard = json.loads(run(script, json.dumps({name: kernel[name] for name in NEVER})))
    assert heard == {name: [-1, EPERM] for name in NEVER}


@needs_filters
def test_ways_to_end():
    script = """
import signal
def under_filter(action):
    def child():
        seccomp.install(filter_)
        action()
    return child
filter_ = seccomp.prepare(processes=False)
print(ending(under_filter(os.abort)), ending(under_filter(lambda: os._exit(7))), ending(under_filter(sys.exit)))
print(ending(under_filter(lambda: os.kill(os.getpid(), 9))), ending(under_filter(lambda: ctypes.string_at(0))))
print(ending(lambda: under_filter(lambda: os.getppid())()))
"""
    assert run(script).split() == ["-6", "7", "99", "-9", "-11", "0"]


@needs_filters
def test_the_filter_knows_the_process_that_installs_it():
    # Made once in the parent: the first child may no more signal the second than the parent.
    script = """
filter_ = seccomp.prepare(processes=False)
for other in (os.getpid(), os.getpid()):
    def child():
        seccomp.install(filter_)
        os.kill(os.getpid(), 0)
        try:
            os.kill(other, 0)
        except PermissionError:
            os._exit(5)
    print(ending(child))
"""
    assert run(script).split() == ["5", "5"]


@needs_filters
def test_a_program_with_processes():
    script = """
import multiprocessing
seccomp.install(seccomp.prepare(processes=True))
def refused(action):
    try:
        action()
    except PermissionError:
        return True
print(ending(lambda: None), ending(lambda: os._exit(0 if refused(lambda: os.kill(os.getppid() + 1, 0)) else 1)))
process = multiprocessing.get_context("fork").Process(target=sys.exit, args=(3,))
process.start(), process.join()
print(process.exitcode, refused(lambda: os.execv("/bin/true", ["true"])), refused(os.setsid))
"""
    assert run(script).split() == ["0", "0", "3", "True", "True"]


@needs_filters
@pytest.mark.skipif(
    os.uname().machine != X86_64, reason="another architecture's entry that can be tried: only x86-64's"
)
def test_the_old_entry_kills():
    script = """
import mmap
# mov eax, 20 (getpid); int 0x80; ret
code = mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
code.write(bytes.fromhex("b814000000cd80c3"))
enter = ctypes.CFUNCTYPE(ctypes.c_int)(ctypes.addressof(ctypes.c_char.from_buffer(code)))
def child():
    seccomp.install(seccomp.prepare(processes=False))
    enter()
print(ending(enter), ending(child))
"""
    before, after = run(script).split()
    if before != "0":
        pytest.skip("this kernel has no 32-bit entry")
    assert after == str(-31)


@needs_filters
def test_a_refusal_by_the_kernel_is_an_error():
    script = """
try:
    seccomp.install(seccomp.Filter(instructions=b"", process_id_offsets=()))
except OSError as error:
    print(error.errno, error)
"""
    assert run(script).startswith(f"{errno.EINVAL} ")
    assert "prctl" in run(script)


@needs_filters
def test_a_program_under_a_filter_finds_none_to_install():
    script = """
print(seccomp.supported())
seccomp.install(seccomp.prepare(processes=False))
print(seccomp.supported())
"""
    assert run(script).split() == ["True", "False"]
