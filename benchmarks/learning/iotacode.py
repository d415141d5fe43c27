"""Compares trainers on the programs of one buffer: SFT, preferences, a reward model with GRPO, and PPER.

    python benchmarks/learning/iotacode.py --workers 2 --output benchmarks/results/iotacode.json

The comparison is that of the paper on IotaCode, on the tiny models of the learning bench: every way generates the same
number of programs and takes the same number of optimizer steps of the same number of rows. What passes on held-out
tasks is counted over many samples. A seed and a way make a file in the folder, and the command makes the missing ones;
`--runs` keeps the figures in a file of lines, whose runs are not made again.
"""

from __future__ import annotations

import argparse
import functools
import json
import multiprocessing
import os
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from base_models import BASE_SEEDS, REGIMES, base_model
from contenders import ALIKE, BATCH_SIZE, LEARNING_RATE, TASKS
from datasets import Dataset
from families import FAMILIES
from learners import (
    EVALUATION_BEAMS,
    GENERATIONS,
    GRPO_LEARNING_RATE,
    LIMITS,
    MAX_COMPLETION_LENGTH,
    beams,
    collected,
    loaded,
)
from tables import cell_of, interval, keep, kept_runs, merged, with_filled
from transformers import AutoModelForSequenceClassification, AutoTokenizer
from trl import (
    DPOConfig,
    DPOTrainer,
    GRPOConfig,
    KTOConfig,
    KTOTrainer,
    RewardConfig,
    RewardTrainer,
    SFTConfig,
    SFTTrainer,
)

from trl_pper import (
    CodingTask,
    Judge,
    NucleusSource,
    PPERConfig,
    PPERTrainer,
    ReplayBuffer,
    ReplayGRPOTrainer,
    count_task,
    demo,
    evaluate_tasks,
    extract_program,
    label_weights,
    pass_rate_reward,
    sum_up,
    task_rows,
)

