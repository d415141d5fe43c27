"""Measures what an optimizer step of `PPERTrainer` costs beside `SFTTrainer`, and what ordering draws by length saves.

    python benchmarks/step.py --data FOLDER --output outputs/step.json

Both trainers learn from the same judged programs in the same batches; that batches and learned weights are equal is
asserted. Nothing is generated or judged while time is taken, but an epoch (a round) draws and loads. The trainers take
turns step by step (see `step_turns`), so that ratios hold on a machine that does other things too; a second
`SFTTrainer` like the first shows how well. A third learns from the same draws in the order drawn, which shows what
padding costs.

FOLDER holds public benchmark data with programs of real lengths (see `step_programs`); without it only the demo's are
used. The second part counts padded tokens over settings and orders, without a model (see `step_padding`).
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import torch
from environment import snapshot
from numpy.typing import NDArray
from step_padding import describe, draws_in_order, measure
from step_programs import APPS, Row, as_buffer, programs, token_lengths, train_tokenizer
from step_turns import Seconds, train_by_turns
from transformers import Qwen2Config, Qwen2ForCausalLM
from trl import SFTConfig, SFTTrainer

from trl_pper import PPERConfig, PPERTrainer

PPER, SFT, SFT_AGAIN, SFT_AS_DRAWN = "PPERTrainer", "SFTTrainer", "SFTTrainer again", "SFTTrainer, as drawn"
MAX_LENGTH = 1024


def build_model(tokenizer: Any, *, hidden: int, layers: int) -> Qwen2ForCausalLM:
    """Return an untrained model, the same for the same size."""
    torch.manual_seed(0)
    config = Qwen2Config(
        vocab_size=len(tokenizer),
        hidden_size=hidden,
        intermediate_size=3 * hidden,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=MAX_LENGTH,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return Qwen2ForCausalLM(config)


def contenders(rows: list[Row], tokenizer: Any, options: argparse.Namespace, *, hidden: int) -> dict[str, SFTTrainer]:
    """Return the trainers, each with a model of its own."""
    common: dict[str, Any] = {
        "output_dir": tempfile.mkdtemp(prefix="step-"),
        "use_cpu": options.device == "cpu",
        "bf16": False,
        "report_to": [],
        "disable_tqdm": True,
        "logging_strategy": "no",
        "save_strategy": "no",
        "num_train_epochs": 1,
        "max_length": MAX_LENGTH,
        "per_device_train_batch_size": options.batch,
        "gradient_accumulation_steps": options.accumulation,
        "learning_rate": 1e-4,
        "seed": 0,
    }
    size = {"hidden": hidden, "layers": options.layers}
    pper = PPERTrainer(
        build_model(tokenizer, **size),
        PPERConfig(
            **common,
            steps_per_round=options.steps,
            max_completion_length=MAX_LENGTH // 2,
            possibility_weight=0.0,
            priority_exponent=1.0,
        ),
        train_dataset=datasets.Dataset.from_list([{**row, "logprob": None} for row in rows]),
        processing_class=tokenizer,
    )
    setting = (options.batch, options.accumulation, 1)
    as_drawn = draws_in_order(pper.buffer, np.ones_like, steps=options.steps, setting=setting)
    found: dict[str, SFTTrainer] = {PPER: pper}
    ordered = list(pper._get_train_sampler())
    for name, positions in ((SFT, ordered), (SFT_AGAIN, ordered), (SFT_AS_DRAWN, as_drawn.ravel().tolist())):
        drawn = [pper.buffer[position] for position in positions]
        found[name] = SFTTrainer(
            build_model(tokenizer, **size),
            SFTConfig(**common, completion_only_loss=True, train_sampling_strategy="sequential"),
            train_dataset=datasets.Dataset.from_list(
                [{"prompt": one.prompt, "completion": one.completion} for one in drawn]
            ),
            processing_class=tokenizer,
        )
    return found


def assert_same_batches(ours: SFTTrainer, theirs: SFTTrainer) -> None:
    """Raise AssertionError unless both load the same batches in the same order."""
    for one, other in zip(ours.get_train_dataloader(), theirs.get_train_dataloader(), strict=True):
        assert one.keys() == other.keys(), (one.keys(), other.keys())
        assert all(torch.equal(one[name], other[name]) for name in other)


def assert_same_weights(ours: SFTTrainer, theirs: SFTTrainer) -> None:
    """Raise AssertionError unless both learned the same: on a CPU to the bit."""
    for one, other in zip(ours.model.parameters(), theirs.model.parameters(), strict=True):
        assert torch.equal(one, other) if one.device.type == "cpu" else torch.allclose(one, other, atol=1e-3)


def time_steps(rows: list[Row], tokenizer: Any, options: argparse.Namespace, *, hidden: int) -> dict[str, Any]:
    """Train by turns; return milliseconds per optimizer step and their ratios."""
    found = contenders(rows, tokenizer, options, hidden=hidden)
    assert_same_batches(found[PPER], found[SFT])
    seconds = train_by_turns(found, epochs=options.repetitions)
    assert {trainer.state.global_step for trainer in found.values()} == {options.steps}
    assert_same_weights(found[PPER], found[SFT])
    return {"parameters": found[PPER].model.num_parameters(), **summary(seconds)}


def summary(seconds: dict[str, Seconds]) -> dict[str, Any]:
    """Return milliseconds per step and the ratios to `SFTTrainer`, of wall time and of CPU time."""
    result: dict[str, Any] = {}
    for kind in ("wall", "cpu"):
        result[f"{kind}_milliseconds_per_step"] = {
            name: spread(1000 * of[kind].mean(axis=1)) for name, of in seconds.items()
        }
        result[f"{kind}_ratio_to_sft"] = {
            name: ratio(of[kind], seconds[SFT][kind]) for name, of in seconds.items() if name != SFT
        }
    return result


def ratio(ours: NDArray[np.float64], theirs: NDArray[np.float64]) -> dict[str, float]:
    """Return how many times as long our steps last, each beside the step of theirs that ran just before or after.

    Args:
        ours: Seconds, shape [epochs, steps].
        theirs: Likewise.

    Returns:
        "of_medians": the ratio of an epoch of median steps, which holds what only the first step of an epoch does;
        and the spread of the ratios of single steps.
    """
    of_medians = float(np.median(ours, axis=0).sum() / np.median(theirs, axis=0).sum())
    return {"of_medians": round(of_medians, 5), **spread((ours / theirs).ravel())}


def spread(values: NDArray[np.float64]) -> dict[str, float]:
    """Return median, quartiles, least and most."""
    names = ("least", "quartile_1", "median", "quartile_3", "most")
    quantiles = np.quantile(values, [0, 0.25, 0.5, 0.75, 1]).round(5).tolist()
    return dict(zip(names, quantiles, strict=True))


def count_padding(found: dict[str, list[Row]], steps: int) -> dict[str, Any]:
    """Return the padding of every source of programs."""
    result = {}
    for source, rows in found.items():
        buffer = as_buffer(rows)
        lengths = np.minimum(token_lengths(buffer, train_tokenizer(rows)), MAX_LENGTH)
        result[source] = {"tokens": describe(lengths), "settings": measure(buffer, lengths, steps=steps)}
    return result


def table(result: dict[str, Any]) -> str:
    """Return the results as text."""
    lines = []
    for name, of in result["steps"].items():
        for kind in ("wall", "cpu"):
            for contender, values in of[f"{kind}_milliseconds_per_step"].items():
                lines.append(
                    f"{name}, {kind}, {contender}: {values} ms {of[f'{kind}_ratio_to_sft'].get(contender, '')}"
                )
    for source, of in result["padding"].items():
        lines.append(f"{source}: {of['tokens']}")
        for record in of["settings"]:
            cut = " x ".join(str(record[name]) for name in ("per_device_batch", "accumulation", "processes"))
            waste = {name: each["padded_or_waited"] for name, each in record["wasted_per_token"].items()}
            lines.append(f"  {cut:11} padded or waited {waste}")
    return "\n".join(lines)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=None, help="folder of public benchmark data")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--threads", type=int, default=1, help="threads of torch on a CPU")
    parser.add_argument("--hidden", type=int, nargs="+", default=[32, 128], help="hidden sizes of the models timed")
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--batch", type=int, default=4, help="rows of a micro-batch in the timed part")
    parser.add_argument("--accumulation", type=int, default=2)
    parser.add_argument("--steps", type=int, default=10, help="optimizer steps of a timed epoch")
    parser.add_argument("--repetitions", type=int, default=20)
    parser.add_argument("--programs", type=int, default=1000, help="most programs in the timed part's buffer")
    parser.add_argument("--padding-steps", type=int, default=200, help="optimizer steps whose padding is counted")
    parser.add_argument("--output", type=Path, default=None, help="JSON file to write")
    return parser.parse_args()


def main() -> None:
    options = parse()
    torch.set_num_threads(options.threads)
    datasets.disable_progress_bars()
    environment = {**snapshot(), "threads": options.threads, "device": options.device}
    if options.device == "cuda":
        environment["gpu"] = torch.cuda.get_device_name()
    found = programs(options.data)
    # Programs of APPS are few and their prompts long; what is timed is the source with the most programs.
    timed = max((name for name in found if name != APPS), key=lambda name: len(found[name]))
    rows = found[timed][:: max(1, len(found[timed]) // options.programs)][: options.programs]
    tokenizer = train_tokenizer(found[timed])
    given = {name: value for name, value in vars(options).items() if name not in ("data", "output")}
    result: dict[str, Any] = {"environment": environment, "options": given, "timed_programs": timed}
    result["padding"] = count_padding(found, options.padding_steps)
    result["steps"] = {
        f"hidden {hidden}": time_steps(rows, tokenizer, options, hidden=hidden) for hidden in options.hidden
    }
    print(table(result))
    if options.output is not None:
        options.output.parent.mkdir(parents=True, exist_ok=True)
        options.output.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
