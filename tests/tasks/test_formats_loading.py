"""Where tasks come from, which are chosen, how many of their tests, and what becomes of malformed rows."""

import io
import json
import logging

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.support.benchmark_rows import ROWS
from tests.support.loopback_hub import Client, LoopbackHub, Repository
from trl_pper import Judge, load_tasks
from trl_pper.files import read_rows
from trl_pper.tasks.tests import count_tests, first_tests


def apps(number: int, **changes):
    return {**ROWS["apps"][0], "problem_id": number, **changes}


def write(path, rows):
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    return path


LEVELS = [apps(1), apps(2, difficulty="introductory"), apps(3, difficulty="competition"), apps(4, difficulty=None)]


@pytest.mark.parametrize(
    ("difficulty", "expected"),
    [("interview", ["APPS/1"]), (["competition", "introductory"], ["APPS/2", "APPS/3"]), (("interview",), ["APPS/1"])],
)
def test_tasks_are_chosen_by_difficulty(difficulty, expected):
    assert [task.task_id for task in load_tasks(LEVELS, difficulty=difficulty)] == expected


def test_an_unknown_difficulty_names_those_there_are():
    message = "difficulty: must be of interview, introductory, competition; got 'hard'"
    with pytest.raises(ValueError, match=message):
        load_tasks(LEVELS, difficulty=["interview", "hard"])
    with pytest.raises(ValueError, match="no task states any; got 'hard'"):
        load_tasks(LEVELS[3:], difficulty="hard")
    with pytest.raises(ValueError, match="got none"):
        load_tasks(LEVELS, difficulty=[])


@pytest.mark.parametrize("edition", sorted(ROWS))
def test_all_tests_are_kept_unless_asked_and_then_the_first(edition, caplog):
    row, tests, right, wrong = ROWS[edition]
    [whole] = load_tasks([row])
    assert caplog.records == []
    [same] = load_tasks([row], max_tests=tests)
    [one] = load_tasks([row], max_tests=1)
    assert same == whole
    assert [record.getMessage() for record in caplog.records] == [
        f"source: max_tests={tests} drops 0 tests of 0 of the 1 tasks",
        f"source: max_tests=1 drops {tests - 1} tests of 1 of the 1 tasks",
    ]
    with Judge(workers=1) as judge:
        everything, first = (
            [verdict.outcomes for verdict in judge.run([(task, [right, wrong])])[0]] for task in (whole, one)
        )
    assert first == [outcomes[:1] for outcomes in everything]


@pytest.mark.parametrize(
    "code",
    [
        "assert f(1)\nassert f(2)\nassert f(3)",
        "x = 1\nassert f(x); assert f(2)\nif f(3):\n    assert f(4)\ny = 2",
        "def check(c):\n    assert c(1)\n    for i in range(3):\n        assert c(i)\ncheck(f)\nassert f(9)",
        "def check(c):\n    assert c(1)\n    assert c(2)\ncheck(f)",
        "def unused():\n    assert f(0)\nassert f(1)\nassert f(2)",
        "import pytest\nwith pytest.raises(ValueError):\n    f(1)\nassert f(2)",
    ],
)
def test_the_first_tests_of_code_are_as_many_as_the_judge_counts(code):
    total = count_tests(code)
    assert total >= 2
    assert first_tests(code, total) == first_tests(code, 99) == (code, total)
    for most in range(total):
        cut, counted = first_tests(code, most)
        assert (count_tests(cut), counted) == (most, total)


@pytest.mark.parametrize("most", [0, -1, True, 1.5])
def test_max_tests_is_at_least_one(most):
    with pytest.raises(ValueError, match="max_tests: must be a whole number of at least 1"):
        load_tasks(LEVELS, max_tests=most)


