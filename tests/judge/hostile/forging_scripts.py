"""Programs that want stdio tests to pass without printing the answer themselves."""

from __future__ import annotations

from tests.judge.hostile.attack import SECRET_OUTPUT, WORD, Attack, silent
from trl_pper import StdioTests
from trl_pper.tasks.task import StdioCase

ATTACKS: list[Attack] = []


def attack(name, target, program, *, tests=SECRET_OUTPUT, **options):
    """Add an attack on stdio tests; pairs of input and output stand for tests."""
    if isinstance(tests, list):
        tests = StdioTests(cases=tuple(StdioCase(input=given, output=output) for given, output in tests))
    ATTACKS.append(Attack(name=name, target=target, program=program, tests=tests, **options))


SPEAK = """
import os, struct, sys, threading, time
from trl_pper.judge.wire import codec
def frame(payload): return struct.pack("<Q", len(payload)) + payload
def words(*fields): return frame(codec.encode(fields, max_bytes=1 << 20))
DONE, ONCE = frame(b"+"), frame(b".")
def everywhere(data):
    for number in range(256):
        try: os.write(number, data)
        except OSError: pass
def listen():
    (size,) = struct.unpack("<Q", os.read(3, 8))
    return os.read(3, size)
"""

# The runner's words. -----------------------------------------------------------------------------------------------

for _what, _data in {
    "done": "DONE",
    "done for all tests": "DONE * 3",
    "compiled": "ONCE * 3",
    "done, exit": "DONE * 3); os._exit(0",
    "passed": "words('passed', '', '', '') * 3",
    "the referee's words": "words('test', 0, 'passed', '') + words('end', 'passed', '', True)",
    "noise": "bytes(range(256)) * 9",
    "a length beyond all limits": "struct.pack('<Q', 1 << 63)",
    "half a frame": "struct.pack('<Q', 100) + b'x'",
    "an empty frame": "frame(b'') * 3",
    "deep words": "frame(b'l\\1\\0\\0\\0' * 1000 + b'N')",
}.items():
    attack(
        f"says {_what} everywhere",
        "No word of the program stands for an output.",
        f"{SPEAK}everywhere({_data})\nos._exit(0)",
    )
for _what, _fields in (
    ("a list for a kind", "[], 0, 0, 'x'"),
    ("a dict for a kind", "{}, 0, 0, 'x'"),
    ("a huge number for a note", "'raised', 0, 0, 1 << 99999"),
    ("numbers", "1, 2, 3, 4"),
    ("too few", "'raised',"),
    ("lone surrogates", "'raised', 0, 0, '\\ud800'"),
):
    attack(
        f"ends in words that are {_what}",
        "The host reads a program's last words as data that may be anything.",
        f"{SPEAK}os.write(3, words({_fields}))\ntime.sleep(0.2)",
        tests=silent(WORD),
    )
attack(
    "plays the runner",
    "A program that takes the inputs of later tests by itself can only print on them.",
    f"{SPEAK}os.write(3, DONE)\nfor _ in range(2):\n    listen()\n    print('no', flush=True)\n    os.write(3, DONE)",
)
attack(
    "patches the runner",
    "The runner's code in the program's process is a copy that nobody trusts.",
    "from trl_pper.judge.worker import script\nscript._run_once = lambda *_: script.DONE\n"
    "script.describe = lambda *_: ('passed', '', '', '')\nraise ValueError",
)
for _channel in ("os.close(3)", "os.closerange(0, 256)", "os.dup2(1, 3)"):
    attack(f"hangs up by {_channel}", "A channel that is gone is no answer.", f"import os\n{_channel}")

# Ways to end. ------------------------------------------------------------------------------------------------------

for _ending in ("os._exit(0)", "sys.exit(0)", "exit()", "raise SystemExit(256)", "os.kill(os.getpid(), 2)"):
    attack(
        f"ends by {_ending} within the output",
        "An exit status of 0 does not complete an output.",
        f"import os, sys\nprint({WORD[:9]!r}, flush=True)\n{_ending}",
    )
