"""Programs that reach for what lies outside: files, processes, the network, other programs, the kernel.

Each is the body of a function that raises OSError when it is refused; a script around it prints "refused" then, and
what it reached otherwise. `given` holds what the host has put in reach; see `test_judge_attacks_escape`.
"""

from __future__ import annotations

import textwrap

from tests.judge.hostile.attack import Attack, silent

ATTACKS: list[Attack] = []

#: Numbers of system calls: on x86-64 and aarch64, "-" for none.
_NUMBERS = """
ptrace 101 117, process_vm_readv 310 270, process_vm_writev 311 271, mount 165 40, umount2 166 39, unshare 272 97,
setns 308 268, chroot 161 51, pivot_root 155 41, bpf 321 280, io_uring_setup 425 425, userfaultfd 323 282,
perf_event_open 298 241, add_key 248 217, keyctl 250 219, memfd_create 319 279, memfd_secret 447 447, shmget 29 194,
shmat 30 196, msgget 68 186, semget 64 190, mq_open 240 180, fanotify_init 300 262, inotify_init1 294 26,
personality 135 92, kexec_load 246 104, reboot 169 142, init_module 175 105, setuid 105 146, setresuid 117 147,
setgroups 116 159, capset 126 91, name_to_handle_at 303 264, open_by_handle_at 304 265, openat2 437 437, execveat
322 281, pidfd_open 434 434, pidfd_getfd 438 438, pidfd_send_signal 424 424, process_madvise 440 440, kcmp 312 272,
open_tree 428 428, move_mount 429 429, fsopen 430 430, mount_setattr 442 442, clone 56 220, clone3 435 435,
seccomp 317 277, sethostname 170 161, settimeofday 170 170, swapon 167 224, quotactl 179 60, syslog 103 116,
iopl 172 -, modify_ldt 154 -, sched_setaffinity 203 122, setpriority 140 140, tkill 200 130, rt_sigqueueinfo 129 138,
mknodat 259 33, vmsplice 278 75, splice 275 76, io_setup 206 0, landlock_restrict_self 446 446, acct 163 89,
lookup_dcookie 212 18, process_mrelease 448 448, setpgid 109 154, setsid 112 157, socket 41 198, bind 49 200
"""

_SCRIPT = '''
import ctypes, json, os, resource, signal, socket, struct, subprocess, sys
libc = ctypes.CDLL(None, use_errno=True)
numbers = {{row.split()[0]: row.split()[1:] for row in """{numbers}""".split(",")}}
column = ("x86_64", "aarch64").index(os.uname().machine)
def raw(number, *arguments):
    values = [ctypes.c_long(one) if isinstance(one, int) else one for one in arguments]
    result = libc.syscall(ctypes.c_long(number), *values)
    if result < 0:
        raise OSError(ctypes.get_errno(), "refused")
    return result
def call(name, *arguments):
    number = numbers[name][column]
    if number == "-":
        raise OSError("there is no such call here")
    return raw(int(number), *arguments)
def read(path):
    with open(path, "rb") as file:
        return file.read(200)
def first(*attempts):
    """Return what the first attempt that is not refused reached."""
    for attempt in attempts:
        try:
            return attempt()
        except OSError:
            pass
    raise OSError("all refused")
given = json.loads(input())
def attempt():
{body}
try:
    reached = attempt()
except OSError:
    print("refused")
else:
    print("reached", reached)
'''


def script(body: str) -> str:
    """Return a script that tries `body` and says whether it was refused."""
    return _SCRIPT.format(numbers=_NUMBERS, body=textwrap.indent(body, "    "))


def attack(name, target, body, **options):
    """Add an attempt to get out; an expression is tried as it is."""
    if "\n" not in body and not body.startswith(("return ", "raise ")):
        body = f"return {body}"
    settings = {"expected": "accepted", "profile": "patient", **options}
    ATTACKS.append(Attack(name=name, target=target, program=script(body), tests=silent(), **settings))


# Reading. ----------------------------------------------------------------------------------------------------------

