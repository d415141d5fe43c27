"""Tries on a GPU what only a GPU can show, and writes what held and how fast it was.

    python benchmarks/gpu_smoke.py MODEL TASKS --output benchmarks/results/gpu_smoke.json

Trains a round in bfloat16 with gradient checkpointing and a collection before it, with a 4-bit QLoRA adapter, and
under FSDP2 on a single device; and measures new tokens per second of each source against plain `generate`. A part that
fails is written with its error, and the others go on. With `--device cpu` the parts run on a CPU, to try the script.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from environment import snapshot, write_result
from peft import LoraConfig
from transformers import AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig

from trl_pper import BeamSearchSource, NucleusSource, PPERConfig, PPERTrainer, as_chat, load_tasks

FSDP = Path(__file__).parents[1] / "examples" / "accelerate" / "fsdp.yaml"


def config(options: argparse.Namespace, folder: str, **more: Any) -> PPERConfig:
    """Return the configuration of a round of a few steps."""
    cpu = options.device == "cpu"
    settings: dict[str, Any] = {
        "output_dir": folder,
        "num_train_epochs": 1,
        "steps_per_round": options.steps,
        "per_device_train_batch_size": 4,
        "max_completion_length": options.max_completion_length,
        "max_length": None,
        "generation_batch_size": 16,
        "gradient_checkpointing": True,
        "bf16": not cpu,
        "use_cpu": cpu,
        "save_strategy": "no",
        "report_to": [],
        "disable_tqdm": True,
        "logging_steps": 1,
    }
    return PPERConfig(**settings | more)


def train(options: argparse.Namespace, **more: Any) -> dict[str, Any]:
    """Train a round, and return its figures."""
    if options.device != "cpu":
        torch.cuda.reset_peak_memory_stats()
    with tempfile.TemporaryDirectory() as folder:
        trainer = PPERTrainer(
            options.model,
            config(options, folder),
            train_dataset=load_tasks(options.tasks)[: options.limit],
            **more,
        )
        before = {
            name: value.detach().clone() for name, value in trainer.model.named_parameters() if value.requires_grad
        }
        with trainer.judge:
            trainer.train()
        after = dict(trainer.model.named_parameters())
    changed = sum(not torch.equal(value, after[name]) for name, value in before.items())
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    # NaN is no number at all.
    if not changed or any(loss != loss for loss in losses):
        raise RuntimeError(f"{changed} of {len(before)} parameters changed, losses {losses}")
    report = trainer.collector.reports[0]
    return {
        "losses": [round(loss, 4) for loss in losses],
        "parameters_changed": f"{changed} of {len(before)}",
        "programs": report.programs,
        "solved": report.solved,
        "collect_seconds": round(report.collect_seconds, 1),
        "judge_seconds": round(report.judge_seconds, 1),
        "dtype": str(next(iter(before.values())).dtype),
        "peak_gigabytes": None if options.device == "cpu" else round(torch.cuda.max_memory_allocated() / 1e9, 2),
    }


def qlora(options: argparse.Namespace) -> dict[str, Any]:
    """Train a round of an adapter on weights of 4 bits."""
    compute = torch.float32 if options.device == "cpu" else torch.bfloat16
    quantised = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=compute)
    adapter = LoraConfig(r=8, lora_alpha=16, target_modules="all-linear")
    return train(options, peft_config=adapter, quantization_config=quantised)


def fsdp(options: argparse.Namespace) -> dict[str, Any]:
    """Train a round under FSDP2 in a process of its own, as `accelerate launch` starts it."""
    launcher = [
        "-m",
        "accelerate.commands.accelerate_cli",
        "launch",
        "--config_file",
        str(FSDP),
        "--num_processes",
        "1",
    ]
    own = [__file__, options.model, str(options.tasks), "--part", "bf16", "--device", options.device]
    own += ["--limit", str(options.limit), "--steps", str(options.steps)]
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "part.json"
        found = subprocess.run(
            [sys.executable, *launcher, *own, "--output", str(file)], capture_output=True, text=True, timeout=300
        )
        if found.returncode:
            raise RuntimeError(found.stderr[-2000:])
        (part,) = json.loads(file.read_text())["parts"]
    return dict(part)


def engines(options: argparse.Namespace) -> dict[str, Any]:
    """Return new tokens per second of each source and of plain `generate` with the same settings."""
    dtype = torch.float32 if options.device == "cpu" else torch.bfloat16
    model = AutoModelForCausalLM.from_pretrained(options.model, dtype=dtype).to(options.device).eval()
    tokenizer = AutoTokenizer.from_pretrained(options.model, padding_side="left")
    tasks = load_tasks(options.tasks)[: options.limit]
    tasks = as_chat(tasks) if tokenizer.chat_template else tasks
    length = {"max_completion_length": options.max_completion_length}
    sources: dict[str, Any] = {
        "beam search": BeamSearchSource(model, tokenizer, num_beams=3, batch_size=16, **length),
        "nucleus sampling": NucleusSource(model, tokenizer, num_programs=3, batch_size=16, **length),
    }
    plain: dict[str, dict[str, Any]] = {
        "beam search": {"num_beams": 3, "num_return_sequences": 3, "do_sample": False},
        "nucleus sampling": {"num_return_sequences": 3, "do_sample": True, "temperature": 0.8, "top_p": 0.95},
    }
    figures: dict[str, Any] = {}
    for name, source in sources.items():
        list(source.generate(tasks[:16]))
        began = time.perf_counter()
        written = [one for programs in source.generate(tasks) for one in programs]
        ours = sum(one.num_tokens or 0 for one in written) / (time.perf_counter() - began)
        began, tokens = time.perf_counter(), 0
        for first in range(0, len(tasks), 16):
            prompts = [task.prompt for task in tasks[first : first + 16]]
            if tokenizer.chat_template:
                prompts = tokenizer.apply_chat_template(prompts, tokenize=False, add_generation_prompt=True)
            rows = tokenizer(prompts, return_tensors="pt", padding=True, add_special_tokens=False).to(options.device)
            with torch.no_grad():
                ids = model.generate(
                    **rows,
                    max_new_tokens=options.max_completion_length,
                    pad_token_id=tokenizer.pad_token_id or tokenizer.eos_token_id,
                    **plain[name],
                )
            tokens += int((ids[:, rows["input_ids"].size(1) :] != tokenizer.pad_token_id).sum())
        theirs = tokens / (time.perf_counter() - began)
        figures[name] = {
            "tokens_per_second": round(ours),
            "plain_generate": round(theirs),
            "ratio": round(ours / theirs, 2),
        }
    return figures


PARTS: dict[str, Callable[[argparse.Namespace], dict[str, Any]]] = {
    "bf16": train, "qlora": qlora, "fsdp": fsdp, "engines": engines
}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", help="folder or id of a model")
    parser.add_argument("tasks", type=Path, help="file of tasks")
    parser.add_argument("--part", nargs="+", default=list(PARTS), choices=list(PARTS))
    parser.add_argument("--limit", type=int, default=64, help="number of tasks")
    parser.add_argument("--steps", type=int, default=8, help="optimizer steps")
    parser.add_argument("--max-completion-length", type=int, default=160)
    parser.add_argument("--device", default="cuda", choices=["cuda", "cpu"])
    parser.add_argument("--output", type=Path, default=None, help="JSON file to write")
    options = parser.parse_args()
    parts = []
    for name in options.part:
        began = time.perf_counter()
        try:
            figures = {"holds": True, **PARTS[name](options)}
        except Exception as error:
            traceback.print_exc()
            figures = {"holds": False, "error": f"{type(error).__name__}: {error}"[:500]}
        parts.append({"part": name, **figures, "seconds": round(time.perf_counter() - began, 1)})
        print(json.dumps(parts[-1]), flush=True)
    device = torch.cuda.get_device_name() if options.device == "cuda" else "cpu"
    write_result(options.output, {"environment": snapshot(), "device": device, "parts": parts})
    if not all(part["holds"] for part in parts):
        sys.exit(1)


if __name__ == "__main__":
    main()
