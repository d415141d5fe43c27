"""Generate programs and judge them, task by task: what collection and evaluation share.

Enters: tasks, a source of programs and a judge. Leaves: for each task its programs with their verdicts, in order. When
the source fails, what it wrote before is judged and handed on first.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

from trl_pper.extraction import extract_program
from trl_pper.generation.local_model import LocalModel
from trl_pper.generation.source import GeneratedProgram, ProgramSource
from trl_pper.judge import Judge
from trl_pper.progress import CollectionProgress
from trl_pper.task import CodingTask
from trl_pper.verdict import Verdict

T = TypeVar("T")

#: Tasks generated for before their programs go to the judge together.
TASKS_PER_JUDGING = 32


@dataclass(frozen=True, kw_only=True)
class JudgedProgram:
    """A generated program with what was extracted from it and what the judge said."""

    task: CodingTask
    generated: GeneratedProgram
    program: str
    verdict: Verdict


@dataclass
class PhaseSeconds:
    """Wall time spent generating and judging, in seconds."""

    generate: float = 0.0
    judge: float = 0.0


def judge_programs(
    tasks: Sequence[CodingTask],
    source: ProgramSource,
    judge: Judge,
    *,
    student: LocalModel | None = None,
    progress: CollectionProgress | None = None,
    seconds: PhaseSeconds | None = None,
) -> Iterator[list[JudgedProgram]]:
    """Generate and judge programs; yield those of each task, in the order of the tasks.

    Args:
        tasks: What to write programs for.
        source: Who writes them.
        judge: Who runs them.
        student: The model in training, for a source that needs one.
        progress: Shown how many programs were generated, judged and passing.
        seconds: Filled with the wall time of both phases.
    """
    seconds = seconds or PhaseSeconds()
    generated = _timed(source.generate(tasks, student=student), seconds)
    for chunk in _chunks(zip(tasks, generated, strict=True), TASKS_PER_JUDGING):
        work = [
            (
                task,
                programs,
                [extract_program(p.completion, prompt=task.prompt, entry_point=task.entry_point) for p in programs],
            )
            for task, programs in chunk
        ]
        started = time.perf_counter()
        verdicts = judge.run([(task, texts) for task, _, texts in work])
        seconds.judge += time.perf_counter() - started
        for (task, programs, texts), judged in zip(work, verdicts, strict=True):
            if progress is not None:
                progress.advance(judged)
            yield [
                JudgedProgram(task=task, generated=one, program=text, verdict=verdict)
                for one, text, verdict in zip(programs, texts, judged, strict=True)
            ]


def _timed(items: Iterator[T], seconds: PhaseSeconds) -> Iterator[T]:
    while True:
        started = time.perf_counter()
        item = next(items, None)
        seconds.generate += time.perf_counter() - started
        if item is None:
            return
        yield item


def _chunks(items: Iterable[T], size: int) -> Iterator[list[T]]:
    """Yield lists of `size` items; when the items fail, first those that came before."""
    chunk: list[T] = []
    iterator = iter(items)
    while True:
        try:
            chunk.append(next(iterator))
        except StopIteration:
            break
        except Exception:
            # A server gone after an hour: what it wrote until then was paid for, and is judged before the error.
            if chunk:
                yield chunk
            raise
        if len(chunk) == size:
            yield chunk
            chunk = []
    if chunk:
        yield chunk
