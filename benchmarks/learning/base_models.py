"""Trains the base models of the learning bench: tiny code models that err often, now and then, or almost always.

    python benchmarks/learning/base_models.py --output benchmarks/results/learning_bases.json

Each family and regime has its own models, which learn from programs with slips. Prints the share of training tasks
that any of three beams solves, which the regimes are named after; `--output` writes it with a snapshot of the machine.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import io
import json
import shutil
import sys
import time
from pathlib import Path
from typing import Any

from families import FAMILIES, Slips

REGIMES = ("common", "rare", "almost_none")
#: Probabilities of a slip, by trial: any of three beams solves 60 to 85 % of the training tasks, 3 to 10 %,
#: or 0.5 to 2.5 %.
SLIPS: dict[str, dict[str, Slips]] = {
    "lists": {
        "common": Slips(prone=0.6, other=0.08),
        "rare": Slips(prone=0.47, other=0.6),
        "almost_none": Slips(prone=0.5, other=0.63),
    },
    "strings": {
        "common": Slips(prone=0.6, other=0.08),
        "rare": Slips(prone=0.47, other=0.6),
    },
    "conditionals": {
        "common": Slips(prone=0.6, other=0.08),
        "rare": Slips(prone=0.47, other=0.6),
    },
    "stdin": {
        "common": Slips(prone=0.6, other=0.08),
        "rare": Slips(prone=0.47, other=0.6),
    },
}
STEPS = 1200
FACTS = "base.json"


def base_model(family: str, regime: str, *, seed: int, cache: Path) -> Path:
    """Return the folder of a base model, trained on first use; several processes may ask at once."""
    folder = cache / f"{family}-{regime}-{seed}"
    cache.mkdir(parents=True, exist_ok=True)
    with open(cache / f"{folder.name}.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (folder / FACTS).exists():
            unfinished = cache / f"{folder.name}.unfinished"
            shutil.rmtree(unfinished, ignore_errors=True)
            facts = _train(family, regime, seed, unfinished)
            (unfinished / FACTS).write_text(json.dumps(facts, indent=2) + "\n")
            unfinished.rename(folder)
    return folder


def _train(family: str, regime: str, seed: int, folder: Path) -> dict[str, Any]:
    import torch

    from trl_pper import BeamSearchSource, Judge, Limits, evaluate_tasks
    from trl_pper.demo import base_model as demo

    torch.set_num_threads(1)
    started = time.perf_counter()
    chosen, slips = FAMILIES[family], SLIPS[family][regime]
    # The tokenizer is the same for every regime, so that a teacher's programs are the student's tokens.
    tokenizer = demo.train_tokenizer(chosen.corpus(0, slips=SLIPS[family]["common"]))
    model = demo.build_model(tokenizer, seed)
    with contextlib.redirect_stdout(io.StringIO()):
        loss = demo.train(model, tokenizer, demo.Recipe(steps=STEPS, seed=seed), chosen.corpus(1 + seed, slips=slips))
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    seconds = time.perf_counter() - started
    source = BeamSearchSource(model, tokenizer, num_beams=3, max_completion_length=96, batch_size=64)
    facts: dict[str, Any] = {"family": family, "regime": regime, "seed": seed, "loss": round(loss, 4)}
    with Judge(workers=1, limits=Limits(cpu_seconds=2.0, memory_bytes=2**30)) as judge:
        for split in ("train", "test"):
            scores = evaluate_tasks(chosen.tasks(split, seed=seed, count=200, tests=8), source, judge)
            facts[split] = {
                "tasks": scores.tasks,
                "accuracy": round(scores.accuracy, 4),
                "solved_by_any_of_3": round(scores.solved, 4),
                "pass_rate": round(scores.pass_rate, 4),
            }
    return facts | {"seconds": round(seconds, 1)}


def main() -> None:
    """Train the missing models, print and write their facts."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path, default=Path("outputs/learning/bases"))
    parser.add_argument("--families", nargs="+", default=list(FAMILIES), choices=list(FAMILIES))
    parser.add_argument("--regimes", nargs="+", default=list(REGIMES), choices=list(REGIMES))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--output", type=Path, default=None, help="JSON file to write")
    options = parser.parse_args()
    facts = []
    for family in options.families:
        for regime in (regime for regime in options.regimes if regime in SLIPS[family]):
            for seed in options.seeds:
                folder = base_model(family, regime, seed=seed, cache=options.folder)
                facts.append(json.loads((folder / FACTS).read_text()))
                print(json.dumps(facts[-1]), flush=True)
    if options.output is not None:
        # Found beside this folder.
        sys.path.insert(0, str(Path(__file__).parents[1]))
        from environment import snapshot, write_result

        write_result(options.output, {"environment": snapshot(), "models": facts})


if __name__ == "__main__":
    main()
