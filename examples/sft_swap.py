"""From SFTTrainer to PPERTrainer: learn from the model's own judged programs instead of written solutions.

    python examples/sft_swap.py

The same script twice. SFTTrainer needs completions, which somebody has to write; PPERTrainer needs tests, and learns
from the model's programs and their verdicts. Both are scored on tasks that neither of them has seen.
"""

from datasets import Dataset
from trl import SFTConfig, SFTTrainer

from trl_pper import BeamSearchSource, Judge, PPERConfig, PPERTrainer, demo, evaluate_tasks

MODEL_ID = str(demo.MODEL)  # yours: "Qwen/Qwen2.5-Coder-0.5B"
TASKS = demo.demo_tasks("train")[:80]  # yours: load_tasks("openai/openai_humaneval", split="test")
HELD_OUT = demo.demo_tasks("test")[:40]
SETTINGS = dict(max_steps=60, per_device_train_batch_size=16, learning_rate=1e-3, logging_steps=30, report_to="none")
SETTINGS["bf16"] = False  # without a GPU; leave this line out with one


def accuracy(model, tokenizer, judge: Judge) -> float:
    source = BeamSearchSource(model, tokenizer, max_completion_length=64, batch_size=40)
    return evaluate_tasks(HELD_OUT, source, judge).accuracy


def main() -> None:
    solutions = [(task.prompt, demo.reference_program(task.task_id).removeprefix(task.prompt)) for task in TASKS]
    sft = SFTTrainer(
        model=MODEL_ID,
        args=SFTConfig(output_dir="outputs/sft", **SETTINGS),
        train_dataset=Dataset.from_list([{"prompt": prompt, "completion": body} for prompt, body in solutions]),
    )
    pper = PPERTrainer(
        model=MODEL_ID,
        args=PPERConfig(output_dir="outputs/pper", max_completion_length=64, steps_per_round=30, **SETTINGS),
        train_dataset=TASKS,
    )
    with Judge() as judge:
        before = accuracy(pper.model, pper.processing_class, judge)
        print(f"held-out tasks solved by the first program, before: {before:.1%}")
        for trainer, learned in ((sft, f"{len(TASKS)} solutions"), (pper, "its own programs")):
            trainer.train()
            after = accuracy(trainer.model, trainer.processing_class, judge)
            print(f"{type(trainer).__name__}, from {learned}: {after:.1%}")
    pper.judge.close()


if __name__ == "__main__":
    main()
