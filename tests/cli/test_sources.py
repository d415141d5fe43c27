"""What a command line calls tasks: files and data sets as `load_tasks` reads them, and mixtures in a file."""

import json
from dataclasses import replace

import pytest

from trl_pper import load_tasks
from trl_pper.cli.commands import main
from trl_pper.cli.sources import read_tasks


@pytest.fixture
def folder(tmp_path, tasks):
    for name in ("one", "two"):
        rows = [replace(task, task_id=f"{name}/{task.task_id}", difficulty="easy").to_row() for task in tasks]
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return tmp_path


def mixture(folder, text: str) -> str:
    path = folder / "mix.yaml"
    path.write_text(text.replace("FOLDER", str(folder)))
    return str(path)


MIXTURE = """
size: 5
seed: 3
mixture:
  first: {tasks: FOLDER/one.jsonl, weight: 4, difficulty: easy, max_tests: 1}
  second: {tasks: FOLDER/two.jsonl}
"""


def test_a_mixture_draws_from_sources_by_weights_and_options(folder):
    mixed = read_tasks(mixture(folder, MIXTURE))
    assert sorted(task.source for task in mixed) == ["first"] * 4 + ["second"]
    assert {task.tests.code.count("assert") for task in mixed if task.source == "first"} == {1}
    assert {task.tests.code.count("assert") for task in mixed if task.source == "second"} == {3}
    assert read_tasks(mixture(folder, MIXTURE)) == mixed
    assert read_tasks(mixture(folder, MIXTURE.replace("seed: 3", "seed: 4"))) != mixed


def test_anything_else_is_what_load_tasks_reads(folder):
    path = str(folder / "one.jsonl")
    assert read_tasks(path, max_tests=2) == load_tasks(path, max_tests=2)
    assert read_tasks(path, prompts="chat")[0].prompt[0]["role"] == "user"
    assert read_tasks(mixture(folder, MIXTURE), prompts="chat")[0].prompt[0]["role"] == "user"


def test_commands_take_a_mixture(folder, capsys):
    output = folder / "mixed.jsonl"
    assert main(["export", mixture(folder, MIXTURE), "--to", "native", "--output", str(output)]) == 0
    assert load_tasks(output) == read_tasks(mixture(folder, MIXTURE))
    assert main(["export", mixture(folder, MIXTURE), "--to", "native", "--output", str(output), "--split", "x"]) == 2
    assert "split: each source of the mixture" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("- a\n", "must map names to values; got list"),
        ("mixture: {}\n", "mixture: must map at least one name"),
        ("mixture: [a, b]\n", "mixture: must map at least one name"),
        ("mixture: {a: {\n", "must be YAML"),
        ("mixture: {a: {tasks: FOLDER/one.jsonl}}\nsizes: 3\n", "sizes: no such option; a mixture has"),
        ("mixture: {a: {weight: 1}}\n", "a: tasks: a file, a folder or the id"),
        ("mixture: {a: FOLDER/one.jsonl}\n", "a: tasks: a file, a folder or the id"),
        (
            "mixture: {a: {tasks: FOLDER/one.jsonl, weights: 1}}\n",
            "a: weights: no such option; there are tasks, weight",
        ),
        ("mixture: {a: {tasks: FOLDER/one.jsonl, weight: '2'}}\n", "a: weight: must be a number above 0; got '2'"),
        ("mixture: {a: {tasks: FOLDER/one.jsonl, weight: 0}}\n", "weight"),
        ("mixture: {a: {tasks: FOLDER/one.jsonl}}\nsize: 9\n", "size: must be a whole number in 1..4"),
        ("mixture: {a: {tasks: FOLDER/one.jsonl}, b: {tasks: FOLDER/one.jsonl}}\n", "one/add-1"),
    ],
)
def test_a_malformed_mixture_is_named(folder, text, said):
    with pytest.raises(ValueError, match=said.replace("(", r"\(")):
        read_tasks(mixture(folder, text))


def test_a_missing_mixture_and_unknown_prompts_are_named(folder):
    with pytest.raises(FileNotFoundError, match=r"nowhere\.yaml: no such file"):
        read_tasks("nowhere.yaml")
    with pytest.raises(ValueError, match="prompts: must be one of auto, text, chat; got 'speech'"):
        read_tasks(str(folder / "one.jsonl"), prompts="speech")
