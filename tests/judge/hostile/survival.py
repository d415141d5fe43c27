"""Programs that want to outlive themselves, to take others along, or to leave what cannot be cleaned up."""

from __future__ import annotations

from tests.judge.hostile.attack import NUMBER, Attack, silent
from trl_pper import FunctionTests

ATTACKS: list[Attack] = []

_START = "import ctypes, os, signal, socket, struct, sys, threading, time\nlibc = ctypes.CDLL(None)\n"


def attack(name, target, program, *, output="right", **options):
    """Add a script; what counts is what is left of it."""
    ATTACKS.append(Attack(name=name, target=target, program=_START + program, tests=silent(output), **options))


# Killing. ----------------------------------------------------------------------------------------------------------

for _name, _program in {
    "everybody": "os.kill(-1, signal.SIGKILL)",
    "its group": "os.kill(0, signal.SIGKILL)",
    "its parent": "os.kill(os.getppid(), signal.SIGKILL)",
    "its parent's group": "os.killpg(os.getpgid(os.getppid()), signal.SIGKILL)",
    "init": "os.kill(1, signal.SIGKILL)",
    "every number": "for n in range(2, 70000):\n    try: os.kill(n, signal.SIGKILL)\n    except OSError: pass",
    "every session": "for n in range(2, 70000):\n    try: os.killpg(n, signal.SIGKILL)\n    except OSError: pass",
    "the judge softly": "for n in range(1, 32):\n    try: os.kill(os.getppid(), n)\n    except OSError: pass",
}.items():
    attack(f"kills {_name}", "A program kills itself at most.", _program, profile="family")
for _signal in "SIGKILL SIGSTOP SIGTSTP SIGSEGV SIGABRT SIGXCPU SIGXFSZ SIGSYS SIGALRM SIGPIPE SIGTRAP".split():
    attack(
        f"raises {_signal}",
        "Whatever signal ends a program, its end is its own.",
        f"signal.signal(signal.{_signal}, signal.SIG_DFL) if {_signal!r} not in ('SIGKILL', 'SIGSTOP') else 0\n"
        f"os.kill(os.getpid(), signal.{_signal})",
    )

# Outliving. --------------------------------------------------------------------------------------------------------

#: The channel is closed, since a child that holds it would be waited for.
_CHILD = "if os.fork() == 0:\n    channel = os.dup(3) if {holds} else 0\n    os.close(3)\n{body}\nos._exit(0)"
for _name, _body in {
    "a child": "time.sleep(60)",
    "a busy child": "while True: pass",
    "a grandchild": "if os.fork(): os._exit(0)\ntime.sleep(60)",
    "a child in a session": "try: os.setsid()\nexcept OSError: pass\ntime.sleep(60)",
    "a child in a group": "try: os.setpgid(0, 0)\nexcept OSError: pass\ntime.sleep(60)",
    "a daemon": "try: os.setsid()\nexcept OSError: pass\nif os.fork(): os._exit(0)\n"
    "os.closerange(0, 99)\ntime.sleep(60)",
    "a child that ignores signals": "for n in range(1, 32):\n    if n not in (9, 19): signal.signal(n, "
    "signal.SIG_IGN)\ntime.sleep(60)",
    "a child that blocks signals": "signal.pthread_sigmask(signal.SIG_BLOCK, range(1, 65))\nwhile True: pass",
    "a child without a death signal": "libc.prctl(1, 0)\ntime.sleep(60)",
    "a child that holds the channel": "while os.write(channel, b'x'): pass",
    "a child with another name": "libc.prctl(15, b'zygote')\ntime.sleep(60)",
    "a child without memory of its own": "libc.vfork()\ntime.sleep(60)",
    "a child with threads": "[threading.Thread(target=time.sleep, args=(60,)).start() for _ in range(3)]",
    "a child whose main thread ended": "threading.Thread(target=time.sleep, args=(60,)).start()\n"
    "libc.syscall(ctypes.c_long(60 if os.uname().machine == 'x86_64' else 93), 0)",
}.items():
    attack(
        f"leaves {_name}",
        "Nothing that a program started is there when it has ended.",
        _CHILD.format(body="\n".join(f"    {line}" for line in _body.splitlines()), holds="channel" in _name),
        profile="family",
    )
