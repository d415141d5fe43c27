"""One chart of a report: a picture, a sentence and a table that say the same.

Enters: what to draw on a pair of axes. Leaves: a matplotlib figure in the colours of `svg`.

A matplotlib figure as part of a page: in the page's colours, without styles of its own.

Enters: a figure drawn in the colours below. Leaves: an `<svg>` element whose colours follow the page's light or dark
scheme. It has no `style` attribute and no `<style>`, which the page's content security policy would refuse, and no
name (`id`) that another chart of the page has.
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


def drawn_figure(draw: Callable[[Any], None]) -> Any:
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


INK, MUTE, LINE, ACCENT, GOOD, WARM = "#1f2328", "#868e96", "#d0d7de", "#3b5bdb", "#2b8a3e", "#b35900"

#: Colour of a chart -> custom property of the page.
_COLOURS = {INK: "ink", MUTE: "mute", LINE: "line", ACCENT: "accent", GOOD: "good", WARM: "warm"}

#: What matplotlib is to do for this: text stays text, and the names are the same in every run.
SETTINGS = {"svg.fonttype": "none", "text.parse_math": False}


def to_svg(figure: Any, *, name: str, title: str, description: str) -> Markup:
    """Return a figure as an element of a page.

    Args:
        figure: A matplotlib figure.
        name: A word no other chart of the page has.
        title: What it shows.
        description: The same in a sentence or two, for those who do not see it.
    """
    from matplotlib import rc_context

    file = io.StringIO()
    with rc_context({**SETTINGS, "svg.hashsalt": name}):
        figure.savefig(file, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    drawn = file.getvalue()
    (box,) = re.findall(r'viewBox="([^"]*)"', drawn[: drawn.index(">", drawn.index("<svg"))])
    body = drawn[drawn.index("</defs>") + len("</defs>") :]
    body = re.sub(r'\s*style="([^"]*)"', lambda match: _attributes(match[1]), body)
    body = _own_names(body, name).replace("xlink:href", "href")
    body = re.sub(r'\s*transform="rotate\(-?0 [^"]*\)"', "", re.sub(r">\s+<", "><", body))
    body = re.sub(r"(\d+\.\d\d)\d+", r"\1", body)
    head = f'<svg viewBox="{box}" role="img" aria-labelledby="{name}-title {name}-text">'
    # Trusted: matplotlib drew it from numbers and fixed labels.
    return Markup(
        f'{head}<title id="{name}-title">{escape(title)}</title><desc id="{name}-text">{escape(description)}</desc>'
        f'<g stroke-linejoin="round">{body[: body.rindex("</svg>")]}</g></svg>'
    )


def _attributes(style: str) -> str:
    """Return the declarations of a style as attributes; the page chooses the font."""
    declarations = dict(part.strip().split(":", 1) for part in style.split(";") if ":" in part)
    return "".join(
        f' {name}="{_colour(value.strip())}"' for name, value in declarations.items() if name != "font-family"
    )


def _colour(value: str) -> str:
    return f"var(--{_COLOURS[value]})" if value in _COLOURS else value


def _own_names(body: str, name: str) -> str:
    used = set(re.findall(r'(?:url\(|href=")#([^)"]*)', body))
    body = re.sub(r' id="([^"]*)"', lambda match: f' id="{name}-{match[1]}"' if match[1] in used else "", body)
    return re.sub(r'(url\(|href=")#', rf"\1#{name}-", body)
