"""Compares beam search with nucleus sampling as the source of a chat model's programs.

    python benchmarks/decoding.py MODEL TASKS --output benchmarks/results/decoding.json

MODEL is a folder or an id of the Hub, TASKS a file of tasks such as MBPP, which are asked as chat messages. Every way
to decode writes as many programs for the same tasks; nucleus sampling does so once for each seed. Prints a table in
Markdown; `--output` writes the same with the settings and a snapshot of the machine.

A program is repeated if an earlier program of its task has the same text. The time is that of generating and scoring,
in seconds of CPU of the one thread that torch is given, so that other work on the machine does not count.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from typing import Any

import torch
from environment import markdown, snapshot, write_result

from trl_pper import BeamSearchSource, CodingTask, Judge, NucleusSource, ProgramSource, as_chat, load_tasks
from trl_pper.generation.extraction import extract
from trl_pper.generation.local_model import load_model

COLUMNS = (
    "decoding", "programs", "repeated", "without_a_program", "cut_at_the_longest_length", "mean_pass_rate",
    "first_pass_rate", "tasks_with_unequal_pass_rates", "tasks_solved", "seconds",
)  # fmt: skip


def measure(name: str, source: ProgramSource, tasks: list[CodingTask], judge: Judge) -> dict[str, Any]:
    """Return the figures of one way to decode."""
    started = time.process_time()
    generated = list(source.generate(tasks))
    seconds = time.process_time() - started
    found = [
        [extract(one.completion, prompt=task.prompt, entry_point=task.entry_point) for one in programs]
        for task, programs in zip(tasks, generated, strict=True)
    ]
    texts = [[each.program for each in programs] for programs in found]
    verdicts = judge.run(list(zip(tasks, texts, strict=True)))
    pass_rates = [[verdict.pass_rate or 0.0 for verdict in given] for given in verdicts]
    programs = sum(map(len, texts))
    return {
        "decoding": name,
        "programs": programs,
        "repeated": programs - sum(len(set(each)) for each in texts),
        "without_a_program": sum(not each.found for programs in found for each in programs),
        "cut_at_the_longest_length": sum(one.finish_reason == "length" for each in generated for one in each),
        "mean_pass_rate": round(sum(map(sum, pass_rates)) / programs, 3),
        "first_pass_rate": round(sum(given[0] for given in pass_rates) / len(tasks), 3),
        "tasks_solved": sum(1.0 in given for given in pass_rates),
        "tasks_with_unequal_pass_rates": sum(len(set(given)) > 1 for given in pass_rates),
        "seconds": round(seconds, 1),
        "pass_rates": {task.task_id: given for task, given in zip(tasks, pass_rates, strict=True)},
        "settings": source.settings,  # type: ignore[attr-defined]
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", help="folder or id of a chat model")
    parser.add_argument("tasks", type=Path, help="file of tasks")
    parser.add_argument("--limit", type=int, default=24, help="number of tasks")
    parser.add_argument("--programs", type=int, default=3, help="programs of each task")
    parser.add_argument("--max-completion-length", type=int, default=128, help="longest completion, in tokens")
    parser.add_argument("--temperature", type=float, default=0.8)
    parser.add_argument("--top-p", type=float, default=0.95)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="seeds of nucleus sampling")
    parser.add_argument("--output", type=Path, default=None, help="JSON file to write")
    options = parser.parse_args()
    torch.set_num_threads(1)
    tasks = as_chat(load_tasks(options.tasks)[: options.limit])
    model, tokenizer = load_model(options.model)
    shared: dict[str, Any] = {"max_completion_length": options.max_completion_length}
    sampled = {**shared, "temperature": options.temperature, "top_p": options.top_p, "num_programs": options.programs}
    sources: dict[str, ProgramSource] = {
        "beam search": BeamSearchSource(model, tokenizer, num_beams=options.programs, **shared)
    }
    for seed in options.seeds:
        sources[f"nucleus sampling, seed {seed}"] = NucleusSource(model, tokenizer, seed=seed, **sampled)
    with Judge() as judge:
        results = []
        for name, source in sources.items():
            results.append(measure(name, source, tasks, judge))
            print(f"{name}: done", file=sys.stderr)
        isolation = judge.isolation
    print(markdown(results, COLUMNS))
    # Neither the folder of the model nor that of the tasks, which are places on one machine.
    about = {"model": Path(options.model).name, "dtype": str(model.dtype), "tasks": options.tasks.name}
    write_result(options.output, {"environment": snapshot(), "isolation": isolation, **about, "results": results})


if __name__ == "__main__":
    main()
