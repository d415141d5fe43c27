"""Compute the scores of a collection, for the log, the model card and the report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field

from trl_pper.judge.verdict import shared_note
from trl_pper.replay.buffer import AddReport, ReplayBuffer
from trl_pper.replay.distribution import effective_sample_size
from trl_pper.replay.experience import Experience
from trl_pper.rounds.overlap import PhaseSeconds


@dataclass(frozen=True, kw_only=True)
class SourceFigures:
    """A record of the scores on the tasks of a single source in a mixture.

    Args:
        tasks: Number of tasks with a judged program.
        programs: Number of judged programs.
        pass_rate: Mean pass rate of the judged programs, in [0, 1].
        solved: Fraction of the tasks with a program that passes every test, in [0, 1].
    """

    tasks: int
    programs: int
    pass_rate: float
    solved: float


@dataclass(frozen=True, kw_only=True)
class CollectionReport:
    """A record of the scores of a collection, over all processes.

    Args:
        round_index: The round, from 0.
        programs: Number of programs generated.
        judged: Number of programs with a verdict.
        unjudged: Number of programs without a verdict, which are not in the buffer.
        unextracted: Number of completions without a program that parses and defines the entry point; their text is
            judged all the same.
        restored: Number of programs that were read from a journal after a restart.
        added: Number of programs new to the buffer.
        duplicates: Number of programs that the buffer had already; their experiences were replaced.
        evicted: Number of experiences evicted because of the buffer's capacity.
        pass_rate: Mean pass rate of the judged programs, in [0, 1].
        solved: Fraction of the tasks with a program that passes every test, in [0, 1].
        effective_sample_size: Number of equally likely programs that would give draws of the same variety (Kish); 0 if
            nothing can be drawn.
        staleness: Mean age of a drawn program, in rounds.
        generate_seconds: Wall time spent on generating in this process.
        judge_seconds: Wall time in which this process had programs to judge; it overlaps with `generate_seconds`.
        collect_seconds: Wall time of the whole collection.
        clipped_ratio: Fraction of the generated programs that were cut off at the longest length, in [0, 1].
        shared_tasks: Number of tasks whose tests ran in the program's process, where verdicts can be forged.
        repairs: Number of repair experiences, which are in the buffer besides the programs.
        by_source: The scores of each source, if the tasks have several sources.
    """

    round_index: int
    programs: int
    judged: int
    unjudged: int
    unextracted: int
    restored: int
    added: int
    duplicates: int
    evicted: int
    pass_rate: float
    solved: float
    effective_sample_size: float
    staleness: float
    generate_seconds: float
    judge_seconds: float
    collect_seconds: float
    clipped_ratio: float = 0.0
    shared_tasks: int = 0
    repairs: int = 0
    by_source: Mapping[str, SourceFigures] = field(default_factory=dict)

    def metrics(self) -> dict[str, float]:
        """Return metrics for a log with the prefix `pper/`; metrics of a source also have the suffix `/<source>`."""
        numbers = asdict(self)
        # Logs hold numbers only: the scores of each source become metrics of their own.
        by_source = numbers.pop("by_source")
        for source, figures in by_source.items():
            numbers |= {f"{name}/{source}": figures[name] for name in ("pass_rate", "solved")}
        return {f"pper/{name}": float(value) for name, value in numbers.items()}

    def line(self) -> str:
        """Return the collection in a readable line."""
        parts = [
            f"round {self.round_index + 1}: {self.programs} programs, {self.judged} judged",
            f"mean pass rate {self.pass_rate:.3f}",
            f"{self.solved:.1%} of tasks solved",
            f"{self.added} new to the buffer",
            f"{self.collect_seconds:.1f} s",
        ]
        clipped = round(self.clipped_ratio * self.programs)
        rare = (
            ("from the journal", self.restored),
            ("cut off", clipped),
            ("without a program", self.unextracted),
            ("repairs", self.repairs),
        )
        parts += [f"{number} {what}" for what, number in rare if number]
        return ", ".join(parts + [shared_note(self.shared_tasks)] * bool(self.shared_tasks))


def describe(
    per_task: Sequence[Sequence[Experience]],
    sources: Sequence[str | None],
    buffer: ReplayBuffer,
    stored: AddReport,
    *,
    round_index: int,
    first_round: int,
    unjudged: int,
    unextracted: int,
    clipped: int,
    restored: int,
    shared_tasks: int,
    repairs: int,
    seconds: PhaseSeconds,
    collect_seconds: float,
) -> CollectionReport:
    """Compute the scores of a collection.

    Args:
        per_task: The experiences of each task, from all processes.
        sources: The source of each task, in the same order.
        buffer: The buffer, after the experiences were added.
        stored: The report of the addition.
        round_index: The round, from 0.
        first_round: The round in the buffer that the first round of the run is.
        unjudged: Number of programs without a verdict.
        unextracted: Number of completions without a program.
        clipped: Number of completions that were cut off at the longest length.
        restored: Number of programs read from a journal.
        shared_tasks: Number of tasks whose tests ran in the program's process.
        repairs: Number of repair experiences.
        seconds: Wall time of both phases.
        collect_seconds: Wall time of the whole collection.
    """
    flat = [experience for found in per_task for experience in found]
    programs = len(flat) + unjudged
    sample_size, staleness = _draw(buffer, first_round + round_index)
    return CollectionReport(
        round_index=round_index,
        programs=programs,
        judged=len(flat),
        unjudged=unjudged,
        unextracted=unextracted,
        restored=restored,
        added=stored.added,
        duplicates=stored.refreshed,
        evicted=stored.evicted,
        pass_rate=_mean([experience.pass_rate for experience in flat]),
        solved=_mean([any(experience.pass_rate == 1.0 for experience in found) for found in per_task]),
        effective_sample_size=sample_size,
        staleness=staleness,
        generate_seconds=seconds.generate,
        judge_seconds=seconds.judge,
        collect_seconds=collect_seconds,
        clipped_ratio=clipped / programs if programs else 0.0,
        shared_tasks=shared_tasks,
        repairs=repairs,
        by_source=_by_source(per_task, sources),
    )


def _by_source(per_task: Sequence[Sequence[Experience]], sources: Sequence[str | None]) -> dict[str, SourceFigures]:
    """Return the scores of each source; an empty mapping unless there are several sources."""
    groups: dict[str, list[Sequence[Experience]]] = {}
    for found, source in zip(per_task, sources, strict=True):
        # A task without a judged program has no scores.
        if found:
            groups.setdefault(source or "unnamed", []).append(found)
    if len(groups) < 2:
        return {}
    return {
        source: SourceFigures(
            tasks=len(group),
            programs=sum(map(len, group)),
            pass_rate=_mean([one.pass_rate for found in group for one in found]),
            solved=_mean([any(one.pass_rate == 1.0 for one in found) for found in group]),
        )
        for source, group in sorted(groups.items())
    }


def _draw(buffer: ReplayBuffer, round_index: int) -> tuple[float, float]:
    """Return effective sample size and staleness of a draw; zeros if there is nothing to draw."""
    # Before the first program that passes, "filter" has no probabilities; the sampler raises the error for that.
    if not buffer.can_draw:
        return 0.0, 0.0
    probabilities = buffer.probabilities()
    return effective_sample_size(probabilities), float(probabilities @ (round_index - buffer.round_indices()))


def _mean(values: Sequence[float]) -> float:
    return float(sum(values) / len(values)) if values else 0.0