attack(
    "failure hidden at exit",
    "A right output does not count when the program raises, whatever handlers say.",
    "import atexit, sys\nprint(1)\nsys.excepthook = lambda *_: None\natexit.register(lambda: None)\nraise ValueError",
    tests=silent("1"),
    expected="runtime_error",
)
attack(
    "failure in an exit handler",
    "What an exit handler raises is no success either when nothing was printed.",
    "import atexit\natexit.register(lambda: 1 / 0)",
)

# From test to test. ------------------------------------------------------------------------------------------------

_MEMORY = (
    "import builtins, sys, types\nmemory = vars(sys.modules.setdefault('memory', types.ModuleType('memory')))\n"
    "seen = memory.setdefault('seen', [])\ngiven = input()\n"
)
attack(
    "second test by the first",
    "Nothing in a test's process is left of the test before.",
    f"{_MEMORY}print(len(seen))\nseen.append(given)",
    tests=[("1", "0"), ("2", "1")],
    expected="passed|wrong_answer",
)
attack(
    "one test of eight by memory",
    "A test that needs the tests before fails among honest ones.",
    f"{_MEMORY}print(len(seen) if given == 'memory' else given)\nseen.append(given)",
    tests=[(f"{n}", f"{n}") if n != 6 else ("memory", f"{n}") for n in range(8)],
    expected="passed|wrong_answer",
)
for _where, _folder in (("folder", "."), ("input's folder", "/run/script"), ("descriptors", None)):
    attack(
        f"second test by the first's {_where}",
        "Nothing that a test can reach is left of the test before.",
        "import fcntl, os\ngiven = input()\n"
        + (
            f"left = os.path.join({_folder!r}, 'left')\nprint(int(os.path.exists(left)))\n"
            "try: open(left, 'w').close()\nexcept OSError: pass"
            if _folder
            else "flags = [fcntl.fcntl(n, fcntl.F_GETFL) & (os.O_NONBLOCK | os.O_APPEND) for n in (0, 5)]\n"
            "print(int(any(flags)))\n[fcntl.fcntl(n, fcntl.F_SETFL, os.O_NONBLOCK | os.O_APPEND) for n in (0, 5)]"
        ),
        tests=[("1", "0"), ("2", "1"), ("3", "1")],
        expected="passed|wrong_answer",
    )
for _name, _left in {
    "thread": "def late():\n    time.sleep(0.1)\n    print('late', flush=True)\nthreading.Thread(target=late).start()",
    "daemon": "def late():\n    while True: os.write(1, b'late')\nthreading.Thread(target=late, daemon=True).start()",
    "exit handler": "atexit.register(print, 'late')",
    "patched print": "builtins.print = lambda *a: os.write(1, b'late')",
    "patched input": "builtins.input = lambda *a: 'late'",
    "trace": "sys.settrace(lambda *_: os.write(1, b'late'))",
    "timer": "signal.signal(signal.SIGALRM, lambda *_: os.write(1, b'late')); signal.setitimer(0, 0.05, 0.01)",
    "finalizer": "sys.late = weakref.finalize(threading, print, 'late')",
    "recursion limit": "sys.setrecursionlimit(50)",
    "directory": "os.mkdir('away'); os.chdir('away'); os.rmdir('../away')",
}.items():
    attack(
        f"leaves a {_name} to the next test",
        "What a test leaves behind makes no other test pass.",
        "import atexit, builtins, os, signal, sys, threading, time, weakref\n"
        f"if input() == '0':\n    print({WORD!r} + '-0')\n" + "".join(f"    {line}\n" for line in _left.splitlines()),
        expected="passed|wrong_answer|runtime_error|output_limit",
    )

# The output file. --------------------------------------------------------------------------------------------------

