"""New inputs: types, ranges and rules of the known ones stay, counts are put right, and nothing depends on chance."""

import ast
import itertools
import os
import subprocess
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trl_pper.amplify.calls import NotLiteral, holds_float, read, write
from trl_pper.amplify.layout import find_layout
from trl_pper.amplify.mutate import _repaired, new_inputs, plain
from trl_pper.amplify.shape import Record, find_shape

SCALARS = (
    st.none() | st.booleans() | st.integers(-50, 50) | st.floats(-9, 9, width=16) | st.text("ab (),1", max_size=6)
)
HASHABLE = st.integers(-9, 9) | st.text("abc", max_size=3)
VALUES = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.lists(inner, max_size=3).map(tuple)
        | st.sets(HASHABLE, max_size=4)
        | st.dictionaries(HASHABLE, inner, max_size=3)
    ),
    max_leaves=8,
)


def made(inputs, most=20, key="k", margin=False):
    records = [Record(each) for each in inputs]
    return [plain(each) for each in new_inputs(records, find_shape(records, margin=margin), most=most, key=key)]


def types_at(value, place=()):
    """Return every place of a nested value, in which positions of lists count as one, with the type there."""
    found = {(place, type(value).__name__)}
    if isinstance(value, dict):
        for key, item in value.items():
            found |= types_at(key, (*place, "key")) | types_at(item, (*place, "item"))
    elif isinstance(value, list | tuple | set):
        for item in value:
            found |= types_at(item, (*place, "item"))
    return found


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(VALUES, VALUES), min_size=1, max_size=4))
def test_types_stay_at_every_place(inputs):
    for column in (0, 1):
        known = set().union(*(types_at(each[column]) for each in inputs))
        for new in made(inputs, most=4):
            assert types_at(new[column]) <= known
    texts = [write(plain(new)) for new in made(inputs, most=4)]
    assert len(set(texts)) == len(texts)
    assert not set(texts) & {write(each) for each in inputs}


@settings(max_examples=60, deadline=None)
@given(VALUES)
def test_values_come_back_from_their_literals(value):
    assert read(write(value)) == value
    assert write(read(write(value))) == write(value)
    assert holds_float(value) == ("float" in {kind for _, kind in types_at(value)})


@pytest.mark.parametrize("value", [float("inf"), float("nan"), [1j], (object(),), {1: print}, frozenset()])
def test_other_values_have_no_literal(value):
    with pytest.raises(NotLiteral, match="cannot be written as a literal"):
        write(value)


@pytest.mark.parametrize("text", ["f(3)", "[1", "{[]: 1}", "1e999", "(" * 500 + ")" * 500])
def test_other_texts_are_no_literal(text):
    with pytest.raises(NotLiteral):
        read(text)


def test_numbers_without_end_are_passed_over():
    with pytest.raises(NotLiteral, match="too many digits"):
        write(10**5000)
    with pytest.raises(NotLiteral, match="too many digits"):
        read(hex(10**5000))
    assert made([(10**400, 0.5), (0.25, 1.5)]) != []


