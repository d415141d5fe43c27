"""Measures what an optimizer step of `PPERTrainer` costs beside `SFTTrainer`, and what ordering draws by length saves.

    python benchmarks/step.py --data FOLDER --output outputs/step.json

Both trainers learn from the same judged programs in the same batches; that batches and learned weights are equal is
asserted. Nothing is generated or judged while time is taken, but an epoch (a round) draws and loads. The trainers take
turns step by step (see `step_turns`), so that ratios hold on a machine that does other things too; a second
`SFTTrainer` like the first shows how well. A third learns from the same draws in the order drawn, which shows what
padding costs.

FOLDER holds public benchmark data with programs of real lengths (see `step_programs`); without it only the demo's are
used. Trainers are made anew in another order every so often, because the place of tensors in memory alone makes one
faster or slower by several per cent; the functions called are counted too, which nothing disturbs. The second part
counts padded tokens over settings and orders, without a model (see `step_padding`).
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import torch
from environment import snapshot, write_result
from numpy.typing import NDArray
from step_contenders import (
    MAX_LENGTH,
    PPER,
    SFT,
    Contenders,
    assert_same_batches,
    assert_same_weights,
    function_calls,
    round_seconds,
)
from step_padding import describe, measure
from step_programs import APPS, Row, as_buffer, programs, token_lengths, train_tokenizer
from step_turns import Seconds, train_by_turns

KINDS = ("wall", "cpu")
BY_CASTING, PER_ROUND = "cpu_ratio_to_sft_by_casting", "milliseconds_to_draw_and_order_a_round"
CALLS = "function_calls_per_epoch"


def time_steps(rows: list[Row], tokenizer: Any, options: argparse.Namespace, *, hidden: int) -> dict[str, Any]:
    """Train by turns, with new trainers every so often; return milliseconds per optimizer step and their ratios."""
    contenders = Contenders(rows, tokenizer, options, hidden=hidden)
    measured: list[dict[str, Seconds]] = []
    for casting in range(options.castings):
        found = contenders.build(first=casting)
        if not casting:
            assert_same_batches(found[PPER], found[SFT])
        measured.append(train_by_turns(found, epochs=options.repetitions))
        assert {trainer.state.global_step for trainer in found.values()} == {options.steps}
        assert_same_weights(found[PPER], found[SFT])
    seconds = {
        name: {kind: np.concatenate([of[name][kind] for of in measured]) for kind in KINDS} for name in measured[0]
    }
    by_casting = {
        name: spread(np.array([ratio(of[name]["cpu"], of[SFT]["cpu"])["of_medians"] for of in measured]))
        for name in measured[0]
        if name != SFT
    }
    return {
        "parameters": found[PPER].model.num_parameters(),
        "programs": len(found[PPER].buffer),
        **summary(seconds),
        BY_CASTING: by_casting,
        # What a round adds to an epoch of `SFTTrainer`; and the calls of both, which no load disturbs.
        PER_ROUND: spread(1000 * round_seconds(found[PPER])),
        CALLS: {name: function_calls(found[name]) for name in (PPER, SFT)},
    }


def summary(seconds: dict[str, Seconds]) -> dict[str, Any]:
    """Return milliseconds per step and the ratios to `SFTTrainer`, of wall time and of CPU time."""
    result: dict[str, Any] = {}
    for kind in KINDS:
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
        for figure in (BY_CASTING, PER_ROUND, CALLS):
            lines.append(f"{name}, {figure}: {of[figure]}")
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
    parser.add_argument("--repetitions", type=int, default=2, help="timed epochs of each casting")
    parser.add_argument("--castings", type=int, default=10, help="how often all trainers are made anew")
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
    write_result(options.output, result)


if __name__ == "__main__":
    main()
