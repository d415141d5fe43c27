"""Turns the runs of the learning bench into tables: means, paired differences and their bootstrap intervals.

    python benchmarks/learning/tables.py --folder outputs/learning --output benchmarks/results/learning.json

Contenders of a setting are compared seed by seed, since runs of a seed share base model, tasks and draws.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

RESAMPLES = 10_000
METRICS = ("accuracy", "pass@3")


def read_runs(folder: Path) -> list[dict[str, Any]]:
    """Return the runs in a folder."""
    return [json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))]


def interval(values: NDArray[np.float64], *, seed: int = 0) -> tuple[float, float]:
    """Return the bounds of the 95 % bootstrap interval of the mean of values, shape [n]; one value has no width."""
    chosen = np.random.default_rng(seed).integers(len(values), size=(RESAMPLES, len(values)))
    low, high = np.quantile(values[chosen].mean(axis=1), [0.025, 0.975])
    return float(low), float(high)


def paired(ours: Mapping[int, float], theirs: Mapping[int, float]) -> NDArray[np.float64]:
    """Return the differences of two contenders over the seeds that both have."""
    return np.array([ours[seed] - theirs[seed] for seed in sorted(ours.keys() & theirs.keys())], dtype=np.float64)


def summarise(runs: Sequence[Mapping[str, Any]], reference: str = "best") -> list[dict[str, Any]]:
    """Return a row for each setting and contender; figures are percentages or points, intervals 95 %.

    Args:
        runs: The runs.
        reference: The contender that the others are compared with.
    """
    groups: dict[tuple[str, str], dict[int, Mapping[str, Any]]] = defaultdict(dict)
    for run in runs:
        groups[run["setting"]["name"], run["contender"]][run["seed"]] = run
    rows = []
    for (setting, contender), by_seed in groups.items():
        final = {metric: _final(by_seed, metric) for metric in METRICS}
        row: dict[str, Any] = {"setting": setting, "contender": contender, "seeds": len(by_seed)}
        rounds = [[100 * one["accuracy"] for one in run["rounds"]] for run in by_seed.values()]
        row["accuracy_by_round"] = [round(float(np.mean(values)), 1) for values in zip(*rounds, strict=False)]
        for metric in METRICS:
            values = np.array(list(final[metric].values()))
            row[metric] = {"mean": round(float(values.mean()), 1), "interval": _rounded(interval(values))}
        against = groups.get((setting, reference))
        if against is not None and contender != reference:
            difference = paired(_final(against, "accuracy"), final["accuracy"])
            if len(difference):
                row["reference_minus_this"] = {
                    "mean": round(float(difference.mean()), 1),
                    "interval": _rounded(interval(difference)),
                    "seeds": len(difference),
                }
        solved = [
            [100 * one["solved"] for one in run["collections"]]
            for run in by_seed.values()
            if run["collections"] and all("solved" in one for one in run["collections"])
        ]
        row["training_tasks_solved_by_round"] = [round(float(np.mean(v)), 1) for v in zip(*solved, strict=False)]
        row["programs"] = round(float(np.mean([_programs(run) for run in by_seed.values()])))
        row["gradient_tokens"] = round(float(np.mean([run["gradient_tokens"] for run in by_seed.values()])))
        entropy = [run["entropy"][-1] for run in by_seed.values() if run["entropy"]]
        row["entropy_at_the_end"] = round(float(np.mean(entropy)), 4) if entropy else None
        row["seconds"] = round(float(np.mean([run["seconds"] for run in by_seed.values()])), 1)
        rows.append(row)
    return rows


def _final(by_seed: Mapping[int, Mapping[str, Any]], metric: str) -> dict[int, float]:
    return {seed: 100 * run["rounds"][-1][metric] for seed, run in by_seed.items()}


def _programs(run: Mapping[str, Any]) -> int:
    return sum(int(one["programs"]) for one in run["collections"])


def _rounded(bounds: tuple[float, float]) -> list[float]:
    return [round(bound, 1) for bound in bounds]


def table(rows: Sequence[Mapping[str, Any]], setting: str) -> str:
    """Return the rows of a setting as a Markdown table, the best contender first."""
    lines = [
        f"| {setting} | seeds | accuracy after rounds 1, 2, 3 | interval | any of 3 | tasks solved | default - this |",
        "|---|---|---|---|---|---|---|",
    ]
    chosen = sorted((row for row in rows if row["setting"] == setting), key=lambda row: -row["accuracy"]["mean"])
    for row in chosen:
        rounds = " / ".join(f"{value:.1f}" for value in row["accuracy_by_round"][1:]) or "-"
        low, high = row["accuracy"]["interval"]
        solved = " / ".join(f"{value:.0f}" for value in row["training_tasks_solved_by_round"]) or "-"
        difference = row.get("reference_minus_this")
        said = "-"
        if difference is not None:
            said = f"{difference['mean']:+.1f} ({difference['interval'][0]:+.1f} to {difference['interval'][1]:+.1f})"
        lines.append(
            f"| {row['contender']} | {row['seeds']} | {rounds} | {low:.1f} to {high:.1f} "
            f"| {row['pass@3']['mean']:.1f} | {solved} | {said} |"
        )
    return "\n".join(lines)


def with_tables(page: str, rows: Sequence[Mapping[str, Any]], mark: str = "table") -> str:
    """Return a page in Markdown with the tables that its comments `<!-- MARK: SETTING -->` ask for.

    A table ends at the next empty line. A setting without a run is an error.
    """
    known = {row["setting"] for row in rows}

    def filled(asked: re.Match[str]) -> str:
        if asked[1] not in known:
            sys.exit(f"--page: asks for a table of {asked[1]!r}, and the runs are of {', '.join(sorted(known))}")
        return f"<!-- {mark}: {asked[1]} -->\n\n{table(rows, asked[1])}\n\n"

    return re.sub(rf"<!-- {mark}: ([^\n]+?) -->\n\n(?:\|[^\n]*\n)*\n?", filled, page)


def draw_figure(rows: Sequence[Mapping[str, Any]], settings: Sequence[str], path: Path) -> None:
    """Draw the accuracy after each round of every contender, a panel for each setting."""
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, len(settings), figsize=(4.2 * len(settings), 4), sharey=True, squeeze=False)
    names = list(dict.fromkeys(row["contender"] for row in rows if row["setting"] in settings))
    for axis, setting in zip(axes[0], settings, strict=True):
        for row in (row for row in rows if row["setting"] == setting):
            values = row["accuracy_by_round"]
            style = {"color": f"C{names.index(row['contender']) % 10}", "label": row["contender"], "marker": "."}
            axis.plot(range(len(values)), values, linewidth=2.5 if row["contender"] == "best" else 1, **style)
        axis.set(title=setting, xlabel="round", xticks=range(4))
    axes[0][0].set(ylabel="held-out tasks solved by the first program, %", ylim=(0, 101))
    handles = {label: line for axis in axes[0] for line, label in zip(*axis.get_legend_handles_labels(), strict=True)}
    figure.legend(handles.values(), handles.keys(), loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False)
    figure.savefig(path, bbox_inches="tight", metadata={"Date": None} if path.suffix == ".svg" else None)


def main() -> None:
    """Print the tables, and write them as JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path, default=Path("outputs/learning"))
    parser.add_argument("--reference", default="best", help="contender that the others are compared with")
    parser.add_argument("--output", type=Path, default=None, help="JSON file to write")
    parser.add_argument("--figure", type=Path, default=None, help="SVG or PNG file to write")
    parser.add_argument("--page", type=Path, default=None, help="page in Markdown whose tables to renew")
    parser.add_argument("--mark", default="table", help="word of the comments in the page that ask for a table")
    options = parser.parse_args()
    runs = read_runs(options.folder)
    if not runs:
        sys.exit(f"--folder: {options.folder} holds no run; make some with benchmarks/learning/run.py")
    rows = summarise(runs, options.reference)
    settings = list(dict.fromkeys(row["setting"] for row in rows))
    for setting in settings:
        print(table(rows, setting), end="\n\n")
    if options.figure is not None:
        draw_figure(
            rows, [name for name in settings if name.startswith("lists") and "," not in name[7:]], options.figure
        )
    if options.page is not None:
        page = options.page.read_text(encoding="utf-8")
        options.page.write_text(with_tables(page, rows, options.mark), encoding="utf-8")
    if options.output is not None:
        # Found beside this folder.
        sys.path.insert(0, str(Path(__file__).parents[1]))
        from environment import snapshot, write_result

        compact = [
            {
                "setting": run["setting"]["name"],
                "contender": run["contender"],
                "seed": run["seed"],
                "accuracy": [round(one["accuracy"], 4) for one in run["rounds"]],
                "pass@3": [round(one["pass@3"], 4) for one in run["rounds"]],
                "solved": [round(one["solved"], 4) for one in run["collections"] if "solved" in one],
            }
            for run in runs
        ]
        write_result(options.output, {"environment": snapshot(), "table": rows, "runs": compact})


if __name__ == "__main__":
    main()
