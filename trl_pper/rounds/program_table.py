"""Print a table of a round's programs as a sample, and log all of them to trackers.

The table is logged to wandb and trackio, like the table of `log_completions` in TRL's trainers. Nothing is written
into the run's folder, which may be pushed to the Hub.
"""

from __future__ import annotations

import math
import re
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

from trl_pper.judge.verdict import Outcome
from trl_pper.replay.buffer import ReplayBuffer
from trl_pper.replay.experience import Experience
from trl_pper.rounds.display import making_room
from trl_pper.tasks.task import Prompt

#: Control and format characters, including bidirectional overrides and line separators, and lone surrogates; without
#: tabs and line feeds. The report's script has the same list.
INVISIBLE = (
    r"[\x00-\x08\x0b-\x1f\x7f-\x9f\xad\u061c\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb"
    r"\ud800-\udfff\U000e0000-\U000e007f]"
)


def visible(text: str) -> str:
    r"""Replace characters of `INVISIBLE` in untrusted text by their code points.

    Examples:
        >>> print(visible("\x1b[2Jreturn\u202e x"))
        ⟨U+001B⟩[2Jreturn⟨U+202E⟩ x
    """
    # A program could clear the terminal by an escape sequence, or show its code in another order than it runs.
    return re.sub(INVISIBLE, lambda match: f"\u27e8U+{ord(match[0]):04X}\u27e9", text)


def shortened(text: str, *, lines: int, characters: int) -> str:
    """Shorten untrusted text for a terminal; the last line tells how many characters are left out.

    Args:
        text: The text. Tabs become four spaces, and line ends become line feeds.
        lines: Largest number of lines.
        characters: Largest number of characters, before invisible characters are replaced by their code points.
    """
    plain = text.replace("\r\n", "\n")
    kept = "\n".join(plain[:characters].split("\n")[:lines])
    shown = visible(kept).replace("\t", "    ")
    return shown if len(kept) == len(plain) else f"{shown}\n… {len(plain) - len(kept)} more characters"


#: The trackers of TRL that accept tables.
_WITH_TABLES = ("wandb", "trackio")


@dataclass(frozen=True, kw_only=True)
class TableRow:
    """A row of the table, with a program; columns that TRL's table has, too, have the same names."""

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
    """Return the programs of a round in a buffer as rows, the highest P2Value first; repairs are left out.

    Args:
        buffer: The buffer; evicted programs are not in the table.
        round_index: The round, from 0.
        step: The optimizer step at which the round was collected.
        number: Number of rows, evenly spaced from the highest to the lowest P2Value; None for all.
    """
    buffer = buffer.without_repairs()
    held = np.flatnonzero(buffer.round_indices() == round_index)
    p2values, possibilities = buffer.p2values(), buffer.possibilities()
    ordered = held[np.argsort(-p2values[held], kind="stable")]
    # Spaced, so that a few rows show both programs that are drawn often and programs that are hardly drawn.
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
            verdict=describe_verdict(one),
        )
        for position, one in zip(chosen, buffer.take(chosen), strict=True)
    ]


def spaced(total: int, number: int | None) -> list[int]:
    """Return `number` evenly spaced integers from 0 to total - 1, both included; all if there are fewer.

    Examples:
        >>> spaced(9, 3), spaced(9, 1), spaced(2, 5)
        ([0, 4, 8], [0], [0, 1])
    """
    if number is None or number >= total:
        return list(range(total))
    return [round(place * (total - 1) / max(number - 1, 1)) for place in range(number)]


def describe_verdict(experience: Experience) -> str:
    """Return the outcomes of a program's tests as text: "passed", or the number of tests with each outcome.

    Examples:
        >>> describe_verdict(Experience(
        ...     task_id="one", prompt="?", completion="", program="", pass_rate=0.5, outcomes=("passed", "timeout"),
        ... ))
        '1 passed, 1 timeout'
    """
    counts = Counter(experience.outcomes)
    if set(counts) <= {Outcome.PASSED}:
        # Without outcomes only the pass rate is known.
        return "passed" if experience.pass_rate == 1.0 else ""
    return ", ".join(f"{counts[outcome]} {outcome.replace('_', ' ')}" for outcome in Outcome if counts[outcome])


def print_rows(rows: Sequence[TableRow], *, title: str) -> None:
    """Print rows as a table on the standard output, above the bars, with shortened prompts and programs.

    Args:
        rows: The rows; without rows nothing is printed.
        title: Title of the table.
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
        # `Text`, since rich reads markup in strings, and prompts and programs may contain square brackets.
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
    """Log rows as a table `completions` to each tracker that accepts tables and has a run.

    Args:
        rows: The rows, which are not shortened.
        report_to: Names of trackers, as in `TrainingArguments`.
    """
    if not rows:
        return
    # Trackers and pandas are imported only for a run that reports to them.
    import pandas

    frame = pandas.DataFrame([asdict(row) for row in rows])
    for name in _WITH_TABLES:
        tracker = _tracker(name) if name in report_to else None
        if tracker is not None:
            tracker.log({"completions": tracker.Table(dataframe=frame)})


def show_round(
    buffer: ReplayBuffer,
    round_index: int,
    *,
    step: int,
    number: int | None,
    report_to: Sequence[str],
    first_round: int = 0,
) -> None:
    """Print a sample of a round's programs, and log all of them to trackers that accept tables.

    Args:
        buffer: The buffer with the programs.
        round_index: The round, from 0.
        step: The optimizer step at which the round was collected.
        number: Number of programs to print; None for all.
        report_to: Names of trackers, as in `TrainingArguments`.
        first_round: The round in the buffer that the first round of the run is.
    """
    written = first_round + round_index
    sample = table_rows(buffer, written, step=step, number=number)
    print_rows(sample, title=f"Round {round_index + 1}, step {step}")
    if set(report_to).intersection(_WITH_TABLES):
        log_rows(table_rows(buffer, written, step=step), report_to)


def _tracker(name: str) -> Any:
    """Return the module of a tracker with the Trainer's run; None if there is no run."""
    if name == "trackio":
        import trackio

        return trackio
    import wandb

    return wandb if wandb.run is not None else None


def _asked(prompt: Prompt) -> str:
    """Return the text of a prompt, or the content of the last chat message."""
    return prompt if isinstance(prompt, str) else str(prompt[-1].get("content") or "")
