"""Adds tests to real problems and counts the programs that they find out, rightly and wrongly.

    python benchmarks/amplify.py DATA --output benchmarks/results/amplify.json

DATA is a folder with the samples named in `amplify_samples.py`. Each sample has tasks with references, programs that
models or people wrote, and what is known of these apart from the tests that were amplified: the tests of HumanEval+
and MBPP+, the hidden tests of a contest, tests held back. A known-right program that a new test rejects is a false
alarm. For HumanEval, EvalPlus says which inputs a function has to take; that is asked too. Prints a table in Markdown.
"""

from __future__ import annotations

import argparse
import logging
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from amplify_contracts import contract_tasks
from amplify_samples import SAMPLES, Sample
from environment import markdown, snapshot, write_result
from tasks import number_of_tests

from trl_pper import Judge, Limits
from trl_pper.amplify.tasks import AmplifiedTask, Exposure, amplify_tasks, expose
from trl_pper.judge.verdict import Outcome, Verdict
from trl_pper.tasks.task import CodingTask

#: Per test. Programs that never end are many; of the others none comes near.
CPU_SECONDS = 2.0
COLUMNS = (
    "sample", "tasks", "amplified", "tests_before", "tests_after", "passed_before", "exposed", "tasks_affected",
    "known_wrong", "known_wrong_exposed", "known_right", "known_right_exposed",
)  # fmt: skip


def measure(sample: Sample, judge: Judge, *, new_tests: int, seed: int) -> dict[str, Any]:
    """Return the figures of one sample."""
    started = time.perf_counter()
    references = {name: [program] for name, program in sample.corrected.items()} if sample.agreeing else None
    amplified = amplify_tasks(sample.tasks, judge, new_tests=new_tests, seed=seed, references=references)
    seconds = time.perf_counter() - started
    found = expose(sample.tasks, amplified, sample.programs, judge)
    changed = [one for one in amplified if one.added is not None]
    known = truth(sample, found, judge)
    return {
        "sample": sample.name,
        "tasks": len(sample.tasks),
        "amplified": len(changed),
        "left_alone": dict(Counter(one.reason for one in amplified if one.reason).most_common()),
        "tests_before": sum(number_of_tests(task) for task in sample.tasks),
        "tests_after": sum(number_of_tests(one.task) for one in amplified),
        "inputs_tried": sum(one.tried for one in amplified),
        "inputs_kept": sum(one.added_tests for one in amplified),
        "inputs_dropped": dict(sum((Counter(one.dropped) for one in amplified), Counter()).most_common()),
        "programs": sum(map(len, sample.programs)),
        "passed_before": sum(one.passed_before for one in found),
        "exposed": sum(one.exposed for one in found),
        "tasks_passed_before": sum(one.passed_before > 0 for one in found),
        "tasks_affected": sum(one.exposed > 0 for one in found),
        **figures_of(known, found, amplified),
        **(contract_figures(sample, amplified, found, known, judge) if sample.contracts else {}),
        **(corrected_figures(sample, amplified, judge) if sample.corrected else {}),
        "known_by": sample.known_by,
        "seconds": round(seconds, 1),
    }


def truth(sample: Sample, found: Sequence[Exposure], judge: Judge) -> list[list[bool | None]]:
    """Return for each program whether it is known to be right, known to be wrong, or neither (None).

    Programs that the new tests were not run on are not asked about.
    """
    if not sample.truth:
        return [list(rights) for rights in sample.known]
    jobs = [
        (
            sample.truth[one.task_id],
            [program for program, verdict in zip(programs, one.verdicts, strict=True) if verdict],
        )
        for one, programs in zip(found, sample.programs, strict=True)
        if one.task_id in sample.truth
    ]
    verdicts = {task.task_id: iter(some) for (task, _), some in zip(jobs, judge.run(jobs), strict=True)}
    return [[_rightness(verdict, verdicts.get(one.task_id)) for verdict in one.verdicts] for one in found]


def _rightness(verdict: Verdict | None, known: Iterator[Verdict] | None) -> bool | None:
    if verdict is None or known is None:
        return None
    said = next(known)
    return None if said.pass_rate is None else said.accepted


