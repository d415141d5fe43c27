"""Trains the base models of the learning bench: tiny code models that err often, now and then, or almost always.

    python benchmarks/learning/base_models.py --output benchmarks/results/learning_bases.json

Each family and regime has its own models, which learn from programs with slips. Prints the share of training tasks
that any of three beams solves, which the regimes are named after; `--output` writes it with a snapshot of the machine.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import hashlib
import io
import json
import shutil
import sys
import time
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from families import FAMILIES, Family, Slips, Split

from trl_pper import BeamSearchSource, Judge, Limits, evaluate_tasks
from trl_pper.demo import base_model as demo
from trl_pper.rounds.journal import JudgedProgram

REGIMES = ("common", "rare", "almost_none")
#: By trial: any of three beams solves 60 to 85 % of the training tasks, 3 to 10 %, or 0.5 to 2.5 %.
#:
#: In `lists` the author of the rarer regimes errs in any part about as often as not, so that no program is certain. In
#: the other families the author nearly always errs in the prone parts. Three beams hold the right code of one such
#: part, so that they solve the tasks with two spared parts of three: the numbers of spared parts decide, and not the
#: noise of a training. In the other tasks two parts or three are right in some beam, though not in the same.
SLIPS: dict[str, dict[str, Slips]] = {
    "lists": {
        "common": Slips(prone=0.6, other=0.08),
        "rare": Slips(prone=0.47, other=0.6),
        "almost_none": Slips(prone=0.5, other=0.63),
    },
    "strings": {
        "common": Slips(spared=(5, 5, 4)),
        "rare": Slips(spared=(1, 1, 1)),
        "almost_none": Slips(spared=(1, 1, 0)),
    },
    "conditionals": {
        "common": Slips(spared=(5, 5, 5)),
        "rare": Slips(spared=(2, 1, 1)),
        "almost_none": Slips(spared=(1, 0, 1)),
    },
    "stdin": {
        "common": Slips(spared=(5, 5, 4)),
        "rare": Slips(spared=(2, 1, 1)),
        "almost_none": Slips(spared=(1, 1, 0)),
    },
}
STEPS = 1200
NUM_BEAMS = 3
#: The longest right completion has fewer tokens.
MAX_COMPLETION_TOKENS = 96
TASKS = 200
#: The benches have so many base models of a family and regime, so that no result is of one model alone.
BASE_SEEDS = 2
FACTS = "base.json"


def base_model(family: str, regime: str, *, seed: int, cache: Path) -> Path:
    """Return the folder of a base model, trained on first use; several processes may ask at once.

    Args:
        family: A key of `families.FAMILIES`.
        regime: A name in `REGIMES`.
        seed: Seed of the weights, the corpus and the tasks that the model is measured on.
        cache: Folder of base models. The name of a model's folder has a digest of its corpus.

    Returns:
        A folder for `from_pretrained`, with model, tokenizer, and scores before any fine-tuning in `base.json`.
    """
    folder = model_folder(family, regime, seed=seed, cache=cache)
    cache.mkdir(parents=True, exist_ok=True)
    with open(cache / f"{folder.name}.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (folder / FACTS).exists():
            unfinished = cache / f"{folder.name}.unfinished"
            shutil.rmtree(unfinished, ignore_errors=True)
            facts = _train(family, regime, seed, unfinished)
            (unfinished / FACTS).write_text(json.dumps(facts, indent=2) + "\n")
            # A folder without its facts is of a run that ended early.
            unfinished.rename(folder)
    return folder


def model_folder(family: str, regime: str, *, seed: int, cache: Path) -> Path:
    """Return the folder of a base model, whether or not it is trained.

    Raises:
        ValueError: The family or the regime is unknown.
    """
    if family not in FAMILIES or regime not in REGIMES:
        raise ValueError(
            f"family, regime: one of {', '.join(FAMILIES)} and one of {', '.join(REGIMES)} are required; got"
            f" {family!r} and {regime!r}"
        )
    return cache / f"{family}-{regime}-{seed}-{_digest(family, regime)}"


def _digest(family: str, regime: str) -> str:
    """Return a digest of the programs that a model learns from, so that other parts or slips make other models."""
    corpora = [FAMILIES[family].corpus(0, slips=SLIPS[family][name]) for name in ("common", regime)]
    text = repr([STEPS, *(list(islice(corpus, 500)) for corpus in corpora)])
    return hashlib.sha256(text.encode()).hexdigest()[:8]


def _train(family: str, regime: str, seed: int, folder: Path) -> dict[str, Any]:
    """Train a model, save and measure it, and return its facts."""
    chosen, slips = FAMILIES[family], SLIPS[family][regime]
    threads = torch.get_num_threads()
    # The order of sums, and with it the weights, could depend on the number of threads.
    torch.set_num_threads(1)
    started = time.perf_counter()
    # A model that is there already must leave the caller the same random numbers.
    with torch.random.fork_rng(devices=[]), contextlib.redirect_stdout(io.StringIO()):
        # The tokenizer is the same for every regime, so that a teacher's programs are the student's tokens.
        tokenizer = demo.train_tokenizer(chosen.corpus(0, slips=SLIPS[family]["common"]))
        model = demo.build_model(tokenizer, seed)
        loss = demo.train(model, tokenizer, demo.Recipe(steps=STEPS, seed=seed), chosen.corpus(1 + seed, slips=slips))
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    facts = {"family": family, "regime": regime, "seed": seed, "loss": round(loss, 4)}
    seconds = {"train_seconds": round(time.perf_counter() - started, 1)}
    facts |= _measure(chosen, seed, model, tokenizer)
    torch.set_num_threads(threads)
    return facts | seconds | {"seconds": round(time.perf_counter() - started, 1)}


def _measure(family: Family, seed: int, model: Any, tokenizer: Any) -> dict[str, dict[str, float]]:
    """Return the scores of a model's three most probable programs on the tasks of both splits."""
    source = BeamSearchSource(
        model, tokenizer, num_beams=NUM_BEAMS, max_completion_length=MAX_COMPLETION_TOKENS, batch_size=64
    )
    splits: tuple[Split, ...] = ("train", "test")
    found: dict[str, dict[str, float]] = {}
    with Judge(workers=1, limits=Limits(cpu_seconds=2.0, memory_bytes=2**30)) as judge:
        for split in splits:
            judged: dict[int, list[JudgedProgram]] = {}
            tasks = family.tasks(split, seed=seed, count=TASKS, tests=8)
            scores = evaluate_tasks(tasks, source, judge, on_judged=judged.__setitem__)
            rates = [one.verdict.pass_rate or 0.0 for programs in judged.values() for one in programs]
            found[split] = {
                "tasks": scores.tasks,
                "accuracy": round(scores.accuracy, 4),
                f"pass@{NUM_BEAMS}": round(scores.solved, 4),
                "pass_rate": round(scores.pass_rate, 4),
                "partial": round(sum(0 < rate < 1 for rate in rates) / len(rates), 4),
            }
    return found


def main() -> None:
    """Train the missing models, print and write their facts."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path, default=Path("outputs/learning/bases"))
    parser.add_argument("--families", nargs="+", default=list(FAMILIES), choices=list(FAMILIES))
    parser.add_argument("--regimes", nargs="+", default=list(REGIMES), choices=list(REGIMES))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--cached", action="store_true", help="train none, and leave missing models out")
    parser.add_argument("--output", type=Path, default=None, help="JSON file to write")
    options = parser.parse_args()
    facts = []
    for family in options.families:
        for regime in options.regimes:
            for seed in options.seeds:
                if not options.cached:
                    base_model(family, regime, seed=seed, cache=options.folder)
                path = model_folder(family, regime, seed=seed, cache=options.folder) / FACTS
                if path.exists():
                    facts.append(json.loads(path.read_text()))
                    print(json.dumps(facts[-1]), flush=True)
    if options.output is not None:
        # Found beside this folder.
        sys.path.insert(0, str(Path(__file__).parents[1]))
        from environment import snapshot, write_result

        write_result(options.output, {"environment": snapshot(), "models": facts})


if __name__ == "__main__":
    main()
