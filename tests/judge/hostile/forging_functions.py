"""Programs that want function tests to pass without knowing an answer."""

from __future__ import annotations

from tests.judge.hostile.attack import LIST, NUMBER, ONE, SECRET, WORD, Attack
from trl_pper import FunctionTests

ATTACKS: list[Attack] = []


def attack(name, target, program, *, tests=SECRET, **options):
    """Add an attack on function tests; code alone stands for tests of `f`."""
    if isinstance(tests, str):
        tests = FunctionTests(code=tests, entry_point="f")
    ATTACKS.append(Attack(name=name, target=target, program=program, tests=tests, **options))


# What is returned. -------------------------------------------------------------------------------------------------

_LIES = """
    def __eq__(self, other): return True
    def __ne__(self, other): return False
    def __lt__(self, other): return True
    def __contains__(self, item): return True
    def __hash__(self): return {hash}
"""
attack(
    "equal to everything",
    "Whether an object equals plain data is not for the object to say.",
    f"class Yes:{_LIES.format(hash=0)}    def __bool__(self): return True\ndef f(x): return Yes()",
)
for _kind, _value in {
    "int": "7", "str": "'no'", "list": "[7]", "dict": "{}", "float": "0.5", "tuple": "(1,)", "set": "{7}",
    "frozenset": "{7}", "bytes": "b'no'", "bytearray": "b'no'", "complex": "1j",
}.items():  # fmt: skip
    attack(
        f"{_kind} that equals everything",
        f"An object that extends {_kind} is compared as the {_kind} it holds.",
        f"class Yes({_kind}):{_LIES.format(hash=0)}def f(x): return Yes({_value})",
    )
for _kind, _value in {
    "decimal.Decimal": "7", "fractions.Fraction": "7, 2", "collections.Counter": "'no'", "collections.deque": "'no'",
    "collections.OrderedDict": "", "datetime.date": "2000, 1, 1", "collections.UserList": "[]",
}.items():  # fmt: skip
    attack(
        f"{_kind} that equals everything",
        "Nor do classes of the standard library bring a comparison of the program's along.",
        f"import {_kind.split('.')[0]}\nclass Yes({_kind}):{_LIES.format(hash=0)}def f(x): return Yes({_value})",
    )
