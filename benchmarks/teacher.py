"""Learn from a teacher (C1 of the paper): real programs, judged on real tests, fill a buffer that trains a model.

    python benchmarks/teacher.py DATA/dumps/codet_humaneval_codegen16B_k100.dev.jsonl.gz [--steps 60]

The rows hold HumanEval fields and `completions`, a list of a teacher's programs. With `--model` any causal language
model of the Hub is fine-tuned; without it a tiny one is made on the spot, with a tokenizer trained on the prompts and
programs, so that the run needs neither a download nor a GPU.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM

from trl_pper import BeamSampleCollector, DatasetSource, PPERConfig, PPERTrainer, load_tasks
from trl_pper.files import read_rows
from trl_pper.report.history import history_of
from trl_pper.report.page import write_report


def tiny_model(texts: list[str]) -> tuple[Any, Any]:
    """Make a two-layer model and train a small tokenizer for it on the texts."""
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=2000, special_tokens=["<eos>", "<pad>"], initial_alphabet=alphabet, show_progress=False
    )
    backend.train_from_iterator(texts, trainer)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<eos>", pad_token="<pad>")
    torch.manual_seed(0)
    config = Qwen2Config(
        vocab_size=len(tokenizer), hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=2048, tie_word_embeddings=True, eos_token_id=0, bos_token_id=0,
        pad_token_id=1,
    )  # fmt: skip
    return Qwen2ForCausalLM(config), tokenizer


def mean_logprobs(trainer: PPERTrainer, limit: int = 300) -> dict[str, dict[str, float]]:
    """Return the mean token log-probability of passing and of failing programs, when collected and now."""
    student, means = trainer.student, {}
    for name, wanted in (("passing", 1.0), ("failing", 0.0)):
        group = [one for one in trainer.buffer if one.pass_rate == wanted]
        group = group[:: len(group) // limit + 1]
        pairs = [student.encoder.pair(one.prompt, one.completion) for one in group]
        now = student.logprobs([prompt for prompt, _ in pairs], [completion for _, completion in pairs])
        tokens = sum(one.num_tokens or 0 for one in group)
        means[name] = {"before": sum(one.logprob or 0.0 for one in group) / tokens, "after": sum(now) / tokens}
    return means


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("rows", type=Path)
    parser.add_argument("--model", default=None, help="Hub id or path; a tiny model is made when absent")
    parser.add_argument("--steps", type=int, default=60, help="optimizer steps")
    parser.add_argument("--tasks", type=int, default=None, help="use only the first tasks")
    parser.add_argument("--judge_cpu_seconds", type=float, default=3.0, help="CPU time a program has per test")
    parser.add_argument("--output", type=Path, default=Path("outputs/teacher"))
    options = parser.parse_args()

    rows = [row for _, row in read_rows(options.rows)][: options.tasks]
    tasks = load_tasks(rows, format="humaneval")
    if options.model is None:
        torch.set_num_threads(1)
        model, tokenizer = tiny_model([row["prompt"] + text for row in rows for text in row["completions"]])
    else:
        model = AutoModelForCausalLM.from_pretrained(options.model)
        tokenizer = AutoTokenizer.from_pretrained(options.model)
    trainer = PPERTrainer(
        model=model,
        args=PPERConfig(
            output_dir=str(options.output / "run"),
            max_steps=options.steps,
            steps_per_round=options.steps,
            per_device_train_batch_size=16,
            learning_rate=3e-3 if options.model is None else 2e-5,
            priority_exponent=2.0,
            judge_cpu_seconds=options.judge_cpu_seconds,
            bf16=torch.cuda.is_available(),
            gradient_checkpointing=options.model is not None,
            logging_steps=5,
            save_strategy="no",
            report_to=[],
        ),
        train_dataset=tasks,
        processing_class=tokenizer,
        callbacks=[BeamSampleCollector(source=DatasetSource(rows, name="teacher"))],
    )
    with trainer.judge:
        trainer.train()
    (report,) = trainer.collector.reports
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    summary = {
        "tasks": len(tasks),
        "programs": report.programs,
        "distinct_programs": len(trainer.buffer),
        "not_judged": report.unjudged,
        "mean_pass_rate": report.pass_rate,
        "tasks_with_a_passing_program": report.solved,
        "judge_seconds": report.judge_seconds,
        "programs_judged_per_second": report.programs / report.judge_seconds,
        "steps": trainer.state.global_step,
        "loss": {"first": losses[0], "last": losses[-1]},
        "mean_token_logprob": mean_logprobs(trainer),
    }
    options.output.mkdir(parents=True, exist_ok=True)
    (options.output / "summary.json").write_text(json.dumps(summary, indent=2) + "\n")
    history = history_of([report], log=trainer.state.log_history)
    write_report(options.output / "report.html", trainer.buffer, title="Learning from a teacher", history=history)
    table = Table("figure", "value")
    for name, value in summary.items():
        table.add_row(name, json.dumps(value) if isinstance(value, dict) else f"{value:,.4g}")
    Console().print(table)


if __name__ == "__main__":
    main()
