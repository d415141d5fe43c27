"""The buffer inside a checkpoint: shared while it stays the same, refused where draws could not be continued."""

import json
import logging

import pytest

from tests.support.faults import full_disk, left_behind
from trl_pper.replay.buffer import ReplayBuffer
from trl_pper.replay.experience import Experience
from trl_pper.training.checkpoint import BUFFER_FILE, STATE_FILE, last_complete_checkpoint, load_buffer, save_buffer

DRAWS = {"draws_per_step": 8, "steps_per_round": 2, "seed": 1}


def filled(*programs: str, **settings) -> ReplayBuffer:
    buffer = ReplayBuffer(**settings)
    buffer.add(Experience(task_id="t", prompt="p", completion=text, program=text, pass_rate=0.5) for text in programs)
    return buffer


def save(folder, buffer, step, num_processes=1):
    checkpoint = folder / f"checkpoint-{step}"
    save_buffer(checkpoint, buffer, next_round=step, draws=DRAWS, num_processes=num_processes)
    return checkpoint


def complete(checkpoint, num_processes=1) -> None:
    """Put beside the buffer what the Trainer writes last."""
    (checkpoint / "trainer_state.json").write_text(json.dumps({"global_step": 1}))
    names = ["rng_state.pth"] if num_processes == 1 else [f"rng_state_{i}.pth" for i in range(num_processes)]
    for name in names:
        (checkpoint / name).touch()


def test_a_buffer_comes_back_with_the_next_round(tmp_path):
    buffer = filled("a", "b", tokenizer="x")
    restored = filled("else", tokenizer="x")
    assert load_buffer(save(tmp_path, buffer, 3), restored, draws=DRAWS) == 3
    assert restored.digest() == buffer.digest()
    restored.check_valid()


def test_checkpoints_share_a_file_while_the_buffer_is_the_same(tmp_path):
    buffer = filled("a", "b")
    first, second = save(tmp_path, buffer, 1), save(tmp_path, buffer, 2)
    assert (first / BUFFER_FILE).samefile(second / BUFFER_FILE)
    buffer.add(filled("c"))
    third = save(tmp_path, buffer, 3)
    assert not (third / BUFFER_FILE).samefile(first / BUFFER_FILE)
    # Written again, it takes the place of the shared file and leaves the others theirs.
    save(tmp_path, filled("d"), 2)
    for checkpoint, programs in ((first, ["a", "b"]), (second, ["d"]), (third, ["a", "b", "c"])):
        assert [one.program for one in ReplayBuffer.load(checkpoint / BUFFER_FILE)] == programs


def test_what_cannot_be_continued_is_refused_and_changes_nothing(tmp_path):
    checkpoint = save(tmp_path, filled("a", "b"), 1)
    for run, draws, named in (
        (
            filled("x"),
            {**DRAWS, "draws_per_step": 16},
            r"programs per optimizer step \(per_device_train_batch_size \* gradient_accumulation_steps \* number of "
            r"processes\): 8, in this run 16\. Resume",
        ),
        (
            filled("x", priority="rank"),
            DRAWS,
            "the buffer was written with priority='best'; this run has priority='rank'",
        ),
        (filled("x", tokenizer="other"), DRAWS, "filled with another tokenizer"),
    ):
        before = run.digest()
        with pytest.raises(ValueError, match=f"resume_from_checkpoint: .*{named}"):
            load_buffer(checkpoint, run, draws=draws)
        assert run.digest() == before


@pytest.mark.parametrize(("priority", "weight"), [("proportional", "pooled"), ("best", "best")])
def test_a_task_weight_may_be_named_or_left_to_the_priority(tmp_path, priority, weight):
    # Checkpoints of before there was the option have None.
    for then, now in ((None, weight), (weight, None)):
        checkpoint = save(tmp_path, filled("a", priority=priority, task_weight=then), 1)
        run = filled(priority=priority, task_weight=now)
        assert load_buffer(checkpoint, run, draws=DRAWS) == 1
        assert (len(run), run.task_weight) == (1, now)
    with pytest.raises(ValueError, match=r"was written with task_weight=.*; this run has task_weight='equal'"):
        load_buffer(checkpoint, filled(priority=priority, task_weight="equal"), draws=DRAWS)


@pytest.mark.parametrize(
    ("name", "option"),
    [
        ("steps_per_round", r"\(steps_per_round; without it, tasks \* num_beams"),
        ("seed", r"\(data_seed; without it, seed\)"),
        ("grouping_steps", r"\(length_grouping_steps\)"),
        ("micro_batch_size", r"\(per_device_train_batch_size;"),
    ],
)
def test_other_draws_are_told_by_the_options_that_set_them(tmp_path, name, option):
    checkpoint = tmp_path / "checkpoint-1"
    draws = {**DRAWS, "grouping_steps": 1, "micro_batch_size": 1}
    save_buffer(checkpoint, filled("a"), next_round=1, draws=draws, num_processes=1)
    with pytest.raises(ValueError, match=rf"with other options: [^;]*{option}.*: \d, in this run 7\. Resume with"):
        load_buffer(checkpoint, filled(), draws={**draws, name: 7})


