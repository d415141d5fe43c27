"""Run the whole pipeline on the embedded model, for `trl-pper demo`.

The demo is an ordinary training run (collector, judge, buffer, sampler, trainer) on a model small enough for two
cores. It prints a table, and writes `summary.json` and `report.html`.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from tqdm.auto import tqdm
from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback
from transformers.trainer_callback import ProgressCallback
from transformers.utils.logging import disable_progress_bar

from trl_pper.demo import MODEL
from trl_pper.demo.tasks import demo_tasks
from trl_pper.generation.local_model import CHECKPOINTING
from trl_pper.report.history import history_of
from trl_pper.report.page import write_report
from trl_pper.rounds.collector import BeamSampleCollector
from trl_pper.rounds.display import shows_bars
from trl_pper.training.config import PPERConfig
from trl_pper.training.trainer import PPERTrainer

ROUNDS = 3
STEPS_PER_ROUND = 50
SCORES = {
    "accuracy": "tasks solved by the first program",
    "pass_rate": "tests passed by all 3 programs",
    "pass@3": "tasks solved by any of 3 programs",
}


def run_demo(
    output: Path, *, seed: int = 0, rounds: int | None = None, options: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """Run the demo, and return the content of `summary.json`.

    Args:
        output: Folder for `summary.json`, `report.html` and the files of the run.
        seed: Seed of the tasks, the draws and the optimizer.
        rounds: Rounds of collection and training; `ROUNDS` by default.
        options: Options of `PPERConfig` in place of the demo's.

    Returns:
        `{"pass_rate": {"before", "after"}, "accuracy": {"before", "after"}, "pass@3": {...}, "programs_judged",
        "held_out_tasks", "isolation", "seconds": {...}}`.
    """
    started = time.perf_counter()
    # For tiny matrices a second thread costs more than it saves, and the judge needs the other core.
    torch.set_num_threads(1)
    disable_progress_bar()
    console = Console()
    collector = BeamSampleCollector()
    # The journal of an earlier demo would supply its programs again.
    shutil.rmtree(output / "run", ignore_errors=True)
    trainer = _trainer(collector, _config(output, seed, rounds or ROUNDS, options or {}))
    seconds = {"load": time.perf_counter() - started}
    console.print(
        f"[bold]{trainer.model.num_parameters():,}[/] parameters, {len(collector.tasks or [])} tasks to learn from, "
        f"{len(trainer.eval_dataset)} held out; isolation level of the judge: [bold]{trainer.judge.isolation}[/]"
    )
    with trainer.judge:
        before = _timed(seconds, "evaluate_before", trainer.evaluate)
        _timed(seconds, "train", trainer.train)
        after = _timed(seconds, "evaluate_after", trainer.evaluate)
    seconds["generate"] = sum(report.generate_seconds for report in collector.reports)
    seconds["judge"] = sum(report.judge_seconds for report in collector.reports)
    seconds["total"] = time.perf_counter() - started
    summary = _summary(trainer, collector, before, after, seconds)
    _write(output, trainer, collector, summary, evaluations=[(0, before), (trainer.args.num_train_epochs, after)])
    _show(console, output, summary)
    return summary


def _config(output: Path, seed: int, rounds: int, options: Mapping[str, Any]) -> PPERConfig:
    settings = dict(
        output_dir=str(output / "run"),
        num_train_epochs=rounds,
        steps_per_round=STEPS_PER_ROUND,
        num_beams=3,
        max_completion_length=64,
        generation_batch_size=64,
        prompts="text",
        per_device_train_batch_size=16,
        learning_rate=1e-3,
        judge_cpu_seconds=2.0,
        judge_memory_bytes=2**30,
        seed=seed,
        # The same demo everywhere, whether or not there is a GPU.
        use_cpu=True,
        bf16=False,
        # The run takes seconds and needs no checkpoints.
        save_strategy="no",
        report_to=[],
        logging_steps=STEPS_PER_ROUND,
    )
    # Gradient checkpointing saves memory that a tiny model does not need, and costs time.
    return PPERConfig(**{**settings, CHECKPOINTING: False, **options})


def _trainer(collector: BeamSampleCollector, config: PPERConfig) -> PPERTrainer:
    trainer = PPERTrainer(
        model=AutoModelForCausalLM.from_pretrained(MODEL),
        args=config,
        train_dataset=demo_tasks("train", seed=config.seed),
        eval_dataset=demo_tasks("test", seed=config.seed),
        processing_class=AutoTokenizer.from_pretrained(MODEL),
        callbacks=[collector],
    )
    # Its bar runs over all rounds, and mixes with the bars of the collector.
    trainer.remove_callback(ProgressCallback)
    trainer.add_callback(RoundProgress(trainer))
    return trainer


class RoundProgress(TrainerCallback):  # type: ignore[misc]
    """A callback that shows the training steps of a round as a progress bar.

    Args:
        trainer: Trainer that runs the steps.
    """

    def __init__(self, trainer: PPERTrainer) -> None:
        self._trainer = trainer
        self._bar: Any = None

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Open the bar at the first step of a round."""
        # Not before the first step, because the collection before it has a bar of its own.
        if self._bar is None:
            total = self._trainer.steps_per_round
            self._bar = tqdm(desc="training", total=total, leave=False, dynamic_ncols=True, disable=not shows_bars())

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Advance the bar."""
        if self._bar is not None:
            self._bar.update()

    def on_epoch_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Close the bar."""
        if self._bar is not None:
            self._bar.close()
            self._bar = None


