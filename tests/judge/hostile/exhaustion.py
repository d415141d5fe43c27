"""Programs that use up what there is: time, memory, processes, files, descriptors, output, the compiler."""

from __future__ import annotations

from tests.judge.hostile.attack import NUMBER, Attack, silent
from trl_pper import FunctionTests

ATTACKS: list[Attack] = []


def attack(name, target, program, *, output="right", **options):
    """Add a script that uses something up; where a limit stops it, it may say so by printing `output`."""
    ATTACKS.append(Attack(name=name, target=target, program=program, tests=silent(output), **options))


# Time. -------------------------------------------------------------------------------------------------------------

for _name, _program in {
    "endless loop": "while True: pass",
    "endless loop that catches everything": "while True:\n    try:\n        while True: pass\n    except: pass",
    "endless sleep": "import time\nwhile True: time.sleep(1000)",
    "waiting for input that never comes": "import select\nselect.select([3], [], [])",
    "one long multiplication": "x = 7 ** 10**7\nfor _ in range(100): x = x * x % (1 << 10**8)",
    "one long power": "9 ** 9 ** 9",
    "one long text of a number": "import sys\nsys.set_int_max_str_digits(0)\nprint(len(str(1 << 3 * 10**6)))",
    "one long sum": "sum(range(10**12))",
    "one long search": "('a' * 10**6).count(('a' * 10**5) + 'b'); '' in max(iter(int, 1), default='')",
    "evil pattern": "import re\nre.match(r'(a+)+$', 'a' * 50 + 'b')",
    "evil keys": "class Key:\n    def __hash__(self): return 1\n    def __eq__(self, other): return False\n"
    "{Key() for _ in range(10**6)}",
    "evil order": "import functools\n@functools.total_ordering\nclass Key:\n    def __lt__(self, other):\n"
    "        while True: pass\nsorted([Key(), Key()])",
    "numbers that share a hash": "{n * (2**61 - 1) for n in range(10**5)}",
    "many busy threads": "import threading\ndef burn():\n    while True: pass\n"
    "for _ in range(20): threading.Thread(target=burn).start()",
    "busy threads that outlive the main one": "import ctypes, threading\ndef burn():\n    while True: pass\n"
    "threading.Thread(target=burn).start()\nctypes.CDLL(None).syscall(ctypes.c_long({'x86_64': 60}.get("
    "__import__('os').uname().machine, 93)), 0)",
    "storm of signals": "import signal\nsignal.signal(signal.SIGALRM, lambda *_: None)\n"
    "signal.setitimer(signal.ITIMER_REAL, 1e-6, 1e-6)\nwhile True: pass",
    "storm of its own signals": "import os, signal\nsignal.signal(signal.SIGUSR1, lambda *_: None)\n"
    "while True: os.kill(os.getpid(), signal.SIGUSR1)",
    "storm of collections": "import gc\nx = [[] for _ in range(10**5)]\nwhile True: gc.collect()",
    "endless finalizer": "class End:\n    def __del__(self):\n        while True: pass\nEnd()",
    "endless exit handler": "import atexit\n@atexit.register\ndef burn():\n    while True: pass",
    "endless import": "import sys\nclass Finder:\n    def find_spec(self, *_):\n        while True: pass\n"
    "sys.meta_path.insert(0, Finder())\nimport nowhere",
    "reading zeros": "open('/dev/zero').read()",
    "reading randomness": "while True: open('/dev/urandom', 'rb').read(1 << 20)",
}.items():
    attack(
        name=_name,
        target="Time is taken from the program, not from the judge.",
        program=_program,
        expected="timeout|memory_limit" if "zeros" in _name else "timeout",
    )

_DRIBBLE = """
import os, struct, time
os.write(3, struct.pack("<Q", 100_000))
while True:
    os.write(3, b"x")
    time.sleep(0.002)
"""
attack("words that dribble in", "Time runs on while the program speaks.", _DRIBBLE, expected="timeout")
ATTACKS.append(
    Attack(
        name="an answer that dribbles in",
        target="Time runs on while the program speaks.",
        program="def f(x):" + _DRIBBLE.replace("\n", "\n    "),
        tests=FunctionTests(code=f"assert f(1) == {NUMBER}", entry_point="f"),
        expected="timeout",
    )
)

# Memory. -----------------------------------------------------------------------------------------------------------

