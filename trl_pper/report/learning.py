"""The learning curve of a report: what each round's programs passed, and what held-out tasks say of the model.

Enters: the history of a run, or what a buffer holds of each round. Leaves: a chart.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from trl_pper.report.chart import Chart, figure_of, number
from trl_pper.report.content import Content
from trl_pper.report.groups import groups_by
from trl_pper.report.history import History
from trl_pper.report.svg import ACCENT, GOOD, LINE, WARM

#: Scores on held-out tasks drawn; the table has them all.
LINES = 3


def learning_chart(history: History) -> Chart:
    """Draw what each round's programs passed, and what held-out tasks say where they were asked."""
    rounds = history.rounds
    trained = [figures["round_index"] for figures in rounds]
    lines: dict[str, tuple[str, str, list[float], list[float | None]]] = {
        "tasks with a passing program": (GOOD, "o-", trained, [figures.get("solved") for figures in rounds]),
        "mean pass rate": (ACCENT, "s-", trained, [figures.get("pass_rate") for figures in rounds]),
    }
    for place, name in enumerate(list(history.scores())[:LINES]):
        having = [one for one in history.evaluations if name in one.scores]
        when = [one.rounds_trained for one in having]
        # Names of several held-out sets are the user's: the chart numbers them, the table names them.
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
        figure=figure_of(draw),
        header=header,
        rows=rows,
    )


def _table(history: History) -> tuple[list[str], list[list[str]]]:
    """Return what the chart shows and more, a row for each number of rounds trained."""
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
    """Draw the programs that a buffer without a log still holds, by the round they were written in."""
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
        figure=figure_of(draw),
        header=["round", "programs", "mean pass rate", "tasks solved"],
        rows=[[one.name, f"{one.programs:,}", number(one.pass_rate), number(one.solved)] for one in groups],
    )