for _name, _body in {
    "a file of the host": "read(given['secret'])",
    "a file of the host through its folder": "read(given['outside'] + '/../' + given['secret'])",
    "the folder of the host": "os.listdir(given['outside'])",
    "the root": "read('/root/.bashrc') if os.listdir('/root') else 0",
    "the repository": "read(given['repository'] + '/pyproject.toml')",
    "the tests": "os.listdir(given['repository'] + '/tests')",
    "the accounts": "read('/etc/passwd')",
    "the passwords": "read('/etc/shadow')",
    "keys": "os.listdir(given['home'] + '/.ssh')",
    "the host's folder": "os.listdir(given['home'])",
    "other programs' folders": "os.listdir('/tmp')",
    "the kernel's settings": "os.listdir('/sys')",
    "the kernel's messages": "call('syslog', 10, 0, 0)",
    "memory of the machine": "first(*[lambda p=p: read(p) for p in ('/dev/mem', '/dev/kmem', '/proc/kcore')])",
    "disks": "first(*[lambda p=p: read(p) for p in ('/dev/sda', '/dev/vda', '/dev/nvme0n1')])",
    "a terminal": "first(*[lambda p=p: os.open(p, os.O_RDWR) for p in ('/dev/tty', '/dev/ptmx', '/dev/console')])",
    "all of /dev": "os.listdir('/dev/shm')",
}.items():
    attack(f"reads {_name}", "A program reads libraries and its own folder, nothing else.", _body)
for _name, _body in {
    "a symbolic link": "os.symlink(given['secret'], 'way')\nreturn read('way')",
    "a symbolic link to a folder": "os.symlink(given['outside'], 'way')\nreturn os.listdir('way')",
    "a hard link": "os.link(given['secret'], 'way')\nreturn read('way')",
    "a rename": "os.rename(given['secret'], 'mine')\nreturn read('mine')",
    "the parents of its folder": "read('../' * 50 + given['secret'].lstrip('/'))",
    "a descriptor of the root": "folder = os.open('/', os.O_PATH)\n"
    "return os.read(os.open(given['secret'].lstrip('/'), os.O_RDONLY, dir_fd=folder), 99)",
    "a path only": "handle = os.open(given['secret'], os.O_PATH)\nreturn read(f'/proc/self/fd/{handle}')",
    "openat2": "how = struct.pack('<QQQ', 0, 0, 0)\n"
    "return os.read(call('openat2', -100, given['secret'].encode(), ctypes.c_char_p(how), 24), 99)",
    "a handle": "buffer = ctypes.create_string_buffer(struct.pack('<Ii', 128, 0) + bytes(128))\n"
    "return call('name_to_handle_at', -100, given['secret'].encode(), buffer, ctypes.byref(ctypes.c_int()), 0)",
    "a made-up handle": "handle = ctypes.create_string_buffer(struct.pack('<IiII', 8, 1, 2, 0))\n"
    "return call('open_by_handle_at', os.open('/usr/lib', os.O_RDONLY), handle, 0)",
    "mapping": "import mmap\nreturn mmap.mmap(os.open(given['secret'], os.O_RDONLY), 0, prot=mmap.PROT_READ)[:9]",
    "sendfile": "return os.sendfile(1, os.open(given['secret'], os.O_RDONLY), 0, 99)",
    "the loader": "ctypes.CDLL(given['secret'])",
    "an import": "sys.path.insert(0, given['outside'])\ntry:\n    import planted\n    return planted\n"
    "except ImportError:\n    raise OSError",
    "a database": "import sqlite3\ntry:\n    return sqlite3.connect(given['secret']).execute('pragma user_version')\n"
    "except sqlite3.OperationalError:\n    raise OSError",
}.items():
    attack(f"reads by {_name}", "No detour leads to a file that may not be read.", _body)

# Writing. ----------------------------------------------------------------------------------------------------------

for _name, _body in {
    "makes a file": "open(given['outside'] + '/made', 'x')",
    "overwrites a file": "open(given['secret'], 'w').write('gone')",
    "appends to a file": "open(given['secret'], 'a').write('more')",
    "truncates a file": "os.truncate(given['secret'], 0)",
    "removes a file": "os.remove(given['secret'])",
    "makes a folder": "os.mkdir(given['outside'] + '/made')",
    "makes a link": "os.symlink('x', given['outside'] + '/made')",
    "makes a pipe": "os.mkfifo(given['outside'] + '/made')",
    "makes a device": "os.mknod('device', 0o020666, os.makedev(1, 1)) or os.open('device', os.O_RDWR)",
    "moves a file out": "open('mine', 'x').close() or os.rename('mine', given['outside'] + '/made')",
    "links a file out": "open('mine2', 'x').close() or os.link('mine2', given['outside'] + '/made')",
    # Told that it was done; what the host sees decides.
    "changes a mode": "os.chmod(given['secret'], 0)\nraise OSError",
    "changes an owner": "os.chown(given['secret'], os.getuid(), -1)",
    "changes a time": "os.utime(given['secret'], (0, 0))\nraise OSError",
    "marks a file": "os.setxattr(given['secret'], 'user.mark', b'x')",
    "writes through a link": "os.symlink(given['outside'] + '/made', 'out')\nreturn open('out', 'w')",
    "removes a library": "os.remove(os.__file__)",
    "writes to a library": "open(os.__file__, 'a')",
    "writes where modules lie": "open(os.path.dirname(os.__file__) + '/made.py', 'x')",
    "writes to /tmp": "open('/tmp/made-by-an-attack', 'x')",
    "writes to the root": "open('/made-by-an-attack', 'x')",
    "removes its folder": "os.rmdir(os.getcwd())",
    "moves its folder": "os.rename(os.getcwd(), os.getcwd() + '-moved')",
}.items():
    attack(name=_name, target="A program changes nothing outside its own folder.", body=_body)

