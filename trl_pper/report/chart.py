"""One chart of a report: a picture, a sentence and a table that say the same.

Enters: what to draw on a pair of axes. Leaves: a matplotlib figure in the colours of `svg`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from trl_pper.report.svg import INK, LINE, SETTINGS


@dataclass(frozen=True, kw_only=True)
class Chart:
    """One chart.

    Args:
        name: A word for file and element names.
        title: What it shows.
        text: What can be read from it, in a sentence or two.
        figure: The matplotlib figure.
        header: Names of the columns of its numbers.
        rows: Its numbers, as text.
    """

    name: str
    title: str
    text: str
    figure: Any
    header: Sequence[str]
    rows: Sequence[Sequence[str]]


def figure_of(draw: Callable[[Any], None]) -> Any:
    """Return a figure on which `draw` has drawn, given the axes.

    Raises:
        ImportError: matplotlib is not installed; the message names the extra.
    """
    try:
        from matplotlib import rc_context
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError("a report needs matplotlib; install it with: pip install 'trl-pper[report]'") from error
    colours = {name: INK for name in ("text.color", "axes.labelcolor", "xtick.color", "ytick.color")}
    with rc_context({**SETTINGS, **colours, "axes.edgecolor": LINE, "font.size": 10}):
        # As wide as a telephone, so that its text is as large there as the page's.
        figure = Figure(figsize=(4.7, 3.4), layout="constrained")
        axes = figure.add_subplot()
        axes.spines[["top", "right"]].set_visible(False)
        axes.set_axisbelow(True)
        axes.tick_params(labelsize=9)
        draw(axes)
    return figure


def number(value: float | None) -> str:
    """Return a number as text for a table: whole ones with commas, others with four significant digits."""
    if value is None:
        return "none"
    return f"{value:,.0f}" if float(value).is_integer() else f"{value:.4g}"