@pytest.mark.parametrize(
    ("inputs", "rule"),
    [
        ([([1, 2, 9],), ([3, 4],), ([0, 5, 7, 8],)], lambda x: x == sorted(x)),
        ([([9, 2],), ([7, 4, 4],), ([8, 0],)], lambda x: x == sorted(x, reverse=True)),
        ([([3, 1, 2],), ([2, 9],), ([5, 7, 1, 0],)], lambda x: len(set(x)) == len(x)),
        ([([[1, 2], [3, 4]],), ([[5]],), ([[1, 2, 3], [4, 5, 6], [7, 8, 9]],)],
         lambda x: all(len(r) == len(x) for r in x)),
        ([("(())",), ("()()",), ("((()))()",)],
         lambda x: ast.literal_eval(f"[{x.replace('(', '[').replace(')', '],')}]")),
        ([("ab cd",), ("cd",), ("ef ab ab",)], lambda x: set(x.split()) <= {"ab", "cd", "ef"}),
        ([("cab",), ("abbb",), ("ccca",)], lambda x: set(x) <= set("abc") and 3 <= len(x) <= 4),
        ([("03-11-2000",), ("15-01-2012",)], lambda x: x in ("03-11-2000", "15-01-2012")),
        ([("ABC349",), ("ABC350",), ("ABC316",)], lambda x: x[:3] == "ABC" and len(x) == 6 and x[3:].isdigit()),
        ([("a|bb|c",), ("||xyz",)], lambda x: x.count("|") == 2),
        ([([1, 2, 1],), ([3, 1, 3, 4],)], lambda x: all(a != b for a, b in itertools.pairwise(x))),
        ([([[1, 3], [4, 2]],), ([[5, 6], [2, 1], [9, 3]],)], lambda x: len({n for r in x for n in r}) == 2 * len(x)),
        ([(10,), (40,), (30,), (90,)], lambda x: x % 10 == 0 and 10 <= x <= 90),
        ([(0.5,), (2.25,)], lambda x: 0.5 <= x <= 2.25 and x == round(x, 2)),
        ([({"a": 3},), ({"b": 5, "c": 9},)], lambda x: set(x) <= set("abc") and all(3 <= v <= 9 for v in x.values())),
    ],
    ids=["ascending", "descending", "distinct", "square", "brackets", "words", "letters", "parts", "start", "marks",
         "neighbours", "numbers", "tens", "decimals",
         "dictionary"],
)  # fmt: skip
def test_what_all_inputs_have_in_common_new_ones_have_too(inputs, rule):
    found = made(inputs)
    assert found or inputs[0] == ("03-11-2000",)
    assert all(rule(value) for (value,) in found)


@pytest.mark.parametrize(
    ("inputs", "rule"),
    [
        ([([1, 5, 2], 3), ([4, 4], 2), ([9, 1, 1, 7], 4)], lambda x, n: n == len(x)),
        ([([1, 5, 2], 2), ([4, 4], 1), ([9, 1, 1, 7], 3)], lambda x, n: n == len(x) - 1),
        ([([1, 5, 2], 1), ([4, 4], 2), ([9, 1, 1, 7], 3)], lambda x, n: n <= len(x)),
        ([([1, 5], [2, 2]), ([4, 4, 1], [0, 0, 9]), ([7], [3])], lambda x, y: len(x) == len(y)),
        ([(3, 9), (1, 4), (2, 7)], lambda x, y: x < y),
        ([(3, [3, 9]), (1, [4, 1]), (2, [2, 7, 3])], lambda x, y: x in y),
        ([("a", "ba"), ("cd", "acd")], lambda x, y: x in y),
        ([(2, ["ab", "cd"]), (3, ["abc"]), (1, ["a", "b"])], lambda x, y: all(len(row) == x for row in y)),
    ],
    ids=["count", "count less one", "index", "parallel", "interval", "member", "part", "width"],
)
@pytest.mark.parametrize("margin", [False, True])
def test_how_arguments_relate_stays(inputs, rule, margin):
    found = made(inputs, margin=margin)
    assert found
    assert all(rule(*each) for each in found)


def test_numbers_that_others_decide_are_put_right_inside_out():
    block = [Record((2, [5, 5])), Record((1, [7]))]
    shape = find_shape([Record((2, block)), Record((1, block[:1])), Record((3, [*block, block[0]]))])
    changed = Record((9, [Record((9, [5])), Record((9, [])), Record((0, [7, 7, 7, 7]))]))
    assert plain(_repaired(changed, shape)) == (3, [(1, [5]), (0, []), (4, [7, 7, 7, 7])])


def test_a_margin_allows_lengths_a_little_beyond_those_seen():
    inputs = [(1, "abc"), (5, "bb"), (9, "cc")]
    strict, wider = made(inputs, most=300), made(inputs, most=300, margin=True)
    assert {n for n, _ in strict} <= set(range(1, 10))
    assert {n for n, _ in wider} <= set(range(1, 10))
    assert {len(text) for _, text in strict} == {2, 3}
    assert {len(text) for _, text in wider} == {1, 2, 3, 4}


def test_zero_is_tried_where_it_was_seen():
    assert {n for (n,) in made([(-3,), (3,)])} == {-2, -1, 1, 2}
    assert 0 in {n for each in made([([-3, 0],), ([3, 1],)], most=50) for n in each[0]}
    assert 0.0 not in {n for (n,) in made([(-0.5,), (0.5,)], most=9)}


