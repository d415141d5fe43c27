"""The rows of exports: which completions they hold, in which form, and what is refused."""

import dataclasses
import json

import datasets
import pytest

from trl_pper import CodingTask, FunctionTests, label_weights, load_tasks
from trl_pper.replay.buffer import ReplayBuffer
from trl_pper.replay.experience import Experience, repair_id
from trl_pper.tasks.loading import write_tasks
from trl_pper.tasks.task import StdioCase, StdioTests

CHAT = [{"role": "user", "content": "hi"}]
EXPORTS = [
    ReplayBuffer.to_sft, ReplayBuffer.to_preferences, ReplayBuffer.to_unpaired, ReplayBuffer.to_reward_model
]  # fmt: skip


def filled(rates, prompt="p"):
    buffer = ReplayBuffer()
    buffer.add(
        Experience(task_id=task, prompt=prompt, completion=name, program=name, pass_rate=rate)
        for task, name, rate in rates
    )
    return buffer


MIXED = [("a", "a1", 0.5), ("a", "a2", 1.0), ("a", "a3", 0.0), ("a", "a4", 1.0), ("b", "b1", 0.5), ("c", "c1", 0.0)]


def test_sft_keeps_what_passes_enough():
    assert filled(MIXED).to_sft().to_list() == [{"prompt": "p", "completion": name} for name in ("a2", "a4")]
    assert filled(MIXED).to_sft(min_pass_rate=0.5)["completion"] == ["a1", "a2", "a4", "b1"]
    assert len(filled(MIXED).to_sft(0.0)) == 6


def test_preferences_are_pairs_of_one_task():
    assert filled(MIXED).to_preferences().to_list() == [{"prompt": "p", "chosen": "a2", "rejected": "a1"}]


def test_rows_for_a_reward_model_have_the_gap_as_margin():
    rows = filled([*MIXED, ("b", "b2", 0.25)]).to_reward_model(min_gap=0.25).to_list()
    assert rows == [
        {"prompt": "p", "chosen": "a1", "rejected": "a3", "margin": 0.5},
        {"prompt": "p", "chosen": "b1", "rejected": "b2", "margin": 0.25},
    ]
    assert filled(MIXED).to_reward_model(min_gap=1.0)["margin"] == [1.0]


def test_unpaired_labels_every_completion():
    rows = filled(MIXED).to_unpaired().to_list()
    labels = {row["completion"]: row["label"] for row in rows}
    assert labels == {name: rate == 1.0 for _, name, rate in MIXED}
    assert len(rows) == len(MIXED)
    half = filled(MIXED).to_unpaired(0.5).to_list()
    assert {row["completion"] for row in half if row["label"]} == {"a1", "a2", "a4", "b1"}


def test_unpaired_rows_of_a_prompt_lie_apart():
    """`KTOTrainer` takes batches in the order of the rows, and measures the KL on prompts with the row before."""
    buffer = ReplayBuffer()
    # Of three tasks more programs than of the others, all of a task together, as they are collected.
    buffer.add(
        Experience(task_id=f"t{task}", prompt=f"p{task}", completion=f"{number}", program=f"{number}", pass_rate=rate)
        for task in range(20)
        for number, rate in enumerate([1.0, 0.0, 0.5, 0.0] * (1 + 2 * (task < 3)))
    )
    rows = buffer.to_unpaired()
    prompts = rows["prompt"][:]
    assert sorted(zip(prompts, rows["completion"], strict=True)) == sorted(
        (one.prompt, one.completion) for one in buffer
    )
    batches = [prompts[first : first + 4] for first in range(0, len(prompts), 4)]
    assert sum(len(set(batch)) < len(batch) for batch in batches) <= 2
    # Neither do all of a prompt's desirable completions come first.
    assert len({tuple(label for row, label in zip(prompts, rows["label"], strict=True) if row == f"p{task}")
                for task in range(3, 20)}) > 1  # fmt: skip
    assert buffer.to_unpaired(seed=0).to_list() == rows.to_list() != buffer.to_unpaired(seed=1).to_list()
    with pytest.raises(ValueError, match=r"^seed: must be a whole number of at least 0; got -1"):
        buffer.to_unpaired(seed=-1)