# Processes. --------------------------------------------------------------------------------------------------------

for _file in ("environ", "mem", "maps", "cmdline", "fd/0", "root/etc/passwd", "cwd/pyproject.toml", "exe", "status"):
    attack(
        f"reads {_file} of other processes",
        "What other processes hold is out of reach, the host's above all.",
        f"return first(*[lambda p=p: read(f'/proc/{{p}}/{_file}') for p in (*given['pids'], 1, os.getppid())])",
    )
attack("writes to its own memory file", "No program needs /proc.", "open('/proc/self/mem', 'r+b')")
attack("joins a namespace", "No namespace can be opened.", "call('setns', os.open('/proc/1/ns/net', os.O_RDONLY), 0)")
for _name, _body in {
    "signals the host": "first(*[lambda p=p: os.kill(p, 0) for p in given['pids']])",
    "signals init": "first(lambda: os.kill(1, 0)) if os.getpid() != 1 else first(lambda: os.kill(2, 0))",
    "signals everybody": "os.kill(-1, signal.SIGCONT)",
    "signals its group": "os.kill(0, signal.SIGCONT)",
    "signals its parent": "os.kill(os.getppid(), signal.SIGCONT) if os.getppid() else os.kill(0, signal.SIGCONT)",
    "signals by a thread's number": "first(*[lambda p=p: call('tkill', p, 18) for p in given['pids']])",
    "queues a signal": "call('rt_sigqueueinfo', given['pids'][0], 18, ctypes.create_string_buffer(128))",
    "has a descriptor signal": "import fcntl\nreturn fcntl.fcntl(0, fcntl.F_SETOWN, given['pids'][0])",
    "opens a process": "first(*[lambda p=p: os.pidfd_open(p) for p in given['pids']])",
    "takes a descriptor": "call('pidfd_getfd', 0, 0, 0)",
    "traces": "first(*[lambda p=p: call('ptrace', 16, p, 0, 0) for p in given['pids']])",
    "asks to be traced": "call('ptrace', 0, 0, 0, 0)",
    "reads memory of the host": "call('process_vm_readv', given['pids'][0], 0, 0, 0, 0, 0)",
    "writes memory of the host": "call('process_vm_writev', given['pids'][0], 0, 0, 0, 0, 0)",
    "changes limits of the host": "resource.prlimit(given['pids'][0], resource.RLIMIT_CPU, (1, 1))",
    "slows the host": "os.sched_setaffinity(given['pids'][0], {0})",
    "raises its priority": "os.setpriority(os.PRIO_PROCESS, 0, -5)",
    "compares with the host": "call('kcmp', os.getpid(), given['pids'][0], 0, 0, 0)",
}.items():
    attack(name=_name, target="No other process can be signalled, traced, read or slowed.", body=_body)

# Other programs. ---------------------------------------------------------------------------------------------------

for _name, _body in {
    "execve": "os.execv('/bin/true', ['true'])",
    "execve of the interpreter": "os.execv(sys.executable, ['python', '-c', 'print(1)'])",
    "execve of a descriptor": "os.execve(os.open('/usr/lib/os-release', os.O_RDONLY), ['x'], {})",
    "execveat": "call('execveat', -100, b'/bin/true', 0, 0, 0)",
    "execve of its own file": "open('own', 'w').close() or os.chmod('own', 0o755) or os.execv('./own', ['own'])",
    "execve of an anonymous file": "os.execve(os.memfd_create('own'), ['own'], {})",
    "the loader": "os.execv('/lib64/ld-linux-x86-64.so.2', ['ld', '/bin/true'])",
    "posix_spawn": "os.posix_spawn('/bin/true', ['true'], {})",
    "subprocess": "subprocess.run(['/bin/true'])",
    "vfork": "libc.vfork() if 0 else subprocess.Popen(['/bin/true'], close_fds=False)",
}.items():
    attack(f"runs a program by {_name}", "Nothing but the interpreter at hand ever runs.", _body)
