"""What a person sees of a collection or an evaluation while it runs, and the line that stays when it is done.

Enters: counts and verdicts, from any thread. Leaves: a bar on a terminal or in a notebook, below the Trainer's own,
gone when the work is done; and lines, each whole, wherever the output goes.

The bars are tqdm's because the Trainer's is: bars of one library know of each other's lines and share a lock, where a
second library that moves the cursor tears what the first one drew.

Text that others wrote, for eyes: what is not seen, or acts on a terminal, or reorders the rest, is spelled out.

Enters: any text. Leaves: text that shows all it holds. Letters of every script stay as they are.

The programs of a round as a table, on the terminal and in trackers, as `log_completions` of TRL's trainers has it.

Enters: a buffer and a round. Leaves: a printed sample of what the buffer holds of that round, and all of it as a table
`completions` in wandb and trackio. Nothing is written into the run's folder: what lies there may be pushed.
"""

from __future__ import annotations

import logging
import math
import re
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from types import TracebackType
from typing import Any

import numpy as np
from rich.console import Console
from rich.panel import Panel
from rich.table import Table
from rich.text import Text
from tqdm.auto import tqdm
from tqdm.autonotebook import tqdm as _terminal_or_notebook
from tqdm.contrib.logging import logging_redirect_tqdm
from tqdm.std import tqdm as _terminal

from trl_pper.judge.verdict import Outcome, Verdict
from trl_pper.replay.buffer import ReplayBuffer
from trl_pper.replay.experience import Experience
from trl_pper.tasks.task import Prompt

#: What matters most stands first: a narrow terminal cuts the end off.
_FORMAT = "{desc}{n_fmt}/{total_fmt} {unit} |{bar}| {remaining} left{postfix}"
_IN_NOTEBOOK = _terminal_or_notebook is not _terminal


class CollectionProgress:
    """Show how far a collection is: tasks done, time left, programs generated, judged and passing, programs a second.

    Args:
        total: Number of tasks, or of programs where `unit` says so.
        title: Written before the bar.
        unit: What is counted, "tasks" or "programs".
        quiet: Whether to show nothing; nothing is shown either where the standard error is no terminal.
    """

    def __init__(self, total: int, *, title: str = "", unit: str = "tasks", quiet: bool = False) -> None:
        self._of_programs = unit.endswith("programs")
        self._bar = None
        self._options = {"total": total, "desc": f"{title}: " if title else "", "unit": unit}
        self._shown = not quiet and shows_bars()
        self._since = time.monotonic()
        self.programs_generated = 0
        self.programs_judged = 0
        self.programs_restored = 0
        self.programs_passing = 0
        self.programs_unextracted = 0

    def __enter__(self) -> CollectionProgress:
        self._since = time.monotonic()
        if self._shown:
            # Without smoothing, the time left follows from all that was done: programs come in bursts.
            self._bar = tqdm(**self._options, bar_format=_FORMAT, leave=False, dynamic_ncols=True, smoothing=0)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.close()
            self._bar = None

    def generated(self, programs: int) -> None:
        """Count one task for which this many programs were generated."""
        self.programs_generated += programs
        self._draw()

    def judged(self, verdicts: Sequence[Verdict], *, unextracted: int = 0) -> None:
        """Count one task whose programs got these verdicts; in so many completions there was no program."""
        self._count(verdicts, unextracted)
        self._draw()

    def restored(self, verdicts: Sequence[Verdict], *, unextracted: int = 0) -> None:
        """Count one task that was done before a restart: it says nothing of how fast this run is."""
        self.programs_generated += len(verdicts)
        self.programs_restored += len(verdicts)
        if self._bar is not None:
            self._bar.initial += self._advance(verdicts)
        self._count(verdicts, unextracted)
        self._draw()

    def _advance(self, verdicts: Sequence[Verdict]) -> int:
        return len(verdicts) if self._of_programs else 1

    def _count(self, verdicts: Sequence[Verdict], unextracted: int) -> None:
        self.programs_judged += len(verdicts)
        self.programs_passing += sum(verdict.accepted for verdict in verdicts)
        self.programs_unextracted += unextracted
        if self._bar is not None:
            self._bar.n += self._advance(verdicts)

    def _draw(self) -> None:
        # At every change, however fast they come: what is not drawn now may wait for the next batch of a model.
        if self._bar is not None:
            self._bar.set_postfix_str(self._counts(), refresh=True)

    def _counts(self) -> str:
        rate = (self.programs_judged - self.programs_restored) / max(time.monotonic() - self._since, 1e-3)
        counts = [] if self._of_programs else [f"{self.programs_generated} programs", f"{self.programs_judged} judged"]
        counts += [f"{self.programs_passing} pass", f"{rate:.3g} programs/s"]
        if self.programs_unextracted:
            counts.append(f"{self.programs_unextracted} without a program")
        return ", ".join(counts)


def shows_bars() -> bool:
    """Return whether somebody is there to look at a bar: a terminal, or a notebook that can draw one."""
    return _IN_NOTEBOOK or sys.stderr.isatty()


def say(line: str, *, log_level: int = logging.WARNING) -> None:
    """Print a line on the standard output, as the Trainer does with its logs; bars make room for it.

    Args:
        line: What to say.
        log_level: The least that is logged; where that is errors only, nothing is said.
    """
    if log_level <= logging.WARNING:
        tqdm.write(line, file=sys.stdout)


@contextmanager
def making_room() -> Iterator[None]:
    """Let what is printed inside stand above the bars, which are drawn again afterwards."""
    with tqdm.external_write_mode(file=sys.stdout):
        yield


@contextmanager
def warnings_above_bars() -> Iterator[None]:
    """Print what is logged inside above the bars, not into them, where it would go to a terminal."""
    if not shows_bars():
        yield
        return
    loggers, theirs = [logging.getLogger()], logging.getLogger("transformers")
    if not theirs.propagate:
        loggers.append(theirs)
    with logging_redirect_tqdm(loggers=loggers, tqdm_class=tqdm):
        yield


#: Control and format characters, bidirectional overrides and separators of lines among them, and half characters. Tabs
#: and new lines are themselves. The script of the report has the same.
INVISIBLE = (
    r"[\x00-\x08\x0b-\x1f\x7f-\x9f\xad\u061c\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb"
    r"\ud800-\udfff\U000e0000-\U000e007f]"
)


def visible(text: str) -> str:
    r"""Return text in which characters of `INVISIBLE` are written as their code points.

    Examples:
        >>> print(visible("\x1b[2Jreturn\u202e x"))
        ⟨U+001B⟩[2Jreturn⟨U+202E⟩ x
    """
    return re.sub(INVISIBLE, lambda match: f"\u27e8U+{ord(match[0]):04X}\u27e9", text)


def shortened(text: str, *, lines: int, characters: int) -> str:
    """Return text fit for a terminal, at most so many lines and characters of it; the rest is counted.

    Args:
        text: Anything; tabs become four spaces, and line ends line feeds.
        lines: The most lines that are kept.
        characters: The most characters that are kept, before any is spelled out.
    """
    plain = text.replace("\r\n", "\n")
    kept = "\n".join(plain[:characters].split("\n")[:lines])
    shown = visible(kept).replace("\t", "    ")
    return shown if len(kept) == len(plain) else f"{shown}\n… {len(plain) - len(kept)} more characters"


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
            verdict=describe_verdict(one),
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


def describe_verdict(experience: Experience) -> str:
    """Return how the tests of a program ended, in words: "passed", or what went wrong how often.

    Examples:
        >>> describe_verdict(Experience(
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
