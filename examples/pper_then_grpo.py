"""PPER from a teacher's programs, then GRPO on the same judge, with passing programs of the buffer in each group.

    python examples/pper_then_grpo.py

A group whose completions all fail teaches GRPO nothing; with a replayed success in it there is a difference to learn.
"""

from datasets import Dataset
from trl import GRPOConfig

from trl_pper import (
    BeamSampleCollector,
    BeamSearchSource,
    DatasetSource,
    PPERConfig,
    PPERTrainer,
    ReplayGRPOTrainer,
    demo,
    evaluate_tasks,
    pass_rate_reward,
    task_rows,
)

MODEL_ID = str(demo.MODEL)  # yours: "Qwen/Qwen2.5-Coder-0.5B-Instruct"
TASKS, HELD_OUT = demo.demo_tasks("train")[:60], demo.demo_tasks("test")[:40]  # yours: as_chat(load_tasks(...))
# Yours: a file of replies, or `ServerSource(...)`. Here the teacher knows every other task.
TEACHER = [
    {"task_id": task.task_id, "completion": demo.reference_program(task.task_id).removeprefix(task.prompt)}
    for task in TASKS[::2]
]
ALIKE = {
    "max_completion_length": 64,
    "logging_steps": 10,
    "report_to": "none",
    "gradient_checkpointing": False,
    "bf16": False,  # without a GPU; leave this line out with one
}
GROUPS = {"per_device_train_batch_size": 32, "num_generations": 8}


def main() -> None:
    warm_up = PPERTrainer(
        model=MODEL_ID,
        args=PPERConfig("outputs/warm", max_steps=4, per_device_train_batch_size=16, learning_rate=1e-3, **ALIKE),
        train_dataset=TASKS[::2],
        eval_dataset=HELD_OUT,
        callbacks=[BeamSampleCollector(source=DatasetSource(TEACHER, name="teacher"))],
    )
    with warm_up.judge as judge:
        before = warm_up.evaluate()["eval_accuracy"]
        warm_up.train()
        between = warm_up.evaluate()["eval_accuracy"]
        warm_up.save_model("outputs/warm")
        trainer = ReplayGRPOTrainer(
            model="outputs/warm",
            reward_funcs=pass_rate_reward(judge),
            args=GRPOConfig("outputs/grpo", max_steps=20, learning_rate=5e-4, **GROUPS, **ALIKE),
            train_dataset=Dataset.from_list(task_rows(TASKS)),
            buffer=warm_up.buffer,
            replayed_generations=1,
        )
        trainer.train()
        source = BeamSearchSource(trainer.model.eval(), trainer.processing_class, max_completion_length=64)
        after = evaluate_tasks(HELD_OUT, source, judge).accuracy
    replayed = [entry["replayed"] for entry in trainer.state.log_history if "replayed" in entry]
    print(f"{len(warm_up.buffer)} programs of the teacher; {replayed[-1]:.1%} of the completions are replayed")
    print(f"held-out tasks solved: {before:.1%} before, {between:.1%} after PPER, {after:.1%} after GRPO")


if __name__ == "__main__":
    main()
