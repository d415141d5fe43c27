"""Instances of classes that tests and program both define cross by value, as graphs, into each side's own class."""

from __future__ import annotations

import pytest

from trl_pper import CodingTask, FunctionTests, Judge, Limits


@pytest.fixture(scope="module")
def judge():
    with Judge(workers=1, limits=Limits(cpu_seconds=0.5, memory_bytes=1 << 30)) as judge:
        yield judge


LIST = """
class ListNode:
    def __init__(self, val=0, next=None):
        self.val = val
        self.next = next

def list_node(values):
    head = None
    for val in reversed(values):
        head = ListNode(val, head)
    return head

def values_of(p):
    values = []
    while p:
        values.append(p.val)
        p = p.next
    return values

def is_same_list(p1, p2):
    return values_of(p1) == values_of(p2)
"""
REVERSE = """
class Solution:
    def reverse(self, head):
        back = None
        while head:
            head.next, back, head = back, head, head.next
        return back
"""


def outcomes(judge: Judge, program: str, code: str, setup: str = LIST, entry_point: str | None = None) -> list[str]:
    task = CodingTask(task_id="t", prompt="p", tests=FunctionTests(code=code, setup=setup, entry_point=entry_point))
    [[verdict]] = judge.run([(task, [program])])
    return [str(outcome) for outcome in verdict.outcomes]


def test_linked_lists_cross_and_come_back(judge):
    code = "def check(candidate):\n    assert is_same_list(candidate(list_node([1, 2])), list_node([2, 1]))\n"
    code += "    assert is_same_list(candidate(list_node([])), list_node([]))\n"
    code += "    assert isinstance(candidate(list_node([1])), ListNode)\ncheck(Solution().reverse)"
    assert outcomes(judge, LIST + REVERSE, code, entry_point="Solution().reverse") == ["passed"] * 3
    wrong = REVERSE.replace("return back", "return head")
    assert outcomes(judge, LIST + wrong, code, entry_point="Solution().reverse")[0] == "wrong_answer"


def test_a_list_of_five_thousand_nodes_is_no_deeper_than_one(judge):
    code = "assert values_of(Solution().reverse(list_node(list(range(5000))))) == list(range(4999, -1, -1))"
    assert outcomes(judge, LIST + REVERSE, code) == ["passed"]


def test_cycles_and_shared_references_are_kept(judge):
    program = LIST + "def tie(head):\n    head.next.next = head\n    return head\ndef twice(n): return [n, n]"
    code = "head = tie(list_node([1, 2]))\nassert head.next.next is head\n"
    code += "a, b = twice(ListNode(3))\nassert a is b\nassert a.val == 3"
    assert outcomes(judge, program, code) == ["passed"] * 3


def test_arguments_changed_in_place_keep_their_identity(judge):
    program = LIST + "def change(head):\n    head.val = 9\n    head.next = ListNode(8)\n    head.bag.append(1)"
    code = "head = list_node([1, 2])\nold = head.next\nbag = head.bag = []\nchange(head)\n"
    code += "assert head.val == 9\nassert head.next.val == 8\nassert old.val == 2\nassert bag == [1]"
    assert outcomes(judge, program, code) == ["passed"] * 4


def test_what_comes_back_is_the_object_that_went(judge):
    program = LIST + "def last(head):\n    while head.next: head = head.next\n    return head"
    code = "head = list_node([1, 2, 3])\nassert last(head) is head.next.next"
    assert outcomes(judge, program, code) == ["passed"]


def test_a_class_of_attributes_alone_need_not_be_the_programs(judge):
    code = "n = Node(1)\nassert value(n) == 1\nassert same(n) is n"
    setup = "class Node:\n    def __init__(self, value):\n        self.value = value"
    program = "def value(n): return n.value\ndef same(n): return n"
    assert outcomes(judge, program, code, setup) == ["passed", "passed"]


def test_a_class_with_methods_the_program_lacks_is_unsupported(judge):
    setup = "class Node:\n    def size(self): return 1"
    assert outcomes(judge, "def value(n): return n.size()", "assert value(Node()) == 1", setup) == ["unsupported"]


