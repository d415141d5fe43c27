"""A custom priority: replay right programs that the model would hardly write again.

    python examples/custom_priority.py

A priority is a function from P2Values, and pass rates if it asks for them, to numbers of at least 0. With
`possibility_weight=1` P2Values are the possibilities, so that this priority sees both parts of Eq. 6 separately.
"""

import numpy as np

from trl_pper import PPERConfig, PPERTrainer, ReplayBuffer, demo, draw_probabilities, p2value

MODEL_ID = str(demo.MODEL)  # yours: "Qwen/Qwen2.5-Coder-0.5B"
TASKS, HELD_OUT = demo.demo_tasks("train")[:60], demo.demo_tasks("test")[:40]  # yours: load_tasks("tasks.jsonl")


def right_and_rare(p2values: np.ndarray, pass_rate: np.ndarray) -> np.ndarray:
    return np.where(pass_rate == 1.0, 1.0 - p2values, 0.0)


#: Name, priority, weight of the possibility in P2Value, exponent. The first row has the defaults of `PPERConfig`.
PRIORITIES = (
    ("proportional", "proportional", 0.5, 4.0),
    ("filter", "filter", 0.5, 1.0),
    ("right and rare", right_and_rare, 1.0, 1.0),
)


def show_draws(buffer: ReplayBuffer) -> None:
    """Print what each priority draws from the same programs; the last column is the effective sample size."""
    possibility, pass_rate = np.array([one.possibility() for one in buffer]), buffer.pass_rates()
    print(f"{'of what is drawn':18}{'passes':>8}{'possibility':>13}{'varies as':>11}")
    for name, priority, weight, exponent in PRIORITIES:
        values = p2value(possibility, pass_rate, possibility_weight=weight)
        drawn = draw_probabilities(values, priority=priority, exponent=exponent, pass_rate=pass_rate)
        passes, as_many = drawn @ (pass_rate == 1.0), 1.0 / (drawn @ drawn)
        print(f"{name:18}{passes:8.0%}{drawn @ possibility:13.3f}{as_many:11.0f}")


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
        buffer=ReplayBuffer(priority=right_and_rare, possibility_weight=1.0),
    )
    with trainer.judge:
        before = trainer.evaluate()["eval_accuracy"]
        trainer.train()
        after = trainer.evaluate()["eval_accuracy"]
    show_draws(trainer.buffer)
    print(f"held-out tasks solved by the first program: {before:.1%} before, {after:.1%} after")


if __name__ == "__main__":
    main()