attack(
    "runs a program by os.system",
    "Nothing but the interpreter at hand ever runs.",
    "status = os.system('true')\nif status: raise OSError\nreturn status",
    profile="family",
)
attack(
    "starts a process",
    "With one process allowed there is no second.",
    "os.fork()",
    profile="patient",
)

# The network. ------------------------------------------------------------------------------------------------------

_FAMILIES = {
    "UNIX": 1, "INET": 2, "AX25": 3, "INET6": 10, "NETLINK": 16, "PACKET": 17, "CAN": 29, "TIPC": 30, "BLUETOOTH": 31,
    "ALG": 38, "VSOCK": 40, "KCM": 41, "QIPCRTR": 42, "SMC": 43, "XDP": 44,
}  # fmt: skip
for _name, _number in _FAMILIES.items():
    attack(
        f"socket of family {_name}",
        "No socket of any family can be made.",
        f"return first(*[lambda kind=kind: socket.socket({_number}, kind) for kind in (1, 2, 3, 5)])",
    )
for _name, _body in {
    "the host's server": "socket.create_connection(('127.0.0.1', given['port']), timeout=1)",
    "the host's server by IPv6": "socket.create_connection(('::1', given['port']), timeout=1)",
    "the host's datagrams": "s = socket.socket(2, 2)\nreturn s.sendto(b'x', ('127.0.0.1', given['datagrams']))",
    "the host's named socket": "s = socket.socket(1)\nreturn s.connect(given['named'])",
    "the host's abstract socket": "s = socket.socket(1)\nreturn s.connect(chr(0) + given['abstract'])",
    "the world": "socket.create_connection(('1.1.1.1', 53), timeout=1)",
    "a name server": "first(lambda: socket.getaddrinfo('example.com', 80))",
    "its own channel's name": "socket.socket(fileno=os.dup(3)).bind(chr(0) + 'attack')",
    "a socket by its pair": "a, b = socket.socketpair()\nreturn a.connect(chr(0) + given['abstract'])",
    "a datagram pair": "a, b = socket.socketpair(1, 2)\nreturn a.sendto(b'x', given['named'])",
    "a server of its own": "socket.create_server(('127.0.0.1', 0))",
    "a descriptor from the host": "s = socket.socket(fileno=os.dup(3))\ns.setblocking(False)\n"
    "return socket.recv_fds(s, 1, 9)",
}.items():
    attack(f"reaches {_name}", "No connection leads anywhere.", _body)

# The kernel. -------------------------------------------------------------------------------------------------------

for _name, _body in {
    "mounts": "call('mount', b'none', b'/tmp', b'tmpfs', 0, 0)",
    "binds a mount": "call('mount', b'/', os.getcwd().encode(), 0, 4096, 0)",
    "unmounts": "call('umount2', os.getcwd().encode(), 2)",
    "leaves for a user namespace": "call('unshare', 0x10000000)",
    "leaves for a mount namespace": "call('unshare', 0x20000)",
    "clones into a namespace": "call('clone', 0x10000011, 0, 0, 0, 0)",
    "clones by clone3": "call('clone3', ctypes.create_string_buffer(struct.pack('<Q', 0x10000000) + bytes(80)), 88)",
    "clones for its parent": "call('clone', 0x8011, 0, 0, 0, 0)",
    "changes its root": "call('chroot', b'/usr')",
    "pivots its root": "call('pivot_root', b'.', b'.')",
    "loads a BPF program": "call('bpf', 5, 0, 0)",
    "makes a ring": "call('io_uring_setup', 4, ctypes.create_string_buffer(256))",
    "makes an asynchronous context": "call('io_setup', 1, ctypes.create_string_buffer(8))",
    "handles faults": "call('userfaultfd', 1)",
    "watches performance": "call('perf_event_open', ctypes.create_string_buffer(128), 0, -1, -1, 0)",
    "adds a key": "call('add_key', b'user', b'left', b'x', 1, -3)",
    "reads the keyring": "call('keyctl', 0, -3, 1)",
    "makes an anonymous file": "os.memfd_create('x')",
    "makes secret memory": "call('memfd_secret', 0)",
    "makes shared memory": "call('shmget', 77, 4096, 0o1666)",
    "makes a message queue": "call('msgget', 77, 0o1666)",
    "makes semaphores": "call('semget', 77, 1, 0o1666)",
    "makes a named queue": "call('mq_open', b'left', 0o102, 0o666, 0)",
    "watches files": "call('fanotify_init', 0, 0)",
    "watches folders": "call('inotify_init1', 0)",
    "changes personality": "call('personality', 0x0040000)",
    "loads a kernel": "call('kexec_load', 0, 0, 0, 0)",
    "loads a module": "call('init_module', b'', 0, b'')",
    "reboots": "call('reboot', 0, 0, 0, 0)",
    "opens the ports": "call('iopl', 3)",
    "changes segments": "call('modify_ldt', 0, ctypes.create_string_buffer(16), 16)",
    "opens a tree": "call('open_tree', -100, b'/', 1)",
    "opens a file system": "call('fsopen', b'tmpfs', 0)",
    "names the machine": "call('sethostname', b'x', 1)",
    "sets the clock": "first(lambda: __import__('time').clock_settime(0, 0))",
    "becomes root": "call('setuid', 0)",
    "becomes the host": "call('setresuid', given['uid'], given['uid'], given['uid'])",
    "joins groups": "os.setgroups([0])",
    "takes capabilities": "call('capset', ctypes.c_char_p(struct.pack('<Ii', 0x20080522, 0)), "
    "ctypes.c_char_p(b'\\xff' * 24))",
    "makes a session": "os.setsid()",
    "makes a group": "os.setpgid(0, 0)",
    "adds a filter": "call('seccomp', 1, 0, ctypes.c_char_p(b'\\0' * 16))",
    "moves pages to a pipe": "call('vmsplice', os.pipe()[1], 0, 0, 0)",
    "restricts others": "call('landlock_restrict_self', 0, 0)",
    "ends others' memory": "call('process_mrelease', 0, 0)",
}.items():
    attack(name=_name, target="No privilege, no namespace and no corner of the kernel is a program's.", body=_body)