def test_slots_dataclasses_named_tuples_and_enums_cross(judge):
    setup = """
import dataclasses, enum, typing, collections
class Slotted:
    __slots__ = ("x", "y")
@dataclasses.dataclass
class Point:
    x: int
    y: int = 0
@dataclasses.dataclass(frozen=True)
class Key:
    name: str
class Colour(enum.Enum):
    RED = 1
    BLUE = 2
class Pair(typing.NamedTuple):
    left: int
    right: int
Old = collections.namedtuple("Old", "a b")
"""
    program = (
        setup
        + """
def swap(s):
    t = Slotted()
    t.x, t.y = s.y, s.x
    return t
def move(p): return Point(p.x + 1, p.y)
def count(table): return {key: n + 1 for key, n in table.items()}
def other(c): return Colour.BLUE if c is Colour.RED else Colour.RED
def flip(p): return Pair(p.right, p.left)
def old(o): return Old(o.b, o.a)
"""
    )
    code = """
s = Slotted()
s.x, s.y = 1, 2
assert swap(s).x == 2
assert move(Point(1)) == Point(2, 0)
assert count({Key("a"): 1}) == {Key("a"): 2}
assert other(Colour.RED) is Colour.BLUE
assert flip(Pair(1, 2)) == Pair(2, 1) and isinstance(flip(Pair(1, 2)), Pair)
assert old(Old(1, 2)).a == 2
"""
    assert outcomes(judge, program, code, setup) == ["passed"] * 6


def test_a_named_tuple_of_the_program_alone_keeps_its_fields(judge):
    program = "import collections\nP = collections.namedtuple('P', 'x y')\ndef make(): return P(1, 2)"
    assert outcomes(judge, program, "assert make().y == 2\nassert make() == (1, 2)", "") == ["passed", "passed"]


def test_exceptions_of_the_tests_are_caught_by_their_name(judge):
    setup = "class Empty(Exception):\n    pass"
    program = setup + "\ndef pop(v):\n    if not v: raise Empty('nothing')\n    return v[-1]"
    code = """
try:
    pop([])
    assert False
except Empty as error:
    assert str(error) == 'nothing'
assert pop([1]) == 1
"""
    assert outcomes(judge, program, code, setup) == ["passed", "passed"]
    assert outcomes(judge, program.replace("Empty('", "KeyError('"), code, setup)[0] == "runtime_error"


@pytest.mark.hostile
@pytest.mark.parametrize("hidden", ["bool", "callable", "len", "int"])
def test_an_attribute_never_hides_a_method_of_the_tests(judge, hidden):
    setup = """
class Box:
    def __init__(self, x): self.x = x
    def equals(self, other): return self.x == other.x
"""
    program = f"{setup}\ndef make(x):\n    box = Box(0)\n    box.equals = {hidden}\n    return box"
    assert outcomes(judge, program, "assert make(5).equals(Box(5))", setup) == ["wrong_answer"]


@pytest.mark.hostile
def test_methods_of_the_programs_class_do_not_come_along(judge):
    setup = "class Box:\n    def __init__(self, x): self.x = x\n    def __eq__(self, other): return self.x == other.x"
    program = """
class Box:
    def __init__(self, x): self.x = x
    def __eq__(self, other): return True
    def __setattr__(self, name, value): object.__setattr__(self, name, value)
def make(x): return Box(0)
"""
    assert outcomes(judge, program, "assert make(5) == Box(5)", setup) == ["wrong_answer"]


@pytest.mark.hostile
def test_no_constructor_property_or_setter_of_the_tests_runs(judge):
    setup = """
ran = []
class Box:
    def __init__(self): ran.append("init")
    def __setattr__(self, name, value): ran.append(name)
    @property
    def size(self): return 1
"""
    program = """
class Box: pass
def make():
    box = Box()
    box.__dict__.update(size=5, x=1, __class__=3)
    return box
"""
    code = "box = make()\nassert ran == []\nassert type(box) is Box\nassert box.size == 1\nassert box.x == 1"
    assert outcomes(judge, program, code, setup) == ["passed"] * 4


@pytest.mark.hostile
def test_subclasses_of_builtins_are_not_made_at_a_programs_word(judge):
    setup = "class Mine(list):\n    def total(self): return sum(self)"
    program = setup + "\ndef make(): return Mine([1, 2])"
    assert outcomes(judge, program, "assert make() == [1, 2]\nassert make().total() == 3", setup) == [
        "passed",
        "runtime_error",
    ]
