"""Train a model in one of the bench's ways, and evaluate it on held-out tasks after each round.

Only the public interface of trl_pper and TRL is used.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from contenders import BATCH_SIZE, ROUNDS, Contender, Setting
from datasets import Dataset
from transformers import AutoModelForCausalLM, AutoTokenizer, PrinterCallback, TrainerCallback, set_seed
from trl import DPOConfig, DPOTrainer, GRPOConfig, GRPOTrainer

from trl_pper import (
    BeamSampleCollector,
    BeamSearchSource,
    CodingTask,
    DatasetSource,
    Judge,
    Limits,
    PPERConfig,
    PPERTrainer,
    ReplayBuffer,
    evaluate_tasks,
    pass_rate_reward,
    task_rows,
)

MAX_COMPLETION_LENGTH = 96
LEARNING_RATE = 1e-3
#: Of 1e-3, 3e-4 and 1e-4 the rates with which these trainers learn most, tried on seeds that no table has.
GRPO_LEARNING_RATE = 1e-4
DPO_LEARNING_RATE = 1e-4
#: Held-out tasks are always evaluated by three beams, whatever a setting collects.
EVALUATION_BEAMS = 3
#: Completions of a task in a GRPO step; a step has BATCH_SIZE completions, as the steps of the others.
GENERATIONS = 4
LIMITS = Limits(cpu_seconds=2.0, memory_bytes=2**30)

Figures = dict[str, Any]


class Examiner(TrainerCallback):  # type: ignore[misc]
    """A callback that evaluates the model on held-out tasks every few optimizer steps."""

    def __init__(self, held_out: Sequence[CodingTask], tokenizer: Any, judge: Judge, *, every: int) -> None:
        self.held_out, self.tokenizer, self.judge, self.every = held_out, tokenizer, judge, every
        self.scores: list[Figures] = []

    def examine(self, model: Any) -> None:
        """Evaluate a model, and keep its scores."""
        source = BeamSearchSource(
            model,
            self.tokenizer,
            num_beams=EVALUATION_BEAMS,
            max_completion_length=MAX_COMPLETION_LENGTH,
            batch_size=64,
        )
        training = model.training
        model.eval()
        scores = evaluate_tasks(self.held_out, source, self.judge)
        model.train(training)
        self.scores.append(
            {
                "accuracy": scores.accuracy,
                "pass@3": scores.solved,
                "pass_rate": scores.pass_rate,
                "tasks": scores.tasks,
                "unjudged": scores.unjudged,
            }
        )

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Evaluate at the end of a round."""
        if state.global_step % self.every == 0:
            self.examine(kwargs["model"])


def learn(
    contender: Contender,
    setting: Setting,
    *,
    model: Path,
    teacher: Path | None,
    tasks: Sequence[CodingTask],
    held_out: Sequence[CodingTask],
    reference: Callable[[str], str],
    seed: int,
    steps_per_round: int,
    folder: Path,
) -> Figures:
    """Train a model and return its figures, those before training and those after each round."""
    set_seed(seed)
    tokenizer = AutoTokenizer.from_pretrained(model)
    student = AutoModelForCausalLM.from_pretrained(model)
    # Methods with a single collection take as many steps in all.
    steps = steps_per_round * ROUNDS // setting.rounds
    with Judge(workers=1, limits=LIMITS) as judge:
        examiner = Examiner(held_out, tokenizer, judge, every=steps_per_round)
        examiner.examine(student)
        figures: Figures = {"collections": [], "gradient_tokens": 0, "entropy": []}
        arguments = (contender, setting, student, tokenizer, judge, examiner, folder)
        if contender.method in ("pper", "references"):
            source = None
            if contender.method == "references":
                rows = [{"task_id": one.task_id, "completion": reference(one.task_id)} for one in tasks]
                source = DatasetSource(rows)
            figures |= _pper(*arguments, tasks, teacher, source=source, steps=steps, seed=seed)
        elif contender.method == "grpo":
            figures |= _grpo(*arguments, tasks, steps=steps * setting.rounds, seed=seed)
        elif contender.method == "dpo":
            figures |= _dpo(*arguments, tasks, steps=steps, seed=seed)
    return {"rounds": examiner.scores, **figures}


def _common(folder: Path, seed: int) -> dict[str, Any]:
    return {
        "output_dir": str(folder / "run"),
        "learning_rate": LEARNING_RATE,
        "seed": seed,
        "use_cpu": True,
        "bf16": False,
        "save_strategy": "no",
        "report_to": [],
        "disable_tqdm": True,
        "gradient_checkpointing": False,
        "logging_steps": 10,
        "log_level": "error",
    }