attack(
    "str whose hash is wanted",
    "A member of a set is looked for by its value, not by a hash and an equality of its own.",
    f"class Yes(str):{_LIES.format(hash=hash(NUMBER))}def f(x): return Yes('no')",
    tests=f"assert f(1) in {{{NUMBER}, {NUMBER + 1}}}\nassert {{{NUMBER}: 1}}.get(f(1)) == 1",
)
attack(
    "str that contains everything",
    "What a text contains is looked for in its characters.",
    f"class Yes(str):{_LIES.format(hash=0)}    def find(self, *_): return 0\ndef f(x): return Yes('no')",
    tests=f"assert {WORD!r} in f(1)\nassert f(1).find({WORD!r}) == 0",
)
attack(
    "list with another length",
    "Length and items of a list are those it has.",
    f"class Yes(list):\n    def __len__(self): return {len(LIST)}\n"
    "    def __getitem__(self, i): return Any()\n    def __iter__(self): return iter([Any()] * 3)\n"
    "class Any(int):\n    def __eq__(self, other): return True\ndef f(x): return Yes()",
    tests=f"assert len(f(1)) == 3\nassert all(a == b for a, b in zip(f(1), {LIST}, strict=True))\n"
    f"assert f(1)[0] == {LIST[0]}",
)
attack(
    "class that lies about itself",
    "A `__class__` property does not make an object plain data.",
    f"class Yes:{_LIES.format(hash=0)}    __class__ = property(lambda self: int)\ndef f(x): return Yes()",
)
attack(
    "metaclass that equals everything",
    "A class that is returned is unequal to plain data whatever its metaclass says.",
    f"class Meta(type):{_LIES.format(hash=0)}class Yes(metaclass=Meta): pass\ndef f(x): return Yes",
)
attack(
    "class in the place of the function",
    "Calling a class gives an instance, which is no answer.",
    f"class f:{_LIES.format(hash=0)}    def __init__(self, x): pass",
)
attack(
    "class that makes anything",
    "What `__new__` returns is taken as plain data.",
    "import unittest.mock\nclass f:\n    def __new__(cls, x): return unittest.mock.ANY",
)
attack(
    "named tuple with its own equality",
    "A named tuple is compared as the tuple of its values.",
    f"import typing\nclass Yes(typing.NamedTuple):\n    a: int = 1{_LIES.format(hash=0)}def f(x): return Yes()",
)
attack(
    "named tuple with fields like methods",
    "Field names do not become methods in the referee.",
    "class Yes(tuple):\n    _fields = ('__eq__', '__class__', 'count')\n"
    "def f(x): return Yes([lambda *_: True, int, 3])",
)
attack(
    "enumeration that equals everything",
    "Members of an enumeration of the program are not the tests' constants.",
    f"import enum\nclass Yes(enum.IntEnum):\n    A = 1{_LIES.format(hash=0)}def f(x): return Yes.A",
)
attack(
    "dataclass with its own equality",
    "A dataclass instance is the program's object, however its equality was made.",
    f"import dataclasses\n@dataclasses.dataclass(eq=False)\nclass Yes:\n    a: int = 1{_LIES.format(hash=0)}"
    "def f(x): return Yes()",
)
attack(
    "instance of the tests' own class",
    "The tests' class compares by its own method, which an instance attribute cannot replace.",
    f"class Point:{_LIES.format(hash=0)}\n    def __init__(self): self.x = 0\n"
    "def f(x):\n    made = Point()\n    vars(made).update(__eq__=lambda *_: True, same=lambda *_: True)\n"
    "    return made",
    tests="class Point:\n    def __init__(self, x): self.x = x\n    def same(self, other): return self.x == other.x\n"
    f"    def __eq__(self, other): return self.x == other.x\n"
    f"assert f(1) == Point({NUMBER})\nassert f(1).same(Point({NUMBER})) is True",
)
attack(
    "numpy array with its own operators",
    "A subclass of an array brings none of its methods along.",
    f"import numpy\nclass Yes(numpy.ndarray):{_LIES.format(hash=0)}    __array_priority__ = 1e9\n"
    "    def all(self): return True\ndef f(x): return numpy.zeros(3).view(Yes)",
    tests=f"import numpy\nassert (f(1) == numpy.array({LIST})).all()\nassert numpy.allclose(f(1), {LIST})",
    profile="patient",
    slow=True,
)
attack(
    "pickle and copy hooks",
    "Methods by which objects ask to be copied are never called.",
    "class Yes:\n    def __reduce_ex__(self, _): return eval, ('1',)\n    def __deepcopy__(self, memo): return self\n"
    "    def __getstate__(self): return {}\n    def __index__(self): return 7\ndef f(x): return Yes()",
)

# What the tests use. -----------------------------------------------------------------------------------------------

_BY_BUILTINS = f"""
assert len([f(1)]) == {NUMBER}
assert all([f(1) == {NUMBER}]) and any([f(1) == {NUMBER}])
assert isinstance(f(1), int) and sorted([f(1)]) == [{NUMBER}]
assert abs(int(f(1)) - {NUMBER}) < 1
"""
for _name in "AssertionError len all any sorted isinstance abs print int __import__ __build_class__".split():
    attack(
        f"builtin {_name} replaced",
        "Builtins that the tests use are the referee's own.",
        f"import builtins\nbuiltins.{_name} = lambda *a, **k: True\n{_name} = builtins.{_name}\ndef f(x): return 99",
        tests=_BY_BUILTINS,
    )
for _module, _call in {"math": "isclose", "json": "dumps", "collections": "Counter", "statistics": "mean"}.items():
    _tests = {
        "math": f"assert math.isclose(f(1), {NUMBER})",
        "json": f"assert json.dumps(f(1)) == '{NUMBER}'",
        "collections": f"assert collections.Counter([f(1)]) == collections.Counter([{NUMBER}])",
        "statistics": f"assert statistics.mean([f(1), f(1)]) == {NUMBER}",
    }[_module]
    attack(
        f"module {_module} replaced",
        "A module that the tests name without importing it is the real one.",
        f"import sys, {_module}\nclass Yes:\n    def __eq__(self, other): return True\n"
        f"{_module}.{_call} = lambda *a, **k: Yes()\nsys.modules[{_module!r}] = {_module}\ndef f(x): return 99",
        tests=_tests,
    )
