"""One self-contained HTML page about a buffer and the run that filled it.

Enters: a buffer, and where there was a run its figures per round and before and after. Leaves: an HTML file without
external requests; program text is escaped. Charts are drawn by matplotlib (the extra `report`).
"""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, PackageLoader
from markupsafe import Markup

from trl_pper import __version__
from trl_pper.collection_report import CollectionReport
from trl_pper.experience import Experience
from trl_pper.priority import effective_sample_size
from trl_pper.replay import ReplayBuffer

#: Programs shown in full: the likeliest draws and the unlikeliest.
PROGRAMS_SHOWN = 12

INK, ACCENT, SOFT, GOOD = "#24292f", "#4c6ef5", "#adb5bd", "#2f9e44"


def write_report(
    path: str | Path,
    buffer: ReplayBuffer,
    *,
    title: str = "PPER report",
    rounds: Sequence[CollectionReport] = (),
    scores: Mapping[str, tuple[float, float]] | None = None,
    facts: Mapping[str, Any] | None = None,
) -> None:
    """Write the report.

    Args:
        path: HTML file to write; its folder is made.
        buffer: The experiences to show, at least one.
        title: Heading of the page.
        rounds: What each collection did, in order.
        scores: Held-out figures (before, after), by name.
        facts: Further figures for the head of the page, by name.

    Raises:
        ValueError: The buffer is empty.
        ImportError: matplotlib is not installed; the message names the extra.
    """
    if not len(buffer):
        raise ValueError("buffer: got an empty one; a report needs at least one judged program")
    environment = Environment(loader=PackageLoader("trl_pper"), autoescape=True, trim_blocks=True, lstrip_blocks=True)
    page = environment.get_template("report.html.j2").render(
        title=title,
        version=__version__,
        facts={**(facts or {}), **buffer_facts(buffer)},
        scores=scores or {},
        charts=_charts(buffer, rounds),
        outcomes=Counter(str(outcome) for one in buffer for outcome in one.outcomes).most_common(),
        programs=_shown(buffer),
        settings=buffer.settings(),
    )
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Path(path).write_text(page, encoding="utf-8")


def buffer_facts(buffer: ReplayBuffer) -> dict[str, str]:
    """Return the headline figures of a buffer, as text."""
    tasks = {one.task_id for one in buffer}
    solved = {one.task_id for one in buffer if one.pass_rate == 1.0}
    draws = _probabilities(buffer)
    return {
        "programs": f"{len(buffer):,}",
        "tasks": f"{len(tasks):,}",
        "tasks with a passing program": f"{len(solved) / len(tasks):.1%}",
        "mean pass rate": f"{buffer.pass_rates().mean():.3f}",
        "effective sample size of the draw": f"{effective_sample_size(draws):,.0f}" if draws is not None else "none",
    }


def _probabilities(buffer: ReplayBuffer) -> Any:
    # The priority "filter" has nothing to draw while no program passes; the report still shows what there is.
    if buffer.priority == "filter" and not (buffer.pass_rates() == 1.0).any():
        return None
    return buffer.probabilities()


def _shown(buffer: ReplayBuffer) -> list[dict[str, Any]]:
    draws = _probabilities(buffer)
    order = np.argsort(-buffer.p2values(), kind="stable")
    half = PROGRAMS_SHOWN // 2
    chosen = list(dict.fromkeys([*order[:half].tolist(), *order[-half:].tolist()]))
    values = buffer.p2values()
    return [_row(buffer[i], buffer.possibility, values[i], None if draws is None else draws[i]) for i in chosen]


def _row(one: Experience, kind: str, value: float, draw: float | None) -> dict[str, Any]:
    return {
        "task_id": one.task_id,
        "program": one.program,
        "pass_rate": one.pass_rate,
        "possibility": one.possibility(kind),
        "p2value": value,
        "draw": draw,
        "outcomes": [str(outcome) for outcome in one.outcomes],
        "source": one.source,
    }


def _charts(buffer: ReplayBuffer, rounds: Sequence[CollectionReport]) -> list[dict[str, Any]]:
    charts = [
        ("What the model believes against what the tests say", _draw(_possibility_chart, buffer)),
        ("What the buffer holds against what is drawn", _draw(_draw_chart, buffer)),
    ]
    if rounds:
        charts.insert(0, ("Round by round", _draw(_round_chart, rounds)))
    return [{"title": title, "svg": svg} for title, svg in charts]


def _draw(chart: Callable[[Any, Any], None], content: Any) -> Markup:
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError("a report needs matplotlib; install it with: pip install 'trl-pper[report]'") from error
    figure = Figure(figsize=(5.6, 3.6), layout="constrained")
    axes = figure.add_subplot()
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    chart(axes, content)
    file = io.StringIO()
    figure.savefig(file, format="svg", metadata={"Date": None, "Creator": None})
    svg = file.getvalue()
    # Trusted: matplotlib drew it from numbers and fixed labels.
    return Markup(svg[svg.index("<svg") :])


def _round_chart(axes: Any, rounds: Sequence[CollectionReport]) -> None:
    x = [report.round_index + 1 for report in rounds]
    axes.plot(x, [report.solved for report in rounds], "o-", color=GOOD, label="tasks with a passing program")
    axes.plot(x, [report.pass_rate for report in rounds], "o-", color=ACCENT, label="mean pass rate")
    axes.set(xlabel="round", xticks=x, ylim=(0, 1.02))
    axes.legend(frameon=False, loc="lower right")


def _possibility_chart(axes: Any, buffer: ReplayBuffer) -> None:
    possibility, pass_rate = buffer.possibilities(), buffer.pass_rates()
    known = ~np.isnan(possibility)
    weight = buffer.possibility_weight
    grid = np.linspace(0, 1, 50)
    lines = axes.contour(
        grid, grid, weight * grid[None, :] + (1 - weight) * grid[:, None], levels=5, colors=SOFT, linewidths=0.8
    )
    axes.clabel(lines, fontsize=7)
    axes.scatter(possibility[known], pass_rate[known], s=14, alpha=0.35, color=ACCENT, edgecolors="none")
    axes.set(xlabel=f"possibility ({buffer.possibility})", ylabel="pass rate", xlim=(0, 1.02), ylim=(-0.03, 1.03))


def _draw_chart(axes: Any, buffer: ReplayBuffer) -> None:
    edges = np.linspace(0, 1, 11)
    held, _ = np.histogram(buffer.pass_rates(), edges)
    axes.bar(edges[:-1] + 0.03, held / len(buffer), width=0.04, color=SOFT, label="held")
    draws = _probabilities(buffer)
    if draws is not None:
        drawn, _ = np.histogram(buffer.pass_rates(), edges, weights=draws)
        axes.bar(edges[:-1] + 0.07, drawn, width=0.04, color=ACCENT, label="drawn")
    axes.set(xlabel="pass rate", ylabel="share")
    axes.legend(frameon=False)
