"""Show a collection or an evaluation while it runs: progress and log lines."""

from __future__ import annotations

import logging
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from types import TracebackType
from typing import Any

from tqdm.auto import tqdm
from tqdm.autonotebook import tqdm as _terminal_or_notebook
from tqdm.contrib.logging import logging_redirect_tqdm
from tqdm.std import tqdm as _terminal

from trl_pper.judge.verdict import Verdict

# All bars are tqdm's, like the Trainer's: tqdm's bars know each other's lines and share a lock. A second library that
# moves the cursor, such as rich, would break them.

_IN_NOTEBOOK = _terminal_or_notebook is not _terminal
#: How often the clock of a bar moves, and how often a line comes where no bar can be shown, in seconds.
_BAR_SECONDS, _LINE_SECONDS = 1.0, 30.0


class CollectionProgress:
    """The progress of a collection: tasks done, elapsed time and time left, programs generated, judged and passing.

    A bar stands below the Trainer's own and disappears at the end. If the standard error is neither a terminal nor a
    notebook, there is a line every 30 seconds instead. The methods can be called in any thread.

    Args:
        total: Number of tasks, or of programs if they are the unit.
        title: Text before the bar.
        unit: The unit of the bar, "tasks" or "programs", perhaps after "own".
        quiet: Whether to show nothing.
    """

    def __init__(self, total: int, *, title: str = "", unit: str = "tasks", quiet: bool = False) -> None:
        self._total = total
        self._title = f"{title}: " if title else ""
        self._unit = unit
        self._of_programs = unit.endswith("programs")
        self._shown = not quiet
        self._with_bar = shows_bars()
        self._bar: Any = None
        self._clock: threading.Thread | None = None
        self._ended = threading.Event()
        self._lock = threading.Lock()
        self._pace = Pace(total)
        self.programs_generated = 0
        self.programs_judged = 0
        self.programs_passing = 0
        self.programs_unextracted = 0

    def __enter__(self) -> CollectionProgress:
        self._pace = Pace(self._total)
        if not self._shown:
            return self
        if self._with_bar:
            self._bar = tqdm(total=1.0, bar_format=self._format(), leave=False, dynamic_ncols=True)
        # A thread, since a source may write for minutes without telling how far it is, and time goes on.
        self._ended.clear()
        self._clock = threading.Thread(target=self._tick, name="progress", daemon=True)
        self._clock.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        if self._clock is not None:
            self._clock.join()
            self._clock = None
        if self._bar is not None:
            self._bar.close()
            self._bar = None

    def writing(self, tasks: int) -> None:
        """Tell how many tasks a source is about to write programs for, some of them perhaps for the second time."""
        with self._lock:
            self._pace.begin_writing(tasks)

    def wrote(self, tasks: float) -> None:
        """Count further tasks whose programs are written, in parts, as `tell_written` tells."""
        # The clock draws: this is called in every decoding step.
        with self._lock:
            self._pace.wrote(tasks)

    def yielded(self, tasks: int) -> None:
        """Tell how many tasks the source has yielded programs for, since it may not tell of parts."""
        with self._lock:
            self._pace.yielded(tasks)

    def generated(self, programs: int) -> None:
        """Count the generated programs of a task."""
        with self._lock:
            self.programs_generated += programs
            self._pace.generated()
        self._draw()

    def judged(self, verdicts: Sequence[Verdict], *, unextracted: int = 0) -> None:
        """Count a judged task.

        Args:
            verdicts: The verdicts on its programs.
            unextracted: Number of its completions without a program.
        """
        with self._lock:
            self._count(verdicts, unextracted)
            self._pace.judged(self._advance(verdicts))
        self._draw()

    def restored(self, verdicts: Sequence[Verdict], *, unextracted: int = 0) -> None:
        """Count a task that was judged before a restart.

        Args:
            verdicts: The verdicts on its programs.
            unextracted: Number of its completions without a program.
        """
        with self._lock:
            self.programs_generated += len(verdicts)
            self._count(verdicts, unextracted)
            self._pace.restored(self._advance(verdicts))
        self._draw()

    def _advance(self, verdicts: Sequence[Verdict]) -> int:
        return len(verdicts) if self._of_programs else 1

    def _count(self, verdicts: Sequence[Verdict], unextracted: int) -> None:
        self.programs_judged += len(verdicts)
        self.programs_passing += sum(verdict.accepted for verdict in verdicts)
        self.programs_unextracted += unextracted

    def _tick(self) -> None:
        while not self._ended.wait(_BAR_SECONDS if self._with_bar else _LINE_SECONDS):
            if self._with_bar:
                self._draw()
            else:
                # Through tqdm, since the Trainer draws its bar into files, too.
                tqdm.write(self.line(), file=sys.stderr)

    def line(self) -> str:
        """Return the progress as a line without a bar."""
        with self._lock:
            elapsed, left = self._pace.elapsed(), self._pace.left()
            parts = [f"{self._title}{self._pace.done} of {self._total} {self._unit}", *self._counts()]
        parts.append(f"{timedelta(seconds=round(elapsed))} elapsed")
        if left is not None:
            parts.append(f"about {timedelta(seconds=round(left))} left")
        return ", ".join(parts)

    def _draw(self) -> None:
        # At every change, since the next change may come only with the next batch of the model, minutes later.
        bar = self._bar
        if bar is not None:
            with self._lock:
                bar.n, bar.bar_format = self._pace.part(), self._format()
            bar.refresh()

    def _format(self) -> str:
        """Return the text of the bar, in the form that tqdm fills in."""
        # The most important parts come first, since a narrow terminal cuts off the end. The times look like those of
        # the Trainer's bar above. tqdm cannot compute the time left: it knows of one pace only.
        elapsed, left = self._pace.elapsed(), self._pace.left()
        times = f"{tqdm.format_interval(elapsed)}<{'?' if left is None else tqdm.format_interval(left)}"
        counts = [times, *self._counts()]
        if left is not None:
            counts.append(_rate(self._pace.to_do / max(elapsed + left, 1e-3), self._unit))
        return f"{self._title}{self._pace.done}/{self._total} {self._unit} |{{bar}}| {', '.join(counts)}"

    def _counts(self) -> list[str]:
        counts = [] if self._of_programs else [f"{self.programs_generated} programs", f"{self.programs_judged} judged"]
        counts.append(f"{self.programs_passing} pass")
        if self.programs_unextracted:
            counts.append(f"{self.programs_unextracted} without a program")
        return counts


