"""The programs of a round as a table, on the terminal and in trackers, as `log_completions` of TRL's trainers has it.

Enters: a buffer and a round. Leaves: a printed sample of what the buffer holds of that round, and all of it as a table
`completions` in wandb and trackio. Nothing is written into the run's folder: what lies there may be pushed.
"""

from __future__ import annotations

import math
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from rich.console import Console
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from trl_pper.experience import Experience
from trl_pper.progress import making_room
from trl_pper.replay import ReplayBuffer
from trl_pper.task import Prompt
from trl_pper.verdict import Outcome
from trl_pper.visible_text import shortened

#: Those of TRL's trackers that take tables.
_WITH_TABLES = ("wandb", "trackio")


@dataclass(frozen=True, kw_only=True)
class TableRow:
    """One program of the table; columns that TRL's table has too are called as there."""

    step: int
    task_id: str
    prompt: Prompt
    completion: str
    program: str
    possibility: float
    pass_rate: float
    p2value: float
    verdict: str


def table_rows(buffer: ReplayBuffer, round_index: int, *, step: int, number: int | None = None) -> list[TableRow]:
    """Return what a buffer holds of a round, the highest P2Value first.

    Args:
        buffer: Where the round's programs are; those that left it for its capacity are not in the table.
        round_index: The round, from 0.
        step: The optimizer step at which it was collected.
        number: How many rows to choose, evenly spaced from the highest P2Value to the lowest, so that a few rows show
            what the draw favours and what it leaves; None for all.
    """
    held = np.flatnonzero(buffer.round_indices() == round_index)
    p2values, possibilities = buffer.p2values(), buffer.possibilities()
    ordered = held[np.argsort(-p2values[held], kind="stable")]
    chosen = ordered[spaced(len(ordered), number)]
    return [
        TableRow(
            step=step,
            task_id=one.task_id,
            prompt=one.prompt,
            completion=one.completion,
            program=one.program,
            possibility=float(possibilities[position]),
            pass_rate=one.pass_rate,
            p2value=float(p2values[position]),
            verdict=verdict_of(one),
        )
        for position, one in zip(chosen, buffer.take(chosen), strict=True)
    ]


def spaced(total: int, number: int | None) -> list[int]:
    """Return `number` places in 0..total-1, evenly spaced, the first and the last among them.

    Examples:
        >>> spaced(9, 3), spaced(9, 1), spaced(2, 5)
        ([0, 4, 8], [0], [0, 1])
    """
    if number is None or number >= total:
        return list(range(total))
    return [round(place * (total - 1) / max(number - 1, 1)) for place in range(number)]


def verdict_of(experience: Experience) -> str:
    """Return how the tests of a program ended, in words: "passed", or what went wrong how often.

    Examples:
        >>> verdict_of(Experience(
        ...     task_id="one", prompt="?", completion="", program="", pass_rate=0.5, outcomes=("passed", "timeout"),
        ... ))
        '1 passed, 1 timeout'
    """
    counts = Counter(experience.outcomes)
    if set(counts) <= {Outcome.PASSED}:
        return "passed" if experience.pass_rate == 1.0 else ""
    return ", ".join(f"{counts[outcome]} {outcome.replace('_', ' ')}" for outcome in Outcome if counts[outcome])


def print_rows(rows: Sequence[TableRow], *, title: str) -> None:
    """Print rows as a table on the standard output, with prompts and long programs cut; bars make room for it.

    Args:
        rows: What to print; nothing is printed for none.
        title: Written above the table.
    """
    if not rows:
        return
    table = Table(show_header=True, header_style="bold white", expand=True, show_lines=True)
    table.add_column("Prompt", style="bright_yellow", ratio=2, overflow="fold")
    table.add_column("Program", style="bright_green", ratio=4, overflow="fold")
    for heading in ("P(t)", "Pass rate", "P2Value"):
        table.add_column(heading, style="bold cyan", justify="right", min_width=5)
    table.add_column("Verdict", style="bright_white", ratio=1, min_width=8, overflow="fold")
    for row in rows:
        possibility = "unknown" if math.isnan(row.possibility) else f"{row.possibility:.3g}"
        # Text, not a string: what others wrote is no markup.
        table.add_row(
            Text(shortened(_asked(row.prompt), lines=8, characters=300)),
            Text(shortened(row.program, lines=40, characters=2000)),
            possibility,
            f"{row.pass_rate:.2f}",
            f"{row.p2value:.3f}",
            row.verdict,
        )
    with making_room():
        Console(file=sys.stdout).print(Panel(table, expand=False, title=title, border_style="bold white"))


def log_rows(rows: Sequence[TableRow], report_to: Sequence[str]) -> None:
    """Log rows as the table `completions` to those of some trackers that take tables and have a run.

    Args:
        rows: What to log, whole.
        report_to: Names of trackers, as in `TrainingArguments`.
    """
    if not rows:
        return
    import pandas

    frame = pandas.DataFrame([asdict(row) for row in rows])
    for name in _WITH_TABLES:
        tracker = _tracker(name) if name in report_to else None
        if tracker is not None:
            tracker.log({"completions": tracker.Table(dataframe=frame)})


def show_round(
    buffer: ReplayBuffer, round_index: int, *, step: int, number: int | None, report_to: Sequence[str]
) -> None:
    """Print a sample of a round's programs, and log all of them to trackers that take tables.

    Args:
        buffer: Where they are.
        round_index: The round, from 0.
        step: The optimizer step at which it was collected.
        number: How many to print; None for all.
        report_to: Names of trackers, as in `TrainingArguments`.
    """
    sample = table_rows(buffer, round_index, step=step, number=number)
    print_rows(sample, title=f"Round {round_index + 1}, step {step}")
    if set(report_to).intersection(_WITH_TABLES):
        log_rows(table_rows(buffer, round_index, step=step), report_to)


def _tracker(name: str) -> Any:
    """Return the module of a tracker whose run the Trainer has begun; None where there is none."""
    if name == "trackio":
        import trackio

        return trackio
    import wandb

    return wandb if wandb.run is not None else None


def _asked(prompt: Prompt) -> str:
    """Return what a prompt asks: its text, or what the last message of a chat says."""
    return prompt if isinstance(prompt, str) else str(prompt[-1].get("content") or "")
