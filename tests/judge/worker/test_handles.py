"""Objects that only the program has can be used by tests, and never answer for an expected value."""

from __future__ import annotations

import pytest

from trl_pper import CodingTask, FunctionTests, Judge, Limits

VECTOR = """
class Vec:
    made = 0
    def __init__(self, x, y=0):
        self.x, self.y = x, y
        self.items = {}
    def __add__(self, other): return Vec(self.x + other.x, self.y + other.y)
    def __mul__(self, other): return self.x * other.x + self.y * other.y
    def __neg__(self): return Vec(-self.x, -self.y)
    def __len__(self): return 2
    def __getitem__(self, key): return self.items[key]
    def __setitem__(self, key, value): self.items[key] = value
    def __delitem__(self, key): del self.items[key]
    def __str__(self): return f"<{self.x}, {self.y}>"
    def __float__(self): return float(self.x)
    def __enter__(self):
        self.x += 1
        return self
    def __exit__(self, kind, error, traceback): self.y = kind is None
    def __next__(self):
        if self.x == 0: raise StopIteration
        self.x -= 1
        return self.x
    def __iter__(self): return self
class Special(Vec): pass
class Text(str): pass
"""


@pytest.fixture(scope="module")
def judge():
    with Judge(workers=1, limits=Limits(cpu_seconds=0.3, memory_bytes=1 << 30)) as judge:
        yield judge


def outcomes(judge: Judge, program: str, code: str, **fields: str) -> list[str]:
    task = CodingTask(task_id="t", prompt="p", tests=FunctionTests(code=code, **fields))
    [[verdict]] = judge.run([(task, [program])])
    return [str(outcome) for outcome in verdict.outcomes]


@pytest.mark.parametrize(
    "code",
    [
        "assert (Vec(1) + Vec(2)).x == 3",
        "assert Vec(1, 2) * Vec(3, 4) == 11",
        "assert (-Vec(1)).x == -1",
        "assert len(Vec(1)) == 2",
        "assert str(Vec(1, 2)) == '<1, 2>'",
        "assert f'{Vec(1, 2)}' == '<1, 2>'",
        "assert float(Vec(3)) == 3.0",
        "v = Vec(1)\nv.x = 5\nassert v.x == 5",
        "v = Vec(1)\nv[1] = 5\nassert v[1] == 5",
        "v = Vec(1)\nv[1] = 5\ndel v[1]\nassert v.items == {}",
        "with Vec(1) as v:\n    assert v.x == 2\nassert v.y is True",
        "assert list(Vec(3)) == [2, 1, 0]",
        "assert next(Vec(3)) == 2",
        "assert isinstance(Vec(1), Vec)",
        "assert isinstance(Special(1), Vec)",
        "assert not isinstance(Vec(1), Special)",
        "assert not isinstance(5, Vec)",
        "assert not isinstance(Vec(1), int)",
        "assert not isinstance(Vec(1), (int, str))",
        "assert Vec.__name__ == 'Vec'",
        "assert hasattr(Vec(1), 'x') and not hasattr(Vec(1), 'z')",
        "assert Vec(1).__dict__['x'] == 1",
        "assert bool(Vec(1))",
        "assert Vec(1) != 5",
        "assert not Vec(1) == 5",
        "assert Vec(1) not in [1, 2]",
        "v = Vec(1)\nw = v\nassert v is w\nassert v is not None and v is not w.x",
    ],
)
def test_what_tests_may_do_with_an_object(judge, code):
    assert set(outcomes(judge, VECTOR, code)) == {"passed"}


@pytest.mark.parametrize(
    "code",
    [
        "assert Vec(1) == Vec(1)",
        "assert Vec(1) < Vec(2)",
        "assert 1 in Vec(1)",
        "assert isinstance('a', Text)",
        "assert Vec(1) is Vec(1)",
        "assert Vec(1) is not Vec(1)",
    ],
)
def test_what_only_the_program_could_answer_is_unsupported(judge, code):
    assert outcomes(judge, VECTOR, code) == ["unsupported"]


@pytest.mark.parametrize(
    "code",
    ["assert Vec(1) < 2", "assert 2 > Vec(1)", "assert Vec(1) + 1", "assert 1 + Vec(1)", "assert Vec(1) * 2"],
)
def test_an_object_where_tests_compute_with_a_value_fails(judge, code):
    """Or else a program could return any object to have the tests that it fails left out."""
    assert outcomes(judge, VECTOR, code) == ["runtime_error"]


YES = """
class Yes:
    def __getattr__(self, name): return Yes()
    def __call__(self, *args, **keywords): return Yes()
    def __exit__(self, *args): return True
    def __enter__(self): return self
    def __bool__(self): return True
    def __float__(self): return 0.0
    def __int__(self): return 0
    def __abs__(self): return 0.0
    def __hash__(self): return hash(4)
    def __contains__(self, other): return True
    def __iter__(self): return iter([7, 7])
    def __len__(self): return 2
for name in "eq lt le gt ge".split():
    setattr(Yes, f"__{name}__", lambda self, other: True)
for name in "sub add mul mod truediv rsub radd".split():
    setattr(Yes, f"__{name}__", lambda self, other: 0.0)
setattr(Yes, "__ne__", lambda self, other: False)
def f(*args): return Yes()
"""


@pytest.mark.hostile
@pytest.mark.parametrize(
    "code",
    [
        "assert f(2) == 4",
        "assert 4 == f(2)",
        "assert not f(2) != 4",
        "assert [f(2)] == [4]",
        "assert {4: f(2)} == {4: 4}",
        "assert f(2) in (4, 5)",
        "assert 4 in f(2)",
        "assert {f(2)} == {4}",
        "assert f(2) <= 4 <= f(2)",
        "assert abs(f(2) - 4) < 1e-6",
        "assert abs(4 - f(2)) < 1e-6",
        "assert f(2) - 4 == 0",
        "assert f(2) % 4 == 0",
        "assert round(f(2), 2) == 4.0",
        "import math\nassert math.isclose(f(2), 4)",
        "import numpy as np\nassert np.allclose(f(2), 4)",
        "import numpy as np\nassert (np.array(f(2)) == 4).all()",
        "assert sorted([f(2)]) == [4]",
        "assert max(f(2), 4) == 4 and f(2) == 4",
        "assert (f(2) > 3) is True",
        "assert f(2).value == 4",
        "assert f(2).get() == 4",
        "assert isinstance(f(2), int)",
        "assert type(f(2)) is int",
        "assert str(f(2)) == '4'",
        "assert f(2) is 4 or f(2) == 4",
        "with f(2) as v:\n    assert v == 4",
        "assert set([f(2)]) & {4}",
        "assert any(x == 4 for x in [f(2)])",
        "assert [4].count(f(2)) == 1",
        "assert (4,).index(f(2)) == 0",
    ],
)
def test_an_object_that_agrees_with_everything_passes_nothing(judge, code):
    assert "passed" not in outcomes(judge, YES, code, entry_point="f")


@pytest.mark.parametrize("error", ["AttributeError()", "UnicodeDecodeError('utf-8', b'', 0, 0, 'no')", "KeyError(1)"])
def test_any_builtin_exception_leaves_a_block_of_the_program(judge, error):
    code = f"v = Vec(1)\ntry:\n    with v:\n        raise {error}\nexcept Exception: pass\nassert v.y is False"
    task = CodingTask(task_id="t", prompt="p", tests=FunctionTests(code=code, entry_point="Vec"))
    [[verdict]] = judge.run([(task, [VECTOR])])
    assert verdict.accepted, verdict.message