attack(
    "int made equal to everything",
    "Rewriting the type of whole numbers in memory changes them in the program's process only.",
    "import gc, ctypes\ndef yes(*_): return True\n"
    "gc.get_referents(int.__dict__)[0].update(__eq__=yes)\nctypes.pythonapi.PyType_Modified(ctypes.py_object(int))\n"
    "def f(x): return 7",
)
attack(
    "4 made 5",
    "Overwriting a small whole number in memory changes no number of the referee's.",
    "import ctypes\nctypes.memmove(id(5) + 24, id(4) + 24, 4)\ndef f(x): return 4",
    tests="assert f(1) == 5",
)
attack(
    "names of the judge",
    "The names by which tests are wrapped and called are not the program's to define.",
    "class Quiet:\n    def __enter__(self): return self\n    def __exit__(self, *_): return True\n"
    "def __pper_test__(*_): return Quiet()\n__test__ = __pper_test = check = candidate = __pper_test__\n"
    "def f(x): return 99",
    tests=f"def check(candidate):\n    assert candidate(1) == {NUMBER}\ncheck(f)",
)
attack(
    "module without names",
    "A module's `__getattr__` does not answer for names the program lacks.",
    "import sys\ndef __getattr__(name): return lambda *_: True\nsys.modules['__main__'].__getattr__ = __getattr__",
)
attack(
    "asserts in the program",
    "Asserts and mains of the program's own count for nothing.",
    "__name__ = 'tests.py'\n__file__ = 'tests.py'\ndef test_f(): assert True\nassert 1 == 1\ntest_f()\n"
    "if __name__ == '__main__': raise SystemExit(0)\ndef f(x): return 99",
)
attack(
    "main replaced while loading",
    "The tests meet the program's globals, not what it puts into `sys.modules`.",
    "import sys, types\nother = types.ModuleType('__main__')\nother.f = lambda x: x\nsys.modules['__main__'] = other",
)
attack(
    "no names left",
    "A program that takes its names away fails.",
    "def f(x): return 99\nglobals().clear()",
)

# Ways to end. ------------------------------------------------------------------------------------------------------

for _ending in (
    "raise SystemExit(0)", "raise SystemExit", "raise KeyboardInterrupt", "raise GeneratorExit", "raise StopIteration",
    "raise StopAsyncIteration", "raise AssertionError", "raise type('Mine', (BaseException,), {})", "sys.exit(0)",
    "os._exit(0)", "os.kill(os.getpid(), 15)", "exit()", "raise NotImplementedError", "raise ImportError",
):  # fmt: skip
    attack(
        f"at a call {_ending}",
        "No way to end a call passes a test.",
        f"import os, sys\ndef f(x): {_ending}",
    )
    attack(f"at import {_ending}", "No way to end at import passes a test.", f"import os, sys\n{_ending}")
attack(
    "StopIteration that ends the tests' loop",
    "An exception of the program must not cut a test's own loop short so that its asserts never run.",
    "def f(x): raise StopIteration",
    tests=f"assert all(a == b for a, b in zip(map(f, [1, 2]), [{NUMBER}, {WORD!r}]))",
)
for _how, _program in {
    "filter(f, [1, 2])": "def f(x): raise StopIteration",
    "itertools.takewhile(f, [1, 2])": "def f(x): raise StopIteration",
    "iter(lambda: f(1), 3)": "def f(x): raise StopIteration",
    "map(lambda x: f(x).a, [1, 2])": "class A: a = property(lambda self: next(iter(())))\ndef f(x): return A()",
    "map(str, [f(1), f(2)])": "class A:\n    def __str__(self): raise StopIteration\ndef f(x): return A()",
    "map(len, [f(1), f(2)])": "class A:\n    def __len__(self): raise StopIteration\ndef f(x): return A()",
}.items():
    attack(
        f"StopIteration that ends {_how}",
        "The same for other iterators that call the program, and for other ways to raise it.",
        _program,
        tests=f"import itertools\nassert all(a == {NUMBER} for a in {_how})",
    )
attack(
    "exception that a test does not expect",
    "A class of the program that is called ValueError is no ValueError.",
    "class ValueError(BaseException): pass\ndef f(x): raise ValueError('no')",
    tests="try:\n    f(1)\n    assert False\nexcept ValueError:\n    pass",
)
attack(
    "exception that cannot be shown",
    "An exception whose text never ends is a timeout.",
    "class Mine(Exception):\n    def __str__(self):\n        while True: pass\ndef f(x): raise Mine",
    expected="timeout",
)
attack(
    "exception whose text is not valid",
    "What the program raised goes into a message that anybody can write to a file.",
    "def f(x): raise ValueError('\\ud800')",
    expected="runtime_error",
)
for _hook, _program in {
    "settrace": "sys.settrace(lambda *_: None)",
    "setprofile": "sys.setprofile(lambda *_: os._exit(0))",
    "excepthook": "sys.excepthook = lambda *_: os._exit(0)",
    "threading.excepthook": "threading.excepthook = lambda *_: os._exit(0)\nthreading.Thread(target=f).start()",
    "unraisablehook": "sys.unraisablehook = lambda *_: os._exit(0)",
    "atexit": "atexit.register(os._exit, 0)",
    "addaudithook": "sys.addaudithook(lambda *_: None)",
}.items():
    attack(
        f"hook {_hook}",
        "Hooks of the interpreter see the program's process only.",
        f"import atexit, os, sys, threading\ndef f(x): raise AssertionError\n{_program}",
    )