@pytest.mark.parametrize(
    ("desirable", "undesirable"), [(1, 1), (1, 9), (9, 1), (100, 99), (99, 100), (3, 4), (7, 1000)]
)
def test_weights_of_labels_are_in_the_range_of_the_paper(desirable, undesirable):
    weights = label_weights([True] * desirable + [False] * undesirable)
    ratio = weights["desirable_weight"] * desirable / (weights["undesirable_weight"] * undesirable)
    assert 1 <= ratio <= 4 / 3
    assert 1.0 in weights.values()


@pytest.mark.parametrize("labels", [[], [True], [False, False]])
def test_weights_need_both_labels(labels):
    with pytest.raises(ValueError, match=rf"^labels: .* {sum(labels)} desirable and {len(labels) - sum(labels)} und"):
        label_weights(labels)


@pytest.mark.parametrize("export", EXPORTS)
def test_truncated_programs_are_left_out(export):
    buffer = filled(MIXED)
    expected = export(buffer).to_list()
    buffer.add(
        Experience(task_id=task, prompt="p", completion="a", program="cut", pass_rate=rate, truncated=True)
        for task, rate in (("a", 1.0), ("c", 1.0))
    )
    assert export(buffer).to_list() == expected


def test_repairs_are_learned_and_labelled_but_in_no_pair():
    repair = repair_id("a", "a1")
    buffer = filled([*MIXED, (repair, "r1", 1.0), (repair, "r2", 0.0)])
    assert "r1" in buffer.to_sft()["completion"]
    assert "r1" in buffer.to_unpaired()["completion"]
    for rows in (buffer.to_preferences(pairs_per_task=9), buffer.to_reward_model(pairs_per_task=9)):
        assert not {"r1", "r2"} & {*rows["chosen"], *rows["rejected"]}


def test_chat_prompts_are_answered_by_messages():
    buffer = filled(MIXED, CHAT)
    answer = [{"role": "assistant", "content": "a2"}]
    assert buffer.to_sft()[0] == {"prompt": CHAT, "completion": answer}
    assert buffer.to_preferences()[0]["chosen"] == answer
    assert buffer.to_reward_model(min_gap=1.0)[0]["chosen"] == answer
    assert answer in buffer.to_unpaired()["completion"]


@pytest.mark.parametrize("export", EXPORTS)
def test_nothing_to_export_is_an_error_with_a_remedy(export):
    with pytest.raises(ValueError, match=r"^nothing to export: "):
        export(ReplayBuffer())
    cut = ReplayBuffer()
    cut.add([Experience(task_id="a", prompt="p", completion="a", program="a", pass_rate=1.0, truncated=True)])
    with pytest.raises(ValueError, match=r"^nothing to export: "):
        export(cut)


def test_too_high_a_bound_counts_programs_with_a_remedy():
    with pytest.raises(ValueError, match=r"none of the 2 whole programs reaches .* 1.0; lower min_pass_rate"):
        filled([("a", "a1", 0.5), ("b", "b1", 0.0)]).to_sft()


@pytest.mark.parametrize("export", EXPORTS)
@pytest.mark.parametrize("bound", [1.5, -0.1, float("nan"), "1", True, None])
def test_bounds_out_of_range_are_refused(export, bound):
    with pytest.raises(ValueError, match=r"^min_pass_rate: must be in \[0, 1\]; got"):
        export(filled(MIXED), min_pass_rate=bound)


@pytest.mark.parametrize("export", EXPORTS)
def test_text_and_messages_in_one_buffer_are_counted(export):
    buffer = filled(MIXED)
    buffer.add(filled([("d", "d1", 1.0), ("d", "d2", 0.0)], CHAT))
    with pytest.raises(ValueError, match=r"^prompt: .* got \d rows with text and \d with chat messages. Collect"):
        export(buffer)


ASKED = [
    CodingTask(
        task_id=name,
        prompt="the task's own wording",
        tests=FunctionTests(entry_point="f", code="assert f() == 1", setup="import math"),
        source="mbpp" if name == "a" else None,
        reference="def f(): return 1",
        preamble="import os",
        cpu_seconds=2.0,
    )
    for name in "abcd"
]


