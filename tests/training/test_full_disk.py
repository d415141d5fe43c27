"""A training run whose disk is full when it writes a checkpoint: it goes on to the bit once there is room."""

import contextlib

import pytest
import torch
from transformers import TrainerCallback

from tests.support.faults import largest_file, left_behind
from trl_pper import BeamSampleCollector, DatasetSource, PPERConfig, PPERTrainer


class NoRoom(TrainerCallback):
    """Lets no file grow from a step on."""

    def __init__(self, stack, step: int, size: int) -> None:
        self.stack, self.step, self.size = stack, step, size

    def on_step_end(self, args, state, control, **kwargs) -> None:
        if state.global_step == self.step:
            self.stack.enter_context(largest_file(self.size))


def trainer_in(folder, make_model, tokenizer, tasks, *callbacks) -> PPERTrainer:
    rows = [{"task_id": task.task_id, "completion": f"    return x + {n}\n"} for task in tasks for n in (1, 2)]
    return PPERTrainer(
        model=make_model(),
        args=PPERConfig(
            output_dir=str(folder), use_cpu=True, bf16=False, report_to=[], disable_tqdm=True, max_length=128,
            per_device_train_batch_size=4, steps_per_round=1, num_train_epochs=3, save_strategy="epoch",
            max_completion_length=6, judge_workers=1, judge_memory_bytes=2**30, gradient_checkpointing=False,
        ),
        train_dataset=tasks,
        processing_class=tokenizer,
        callbacks=[BeamSampleCollector(source=DatasetSource(rows, name="teacher")), *callbacks],
    )  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("size", [1_000, 20_000])
def test_a_full_disk_at_a_checkpoint_costs_no_step(tmp_path, make_model, tokenizer, tasks, size, capsys):
    # `capsys` keeps what is printed in memory: pytest's own file for it could not grow either.
    calm = trainer_in(tmp_path / "calm", make_model, tokenizer, tasks)
    with calm.judge:
        calm.train()
    with contextlib.ExitStack() as stack:
        disturbed = trainer_in(tmp_path / "run", make_model, tokenizer, tasks, NoRoom(stack, 2, size))
        # Weights are written by safetensors and torch, with errors of their own.
        with disturbed.judge, pytest.raises(Exception, match=r"(?i)file too large|limit on the size|write") as caught:
            disturbed.train()
    if size == 1_000:
        assert isinstance(caught.value, OSError)
        assert "checkpoint-2/_pper/buffer.parquet" in str(caught.value) or "state.json" in str(caught.value)
    resumed = trainer_in(tmp_path / "run", make_model, tokenizer, tasks)
    with resumed.judge:
        resumed.train(resume_from_checkpoint=True)
    assert [report.restored > 0 for report in resumed.collector.reports] == [True, False]
    assert resumed.buffer.digest() == calm.buffer.digest()
    for one, other in zip(resumed.model.parameters(), calm.model.parameters(), strict=True):
        assert torch.equal(one, other)
    assert left_behind(tmp_path) == []
