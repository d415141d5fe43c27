"""What a process under a Landlock ruleset can open, and which processes it can reach."""

from __future__ import annotations

import errno
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from tests.judge.hostile.attempts import BARE_JUDGE, ROOT, TRY_EACH
from trl_pper.judge.jail import landlock, seccomp

ABI = landlock.abi_version()
ORDINARY = "an ordinary user"
needs_landlock = pytest.mark.skipif(ABI == 0, reason="this kernel has no Landlock, or it is turned off")

PREAMBLE = f"""{BARE_JUDGE}
import ctypes, errno, json, os, signal, socket, time
from trl_pper.judge.jail import landlock
outside, room = sys.argv[1] + "/outside", sys.argv[1] + "/room"
libraries = [sys.prefix, sys.base_prefix, "/usr", "/lib", "/lib64", "/etc", "/missing", "/missing/too"]
devices = ["/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom"]
def errno_of(action):
    try:
        action()
    except OSError as error:
        return error.errno
    return 0
def in_child(action):
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.write(write, json.dumps(action()).encode())
        except BaseException as error:
            os.write(write, json.dumps(repr(error)).encode())
        os._exit(0)
    os.close(write), os.waitpid(pid, 0)
    with open(read) as told:
        return json.load(told)
"""
TRY_ALL = f"""
import tempfile
# What the tests use before they are under way.
sys.stdin.isatty()
taken = socket.socket(socket.AF_UNIX)
taken.bind(chr(0) + room), taken.listen()
listening = socket.create_server(("127.0.0.1", 0))
opened = open(outside + "/secret")
os.chdir(room)
landlock.restrict(landlock.prepare(readable=[*libraries, outside + "/book"], writable=[room, *devices]))
attempts = json.load(sys.stdin)
{TRY_EACH}"""


@pytest.fixture(scope="module", params=["this user", ORDINARY])
def user(request):
    """As whom a script runs: the options of its process."""
    if request.param != ORDINARY:
        return {"python": sys.executable}
    if os.geteuid() != 0:
        pytest.skip("the tests run as an ordinary user already")
    python, options = "/usr/bin/python3", {"user": 65534, "group": 65534, "extra_groups": []}
    probe = f"import sys\nassert sys.version_info >= (3, 11)\nopen({str(ROOT / 'trl_pper/__init__.py')!r})"
    if not os.path.exists(python) or subprocess.run([python, "-c", probe], stderr=-3, **options).returncode:
        pytest.skip("no system interpreter that can read the sources")
    return {"python": python, **options}


@pytest.fixture(scope="module")
def folder(user):
    """A place with a room to write in and an outside, made anew; not pytest's, which other users may not enter."""
    made = Path(tempfile.mkdtemp())
    for directory in ("room/a", "room/b", "outside/book"):
        (made / directory).mkdir(parents=True)
    for file in ("outside/secret", "outside/book/page", "room/note"):
        (made / file).write_text("words")
    if "user" in user:
        for path in (made, *made.rglob("*")):
            os.chown(path, user["user"], user["group"])
    yield made
    shutil.rmtree(made)


