import dataclasses

import pytest

from trl_pper import load_tasks
from trl_pper.replay.buffer import ReplayBuffer
from trl_pper.replay.experience import Experience
from trl_pper.replay.export import to_kto, to_preference, to_sft
from trl_pper.tasks.loading import write_tasks
from trl_pper.tasks.task import StdioCase, StdioTests

CHAT = [{"role": "user", "content": "hi"}]


def filled(rates, prompt="p"):
    buffer = ReplayBuffer()
    buffer.add(
        Experience(task_id=task, prompt=prompt, completion=name, program=name, pass_rate=rate)
        for task, name, rate in rates
    )
    return buffer


MIXED = [("a", "a1", 0.5), ("a", "a2", 1.0), ("a", "a3", 0.0), ("a", "a4", 1.0), ("b", "b1", 0.5), ("c", "c1", 0.0)]


def test_sft_keeps_what_passes_enough():
    assert to_sft(filled(MIXED)).to_list() == [{"prompt": "p", "completion": name} for name in ("a2", "a4")]
    assert to_sft(filled(MIXED), min_pass_rate=0.5)["completion"] == ["a1", "a2", "a4", "b1"]
    assert len(to_sft(filled(MIXED), 0.0)) == 6


def test_preference_pairs_the_first_best_with_the_first_worst():
    rows = to_preference(filled([*MIXED, ("b", "b2", 0.5)])).to_list()
    assert rows == [{"prompt": "p", "chosen": "a2", "rejected": "a3"}]


def test_kto_labels_every_completion():
    rows = to_kto(filled(MIXED)).to_list()
    assert [(row["completion"], row["label"]) for row in rows] == [(name, rate == 1.0) for _, name, rate in MIXED]


@pytest.mark.parametrize("export", [to_sft, to_preference, to_kto])
def test_truncated_programs_are_left_out(export):
    buffer = filled(MIXED)
    expected = export(buffer).to_list()
    buffer.add(
        Experience(task_id=task, prompt="p", completion="cut", program="cut", pass_rate=rate, truncated=True)
        for task, rate in (("a", 1.0), ("c", 1.0))
    )
    assert export(buffer).to_list() == expected


def test_chat_prompts_are_answered_by_messages():
    buffer = filled(MIXED, CHAT)
    answer = [{"role": "assistant", "content": "a2"}]
    assert to_sft(buffer)[0] == {"prompt": CHAT, "completion": answer}
    assert to_preference(buffer)[0]["chosen"] == answer
    assert to_kto(buffer)[1]["completion"] == answer


@pytest.mark.parametrize("export", [to_sft, to_preference, to_kto])
def test_nothing_to_export_is_an_error_with_a_remedy(export):
    with pytest.raises(ValueError, match="nothing to export: "):
        export(ReplayBuffer())


def test_bounds_and_mixed_prompts_are_refused():
    for export in (to_sft, to_kto):
        with pytest.raises(ValueError, match=r"^min_pass_rate:"):
            export(filled(MIXED), min_pass_rate=1.5)
    buffer = filled(MIXED)
    buffer.add(filled([("d", "d1", 1.0)], CHAT))
    with pytest.raises(ValueError, match=r"^prompt:"):
        to_sft(buffer)


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