def test_the_layout_of_verl_has_a_row_for_each_prompt(tmp_path):
    other = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "ho"}]
    buffer = filled(MIXED, CHAT)
    buffer.add(filled([("a", "a5", 0.0)], other))
    buffer.add([Experience(task_id="a", prompt=other, completion="a", program="a", pass_rate=1.0, truncated=True)])
    buffer.to_verl(ASKED).to_parquet(tmp_path / "rl.parquet")
    # As verl's RLHFDataset reads it.
    rows = datasets.load_dataset("parquet", data_files=str(tmp_path / "rl.parquet"), cache_dir=tmp_path)["train"]
    assert [row["prompt"] for row in rows] == [CHAT, CHAT, CHAT, other]
    assert [row["data_source"] for row in rows] == ["mbpp", "trl_pper", "trl_pper", "mbpp"]
    assert {row["ability"] for row in rows} == {"code"}
    assert {row["reward_model"]["style"] for row in rows} == {"rule"}
    extra = [row["extra_info"] for row in rows]
    assert [one["index"] for one in extra] == [0, 1, 2, 3]
    assert [one["task_id"] for one in extra] == ["a", "b", "c", "a"]
    assert [one["pass_rate"] for one in extra] == [0.625, 0.5, 0.0, 0.5]
    assert [one["programs"] for one in extra] == [4, 1, 1, 2]
    # As rLLM makes tasks of it.
    assert [one["question"] for one in extra] == ["hi", "hi", "hi", "ho"]
    for row in rows:
        truth = CodingTask.from_row(json.loads(row["reward_model"]["ground_truth"]))
        asked = next(task for task in ASKED if task.task_id == row["extra_info"]["task_id"])
        assert truth == dataclasses.replace(asked, prompt=row["prompt"], reference=None)
        assert "return 1" not in str(row)


def test_what_verl_cannot_read_is_counted():
    buffer = filled(MIXED, CHAT)
    with pytest.raises(ValueError, match=r"^tasks: .*; 2 of 3 are missing, 'b' first"):
        buffer.to_verl(ASKED[:1])
    with pytest.raises(ValueError, match=r"^nothing to export: the buffer holds no program"):
        ReplayBuffer().to_verl(ASKED)
    buffer.add(filled([("d", "d1", 1.0)]))
    with pytest.raises(
        ValueError, match=r"^prompt: verl .* got text for 1 of 7 programs. Collect with --prompts chat"
    ):
        buffer.to_verl(ASKED)


@pytest.mark.parametrize("suffix", ["jsonl", "parquet"])
def test_tasks_are_written_as_native_rows(tmp_path, tasks, suffix):
    path = tmp_path / f"tasks.{suffix}"
    known = [dataclasses.replace(tasks[0], difficulty="easy", cpu_seconds=0.5), *tasks[1:]]
    write_tasks(path, known)
    assert load_tasks(path) == known


def test_tasks_that_cannot_be_written_are_refused(tmp_path, tasks):
    with pytest.raises(ValueError, match=r"tasks\.json: must end in \.jsonl or \.parquet; got '\.json'"):
        write_tasks(tmp_path / "tasks.json", tasks)
    checked = dataclasses.replace(
        tasks[0], tests=StdioTests(cases=[StdioCase(input="", output="")], compare=lambda *_: True)
    )
    with pytest.raises(ValueError, match="compare: a function cannot be written to a file"):
        write_tasks(tmp_path / "tasks.jsonl", [checked])
    assert not (tmp_path / "tasks.jsonl").exists()
    chat = dataclasses.replace(tasks[0], prompt=CHAT)
    with pytest.raises(ValueError, match=r"^prompt:"):
        write_tasks(tmp_path / "tasks.parquet", [chat, tasks[1]])
    write_tasks(tmp_path / "tasks.jsonl", [chat, tasks[1]])
    assert load_tasks(tmp_path / "tasks.jsonl") == [chat, tasks[1]]
