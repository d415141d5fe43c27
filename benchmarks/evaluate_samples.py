"""Compares `trl-pper evaluate` with verdicts that were measured elsewhere on the same programs.

    python benchmarks/evaluate_samples.py TASKS DUMP --output benchmarks/results/evaluate_samples.json

TASKS are the tasks of HumanEval, DUMP rows with `task_id`, `completions` and what each came to elsewhere:
`measured_passed` and `measured_status`. Evaluates them as a user would, computes pass@k of the measured verdicts by
another formula (the product of Chen et al. 2021, in floats), and lists every program on which both differ. Killed, it
goes on where it was; scores and verdicts that lie in the folder `--work` are taken as they are.
"""

from __future__ import annotations

import argparse
import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
from environment import snapshot, write_result

from trl_pper.cli.commands import main as trl_pper
from trl_pper.files import read_rows

K = (1, 10, 100)


def measured_figures(dump: list[dict[str, Any]]) -> dict[str, float]:
    """Return the figures of the verdicts in a dump, of every task as many programs."""
    correct = [sum(map(bool, row["measured_passed"])) for row in dump]
    (total,) = {len(row["measured_passed"]) for row in dump}
    figures = {f"pass@{k}": float(np.mean([product_pass_at_k(total, one, k) for one in correct])) for k in K}
    return {
        "accuracy": float(np.mean([bool(row["measured_passed"][0]) for row in dump])),
        **figures,
        f"solved@{total}": float(np.mean([one > 0 for one in correct])),
    }


def product_pass_at_k(total: int, correct: int, k: int) -> float:
    """Return pass@k as a product of floats, which the package computes in whole numbers."""
    if total - correct < k:
        return 1.0
    return float(1.0 - np.prod(1.0 - k / np.arange(total - correct + 1, total + 1)))


def differences(dump: list[dict[str, Any]], verdicts: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the programs that are accepted here and not there, or the other way round."""
    by_place = {(row["task_id"], row["index"]): row for row in verdicts}
    found = []
    for row in dump:
        for index, (passed, status) in enumerate(zip(row["measured_passed"], row["measured_status"], strict=True)):
            ours = by_place[row["task_id"], index]
            if (ours["pass_rate"] == 1.0) != bool(passed):
                found.append(
                    {
                        "task_id": row["task_id"],
                        "index": index,
                        "measured_passed": bool(passed),
                        "measured_status": status,
                        "outcomes": dict(Counter(ours["outcomes"])),
                        "extracted": ours["extracted"],
                        "message": ours["message"],
                    }
                )
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("tasks", help="tasks of HumanEval")
    parser.add_argument("dump", type=Path, help="rows of completions with measured verdicts")
    parser.add_argument("--work", type=Path, default=Path("outputs/bench/evaluate"), help="folder for what is judged")
    parser.add_argument("--output", type=Path, default=None, help="JSON file to write")
    options = parser.parse_args()
    scores_file, verdicts_file = options.work / "scores.json", options.work / "verdicts.jsonl"
    if not scores_file.exists():
        command = ["evaluate", "--tasks", options.tasks, "--programs", str(options.dump), "--output", str(scores_file)]
        if code := trl_pper([*command, "--verdicts", str(verdicts_file), "--k", *map(str, K)]):
            raise SystemExit(code)
    scores = json.loads(scores_file.read_text())
    dump = [row for _, row in read_rows(options.dump)]
    verdicts = [row for _, row in read_rows(verdicts_file)]
    result = {
        "environment": snapshot(),
        "judge": scores["judge"],
        "seconds": scores["seconds"],
        "figures": scores["figures"],
        "distinct_programs": len({(row["task_id"], row["program"]) for row in verdicts}),
        "measured": measured_figures(dump),
        "differences": differences(dump, verdicts),
    }
    for name, measured in result["measured"].items():
        print(f"{name}: {scores['figures'][name]:.4f}, measured {measured:.4f}")
    print(f"{len(result['differences'])} of {len(verdicts)} programs come out otherwise")
    write_result(options.output, result)


if __name__ == "__main__":
    main()
