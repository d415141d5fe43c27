"""A live bar for a collection: tasks done, programs judged, programs passing.

Enters: verdicts, task by task. Leaves: one line on a terminal, redrawn; nothing where the output is no terminal or
quiet was asked for.
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
        title: Written before the bar.
        quiet: Whether to show nothing.
    """

    def __init__(self, total: int, *, title: str = "", quiet: bool = False) -> None:
        console = Console(stderr=True)
        self._progress = Progress(
            TextColumn("[bold]{task.description}"),
            BarColumn(bar_width=None),
            MofNCompleteColumn(),
            TextColumn("tasks · {task.fields[judged]} programs judged, [green]{task.fields[passing]} pass"),
            TimeElapsedColumn(),
            console=console,
            disable=quiet or not console.is_terminal,
            transient=True,
        )
        self._row = self._progress.add_task(title, total=total, judged=0, passing=0)
        self.judged = 0
        self.passing = 0

    def __enter__(self) -> CollectionProgress:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()

    def advance(self, verdicts: Sequence[Verdict]) -> None:
        """Count one task whose programs got these verdicts."""
        self.judged += len(verdicts)
        self.passing += sum(verdict.accepted for verdict in verdicts)
        self._progress.update(self._row, advance=1, judged=self.judged, passing=self.passing)
