"""What one collection did, in numbers: for the log, the model card and the report.

Enters: the experiences of a round and the buffer they went into. Leaves: a `CollectionReport`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field

from trl_pper.replay.buffer import AddReport, ReplayBuffer
from trl_pper.replay.experience import Experience
from trl_pper.replay.priority import effective_sample_size
from trl_pper.rounds.overlap import PhaseSeconds


@dataclass(frozen=True, kw_only=True)
class SourceFigures:
    """How the tasks of one source of a mixture fared.

    Args:
        tasks: Tasks with a judged program.
        programs: Judged programs.
        pass_rate: Mean pass rate of these, in [0, 1].
        solved: Share of the tasks with a program that passes every test, in [0, 1].
    """

    tasks: int
    programs: int
    pass_rate: float
    solved: float


@dataclass(frozen=True, kw_only=True)
class CollectionReport:
    """What one collection did, over all processes.

    Args:
        round_index: The round, from 0.
        programs: Programs generated.
        judged: Programs with a verdict.
        unjudged: Programs without one, left out of the buffer.
        unextracted: Completions in which there was no program that parses and defines what was asked for; what stands
            for one is judged like any other.
        restored: Programs that a journal held from before a restart.
        added: Programs new to the buffer.
        duplicates: Programs the buffer already held; their probabilities were refreshed.
        evicted: Experiences dropped for the buffer's capacity.
        pass_rate: Mean pass rate of the judged programs, in [0, 1].
        solved: Share of tasks with a program that passes every test, in [0, 1].
        effective_sample_size: How many equally likely programs would be as varied a draw (Kish); 0 when nothing can
            be drawn.
        staleness: Mean age of a drawn program, in rounds.
        generate_seconds: Wall time spent generating on this process.
        judge_seconds: Wall time during which this process had programs to judge; overlaps with generating.
        collect_seconds: Wall time of the whole collection.
        by_source: Figures of each source, where the tasks name several.
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
    by_source: Mapping[str, SourceFigures] = field(default_factory=dict)

    def metrics(self) -> dict[str, float]:
        """Return numbers for a log, each name with the prefix `pper/`; those of a source end in `/<source>`."""
        numbers = asdict(self)
        by_source = numbers.pop("by_source")
        for source, figures in by_source.items():
            numbers |= {f"{name}/{source}": figures[name] for name in ("pass_rate", "solved")}
        return {f"pper/{name}": float(value) for name, value in numbers.items()}

    def line(self) -> str:
        """Return the collection in one line, for people and for log files."""
        parts = [
            f"round {self.round_index + 1}: {self.programs} programs, {self.judged} judged",
            f"mean pass rate {self.pass_rate:.3f}",
            f"{self.solved:.1%} of tasks solved",
            f"{self.added} new to the buffer",
            f"{self.collect_seconds:.1f} s",
        ]
        rare = (("from the journal", self.restored), ("without a program", self.unextracted))
        return ", ".join(parts + [f"{number} {what}" for what, number in rare if number])


def describe(
    per_task: Sequence[Sequence[Experience]],
    sources: Sequence[str | None],
    buffer: ReplayBuffer,
    stored: AddReport,
    *,
    round_index: int,
    unjudged: int,
    unextracted: int,
    restored: int,
    seconds: PhaseSeconds,
    collect_seconds: float,
) -> CollectionReport:
    """Sum up a collection.

    Args:
        per_task: The experiences of each task, those of all processes.
        sources: The source that each of these tasks names.
        buffer: The buffer after they were added.
        stored: What adding them did.
        round_index: The round, from 0.
        unjudged: Programs left out.
        unextracted: Completions without a program.
        restored: Programs taken from a journal.
        seconds: Wall time of both phases.
        collect_seconds: Wall time of everything.
    """
    flat = [experience for found in per_task for experience in found]
    sample_size, staleness = _draw(buffer, round_index)
    return CollectionReport(
        round_index=round_index,
        programs=len(flat) + unjudged,
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
        by_source=_by_source(per_task, sources),
    )


def _by_source(per_task: Sequence[Sequence[Experience]], sources: Sequence[str | None]) -> dict[str, SourceFigures]:
    """Return the figures of each source; none unless there are several."""
    groups: dict[str, list[Sequence[Experience]]] = {}
    for found, source in zip(per_task, sources, strict=True):
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
    """Return effective sample size and staleness of a draw; zeros where the sampler will find nothing to draw."""
    if not buffer.can_draw:
        return 0.0, 0.0
    probabilities = buffer.probabilities()
    return effective_sample_size(probabilities), float(probabilities @ (round_index - buffer.round_indices()))


def _mean(values: Sequence[float]) -> float:
    return float(sum(values) / len(values)) if values else 0.0
