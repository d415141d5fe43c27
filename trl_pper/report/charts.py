"""Draw the charts of a report, each with a sentence and a table.

Labels are fixed text and numbers. No text by a model or a user is drawn.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from trl_pper.replay.exports.summary import ExportSummary, doubling_classes
from trl_pper.replay.priority import FloatArray
from trl_pper.report.chart import ACCENT, GOOD, INK, LINE, MUTE, WARM, Chart, drawn_figure, number
from trl_pper.report.content import (
    PASS_RATE_CLASSES,
    Content,
    IntArray,
    best_pass_rates,
    pass_rate_classes,
    percent,
    share_by_class,
    task_coverage,
    top_draws,
    worst_outcomes,
)
from trl_pper.report.groups import groups_by
from trl_pper.report.history import History

#: Cells in each direction of the possibility chart; the points in a cell become a single larger dot.
_CELLS = 25


def draw_charts(
    content: Content, history: History, *, possibility: str, exports: ExportSummary | None = None
) -> list[Chart]:
    """Draw all charts for which there is data.

    Args:
        content: Content of the buffer.
        history: History of its run.
        possibility: Kind of possibility, "mean" or "product".
        exports: What exports of the buffer would hold; None for no charts of it.

    Raises:
        ImportError: matplotlib is not installed; the message names the extra.
    """
    # A buffer saved outside a checkpoint has no log; its rounds give a coarser curve.
    charts = [learning_chart(history)] if history.rounds or history.evaluations else []
    if not charts and len(np.unique(content.rounds)) > 1:
        charts.append(held_rounds_chart(content))
    return [
        *charts,
        possibility_chart(content, possibility),
        draw_chart(content),
        coverage_chart(content),
        outcome_chart(content),
        *([] if exports is None else export_charts(exports)),
    ]


def export_charts(exports: ExportSummary) -> list[Chart]:
    """Draw how many pairs the tasks would give a preference trainer, and how far apart the closest of each are."""
    if not len(exports.pairs):
        # Every completion was cut off, or is a repair.
        return []
    pairs, distances = exports.pairs_in_words(), exports.distances
    charts = [
        _counts_chart(
            "pairs",
            "What an export would hold",
            f"{pairs[0].upper()}{pairs[1:]}. {exports.balance()}.",
            exports.pairs,
            "pairs of the task",
        )
    ]
    if len(distances):
        text = f"{len(distances):,} tasks: in close pairs little but the mistake differs."
        charts.append(
            _counts_chart(
                "distances", "How far apart the closest pairs are", text, distances, "characters that differ"
            )
        )
    return charts


def _counts_chart(name: str, title: str, text: str, values: IntArray, label: str) -> Chart:
    """Draw the number of tasks by a whole number, in classes that double."""
    names, counts = doubling_classes(values)

    def draw(axes: Any) -> None:
        x = np.arange(len(counts))
        axes.bar(x, counts, width=0.6, color=ACCENT)
        axes.set_xticks(x, [name.replace(" to ", "\u2013") for name in names], fontsize=8)
        # Names of thousands are too wide to stand beside each other.
        axes.tick_params(axis="x", rotation=45 if len(counts) > 6 else 0)
        axes.grid(axis="y", color=LINE, linewidth=0.5)
        axes.set(xlabel=label, ylabel="tasks")

    return Chart(
        name=name,
        title=title,
        text=text,
        figure=drawn_figure(draw),
        header=[label, "tasks", "share"],
        rows=[[one, f"{count:,}", percent(count / len(values))] for one, count in zip(names, counts, strict=True)],
    )


def possibility_chart(content: Content, kind: str) -> Chart:
    """Draw the possibility against the pass rate, with lines of equal P2Value; unknown possibilities stand apart."""
    known = ~np.isnan(content.possibilities)
    unknown = int((~known).sum())
    possibility, pass_rates = content.possibilities[known], content.pass_rates
    # Mean possibilities often lie close to 1, and would be a narrow strip of the full axis.
    low = float(np.floor(possibility.min() * 10) / 10) if len(possibility) else 0.0
    # Possibilities of exactly 1 would leave no axis at all.
    low = min(low, 0.9) if low >= 0.5 else 0.0
    span = 1 - low
    # Dots on top of each other would not show their number.
    x, y, counts = _cells((possibility - low) / span, pass_rates[known])
    apart, heights, apart_counts = _cells(np.zeros(unknown), pass_rates[~known])
    most = max([*counts, *apart_counts])

    def draw(axes: Any) -> None:
        grid = np.linspace(0, 1, 50)
        values = content.weight * (low + span * grid[None, :]) + (1 - content.weight) * grid[:, None]
        # A constant surface has no contour lines, and matplotlib would warn.
        if np.ptp(values) > 0:
            lines = axes.contour(low + span * grid, grid, values, levels=6, colors=MUTE, linewidths=0.8)
            axes.clabel(lines, fontsize=8.5, colors=INK)
        size = {"s": 8 + 160 * counts / most, "alpha": 0.55, "edgecolors": "none"}
        axes.scatter(low + span * x, y, color=ACCENT, **size)
        ticks = list(np.linspace(low, 1, 6))
        labels = [f"{tick:.2g}" for tick in ticks]
        if unknown:
            place = low - 0.14 * span
            sizes = 8 + 160 * apart_counts / most
            axes.scatter(apart + place, heights, s=sizes, color=WARM, alpha=0.55, edgecolors="none")
            axes.axvline(low - 0.07 * span, color=LINE, linewidth=1)
            ticks, labels = [place, *ticks], ["unknown", *labels]
        axes.set_xticks(ticks, labels)
        left = low - (0.24 if unknown else 0.06) * span
        axes.set(xlabel=f"possibility ({kind})", ylabel="pass rate", xlim=(left, 1 + 0.06 * span), ylim=(-0.06, 1.06))

    rows = []
    for place, name in enumerate(PASS_RATE_CLASSES):
        chosen = pass_rate_classes(pass_rates) == place
        own = content.possibilities[chosen & known]
        quartiles = [f"{value:.4g}" for value in np.quantile(own, [0.25, 0.5, 0.75])] if len(own) else ["none"] * 3
        rows.append([name, f"{int(chosen.sum()):,}", f"{int((chosen & ~known).sum()):,}", *quartiles])
    apart_text = f" Programs of unknown possibility stand apart: {unknown:,}." if unknown else ""
    cut_text = f" The axis begins at {low:.1f}." if low else ""
    return Chart(
        name="possibility",
        title="What the model believes against what the tests say",
        text=f"The larger a dot, the more programs lie there (at most {most:,}); grey lines join equal P2Values at "
        f"possibility_weight {content.weight:g}.{cut_text}{apart_text}",
        figure=drawn_figure(draw),
        header=["pass rate", "programs", "possibility unknown", "lower quartile", "median", "upper quartile"],
        rows=rows,
    )


def draw_chart(content: Content) -> Chart:
    """Draw the pass rates of the programs in the buffer beside the pass rates of the draws."""
    held = share_by_class(content.pass_rates)
    drawn = None if content.draws is None else share_by_class(content.pass_rates, content.draws)

    def draw(axes: Any) -> None:
        x = np.arange(len(held))
        axes.bar(x - 0.2, held, width=0.36, color=MUTE, label="held")
        if drawn is not None:
            axes.bar(x + 0.2, drawn, width=0.36, color=ACCENT, label="drawn")
        axes.set_xticks(x, [name.replace(" to ", "\u2013") for name in PASS_RATE_CLASSES], fontsize=8)
        axes.grid(axis="y", color=LINE, linewidth=0.5)
        axes.set(xlabel="pass rate", ylabel="share of programs or draws", ylim=(0, None))
        axes.legend(frameon=False, fontsize=9)

    text = "Nothing can be drawn: the priority takes passing programs only, and there is none."
    if content.draws is not None:
        text = f"The likeliest tenth of the programs gets {100 * top_draws(content.draws):.0f} % of the draws."
    return Chart(
        name="draw",
        title="What the buffer holds against what is drawn",
        text=text,
        figure=drawn_figure(draw),
        header=["pass rate", "share held", "share drawn"],
        rows=[
            [name, percent(held[place]), "none" if drawn is None else percent(drawn[place])]
            for place, name in enumerate(PASS_RATE_CLASSES)
        ],
    )


def coverage_chart(content: Content) -> Chart:
    """Draw the number of tasks by their best pass rate."""
    best = pass_rate_classes(best_pass_rates(content))
    counts = np.bincount(best, minlength=len(PASS_RATE_CLASSES))
    coverage = task_coverage(content)

    def draw(axes: Any) -> None:
        x = np.arange(len(counts))
        axes.bar(x, counts, width=0.6, color=[*[MUTE] * (len(counts) - 1), GOOD])
        axes.set_xticks(x, [name.replace(" to ", "\u2013") for name in PASS_RATE_CLASSES], fontsize=8)
        axes.grid(axis="y", color=LINE, linewidth=0.5)
        axes.set(xlabel="best pass rate of the task", ylabel="tasks")

    return Chart(
        name="coverage",
        title="How far the tasks are covered",
        text=f"Of {len(content.tasks):,} tasks {coverage['none']:,} have no passing program, {coverage['some']:,} "
        f"have some, and {coverage['only']:,} have only passing programs.",
        figure=drawn_figure(draw),
        header=["best pass rate", "tasks", "share"],
        rows=[
            [name, f"{counts[place]:,}", percent(counts[place] / len(best))]
            for place, name in enumerate(PASS_RATE_CLASSES)
        ],
    )


def outcome_chart(content: Content) -> Chart:
    """Draw the worst outcome of each program beside the outcomes of all tests."""
    worst = worst_outcomes(content)
    tests = {str(outcome): count for outcome, count in content.tests.items()}
    # Experiences from a data set may have a pass rate without outcomes of tests.
    total, total_tests = len(content), max(1, sum(tests.values()))
    names = list(worst)

    def draw(axes: Any) -> None:
        y = np.arange(len(names))
        axes.barh(
            y - 0.2, [worst[name] / total for name in names], 0.36, color=ACCENT, label="programs, by their worst"
        )
        axes.barh(y + 0.2, [tests.get(name, 0) / total_tests for name in names], 0.36, color=MUTE, label="all tests")
        axes.set_yticks(y, [name.replace("_", " ") for name in names])
        axes.invert_yaxis()
        axes.grid(axis="x", color=LINE, linewidth=0.5)
        axes.set(xlabel="share of programs or tests")
        axes.legend(frameon=False, fontsize=9)

    return Chart(
        name="outcomes",
        title="How programs and tests ended",
        text="A program counts for the worst outcome of any of its tests; outcomes are ordered from good to bad.",
        figure=drawn_figure(draw),
        header=["outcome", "programs", "share of programs", "tests", "share of tests"],
        rows=[
            [
                name.replace("_", " "),
                f"{worst[name]:,}",
                percent(worst[name] / total),
                f"{tests.get(name, 0):,}",
                percent(tests.get(name, 0) / total_tests),
            ]
            for name in names
        ],
    )


def _cells(x: FloatArray, y: FloatArray) -> tuple[FloatArray, FloatArray, IntArray]:
    """Group points of the unit square by the cells of a grid; return mean coordinates and counts."""
    places = np.stack([np.round(x * _CELLS), np.round(y * _CELLS)])
    _, cell, counts = np.unique(places, axis=1, return_inverse=True, return_counts=True)
    return np.bincount(cell.ravel(), x) / counts, np.bincount(cell.ravel(), y) / counts, counts


#: Most scores on held-out tasks in the chart; the table has all of them.
LINES = 3


def learning_chart(history: History) -> Chart:
    """Draw the pass rates of each round's programs, and the scores on held-out tasks where they were evaluated."""
    rounds = history.rounds
    trained = [figures["round_index"] for figures in rounds]
    lines: dict[str, tuple[str, str, list[float], list[float | None]]] = {
        "tasks with a passing program": (GOOD, "o-", trained, [figures.get("solved") for figures in rounds]),
        "mean pass rate": (ACCENT, "s-", trained, [figures.get("pass_rate") for figures in rounds]),
    }
    for place, name in enumerate(list(history.scores())[:LINES]):
        having = [one for one in history.evaluations if name in one.scores]
        when = [one.rounds_trained for one in having]
        # Users name their held-out sets. The chart has no text by users, so it numbers them; the table names
        # them.
        label = f"held out: {name}" if " of " not in name else f"held out: score {place + 1} of the table"
        lines[label] = (WARM, ("^:", "v:", "D:")[place], when, [one.scores[name] for one in having])

    def draw(axes: Any) -> None:
        for label, (colour, style, x, y) in lines.items():
            axes.plot(x, [np.nan if value is None else value for value in y], style, color=colour, label=label, ms=5)
        axes.grid(axis="y", color=LINE, linewidth=0.5)
        axes.set(xlabel="rounds of training before", ylabel="share, 0 to 1", ylim=(0, 1.03))
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.legend(frameon=False, fontsize=9, loc="best")

    header, rows = _table(history)
    return Chart(
        name="learning_curve",
        title="Round by round",
        text="Programs of each round, written before it trains: their mean pass rate, and the share of tasks that one "
        "of them solves. Dotted: scores on held-out tasks, the first three where there are more.",
        figure=drawn_figure(draw),
        header=header,
        rows=rows,
    )


