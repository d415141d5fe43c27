"""Saved buffers that were damaged: what is read is what was saved, or an error that names file and remedy."""

import json
import random

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from trl_pper.replay.buffer import ReplayBuffer
from trl_pper.replay.experience import Experience


def filled() -> ReplayBuffer:
    buffer = ReplayBuffer(50, seed=3, tokenizer="tok")
    buffer.add(
        Experience(
            task_id=f"t{one % 3}", prompt="p", completion=f"c{one}", program=f"x = {one}", pass_rate=one / 9,
            outcomes=("passed",), cpu_seconds=one / 7, logprob=-one / 3, num_tokens=one + 1,
        )
        for one in range(9)
    )  # fmt: skip
    return buffer


@pytest.fixture
def path(tmp_path):
    filled().save(tmp_path / "buffer.parquet")
    return tmp_path / "buffer.parquet"


def test_flipped_bits_are_refused_or_change_nothing(path):
    whole, before = path.read_bytes(), filled()
    rows, refused, unnamed = [(one.to_row(), one.cpu_seconds) for one in before], 0, 0
    rng = random.Random(1)
    for _ in range(400):
        flipped = bytearray(whole)
        flipped[rng.randrange(len(whole))] ^= 1 << rng.randrange(8)
        path.write_bytes(flipped)
        try:
            found = ReplayBuffer.load(path)
        except ValueError as error:
            refused += str(path) in str(error)
            unnamed += str(path) not in str(error)
        else:
            assert [(one.to_row(), one.cpu_seconds) for one in found] == rows
            assert (found.settings(), found.tokenizer) == (before.settings(), before.tokenizer)
    assert refused > 200
    assert unnamed == 0


@pytest.mark.parametrize("column", ["outcomes", "logprob", "source", "chat_prompt"])
def test_a_column_that_is_missing_does_not_read_as_empty(path, column):
    pq.write_table(pq.read_table(path).drop_columns([column]), path)
    with pytest.raises(ValueError, match=rf"buffer\.parquet: must have the columns of a buffer; {column} is missing"):
        ReplayBuffer.load(path)


def test_a_prompt_of_a_file_that_is_nested_too_deep_is_named(path):
    table = pq.read_table(path)
    place = table.column_names.index("chat_prompt")
    deep = pa.array(["[" * 100_000] * len(table), table.schema.field(place).type)
    pq.write_table(table.set_column(place, table.schema.field(place), deep), path)
    with pytest.raises(ValueError, match=r"chat_prompt: must be chat messages as JSON"):
        ReplayBuffer.load(path)


def with_metadata(path, text: bytes) -> None:
    pq.write_table(pq.read_table(path).replace_schema_metadata({b"trl_pper": text}), path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda data: data.update(tokenizer="other"), "differs from the buffer that was saved"),
        (lambda data: data["settings"].update(seed=4), "differs from the buffer that was saved"),
        (lambda data: data["settings"].update(capacity="many"), "capacity: must be a whole number"),
        (lambda data: data["settings"].update(seed=0.5), "seed: must be a whole number"),
        (lambda data: data["settings"].update(possibility_weight="half"), "possibility_weight: must be a number"),
        (
            lambda data: data["settings"].update(priority_exponent=10**400),
            "priority_exponent: must be a number",
        ),
        (lambda data: data["settings"].update(priority=[1]), "priority: must be a name or a function"),
        (lambda data: data.update(tokenizer=7), "tokenizer: must be a name or None"),
        (lambda data: data.pop("settings"), r"settings: missing or malformed"),
        (lambda data: data.update(version=[4]), "must be a buffer of version 6"),
    ],
)
def test_other_settings_in_a_file_are_named(path, change, message):
    metadata = json.loads(pq.read_schema(path).metadata[b"trl_pper"])
    change(metadata)
    with_metadata(path, json.dumps(metadata).encode())
    with pytest.raises(ValueError, match=rf"buffer\.parquet.*{message}"):
        ReplayBuffer.load(path)


@pytest.mark.parametrize("text", [b"{", b"\xff", b"[]", b"7", b"[" * 5_000])
def test_settings_that_are_no_json_object_are_named(path, text):
    with_metadata(path, text)
    with pytest.raises(ValueError, match=r"buffer\.parquet: must have .*Restore the file"):
        ReplayBuffer.load(path)


def test_a_changed_row_is_noticed(path):
    table = pq.read_table(path)
    table = table.set_column(table.column_names.index("cpu_seconds"), "cpu_seconds", pa.array([1.0] * len(table)))
    pq.write_table(table, path)
    with pytest.raises(ValueError, match=r"differs from the buffer that was saved.*from_dataset"):
        ReplayBuffer.load(path)


def test_messages_of_a_wrong_shape_beside_a_chat_prompt(path):
    table = pq.read_table(path)
    for name, value in (("prompt", [[]]), ("chat_prompt", '[{"role": "user", "content": "x"}]')):
        table = table.set_column(table.column_names.index(name), name, pa.array([value] * len(table)))
    pq.write_table(table, path)
    with pytest.raises(ValueError, match=r"buffer\.parquet: prompt: chat messages need .*\(row 0"):
        ReplayBuffer.load(path)


def test_a_file_without_a_checksum_is_read(path):
    metadata = json.loads(pq.read_schema(path).metadata[b"trl_pper"])
    del metadata["checksum"]
    with_metadata(path, json.dumps(metadata).encode())
    assert ReplayBuffer.load(path).digest() == filled().digest()


def test_a_folder_in_the_place_of_a_file_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"must be a Parquet file written by ReplayBuffer\.save"):
        ReplayBuffer.load(tmp_path)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"prompt": "\ud800", "completion": "c", "pass_rate": 1}, r"experiences\[1\]: prompt: .*lone surrogates"),
        (5, r"experiences\[1\]: must be a mapping"),
        ({"prompt": "p"}, r"experiences\[1\]: completion: required"),
        ({"prompt": "p", "completion": "c", "pass_rate": "1"}, r"experiences\[1\]: pass_rate: must be in"),
        ({"prompt": "p", "completion": "c", "pass_rate": 1, "outcomes": 3}, r"experiences\[1\]: outcomes: must be a"),
    ],
)
def test_a_row_of_a_state_is_named_by_its_number(row, message):
    buffer = filled()
    state = buffer.state_dict()
    state["experiences"][1] = row
    before = buffer.digest()
    with pytest.raises(ValueError, match=message):
        buffer.load_state_dict(state)
    assert buffer.digest() == before
