"""Read a buffer once into arrays, and compute the numbers of a report from them with pure functions.

The arrays hold no program text, which is fetched only for the few programs that are shown.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from trl_pper.judge.verdict import Outcome
from trl_pper.replay.buffer import ReplayBuffer
from trl_pper.replay.distribution import effective_sample_size
from trl_pper.replay.priority import FloatArray

IntArray = NDArray[np.int64]

#: Outcomes from good to bad, in the order of their declaration.
OUTCOMES = tuple(Outcome)
UNKNOWN = -1

#: Name under which programs without outcomes of tests are counted.
NO_OUTCOMES = "unknown"

#: Classes of pass rates. 0 and 1 have classes of their own, because most programs have these pass rates.
PASS_RATE_CLASSES = ("0", "0 to 0.2", "0.2 to 0.4", "0.4 to 0.6", "0.6 to 0.8", "0.8 to 1", "1")


@dataclass(frozen=True, kw_only=True)
class Content:
    """The content of a buffer without texts; arrays have shape [n], with an entry for each program.

    Args:
        tasks: Ids of the tasks, in the order of their first program.
        task: Index into `tasks`.
        worst: Index into `OUTCOMES` of the worst outcome of any test; `UNKNOWN` if only the pass rate is known.
        tests: Number of tests by outcome, over all programs.
        names: Names that occur as "source" and as "scorer".
        named: Index into these names, for "source" and for "scorer".
        rounds: Round in which each program was written.
        pass_rates: In [0, 1].
        possibilities: In [0, 1]; NaN if the log-probability is unknown.
        p2values: In [0, 1].
        cpu_seconds: CPU time over all tests; NaN if unknown.
        truncated: Whether each completion was cut off.
        draws: Draw probabilities; None if nothing can be drawn.
        weight: Weight of the possibility in the P2Value (a in Eq. 6).
    """

    tasks: Sequence[str]
    task: IntArray
    worst: IntArray
    tests: Mapping[Outcome, int]
    names: Mapping[str, Sequence[str]]
    named: Mapping[str, IntArray]
    rounds: IntArray
    pass_rates: FloatArray
    possibilities: FloatArray
    p2values: FloatArray
    cpu_seconds: FloatArray
    truncated: NDArray[np.bool_]
    draws: FloatArray | None
    weight: float

    def __len__(self) -> int:
        return len(self.task)


def read_content(buffer: ReplayBuffer) -> Content:
    """Read a buffer in a single pass."""
    tasks: dict[str, int] = {}
    names: dict[str, dict[str, int]] = {"source": {}, "scorer": {}}
    places: dict[str, list[int]] = {"task": [], "worst": [], "source": [], "scorer": []}
    # Most programs share their tuple of outcomes with others: counting tuples first saves a look at every test.
    patterns: Counter[tuple[Outcome, ...]] = Counter()
    seconds: list[float] = []
    rank = {outcome: position for position, outcome in enumerate(OUTCOMES)}
    for one in buffer:
        places["task"].append(tasks.setdefault(one.task_id, len(tasks)))
        places["worst"].append(max((rank[outcome] for outcome in one.outcomes), default=UNKNOWN))
        patterns[one.outcomes] += 1
        seconds.append(np.nan if one.cpu_seconds is None else one.cpu_seconds)
        for kind, name in (("source", one.source), ("scorer", one.scorer)):
            places[kind].append(names[kind].setdefault(name, len(names[kind])))
    tests: Counter[Outcome] = Counter()
    for pattern, programs in patterns.items():
        for outcome in pattern:
            tests[outcome] += programs
    arrays = {name: np.array(values, np.int64) for name, values in places.items()}
    return Content(
        tasks=list(tasks),
        task=arrays["task"],
        worst=arrays["worst"],
        tests=tests,
        names={kind: list(found) for kind, found in names.items()},
        named={kind: arrays[kind] for kind in names},
        rounds=buffer.round_indices(),
        pass_rates=buffer.pass_rates(),
        possibilities=buffer.possibilities(),
        p2values=buffer.p2values(),
        cpu_seconds=np.array(seconds, np.float64),
        truncated=buffer.truncated(),
        draws=draw_shares(buffer),
        weight=buffer.possibility_weight,
    )


def draw_shares(buffer: ReplayBuffer) -> FloatArray | None:
    """Return the draw probabilities, or None if the priority "filter" finds no passing program to draw."""
    return buffer.probabilities() if buffer.can_draw or not len(buffer) else None


def buffer_facts(content: Content) -> dict[str, str]:
    """Return the headline numbers of the page, as text."""
    coverage = task_coverage(content)
    tasks = len(content.tasks)
    known = int((~np.isnan(content.possibilities)).sum())
    facts = {
        "programs": f"{len(content):,}",
        "tasks": f"{tasks:,}",
        "tasks with a passing program": percent((coverage["some"] + coverage["only"]) / tasks),
        "programs that pass every test": percent(float((content.pass_rates == 1.0).mean())),
        "mean pass rate": f"{content.pass_rates.mean():.3f}",
        "programs of known possibility": percent(known / len(content)),
    }
    if content.truncated.any():
        facts["truncated programs, cut off before their end"] = percent(float(content.truncated.mean()))
    if content.draws is None:
        return {**facts, "effective sample size of the draw": "none"}
    size = effective_sample_size(content.draws)
    name = f"programs, effective sample size of the draw: {percent(size / len(content))} of all"
    return {**facts, name: f"{size:,.0f}"}


def percent(share: float) -> str:
    """Return a fraction in [0, 1] as text in percent."""
    return f"{100 * share:.1f} %"


def task_coverage(content: Content) -> dict[str, int]:
    """Return the number of tasks with no ("none"), some ("some") and only ("only") passing programs."""
    programs = np.bincount(content.task, minlength=len(content.tasks))
    passing = np.bincount(content.task, content.pass_rates == 1.0, minlength=len(content.tasks))
    none, only = int((passing == 0).sum()), int((passing == programs).sum())
    return {"none": none, "some": len(programs) - none - only, "only": only}


def best_pass_rates(content: Content) -> FloatArray:
    """Return the best pass rate of each task, shape [tasks]."""
    best = np.zeros(len(content.tasks))
    # `best[content.task] = ...` would use only a single program of each task.
    np.maximum.at(best, content.task, content.pass_rates)
    return best


def pass_rate_classes(pass_rates: FloatArray) -> IntArray:
    """Return the index of each pass rate in `PASS_RATE_CLASSES`, shape [n]."""
    # Clipped, because rounding may lift a pass rate just below 1 to five fifths.
    inner = np.clip(np.floor(pass_rates * 5), 0, 4).astype(np.int64) + 1
    return np.where(pass_rates == 0.0, 0, np.where(pass_rates == 1.0, len(PASS_RATE_CLASSES) - 1, inner))


def share_by_class(pass_rates: FloatArray, weights: FloatArray | None = None) -> FloatArray:
    """Return the fraction of programs, or of their weights, in each class of pass rates; shape [classes], sum 1."""
    counts = np.bincount(pass_rate_classes(pass_rates), weights, minlength=len(PASS_RATE_CLASSES))
    return np.asarray(counts / counts.sum(), np.float64)


def top_draws(draws: FloatArray, share: float = 0.1) -> float:
    """Return the fraction of all draws that goes to the likeliest programs.

    Args:
        draws: Draw probabilities, shape [n].
        share: Fraction of the programs that count as likeliest, at least one program.
    """
    count = max(1, round(share * len(draws)))
    return float(np.sort(draws)[-count:].sum())


def worst_outcomes(content: Content, chosen: NDArray[np.bool_] | None = None) -> dict[str, int]:
    """Return the number of programs by worst outcome, from good to bad, for outcomes that occur in the buffer."""
    worst = content.worst if chosen is None else content.worst[chosen]
    # From the whole buffer, so that all groups have the same columns.
    found = np.unique(content.worst[content.worst != UNKNOWN])
    counts = {str(OUTCOMES[code]): int((worst == code).sum()) for code in found}
    if (content.worst == UNKNOWN).any():
        counts[NO_OUTCOMES] = int((worst == UNKNOWN).sum())
    return counts
