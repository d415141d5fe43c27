"""Turns the runs of the learning bench into tables: means, paired differences and their bootstrap intervals.

    python benchmarks/learning/tables.py --folder outputs/learning --output benchmarks/results/learning.json

Contenders of a setting are compared seed by seed, since runs of a seed share base model, tasks and draws. `--runs`
names a file that keeps a line for each run: those of the folder are added to it, and the tables are of all its runs.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from contenders import STUDIES
from numpy.typing import NDArray

RESAMPLES = 10_000
METRICS = ("accuracy", "pass@3")


def compact(run: Mapping[str, Any]) -> dict[str, Any]:
    """Return the figures of a run that the tables need."""
    return {
        "setting": run["setting"]["name"],
        "contender": run["contender"],
        "seed": run["seed"],
        **{metric: [round(one[metric], 4) for one in run["rounds"]] for metric in METRICS},
        "solved": [round(one["solved"], 4) for one in run["collections"] if "solved" in one],
        "programs": sum(int(one["programs"]) for one in run["collections"]),
        "gradient_tokens": round(run["gradient_tokens"]),
        "entropy": round(run["entropy"][-1], 4) if run["entropy"] else None,
        "seconds": run["seconds"],
    }


def read_runs(folder: Path, kept: Path | None = None) -> list[dict[str, Any]]:
    """Return the runs in a folder and in a file of kept runs, each once; those in the folder replace kept ones."""
    return merged(kept, [compact(json.loads(path.read_text())) for path in folder.glob("*.json")])


def cell_of(run: Mapping[str, Any]) -> tuple[str, str, int]:
    """Return what no two runs have in common."""
    return run["setting"], run["contender"], run["seed"]


def kept_runs(path: Path) -> list[dict[str, Any]]:
    """Return the runs in a file of kept runs; none if there is no file yet."""
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def merged(kept: Path | None, found: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the runs of a file of kept runs and further ones, each once; the further ones replace kept ones."""
    by_cell = {cell_of(run): run for run in [*(kept_runs(kept) if kept else []), *found]}
    return [by_cell[cell] for cell in sorted(by_cell)]


def keep(path: Path, runs: Sequence[Mapping[str, Any]]) -> None:
    """Write a file of kept runs."""
    path.write_text("".join(json.dumps(run) + "\n" for run in runs))


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
        groups[run["setting"], run["contender"]][run["seed"]] = run
    rows = []
    for (setting, contender), by_seed in groups.items():
        final = {metric: _final(by_seed, metric) for metric in METRICS}
        row: dict[str, Any] = {"setting": setting, "contender": contender, "seeds": len(by_seed)}
        rounds = [[100 * value for value in run["accuracy"]] for run in by_seed.values()]
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
        solved = [[100 * value for value in run["solved"]] for run in by_seed.values() if run["solved"]]
        row["training_tasks_solved_by_round"] = [round(float(np.mean(v)), 1) for v in zip(*solved, strict=False)]
        for name, digits in (("programs", 0), ("gradient_tokens", 0), ("entropy", 4), ("seconds", 1)):
            known = [run[name] for run in by_seed.values() if run[name] is not None]
            row[name] = round(float(np.mean(known)), digits) if known else None
        rows.append(row)
    return rows


def _final(by_seed: Mapping[int, Mapping[str, Any]], metric: str) -> dict[int, float]:
    return {seed: 100 * run[metric][-1] for seed, run in by_seed.items()}


def _rounded(bounds: tuple[float, float]) -> list[float]:
    return [round(bound, 1) for bound in bounds]


def table(rows: Sequence[Mapping[str, Any]], setting: str, study: str | None = None) -> str:
    """Return the rows of a setting as a Markdown table, the best contender first.

    Args:
        rows: Rows of `summarise`.
        setting: Name of a setting.
        study: The study whose contenders the table has, beside "best" and "filter"; all by default.
    """
    wanted = None if study is None else {"best", "filter", *STUDIES[study].contenders}
    lines = [
        f"| {setting} | seeds | accuracy after rounds 1, 2, 3 | interval | any of 3 | tasks solved | default - this |",
        "|---|---|---|---|---|---|---|",
    ]
    chosen = [row for row in rows if row["setting"] == setting and (wanted is None or row["contender"] in wanted)]
    chosen.sort(key=lambda row: -row["accuracy"]["mean"])
    for row in chosen:
        rounds = " / ".join(f"{value:.1f}" for value in row["accuracy_by_round"][1:]) or "-"
        low, high = row["accuracy"]["interval"]
        solved = " / ".join(f"{value:.0f}" for value in row["training_tasks_solved_by_round"]) or "-"
        lines.append(
            f"| {row['contender']} | {row['seeds']} | {rounds} | {low:.1f} to {high:.1f} "
            f"| {row['pass@3']['mean']:.1f} | {solved} | {_difference(row)} |"
        )
    return "\n".join(lines)