for _name, _option, _value in (
    ("PDEATHSIG off", 1, 0), ("DUMPABLE", 4, 1), ("KEEPCAPS", 8, 1), ("SECCOMP off", 22, 0), ("SECUREBITS", 28, 0),
    ("TIMERSLACK", 29, 1), ("MM", 35, 6), ("CHILD_SUBREAPER", 36, 1), ("NO_NEW_PRIVS off", 38, 0),
    ("CAP_AMBIENT", 47, 2), ("PTRACER", 0x59616D61, 1),
):  # fmt: skip
    attack(
        f"prctl {_name}",
        "What a process must not change about itself stays.",
        f"if libc.prctl({_option}, {_value}, 0, 0, 0): raise OSError\nreturn 1",
    )
for _limit in ("AS", "FSIZE", "NOFILE", "NPROC", "CORE"):
    attack(
        f"raises limit {_limit}",
        "A hard limit cannot be raised.",
        f"soft, hard = resource.getrlimit(resource.RLIMIT_{_limit})\n"
        f"try:\n    resource.setrlimit(resource.RLIMIT_{_limit}, (hard, hard + 1))\n"
        "except ValueError:\n    raise OSError",
    )
for _number, _name in ((59, "execve"), (520, "execve of its own"), (57, "fork"), (41, "socket"), (101, "ptrace")):
    attack(
        f"{_name} by its x32 number",
        "The numbers of another interface lead nowhere.",
        f"raw(0x40000000 | {_number}, 0, 0, 0)",
    )
attack(
    "enters the kernel as a 32-bit program",
    "A call through the old entry kills the program.",
    "import mmap\ncode = mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)\n"
    "if os.uname().machine != 'x86_64': ctypes.string_at(0)\n"
    "# mov eax, 20 (getpid); int 0x80; ret\ncode.write(bytes.fromhex('b814000000cd80c3'))\n"
    "return ctypes.CFUNCTYPE(ctypes.c_int)(ctypes.addressof(ctypes.c_char.from_buffer(code)))()",
    expected="runtime_error",
)

# The environment. --------------------------------------------------------------------------------------------------

for _name, _body in {
    "the host's token": "os.environ['HF_TOKEN']",
    "the host's folder": "given['home'] if os.environ['HOME'] == given['home'] else [][0]",
    "any token": "[name for name in os.environ if 'TOKEN' in name or 'KEY' in name or name.startswith('HF')][0]",
    "the C library's environment": "ctypes.c_char_p(libc.getenv(b'HF_TOKEN')).value or [][0]",
}.items():
    attack(
        f"environment: {_name}",
        "Nothing of the host's environment is there.",
        f"try:\n    return {_body}\nexcept LookupError:\n    raise OSError",
    )