def test_malformed_rows_are_left_out_on_request_and_listed(tmp_path, caplog):
    path = write(
        tmp_path / "a.jsonl",
        [apps(1), "{", apps(2, input_output=""), apps(1), apps(3, question=None), apps(4), "[1]"],
    )
    with pytest.raises(ValueError, match=r"a\.jsonl:2: malformed JSON"):
        load_tasks(path)
    errors = ["kept"]
    tasks = load_tasks(path, on_error="skip", errors=errors)
    assert [task.task_id for task in tasks] == ["APPS/1", "APPS/4"]
    assert [error.removeprefix(f"{path}:")[:16] for error in errors[1:]] == [
        "2: malformed JSO", "3: input_output:", "4: task_id: 'APP", "5: description: ", "7: must be a JSO",
    ]  # fmt: skip
    [record] = caplog.records
    assert record.levelno == logging.WARNING
    assert record.getMessage().startswith(
        f"{path}: 5 malformed rows left out: {errors[1]}; {errors[2]}; {errors[3]}; ..."
    )
    assert load_tasks(tmp_path / "a.jsonl", format="apps", on_error="skip") == tasks


def test_what_is_not_about_a_row_is_never_left_out(tmp_path):
    with pytest.raises(ValueError, match="on_error: must be raise or skip; got 'ignore'"):
        load_tasks(LEVELS, on_error="ignore")
    with pytest.raises(ValueError, match=r"a\.jsonl: holds no task but 2 malformed rows"):
        load_tasks(write(tmp_path / "a.jsonl", [apps(1, input_output=""), "x"]), on_error="skip")
    with pytest.raises(ValueError, match="row 1: format not recognised"):
        load_tasks([{"a": 1}, apps(1)], on_error="skip")
    with pytest.raises(FileNotFoundError):
        load_tasks(tmp_path / "none.jsonl", on_error="skip")
    (tmp_path / "b.json").write_text(json.dumps([apps(1), 3]))
    assert len(load_tasks(tmp_path / "b.json", on_error="skip")) == 1


def test_columns_that_fit_two_formats_are_told_apart_by_the_user():
    row = {**ROWS["apps"][0], "tests": [{"input": "1", "output": "1"}], "description": "Add.", "name": "a"}
    with pytest.raises(
        ValueError, match=r"row 1: .* fit the formats apps and code_contests: name one of them as format"
    ):
        load_tasks([row])
    assert load_tasks([row], format="apps")[0].task_id == "APPS/7"
    assert load_tasks([row], format="code_contests")[0].task_id == "a"


def test_a_folder_of_apps_problems_is_read_in_order(tmp_path):
    for split, number in [("train", "0002"), ("train", "0001"), ("test", "0003")]:
        folder = tmp_path / split / number
        folder.mkdir(parents=True)
        (folder / "question.txt").write_text(f"Question {number}?")
        (folder / "input_output.json").write_text(ROWS["apps"][0]["input_output"])
        (folder / "metadata.json").write_text('{"difficulty": "interview", "url": "u", "question": "not this"}')
    tasks = load_tasks(tmp_path, split="train")
    assert tasks == load_tasks(tmp_path / "train", format="apps") == load_tasks(str(tmp_path / "train"))
    assert [(task.task_id, task.difficulty, task.reference) for task in tasks] == [
        ("APPS/1", "interview", None),
        ("APPS/2", "interview", None),
    ]
    assert "Question 0001?" in tasks[0].prompt
    assert len(load_tasks(tmp_path)) == 3
    (tmp_path / "train" / "0002" / "input_output.json").unlink()
    with pytest.raises(ValueError, match=r"0002: input_output: required"):
        load_tasks(tmp_path)


def table(edition, **changes):
    return pa.Table.from_pylist([{**ROWS[edition][0], **changes}])