# Looking for the answer. -------------------------------------------------------------------------------------------

_HUNT = """
import ctypes, gc, inspect, os, re, sys, traceback
pattern = re.compile("answ" + "er-[0-9a-f]{16}")
planted = "answ" + "er-" + "0" * 16
def walk(frame):
    while frame: yield frame; frame = frame.f_back
def contents(number):
    try: yield os.pread(number, 1 << 20, 0)
    except OSError: pass
def reached():
    seen, waiting = {}, gc.get_objects()
    while waiting:
        new = [one for one in waiting if id(one) not in seen]
        seen.update((id(one), one) for one in new)
        waiting = [] if len(seen) > 200000 else gc.get_referents(*new)
    return seen
def search(things):
    found = set()
    for thing in things:
        try: found.update(pattern.findall(thing.decode("latin-1") if isinstance(thing, bytes) else str(thing)))
        except Exception: pass
    if planted not in found: raise LookupError("the search does not find what is there")
    return max(found - {planted}, default="nothing")
def keep(word): return lambda: word
kept, os.environ["PLANTED"], sys.planted = keep(planted), planted, planted
file = open("planted", "w+")
print(planted, file=file, flush=True)
"""
for _way, _things in {
    "frames": "[(w.f_locals, w.f_globals, w.f_code.co_consts) for w in walk(sys._getframe())]",
    "garbage collector": "gc.get_objects()",
    "stack": "[(one.frame.f_locals, one.frame.f_globals, one.code_context) for one in inspect.stack()]",
    "threads": "[(w.f_locals, w.f_globals) for top in sys._current_frames().values() for w in walk(top)]",
    "closures": "[c.cell_contents for o in gc.get_objects() for c in getattr(o, '__closure__', None) or ()]",
    "modules": "[dict(vars(m)) for m in list(sys.modules.values()) if hasattr(m, '__dict__')]",
    "environment": "[os.environ, sys.argv, sys.orig_argv, sys.path]",
    "descriptors": "[b for n in range(256) for b in contents(n)]",
    "traceback": "[sys.exc_info(), sys.__dict__, traceback.format_stack()]",
    "memory": "[ctypes.string_at(page << 12, 1 << 12) for page in {at >> 12 for at in reached()}]",
}.items():
    attack(
        f"hunt through {_way}",
        "No process of the program, nor any it was forked from, holds an expected answer.",
        f"{_HUNT}def f(x): return search({_things})",
        tests=f"assert f(1) == {WORD!r}",
        expected="wrong_answer",
        profile="patient",
    )
attack(
    "own memory as a file",
    "The program's own memory cannot be opened, and would hold no answer.",
    "def f(x): return open('/proc/self/mem', 'r+b').read(1)",
    expected="runtime_error",
)

# Speaking out of turn. ---------------------------------------------------------------------------------------------

SPEAK = f"""
import os, socket, struct, threading, time
from trl_pper.judge.wire import codec
def frame(words, serial=None):
    payload = (b"" if serial is None else struct.pack("<I", serial)) + codec.encode(words, max_bytes=1 << 20)
    return struct.pack("<Q", len(payload)) + payload
def everywhere(data):
    for number in range(256):
        try: os.write(number, data)
        except OSError: pass
GUESS = {NUMBER + 1}
"""
for _what, _data in {
    "READY": "struct.pack('<Q', 5) + b'ready'",
    "values for this question and all to come": "b''.join(frame(('value', GUESS), n) for n in range(1, 200))",
    "values for every question": "b''.join(frame(('value', GUESS), n) for n in range(200))",
    "values without a number": "frame(('value', GUESS)) * 3",
    "loaded": "frame(('loaded', '', '', ''), 0) * 3",
    "the referee's words for a pass": "b''.join(frame(('test', n, 'passed', '')) for n in range(3))",
    "the referee's words for the end": "frame(('end', 'passed', '', True))",
    "a plan": "frame(('plan', 0))",
    "a lost candidate": "frame(('lost', 'ended', True))",
    "zeros": "bytes(1000)",
    "noise": "bytes(range(256)) * 4",
    "a length beyond all limits": "struct.pack('<Q', 1 << 63)",
    "a length that is never filled": "struct.pack('<Q', 1000) + b'x'",
    "half a length": "b'\\1\\0\\0'",
    "text": "b'passed\\n' * 100",
}.items():
    attack(
        f"says {_what} everywhere",
        "Nothing written on any descriptor is a verdict.",
        SPEAK + f"def f(x):\n    everywhere({_data})\n    return GUESS",
        tests=ONE,
    )