def _timed(seconds: dict[str, float], name: str, work: Callable[[], Any]) -> Any:
    started = time.perf_counter()
    result = work()
    seconds[name] = time.perf_counter() - started
    return result


def _summary(
    trainer: PPERTrainer,
    collector: BeamSampleCollector,
    before: Mapping[str, float],
    after: Mapping[str, float],
    seconds: Mapping[str, float],
) -> dict[str, Any]:
    collected = sum(report.programs - report.unjudged for report in collector.reports)
    return {
        **{name: {"before": before[f"eval_{name}"], "after": after[f"eval_{name}"]} for name in SCORES},
        "programs_judged": int(collected + before["eval_programs"] + after["eval_programs"]),
        "held_out_tasks": int(after["eval_tasks"]),
        "isolation": trainer.judge.isolation,
        "seconds": {name: round(value, 2) for name, value in seconds.items()},
    }


def _write(
    output: Path,
    trainer: PPERTrainer,
    collector: BeamSampleCollector,
    summary: Mapping[str, Any],
    *,
    evaluations: Sequence[tuple[float, Mapping[str, float]]],
) -> None:
    output.mkdir(parents=True, exist_ok=True)
    (output / "summary.json").write_text(json.dumps(summary, indent=2) + "\n")
    write_report(
        output / "report.html",
        trainer.buffer,
        title="trl_pper demo",
        history=history_of(collector.reports, evaluations=evaluations),
        facts={
            "programs judged": f"{summary['programs_judged']:,}",
            "isolation level": summary["isolation"],
            "seconds in all": f"{summary['seconds']['total']:.0f}",
        },
    )


def _show(console: Console, output: Path, summary: Mapping[str, Any]) -> None:
    table = Table(title=f"{summary['held_out_tasks']} held-out tasks")
    for heading in ("", "before", "after", "change"):
        table.add_column(heading, justify="left" if not heading else "right")
    for name, label in SCORES.items():
        before, after = (100 * summary[name][when] for when in ("before", "after"))
        colour = "green" if after >= before else "red"
        table.add_row(label, f"{before:.1f} %", f"{after:.1f} %", f"[{colour}]{after - before:+.1f} points[/]")
    console.print(table)
    seconds = summary["seconds"]
    console.print(
        f"{summary['programs_judged']} programs judged in {seconds['total']:.0f} s in all; "
        f"{output / 'summary.json'}, {output / 'report.html'}"
    )
