"""Rows that were damaged, or that nobody meant: errors name file, row and remedy, and are none of Python's own."""

import contextlib
import gzip
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.support.benchmark_rows import ROWS
from trl_pper import DatasetSource, load_tasks
from trl_pper.tasks.loading import match_task_id

NATIVE = ROWS["native"][0]


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.json"])
@pytest.mark.parametrize("value", ["9" * 5000, "[" * 5_000, '"\xff"'])
def test_json_that_python_does_not_read_is_placed(tmp_path, name, value):
    text = f'{{"task_id": {value}}}' if name == "rows.jsonl" else f"[{value}]"
    (tmp_path / name).write_bytes(text.encode("latin-1"))
    with pytest.raises(ValueError, match=rf"{name}.*: malformed JSON"):
        load_tasks(tmp_path / name)


def test_a_malformed_row_is_skipped_and_the_others_stay(tmp_path):
    lines = [json.dumps(NATIVE), '{"task_id": ' + "9" * 5000 + "}", json.dumps(NATIVE | {"task_id": "other"})]
    (tmp_path / "rows.jsonl").write_text("\r\n".join(lines), encoding="utf-8-sig")
    errors: list[str] = []
    assert [task.task_id for task in load_tasks(tmp_path / "rows.jsonl", on_error="skip", errors=errors)] == [
        "add", "other",
    ]  # fmt: skip
    assert len(errors) == 1
    assert "rows.jsonl:2: malformed JSON" in errors[0]


def test_every_cut_of_a_gzip_file_is_refused(tmp_path):
    whole = gzip.compress(json.dumps(NATIVE).encode())
    path = tmp_path / "rows.jsonl.gz"
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        with pytest.raises(ValueError, match=r"rows\.jsonl\.gz: (not a complete gzip file|holds no task)"):
            load_tasks(path)


def test_a_damaged_byte_of_a_parquet_file_is_an_error_of_ours(tmp_path):
    path = tmp_path / "rows.parquet"
    pq.write_table(pa.Table.from_pylist([NATIVE]), path, write_page_checksum=True)
    whole, refused = path.read_bytes(), []
    for at in range(0, len(whole), 5):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 16]) + whole[at + 1 :])
        # Anything but a ValueError fails here.
        with contextlib.suppress(ValueError):
            load_tasks(path)
            continue
        refused.append(at)
    assert len(refused) > 100
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match=r"rows\.parquet: must be a whole Parquet file.*Restore the file"):
        load_tasks(path)


def test_a_folder_without_rows_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="must be a file, or a folder of data files"):
        load_tasks(tmp_path)


@pytest.mark.parametrize(
    ("edition", "changes", "message"),
    [
        ("code_contests", {"time_limit": {"seconds": [1]}}, "time_limit: must hold numbers"),
        ("open_r1 checker", {"time_limit": 10**400}, "must hold numbers and lists that fit"),
        ("native", {"tests": "[" * 5_000}, "(must hold numbers and lists that fit|malformed JSON)"),
        ("live_code_bench", {"public_test_cases": [{"input": "1", "output": "2", "testtype": ["a"]}]}, "testtype of"),
        ("open_r1", {"verification_info": {"test_cases": [{"input": "", "output": "", "type": {}}]}}, "type of all"),
        ("live_code_bench calls",
         {"public_test_cases": [{"input": [1], "output": "2", "testtype": "functional"}]}, "input: must be text"),
        ("live_code_bench calls",
         {"public_test_cases": [{"input": "1", "output": [2], "testtype": "functional"}]}, "output: malformed JSON"),
    ],
)  # fmt: skip
def test_values_of_other_types_are_named(edition, changes, message):
    row = ROWS[edition][0] | changes
    if "open_r1" in edition and "verification_info" in changes:
        row["verification_info"]["test_cases"][0]["type"] = {"a": 1}
    with pytest.raises(ValueError, match=rf"row 1: .*{message}"):
        load_tasks([row], format=edition.split()[0])


def test_solutions_of_other_types_are_no_reference():
    row = ROWS["code_contests"][0] | {"solutions": {"language": 3.5, "solution": "print"}}
    assert load_tasks([row])[0].reference is None


def test_keys_of_several_types_do_not_hide_the_error():
    with pytest.raises(ValueError, match="row 1: question_content: required"):
        load_tasks([ROWS["live_code_bench"][0] | {"question_content": "", 7: None}], format="live_code_bench")


def test_an_endless_number_is_the_id_of_no_task():
    assert match_task_id("9" * 5000, {"MBPP/9"}) is None


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"source": "\ud800"}, "source: must be text without lone surrogates"),
        ({"settings": {"a": "\ud800"}}, "settings: must be text without lone surrogates"),
        ({"num_tokens": "3"}, "num_tokens: must be a whole number"),
        ({"num_tokens": 0.5, "logprob": -1}, "num_tokens: must be a whole number"),
        ({"num_tokens": 2, "logprob": "-1"}, "logprob: must be a number"),
    ],
)
def test_programs_that_no_file_can_hold_are_refused_early(row, message):
    with pytest.raises(ValueError, match=f"rows:1: {message}"):
        DatasetSource([{"task_id": "t", "completion": "c", **row}])