def _pper(
    contender: Contender,
    setting: Setting,
    student: Any,
    tokenizer: Any,
    judge: Judge,
    examiner: Examiner,
    folder: Path,
    tasks: Sequence[CodingTask],
    teacher: Path | None,
    *,
    source: Any,
    steps: int,
    seed: int,
) -> Figures:
    config = PPERConfig(
        **_common(folder, seed)
        | {
            "num_train_epochs": setting.rounds,
            "steps_per_round": steps,
            "num_beams": setting.programs,
            "decoding": setting.decoding,
            "max_completion_length": MAX_COMPLETION_LENGTH,
            "generation_batch_size": 64,
            "prompts": "text",
            "per_device_train_batch_size": BATCH_SIZE,
        }
        | dict(contender.options)
    )
    if source is None and teacher is not None:
        source = _teacher(teacher, setting)
    collector = BeamSampleCollector(source=source, judge=judge, repairs=contender.repairs)
    callbacks: list[Any] = [collector, examiner]
    if setting.source == "mixed":
        callbacks.append(_Weaning(collector))
    trainer = PPERTrainer(student, config, train_dataset=list(tasks), processing_class=tokenizer, callbacks=callbacks)
    trainer.remove_callback(PrinterCallback)
    nothing_to_draw = False
    try:
        trainer.train()
    except ValueError as error:
        if '"filter" draws only programs that pass every test' not in str(error):
            raise
        # Where no program passes, filtering leaves the model as it is.
        nothing_to_draw = True
        examiner.scores += examiner.scores[-1:] * (ROUNDS + 1 - len(examiner.scores))
    return {
        "collections": [_collection(report) for report in collector.reports],
        "nothing_to_draw": nothing_to_draw,
        **_totals(trainer),
    }


class _Weaning(TrainerCallback):  # type: ignore[misc]
    """A callback that has the model in training write from the second round on."""

    def __init__(self, collector: BeamSampleCollector) -> None:
        self.collector = collector

    def on_epoch_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Leave the teacher."""
        self.collector.source = None


def _teacher(folder: Path, setting: Setting) -> BeamSearchSource:
    return BeamSearchSource(
        AutoModelForCausalLM.from_pretrained(folder),
        AutoTokenizer.from_pretrained(folder),
        num_beams=setting.programs,
        max_completion_length=MAX_COMPLETION_LENGTH,
        batch_size=64,
    )


def _collection(report: Any) -> Figures:
    names = ("programs", "unjudged", "added", "pass_rate", "solved", "effective_sample_size", "judge_seconds")
    return {name: getattr(report, name) for name in names}


def _totals(trainer: Any) -> Figures:
    history = trainer.state.log_history
    return {
        "gradient_tokens": max((entry["num_tokens"] for entry in history if "num_tokens" in entry), default=0),
        "entropy": [entry["entropy"] for entry in history if "entropy" in entry],
    }


def _grpo(
    contender: Contender,
    setting: Setting,
    student: Any,
    tokenizer: Any,
    judge: Judge,
    examiner: Examiner,
    folder: Path,
    tasks: Sequence[CodingTask],
    *,
    steps: int,
    seed: int,
) -> Figures:
    settings = {
        "max_steps": steps,
        "per_device_train_batch_size": BATCH_SIZE,
        "num_generations": GENERATIONS,
        "learning_rate": GRPO_LEARNING_RATE,
        "max_completion_length": MAX_COMPLETION_LENGTH,
    }
    config = GRPOConfig(**_common(folder, seed) | settings | dict(contender.options))
    trainer = GRPOTrainer(
        student,
        reward_funcs=pass_rate_reward(judge),
        args=config,
        train_dataset=Dataset.from_list(task_rows(list(tasks))),
        processing_class=tokenizer,
        callbacks=[examiner],
    )
    trainer.remove_callback(PrinterCallback)
    trainer.train()
    rewards = [entry["reward"] for entry in trainer.state.log_history if "reward" in entry]
    return {"collections": [{"programs": steps * BATCH_SIZE, "pass_rates": rewards}], **_totals(trainer)}


def _dpo(
    contender: Contender,
    setting: Setting,
    student: Any,
    tokenizer: Any,
    judge: Judge,
    examiner: Examiner,
    folder: Path,
    tasks: Sequence[CodingTask],
    *,
    steps: int,
    seed: int,
) -> Figures:
    from trl_pper.replay.export import to_preference

    reports, totals = [], []
    for round_index in range(setting.rounds):
        buffer = ReplayBuffer()
        collector = BeamSampleCollector(tasks=tasks, judge=judge)
        source = BeamSearchSource(
            student,
            tokenizer,
            num_beams=setting.programs,
            max_completion_length=MAX_COMPLETION_LENGTH,
            batch_size=64,
        )
        student.eval()
        collector.attach(buffer, source=source)
        reports.append(collector.collect(round_index))
        student.train()
        # A pair is two rows of a minibatch.
        settings = {
            "max_steps": steps,
            "per_device_train_batch_size": BATCH_SIZE // 2,
            "learning_rate": DPO_LEARNING_RATE,
        }
        config = DPOConfig(**_common(folder, seed + round_index) | settings | dict(contender.options))
        examiner.every = steps
        trainer = DPOTrainer(
            student,
            args=config,
            train_dataset=to_preference(buffer),
            processing_class=tokenizer,
            callbacks=[examiner],
        )
        trainer.remove_callback(PrinterCallback)
        trainer.train()
        totals.append(_totals(trainer))
    return {
        "collections": [_collection(report) for report in reports],
        "gradient_tokens": sum(one["gradient_tokens"] for one in totals),
        "entropy": [value for one in totals for value in one["entropy"]],
    }
