"""Values and deeds with which a program could make itself impossible to judge, to be left out instead of failed."""

from __future__ import annotations

#: Test code by what it does with the answers of `f`, the right answers to which are not among the values below.
TESTS = {
    "eq": "assert f(1) == 2\nassert f(2) == 3",
    "sorted": "assert sorted(f([2,1])) == [1,2]\nassert sorted(f([3,1])) == [1,3]",
    "compare": "assert f(1) < 3\nassert f(2) >= 3",
    "in": "assert f(1) in (2, 3)\nassert 3 in f(2)",
    "index": "assert f(1)[0] == 2\nassert f(1)['a'] == 2",
    "loop": "for i, x in enumerate(f(3)):\n    assert x == i\nassert list(f(2)) == [0,1]",
    "set": "assert set(f(3)) == {1,2}\nassert {f(1): 2} == {3: 2}",
    "math": "import math\nassert math.isclose(f(1), 2.0)\nassert abs(f(1) - 2) < 1e-6",
    "np": "import numpy as np\nassert np.allclose(f(1), [2.0])\nassert (np.array(f(1)) == np.array([2])).all()",
    "str": "assert str(f(1)) == '2'\nassert f'{f(1)}' == '2'\nassert len(f(1)) == 2",
    "try": "try:\n    f(1)\n    assert False\nexcept ValueError as e:\n    assert str(e) == 'no'",
    "chain": "assert f(f(1)) == 3\nassert f([f(1), f(2)]) == 4",
    "mul": "assert f([f(1)] * 3) == 3\nassert f(f(1) * 1000) == 4",
    "call": "assert f(1)(2) == 3",
    "deep": "import copy\nassert copy.deepcopy(f(1)) == [1]\nassert repr(f(1)) == '[1]'",
    "class": "a = f(1)\na.add(2)\nassert a.get() == 3\nassert str(a) == '3'",
    "with": "with f(1) as g:\n    assert g == 2",
    "json": "import json\nassert json.loads(f(1)) == {'a': 1}\nassert json.dumps(f(1)) == '1'",
    "int": "assert int(f(1)) == 2\nassert round(f(1), 2) == 2\nassert float(f(1)) == 2.0\nassert sum(f(1)) == 3",
    "map": "assert list(map(f, [1,2])) == [2,3]\nassert max(f(1), 2) == 3",
    "re": "import re\nassert re.match('a+b', f(1))\nassert f(1).upper() == 'A'\nassert f(1).split(',')[0] == 'a'",
}

#: Programs by what their `f` returns or does.
PROGRAMS = {
    "object": "def f(x): return object()",
    "class": "class f:\n    __init__ = lambda s, x: None\n    __exit__ = lambda *_: True\n    __enter__ = lambda s: s",
    "deep": "def f(x):\n    a=[]\n    for _ in range(100000): a=[a]\n    return a",
    "deep300": "def f(x):\n    a=[]\n    for _ in range(300): a=[a]\n    return a",
    "cycle": "def f(x):\n    a=[]\n    a.append(a)\n    return a",
    "bigint": "def f(x): return 1 << (8 << 20)",
    "bigint1": "def f(x): return 1 << (8 * (1<<20) - 9)",
    "bigstr": "def f(x): return 'a' * (15 << 20)",
    "hugestr": "def f(x): return 'a' * (1 << 28)",
    "biglist": "def f(x): return [1] * (1 << 20)",
    "gen": "def f(x):\n    yield 1\n    raise StopIteration",
    "stop": "def f(x): raise StopIteration",
    "sysexit": "def f(x): raise SystemExit(0)",
    "kbd": "def f(x): raise KeyboardInterrupt",
    "genexit": "def f(x): raise GeneratorExit",
    "base": "def f(x): raise BaseException('x')",
    "memerr": "def f(x): raise MemoryError",
    "recur": "def f(x): return f(x)",
    "badstr": "class E(Exception):\n    def __str__(self): raise ValueError\ndef f(x): raise E",
    "badstr2": "class E(Exception):\n    def __str__(self): return 'a' * (1<<26)\ndef f(x): raise E",
    "group": "def f(x): raise ExceptionGroup('a', [ValueError(1)])",
    "exit": "import os\ndef f(x): os._exit(0)",
    "exit0": "import os\nos._exit(0)",
    "kill": "import os\ndef f(x): os.kill(os.getpid(), 9)",
    "segv": "import ctypes\ndef f(x): ctypes.string_at(0)",
    "close": "import os\ndef f(x): os.close(3)",
    "close0": "import os\nos.closerange(0, 100)\ndef f(x): return 2",
    "nan": "def f(x): return float('nan')",
    "inf": "def f(x): return float('inf')",
    "none": "def f(x): return None",
    "bytes": "def f(x): return b'\\xff\\x00'",
    "surrogate": "def f(x): return '\\ud800'",
    "complex": "def f(x): return 1j",
    "type": "def f(x): return int",
    "func": "def f(x): return f",
    "missing": "g = 1",
    "notfunc": "f = 3",
    "mod": "import sys\nf = sys",
    "raise": "raise ValueError('no')",
    "syntax": "def f(",
    "nul": "\0",
    "loop": "def f(x):\n    while True: pass",
    "loop0": "while True: pass",
    "builtins": "import builtins as b\nb.len = b.isinstance = b.type = None\ndef f(x): return 2",
    "nobuiltins": "import builtins\nvars(builtins).clear()\ndef f(x): return 2",
    "codec": "import sys\n[vars(m).clear() for n, m in [*sys.modules.items()] if 'pper' in n]\ndef f(x): return 2",
    "dict": "def f(x): return {float('nan'): {1: (2, [3])}}",
    "set": "def f(x): return {frozenset([1, (2, 3)])}",
    "slow": "class L(list):\n    def __iter__(self):\n        while True: yield 1\ndef f(x): return L()",
    "hash": "def f(x): return [2**61 * i for i in range(2000)]",
    "hashset": "def f(x): return {(2**61-1) * i for i in range(3000)}",
    "thread": "import threading\ndef f(x):\n    threading.Thread(target=f, args=(x,)).start()\n    return 2",
}
for _kind in "refused object memory loaded raised syntax value unsupported cannot broken lost".split():
    PROGRAMS[f"says {_kind}"] = f"""
import os, struct
from trl_pper.judge.wire import codec
def f(x):
    for serial in range(4):
        words = struct.pack("<I", serial) + codec.encode(({_kind!r}, "", "", "x"), max_bytes=1 << 20)
        os.write(3, struct.pack("<Q", len(words)) + words)
    os._exit(0)
"""
