import json
import math

import numpy as np
import pytest

from trl_pper.judge.verdict import Outcome
from trl_pper.replay.experience import COLUMNS, Experience, arrow_schema


def make(**fields):
    return Experience(**{"task_id": "t", "prompt": "p", "completion": "c", "program": "g", "pass_rate": 0.5, **fields})


def test_mean_possibility_is_the_geometric_mean_over_tokens():
    tokens = [0.9, 0.5, 0.1, 0.7]
    item = make(logprob=sum(map(math.log, tokens)), num_tokens=4)
    assert item.possibility() == pytest.approx(math.prod(tokens) ** (1 / 4))
    assert item.possibility("product") == pytest.approx(math.prod(tokens))


def test_length_makes_the_product_vanish_but_not_the_mean():
    item = make(logprob=-1000.0, num_tokens=1000)
    assert item.possibility("product") == 0.0
    assert item.possibility("mean") == pytest.approx(math.exp(-1))


def test_unknown_and_impossible_logprobs():
    assert math.isnan(make().possibility())
    assert make(logprob=-math.inf, num_tokens=3).possibility() == 0.0
    assert make(logprob=1e-6, num_tokens=1).possibility() == 1.0


def test_unknown_kind_of_possibility_is_refused():
    with pytest.raises(ValueError, match=r"^possibility:"):
        make().possibility("median")


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"pass_rate": None}, "pass_rate: .*not judged"),
        ({"pass_rate": 1.01}, "pass_rate"),
        ({"pass_rate": math.nan}, "pass_rate"),
        ({"logprob": 0.5, "num_tokens": 2}, "logprob"),
        ({"logprob": math.nan, "num_tokens": 2}, "logprob"),
        ({"logprob": -1.0}, "num_tokens"),
        ({"num_tokens": 0}, "num_tokens"),
        ({"task_id": ""}, "task_id"),
        ({"prompt": ""}, "prompt"),
        ({"completion": None}, "completion"),
        ({"program": "\ud800"}, "program: .*surrogate"),
        ({"round_index": -1}, "round_index"),
        ({"outcomes": ("great",)}, "outcomes: must be of passed, .*'great'"),
        ({"outcomes": "passed"}, "outcomes: must be a list"),
        ({"pass_rate": "all"}, "pass_rate: .*'all'"),
        ({"cpu_seconds": "1"}, "cpu_seconds: .*'1'"),
        ({"num_tokens": True}, "num_tokens: .*True"),
        ({"logprob": "low", "num_tokens": 1}, "logprob: .*'low'"),
        ({"round_index": 0.5}, "round_index: .*whole number"),
    ],
)
def test_fields_are_checked_at_the_door(fields, message):
    with pytest.raises(ValueError, match=message):
        make(**fields)


@pytest.mark.parametrize("prompt", ["text", [{"role": "user", "content": "hi"}]])
def test_rows_go_through_json_and_come_back(prompt):
    item = make(
        prompt=prompt,
        outcomes=(Outcome.PASSED, Outcome.TIMEOUT),
        logprob=np.float32(-2.5),
        num_tokens=np.int64(4),
        source="model",
        round_index=3,
    )
    row = item.to_row()
    assert list(row) == list(COLUMNS)
    assert row["outcomes"] == ["passed", "timeout"]
    assert type(row["outcomes"][0]) is str
    assert Experience.from_row(json.loads(json.dumps(row))) == item


def test_rows_need_only_prompt_completion_and_pass_rate():
    item = Experience.from_row({"prompt": "p", "completion": "c", "pass_rate": 1, "extra": 2})
    again = Experience.from_row({"prompt": "p", "completion": "d", "pass_rate": 0})
    assert item.program == "c"
    assert item.task_id == again.task_id
    assert item.task_id != Experience.from_row({"prompt": "q", "completion": "c", "pass_rate": 1}).task_id


def test_a_row_without_a_pass_rate_is_refused():
    with pytest.raises(ValueError, match=r"^pass_rate: required"):
        Experience.from_row({"prompt": "p", "completion": "c"})


def test_the_arrow_schema_holds_what_rows_hold():
    pa = pytest.importorskip("pyarrow")
    for prompt in ("text", [{"role": "user", "content": "hi"}]):
        item = make(prompt=prompt, outcomes=("passed",))
        table = pa.Table.from_pylist([item.to_row()], schema=arrow_schema(chat=isinstance(prompt, list)))
        assert table.column_names == list(COLUMNS)
        assert Experience.from_row(table.to_pylist()[0]) == item
