"""Train a model in one of the bench's ways, and evaluate it on held-out tasks after each round.

Only the public interface of trl_pper and TRL is used.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from contenders import ALIKE, BATCH_SIZE, LEARNING_RATE, ROUNDS, Contender, Setting
from contrast import ContrastTrainer
from datasets import Dataset
from transformers import AutoModelForCausalLM, AutoTokenizer, PrinterCallback, TrainerCallback, set_seed
from trl import DPOConfig, DPOTrainer, GRPOConfig, GRPOTrainer

from trl_pper import (
    BeamSampleCollector,
    BeamSearchSource,
    CodingTask,
    DatasetSource,
    Experience,
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
#: Prompts generated for at a time.
GENERATION_BATCH = 64
#: The best of three for each of them, see the study "rates".
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
        training = model.training
        model.eval()
        scores = evaluate_tasks(self.held_out, beams(model, self.tokenizer, EVALUATION_BEAMS), self.judge)
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


@dataclass(frozen=True, kw_only=True)
class Run:
    """The parts of a run that every way to learn needs."""

    contender: Contender
    setting: Setting
    student: Any
    tokenizer: Any
    judge: Judge
    examiner: Examiner
    folder: Path
    tasks: Sequence[CodingTask]
    steps: int
    seed: int

    def common(self) -> dict[str, Any]:
        """Return the options that all trainers have alike."""
        return {
            "output_dir": str(self.folder / "run"),
            "learning_rate": LEARNING_RATE,
            "seed": self.seed,
            **ALIKE,
        }


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
    student, tokenizer = loaded(model)
    with Judge(workers=1, limits=LIMITS) as judge:
        examiner = Examiner(held_out, tokenizer, judge, every=steps_per_round)
        examiner.examine(student)
        run = Run(
            contender=contender,
            setting=setting,
            student=student,
            tokenizer=tokenizer,
            judge=judge,
            examiner=examiner,
            folder=folder,
            tasks=tasks,
            # Settings with a single collection take as many steps in all.
            steps=steps_per_round * ROUNDS // setting.rounds,
            seed=seed,
        )
        figures: Figures = {"collections": [], "gradient_tokens": 0, "entropy": []}
        if contender.method == "pper":
            figures |= _pper(run, None if teacher is None else beams(*loaded(teacher), setting.programs))
        elif contender.method == "references":
            rows = [{"task_id": one.task_id, "completion": reference(one.task_id)} for one in tasks]
            figures |= _pper(run, DatasetSource(rows))
        elif contender.method == "grpo":
            figures |= _grpo(run)
        elif contender.method == "dpo":
            figures |= _dpo(run)
    return {"rounds": examiner.scores, **figures}


def loaded(folder: Path) -> tuple[Any, Any]:
    """Return the model and the tokenizer of a folder."""
    return AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)


def beams(model: Any, tokenizer: Any, number: int) -> BeamSearchSource:
    """Return beam search with a number of programs for each task."""
    return BeamSearchSource(
        model, tokenizer, num_beams=number, max_completion_length=MAX_COMPLETION_LENGTH, batch_size=GENERATION_BATCH
    )


def collected(
    tasks: Sequence[CodingTask], writer: BeamSearchSource, judge: Judge, *, seed: int = 0, round_index: int = 0
) -> tuple[ReplayBuffer, Any]:
    """Return a buffer of one collection, and the report on it."""
    buffer = ReplayBuffer(seed=seed)
    collector = BeamSampleCollector(tasks=tasks, judge=judge)
    collector.attach(buffer, source=writer)
    return buffer, collector.collect(round_index)


def _pper(run: Run, source: Any) -> Figures:
    settings = {
        "num_train_epochs": run.setting.rounds,
        "steps_per_round": run.steps,
        "num_beams": run.setting.programs,
        "decoding": run.setting.decoding,
        "max_completion_length": MAX_COMPLETION_LENGTH,
        "generation_batch_size": GENERATION_BATCH,
        "prompts": "text",
        "per_device_train_batch_size": BATCH_SIZE,
    }
    config = PPERConfig(**run.common() | settings | dict(run.contender.options))
    collector = BeamSampleCollector(source=source, judge=run.judge, repairs=run.contender.repairs)
    callbacks: list[Any] = [collector, run.examiner]
    if run.setting.source == "mixed":
        callbacks.append(_Weaning(collector))
    buffer = None
    if (function := run.contender.priority) is not None:
        buffer = ReplayBuffer(seed=run.seed, priority=function, steps_per_round=run.steps)
    contrast = run.contender.contrast
    trainer_class = partial(ContrastTrainer, weight=contrast) if contrast else PPERTrainer
    trainer = trainer_class(
        run.student,
        config,
        buffer=buffer,
        train_dataset=list(run.tasks),
        processing_class=run.tokenizer,
        callbacks=callbacks,
    )
    trainer.remove_callback(PrinterCallback)
    nothing_to_draw = False
    try:
        trainer.train()
    except ValueError as error:
        if '"filter" draws only programs that pass every test' not in str(error):
            raise
        # Where no program passes, filtering leaves the model as it is.
        nothing_to_draw = True
        scores = run.examiner.scores
        scores += scores[-1:] * (ROUNDS + 1 - len(scores))
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


def _collection(report: Any) -> Figures:
    names = ("programs", "unjudged", "added", "pass_rate", "solved", "effective_sample_size", "judge_seconds")
    return {name: getattr(report, name) for name in names}


def _totals(trainer: Any) -> Figures:
    history = trainer.state.log_history
    return {
        "gradient_tokens": max((entry["num_tokens"] for entry in history if "num_tokens" in entry), default=0),
        "entropy": [entry["entropy"] for entry in history if "entropy" in entry],
    }


def _grpo(run: Run) -> Figures:
    steps = run.steps * run.setting.rounds
    settings = {
        "max_steps": steps,
        "per_device_train_batch_size": BATCH_SIZE,
        "num_generations": GENERATIONS,
        "learning_rate": GRPO_LEARNING_RATE,
        "max_completion_length": MAX_COMPLETION_LENGTH,
    }
    trainer = GRPOTrainer(
        run.student,
        reward_funcs=pass_rate_reward(run.judge),
        args=GRPOConfig(**run.common() | settings | dict(run.contender.options)),
        train_dataset=Dataset.from_list(task_rows(list(run.tasks))),
        processing_class=run.tokenizer,
        callbacks=[run.examiner],
    )
    trainer.remove_callback(PrinterCallback)
    trainer.train()
    rewards = [entry["reward"] for entry in trainer.state.log_history if "reward" in entry]
    return {"collections": [{"programs": steps * BATCH_SIZE, "pass_rates": rewards}], **_totals(trainer)}


def best_and_worst(buffer: ReplayBuffer) -> list[dict[str, str]]:
    """Return the first best and the first worst whole program of each task that has unequal ones, as DPO reads them.

    `ReplayBuffer.to_preferences` would leave out the tasks without a program that passes every test.
    """
    by_task: dict[str, list[Experience]] = {}
    for one in buffer:
        if not one.truncated:
            by_task.setdefault(one.task_id, []).append(one)
    rows = []
    for programs in by_task.values():
        # Of equal pass rates `max` and `min` return the first.
        best, worst = (choose(programs, key=lambda one: one.pass_rate) for choose in (max, min))
        if best.pass_rate > worst.pass_rate:
            rows.append({"prompt": str(best.prompt), "chosen": best.completion, "rejected": worst.completion})
    return rows


def _dpo(run: Run) -> Figures:
    reports, totals = [], []
    # Its trainers are one for each round, and count their steps from 0.
    run.examiner.every = run.steps
    for round_index in range(run.setting.rounds):
        run.student.eval()
        writer = beams(run.student, run.tokenizer, run.setting.programs)
        buffer, report = collected(run.tasks, writer, run.judge, round_index=round_index)
        reports.append(report)
        run.student.train()
        settings = {
            "max_steps": run.steps,
            # A pair is two rows of a minibatch.
            "per_device_train_batch_size": BATCH_SIZE // 2,
            "learning_rate": DPO_LEARNING_RATE,
            "seed": run.seed + round_index,
        }
        trainer = DPOTrainer(
            run.student,
            args=DPOConfig(**run.common() | settings | dict(run.contender.options)),
            train_dataset=Dataset.from_list(best_and_worst(buffer)),
            processing_class=run.tokenizer,
            callbacks=[run.examiner],
        )
        trainer.remove_callback(PrinterCallback)
        trainer.train()
        totals.append(_totals(trainer))
    return {
        "collections": [_collection(report) for report in reports],
        "gradient_tokens": sum(one["gradient_tokens"] for one in totals),
        "entropy": [value for one in totals for value in one["entropy"]],
    }
