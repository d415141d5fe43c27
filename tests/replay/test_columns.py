"""The columns behind the buffer: any order of changes equals a naive list, and tables are checked as objects are."""

import dataclasses
import itertools
import json
import math

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.naive_replay import NaiveBuffer, make
from trl_pper.replay.arrow import FILE, from_arrow, to_arrow, write_columns
from trl_pper.replay.buffer import ReplayBuffer
from trl_pper.replay.columns import content_digest, experience_key, to_columns, to_experiences
from trl_pper.replay.experience import Experience
from trl_pper.replay.table import ExperienceTable

CHATS = [[{"role": "user", "content": "hi", "name": "x"}], [{"content": None, "role": "user"}]]
PROMPTS = ["do it", "tu é\u2028", *CHATS]
OUTCOMES = [(), ("passed",), ("passed", "timeout", "sandbox_error")]
EXPERIENCES = st.builds(
    make,
    st.integers(0, 6),
    task=st.sampled_from("ab"),
    pass_rate=st.sampled_from([0.0, 0.25, 1.0]),
    prompt=st.sampled_from(PROMPTS),
    outcomes=st.sampled_from(OUTCOMES),
    logprob=st.sampled_from([None, -1.0, -3.0, -math.inf]),
    num_tokens=st.sampled_from([1, 2]),
    source=st.sampled_from(["", "m"]),
    round_index=st.integers(0, 4),
)
BATCHES = st.lists(EXPERIENCES, max_size=6)
CHANGES = st.one_of(
    st.tuples(st.sampled_from(["add", "add table", "add buffer", "merge"]), BATCHES),
    st.tuples(st.sampled_from(["save", "state", "copy"]), st.just([])),
)


def table_of(experiences):
    return pa.Table.from_batches([to_arrow(to_columns(experiences))]) if experiences else FILE.empty_table()


def buffer_of(experiences, **settings):
    buffer = ReplayBuffer(**settings)
    buffer.add(experiences)
    return buffer


HISTORIES = (st.lists(CHANGES, max_size=12), st.sampled_from([None, 1, 4]), st.sampled_from(["p2value", "age"]))


@given(*HISTORIES)
@settings(max_examples=30, deadline=None)
def test_any_order_of_changes_equals_the_naive_twin(tmp_path_factory, changes, capacity, eviction):
    compare_with_the_twin(tmp_path_factory.getbasetemp() / "twin.parquet", changes, capacity, eviction)


@pytest.mark.slow
@given(*HISTORIES)
@settings(max_examples=200, deadline=None)
def test_many_orders_of_changes_equal_the_naive_twin(tmp_path_factory, changes, capacity, eviction):
    compare_with_the_twin(tmp_path_factory.getbasetemp() / "twin.parquet", changes, capacity, eviction)


def compare_with_the_twin(path, changes, capacity, eviction):
    buffer, twin = ReplayBuffer(capacity, eviction=eviction), NaiveBuffer(capacity, eviction)
    for kind, batch in changes:
        if kind == "add":
            assert buffer.add(iter(batch)) == twin.add(batch)
        elif kind == "add table":
            assert buffer.add(table_of(batch)) == twin.add(batch)
        elif kind == "add buffer":
            assert buffer.add(buffer_of(batch)) == twin.add(list(buffer_of(batch)))
        elif kind == "merge":
            parts = buffer_of(batch[:3]), buffer_of(batch[3:])
            assert buffer.merge(*parts) == twin.merge(*parts)
        elif kind == "save":
            buffer.save(path)
            buffer = ReplayBuffer.load(path)
        elif kind == "state":
            buffer.load_state_dict(json.loads(json.dumps(buffer.state_dict())))
        else:
            other = ReplayBuffer()
            other.assign(buffer)
            buffer = other
        buffer.check_valid()
        assert list(buffer) == twin.items
        assert buffer.digest() == buffer_of(twin.items, capacity=capacity, eviction=eviction).digest()
    order = np.random.default_rng(len(twin.items)).permutation(2 * len(twin.items)) % max(1, len(twin.items))
    assert buffer.take(order) == [twin.items[position] for position in order]
    assert buffer.pass_rates().tolist() == [item.pass_rate for item in twin.items]
    assert buffer.round_indices().tolist() == [item.round_index for item in twin.items]
    assert buffer.possibilities().tolist() == pytest.approx([one.possibility() for one in twin.items], nan_ok=True)


def test_refreshing_the_same_programs_for_ever_keeps_no_garbage():
    buffer = ReplayBuffer()
    for round_index in range(100):
        batch = [make(number, round_index=round_index) for number in range(3 if round_index % 2 else 5)]
        buffer.add(batch)
        buffer.check_valid()
        assert buffer._table._starts[-1] <= 10
    assert [one.round_index for one in buffer] == [99, 99, 99, 98, 98]