def run(script, user, folder, given=""):
    options = {name: value for name, value in user.items() if name != "python"}
    done = subprocess.run(
        [user["python"], "-c", PREAMBLE + script, str(folder)],
        input=given,
        capture_output=True,
        text=True,
        timeout=60,
        cwd="/",
        env={"PATH": os.environ["PATH"], "TMPDIR": f"{folder}/room"},
        check=False,
        **options,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


EACCES, EXDEV, EPERM = errno.EACCES, errno.EXDEV, errno.EPERM
REFUSED = {
    "read": ("open(outside + '/secret')", EACCES),
    "list": ("os.listdir(outside)", EACCES),
    "list the root": ("os.listdir('/')", EACCES),
    "read about processes": ("open('/proc/self/environ')", EACCES),
    "write": ("open(outside + '/secret', 'r+')", EACCES),
    "make": ("open(outside + '/new', 'x')", EACCES),
    "write what may be read": ("open(outside + '/book/page', 'a')", EACCES),
    "make beside what may be read": ("open(outside + '/book/new', 'x')", EACCES),
    "remove what may be read": ("os.remove(outside + '/book/page')", EACCES),
    "make a directory": ("os.mkdir(outside + '/new')", EACCES),
    "follow a link out": ("os.symlink(outside + '/secret', 'way'); open('way')", EACCES),
    "move out": ("open('moved', 'x').close(); os.rename('moved', outside + '/moved')", EACCES),
    "move in": ("os.rename(outside + '/secret', 'secret')", EACCES),
    "link in what may be read": ("os.link(outside + '/book/page', 'page')", EXDEV),
    "execute": ("os.execv('/bin/true', ['true'])", EACCES),
    "execute one's own": (
        "import shutil; shutil.copyfile('/usr/bin/true', 'own'); os.chmod('own', 0o700); os.execv('./own', ['own'])",
        EACCES,
    ),
    "named pipe": ("os.mkfifo('pipe')", EACCES),
    "named socket": ("socket.socket(socket.AF_UNIX).bind('socket')", EACCES),
    "another device": ("open('/dev/tty')", EACCES),
    "make a device": ("os.mknod('device', 0o020600, os.makedev(1, 3))", EACCES),
}
SINCE = {
    3: {
        "truncate what may be read": ("os.truncate(outside + '/book/page', 0)", EACCES),
        "truncate": ("os.truncate(outside + '/secret', 0)", EACCES),
    },
    4: {
        "connect": ("socket.create_connection(listening.getsockname(), 1)", EACCES),
        "bind": ("socket.create_server(('127.0.0.1', 0))", EACCES),
    },
    6: {
        "abstract socket": ("socket.socket(socket.AF_UNIX).connect(chr(0) + room)", EPERM),
        "signal the parent": ("os.kill(os.getppid(), 0)", EPERM),
    },
}
for version, attempts in SINCE.items():
    if version <= ABI:
        REFUSED |= attempts

KEPT = {
    "what was open": "assert opened.read() == 'words'",
    "read": "assert open(outside + '/book/page').read() == 'words' and os.listdir(outside + '/book') == ['page']",
    "names outside": "os.stat(outside + '/secret'), os.chdir(outside), os.chdir(room)",
    "write": """
with open('file', 'w+') as file:
    file.write('long words'), file.truncate(5), file.seek(0)
    assert file.read() == 'long '
open('file', 'w').close(), os.truncate('file', 9), open('note', 'a').write('!'), os.remove('file')""",
    "directories": """
os.makedirs('c/d'), os.listdir('c'), os.rmdir('c/d'), os.removedirs('c')
import pathlib, shutil
with tempfile.TemporaryDirectory() as made:
    assert made.startswith(room)
    pathlib.Path(made, 'file').write_text('x'), shutil.copytree(made, made + '/again')""",
    "symbolic links": "os.symlink('note', 'way here'); open('way here').close()",
    "rename": "open('first', 'x').close(); os.rename('first', 'second')",
    "devices": """
open('/dev/null', 'w').write('x'), open('/dev/null', 'r+b', 0).read()
assert open('/dev/zero', 'rb').read(3) == bytes(3) and len(open('/dev/urandom', 'rb').read(9)) == 9""",
    "libraries": "import sqlite3, decimal, asyncio, multiprocessing, xml.dom.minidom; asyncio.run(asyncio.sleep(0))",
    "numpy": """
import importlib.util
if importlib.util.find_spec('numpy'):
    import numpy
    assert (numpy.eye(300) @ numpy.eye(300) == numpy.eye(300)).all()""",
    "signal itself": "os.kill(os.getpid(), 0)",
    "threads": "import threading; t = threading.Thread(target=print, args=('',)); t.start(); t.join()",
    "its children": """
pid = os.fork()
if pid == 0: time.sleep(60)
os.kill(pid, signal.SIGKILL), os.waitpid(pid, 0)""",
}
if ABI >= 2:
    KEPT |= {
        "move between directories": "open('a/file', 'x').close(); os.rename('a/file', 'b/file')",
        "link between directories": "os.link('note', 'a/note')",
    }


@pytest.fixture(scope="module")
def heard(user, folder):
    attempts = {f"refused: {name}": code for name, (code, _) in REFUSED.items()}
    attempts |= {f"kept: {name}": code for name, code in KEPT.items()}
    return run(TRY_ALL, user, folder, json.dumps(attempts))


@needs_landlock
def test_what_is_refused(heard):
    expected = {name: number for name, (_, number) in REFUSED.items()}
    assert {name: heard[f"refused: {name}"] for name in REFUSED} == expected


@needs_landlock
def test_what_is_kept(heard):
    assert {name: heard[f"kept: {name}"] for name in KEPT} == dict.fromkeys(KEPT, "done")


@needs_landlock
def test_the_attempts_succeed_without_a_ruleset(user, folder):
    # Otherwise something else refused them; devices and the parent belong to others.
    names = ["read", "list", "list the root", "read about processes", "make", "named pipe", "named socket"]
    attempts = {name: REFUSED[name][0] for name in names}
    script = "\n".join(line for line in TRY_ALL.splitlines() if not line.startswith("landlock.restrict"))
    assert run(script, user, folder, json.dumps(attempts)) == dict.fromkeys(names, "done")


@needs_landlock
def test_every_version_of_the_interface(user, folder):
    script = """
def look(abi):
    def child():
        landlock.restrict(landlock.prepare(readable=[outside + "/book"], writable=[room], abi=abi))
        landlock.restrict(landlock.prepare_scope(abi=abi))
        return [
            errno_of(lambda: open(outside + "/book/page").close()),
            errno_of(lambda: open(f"{room}/made in {abi}", "w").close()),
            errno_of(lambda: open(outside + "/secret")),
            errno_of(lambda: open(outside + "/book/page", "r+")),
            errno_of(lambda: os.rename(f"{room}/made in {abi}", f"{room}/b/made in {abi}")),
            errno_of(lambda: os.kill(os.getppid(), 0)),
        ]
    return in_child(child)
print(json.dumps([look(abi) for abi in range(1, landlock.abi_version() + 1)]))
"""
    moved = [EXDEV] + [0] * (ABI - 1)
    signalled = [0] * 5 + [EPERM] * (ABI - 5)
    assert run(script, user, folder) == [
        [0, 0, EACCES, EACCES, move, signal] for move, signal in zip(moved, signalled[:ABI], strict=True)
    ]


@needs_landlock
def test_a_scope_cuts_off_the_processes_a_process_came_from(user, folder):
    script = """
from trl_pper.judge.jail import kernel
# A capability to watch the machine's performance would go on opening some files about other processes.
kernel.make([kernel.keep_only_capabilities_call(0)])
# The worker's own ruleset leaves it, and a child that does nothing, everything tried below.
landlock.restrict(landlock.prepare(readable=["/"], writable=[room]))
scope, parent = landlock.prepare_scope(), os.getpid()
def reach():
    return [
        errno_of(lambda: os.kill(parent, 0)),
        errno_of(lambda: open(f"/proc/{parent}/environ").read()),
        errno_of(lambda: open(f"/proc/{parent}/mem", "rb").close()),
        errno_of(lambda: open("/proc/self/environ").read()),
        errno_of(lambda: os.kill(os.getpid(), 0)),
    ]
def reach_under_scope():
    landlock.restrict(scope)
    made = room + "/scope"
    open(made, "w").close(), os.rename(made, room + "/a/scope" if landlock.abi_version() > 1 else made + "d")
    return reach()
def reached():
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        landlock.restrict(scope)
        os.write(write, b"x"), time.sleep(60)
    os.read(read, 1)
    seen = errno_of(lambda: open(f"/proc/{pid}/environ").read())
    # A brother under a scope of his own.
    def brother():
        landlock.restrict(scope)
        return [errno_of(lambda: os.kill(pid, 0)), errno_of(lambda: open(f"/proc/{pid}/environ").read())]
    among = in_child(brother)
    os.kill(pid, signal.SIGKILL)
    return [seen, os.waitpid(pid, 0)[1], *among]
print(json.dumps([in_child(reach), in_child(reach_under_scope), reached()]))
scope.close()
"""
    signal = EPERM if ABI >= 6 else 0
    free, cut_off, reached = run(script, user, folder)
    assert free == [0, 0, 0, 0, 0]
    assert cut_off == [signal, EACCES, EACCES, 0, 0]
    assert reached == [0, 9, signal, EACCES]


@needs_landlock
@pytest.mark.skipif(not seccomp.supported(), reason="this machine takes no system call filters")
def test_a_worker_under_a_ruleset_and_a_child_under_all(user, folder):
    script = """
from trl_pper.judge.jail import seccomp
filter_, scope = seccomp.prepare(processes=False), landlock.prepare_scope()
landlock.restrict(landlock.prepare(readable=libraries, writable=[room]))
def child():
    landlock.restrict(scope)
    seccomp.install(filter_)
    open(room + "/both", "w").close()
    return [errno_of(action) for action in (
        lambda: open(outside + "/secret"), socket.socket, os.fork, lambda: os.kill(os.getppid(), 0),
        lambda: landlock.restrict(scope),
    )]
print(json.dumps([in_child(child) for _ in range(2)]))
"""
    assert run(script, user, folder) == [[EACCES, EPERM, errno.EAGAIN, EPERM, EPERM]] * 2


@needs_landlock
def test_no_mounting_afterwards(user, folder):
    script = """
def child():
    libc = ctypes.CDLL(None, use_errno=True)
    CLONE_NEWNS, CLONE_NEWUSER, MS_PRIVATE_EVERYWHERE = 0x20000, 0x10000000, (1 << 18) | (1 << 14)
    if libc.unshare(CLONE_NEWNS) != 0 and libc.unshare(CLONE_NEWUSER | CLONE_NEWNS) != 0:
        return "no namespace"
    before = libc.mount(None, b"/", None, ctypes.c_ulong(MS_PRIVATE_EVERYWHERE), None)
    landlock.restrict(landlock.prepare(readable=["/"], writable=[room]))
    after = libc.mount(b"none", room.encode(), b"tmpfs", ctypes.c_ulong(0), None)
    return [before, after, ctypes.get_errno()]
print(json.dumps(in_child(child)))
"""
    heard = run(script, user, folder)
    if heard == "no namespace":
        pytest.skip("this user may not make a mount namespace, so has nothing to lose")
    assert heard == [0, -1, EPERM]


@needs_landlock
def test_single_files(user, folder):
    script = """
def child():
    landlock.restrict(landlock.prepare(readable=[outside + "/secret"], writable=[room + "/note"]))
    open(outside + "/secret").close(), open(room + "/note", "r+").truncate(), os.truncate(room + "/note", 0)
    return [errno_of(lambda: open(outside + "/secret", "a")), errno_of(lambda: open(room + "/other", "x")),
            errno_of(lambda: os.remove(room + "/note"))]
print(json.dumps(in_child(child)))
"""
    assert run(script, user, folder) == [EACCES] * 3


@needs_landlock
def test_a_path_that_cannot_be_reached_is_left_out(user, folder):
    script = """
import tempfile
if os.geteuid() == 0:
    os.setresuid(65534, 65534, 65534)
with tempfile.TemporaryDirectory(dir="/tmp") as hidden:
    os.mkdir(hidden + "/in"), os.chmod(hidden, 0)
    paths = [hidden + "/in", "/etc/passwd/no directory", "/missing"]
    landlock.prepare(readable=paths, writable=paths).close()
print("true")
"""
    assert run(script, user, folder) is True


@needs_landlock
def test_descriptors_are_given_back():
    before = set(os.listdir("/proc/self/fd"))
    with pytest.raises(OSError, match=r"Landlock, a rule about /dev/fd/\d+"):
        # A pipe lies in no directory, so that no rule can speak of it.
        with_a_pipe()
    assert set(os.listdir("/proc/self/fd")) == before
    landlock.prepare(readable=["/"], writable=[]).close()
    landlock.prepare_scope().close()
    assert set(os.listdir("/proc/self/fd")) == before


def with_a_pipe():
    read, write = os.pipe()
    try:
        landlock.prepare(readable=[f"/dev/fd/{read}"], writable=[])
    finally:
        os.close(read), os.close(write)


def test_a_kernel_without_landlock_says_so(monkeypatch):
    # A number no kernel has given away.
    monkeypatch.setattr(landlock, "_CREATE_RULESET", 4095)
    assert landlock.abi_version() == 0
    for prepare in (landlock.prepare_scope, lambda: landlock.prepare(readable=[], writable=[])):
        with pytest.raises(OSError, match="Landlock, making a ruleset") as caught:
            prepare()
        assert caught.value.errno == errno.ENOSYS
    with pytest.raises(OSError, match="Landlock, restricting this process"):
        raise landlock._refusal("restricting this process")