for _name, _body in {
    "ignores all signals": "for n in range(1, 65):\n    try: signal.signal(n, signal.SIG_IGN)\n"
    "    except (OSError, ValueError): pass\nwhile True: pass",
    "blocks all signals": "signal.pthread_sigmask(signal.SIG_BLOCK, range(1, 65))\nwhile True: pass",
    "closes every descriptor": "os.closerange(0, 1 << 16)\nwhile True: pass",
    "ends its main thread only": "threading.Thread(target=time.sleep, args=(60,)).start()\n"
    "libc.syscall(ctypes.c_long(60 if os.uname().machine == 'x86_64' else 93), 0)",
    "leaves a thread": "threading.Thread(target=time.sleep, args=(60,), daemon=True).start()\nsys.exit(0)",
    "starts again at exit": "import atexit\ndef again(): atexit.register(again)\nagain()",
    "pauses for ever": "signal.pause()\nsignal.sigwait({signal.SIGUSR1})",
}.items():
    attack(name=_name, target="A program ends when its time is over.", program=_body)

# Leaving. ----------------------------------------------------------------------------------------------------------

for _name, _body in {
    "a folder nobody may enter": "os.makedirs('a/b')\nopen('a/b/c', 'x')\nos.chmod('a/b', 0)\nos.chmod('a', 0)",
    "its folder closed": "try: os.chmod('.', 0)\nexcept PermissionError: pass",
    "its folder open": "try: os.chmod('.', 0o7777)\nexcept PermissionError: pass",
    "a file nobody may read": "open('a', 'x')\nos.chmod('a', 0)",
    "a name of newlines": "open('a\\nb\\r\\t', 'x')\nos.mkdir('\\n')",
    "a name of 255 bytes": "open('a' * 255, 'x')\nos.makedirs('b' * 255 + '/' + 'c' * 255 + '/' + 'd' * 255)",
    "a name that is no text": "open(bytes(range(128, 256)), 'x')\nos.makedirs(b'\\xff\\xfe/\\x01')",
    "a name of spaces and stars": "[open(n, 'x') for n in (' ', '*', '-rf', '~', '$HOME', '...', ';ls', '%s')]",
    "a link to the outside": "os.symlink('/', 'root')\nos.symlink('/etc/passwd', 'file')\nos.symlink('..', 'up')",
    "a link to itself": "os.symlink('loop', 'loop')\nos.mkdir('d')\nos.symlink('../d', 'd/d')",
    "deep folders": "for _ in range(150): os.mkdir('d'); os.chdir('d')",
    "deep folders that nobody may enter": "kept = []\n"
    "for _ in range(40): os.mkdir('d'); os.chdir('d'); kept.append(os.open('.', os.O_RDONLY))\n"
    "[os.chmod(folder, 0) for folder in kept]",
    "an open file": "os.mkdir('a')\nos.chdir('a')\nkept = open('b', 'x')\nos.rmdir('../nowhere') if 0 else None",
    "a removed folder": "os.mkdir('a')\nos.chdir('a')\nos.rmdir('../a')",
    "a locked file": "import fcntl\nkept = open('a', 'x')\nfcntl.flock(kept, fcntl.LOCK_EX)",
    "a mapped file": "import mmap\nfile = open('a', 'w+b')\nfile.truncate(4096)\nkept = mmap.mmap(file.fileno(), 0)",
    "names taken by its own folders": """
for number in range(10):
    os.makedirs("a/inner/x")
    os.makedirs(f".{os.stat('a/inner').st_ino}/x")
    os.mkdir(f"b{number}")
    os.rename("a/inner", f"b{number}/inner")
    os.makedirs("c/inner/x")
    inode = os.stat("c/inner").st_ino
    os.mkdir(f"d{number}")
    os.rename("c/inner", f"d{number}/inner")
    os.makedirs(f".{inode}/x")""",
}.items():
    # A script that closes its folder, where its user may, fails by that itself.
    for _kind in ("function",) if "closed" in _name else ("script", "function"):
        _left = Attack(
            name=f"{_kind} leaves {_name}",
            target="Whatever lies in its folder, the next program finds it empty.",
            program=f"{_START}{_body}\n" + ("print('left')" if _kind == "script" else f"def f(x): return {NUMBER}"),
            tests=silent("left")
            if _kind == "script"
            else FunctionTests(code=f"assert f(1) == {NUMBER}", entry_point="f"),
            expected="accepted",
        )
        ATTACKS.append(_left)
for _name, _program in {
    "unlinks its input": "os.unlink('/run/stdin')",
    "puts a folder in the place of its input": "os.unlink('/run/stdin')\nos.mkdir('/run/stdin')",
    "changes its input": "os.write(5, b'x' * 1000)\nos.lseek(5, 0, 0)\nos.ftruncate(5, 0)",
    "closes all but its channel": "os.closerange(0, 3)\nos.closerange(4, 99)",
}.items():
    attack(name=_name, target="The next program has an input of its own.", program=_program)
