"""What a report says of a buffer, in numbers: pure functions on what one pass over it found.

Enters: a buffer. Leaves: arrays, one entry for each program, and the figures computed from them. Program text is not
among them: it is fetched for the few programs that are shown.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from trl_pper.judge.verdict import Outcome
from trl_pper.replay.buffer import ReplayBuffer
from trl_pper.replay.priority import FloatArray, effective_sample_size

IntArray = NDArray[np.int64]

#: Outcomes from good to bad, as they are declared.
OUTCOMES = tuple(Outcome)
UNKNOWN = -1

#: Programs whose outcome of each test is not known, by the name they are counted under.
NO_OUTCOMES = "unknown"

#: Pass rates that are counted together. All and nothing have a class of their own: most programs are there.
PASS_RATE_CLASSES = ("0", "0 to 0.2", "0.2 to 0.4", "0.4 to 0.6", "0.6 to 0.8", "0.8 to 1", "1")


@dataclass(frozen=True, kw_only=True)
class Content:
    """What a buffer holds, without text; arrays have shape [n], one entry for each program.

    Args:
        tasks: Names of the tasks, in the order of their first program.
        task: Position in `tasks`.
        worst: Position in `OUTCOMES` of the worst outcome of any test; `UNKNOWN` where only the pass rate is known.
        tests: How many tests ended how, over all programs.
        names: For "source" and "scorer" the names that occur.
        named: For the same the position among these names.
        rounds: Round each program was written in.
        pass_rates: In [0, 1].
        possibilities: In [0, 1]; NaN where the log-probability is unknown.
        p2values: In [0, 1].
        cpu_seconds: CPU time over all tests; NaN where it is unknown.
        draws: Draw probabilities; None where nothing can be drawn.
        weight: Weight a of the possibility in Eq. 6.
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
    draws: FloatArray | None
    weight: float

    def __len__(self) -> int:
        return len(self.task)


def read_content(buffer: ReplayBuffer) -> Content:
    """Go over a buffer once."""
    tasks: dict[str, int] = {}
    names: dict[str, dict[str, int]] = {"source": {}, "scorer": {}}
    places: dict[str, list[int]] = {"task": [], "worst": [], "source": [], "scorer": []}
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
        draws=draw_shares(buffer),
        weight=buffer.possibility_weight,
    )


def draw_shares(buffer: ReplayBuffer) -> FloatArray | None:
    """Return the draw probabilities, or None where the priority "filter" finds no passing program to draw."""
    if buffer.priority == "filter" and not (buffer.pass_rates() == 1.0).any():
        return None
    return buffer.probabilities()


def buffer_facts(content: Content) -> dict[str, str]:
    """Return the headline figures, as text."""
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
    if content.draws is None:
        return {**facts, "effective sample size of the draw": "none"}
    size = effective_sample_size(content.draws)
    name = f"programs, effective sample size of the draw: {percent(size / len(content))} of all"
    return {**facts, name: f"{size:,.0f}"}


def percent(share: float) -> str:
    """Return a share in [0, 1] as text."""
    return f"{100 * share:.1f} %"


def task_coverage(content: Content) -> dict[str, int]:
    """Return the number of tasks with no, some and only passing programs."""
    programs = np.bincount(content.task, minlength=len(content.tasks))
    passing = np.bincount(content.task, content.pass_rates == 1.0, minlength=len(content.tasks))
    none, only = int((passing == 0).sum()), int((passing == programs).sum())
    return {"none": none, "some": len(programs) - none - only, "only": only}


def best_pass_rates(content: Content) -> FloatArray:
    """Return the best pass rate of each task, shape [tasks]."""
    best = np.zeros(len(content.tasks))
    np.maximum.at(best, content.task, content.pass_rates)
    return best


def pass_rate_classes(pass_rates: FloatArray) -> IntArray:
    """Return the position of each pass rate in `PASS_RATE_CLASSES`, shape [n]."""
    inner = np.clip(np.floor(pass_rates * 5), 0, 4).astype(np.int64) + 1
    return np.where(pass_rates == 0.0, 0, np.where(pass_rates == 1.0, len(PASS_RATE_CLASSES) - 1, inner))


def share_by_class(pass_rates: FloatArray, weights: FloatArray | None = None) -> FloatArray:
    """Return the share of each class of pass rates, shape [classes], of programs or of their weights; sum 1."""
    counts = np.bincount(pass_rate_classes(pass_rates), weights, minlength=len(PASS_RATE_CLASSES))
    return np.asarray(counts / counts.sum(), np.float64)


def top_draws(draws: FloatArray, share: float = 0.1) -> float:
    """Return which part of all draws the likeliest programs get, a share of them (at least one program)."""
    count = max(1, round(share * len(draws)))
    return float(np.sort(draws)[-count:].sum())


def worst_outcomes(content: Content, chosen: NDArray[np.bool_] | None = None) -> dict[str, int]:
    """Return how many programs have which worst outcome, from good to bad; only what occurs in the buffer."""
    worst = content.worst if chosen is None else content.worst[chosen]
    found = np.unique(content.worst[content.worst != UNKNOWN])
    counts = {str(OUTCOMES[code]): int((worst == code).sum()) for code in found}
    if (content.worst == UNKNOWN).any():
        counts[NO_OUTCOMES] = int((worst == UNKNOWN).sum())
    return counts
