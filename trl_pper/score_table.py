"""Figures for people: a table on a terminal, a line for each group of tasks where the output goes elsewhere.

Enters: the figures of all tasks and of groups of them. Leaves: text.
"""

from __future__ import annotations

from collections.abc import Mapping

from rich.console import Console
from rich.table import Table

from trl_pper.scores import Estimate, Figures


def show(everything: Figures, groups: Mapping[str, Mapping[str, Figures]], *, console: Console | None = None) -> None:
    """Show the figures.

    Args:
        everything: Those over all tasks.
        groups: For "difficulty" and "source" the figures of each group; empty where there is one group alone.
        console: Where to show them; the standard output by default.
    """
    console = console or Console()
    if not console.is_terminal:
        for name, figures in _named(everything, groups):
            # Not the console's: it would break lines where a terminal would end.
            print(f"{name}: {_line(figures)}", file=console.file)
        return
    console.print(_table(everything, groups))


def _named(everything: Figures, groups: Mapping[str, Mapping[str, Figures]]) -> list[tuple[str, Figures]]:
    parts = [(f"{kind} {name}", figures) for kind, group in groups.items() for name, figures in group.items()]
    return [("all tasks", everything), *parts]


def _line(figures: Figures) -> str:
    apart = f"{figures.unjudged} not judged, {figures.without_program} without a program"
    return ", ".join(
        [
            _tasks(figures.tasks),
            f"{figures.programs} programs ({apart})",
            f"pass rate {_share(figures.pass_rate)}",
            *[f"{name} {_estimate(one, figures.tasks)}" for name, one in figures.estimates.items()],
            f"compile rate {_share(figures.compile_rate)}",
        ]
    )


def _table(everything: Figures, groups: Mapping[str, Mapping[str, Figures]]) -> Table:
    table = Table(caption="± standard error over tasks")
    for name in ("", "tasks", "programs", "not judged", "without a program", "pass rate"):
        table.add_column(name, justify="right" if name else "left")
    for name in (*everything.estimates, "compile rate"):
        table.add_column(name, justify="right")
    for kind in ("", *groups):
        rows = groups[kind] if kind else {"all tasks": everything}
        for name, figures in rows.items():
            table.add_row(
                name,
                *map(str, (figures.tasks, figures.programs, figures.unjudged, figures.without_program)),
                _share(figures.pass_rate),
                *[_estimate(one, figures.tasks) for one in figures.estimates.values()],
                _share(figures.compile_rate),
            )
        table.add_section()
    return table


def _share(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def _estimate(one: Estimate, tasks: int) -> str:
    error = "" if one.standard_error is None else f" ± {one.standard_error:.3f}"
    # Tasks that are left out have to be seen: they may well be the hard ones.
    over = "" if one.tasks == tasks else f" (of {_tasks(one.tasks)})"
    return f"{_share(one.value)}{error}{over}"


def _tasks(number: int) -> str:
    return "1 task" if number == 1 else f"{number} tasks"