attack(
    "truncates the output",
    "What was printed cannot be taken back.",
    "import os\nprint('no', flush=True)\nfor n in (1, 6):\n    try: os.ftruncate(n, 0)\n    except OSError: pass\n"
    "os.lseek(1, 0, 0)\nos.write(1, b'right')",
    tests=silent("right"),
)
attack(
    "prints for a later test",
    "Every test is compared with what was printed in its own run.",
    "import os\nif input() == '0': os.write(1, b'0 1 2'); os._exit(0)",
    tests=[("0", "0"), ("1", "1"), ("2", "2")],
)
attack(
    "writes over the output",
    "The output file grows at its end only while its flags are the host's.",
    "import fcntl, os\nprint('no', flush=True)\nfcntl.fcntl(1, fcntl.F_SETFL, 0)\nos.pwrite(1, b'no', 100)",
    tests=silent("right"),
)
attack(
    "sparse output",
    "A file made long without writing is an output too long.",
    "import os\nos.truncate(1, 1 << 40)",
    tests=silent("right"),
    expected="runtime_error|output_limit",
)
attack(
    "output behind a hole",
    "Zeros are an output like any other.",
    "import os\nos.ftruncate(1, 1000)\nprint('right')",
    tests=silent("right"),
)
attack("closes its output", "A closed output is an empty one.", "import os\nos.close(1)\nos.closerange(5, 9)")
attack(
    "another file in the place of the output",
    "What is written elsewhere was not printed.",
    "import os\nos.dup2(os.open('mine', os.O_CREAT | os.O_RDWR), 1)\nprint('right')",
    tests=silent("right"),
    expected="wrong_answer",
)
attack(
    "output on the error stream",
    "Standard error is not standard output.",
    "import sys\nprint('right', file=sys.stderr)",
    tests=silent("right"),
    expected="wrong_answer",
)
attack(
    "prints once it has ended",
    "A process left behind prints in vain.",
    "import os, time\nif os.fork() == 0:\n    os.close(3)\n    time.sleep(0.2)\n    os.write(1, b'right')\n"
    "os._exit(0)",
    tests=silent("right"),
    expected="wrong_answer",
    profile="family",
)
attack(
    "reads what is expected",
    "No descriptor and no file holds an expected output.",
    "import os\nfound = []\nfor n in range(256):\n    for way in (os.pread, lambda n, size, _: os.read(n, size)):\n"
    "        if n != 3:\n            try: found.append(way(n, 1 << 16, 0))\n            except OSError: pass\n"
    "print(b''.join(found).decode('latin-1'))",
)

# Comparing on the host. --------------------------------------------------------------------------------------------

for _name, _printed, _wanted in (
    ("not a number", "'nan'", "0.5"),
    ("infinity", "'inf'", "1e308"),
    ("beyond infinity", "'1e999999999'", "1e308"),
    ("digits of another script", "'\\u0660.\\u0665'", "0.5"),
    ("an underscore", "'0_0.5'", "0.5"),
    ("hexadecimal", "'0x1p-1'", "0.5"),
    ("a fraction", "'1/2'", "0.5"),
    ("an integer rounded", "'1000000'", "1000001"),
    ("a zero byte", "'0.5\\0'", "0.5"),
    ("many tokens", "'0.5 ' * 100000", "0.5"),
    ("a million digits", "'9' * 10**6", "0.5"),
):
    attack(
        f"prints {_name}",
        "A number is compared as the number it is.",
        f"print({_printed})",
        tests=silent(_wanted),
        expected="wrong_answer",
    )
attack(
    "prints what is almost a number",
    "Comparing takes the host no longer than reading does.",
    "print('1' * 14000 + 'x')",
    tests=silent("0.5"),
    expected="wrong_answer",
    slow=True,
)
attack(
    "prints bytes that are no text",
    "Output that is no UTF-8 is wrong, not an error.",
    "import os\nos.write(1, bytes(range(128, 256)) * 100)",
    expected="wrong_answer",
)
