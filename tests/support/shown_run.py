"""One training run, started by `torchrun` from test_progress.py with a terminal to show itself on."""

import sys
import time
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from trl_pper import BeamSampleCollector, DatasetSource, PPERConfig, PPERTrainer, load_tasks


class Slow(DatasetSource):
    """A teacher that takes its time."""

    def generate(self, tasks, *, student=None):
        for programs in super().generate(tasks, student=student):
            time.sleep(0.2)
            yield programs


def main(folder: Path) -> None:
    torch.set_num_threads(1)
    tasks = load_tasks(folder / "tasks.jsonl")
    rows = [{"task_id": task.task_id, "completion": f"    return x + {n}\n"} for task in tasks for n in range(2)]
    trainer = PPERTrainer(
        model=AutoModelForCausalLM.from_pretrained(folder / "model"),
        args=PPERConfig(
            str(folder / "run"), use_cpu=True, bf16=False, report_to=[], num_beams=2, max_completion_length=4,
            per_device_train_batch_size=2, steps_per_round=2, num_train_epochs=2, save_strategy="no", judge_workers=1,
            activation_checkpointing=False, ddp_find_unused_parameters=False, log_completions=True,
            num_completions_to_print=1,
        ),
        train_dataset=tasks,
        eval_dataset=tasks,
        processing_class=AutoTokenizer.from_pretrained(folder / "model"),
        callbacks=[BeamSampleCollector(source=Slow(rows, name="teacher"))],
    )  # fmt: skip
    assert trainer.accelerator.num_processes == 2
    trainer.train()
    trainer.evaluate()
    trainer.judge.close()
    trainer.end()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