for _name, _program in {
    "list": "x = [0] * 10**9",
    "growing list": "x = []\nwhile True: x.append(bytes(1 << 20))",
    "doubling list": "x = [0]\nwhile True: x += x",
    "bytes": "x = bytes(1 << 34)",
    "bytearray": "x = bytearray(1 << 30)\nfor i in range(0, len(x), 4096): x[i] = 1",
    "text": "x = 'x' * (1 << 30)",
    "wide text": "x = '\\U0001f600' * (1 << 27)",
    "whole number": "x = 1 << (1 << 33)",
    "shift": "x = 1\nwhile True: x <<= x.bit_length() * 10",
    "dict": "x = {}\nwhile True: x[len(x)] = bytes(10000)",
    "mapping": "import mmap\nx = mmap.mmap(-1, 1 << 32)",
    "many mappings": "import mmap\nx = []\nwhile True: x.append(mmap.mmap(-1, 1 << 22))",
    "shared mapping": "import mmap\nx = mmap.mmap(-1, 1 << 29, mmap.MAP_SHARED)",
    "mapping of a file": "import mmap, os\nfile = open('big', 'w+b')\nfile.truncate(1 << 20)\nx = []\n"
    "while True: x.append(mmap.mmap(file.fileno(), 0))",
    "allocation in C": "import ctypes\nif not ctypes.CDLL(None).malloc(ctypes.c_size_t(1 << 32)): raise MemoryError",
    "break": "import ctypes\nlibc = ctypes.CDLL(None)\nlibc.sbrk.restype = ctypes.c_long\n"
    "while libc.sbrk(ctypes.c_long(1 << 26)) != -1: pass\nraise MemoryError",
    "repetition in a pattern": "import re\nx = re.compile('(?:' * 50 + 'a' + '{1000})' * 50)\nbytes(1 << 40)",
    "formatting": "x = '%1000000000d' % 1",
    "padding": "x = 'x'.ljust(1 << 32)",
    "joining": "x = ('x' * (1 << 20)).join(['y' * (1 << 20)] * 1000)",
    "decompression": "import zlib\nx = zlib.decompress(zlib.compress(bytes(1 << 27), 1) * 1)\nx += x + x",
    "big matrix": "x = [[0] * 10**4 for _ in range(10**5)]",
    "memory again and again": "while True:\n    try: x = [0] * 10**8\n    except MemoryError: raise",
    "stacks of threads": "import threading, time\nthreading.stack_size(1 << 27)\n"
    "try:\n    while True: threading.Thread(target=time.sleep, args=(9,), daemon=True).start()\n"
    "except RuntimeError: raise MemoryError",
}.items():
    attack(
        f"memory by {_name}",
        "Memory beyond the limit is refused.",
        _program,
        expected="memory_limit|runtime_error|timeout",
    )
attack(
    "memory that is held on to",
    "A program that catches every MemoryError runs out of time with no more memory than before.",
    "x = []\nwhile True:\n    try: x.append(bytes(1 << 16))\n    except MemoryError: pass",
    expected="timeout|memory_limit",
)

# Processes and threads. --------------------------------------------------------------------------------------------

_BOMB = "import os\nwhile True:\n    try: os.fork()\n    except OSError: pass"
attack("fork bomb of one", "With one process there is no second.", _BOMB, expected="timeout")
attack(
    "fork bomb of eight",
    "Processes end with their program however many there are.",
    _BOMB,
    expected="timeout",
    profile="family",
)
attack(
    "fork bomb that waits",
    "Processes that sleep count as those that work.",
    "import os, time\nwhile True:\n    try:\n        if os.fork() == 0: time.sleep(60)\n    except OSError:\n"
    "        print('limited')\n        break",
    output="limited",
    expected="accepted",
    profile="family",
)
attack(
    "chain of processes",
    "A chain in which each process ends after the next has begun is cut.",
    "import os\nwhile True:\n    try:\n        if os.fork(): os._exit(0)\n    except OSError: pass",
    profile="family",
)
attack(
    "busy children",
    "Processes that use time while their parent sleeps end with the wall clock.",
    "import os, time\nfor _ in range(3):\n    if os.fork() == 0:\n        while True: pass\ntime.sleep(60)",
    expected="timeout",
    profile="family",
)
attack(
    "thread bomb",
    "Threads are limited.",
    "import threading\nstop = threading.Event()\ntry:\n"
    "    while True: threading.Thread(target=stop.wait).start()\nexcept RuntimeError: print('limited')\nstop.set()",
    output="limited",
    expected="accepted",
)
attack(
    "threads that start threads",
    "Threads are limited whoever starts them.",
    "import threading\ndef more():\n    while True:\n        try: threading.Thread(target=more).start()\n"
    "        except RuntimeError: pass\nmore()",
    expected="timeout|memory_limit|runtime_error",
)

# Files. ------------------------------------------------------------------------------------------------------------

