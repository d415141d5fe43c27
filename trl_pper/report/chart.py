"""Draw a chart with matplotlib, and convert it to an SVG element that takes the page's colours.

The element has no `style` attribute and no `<style>` element, which the page's content security policy would refuse.
Its element names (`id`) occur in no other chart of the page.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup, escape


@dataclass(frozen=True, kw_only=True)
class Chart:
    """A chart of a report: a picture, a sentence and a table with the same content.

    Args:
        name: Word for file names and element names.
        title: Title of the chart.
        text: Description in a sentence or two.
        figure: The matplotlib figure.
        header: Names of the table's columns.
        rows: Rows of the table, as text.
    """

    name: str
    title: str
    text: str
    figure: Any
    header: Sequence[str]
    rows: Sequence[Sequence[str]]


def drawn_figure(draw: Callable[[Any], None]) -> Any:
    """Return a matplotlib figure on which `draw` has drawn, given the axes.

    Raises:
        ImportError: matplotlib is not installed; the message names the extra.
    """
    try:
        from matplotlib import rc_context
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError("a report needs matplotlib; install it with: pip install 'trl-pper[report]'") from error
    # Locally, because the user's own matplotlib settings must stay unchanged.
    colours = {name: INK for name in ("text.color", "axes.labelcolor", "xtick.color", "ytick.color")}
    with rc_context({**SETTINGS, **colours, "axes.edgecolor": LINE, "font.size": 10}):
        # As wide as a telephone, so that text in the chart has the size of text in the page.
        figure = Figure(figsize=(4.7, 3.4), layout="constrained")
        axes = figure.add_subplot()
        axes.spines[["top", "right"]].set_visible(False)
        axes.set_axisbelow(True)
        axes.tick_params(labelsize=9)
        draw(axes)
    return figure


def number(value: float | None) -> str:
    """Return a number as text for a table: whole numbers with commas, others with four significant digits."""
    if value is None:
        return "none"
    return f"{value:,.0f}" if float(value).is_integer() else f"{value:.4g}"


INK, MUTE, LINE, ACCENT, GOOD, WARM = "#1f2328", "#868e96", "#d0d7de", "#3b5bdb", "#2b8a3e", "#b35900"

#: Custom property of the page for each colour of a chart, so that charts follow its light or dark scheme.
_COLOURS = {INK: "ink", MUTE: "mute", LINE: "line", ACCENT: "accent", GOOD: "good", WARM: "warm"}

#: Settings of matplotlib: keep text as text, and read no mathematics in it.
SETTINGS = {"svg.fonttype": "none", "text.parse_math": False}


def to_svg(figure: Any, *, name: str, title: str, description: str) -> Markup:
    """Return a figure as an SVG element.

    Args:
        figure: A matplotlib figure.
        name: Word that no other chart of the page has as its name.
        title: Title of the chart.
        description: Description in a sentence or two, for screen readers.
    """
    from matplotlib import rc_context

    file = io.StringIO()
    # Fixed names and no date: the same buffer gives the same page.
    with rc_context({**SETTINGS, "svg.hashsalt": name}):
        figure.savefig(file, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    drawn = file.getvalue()
    (box,) = re.findall(r'viewBox="([^"]*)"', drawn[: drawn.index(">", drawn.index("<svg"))])
    # The first definitions are matplotlib's global style, which the page replaces.
    body = drawn[drawn.index("</defs>") + len("</defs>") :]
    body = re.sub(r'\s*style="([^"]*)"', lambda match: _attributes(match[1]), body)
    body = _own_names(body, name).replace("xlink:href", "href")
    body = re.sub(r'\s*transform="rotate\(-?0 [^"]*\)"', "", re.sub(r">\s+<", "><", body))
    # Two decimals suffice for a screen, and make the page smaller.
    body = re.sub(r"(\d+\.\d\d)\d+", r"\1", body)
    head = f'<svg viewBox="{box}" role="img" aria-labelledby="{name}-title {name}-text">'
    # Safe to mark: matplotlib drew the body from numbers and fixed labels.
    return Markup(
        f'{head}<title id="{name}-title">{escape(title)}</title><desc id="{name}-text">{escape(description)}</desc>'
        f'<g stroke-linejoin="round">{body[: body.rindex("</svg>")]}</g></svg>'
    )


def _attributes(style: str) -> str:
    """Return the declarations of a style as SVG attributes, without the font, which the page sets."""
    declarations = dict(part.strip().split(":", 1) for part in style.split(";") if ":" in part)
    return "".join(
        f' {name}="{_colour(value.strip())}"' for name, value in declarations.items() if name != "font-family"
    )


def _colour(value: str) -> str:
    return f"var(--{_COLOURS[value]})" if value in _COLOURS else value


def _own_names(body: str, name: str) -> str:
    # Names that nothing refers to are dropped; the others become unique in the page.
    used = set(re.findall(r'(?:url\(|href=")#([^)"]*)', body))
    body = re.sub(r' id="([^"]*)"', lambda match: f' id="{name}-{match[1]}"' if match[1] in used else "", body)
    return re.sub(r'(url\(|href=")#', rf"\1#{name}-", body)
