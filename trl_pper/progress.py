"""A live display of a collection: how far generating is, how far judging is, and how many programs pass.

Enters: counts and verdicts, from any thread. Leaves: two lines on a terminal, redrawn; nothing where the output is no
terminal or quiet was asked for.
"""

from __future__ import annotations

from collections.abc import Sequence
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from trl_pper.verdict import Verdict


class CollectionProgress:
    """Show a collection while it runs.

    Args:
        total: Number of tasks.
        title: Written before the bars.
        quiet: Whether to show nothing.
        console: Where to show it; the standard error by default.
    """

    def __init__(self, total: int, *, title: str = "", quiet: bool = False, console: Console | None = None) -> None:
        console = console or Console(stderr=True)
        self._progress = Progress(
            TextColumn("[bold]{task.description}"),
            BarColumn(bar_width=None),
            MofNCompleteColumn(),
            TextColumn("tasks · {task.fields[programs]} programs{task.fields[passing]}"),
            TimeElapsedColumn(),
            console=console,
            disable=quiet or not console.is_terminal,
            transient=True,
        )
        self._generated = self._progress.add_task(f"{title} generated".strip(), total=total, programs=0, passing="")
        self._judged = self._progress.add_task(f"{title} judged".strip(), total=total, programs=0, passing="")
        self.programs_generated = 0
        self.programs_judged = 0
        self.programs_passing = 0
        self.programs_unextracted = 0

    def __enter__(self) -> CollectionProgress:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()

    def generated(self, programs: int) -> None:
        """Count one task for which this many programs were generated."""
        self.programs_generated += programs
        self._progress.update(self._generated, advance=1, programs=self.programs_generated)

    def judged(self, verdicts: Sequence[Verdict], *, unextracted: int = 0) -> None:
        """Count one task whose programs got these verdicts; in so many completions there was no program."""
        self.programs_judged += len(verdicts)
        self.programs_passing += sum(verdict.accepted for verdict in verdicts)
        self.programs_unextracted += unextracted
        passing = f", [green]{self.programs_passing} pass[/green]"
        if self.programs_unextracted:
            passing += f", [yellow]{self.programs_unextracted} without a program[/yellow]"
        self._progress.update(self._judged, advance=1, programs=self.programs_judged, passing=passing)