#: Programs of a task from one collection; ways that write on-policy leave a part of them to their training.
PROGRAMS, PROGRAMS_BEFORE = 9, 5
#: Optimizer steps in all, and those of the trainer behind a warm-up. GRPO writes BATCH_SIZE programs in each.
STEPS = 150
SECOND_STEPS = TASKS * (PROGRAMS - PROGRAMS_BEFORE) // BATCH_SIZE
#: Steps of the reward model, which come on top.
REWARD_STEPS = 75
#: A pair is two rows of a minibatch.
PAIRED = {"per_device_train_batch_size": BATCH_SIZE // 2}
#: Samples of a held-out task, and the numbers of them that are counted.
SAMPLES = 1000
SAMPLED_TASKS = 20
AT = (1, 10, 100, 1000)
#: Completions that are sampled at once.
SAMPLING_BATCH = 500


@dataclass(frozen=True, kw_only=True)
class Setting:
    """What the ways of a table have alike.

    Args:
        family: The family of the tasks.
        regime: How often the base model passes.
        source: Who writes the collection: the base model, or one that passes often.
        tuning: Whether the runs are for a choice of rates.
        samples: Samples of a held-out task in an evaluation.
    """

    family: str
    regime: str
    source: Literal["self", "teacher"]
    tuning: bool = False
    samples: int = SAMPLES

    @property
    def name(self) -> str:
        """Return the name, for files and tables."""
        parts = [self.family, self.regime]
        parts += ["teacher"] * (self.source == "teacher") + ["tuning"] * self.tuning
        parts += [f"{self.samples} samples"] * (self.samples != SAMPLES)
        return ", ".join(parts)


Method = Literal["sft", "pper", "dpo", "orpo", "kto", "grpo"]


@dataclass(frozen=True, kw_only=True)
class Stage:
    """A training run within a way.

    Args:
        method: The trainer.
        steps: Its optimizer steps.
        options: Options of its configuration.
        reward: Who rewards in GRPO: the judge, or a reward model of the same buffer, warmed up or not.
        replayed: Replayed successes in a group of GRPO.
    """

    method: Method
    steps: int = STEPS
    options: Mapping[str, Any] = field(default_factory=dict, hash=False)
    reward: Literal["judge", "model"] = "judge"
    replayed: int = 0


#: The best of RATES on a seed that the table has not (`--tuning`); GRPO's is that of the learning bench.
RATE: dict[str, float] = {"dpo": 1e-5, "orpo": 5e-4, "kto": 1e-5, "grpo": GRPO_LEARNING_RATE}
RATES = (1e-5, 1e-4, 5e-4)


def _second(method: Method, first: Method = "sft", **stage: Any) -> tuple[Stage, ...]:
    """Return a warm-up and a second stage at the rate of its method, together of STEPS steps."""
    options = {"learning_rate": RATE[method], **stage.pop("options", {})}
    return (
        Stage(method=first, steps=STEPS - SECOND_STEPS),
        Stage(method=method, steps=SECOND_STEPS, options=options, **stage),
    )


WAYS: dict[str, tuple[Stage, ...]] = {
    "no training": (),
    "SFT": (Stage(method="sft"),),
    "SFT, DPO, beta 0.1": _second("dpo", options={"beta": 0.1}),
    "SFT, DPO, beta 0.5": _second("dpo", options={"beta": 0.5}),
    "SFT, ORPO": _second("orpo"),
    "SFT, KTO": _second("kto"),
    "SFT, GRPO on the reward model": _second("grpo", reward="model"),
    "SFT, GRPO on the judge": _second("grpo"),
    "PPER": (Stage(method="pper"),),
    "PPER, pass rates only": (Stage(method="pper", options={"possibility_weight": 0.0}),),
    "PPER, filter": (Stage(method="pper", options={"priority": "filter"}),),
    "PPER, GRPO": _second("grpo", "pper"),
    "PPER, GRPO, 1 of 4 replayed": _second("grpo", "pper", replayed=1),
}
MAIN = tuple(WAYS)
TUNING = {
    f"SFT, {method.upper()}, rate {rate}": _second(method, options={"learning_rate": rate})
    for method in ("dpo", "orpo", "kto")
    for rate in RATES
}
WAYS |= TUNING
TUNING_SEED = 20


class Bench:
    """The parts that the ways of a seed share: base model, tasks, collections, warmed-up models, the reward model."""

    def __init__(self, setting: Setting, seed: int, *, bases: Path, folder: Path, judge: Judge, quick: bool) -> None:
        self.setting, self.seed, self.folder, self.judge, self.quick = setting, seed, folder, judge, quick
        tasks = FAMILIES[setting.family].tasks
        self.model, self.writer = (
            demo.MODEL if quick else base_model(setting.family, name, seed=seed % BASE_SEEDS, cache=bases)
            for name in (setting.regime, setting.regime if setting.source == "self" else "common")
        )
        self.tasks = tasks("train", seed=seed, count=12 if quick else TASKS, tests=8)
        self.held_out = tasks("test", seed=seed, count=4 if quick else TASKS, tests=8)

    @functools.cache  # noqa: B019 - a seed's bench lives as long as its process
    def buffer(self, programs: int) -> ReplayBuffer:
        """Return a collection with a number of programs for each task, by beam search."""
        return self._collected(self.tasks, self.writer, programs)

    @functools.cache  # noqa: B019
    def trained(self, stages: tuple[Stage, ...], programs: int) -> Path:
        """Return the folder of the model after some stages; equal first stages are trained once."""
        if not stages:
            return self.model
        model = self.trained(stages[:-1], programs)
        return TRAINERS[stages[-1].method](self, stages[-1], model, programs)

    @functools.cache  # noqa: B019
    def reward_model(self, warm: bool) -> tuple[Path, float]:
        """Return a reward model of the smaller collection, and its accuracy on pairs of held-out tasks."""
        start = self.trained(_second("dpo")[:1], PROGRAMS_BEFORE) if warm else self.model
        tokenizer = AutoTokenizer.from_pretrained(start)
        model = AutoModelForSequenceClassification.from_pretrained(
            start, num_labels=1, pad_token_id=tokenizer.pad_token_id
        )
        unseen = self._collected(self.held_out, self.model, PROGRAMS)
        trainer = RewardTrainer(
            model,
            RewardConfig(**self.common("reward", REWARD_STEPS) | PAIRED),
            train_dataset=self.buffer(PROGRAMS_BEFORE).to_reward_model("mixed", pairs_per_task=4, seed=self.seed),
            eval_dataset=unseen.to_reward_model("random", pairs_per_task=4, seed=self.seed),
            processing_class=tokenizer,
        )
        trainer.train()
        accuracy = trainer.evaluate()["eval_accuracy"]
        return self._saved(trainer, tokenizer), accuracy

    def common(self, name: str, steps: int) -> dict[str, Any]:
        """Return the options that all trainers have alike."""
        return {
            "output_dir": str(self.folder / name),
            "learning_rate": LEARNING_RATE,
            "max_steps": 2 if self.quick else steps,
            "per_device_train_batch_size": BATCH_SIZE,
            "seed": self.seed,
            **ALIKE,
        }

    def finish(self, trainer: Any, tokenizer: Any) -> Path:
        """Train, and return the folder of the model."""
        trainer.train()
        return self._saved(trainer, tokenizer)

    def _saved(self, trainer: Any, tokenizer: Any) -> Path:
        # From a folder of its own, so that a trainer finds the reference model by the model's name.
        folder = Path(tempfile.mkdtemp(dir=self.folder))
        trainer.model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        return folder

    def _collected(self, tasks: Sequence[CodingTask], model: Path, programs: int) -> ReplayBuffer:
        return collected(tasks, beams(*loaded(model), programs), self.judge, seed=self.seed)[0]

    def scores(self, model: Path) -> dict[str, Any]:
        """Return what a model solves by beams on all held-out tasks, and by samples on the first of them."""
        student, tokenizer = loaded(model)
        by_beams = evaluate_tasks(self.held_out, beams(student, tokenizer, EVALUATION_BEAMS), self.judge)
        samples = 20 if self.quick else self.setting.samples
        source = NucleusSource(
            student, tokenizer, num_programs=samples, max_completion_length=MAX_COMPLETION_LENGTH, batch_size=1,
            max_sequences=SAMPLING_BATCH, top_p=1.0, seed=self.seed, with_logprobs=False,
        )  # fmt: skip
        tasks = self.held_out[:SAMPLED_TASKS]
        counts = []
        for task, written in zip(tasks, source.generate(tasks), strict=True):
            texts = [extract_program(one.completion, prompt=task.prompt) for one in written]
            # Most samples of a tiny model are equal; the verdict of one is that of all.
            distinct = list(dict.fromkeys(texts))
            verdicts = dict(zip(distinct, self.judge.run([(task, distinct)])[0], strict=True))
            counts.append(count_task([verdicts[text] for text in texts], task_id=task.task_id))
        figures = sum_up(counts, k=[k for k in AT if k <= samples])
        return {
            "tasks": len(self.held_out),
            "solved": round(by_beams.accuracy * by_beams.tasks),
            "any_of_3": round(by_beams.solved * by_beams.tasks),
            "sampled_tasks": len(tasks),
            "pass@k": {str(k): one.value for k, one in figures.pass_at_k.items()},
            "compile_rate": figures.compile_rate,
            "unjudged": figures.unjudged + by_beams.unjudged,
        }


def _trained_sft(bench: Bench, stage: Stage, model: Path, programs: int) -> Path:
    return _given(bench, SFTTrainer, _config(bench, SFTConfig, stage), model, bench.buffer(programs).to_sft())


def _trained_dpo(bench: Bench, stage: Stage, model: Path, programs: int) -> Path:
    return _given(bench, DPOTrainer, _config(bench, DPOConfig, stage, PAIRED), model, _pairs(bench, programs))


def _trained_orpo(bench: Bench, stage: Stage, model: Path, programs: int) -> Path:
    # TRL warns on import that its experimental trainers may change; `run_seed` asks for silence first.
    from trl.experimental.orpo import ORPOConfig, ORPOTrainer

    return _given(bench, ORPOTrainer, _config(bench, ORPOConfig, stage, PAIRED), model, _pairs(bench, programs))


def _trained_kto(bench: Bench, stage: Stage, model: Path, programs: int) -> Path:
    rows = bench.buffer(programs).to_unpaired(seed=bench.seed)
    return _given(bench, KTOTrainer, _config(bench, KTOConfig, stage, label_weights(rows["label"])), model, rows)


def _trained_pper(bench: Bench, stage: Stage, model: Path, programs: int) -> Path:
    steps = 2 if bench.quick else stage.steps
    settings = {"max_steps": -1, "num_train_epochs": 1, "steps_per_round": steps}
    config = _config(bench, PPERConfig, stage, settings)
    return _given(bench, PPERTrainer, config, model, bench.buffer(programs).to_dataset())


def _trained_grpo(bench: Bench, stage: Stage, model: Path, programs: int) -> Path:
    settings = {"num_generations": GENERATIONS, "max_completion_length": MAX_COMPLETION_LENGTH}
    return _given(
        bench,
        ReplayGRPOTrainer,
        _config(bench, GRPOConfig, stage, settings),
        model,
        Dataset.from_list(task_rows(bench.tasks)),
        reward_funcs=pass_rate_reward(bench.judge) if stage.reward == "judge" else str(bench.reward_model(True)[0]),
        buffer=bench.buffer(programs),
        replayed_generations=stage.replayed,
    )


def _config(bench: Bench, kind: Any, stage: Stage, settings: Mapping[str, Any] | None = None) -> Any:
    return kind(**bench.common(stage.method, stage.steps) | dict(settings or {}) | dict(stage.options))


def _pairs(bench: Bench, programs: int) -> Dataset:
    return bench.buffer(programs).to_preferences("mixed", pairs_per_task=4, seed=bench.seed)


def _given(bench: Bench, kind: Any, config: Any, model: Path, rows: Dataset, **more: Any) -> Path:
    student, tokenizer = loaded(model)
    return bench.finish(kind(student, args=config, train_dataset=rows, processing_class=tokenizer, **more), tokenizer)


TRAINERS = {
    "sft": _trained_sft,
    "pper": _trained_pper,
    "dpo": _trained_dpo,
    "orpo": _trained_orpo,
    "kto": _trained_kto,
    "grpo": _trained_grpo,
}


def run_seed(setting: Setting, seed: int, ways: Sequence[str], *, folder: Path, quick: bool) -> None:
    """Make the runs of a seed, a file for each."""
    torch.set_num_threads(1)
    os.environ["TRL_EXPERIMENTAL_SILENCE"] = "1"
    with tempfile.TemporaryDirectory() as scratch, Judge(1, limits=LIMITS) as judge:
        bench = Bench(setting, seed, bases=folder / "bases", folder=Path(scratch), judge=judge, quick=quick)
        for name in ways:
            started = time.perf_counter()
            stages = WAYS[name]
            on_policy = any(stage.method == "grpo" for stage in stages)
            programs = PROGRAMS_BEFORE if on_policy else PROGRAMS
            figures = bench.scores(bench.trained(stages, programs))
            if any(stage.reward == "model" for stage in stages):
                figures["reward_accuracy"] = bench.reward_model(True)[1]
                figures["reward_accuracy_without_warm_up"] = bench.reward_model(False)[1]
            run = {"setting": setting.name, "contender": name, "seed": seed, **figures}
            run["seconds"] = round(time.perf_counter() - started, 1)
            path = _file(folder, setting.name, name, seed)
            path.with_suffix(".part").write_text(json.dumps(run) + "\n")
            path.with_suffix(".part").rename(path)
            print(f"{path.stem}: {figures['solved']} of {figures['tasks']}, {run['seconds']} s", flush=True)


def _file(folder: Path, setting: str, name: str, seed: int) -> Path:
    return folder / f"iotacode - {setting} - {name} - seed {seed}.json"


def summarise(runs: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return a row for each setting and way: means over seeds in per cent, with 95 % bootstrap intervals."""
    groups: dict[tuple[str, str], list[Mapping[str, Any]]] = defaultdict(list)
    for run in runs:
        groups[run["setting"], run["contender"]].append(run)
    rows = []
    for (setting, name), found in groups.items():
        row: dict[str, Any] = {"setting": setting, "way": name, "seeds": len(found)}
        row["solved"] = _with_interval([run["solved"] / run["tasks"] for run in found])
        row["any_of_3"] = _with_interval([run["any_of_3"] / run["tasks"] for run in found])
        for k in found[0]["pass@k"]:
            row[f"pass@{k}"] = _with_interval([run["pass@k"][k] for run in found])
        row["compile_rate"] = _with_interval([run["compile_rate"] for run in found])
        for key in ("reward_accuracy", "reward_accuracy_without_warm_up"):
            if key in found[0]:
                row[key] = _with_interval([run[key] for run in found])
        rows.append(row)
    return rows


def _with_interval(shares: Sequence[float]) -> dict[str, Any]:
    values = 100 * np.array(shares)
    return {"mean": round(float(values.mean()), 1), "interval": [round(bound, 1) for bound in interval(values)]}


def table(rows: Sequence[Mapping[str, Any]], setting: str) -> str:
    """Return the rows of a setting as a Markdown table, the way that solves most first."""
    chosen = sorted((row for row in rows if row["setting"] == setting), key=lambda row: -row["solved"]["mean"])
    numbers = [name for name in chosen[0] if name.startswith("pass@")]
    heads = ["way", "seeds", "solved, %", "interval", "any of 3", *numbers, "compile rate"]
    lines = [f"| {' | '.join(heads)} |", "|" + "---|" * len(heads)]
    for row in chosen:
        low, high = row["solved"]["interval"]
        cells = [row["way"], row["seeds"], row["solved"]["mean"], f"{low} to {high}"]
        cells += [row[name]["mean"] for name in ("any_of_3", *numbers, "compile_rate")]
        lines.append(f"| {' | '.join(map(str, cells))} |")
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> None:
    """Make the missing runs, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--tuning", action="store_true", help="compare rates, from seed 20 on")
    parser.add_argument("--ways", nargs="+", default=None, choices=list(WAYS), metavar="NAME")
    parser.add_argument("--family", default="lists", choices=list(FAMILIES))
    parser.add_argument("--regime", default="almost_none", choices=REGIMES, help="how often the base model passes")
    parser.add_argument("--source", default="self", choices=["self", "teacher"], help="who writes the collection")
    parser.add_argument("--samples", type=int, default=SAMPLES, help="samples of a held-out task in an evaluation")
    parser.add_argument("--workers", type=int, default=2, help="processes, each with one thread")
    parser.add_argument("--folder", type=Path, default=Path("outputs/iotacode"))
    parser.add_argument("--runs", type=Path, default=None, help="JSONL file that keeps the runs, read and renewed")
    parser.add_argument("--output", type=Path, default=None, help="JSON file to write")
    parser.add_argument("--page", type=Path, default=None, help="page in Markdown whose tables to renew")
    parser.add_argument("--quick", action="store_true", help="two steps, one seed, few samples: does it run?")
    options = parser.parse_args(arguments)
    folder = options.folder / "quick" if options.quick else options.folder
    folder.mkdir(parents=True, exist_ok=True)
    made = {cell_of(run) for run in kept_runs(options.runs)} if options.runs else set()
    first = TUNING_SEED if options.tuning else options.first_seed
    seeds = range(first, first + (1 if options.quick else options.seeds))
    ways = options.ways or list(TUNING if options.tuning else MAIN)
    setting = Setting(
        family=options.family,
        regime=options.regime,
        source=options.source,
        tuning=options.tuning,
        samples=options.samples,
    )
    wanted = {
        seed: [
            name
            for name in ways
            if (setting.name, name, seed) not in made and not _file(folder, setting.name, name, seed).exists()
        ]
        for seed in seeds
    }
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(options.workers, mp_context=context) as pool:
        running = [
            pool.submit(run_seed, setting, seed, names, folder=folder, quick=options.quick)
            for seed, names in wanted.items()
            if names
        ]
        # An error ends the command behind the other seeds, whose files stay.
        errors = [error for one in running if (error := one.exception()) is not None]
    found = [json.loads(path.read_text()) for path in sorted(folder.glob("iotacode - *.json"))]
    runs = merged(options.runs, found)
    if options.runs is not None:
        keep(options.runs, runs)
    rows = summarise(runs)
    for name in dict.fromkeys(row["setting"] for row in rows):
        print(f"\n{name}\n\n{table(rows, name)}")
    if options.page is not None:
        page = options.page.read_text(encoding="utf-8")
        options.page.write_text(with_filled(page, "iotacode", lambda name: table(rows, name)), encoding="utf-8")
    if options.output is not None:
        sys.path.insert(0, str(Path(__file__).parents[1]))
        from environment import snapshot, write_result

        write_result(options.output, {"environment": snapshot(), "table": rows})
    if errors:
        raise errors[0]


if __name__ == "__main__":
    main()