def _difference(row: Mapping[str, Any]) -> str:
    """Return the difference of the reference to a row's contender with its interval, "-" where there is none."""
    difference = row.get("reference_minus_this")
    if difference is None:
        return "-"
    low, high = difference["interval"]
    return f"{difference['mean']:+.1f} ({low:+.1f} to {high:+.1f})"


def grid(rows: Sequence[Mapping[str, Any]], study: str) -> str:
    """Return the last accuracies of a study as a Markdown table, a row for each setting and a column a contender."""
    names = STUDIES[study].contenders
    lines = [f"| setting | seeds | {' | '.join(names)} | best - filter |", "|---" * (len(names) + 3) + "|"]
    for setting in (one.name for one in STUDIES[study].settings):
        found = {row["contender"]: row for row in rows if row["setting"] == setting}
        if not found:
            continue
        cells = [f"{found[name]['accuracy']['mean']:.1f}" if name in found else "-" for name in names]
        seeds = min(row["seeds"] for row in found.values())
        lines.append(f"| {setting} | {seeds} | {' | '.join(cells)} | {_difference(found.get('filter', {}))} |")
    return "\n".join(lines)


def with_tables(page: str, rows: Sequence[Mapping[str, Any]], mark: str = "table") -> str:
    """Return a page in Markdown with the tables that its comments ask for.

    `<!-- MARK: SETTING -->` asks for all contenders of a setting, `<!-- MARK: SETTING / STUDY -->` for those of a
    study, and `<!-- MARK: STUDY -->` for a grid of a study's settings. A table ends at the next empty line. A setting
    without a run is an error.
    """
    known = {row["setting"] for row in rows}

    def fill(asked: str) -> str:
        setting, _, study = asked.partition(" / ")
        if setting in STUDIES and not study:
            return grid(rows, setting)
        if setting not in known or (study and study not in STUDIES):
            sys.exit(f"--page: asks for a table of {asked!r}, and the runs are of {', '.join(sorted(known))}")
        return table(rows, setting, study or None)

    return with_filled(page, mark, fill)


def with_filled(page: str, mark: str, fill: Callable[[str], str]) -> str:
    """Return a page whose tables behind `<!-- MARK: NAME -->` are those that a function returns for the name."""
    pattern = rf"<!-- {mark}: ([^\n]+?) -->\n\n(?:\|[^\n]*\n)*\n?"
    return re.sub(pattern, lambda asked: f"<!-- {mark}: {asked[1]} -->\n\n{fill(asked[1])}\n\n", page)


def draw_figure(rows: Sequence[Mapping[str, Any]], settings: Sequence[str], path: Path) -> None:
    """Draw the accuracy after each round of the contenders of the main study, a panel for each setting."""
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, len(settings), figsize=(4.2 * len(settings), 4), sharey=True, squeeze=False)
    rows = [row for row in rows if row["contender"] in STUDIES["main"].contenders]
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
    parser.add_argument("--runs", type=Path, default=None, help="JSONL file that keeps the runs, read and renewed")
    parser.add_argument("--reference", default="best", help="contender that the others are compared with")
    parser.add_argument("--output", type=Path, default=None, help="JSON file to write")
    parser.add_argument("--figure", type=Path, default=None, help="SVG or PNG file to write")
    parser.add_argument("--page", type=Path, default=None, help="page in Markdown whose tables to renew")
    parser.add_argument("--mark", default="table", help="word of the comments in the page that ask for a table")
    options = parser.parse_args()
    runs = read_runs(options.folder, options.runs)
    if not runs:
        sys.exit(f"--folder: {options.folder} holds no run; make some with benchmarks/learning/run.py")
    if options.runs is not None:
        keep(options.runs, runs)
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

        write_result(options.output, {"environment": snapshot(), "table": rows})


if __name__ == "__main__":
    main()
