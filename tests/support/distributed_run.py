"""One training run, started by `torchrun` from test_distributed.py: each process writes what it saw."""

import json
import sys
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from trl_pper import PPERConfig, PPERTrainer, load_tasks
from trl_pper.generation.local_model import CHECKPOINTING


def main(folder: Path) -> None:
    torch.set_num_threads(1)
    trainer = PPERTrainer(
        model=AutoModelForCausalLM.from_pretrained(folder / "model"),
        args=PPERConfig(
            str(folder / "run"),
            use_cpu=True,
            bf16=False,
            report_to=[],
            disable_tqdm=True,
            num_beams=2,
            max_completion_length=4,
            per_device_train_batch_size=2,
            gradient_accumulation_steps=2,
            steps_per_round=2,
            num_train_epochs=2,
            learning_rate=1e-2,
            save_strategy="no",
            judge_workers=1,
            **{CHECKPOINTING: False},
        ),
        train_dataset=load_tasks(folder / "tasks.jsonl"),
        eval_dataset=load_tasks(folder / "tasks.jsonl"),
        processing_class=AutoTokenizer.from_pretrained(folder / "model"),
    )
    trainer.train()
    metrics = trainer.evaluate()
    rank, world_size = trainer.accelerator.process_index, trainer.accelerator.num_processes
    seen = {
        "world_size": world_size,
        "digest": trainer.buffer.digest(),
        "programs": [report.programs for report in trainer.collector.reports],
        "unextracted": [report.unextracted for report in trainer.collector.reports],
        "eval_tasks": metrics["eval_tasks"],
        "eval_programs": metrics["eval_programs"],
        "weights": [float(value.double().sum()) for value in trainer.model.state_dict().values()],
        "steps": trainer.state.global_step,
    }
    (folder / f"seen-{rank}.json").write_text(json.dumps(seen))
    trainer.judge.close()
    trainer.end()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
