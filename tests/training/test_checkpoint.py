"""The buffer inside a checkpoint: shared while it stays the same, refused where draws could not be continued."""

import json
import logging

import pytest

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
            "its minibatches were drawn with .*'draws_per_step': 8.*this run has",
        ),
        (filled("x", priority="rank"), DRAWS, "the buffer was written with .*'proportional'.*this run has.*'rank'"),
        (filled("x", tokenizer="other"), DRAWS, "filled with another tokenizer"),
    ):
        before = run.digest()
        with pytest.raises(ValueError, match=f"resume_from_checkpoint: .*{named}"):
            load_buffer(checkpoint, run, draws=draws)
        assert run.digest() == before


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