def test_a_buffer_filled_one_by_one_lies_in_few_pieces():
    buffer = ReplayBuffer()
    for number in range(300):
        buffer.add([make(number)])
    assert len(buffer._table._texts) <= 12
    assert buffer.digest() == buffer_of([make(number) for number in range(300)]).digest()


def some():
    return [
        make(
            number,
            pass_rate=number / 9,
            prompt=PROMPTS[number % 4],
            outcomes=OUTCOMES[number % 3],
            logprob=None if number % 2 else -number / 3,
            num_tokens=number + 1,
            source="é" * number,
        )
        for number in range(10)
    ]


@pytest.mark.parametrize("rows", [1, 3, 10, 64])
def test_the_digest_does_not_see_how_rows_are_dealt_to_blocks(rows):
    table = ExperienceTable()
    table.put([to_columns(some())])
    assert content_digest(table.blocks(rows)) == content_digest([to_columns(some())])
    assert content_digest(to_columns([one]) for one in some()) == content_digest([to_columns(some())])


def test_the_digest_does_not_see_what_lies_behind_a_null():
    [clean] = [to_columns([make(0, prompt=PROMPTS[2])])]
    dirty = pa.LargeStringArray.from_buffers(
        1, pa.py_buffer(np.array([0, 4], np.int64)), pa.py_buffer(b"junk"), pa.py_buffer(b"\0"), 1
    )
    assert dirty.to_pylist() == [None]
    text = clean.text.set_column(clean.text.schema.get_field_index("prompt"), "prompt", dirty)
    assert content_digest([type(clean)(text=text, numbers=clean.numbers)]) == content_digest([clean])


@pytest.mark.parametrize(
    "change",
    [
        {"task_id": "u"},
        {"prompt": "q"},
        {"prompt": [{"role": "user", "content": "do t"}]},
        {"completion": "c"},
        {"program": "g"},
        {"pass_rate": 0.75},
        {"outcomes": ("timeout",)},
        {"outcomes": ("passed", "passed")},
        {"logprob": -1.5},
        {"logprob": None},
        {"num_tokens": 3},
        {"source": "other"},
        {"round_index": 1},
        # Each moves the border between two columns or two rows, and leaves all bytes together the same.
        {"task_id": "tg", "program": "1"},
        {"completion": "c1g", "program": "1"},
    ],
)
def test_the_digest_sees_every_field(change):
    before = make(1, outcomes=("passed",), logprob=-1.0, num_tokens=2)
    after = dataclasses.replace(before, **change)
    digests = {buffer_of([make(0), one, make(2)]).digest() for one in (before, after)}
    assert len(digests) == 2


def test_the_digest_sees_a_border_between_programs():
    one, other = (
        [make(0, program=first, completion="c"), make(1, program=second, completion="c")]
        for first, second in (("ab", "c"), ("a", "bc"))
    )
    assert buffer_of(one).digest() != buffer_of(other).digest()


def test_equal_experiences_have_equal_digests():
    chats = [{"role": "user", "content": "hi"}], [{"content": "hi", "role": "user"}]
    assert len({buffer_of([make(0, prompt=chat)]).digest() for chat in chats}) == 1
    assert len({buffer_of([make(0, pass_rate=zero)]).digest() for zero in (0, 0.0, -0.0)}) == 1


def test_keys_do_not_confuse_where_the_task_ends():
    assert experience_key(b"a", b"bc") != experience_key(b"ab", b"c")
    assert experience_key(b"1", b":b") != experience_key(b"1:", b"b")
    buffer = buffer_of([make(0, task="a", program="bc"), make(0, task="ab", program="c")])
    assert len(buffer) == 2
    assert ("a", "bc") in buffer
    assert ("abc", "") not in buffer


VALUES = {
    "task_id": [None, "", "t", "u"],
    "prompt": [None, "", "p", *map(json.dumps, CHATS), "[]", '[{"role": "user"}]', '"p"', "{"],
    "completion": [None, "", "c", "d"],
    "program": [None, "", "g"],
    "pass_rate": [None, -0.1, 0.0, -0.0, 0.5, 1.0, 1.5, math.nan],
    "outcomes": [None, [], ["passed", "timeout"], ["great"], [None]],
    "logprob": [None, -1.0, 0.0005, 0.5, math.nan, -math.inf],
    "num_tokens": [None, 0, 1, 3, -2],
    "source": [None, "", "m"],
    "scorer": [None, "", "s"],
    "settings": [None, "", "{}"],
    "round_index": [None, -1, 0, 5],
    "cpu_seconds": [None, -0.5, 0.0, 0.25, math.nan, math.inf],
    "truncated": [None, False, True],
    "token_ids": [None, [], [0, 7], [-1], [None]],
    "times_drawn": [None, -1, 0, 3],
    "chat": [False, True],
}
GOOD = {**dict.fromkeys(VALUES), "prompt": "p", "completion": "c", "pass_rate": 1.0, "chat": False}
#: Good rows with up to three fields drawn: of others nearly every one would be wrong in several ways.
NEARLY_GOOD = st.lists(
    st.sampled_from(sorted(VALUES)).flatmap(lambda name: st.tuples(st.just(name), st.sampled_from(VALUES[name]))),
    max_size=3,
).map(lambda fields: {**GOOD, **dict(fields)})


