"""Write the HTML page of a report: a single file that loads nothing from elsewhere.

Texts by models and users enter the page as text only. The template escapes them, or the page's script unpacks them and
sets them as the text of an element. A content security policy allows this script and this style alone.
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
from trl_pper.replay.exports.summary import summarise_exports
from trl_pper.report.chart import Chart, to_svg
from trl_pper.report.charts import draw_charts
from trl_pper.report.content import Content, buffer_facts, read_content
from trl_pper.report.groups import Group, groups_by, slowest_tasks
from trl_pper.report.history import History
from trl_pper.report.near_misses import find_near_misses
from trl_pper.report.programs import choose_programs, pack
from trl_pper.rounds.program_table import visible

#: Default for the largest number of programs in the page.
PROGRAMS = 2_000

# Only the page's own script and style run, by their hashes, even if some text should escape its element.
_POLICY = (
    "default-src 'none'; script-src 'sha256-{script}'; style-src 'sha256-{style}'; base-uri 'none'; "
    "form-action 'none'; require-trusted-types-for 'script'; trusted-types 'none'"
)

_SCORES = {
    "accuracy": "tasks solved by the first program",
    "pass_rate": "tests passed by all programs",
    "first_pass_rate": "tests passed by the first program",
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
        path: HTML file to write; its folder is created.
        buffer: Experiences to show, at least one.
        title: Heading of the page.
        history: Log of the run, see `history_of`.
        facts: Further numbers for the head of the page, by name.
        programs: Largest number of programs that can be read in the page, at least 0. All programs of a large buffer
            make a large page.
        png: Folder for the charts as PNG files; None writes no PNG files.

    Raises:
        ValueError: The buffer is empty, or `programs` is negative.
        ImportError: matplotlib is not installed; the message names the extra.
    """
    programs_alone = buffer.without_repairs()
    if not len(programs_alone):
        raise ValueError("buffer: must hold at least one judged program; got an empty buffer")
    if programs < 0:
        raise ValueError(f"programs: must be at least 0; got {programs}")
    history = history or History()
    if repairs := len(buffer) - len(programs_alone):
        facts = {"repair experiences, which are not shown here": f"{repairs:,}", **(facts or {})}
        buffer = programs_alone
    content = read_content(buffer)
    charts = draw_charts(content, history, possibility=buffer.possibility, exports=summarise_exports(buffer))
    page = _page(buffer, content, charts, history, title=title, facts=facts or {}, programs=programs)
    with atomic_file(path) as file:
        file.write(page.encode("utf-8"))
    if png is not None:
        write_charts(charts, png)


def write_charts(charts: Sequence[Chart], folder: str | Path) -> None:
    """Write charts as PNG files `<name>.png` into a folder, which is created."""
    for chart in charts:
        with atomic_file(Path(folder) / f"{chart.name}.png") as file:
            # Without matplotlib's version in the metadata, so that equal charts are equal files.
            chart.figure.savefig(file, format="png", dpi=160, metadata={"Software": None})


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
        # Applied to every value in the template: control and invisible characters are spelled out.
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
        facts={**facts, **buffer_facts(content), **_shared_facts(history)},
        scores=_scores(history),
        charts=[_shown(chart) for chart in charts],
        groups=_groups(content),
        slowest=slowest_tasks(content),
        # Without programs in the page there is nothing to compare.
        near_misses=replace(near_misses, pairs=near_misses.pairs if len(chosen) else ()),
        embedded=len(chosen),
        programs=len(content),
        settings=buffer.settings(),
        # Safe to mark: the letters, digits, "+", "/" and "=" of base64 cannot end an element.
        data=Markup(pack(buffer, content, near_misses, chosen)),
    )


def _visible(value: object) -> object:
    return visible(value) if isinstance(value, str) and not isinstance(value, Markup) else value


def _source(name: str) -> str:
    return files("trl_pper.report").joinpath("templates", name).read_text(encoding="utf-8").strip()


def _digest(text: str) -> str:
    return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def _shared_facts(history: History) -> dict[str, str]:
    """Return a fact on tasks whose verdicts can be forged; nothing where the log tells of none."""
    most = max((int(figures.get("shared_tasks", 0)) for figures in history.rounds), default=0)
    return {"shared tests": f"{most} tasks: tests in the program's process, verdicts can be forged"} if most else {}


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
