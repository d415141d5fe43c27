"""A teacher's programs from a file: learn from the earlier replies of a stronger model, without its chatter.

    python examples/teacher_file.py

The file has a row for each reply, `{"task_id": ..., "completion": ...}`. The rows do not say which replies are right:
the judge finds out. With `learn="program"` the student learns the program in a reply, without the text around it.
"""

import json
from pathlib import Path

from trl_pper import BeamSampleCollector, DatasetSource, PPERConfig, PPERTrainer, demo

MODEL_ID = str(demo.MODEL)  # yours: "openai-community/gpt2-xl"
TASKS, HELD_OUT = demo.demo_tasks("train")[:60], demo.demo_tasks("test")[:40]  # yours: load_tasks("tasks.jsonl")
REPLIES = Path("outputs/teacher/_replies.jsonl")  # yours: the replies of your teacher


def write_replies() -> None:
    """Write replies as of a teacher: chatty, and every fifth reply is the right program for another task."""
    REPLIES.parent.mkdir(parents=True, exist_ok=True)
    with REPLIES.open("w") as file:
        for number, task in enumerate(TASKS):
            solved = TASKS[number - 1] if number % 5 == 4 else task
            _, _, function = demo.reference_program(solved.task_id).partition("\n")
            reply = f"Of course! Here it is:\n\n```python\n{function}```\n\nThis passes all tests."
            file.write(json.dumps({"task_id": task.task_id, "completion": reply}) + "\n")


def main() -> None:
    write_replies()
    teacher = DatasetSource(REPLIES, name="teacher")
    trainer = PPERTrainer(
        model=MODEL_ID,
        args=PPERConfig(
            output_dir="outputs/teacher",
            max_steps=40,
            steps_per_round=40,
            per_device_train_batch_size=16,
            learning_rate=1e-3,
            max_completion_length=64,
            generation_batch_size=50,
            report_to="none",
            bf16=False,  # without a GPU; leave this line out with one
        ),
        train_dataset=TASKS,
        eval_dataset=HELD_OUT,
        callbacks=[BeamSampleCollector(source=teacher, learn="program")],
    )
    with trainer.judge:
        before = trainer.evaluate()["eval_accuracy"]
        trainer.train()
        after = trainer.evaluate()["eval_accuracy"]
    [report] = trainer.collector.reports
    print(f"{report.programs} replies, of which {report.solved:.0%} are right; learned of the first:")
    print(trainer.buffer[0].completion)
    print(f"held-out tasks solved by the first program: {before:.1%} before, {after:.1%} after")


if __name__ == "__main__":
    main()