def figures_of(
    known: Sequence[Sequence[bool | None]], found: Sequence[Exposure], amplified: Sequence[AmplifiedTask]
) -> dict[str, int]:
    """Return how many programs of either kind passed the old tests, and how many of them the new ones expose."""
    counts: Counter[str] = Counter()
    for rights, one, task in zip(known, found, amplified, strict=True):
        for right, verdict in zip(rights, one.verdicts, strict=True):
            if right is None or verdict is None or task.added is None:
                continue
            kind = "known_right" if right else "known_wrong"
            counts[kind] += 1
            counts[f"{kind}_exposed"] += verdict.pass_rate is not None and not verdict.accepted
    return {
        name: counts[name] for name in ("known_wrong", "known_wrong_exposed", "known_right", "known_right_exposed")
    }


def contract_figures(
    sample: Sample,
    amplified: Sequence[AmplifiedTask],
    found: Sequence[Exposure],
    known: Sequence[Sequence[bool | None]],
    judge: Judge,
) -> dict[str, Any]:
    """Return how many new inputs EvalPlus' contracts allow, and what hangs on those that they do not."""
    asked = contract_tasks(amplified, sample.contracts)
    verdicts = judge.run([(task, [program]) for task, program in asked.values()])
    allowed = {
        task_id: [outcome is Outcome.PASSED for outcome in verdict.outcomes]
        for task_id, [verdict] in zip(asked, verdicts, strict=True)
    }
    only_outside: Counter[str] = Counter()
    for one, rights in zip(found, known, strict=True):
        for verdict, right in zip(one.verdicts, rights, strict=True):
            if verdict is None or verdict.pass_rate is None or verdict.accepted or one.task_id not in allowed:
                continue
            failed = [
                inside for inside, how in zip(allowed[one.task_id], verdict.outcomes, strict=True) if how != "passed"
            ]
            only_outside["exposed_outside_contract_only"] += not any(failed)
            only_outside["known_right_exposed_within_contract"] += bool(right) and any(failed)
    return {
        "inputs_with_contract": sum(map(len, allowed.values())),
        "inputs_within_contract": sum(map(sum, allowed.values())),
        "tasks_with_an_input_outside": sorted(task_id for task_id, inside in allowed.items() if not all(inside)),
        "exposed_outside_contract_only": only_outside["exposed_outside_contract_only"],
        "known_right_exposed_within_contract": only_outside["known_right_exposed_within_contract"],
    }


def corrected_figures(sample: Sample, amplified: Sequence[AmplifiedTask], judge: Judge) -> dict[str, Any]:
    """Return how many new tests a corrected reference does not pass, and of which tasks."""
    asked = [one for one in amplified if one.added is not None and one.task.task_id in sample.corrected]
    verdicts = judge.run([(_added(one), [sample.corrected[one.task.task_id]]) for one in asked])
    failed = {one.task.task_id: verdict.total - verdict.passed for one, [verdict] in zip(asked, verdicts, strict=True)}
    return {
        "tests_rejecting_corrected_reference": sum(failed.values()),
        "tasks_rejecting_corrected_reference": sorted(name for name, number in failed.items() if number),
    }


def _added(one: AmplifiedTask) -> CodingTask:
    assert one.added is not None
    return CodingTask(task_id=one.task.task_id, prompt=one.task.prompt, tests=one.added)


def main() -> None:
    logging.getLogger("trl_pper").setLevel(logging.ERROR)
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path, help="folder of samples")
    parser.add_argument("--output", type=Path, default=None, help="JSON file to write")
    parser.add_argument("--workers", type=int, default=None, help="judging processes")
    parser.add_argument("--new_tests", type=int, default=20, help="most tests added to a task")
    parser.add_argument("--seed", type=int, default=0, help="seed of the new inputs")
    parser.add_argument("--samples", nargs="+", default=list(SAMPLES), choices=list(SAMPLES), help="which samples")
    options = parser.parse_args()
    limits = Limits(cpu_seconds=CPU_SECONDS, max_timeouts=1)
    results: list[dict[str, Any]] = []
    settings = {"cpu_seconds": CPU_SECONDS, "new_tests": options.new_tests, "seed": options.seed}
    with Judge(workers=options.workers, limits=limits) as judge:
        for name in options.samples:
            results.append(measure(SAMPLES[name](options.data), judge, new_tests=options.new_tests, seed=options.seed))
            head = {"environment": snapshot(), "isolation": judge.isolation, **settings}
            write_result(options.output, {**head, "samples": results})
    print(markdown(results, COLUMNS))


if __name__ == "__main__":
    main()