def test_one_input_without_anything_to_change_gives_none():
    assert made([()]) == []
    assert made([(None,)]) == []
    assert made([(3,)]) == []


def test_inputs_do_not_depend_on_how_a_process_hashes_text():
    code = (
        "from trl_pper.amplify.shape import Record, find_shape\nfrom trl_pper.amplify.mutate import new_inputs\n"
        "from trl_pper.amplify.calls import write\n"
        "known = [Record(({'ab', 'c', 'd'}, {'x': 'yz'})), Record(({'e', 'ab'}, {'u': 'v', 'x': 'w'}))]\n"
        "print([write(tuple(each)) for each in new_inputs(known, find_shape(known), most=20, key='k')])"
    )
    said = []
    for seed in ("1", "2"):
        environment = {**os.environ, "PYTHONHASHSEED": seed}
        run = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, check=True)
        said.append(run.stdout)
    assert said[0] == said[1]
    assert len(ast.literal_eval(said[0].decode())) > 5


LAYOUTS = {
    "one number": ["3\n", "17\n"],
    "count and list": ["3\n1 2 3\n", "2\n5 5\n", "5\n9 8 7 6 5\n"],
    "count and rows": ["2\n1 2\n3 4\n", "1\n7 9\n"],
    "tree": ["3\n1 2\n2 3\n", "4\n1 2\n1 3\n3 4\n"],
    "list before edges": ["3\n5 5 9\n1 2\n2 3\n", "4\n1 2 3 4\n1 2\n1 3\n3 4\n"],
    "second number counts": ["5 2\nab\ncd\n", "5 3\nab\nx\ny\n"],
    "rows and a last line": ["2\n1 2\n3 4\nyes\n", "1\n7 9\nno\n"],
    "blocks of two lines": ["2\n2\n1 1\n3\n4 5 6\n", "1\n4\n1 2 3 4\n"],
    "blocks of any length": ["2\n2 9\na\nb\n1 8\nc\n", "1\n3 7\nx\ny\nz\n"],
    "without a last break": ["3 4", "5 6"],
}


@pytest.mark.parametrize("name", LAYOUTS)
def test_texts_come_back_from_their_layout_and_new_ones_have_it(name):
    texts = LAYOUTS[name]
    layout = find_layout(texts)
    records = [layout.record(text) for text in texts]
    assert [layout.text(record) for record in records] == texts
    found = [layout.text(record) for record in new_inputs(records, find_shape(records), most=10, key="k")]
    assert found or name == "rows and a last line"
    again = find_layout([*texts, *found])
    assert again is not None
    assert [again.text(again.record(text)) for text in found] == found


def test_new_trees_are_trees():
    texts = ["3\n1 2\n2 3\n", "4\n1 2\n1 3\n3 4\n", "5\n2 1\n3 1\n4 3\n5 1\n"]
    layout = find_layout(texts)
    records = [layout.record(text) for text in texts]
    found = new_inputs(records, find_shape(records), most=20, key="k")
    assert found
    for nodes, edges in found:
        assert len(edges) == nodes - 1
        joined = {node: {node} for edge in edges for node in edge}
        for one, other in edges:
            assert joined[one] is not joined[other]
            joined[one] |= joined[other]
            for node in joined[other]:
                joined[node] = joined[one]
        assert all(1 <= node <= nodes for node in joined)


@pytest.mark.parametrize(
    "texts", [[], [""], ["\n"], ["1  2\n"], [" 1\n"], ["1\n\n2\n"], ["1\n", "1\n2\n3\n", "7\n8\n"]]
)
def test_texts_of_another_layout_are_left_alone(texts):
    assert find_layout(texts) is None


def test_a_list_in_whose_place_a_truth_value_came_is_no_error():
    given = ([None, [], None, []], [[], [], [None, False, False], False])
    records = [Record(given)] * 2
    # Found by hypothesis: `False` in the place of a list that has as many fields as another.
    assert isinstance(list(new_inputs(records, find_shape(records), most=4, key="k")), list)
