"""What a file may give an option: every option of `trl-pper train`, and every kind of value."""

import argparse
import json
from dataclasses import MISSING, fields
from enum import Enum
from typing import Literal

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from trl_pper.cli.launch import wanted_of_action
from trl_pper.cli.options import list_options, typed, wanted_of_hint
from trl_pper.cli.train_options import CONFIGURATIONS, train_options
from trl_pper.cli.yaml_file import read_entries

OPTIONS = [one for kind in CONFIGURATIONS for one in fields(kind) if one.init]
WANTED = {option.name: option.wanted for kind in CONFIGURATIONS for option in list_options(kind)}
#: No value of a file is of this type; Python alone can give it.
PYTHON_ONLY = {"parallelism_config"}


def entry(tmp_path, text):
    path = tmp_path / "x.yaml"
    path.write_text(f"name: {text}\n")
    return read_entries(path)["name"]


def default(one):
    value = one.default if one.default is not MISSING else one.default_factory()
    return value.value if isinstance(value, Enum) else value


def test_the_default_of_every_option_comes_back_from_a_file(tmp_path):
    defaults = {one.name: default(one) for one in OPTIONS}
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(defaults))
    found = train_options(["--config", str(tmp_path / "run.yaml")]).given
    assert found == defaults
    for name, value in defaults.items():
        # A whole number where any number may stand.
        assert type(found[name]) is type(value) or (isinstance(value, int) and isinstance(found[name], float)), name


def wrong_values(takes):
    """Return values that YAML has and an option does not take."""
    anything = "text" in takes.kinds and not takes.choices
    items = takes.items is not None and "text" in takes.items.kinds and not takes.items.choices
    yield {1: 2}
    yield [{"a": 1}]
    if not (anything or items):
        yield "certainly not"
        if "float" not in takes.kinds:
            yield 2.5
    if "bool" in takes.kinds and not anything:
        yield 1
    if takes.items is None:
        yield ["a", "b"]
    if "mapping" not in takes.kinds:
        yield {"a": 1}
    if not takes.optional:
        yield None


@pytest.mark.parametrize("name", WANTED)
def test_a_value_of_another_type_is_refused_for_every_option(tmp_path, name):
    wrong = list(wrong_values(WANTED[name]))
    assert len(wrong) > 2
    path = tmp_path / "run.yaml"
    for value in wrong:
        path.write_text(yaml.safe_dump({name: value}, default_flow_style=True))
        with pytest.raises(ValueError, match=rf"^{path}:1: {name}: must be .+; got .+"):
            typed(read_entries(path)[name], WANTED[name])


def test_some_option_is_of_each_kind():
    assert {kind for takes in WANTED.values() for kind in takes.kinds} == {"bool", "int", "float", "text", "mapping"}
    assert any(takes.items for takes in WANTED.values())
    assert any(takes.values for takes in WANTED.values())
    assert {name for name, takes in WANTED.items() if not takes.kinds and not takes.items} == PYTHON_ONLY
    assert set(WANTED) == {one.name for one in OPTIONS}
    assert len(OPTIONS) > 150


