"""Programs from a file: what is read, what is refused, what stays unknown."""

import dataclasses
import json

import pytest

from trl_pper import CodingTask, DatasetSource, FunctionTests
from trl_pper.generation.source import ProgramSource


def test_a_file_of_programs_is_dealt_out_to_its_tasks(tmp_path, tasks):
    file = tmp_path / "programs.jsonl"
    rows = [
        {"task_id": "add-2", "completion": "a"},
        {"task_id": "add-1", "completions": ["b", "c"]},
        {"task_id": "add-2", "program": "d", "logprob": -1.5, "num_tokens": 3},
        {"task_id": "unknown", "completion": "e"},
    ]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    source = DatasetSource(file)
    assert isinstance(source, ProgramSource)
    assert len(source) == 5
    found = list(source.generate(tasks))
    assert [[one.completion for one in programs] for programs in found] == [["b", "c"], ["a", "d"], [], []]
    assert (found[1][0].logprob, found[1][1].logprob, found[1][1].num_tokens) == (None, -1.5, 3)
    assert found[0][0].source == "programs.jsonl"


def test_mbpp_ids_find_their_task():
    task = CodingTask(task_id="MBPP/2", prompt="p", tests=FunctionTests(code="assert f(1)"))
    ((program,),) = DatasetSource([{"task_id": 2, "completion": "x"}]).generate([task])
    assert program.completion == "x"


@pytest.mark.parametrize(
    ("row", "named"),
    [
        ({"completion": "x"}, "rows:1: task_id"),
        ({"task_id": "a"}, "rows:1: completion"),
        ({"task_id": "a", "completion": 3}, "rows:1: completion"),
        ({"task_id": "a", "completion": "x", "logprob": -1.0}, "rows:1: logprob"),
        ({"task_id": "a", "completions": ["x", "y"], "logprob": -1.0, "num_tokens": 2}, "rows:1: logprob"),
    ],
)
def test_bad_rows_are_named(row, named):
    with pytest.raises(ValueError, match=named):
        DatasetSource([row])


def test_completions_written_earlier_are_not_cut_at_stops(tasks):
    rows = [{"task_id": "add-1", "completion": "Sure:\ndef f(x): ...", "logprob": -3.0, "num_tokens": 6}]
    ((one,),) = DatasetSource(rows).generate([dataclasses.replace(tasks[0], stop=("\ndef ",))])
    assert (one.completion, one.logprob, one.num_tokens) == (rows[0]["completion"], -3.0, 6)


def test_programs_of_other_tasks_are_left_out_or_refused_alone(tasks, caplog):
    rows = [{"task_id": "add-1", "completion": "a"}, {"task_id": "sub-1", "completions": ["b", "c"]}]
    with caplog.at_level("WARNING", logger="trl_pper"):
        DatasetSource(rows, name="file").check(tasks)
    assert (
        "file: left out 2 programs for 1 task ids that belong to none of the 4 tasks; the first is 'sub-1'"
        in caplog.text
    )
    with pytest.raises(
        ValueError, match=r"^file: task_id: must name one of the 4 tasks, such as 'add-1'; none of the 2"
    ):
        DatasetSource(rows[1:], name="file").check(tasks)
    caplog.clear()
    DatasetSource(rows[:1]).check(tasks)
    DatasetSource([]).check(tasks)
    assert not caplog.text
