"""The HTML page: everything a report shows, in one file that asks for nothing from elsewhere.

Enters: a buffer and the history of its run. Leaves: the file, and PNG files of its charts where these are wanted. What
models and users wrote gets into the page in two ways, both as text: escaped by the template, or packed, unpacked by
the page's script and set as the text of an element. A content security policy allows that script and style alone.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from importlib.resources import files
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader
from markupsafe import Markup

from trl_pper import __version__
from trl_pper.files import atomic_file
from trl_pper.replay.buffer import ReplayBuffer
from trl_pper.report.chart import Chart, to_svg
from trl_pper.report.charts import draw_charts
from trl_pper.report.content import Content, buffer_facts, read_content
from trl_pper.report.groups import Group, groups_by, slowest_tasks
from trl_pper.report.history import History
from trl_pper.report.near_misses import find_near_misses
from trl_pper.report.programs import choose_programs, pack
from trl_pper.rounds.display import visible

#: Programs in the page unless another number is asked for.
PROGRAMS = 2_000

_POLICY = (
    "default-src 'none'; script-src 'sha256-{script}'; style-src 'sha256-{style}'; base-uri 'none'; "
    "form-action 'none'; require-trusted-types-for 'script'; trusted-types 'none'"
)

_SCORES = {
    "accuracy": "tasks solved by the first program",
    "pass_rate": "tests passed by the first program",
}


def write_report(
    path: str | Path,
    buffer: ReplayBuffer,
    *,
    title: str = "PPER report",
    history: History | None = None,
    facts: Mapping[str, Any] | None = None,
    programs: int = PROGRAMS,
    png: str | Path | None = None,
) -> None:
    """Write the report.

    Args:
        path: HTML file to write; its folder is made.
        buffer: The experiences to show, at least one.
        title: Heading of the page.
        history: What the run logged, see `history_of`.
        facts: Further figures for the head of the page, by name.
        programs: Most programs that can be read in the page, at least 0; a page of all of a large buffer is large.
        png: Folder for the charts as PNG files; none are written by default.

    Raises:
        ValueError: The buffer is empty, or `programs` is negative.
        ImportError: matplotlib is not installed; the message names the extra.
    """
    if not len(buffer):
        raise ValueError("buffer: got an empty one; a report needs at least one judged program")
    if programs < 0:
        raise ValueError(f"programs: must be at least 0; got {programs}")
    history = history or History()
    content = read_content(buffer)
    charts = draw_charts(content, history, possibility=buffer.possibility)
    page = _page(buffer, content, charts, history, title=title, facts=facts or {}, programs=programs)
    with atomic_file(path) as file:
        file.write(page.encode("utf-8"))
    if png is not None:
        write_charts(charts, png)


def write_charts(charts: Sequence[Chart], folder: str | Path) -> None:
    """Write charts as PNG files `<name>.png` into a folder, which is made."""
    Path(folder).mkdir(parents=True, exist_ok=True)
    for chart in charts:
        chart.figure.savefig(Path(folder) / f"{chart.name}.png", dpi=160, metadata={"Software": None})


def _page(
    buffer: ReplayBuffer,
    content: Content,
    charts: Sequence[Chart],
    history: History,
    *,
    title: str,
    facts: Mapping[str, Any],
    programs: int,
) -> str:
    environment = Environment(
        loader=PackageLoader("trl_pper.report"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=_visible,
    )
    script, style = (_source(f"report.{kind}") for kind in ("js", "css"))
    near_misses = find_near_misses(buffer, content)
    chosen = choose_programs(content, near_misses, programs)
    return environment.get_template("report.html.j2").render(
        version=__version__,
        policy=_POLICY.format(script=_digest(script), style=_digest(style)),
        script=Markup(script),
        style=Markup(style),
        title=title,
        facts={**facts, **buffer_facts(content)},
        scores=_scores(history),
        charts=[_shown(chart) for chart in charts],
        groups=_groups(content),
        slowest=slowest_tasks(content),
        near_misses=replace(near_misses, pairs=near_misses.pairs if len(chosen) else ()),
        embedded=len(chosen),
        programs=len(content),
        settings=buffer.settings(),
        # Base64: letters, digits, "+", "/" and "=" end no element.
        data=Markup(pack(buffer, content, near_misses, chosen)),
    )


def _visible(value: object) -> object:
    return visible(value) if isinstance(value, str) and not isinstance(value, Markup) else value


def _source(name: str) -> str:
    return files("trl_pper.report").joinpath("templates", name).read_text(encoding="utf-8").strip()


def _digest(text: str) -> str:
    return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def _scores(history: History) -> list[dict[str, Any]]:
    rows = []
    for name, (first, last) in history.scores().items():
        score, _, named = name.partition(" of ")
        if score.startswith("pass@"):
            label = f"tasks solved by any of {score.removeprefix('pass@')} programs"
        else:
            label = _SCORES[score]
        rows.append(
            {
                "name": f"{label}, {named}" if named else label,
                "first": first.scores[name],
                "last": last.scores[name],
                "first_at": first.rounds_trained,
                "last_at": last.rounds_trained,
            }
        )
    return rows


def _shown(chart: Chart) -> dict[str, Any]:
    svg = to_svg(chart.figure, name=chart.name, title=chart.title, description=chart.text)
    return {"title": chart.title, "text": chart.text, "svg": svg, "header": chart.header, "rows": chart.rows}


def _groups(content: Content) -> list[tuple[str, str, list[Group]]]:
    kinds = {
        "source": "By source: who wrote them",
        "scorer": "By scorer: whose the possibility is",
        "round": "By round",
    }
    return [(kind, heading, groups_by(content, kind)) for kind, heading in kinds.items()]
