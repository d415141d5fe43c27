"""A custom priority: replay right programs that the model would hardly write again.

    python examples/custom_priority.py

A priority is a function from P2Values to numbers of at least 0. It gets each column of `ProgramColumns` that it has an
argument for, such as pass rates, possibilities, tasks or ages.
"""

import numpy as np

from trl_pper import PPERConfig, PPERTrainer, ReplayBuffer, demo, draw_probabilities

MODEL_ID = str(demo.MODEL)  # yours: "Qwen/Qwen2.5-Coder-0.5B"
TASKS, HELD_OUT = demo.demo_tasks("train")[:60], demo.demo_tasks("test")[:40]  # yours: load_tasks("tasks.jsonl")


def right_and_rare(p2values: np.ndarray, pass_rate: np.ndarray, possibility: np.ndarray) -> np.ndarray:
    return np.where(pass_rate == 1.0, 1.0 - possibility, 0.0)


#: Names and priorities. The first is the default of `PPERConfig`.
PRIORITIES = (("best", "best"), ("filter", "filter"), ("right and rare", right_and_rare))


def show_draws(buffer: ReplayBuffer) -> None:
    """Print what each priority draws from the same programs; the last column is the effective sample size."""
    programs = buffer.columns()
    print(f"{'of what is drawn':18}{'passes':>8}{'possibility':>13}{'varies as':>11}")
    for name, priority in PRIORITIES:
        drawn = draw_probabilities(programs, priority=priority)
        passes, as_many = drawn @ (programs.pass_rate == 1.0), 1.0 / (drawn @ drawn)
        print(f"{name:18}{passes:8.0%}{drawn @ programs.possibility:13.3f}{as_many:11.0f}")


def main() -> None:
    trainer = PPERTrainer(
        model=MODEL_ID,
        args=PPERConfig(
            output_dir="outputs/priority",
            max_steps=40,
            steps_per_round=20,
            per_device_train_batch_size=16,
            learning_rate=1e-3,
            max_completion_length=64,
            generation_batch_size=50,
            report_to="none",
            bf16=False,  # without a GPU; leave this line out with one
        ),
        train_dataset=TASKS,
        eval_dataset=HELD_OUT,
        buffer=ReplayBuffer(priority=right_and_rare),
    )
    with trainer.judge:
        before = trainer.evaluate()["eval_accuracy"]
        trainer.train()
        after = trainer.evaluate()["eval_accuracy"]
    show_draws(trainer.buffer)
    print(f"held-out tasks solved by the first program: {before:.1%} before, {after:.1%} after")


if __name__ == "__main__":
    main()
