"""What a person sees of a collection or an evaluation while it runs, and the line that stays when it is done.

Enters: counts and verdicts, from any thread. Leaves: a bar on a terminal or in a notebook, below the Trainer's own,
gone when the work is done; and lines, each whole, wherever the output goes.

The bars are tqdm's because the Trainer's is: bars of one library know of each other's lines and share a lock, where a
second library that moves the cursor tears what the first one drew.
"""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import TracebackType

from tqdm.auto import tqdm
from tqdm.autonotebook import tqdm as _terminal_or_notebook
from tqdm.contrib.logging import logging_redirect_tqdm
from tqdm.std import tqdm as _terminal

from trl_pper.verdict import Verdict

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