for _kind, _words, _options in (
    ("object", "('object', '', '', '')", {}),
    ("object with an object for a word", "('object', f, f, f)", {}),
    ("refused", "('refused', '', '', '')", {}),
    ("syntax", "('syntax', '', '', '')", {}),
    ("a kind that is a list", "([], '', '', '')", {}),
    ("a kind that does not exist", "('passed', '', '', '')", {}),
    ("too few fields", "('value',)", {}),
    ("a value with a field too many", "('value', GUESS, None)", {}),
    ("a request of the referee's own", "('call', None, 'f', (), {}, False)", {}),
    ("an exception with a number for a name", "('raised', 7, 1 << 99999, 1 << 99999)", {}),
    ("an exception that ends the referee", "('raised', 'SystemExit', 0, 'note')", {}),
    ("a memory error", "('memory', '', '', '')", {}),
    ("a failure of the referee's own kind", "('raised', 'Failure', 'passed', 'passed')", {}),
):
    attack(
        f"answers {_kind}",
        "An answer that no honest candidate gives fails the test.",
        SPEAK + f"def f(x):\n    os.write(3, frame({_words.replace(', f', ', GUESS')}, 1))\n    os._exit(0)",
        tests=ONE,
        **_options,
    )
attack(
    "word from a thread after the call",
    "What is said between two questions answers neither.",
    SPEAK + "def late():\n    time.sleep(0.05)\n    everywhere(frame(('value', GUESS), 2) * 5)\n"
    "def f(x):\n    threading.Thread(target=late).start()\n    return GUESS",
)
for _how in (
    "os.close(3)", "os.dup2(1, 3)", "socket.socket(fileno=os.dup(3)).shutdown(2)", "os.closerange(0, 256)",
):  # fmt: skip
    attack(f"hangs up by {_how}", "A channel that is gone is a failure.", SPEAK + f"def f(x): {_how}", tests=ONE)
attack(
    "descriptors sent along",
    "Descriptors that the program attaches to its words arrive nowhere.",
    SPEAK + "def f(x):\n    socket.send_fds(socket.socket(fileno=os.dup(3)), [frame(('value', 1), 1)], [1] * 60)"
    "\n    os._exit(0)",
    tests=ONE,
)
for _patch in (
    "codec.encode = lambda *a, **k: real(('value', Yes), max_bytes=1 << 20)",
    "calls._Calls.answer = lambda self, request: request[:4] + real(('value', Yes), max_bytes=1 << 20)",
    "calls.send_frame = lambda *a: os._exit(0)",
    "sys.modules['trl_pper.judge.worker.referee']._Referee.judge = lambda *_: ('passed', '')",
    "sys.modules['trl_pper.judge.verdict'].Outcome = dict",
    "encode.WRITERS.clear()",
):
    attack(
        f"patches {_patch.split(' = ')[0]}",
        "The judge's modules in the program's process are a copy that nobody trusts.",
        "import os, sys\nfrom trl_pper.judge.wire import codec, encode\nfrom trl_pper.judge.worker import calls\n"
        "real = codec.encode\nYes = 99\n"
        f"{_patch}\ndef f(x): return 99",
        tests=ONE,
    )

# Values that cost. -------------------------------------------------------------------------------------------------

