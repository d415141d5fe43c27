"""Fine-tune a code model on its own judged programs, on one device or on many.

    python examples/train_pper.py --model_name_or_path Qwen/Qwen2.5-Coder-0.5B --tasks tasks.jsonl --output_dir out
    accelerate launch --config_file examples/accelerate/zero3.yaml examples/train_pper.py ...

It takes the options of `PPERConfig` and of TRL's `ModelConfig` (`--use_peft`, `--load_in_4bit`, ...); `--config
run.yaml` reads them from a file. Without a model and tasks it uses those of `trl-pper demo`, which fit any machine.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path

from trl import ModelConfig, TrlParser, get_peft_config, get_quantization_config

from trl_pper import PPERConfig, PPERTrainer, demo, load_tasks


@dataclass
class TaskArguments:
    """The tasks to write programs for."""

    tasks: str | None = field(default=None, metadata={"help": "File of tasks; the demo's by default."})
    max_tasks: int | None = field(default=None, metadata={"help": "Take only the first tasks."})


def main() -> None:
    options, config, model = TrlParser((TaskArguments, PPERConfig, ModelConfig)).parse_args_and_config()
    tasks = load_tasks(options.tasks) if options.tasks else demo.demo_tasks("train")
    trainer = PPERTrainer(
        model=model.model_name_or_path or str(demo.MODEL),
        args=config,
        train_dataset=tasks[: options.max_tasks],
        peft_config=get_peft_config(model),
        quantization_config=get_quantization_config(model),
    )
    trainer.train(resume_from_checkpoint=config.resume_from_checkpoint)
    trainer.save_model()
    summary = {
        "processes": trainer.accelerator.num_processes,
        "distributed_type": trainer.accelerator.distributed_type.value,
        "optimizer_steps": trainer.state.global_step,
        "programs": len(trainer.buffer),
        "mean_pass_rate": float(trainer.buffer.pass_rates().mean()),
    }
    if trainer.is_world_process_zero():
        (Path(config.output_dir) / "summary.json").write_text(json.dumps(summary, indent=2) + "\n")
        print(json.dumps(summary))
    trainer.end()


if __name__ == "__main__":
    main()
