"""One GRPO run with replayed successes, started by `torchrun` from test_replay_grpo.py: it writes what it rewarded."""

import json
import os
import sys
from pathlib import Path

import datasets
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer
from trl import GRPOConfig

from trl_pper import ReplayBuffer, ReplayGRPOTrainer
from trl_pper.generation.local_model import CHECKPOINTING


def main(folder: Path, processes: int) -> None:
    torch.set_num_threads(1)
    seen = []

    def reward(prompts, completions, **_):
        seen.append(list(zip(prompts, completions, strict=True)))
        return [float(len(text) % 3) for text in completions]

    settings = {
        "max_steps": 2, "num_generations": 4, "max_completion_length": 8, "report_to": [], "use_cpu": True,
        "bf16": False, "disable_tqdm": True, "save_strategy": "no", "seed": 5, CHECKPOINTING: False,
    }  # fmt: skip
    trainer = ReplayGRPOTrainer(
        AutoModelForCausalLM.from_pretrained(folder / "model"),
        reward_funcs=reward,
        # Groups of 4 lie across the processes: each has 6 of the 12 rows.
        args=GRPOConfig(str(folder / "run"), per_device_train_batch_size=12 // processes, **settings),
        train_dataset=datasets.Dataset.from_list([{"prompt": f"# {name}\n"} for name in ("one", "two", "three")]),
        processing_class=AutoTokenizer.from_pretrained(folder / "model"),
        buffer=ReplayBuffer.load(folder / "buffer.parquet"),
        replayed_generations=2,
    )
    trainer.train()
    (folder / f"seen-{processes}-{trainer.accelerator.process_index}.json").write_text(json.dumps(seen))
    trainer.end()
    # The destructor of gloo's process group waits for its thread with Python's lock in hand, and that thread may want
    # the lock to let go of the last tensor it gathered: seen with torch 2.13.
    os._exit(0)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
