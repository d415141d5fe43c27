"""Counts in how many real completions no program is found, and how many right programs the stops would break.

    python benchmarks/completions.py DATA --output benchmarks/results/completions.json

DATA is a folder with the samples named in SAMPLES. Every completion is extracted and judged; those that pass are cut
at the stops of their task, extracted and judged once more. Prints a table in Markdown; `--output` writes the same,
with the stops that were considered and left out, and a snapshot of the machine.
"""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeAlias

from environment import markdown, snapshot, write_result

from trl_pper import CodingTask, Judge, Limits, StdioTests, as_chat, load_tasks
from trl_pper.files import read_rows
from trl_pper.generation.extraction import Extraction, extract
from trl_pper.generation.stops import cut_at_stop
from trl_pper.tasks.formats.fields import QUESTION_STOPS, question_prompt
from trl_pper.tasks.loading import match_task_id
from trl_pper.tasks.task import StdioCase

HUMANEVAL, MBPP = "humaneval/HumanEval.dev.jsonl.gz", "mbpp/mbpp.dev.jsonl"
CODE_CONTESTS = "code_contests/codecontests_repo.dev.jsonl.gz"
APPS, ATCODER = "apps_mapcoder/selected150.dev.jsonl", "atcoder/lcb_atcoder_tasks.dev.jsonl.gz"
MODELS = ("codellama", "starcoder", "gpt-3.5-turbo-0613")
PROMPTINGS = ("Analogical", "CoT", "Direct", "MapCoder-3-5", "SelfPlanning")
MESSY = {"Bard": "Bard_custom", "WizardLM 7B": "TheBloke_wizardLM-7B-GPTQ_ALPACA_MEDIUM"}

#: Name: tasks, rows of completions (None for the solutions that come with the tasks), their column, whether chat.
SAMPLES: dict[str, tuple[str, str | None, str, bool]] = {
    "HumanEval, solutions": (HUMANEVAL, None, "", False),
    "HumanEval, CodeGen 16B": (HUMANEVAL, "dumps/codet_humaneval_codegen16B_k100.dev.jsonl.gz", "completions", False),
    **{f"HumanEval, {m}": (HUMANEVAL, f"dumps/ldb_humaneval_{m}.jsonl.gz", "program", False) for m in MODELS},
    **{f"HumanEval, {name}": (HUMANEVAL, f"messy/{file}.jsonl", "completion", False) for name, file in MESSY.items()},
    "MBPP, solutions": (MBPP, None, "", False),
    **{f"MBPP, {m}": (MBPP, f"dumps/ldb_mbpp_{m}.jsonl.gz", "program", False) for m in MODELS},
    "CodeContests, solutions": (CODE_CONTESTS, None, "", False),
    **{f"APPS, {p}": (APPS, f"apps_mapcoder/ChatGPT-{p}-APPS.jsonl", "raw_response", True) for p in PROMPTINGS},
    "AtCoder, o1-preview": (ATCODER, "atcoder/lcb_o1-prev.dev.jsonl.gz", "raw_response", True),
}
#: Of each test: some samples hold many programs that never end. The same before the cut and after it.
CPU_SECONDS = 1.0
#: Stops that others cut at, and that no format has.
LEFT_OUT = ("\ndef ", "\n@", "\nimport ", "\nfrom ", "\n```")
COLUMNS = ("sample", "completions", "without_a_program", "right", "with_a_stop", "broken")

Pair: TypeAlias = tuple[CodingTask, str]