def naive_row(row):
    row = dict(row)
    if row.pop("chat") and row["prompt"] is not None:
        try:
            row["prompt"] = json.loads(row["prompt"])
        except ValueError as error:
            raise ValueError(f"chat_prompt: must be chat messages as JSON; got {error}") from error
        if not isinstance(row["prompt"], list):
            raise ValueError('chat_prompt: must be a list of chat messages as JSON; got "p"')
    return Experience.from_row(row)


def read(table):
    return (one for block in from_arrow(table) for one in to_experiences(block))


def outcome_of(build):
    try:
        return list(build())
    except ValueError as error:
        return str(error)


def table_of_rows(rows):
    columns = [{**row, "prompt": None, "chat_prompt": row["prompt"]} if row["chat"] else row for row in rows]
    return pa.Table.from_pylist(columns, schema=FILE)


@given(st.lists(NEARLY_GOOD, min_size=1, max_size=5))
@settings(max_examples=100, deadline=None)
def test_rows_of_a_table_become_what_from_row_makes_of_them(rows):
    expected = outcome_of(lambda: map(naive_row, rows))
    found = outcome_of(lambda: read(table_of_rows(rows)))
    assert found == expected
    if not isinstance(found, str):
        # Equal experiences may have taken different times.
        assert [one.cpu_seconds for one in found] == [one.cpu_seconds for one in expected]


def test_every_value_of_related_fields_is_taken_as_by_from_row():
    seen = set()
    together = [("logprob", "num_tokens"), ("prompt", "chat"), ("prompt", "task_id"), ("completion", "program")]
    for one, other in [*zip(VALUES, VALUES, strict=True), *together]:
        for first, second in itertools.product(VALUES[one], VALUES[other]):
            row = {**GOOD, one: first, other: second}
            expected = outcome_of(lambda row=row: [naive_row(row)])
            assert outcome_of(lambda row=row: read(table_of_rows([row]))) == expected, row
            seen.add(expected[:12] if isinstance(expected, str) else "good")
    assert len(seen) > 8


def test_an_error_names_the_row():
    buffer = ReplayBuffer()
    rows = [one.to_row() for one in (make(0), make(1), make(2))]
    rows[2]["pass_rate"] = 2.0
    with pytest.raises(ValueError, match=r"^pass_rate: must be in \[0, 1\]; got 2\.0") as caught:
        buffer.add(pa.Table.from_pylist(rows))
    assert caught.value.__notes__ == ["row 2, counted from 0"]
    assert len(buffer) == 0


def test_a_table_may_be_of_any_types_that_fit():
    rows = [make(n, logprob=-1.5, num_tokens=3, outcomes=("passed",), pass_rate=1.0) for n in range(3)]
    table = pa.Table.from_pylist([one.to_row() for one in rows])
    for name, kind in {
        "task_id": pa.dictionary(pa.int32(), pa.string()),
        "program": pa.string_view(),
        "prompt": pa.large_string(),
        "pass_rate": pa.int8(),
        "logprob": pa.float32(),
        "num_tokens": pa.float64(),
        "outcomes": pa.large_list(pa.large_string()),
    }.items():
        index = table.schema.get_field_index(name)
        table = table.set_column(index, name, table.column(name).cast(kind))
    assert list(buffer_of(table)) == rows


def test_chat_messages_may_be_lists_of_structs():
    rows = [make(n, prompt=PROMPTS[2]) for n in range(3)]
    assert list(buffer_of(pa.Table.from_pylist([one.to_row() for one in rows]))) == rows


@pytest.mark.parametrize(
    ("name", "column"),
    [
        ("task_id", [1]),
        ("pass_rate", ["0.5"]),
        ("round_index", [0.5]),
        ("num_tokens", [math.nan]),
        ("outcomes", ["passed"]),
        ("program", [b"g"]),
    ],
)
def test_a_column_of_another_type_is_refused_by_name(name, column):
    table = pa.Table.from_pylist([make(0).to_row()], schema=FILE)
    table = table.set_column(table.schema.get_field_index(name), name, pa.array(column))
    with pytest.raises(ValueError, match=f"^{name}: must be a column of"):
        ReplayBuffer().add(table)