def _table(history: History) -> tuple[list[str], list[list[str]]]:
    """Return the header and the rows of the learning chart's table, with a row for each number of rounds trained."""
    columns = {
        "programs": "programs",
        "new": "added",
        "mean pass rate": "pass_rate",
        "tasks solved": "solved",
        "effective sample size": "effective_sample_size",
        "staleness, rounds": "staleness",
    }
    rounds = {figures["round_index"]: figures for figures in history.rounds}
    scores = {one.rounds_trained: one.scores for one in history.evaluations}
    rows = [
        [
            number(trained),
            *(number(rounds.get(trained, {}).get(name)) for name in columns.values()),
            *(number(scores.get(trained, {}).get(name)) for name in history.scores()),
        ]
        for trained in sorted({*rounds, *scores})
    ]
    return ["rounds trained", *columns, *(f"held out: {name}" for name in history.scores())], rows


def held_rounds_chart(content: Content) -> Chart:
    """Draw the pass rates of the programs in a buffer without a log, by the round in which they were written."""
    groups = groups_by(content, "round")

    def draw(axes: Any) -> None:
        x = range(len(groups))
        axes.plot(x, [one.solved for one in groups], "o-", color=GOOD, label="tasks with a passing program", ms=5)
        axes.plot(x, [one.pass_rate for one in groups], "s-", color=ACCENT, label="mean pass rate", ms=5)
        axes.grid(axis="y", color=LINE, linewidth=0.5)
        axes.set(xlabel="round the program was written in", ylabel="share, 0 to 1", ylim=(0, 1.03))
        axes.set_xticks(x, [one.name.removeprefix("round ") for one in groups], fontsize=8)
        axes.legend(frameon=False, fontsize=9)

    return Chart(
        name="learning_curve",
        title="Round by round, of what the buffer still holds",
        text="There is no log of a run here. A program that came again counts for its last round, and what was "
        "evicted is missing.",
        figure=drawn_figure(draw),
        header=["round", "programs", "mean pass rate", "tasks solved"],
        rows=[[one.name, f"{one.programs:,}", number(one.pass_rate), number(one.solved)] for one in groups],
    )
