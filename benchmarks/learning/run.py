"""Compares ways to learn from judged programs, at equal generated programs and optimizer steps, over several seeds.

    python benchmarks/learning/run.py --study main --workers 2 --folder outputs/learning

A run of one contender, setting and seed writes one file into the folder; started again, the command makes only the
missing ones. `tables.py` turns the folder into tables, and keeps the runs in a file for `--runs`, which are not made
again. Each worker is a process with one thread.
"""

from __future__ import annotations

import argparse
import itertools
import json
import multiprocessing
import os
import sys
import tempfile
import time
import traceback
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from contenders import CONTENDERS, STEPS_PER_ROUND, STUDIES, TASKS, Setting
from tables import cell_of, kept_runs


def cells(study: str, *, seeds: int | None = None) -> Iterator[tuple[Setting, str, int]]:
    """Yield the runs of a study, seed by seed, so that an interrupted bench has every contender."""
    chosen = STUDIES[study]
    for seed in range(chosen.first_seed, chosen.first_seed + (seeds or chosen.seeds)):
        yield from ((setting, name, seed) for setting, name in itertools.product(chosen.settings, chosen.contenders))


def cell_file(folder: Path, setting: Setting, contender: str, seed: int) -> Path:
    """Return the file of a run."""
    return folder / f"{setting.name} - {contender} - seed {seed}.json".replace("/", "_")


def run_cell(setting: Setting, contender: str, seed: int, *, folder: Path, quick: bool = False) -> dict[str, Any]:
    """Train and evaluate a contender, and return its figures; a quick run has the demo's model and few steps."""
    from base_models import BASE_SEEDS, base_model
    from families import FAMILIES
    from learners import learn

    from trl_pper import demo

    family = FAMILIES[setting.family]
    bases = {
        regime: demo.MODEL
        if quick
        else base_model(setting.family, regime, seed=seed % BASE_SEEDS, cache=folder / "bases")
        for regime in {setting.regime, *(["common"] if setting.source != "self" else [])}
    }
    started = time.perf_counter()
    with tempfile.TemporaryDirectory() as scratch:
        figures = learn(
            CONTENDERS[contender],
            setting,
            model=bases[setting.regime],
            teacher=bases["common"] if setting.source != "self" else None,
            tasks=family.tasks("train", seed=seed, count=20 if quick else TASKS, tests=setting.tests),
            held_out=family.tasks("test", seed=seed, count=10 if quick else TASKS, tests=8),
            reference=family.reference,
            seed=seed,
            steps_per_round=2 if quick else STEPS_PER_ROUND,
            folder=Path(scratch),
        )
    return {
        "setting": asdict(setting) | {"name": setting.name},
        "contender": contender,
        "seed": seed,
        "seconds": round(time.perf_counter() - started, 1),
        **figures,
    }


def work(queue: Any, folder: Path, quick: bool) -> None:
    """Make the runs of a queue, until it holds None."""
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    import torch

    torch.set_num_threads(1)
    parent = os.getppid()
    while (cell := queue.get()) is not None:
        if os.getppid() != parent:
            # The bench was killed.
            return
        setting, contender, seed = cell
        path = cell_file(folder, setting, contender, seed)
        if path.exists():
            continue
        try:
            figures = run_cell(setting, contender, seed, folder=folder, quick=quick)
        except Exception:
            # The other runs go on, and the next start tries this one again.
            path.with_suffix(".error").write_text(traceback.format_exc())
            print(f"failed: {path.stem}", flush=True)
            continue
        unfinished = path.with_suffix(f".{os.getpid()}")
        unfinished.write_text(json.dumps(figures, indent=2) + "\n")
        unfinished.rename(path)
        path.with_suffix(".error").unlink(missing_ok=True)
        print(f"{path.stem}: {figures['rounds'][-1]['accuracy']:.3f}, {figures['seconds']} s", flush=True)


def main(arguments: list[str] | None = None) -> None:
    """Make the missing runs of a study."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--study", nargs="+", default=["main"], choices=list(STUDIES))
    parser.add_argument("--seeds", type=int, default=None, help="number of seeds; those of the study by default")
    parser.add_argument("--contenders", nargs="+", default=None, choices=list(CONTENDERS), metavar="NAME")
    parser.add_argument("--workers", type=int, default=2, help="processes, each with one thread")
    parser.add_argument("--folder", type=Path, default=Path("outputs/learning"))
    parser.add_argument("--runs", type=Path, default=None, help="JSONL file of `tables.py` with runs to leave out")
    parser.add_argument("--quick", action="store_true", help="two contenders, one seed, few steps: does it run?")
    parser.add_argument("--again", action="store_true", help="make every run of the study again")
    options = parser.parse_args(arguments)
    studies = ["quick"] if options.quick else options.study
    folder = options.folder / "quick" if options.quick else options.folder
    folder.mkdir(parents=True, exist_ok=True)
    wanted = [cell for study in studies for cell in cells(study, seeds=options.seeds)]
    wanted = [cell for cell in wanted if options.contenders is None or cell[1] in options.contenders]
    if options.runs is not None:
        made = {cell_of(run) for run in kept_runs(options.runs)}
        wanted = [cell for cell in wanted if (cell[0].name, *cell[1:]) not in made]
    if options.again:
        for cell in wanted:
            cell_file(folder, *cell).unlink(missing_ok=True)
    context = multiprocessing.get_context("spawn")
    queue = context.Queue()
    for cell in [*wanted, *[None] * options.workers]:
        queue.put(cell)
    workers = [context.Process(target=work, args=(queue, folder, options.quick)) for _ in range(options.workers)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    missing = [cell_file(folder, *cell).stem for cell in wanted if not cell_file(folder, *cell).exists()]
    if missing:
        sys.exit(f"{len(missing)} of {len(wanted)} runs failed, the first: {missing[0]} (see the .error files)")


if __name__ == "__main__":
    main()