def test_text_that_is_not_unicode_is_refused():
    bad = pa.StringArray.from_buffers(1, pa.py_buffer(np.array([0, 1], np.int32)), pa.py_buffer(b"\xff"))
    table = pa.Table.from_pylist([make(0).to_row()], schema=FILE)
    table = table.set_column(table.schema.get_field_index("program"), "program", bad)
    with pytest.raises(ValueError, match=r"^program: must be a column of large_string; got .*UTF8"):
        ReplayBuffer().add(table)


@pytest.mark.parametrize("prompt", ["text", PROMPTS[2][:1]])
def test_a_dataset_without_optional_columns_gets_their_defaults(prompt):
    import datasets

    rows = [{"prompt": prompt, "completion": f"c{n}", "pass_rate": n / 2} for n in range(3)]
    buffer = ReplayBuffer.from_dataset(datasets.Dataset.from_list(rows))
    assert list(buffer) == [Experience.from_row(row) for row in rows]
    # Rows that were chosen, in the order in which they were.
    chosen = datasets.Dataset.from_list(rows).select([2, 0])
    assert list(ReplayBuffer.from_dataset(chosen)) == [Experience.from_row(rows[2]), Experience.from_row(rows[0])]


def test_cpu_time_is_kept_everywhere_and_changes_no_digest(tmp_path):
    times = [0.5, None, 0.0, 1.25]
    experiences = [make(number, cpu_seconds=seconds) for number, seconds in enumerate(times)]
    buffer = buffer_of(experiences)
    buffer.save(tmp_path / "buffer.parquet")
    copy = ReplayBuffer()
    copy.load_state_dict(json.loads(json.dumps(buffer.state_dict())))
    merged = ReplayBuffer()
    merged.merge(buffer)
    for one in (
        buffer, copy, merged, ReplayBuffer.load(tmp_path / "buffer.parquet"),
        ReplayBuffer.from_dataset(buffer.to_dataset()),
    ):  # fmt: skip
        assert [experience.cpu_seconds for experience in one] == times
        assert one.digest() == buffer.digest()
    # Another run measures other times of the same programs.
    other = buffer_of([make(number, cpu_seconds=9.0) for number in range(len(times))])
    assert other.digest() == buffer.digest()
    assert list(other) == list(buffer)
    # A program that comes again has the time of its last run.
    buffer.add([make(1, cpu_seconds=2.0)])
    assert [experience.cpu_seconds for experience in buffer] == [0.5, 2.0, 0.0, 1.25]


def test_a_file_of_several_row_groups_is_read_in_order(tmp_path):
    table = ExperienceTable()
    table.put([to_columns(some())])
    metadata = {"version": 2, "settings": ReplayBuffer().settings(), "tokenizer": None}
    write_columns(tmp_path / "buffer.parquet", table.blocks(3), metadata=metadata)
    assert pq.ParquetFile(tmp_path / "buffer.parquet").num_row_groups == 4
    assert list(ReplayBuffer.load(tmp_path / "buffer.parquet")) == some()


def test_a_wrong_row_of_a_later_row_group_is_named(tmp_path):
    rows = [{**one.to_row(), "prompt": "p", "chat_prompt": None} for one in some()]
    rows[7]["completion"] = None
    buffer_of(some()).save(tmp_path / "buffer.parquet")
    schema = pq.read_schema(tmp_path / "buffer.parquet")
    pq.write_table(pa.Table.from_pylist(rows, schema=schema), tmp_path / "buffer.parquet", row_group_size=4)
    with pytest.raises(ValueError, match=r"buffer\.parquet: completion: required.*\(row 7, counted from 0"):
        ReplayBuffer.load(tmp_path / "buffer.parquet")


def test_a_damaged_file_is_told_from_one_of_another_kind(tmp_path):
    path = tmp_path / "buffer.parquet"
    buffer_of(some()).save(path)
    whole = path.read_bytes()
    column = pq.ParquetFile(path).metadata.row_group(0).column(FILE.get_field_index("program"))
    last = column.data_page_offset + column.total_compressed_size - 1
    path.write_bytes(whole[:last] + bytes([whole[last] ^ 1]) + whole[last + 1 :])
    with pytest.raises(ValueError, match="damaged in row group 0"):
        ReplayBuffer.load(path)
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match="must be a Parquet file"):
        ReplayBuffer.load(path)


@pytest.mark.parametrize("change", [{"tokenizer": ""}, {"settings": 3}, {"version": 1}])
def test_a_file_with_metadata_that_is_not_ours_is_refused(tmp_path, change):
    metadata = {"version": 2, "settings": ReplayBuffer().settings(), "tokenizer": None, **change}
    write_columns(tmp_path / "buffer.parquet", [to_columns(some())], metadata=metadata)
    with pytest.raises(ValueError, match=next(iter(change))):
        ReplayBuffer.load(tmp_path / "buffer.parquet")