# Where the file system has no bound of its own, time may run out before the judge looks.
_ENDS = "runtime_error|output_limit|timeout"
for _name, _program in {
    "many files": "while True: open(str(n), 'x').close(); n += 1",
    "many folders": "while True: os.mkdir(str(n)); n += 1",
    "many links": "while True: os.symlink('x', str(n)); n += 1",
    "many files in many folders": "while True: os.makedirs(f'{n % 9}/{n}'); open(f'{n % 9}/{n}/x', 'x'); n += 1",
    "huge file": "file = open('x', 'wb')\nwhile True: file.write(bytes(1 << 16))",
    "sparse file": "os.truncate(os.open('x', os.O_CREAT | os.O_RDWR), 1 << 40)",
    "reserved file": "os.posix_fallocate(os.open('x', os.O_CREAT | os.O_RDWR), 0, 1 << 40)",
    "many large files": "while True: open(str(n), 'wb').write(bytes(1 << 19)); n += 1",
    "appending by many names": "while True: os.link('own', str(n)) if n else open('own', 'x'); n += 1",
}.items():
    attack(
        f"{_name}",
        "Files beyond the limit are refused or end the program.",
        f"import os, signal\nn = 0\n{_program}",
        expected=_ENDS,
    )
attack(
    "deep folders",
    "Folders nested deeper than any path count, and are removed.",
    "import os\nfor _ in range(3000):\n    os.mkdir('d')\n    os.chdir('d')",
    expected=_ENDS,
)
attack(
    "deep folders within the limit",
    "Folders nested deeper than any path are removed.",
    "import os\nfor _ in range(150):\n    os.mkdir('d' * 200)\n    os.chdir('d' * 200)\nprint('deep')",
    output="deep",
    # Where no file system counts, the judge may look before the end: what is too deep to be named is too much.
    expected={"namespaces": "accepted", "landlock": "judged"},
)
attack(
    "files below a path too long to name",
    "Files count however deep they lie.",
    "import os, time\nfor _ in range(18):\n    os.mkdir('d' * 250)\n    os.chdir('d' * 250)\n"
    "for n in range(30):\n    open(str(n), 'wb').write(bytes(10**6))\n    time.sleep(0.01)\nprint('right')",
)
attack(
    "files without a name",
    "Files count when they have no name any more.",
    "import os, time\nkept = []\nfor n in range(30):\n    kept.append(open('x', 'wb'))\n    os.unlink('x')\n"
    "    kept[-1].write(bytes(10**6))\n    kept[-1].flush()\n    time.sleep(0.01)\nprint('right')",
    hole={"landlock": "Scratch.exceeds sees names only: the bound is open_files times file_bytes"},
)

attack(
    "files behind the input",
    "The only files a program may write are those in its folder.",
    "for n in range(30): open(f'/run/{n}', 'wb').write(bytes(10**6))\nprint('right')",
)

# Output. -----------------------------------------------------------------------------------------------------------

for _name, _program in {
    "print": "while True: print('x' * 10000)",
    "write": "while True: os.write(1, b'x' * 10000)",
    "standard error": "while True: os.write(2, b'x' * 10000)",
    "warnings": "import warnings\nwarnings.simplefilter('always')\nwhile True: warnings.warn('x' * 10000)",
    "newlines": "while True: os.write(1, b'\\n' * 10000)",
    "many descriptors": "numbers = [os.dup(1) for _ in range(20)]\nwhile True:\n"
    "    for number in numbers: os.write(number, b'x' * 10000)",
    "threads": "import threading\ndef burn():\n    while True: os.write(1, b'x' * 10000)\n"
    "for _ in range(9): threading.Thread(target=burn).start()",
    "its input file": "while True: os.write(5, b'x' * 10000)",
}.items():
    attack(
        f"output by {_name}",
        "Output beyond the limit ends the test.",
        f"import os\n{_program}",
        expected="output_limit|runtime_error|timeout",
    )
attack(
    "output to the channel",
    "What is sent instead of words is bounded as well.",
    "import os\nwhile True: os.write(3, b'\\xff' * 10000)",
)

# Descriptors. ------------------------------------------------------------------------------------------------------

for _name, _program in {
    "files": "open('/dev/null')",
    "pipes": "os.pipe()",
    "full pipes": "fill(os.pipe()[1])",
    "pairs of sockets": "socket.socketpair()",
    "full sockets": "fill(socket.socketpair()[0].detach())",
    "copies": "os.dup(0)",
    "polls": "select.epoll()",
    "events": "os.eventfd(0)",
}.items():
    attack(
        f"descriptors by {_name}",
        "Descriptors are limited.",
        "import os, select, socket\ndef fill(number):\n    os.set_blocking(number, False)\n    try:\n"
        "        while True: os.write(number, bytes(1 << 16))\n    except BlockingIOError: return number\n"
        f"kept = []\ntry:\n    for _ in range(10000): kept.append({_program})\nexcept OSError: print('limited')",
        output="limited",
        expected="accepted",
    )