def test_a_folder_of_data_files_is_read_by_split(tmp_path, monkeypatch):
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    data = tmp_path / "mine" / "data"
    data.mkdir(parents=True)
    pq.write_table(table("code_contests"), data / "train-00000-of-00001.parquet")
    assert load_tasks(tmp_path / "mine") == load_tasks([ROWS["code_contests"][0]])
    pq.write_table(table("code_contests", name="other"), data / "test-00000-of-00001.parquet")
    [task] = load_tasks(tmp_path / "mine", split="test")
    assert task.task_id == "other"
    with pytest.raises(ValueError, match="split: must be one of train, test; got None"):
        load_tasks(tmp_path / "mine")


def test_several_splits_in_memory_need_a_name():
    datasets = pytest.importorskip("datasets")
    splits = datasets.DatasetDict(
        {name: datasets.Dataset.from_list([apps(n)]) for n, name in enumerate(("train", "test"))}
    )
    assert [task.task_id for task in load_tasks(splits, split="test")] == ["APPS/1"]
    with pytest.raises(ValueError, match="source: split: must be one of train, test; got None"):
        load_tasks(splits)
    with pytest.raises(ValueError, match="source: split: only a data set with splits has one; got 'test'"):
        load_tasks(splits["test"], split="test")


def test_a_file_has_no_split_and_no_subset(tmp_path):
    path = write(tmp_path / "a.jsonl", [apps(1)])
    for option in ("split", "subset"):
        with pytest.raises(ValueError, match=rf"a\.jsonl: {option}: only a data set with splits has one; got 'x'"):
            load_tasks(path, **{option: "x"})


LOAD = """
from trl_pper import load_tasks
result = [task.to_row() for task in load_tasks(argument.pop("source"), **argument)]
"""


@pytest.fixture(scope="module")
def connection(tmp_path_factory):
    with LoopbackHub() as hub:
        client = Client(hub, tmp_path_factory.mktemp("home"))
        yield hub, client
        client.close()


def parquet(edition, **changes) -> bytes:
    buffer = io.BytesIO()
    pq.write_table(table(edition, **changes), buffer)
    return buffer.getvalue()


@pytest.mark.slow
@pytest.mark.parametrize("split", ["test", None])
def test_a_data_set_of_the_hub_is_read_by_its_id(connection, split):
    hub, client = connection
    files = {"data/test-00000-of-00001.parquet": parquet("humaneval")}
    hub.repositories["datasets", "me/humaneval"] = Repository(private=True, commits=[files])
    tasks = client.run(LOAD, {"source": "me/humaneval", "split": split})
    assert tasks == [task.to_row() for task in load_tasks([ROWS["humaneval"][0]])]


@pytest.mark.slow
def test_a_data_set_script_is_read_from_its_subsets_parquet(connection):
    hub, client = connection
    export = {
        f"{subset}/{split}/0000.parquet": parquet("apps", problem_id=number)
        for number, (subset, split) in enumerate([("all", "train"), ("all", "test"), ("hard", "train")])
    }
    hub.repositories["datasets", "me/apps"] = Repository(
        private=True, commits=[export, {"apps.py": b"", "README.md": b""}], branches={"refs/convert/parquet": 0}
    )
    tasks = client.run(LOAD, {"source": "me/apps", "subset": "all", "split": "test"})
    assert [task["task_id"] for task in tasks] == ["APPS/1"]
    tasks = client.run(LOAD, {"source": "me/apps", "subset": "hard"})
    assert [task["task_id"] for task in tasks] == ["APPS/2"]
    refused = client.run(LOAD, {"source": "me/apps", "split": "test"})
    assert refused["error"].startswith("ValueError: me/apps: subset: required, as the data set is a script")
    missing = client.run(LOAD, {"source": "me/nothing"})
    assert missing["error"].startswith("DatasetNotFoundError: ")


def test_rows_keep_their_numbers_when_others_are_left_out(tmp_path):
    path = write(tmp_path / "a.jsonl", ["{}", "x", "", '{"a": 1}'])
    bad = []
    assert list(read_rows(path, bad.append)) == [(1, {}), (4, {"a": 1})]
    assert [str(error).startswith(f"{path}:2: malformed JSON") for error in bad] == [True]