class Pace:
    """The time that a collection has taken and the time left, from the paces of writing and of judging.

    Both go on at once, and the slower decides. A source writes whole batches, so that the pace of finished tasks would
    be unknown during the first batch: tasks count in parts while their programs are written.

    Args:
        total: Number of tasks, or of programs if they are the unit.
        clock: Function that returns the time, in seconds.
    """

    def __init__(self, total: int, *, clock: Callable[[], float] = time.monotonic) -> None:
        self.total = total
        self._clock = clock
        self.done = 0
        self._before = 0
        self._part = 0.0
        self._started = self._writing_since = self._clock()
        self._to_write = 0
        self._written = 0.0
        self._waiting = 0
        self._judging_since = self._started
        self._judging_seconds = 0.0

    @property
    def to_do(self) -> int:
        """Number of tasks, or programs, that were not done before a restart."""
        return self.total - self._before

    def begin_writing(self, tasks: int) -> None:
        """Begin to write programs for so many tasks."""
        self._writing_since = self._clock()
        self._to_write, self._written = tasks, 0.0

    def wrote(self, tasks: float) -> None:
        """Count further tasks as written, in parts."""
        self._written += tasks

    def yielded(self, tasks: int) -> None:
        """Count so many tasks as written, unless more were counted."""
        self._written = max(self._written, tasks)

    def generated(self) -> None:
        """Count a task as waiting for the judge."""
        if not self._waiting:
            self._judging_since = self._clock()
        self._waiting += 1

    def judged(self, number: int) -> None:
        """Count so many tasks, or programs, as done; a task, if one waits, waits no longer."""
        self.done += number
        if self._waiting:
            self._waiting -= 1
            if not self._waiting:
                self._judging_seconds += self._clock() - self._judging_since

    def restored(self, number: int) -> None:
        """Count so many tasks, or programs, as done before a restart."""
        # Such tasks come at once: the pace of this run must not include them.
        self.done += number
        self._before += number

    def elapsed(self) -> float:
        """Return the time since the start, in seconds."""
        return self._clock() - self._started

    def left(self) -> float | None:
        """Return the time left, in seconds; None if it is unknown."""
        if self.done >= self.total:
            return 0.0
        writing, judging = self._writing_left(), self._judging_left()
        if writing is None or judging is None:
            # Until a task is judged, the pace of writing has to do; programs may also come written.
            return writing if self._to_write and self._written < self._to_write else judging
        return max(writing, judging)

    def part(self) -> float:
        """Return the part that is done, in [0, 1], as the time passed of the whole time; it never gets smaller."""
        left, elapsed = self.left(), self.elapsed()
        if self.total and left is not None:
            now = elapsed / max(elapsed + left, 1e-9) if left else 1.0
            self._part = max(self._part, (self._before + self.to_do * now) / self.total)
        elif self.total:
            self._part = max(self._part, self._before / self.total)
        return self._part

    def _writing_left(self) -> float | None:
        if not self._written:
            return None
        seconds = self._clock() - self._writing_since
        return seconds * max(self._to_write - self._written, 0.0) / self._written

    def _judging_left(self) -> float | None:
        judged = self.done - self._before
        if not judged:
            return None
        seconds = self._judging_seconds
        if self._waiting:
            seconds += self._clock() - self._judging_since
        return (seconds or self.elapsed()) * (self.total - self.done) / judged


def _rate(per_second: float, unit: str) -> str:
    """Return a rate as text, as seconds of each one if it is below 1 a second.

    Examples:
        >>> _rate(8.0, "programs"), _rate(0.25, "own tasks")
        ('8 programs/s', '4 s/task')
    """
    plural = unit.split()[-1]
    return f"{1 / per_second:.3g} s/{plural[:-1]}" if 0 < per_second < 1 else f"{per_second:.3g} {plural}/s"


def shows_bars() -> bool:
    """Return whether the output can show a bar: a terminal, or a notebook with widgets."""
    return _IN_NOTEBOOK or sys.stderr.isatty()


def say(line: str, *, log_level: int = logging.WARNING) -> None:
    """Print a line on the standard output, above the bars, as the Trainer does with its logs.

    Args:
        line: The line.
        log_level: The log level of the run. If only errors are logged, the line is not printed.
    """
    if log_level <= logging.WARNING:
        tqdm.write(line, file=sys.stdout)


@contextmanager
def making_room() -> Iterator[None]:
    """Clear the bars inside the context, so that the output is printed above them, and redraw them afterwards."""
    with tqdm.external_write_mode(file=sys.stdout):
        yield


@contextmanager
def warnings_above_bars() -> Iterator[None]:
    """Print log messages inside the context above the bars."""
    if not shows_bars():
        yield
        return
    # transformers has a handler of its own, from which nothing reaches the root logger.
    loggers, theirs = [logging.getLogger()], logging.getLogger("transformers")
    if not theirs.propagate:
        loggers.append(theirs)
    with logging_redirect_tqdm(loggers=loggers, tqdm_class=tqdm):
        yield
