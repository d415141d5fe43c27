"""Push a trained model to the Hub with its card: scores before and after, tasks, isolation level, citation.

    python examples/hub_push.py YOUR_NAME/coder

Log in first: `hf auth login`. The repository is private; tasks, tests and programs are not pushed (docs/hub.md).
"""

import sys

from huggingface_hub import HfApi, ModelCard

from trl_pper import PPERConfig, PPERTrainer, demo

MODEL_ID = str(demo.MODEL)  # yours: "Qwen/Qwen2.5-Coder-0.5B"
TASKS, HELD_OUT = demo.demo_tasks("train")[:50], demo.demo_tasks("test")[:40]  # yours: load_tasks("tasks.jsonl")


def main(repository: str) -> None:
    trainer = PPERTrainer(
        model=MODEL_ID,
        args=PPERConfig(
            output_dir="outputs/pushed",
            push_to_hub=True,
            hub_model_id=repository,
            hub_private_repo=True,
            eval_on_start=True,  # scores before training, for the card
            max_steps=30,
            steps_per_round=30,
            per_device_train_batch_size=16,
            learning_rate=1e-3,
            max_completion_length=64,
            generation_batch_size=50,
            report_to="none",
            bf16=False,  # without a GPU; leave this line out with one
        ),
        train_dataset=TASKS,
        eval_dataset=HELD_OUT,
    )
    with trainer.judge:
        trainer.train()
        trainer.evaluate()
    trainer.push_to_hub()
    print(*sorted(HfApi().list_repo_files(repository)), sep="\n")
    print("\n".join(line for line in ModelCard.load(repository).text.splitlines() if line.startswith("| `")))


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python examples/hub_push.py YOUR_NAME/coder")
    main(sys.argv[1])