@pytest.mark.parametrize("file", [BUFFER_FILE, STATE_FILE])
def test_a_missing_file_is_named(tmp_path, file):
    checkpoint = save(tmp_path, filled("a"), 1)
    (checkpoint / file).unlink()
    with pytest.raises(ValueError, match=f"has no {file}, so its draws cannot be continued"):
        load_buffer(checkpoint, filled(), draws=DRAWS)


def test_the_newest_complete_checkpoint_is_found(tmp_path, caplog):
    with pytest.raises(ValueError, match="holds no complete checkpoint; start without it"):
        last_complete_checkpoint(tmp_path)
    (tmp_path / "checkpoint-best").mkdir()
    for step, processes in ((2, 1), (9, 2), (10, 2), (11, 1)):
        complete(save(tmp_path, filled("a"), step, processes), processes)
    # Numbers, not names, say which is newer; each of these lacks something.
    (tmp_path / "checkpoint-11" / "trainer_state.json").write_text('{"global')
    (tmp_path / "checkpoint-10" / "rng_state_1.pth").unlink()
    with caplog.at_level(logging.WARNING):
        assert last_complete_checkpoint(tmp_path).name == "checkpoint-9"
    assert [record.args[0].name for record in caplog.records] == ["checkpoint-11", "checkpoint-10"]
    (tmp_path / "checkpoint-9" / STATE_FILE).unlink()
    assert last_complete_checkpoint(str(tmp_path)).name == "checkpoint-2"
    (tmp_path / "checkpoint-2" / "rng_state.pth").unlink()
    with pytest.raises(ValueError, match="no complete checkpoint"):
        last_complete_checkpoint(tmp_path)


def changed(**values) -> str:
    state = {"next_round": 1, "digest": "0" * 64, "draws": DRAWS, "num_processes": 1}
    return json.dumps(state | values)


@pytest.mark.parametrize(
    "text",
    ["", "null", "[]", '{"next_round": 1', "[" * 5_000, "9" * 5000, changed(digest=5), changed(next_round=-1),
     changed(next_round=True), changed(num_processes=0), changed(num_processes="2"), changed(draws=[]),
     changed(next_round=10**300), changed(draws={"per_device": None})],
)  # fmt: skip
def test_a_damaged_state_is_named_and_passed_over(tmp_path, text):
    older, newer = save(tmp_path, filled("a"), 1), save(tmp_path, filled("b"), 2)
    complete(older)
    complete(newer)
    (newer / STATE_FILE).write_text(text)
    with pytest.raises(ValueError, match=r"checkpoint-2/_pper/state\.json: must be the state .*Restore the file"):
        load_buffer(newer, filled(), draws=DRAWS)
    assert last_complete_checkpoint(tmp_path) == older


def test_a_changed_state_is_noticed_and_an_old_one_read(tmp_path):
    checkpoint = save(tmp_path, filled("a"), 3)
    text = (checkpoint / STATE_FILE).read_text()
    (checkpoint / STATE_FILE).write_text(text.replace('"next_round": 3', '"next_round": 4'))
    with pytest.raises(ValueError, match="got values of another checksum"):
        load_buffer(checkpoint, filled(), draws=DRAWS)
    state = json.loads(text)
    del state["checksum"]
    (checkpoint / STATE_FILE).write_text(json.dumps(state))
    assert load_buffer(checkpoint, filled(), draws=DRAWS) == 3


@pytest.mark.parametrize("log", ["[]", "1", '{"unknown": 1}', '{"global_step": {}', ""])
def test_any_state_of_the_trainer_that_is_damaged_is_passed_over(tmp_path, log):
    older, newer = save(tmp_path, filled("a"), 1), save(tmp_path, filled("b"), 2)
    complete(older)
    complete(newer)
    (newer / "trainer_state.json").write_text(log)
    assert last_complete_checkpoint(tmp_path) == older


def test_a_full_disk_leaves_the_checkpoint_before(tmp_path):
    with full_disk(tmp_path / "disk", kilobytes=64) as disk:
        complete(save(disk, filled("a"), 1))
        large = filled(*(f"{number}{number * 7919 % 10007}" * 9 for number in range(9000)))
        with pytest.raises(OSError, match=r"make room on the disk.*checkpoint-2/_pper/buffer\.parquet"):
            save(disk, large, 2)
        assert last_complete_checkpoint(disk).name == "checkpoint-1"
        assert left_behind(disk) == []


def test_a_checkpoint_written_again_holds_no_parts_of_files(tmp_path):
    save(tmp_path, filled("a"), 1)
    (tmp_path / "checkpoint-2" / "_pper").mkdir(parents=True)
    for name in ("buffer.parquet", "state.json"):
        (tmp_path / "checkpoint-2" / "_pper" / f".{name}.0123.partial").write_bytes(b"half")
    # The buffer's file is shared, and not written.
    save(tmp_path, filled("a"), 2)
    assert left_behind(tmp_path) == []


def test_without_memory_no_checkpoint_is_taken_for_whole(tmp_path, monkeypatch):
    complete(save(tmp_path, filled("a"), 1))
    with monkeypatch.context() as patched:
        patched.setattr("trl_pper.replay.arrow.to_arrow", lambda block: (_ for _ in ()).throw(MemoryError))
        with pytest.raises(MemoryError):
            save(tmp_path, filled("a", "b"), 2)
    assert last_complete_checkpoint(tmp_path).name == "checkpoint-1"
    assert left_behind(tmp_path) == []