@pytest.mark.parametrize(
    ("hint", "text", "value"),
    [
        (float, "1e-4", 1e-4), (float, "'1e-4'", 1e-4), (float, "5", 5.0), (float, ".5", 0.5), (float, "-1E5", -1e5),
        (int, "-1", -1), (int, "'5'", 5), (int | None, "null", None), (int | None, "none", None),
        (int | None, "7", 7), (bool, "true", True), (bool, '"true"', True), (bool, "no", False), (bool, "Off", False),
        (bool | None, "~", None), (str, "no", "no"), (str, "1.10", "1.10"), (str, "2024-01-02", "2024-01-02"),
        (str, "007", "007"), (str | None, "none", "none"), (str | None, "null", None), (str, "''", ""),
        (list[str], "q_proj", ["q_proj"]), (list[str], "[a, 1.10, no]", ["a", "1.10", "no"]),
        (list[int], "[1, '2']", [1, 2]),
        (list[str], "[]", []), (dict, "{a: {b: 1e-6}}", {"a": {"b": 1e-6}}), (dict, '\'{"a": [1]}\'', {"a": [1]}),
        (dict[str, bool], "{a: true}", {"a": True}), (dict | str | None, "ds.json", "ds.json"),
        (str | bool, "all", "all"), (str | bool, "true", True), (str | None | Literal[False], "false", False),
        (Literal["a", "b"], "b", "b"), (str | list[str] | None, "[a, b]", ["a", "b"]), (int | str | None, "8", 8),
        (int | str | None, "most", "most"),
    ],
)  # fmt: skip
def test_what_people_write_becomes_what_they_mean(tmp_path, hint, text, value):
    found = typed(entry(tmp_path, text), wanted_of_hint(hint))
    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize(
    ("hint", "text", "said"),
    [
        (int, "2.5", "must be a whole number; got 2.5"), (int, "5.0", "must be a whole number; got 5.0"),
        (int, "true", "must be a whole number; got true"), (int, "three", "must be a whole number; got three"),
        (int, "''", "must be a whole number; got ''"), (int, "null", "must be a whole number; got null"),
        (float, "9" * 400, "must be a number; got 9"),
        (float, "fast", "must be a number; got fast"), (float, "yes", "must be a number; got yes"),
        (float | None, "[1]", "must be a number or null; got [1]"), (bool, "1", "must be true or false; got 1"),
        (bool, "maybe", "must be true or false; got maybe"), (str, "null", "must be text; got null"),
        (str, "{a: 1}", 'must be text; got {"a": 1}'), (str, "[a]", 'must be text; got ["a"]'),
        (list[int], "[1, x]", "must be a whole number; got x"),
        (list[str], "{a: 1}", "must be a list (text each); got"),
        (list[str], "null", "must be a list (text each); got null"),
        (dict, "3", "must be a mapping; got 3"), (dict, "{1: 2}", 'must be a mapping; got {"1": 2}'),
        (dict | str, "3", "must be text or a mapping; got 3"), (dict[str, bool], "{a: 3}", "must be a mapping; got"),
        (Literal["a", "b"], "c", "must be one of a, b; got c"),
    ],
)  # fmt: skip
def test_anything_else_is_refused_with_what_is_required(tmp_path, hint, text, said):
    with pytest.raises(ValueError, match=r"x\.yaml:1: name: must") as refused:
        typed(entry(tmp_path, text), wanted_of_hint(hint))
    assert said in str(refused.value)


#: PyYAML writes NEL as a line break, which it is for YAML 1.1, and reads it as a space.
TEXTS = st.text(st.characters(exclude_characters="\x85", exclude_categories=["Cs"]))


@given(st.one_of(st.integers(), st.floats(allow_nan=False, allow_infinity=False), st.booleans(), TEXTS))
def test_every_value_comes_back_as_its_own_type(tmp_path_factory, value):
    path = tmp_path_factory.getbasetemp() / "any.yaml"
    path.write_text(yaml.safe_dump({"name": value}, allow_unicode=True), encoding="utf-8")
    found = typed(read_entries(path)["name"], wanted_of_hint(type(value)))
    assert found == value
    assert type(found) is type(value)


def test_arguments_of_argparse_say_what_they_take():
    parser = argparse.ArgumentParser()
    several = parser.add_argument("--several", nargs="+", type=int)
    flag = parser.add_argument("--flag", action="store_true")
    chosen = parser.add_argument("--chosen", choices=("a", "b"))
    assert [str(wanted_of_action(one)) for one in (several, flag, chosen)] == [
        "a list (a whole number each) or null", "true or false or null", "one of a, b or null",
    ]  # fmt: skip
    assert str(wanted_of_hint(str | dict | None)) == "text or a mapping or null"


def test_a_name_that_stands_twice_is_refused_at_any_depth(tmp_path):
    path = tmp_path / "x.yaml"
    for text, said in {
        "a: 1\nb: 2\na: 3\n": f"{path}:3: a: must stand there once; line 1 has it already",
        "a:\n  b: 1\n  b: 1\n": f"{path}:3: b: must stand there once; line 2 has it already",
        "a: {b: 1, b: 2}\n": f"{path}:1: b: must stand there once; line 1 has it already",
    }.items():
        path.write_text(text)
        with pytest.raises(ValueError, match="once") as refused:
            read_entries(path)
        assert str(refused.value) == said


def test_anchors_and_merged_mappings_are_read(tmp_path):
    path = tmp_path / "x.yaml"
    path.write_text("base: &base {a: 1, b: 2}\nother:\n  <<: *base\n  b: 3\n")
    assert read_entries(path)["other"].value == {"a": 1, "b": 3}
    assert json.dumps(read_entries(path)["base"].value) == '{"a": 1, "b": 2}'