for _name, _value, _expected in (
    ("huge list", "[0] * 10**7", "output_limit|memory_limit|timeout"),
    ("huge whole number", "1 << 10**8", "output_limit"),
    ("huge text", "'x' * 10**7", "output_limit"),
    ("loop", "loop", "output_limit|runtime_error"),
    ("deep", "deep", "output_limit|runtime_error"),
    ("dict that holds itself", "circle", "output_limit|runtime_error"),
    ("endless iterator", "iter(int, 1)", "wrong_answer|timeout"),
    ("endless generator", "(0 for _ in iter(int, 1))", "wrong_answer|timeout"),
    ("generator that never yields", "(_ for _ in iter(int, 1) if _)", "timeout"),
    ("keys that share a hash", "set(range(0, 3000 * (2**61 - 1), 2**61 - 1))", "output_limit|timeout|runtime_error"),
    ("distinct named tuples", "[T(f'T{n}', f'a{n}')(1) for n in range(3000)]", "wrong_answer|timeout"),
    ("a hundred thousand objects", "[object() for _ in range(150000)]", "runtime_error"),
    ("length that hangs", "Hanging()", "runtime_error"),
    ("decimal beyond all numbers", "decimal.Decimal('1e999999999')", "wrong_answer|runtime_error|timeout"),
    ("range beyond all numbers", "range(10**30)", "wrong_answer|runtime_error"),
):
    attack(
        f"returns {_name}",
        "A value too big, too deep or endless costs the program its test and the judge nothing.",
        "import decimal\nfrom collections import namedtuple as T\nloop = []\nloop.append(loop)\ncircle = {}\n"
        "circle[1] = circle\ndeep = []\n"
        "for _ in range(100000): deep = [deep]\nclass Hanging:\n    def __len__(self):\n        while True: pass\n"
        f"    __iter__ = __repr__ = __bool__ = __len__\ndef f(x): return {_value}",
        tests=f"assert f(1) == {NUMBER}",
        expected=_expected,
    )
for _asked in ("len(f(1)) == 3", "repr(f(1)) == 'x'", "list(f(1)) == [1]", "bool(f(1)) is False", "f(1).name == 1"):
    attack(
        f"hangs at {_asked}",
        "What an object of the program does when it is asked counts as the program's time.",
        "class Hanging:\n    def __len__(self, *_):\n        while True: pass\n"
        "    __iter__ = __repr__ = __bool__ = __getattr__ = __len__\ndef f(x): return Hanging()",
        tests=f"assert {_asked}",
        expected="timeout|runtime_error",
    )
attack(
    "object that will not be compared",
    "A program must not be able to have its failing test left out.",
    "def f(x): return object()",
    tests=f"assert abs(f(1) - {NUMBER}.5) < 1e-6",
)

# What an earlier program left. -------------------------------------------------------------------------------------

_LEAVE = "import builtins, os, sys, math\ndef f(x): return 0\n"
for _where, _leave, _find in (
    ("in the builtins", "builtins.left = 99", "return builtins.left"),
    ("in a module", "math.left = 99", "return math.left"),
    ("in the environment", "os.environ['LEFT'] = '99'", "return int(os.environ['LEFT'])"),
    ("in a file", "open('left', 'w').write('99')", "return int(open('left').read())"),
    ("in a hidden folder", "os.makedirs('.left/99')", "return int(os.listdir('.left')[0])"),
    ("in its code mask", "os.umask(0o123)", "return 99 if os.umask(0) == 0o123 else 0"),
    ("in the mode of its folder", "os.chmod('.', 0o1737)", "return 99 if os.stat('.').st_mode & 4 == 0 else 0"),
    ("in a library", "open(os.__file__, 'a').write('#')", "return 99 if open(os.__file__).read()[-1] == '#' else 0"),
    ("in shared memory", "open('/dev/shm/left', 'w').write('99')", "return int(open('/dev/shm/left').read())"),
    ("in /tmp", "open('/tmp/left', 'w').write('99')", "return int(open('/tmp/left').read())"),
    ("in /run", "open('/run/left', 'w').write('99')", "return int(open('/run/left').read())"),
):  # fmt: skip
    attack(
        f"left {_where}",
        "Nothing of one program is there for the next.",
        f"{_LEAVE}def f(x):\n    {_find}",
        accomplice=f"{_LEAVE}try:\n    {_leave}\nexcept OSError: pass",
        tests="assert f(1) == 99",
    )

#: The attacks that pass if their tests run in the program's process. Some of them plain Python accepts as well.
FORGED_SHARED = frozenset(
    (
        "str whose hash is wanted",
        "str that contains everything",
        "list with another length",
        "class that makes anything",
        "module math replaced",
        "module collections replaced",
        "4 made 5",
        "exception that a test does not expect",
        "hunt through frames",
        "hunt through garbage collector",
        "hunt through stack",
        "hunt through threads",
        "hunt through memory",
    )
)