def measure(name: str, data: Path, judge: Judge) -> dict[str, Any]:
    """Return the figures of one sample."""
    of_tasks, rows, column, chat = SAMPLES[name]
    tasks = atcoder_tasks(data / of_tasks) if of_tasks == ATCODER else load_tasks(data / of_tasks, on_error="skip")
    pairs = solutions(tasks) if rows is None else list(completions(tasks, data / rows, column))
    asked = dict(zip((task.task_id for task in tasks), as_chat(tasks) if chat else tasks, strict=True))

    def find(task: CodingTask, completion: str) -> Extraction:
        return extract(completion, prompt=asked[task.task_id].prompt, entry_point=task.entry_point)

    found = [find(task, completion) for task, completion in pairs]
    passed = accepted(judge, [(task, each.program) for (task, _), each in zip(pairs, found, strict=True)])
    right = [pair for pair, good in zip(pairs, passed, strict=True) if good]
    stopped = [(task, completion) for task, completion in right if cut_at_stop(completion, task.stop) != completion]
    return {
        "sample": name,
        "completions": len(pairs),
        "without_a_program": sum(not each.found for each in found),
        "right": len(right),
        "with_a_stop": len(stopped),
        "broken": len(broken(judge, find, [(task, text, task.stop) for task, text in stopped])),
        "broken_by_stops_left_out": {
            stop: len(broken(judge, find, [(task, text, (stop,)) for task, text in right if stop in text]))
            for stop in LEFT_OUT
        },
    }


def broken(
    judge: Judge,
    find: Callable[[CodingTask, str], Extraction],
    right: Sequence[tuple[CodingTask, str, tuple[str, ...]]],
) -> list[str]:
    """Return the tasks of right completions that no longer pass once they are cut at their stops."""
    cut = [(task, find(task, cut_at_stop(completion, stops)).program) for task, completion, stops in right]
    return [task.task_id for (task, _), good in zip(cut, accepted(judge, cut), strict=True) if not good]


def accepted(judge: Judge, programs: Sequence[Pair]) -> list[bool]:
    """Return for each program whether it passes every test of its task."""
    return [verdict.accepted for [verdict] in judge.run([(task, [program]) for task, program in programs])]


def completions(tasks: Sequence[CodingTask], path: Path, column: str) -> Iterator[Pair]:
    """Yield the completions of a file whose task is there, as a continuation where they repeat the prompt."""
    by_id = {task.task_id: task for task in tasks}
    for _, row in read_rows(path):
        task_id = match_task_id(row["task_id"], by_id)
        if task_id is None:
            continue
        task = by_id[task_id]
        for text in row[column] if isinstance(row[column], list) else [row[column]]:
            yield task, continuation(task, text)


def continuation(task: CodingTask, text: str) -> str:
    """Return what comes after the prompt in a program that begins with it, and any other text as it is."""
    prompt = str(task.prompt).strip()
    begins = text.lstrip().startswith(prompt)
    return text.lstrip()[len(prompt) :] if begins else text


def solutions(tasks: Sequence[CodingTask]) -> list[Pair]:
    """Return the solutions that come with tasks."""
    return [(task, continuation(task, task.reference)) for task in tasks if task.reference is not None]


def atcoder_tasks(path: Path) -> list[CodingTask]:
    """Return problems of AtCoder with the tests of their statement."""
    return [
        CodingTask(
            task_id=row["task_id"],
            prompt=question_prompt(row["description"]),
            tests=StdioTests(cases=tuple(StdioCase(**case) for case in row["sample_tests"])),
            stop=QUESTION_STOPS,
        )
        for _, row in read_rows(path)
    ]


def main() -> None:
    logging.getLogger("trl_pper").setLevel(logging.ERROR)
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path, help="folder of samples")
    parser.add_argument("--output", type=Path, default=None, help="JSON file to write")
    parser.add_argument("--workers", type=int, default=None, help="judging processes")
    options = parser.parse_args()
    with Judge(workers=options.workers, limits=Limits(cpu_seconds=CPU_SECONDS)) as judge:
        results = []
        for name in SAMPLES:
            results.append(measure(name, options.data, judge))
            print(f"{name}: done", file=sys.stderr)
        isolation = judge.isolation
    print(markdown(results, COLUMNS))
    write_result(options.output, {"environment": snapshot(), "isolation": isolation, "samples": results})


if __name__ == "__main__":
    main()