attack(
    "descriptors in flight",
    "Descriptors sent to oneself and closed are limited too.",
    "import os, socket\nkept = []\ntry:\n    while True:\n        a, b = socket.socketpair()\n"
    "        for _ in range(20): socket.send_fds(a, [b'x'], [0] * 100)\n        kept.append((a, b))\n"
    "except OSError: print('limited')",
    output="limited",
    expected="accepted",
)

# The interpreter. --------------------------------------------------------------------------------------------------

for _name, _program in {
    "recursion": "def f(): f()\nf()",
    "recursion without a limit": "import sys\nsys.setrecursionlimit(1 << 30)\ndef f(): f()\nf()",
    "recursion in C": "x = []\nfor _ in range(10**5): x = [x]\nprint(repr(x))",
    "recursion in a finalizer": "class A:\n    def __del__(self): A()\nA()\nwhile True: pass",
    "recursion of attributes": "class A:\n    def __getattr__(self, name): return getattr(self, name)\nA().x",
    "deep comparison": "x, y = [], []\nfor _ in range(10**5): x, y = [x], [y]\nx == y",
    "deep destruction": "x = None\nfor _ in range(10**6): x = (x,)\ndel x\n1 / 0",
    "invalid memory": "import ctypes\nctypes.string_at(1)",
    "invalid code": "f = lambda: 0\nf.__code__ = f.__code__.replace(co_code=bytes([255, 255] * 20))\nf()",
    "invalid free": "import ctypes\nctypes.CDLL(None).free(ctypes.c_void_p(1234567))",
}.items():
    attack(f"interpreter: {_name}", "An interpreter that dies is the program's failure.", _program)
for _name, _source in {
    "parentheses": "(" * 100_000 + ")" * 100_000,
    "lists": "x = " + "[" * 100_000 + "]" * 100_000,
    "unclosed lists": "[" * 100_000,
    "minus signs": "x = " + "-" * 100_000 + "1",
    "not": "x = " + "not " * 100_000 + "1",
    "additions": "x = " + "+".join(["1"] * 100_000),
    "powers": "x = " + "**".join(["1"] * 20_000),
    "calls": "x = f" + "()" * 100_000,
    "attributes": "x = f" + ".a" * 100_000,
    "subscripts": "x = f" + "[0]" * 50_000,
    "lambdas": "x = " + "lambda: " * 50_000 + "0",
    "conditions": "x = " + "1 if 1 else " * 50_000 + "0",
    "formatted texts": "x = " + "f'{" * 200 + "1" + "}'" * 200,
    "indentation": "".join(" " * n + "if 1:\n" for n in range(200)) + " " * 200 + "pass",
    "elif": "if 0: pass\n" + "elif 0: pass\n" * 20_000,
    "functions": "".join(" " * n + "def f():\n" for n in range(90)) + " " * 90 + "pass",
    "patterns": "match 1:\n case " + "[" * 5000 + "x" + "]" * 5000 + ": pass",
    "comprehensions": "x = [0 " + "for x in [0] " * 5000 + "]",
    "arguments": "print(" + ",".join(["1"] * 100_000) + ")",
    "texts": "x = 'a' * 10**9 + 'b' * 10**9",
    "folded powers": "x = 9 ** 9 ** 9",
    "folded tuples": "x = ((0,) * 10**5,) * 10**5 + ((((1,) * 255,) * 255,) * 255,) * 255\nwhile True: x += x",
    "one number": "x = " + "9" * 1_000_000,
    "one hexadecimal number": "x = 0x" + "f" * 4_000_000 + "\nstr(x)",
    "one long line": "x = '" + "a" * 20_000_000 + "'",
    "many lines": "x = 1\n" * 3_000_000,
    "many names": "\n".join(f"name{n} = {n}" for n in range(100_000)),
    "zero bytes": "print('right')\0",
    "lone surrogates": "print('\ud800')",
    "an unknown encoding": "# -*- coding: nowhere -*-\nprint('no')",
    "a mark and nothing": "\ufeff",
    "carriage returns": "\r" * 100_000 + "1 / 0",
    "a backslash at the end": "x = 1 \\",
    "names of all alphabets": "\n".join(f"{chr(n)} = 1" for n in range(0x4E00, 0x9000)),
}.items():
    attack(f"source of {_name}", "Whatever the text of a program is, it is judged.", _source)
for _name, _value in {"parentheses": "(" * 100_000, "zero bytes": "\0"}.items():
    ATTACKS.append(
        Attack(
            name=f"source of {_name} in place of a function",
            target="Whatever the text of a program is, it is judged.",
            program=_value,
            tests=FunctionTests(code=f"assert f(1) == {NUMBER}", entry_point="f"),
        )
    )
