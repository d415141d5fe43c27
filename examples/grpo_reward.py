"""The judge as a reward function: TRL's GRPOTrainer learns from the share of tests that a program passes.

    python examples/grpo_reward.py

A completion that could not be judged gets no reward, rather than a reward of zero. The tests reach the reward function
as a column of the data set.
"""

from datasets import Dataset
from trl import GRPOConfig, GRPOTrainer

from trl_pper import Judge, demo, pass_rate_reward, task_rows

MODEL_ID = str(demo.MODEL)  # yours: "Qwen/Qwen2.5-Coder-0.5B-Instruct"
TASKS = demo.demo_tasks("train")[:60]  # yours: as_chat(load_tasks("tasks.jsonl"))


def main() -> None:
    with Judge() as judge:
        trainer = GRPOTrainer(
            model=MODEL_ID,
            reward_funcs=pass_rate_reward(judge),
            args=GRPOConfig(
                output_dir="outputs/grpo",
                max_steps=30,
                per_device_train_batch_size=32,
                num_generations=8,
                learning_rate=1e-3,
                max_completion_length=64,
                logging_steps=10,
                report_to="none",
                gradient_checkpointing=False,
                bf16=False,  # without a GPU; leave this line out with one
            ),
            train_dataset=Dataset.from_list(task_rows(TASKS)),
        )
        trainer.train()
    for entry in trainer.state.log_history:
        if "reward" in entry:
            print(f"step {entry['step']}: pass rate {entry['reward']:.1%}, accepted {entry['accepted']:.1%}")


if __name__ == "__main__":
    main()
