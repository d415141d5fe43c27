"""Run `trl-pper evaluate`: generate and judge programs for tasks, and report pass@k and its kin.

The scores go to the terminal and, with `--output`, to a file, with the settings they depend on. Judged programs are
in a journal beside that file until the scores are written; after an error or a kill the same command resumes from it.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import platform
import time
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

from accelerate import PartialState

from trl_pper import __version__
from trl_pper.cli.judge import VerdictRows, make_judge
from trl_pper.cli.sources import LOADING, build_source, put_to_writer, read_given_tasks, task_options
from trl_pper.files import atomic_file
from trl_pper.generation.dataset import DatasetSource
from trl_pper.generation.servers.server_source import ServerSource
from trl_pper.generation.source import ProgramSource
from trl_pper.judge.judge import Judge
from trl_pper.judge.verdict import shared_note
from trl_pper.metrics.scores import Figures, TaskCounts, group_by, show, sum_up, task_rows
from trl_pper.rounds.evaluation import Tally, progress_of_evaluation, tally
from trl_pper.rounds.journal import clear_journal, journal_beside
from trl_pper.rounds.processes import join_processes
from trl_pper.rounds.share import open_journal
from trl_pper.tasks.task import CodingTask

#: The default k of pass@k; a k beyond the number of programs of a task is left out.
DEFAULT_K = (1, 10, 100)

#: Options that only samples have: with any of them, even a single program of a task is drawn.
_SAMPLING = ("temperature", "top_p", "sampling_seed")
_LIBRARIES = ("torch", "transformers", "accelerate")


@dataclass(frozen=True, kw_only=True)
class _Plan:
    """A checked evaluation, of which nothing is generated yet."""

    tasks: list[CodingTask]
    source: ProgramSource
    k: list[int]
    written_by: dict[str, Any]


def evaluate(options: argparse.Namespace) -> int:
    """Run the command and return its exit code."""
    started = time.perf_counter()
    join_processes()
    plan = _plan(options)
    try:
        with make_judge(options) as judge:
            found = _tally(options, plan, judge)
    finally:
        if isinstance(plan.source, ServerSource):
            # After an error as well: the tokens were paid for.
            used = plan.source.usage.describe(options.prompt_price, options.completion_price)
            print(f"{plan.source.model}: {used}")
    if PartialState().is_main_process:
        _report(options, plan, found, judge, time.perf_counter() - started)
    return 0


def _plan(options: argparse.Namespace) -> _Plan:
    if options.programs is None:
        options.num_programs = 1 if options.num_programs is None else options.num_programs
        # A wrong k is refused before anything is read or loaded.
        chosen_k(options.k, options.num_programs)
    tasks = read_given_tasks(options.tasks, options)
    decoding = _decode(options)
    source = build_source(options, decoding=decoding or "beam", with_logprobs=False)
    tasks = put_to_writer(tasks, source, options.prompts)
    num_programs = options.num_programs
    if isinstance(source, DatasetSource):
        source = _of_file(source, tasks, num_programs)
        num_programs = source.most_programs(tasks)
    # Again: only now is it known how many programs a file has.
    k = chosen_k(options.k, num_programs)
    source.check(tasks)
    return _Plan(tasks=tasks, source=source, k=k, written_by=_written_by(options, source, decoding))


def chosen_k(given: Sequence[int] | None, num_programs: int) -> list[int]:
    """Return the k of pass@k, in rising order.

    Args:
        given: The k of `--k`; None for each k of DEFAULT_K that the programs suffice for.
        num_programs: The most programs a task gets.

    Raises:
        ValueError: A k is below 1, or there are too few programs for it.
    """
    if given is None:
        return [k for k in DEFAULT_K if k <= num_programs]
    for k in given:
        if k < 1:
            raise ValueError(f"--k: must be at least 1; got {k}")
        if k > num_programs:
            raise ValueError(
                f"--k: pass@{k} needs at least {k} programs of a task; there are {num_programs}. Raise --n, or leave "
                f"{k} out"
            )
    return sorted(set(given))


def _decode(options: argparse.Namespace) -> str | None:
    """Return the decoding of a model, and have a server decode alike; None for a server or a file."""
    if options.programs is not None:
        return None
    searched = options.num_beam_groups is not None or options.diversity_penalty is not None
    sampled = options.num_programs > 1 or any(getattr(options, name) is not None for name in _SAMPLING)
    if options.server is not None:
        if not sampled:
            # A server has no beams: a single program is the greedy one.
            options.temperature = 0.0
        return None
    return options.decoding or ("nucleus" if sampled and not searched else "beam")


def _of_file(source: DatasetSource, tasks: Sequence[CodingTask], num_programs: int | None) -> DatasetSource:
    most = source.most_programs(tasks)
    if not most:
        raise ValueError(f"--programs: must hold a program for at least one of the {len(tasks)} tasks; got none")
    if num_programs is None:
        return source
    if not 1 <= num_programs <= most:
        raise ValueError(f"--n: must be in 1..{most}, the programs the file has of a task; got {num_programs}")
    return source.first(num_programs)


def _tally(options: argparse.Namespace, plan: _Plan, judge: Judge) -> Tally:
    with contextlib.ExitStack() as stack:
        journal = rows = None
        if options.output is not None:
            journal = stack.enter_context(
                open_journal(journal_beside(options.output), plan.source, label="evaluation")
            )
        if options.verdicts is not None:
            rows = stack.enter_context(VerdictRows(options.verdicts))
        on_judged = None if rows is None else rows.write
        bar = stack.enter_context(progress_of_evaluation(len(plan.tasks), plan.source))
        found = tally(plan.tasks, plan.source, judge, journal=journal, progress=bar, on_judged=on_judged)
        if rows is not None:
            rows.finish()
    return found


def _report(options: argparse.Namespace, plan: _Plan, found: Tally, judge: Judge, total_seconds: float) -> None:
    """Write and show the scores; remove the journal, since its programs are counted in them."""
    everything = sum_up(found.counts, k=plan.k)
    groups = {
        name: _groups(found.counts, name, k=plan.k, num_programs=everything.num_programs)
        for name in ("difficulty", "source")
    }
    seconds = {"total": total_seconds, "generate": found.seconds.generate, "judge": found.seconds.judge}
    scores = {
        "figures": everything.to_dict(),
        **{f"by_{name}": {key: one.to_dict() for key, one in group.items()} for name, group in groups.items()},
        "programs": {**plan.written_by, "restored": found.restored},
        "tasks": {"tasks": options.tasks, **task_options(options)},
        "judge": {"isolation": judge.isolation, "limits": judge.limits.to_dict()},
        "versions": _versions(),
        "processes": PartialState().num_processes,
        "seconds": seconds,
        "per_task": task_rows(found.counts),
    }
    if options.output is not None:
        with atomic_file(options.output) as file:
            file.write(json.dumps(scores, indent=2).encode() + b"\n")
    show(everything, groups)
    _say_more(options, plan, found, f"isolation {judge.isolation}, {total_seconds:.1f} s")
    if options.output is not None:
        clear_journal(journal_beside(options.output), unjudged=everything.unjudged)


def _groups(counts: Sequence[TaskCounts], name: str, *, k: Sequence[int], num_programs: int) -> dict[str, Figures]:
    return {key: sum_up(group, k=k, num_programs=num_programs) for key, group in group_by(counts, name).items()}


def _written_by(options: argparse.Namespace, source: ProgramSource, decoding: str | None) -> dict[str, Any]:
    """Return the writer of the programs and its settings, as plain values."""
    if isinstance(source, DatasetSource):
        return {"file": str(options.programs), "decoding": "file", "settings": {"num_programs": source.num_programs}}
    settings = source.settings  # type: ignore[attr-defined]
    if isinstance(source, ServerSource):
        how = "greedy" if source.temperature == 0 and source.num_programs == 1 else "server"
        return {"server": ", ".join(source.addresses), "decoding": how, "settings": settings}
    chosen = {"model": options.model, **{name: getattr(options, name) for name in LOADING}}
    greedy = decoding == "beam" and options.num_programs == 1
    return {**chosen, "decoding": "greedy" if greedy else decoding, "settings": settings}


def _versions() -> dict[str, str]:
    return {
        "python": platform.python_version(), "trl_pper": __version__, **{name: version(name) for name in _LIBRARIES}
    }  # fmt: skip


def _say_more(options: argparse.Namespace, plan: _Plan, found: Tally, circumstances: str) -> None:
    unjudged = next((one for one in found.counts if one.judged < one.programs), None)
    if unjudged is not None:
        print(f"The first program that could not be judged is one for {unjudged.task_id}: {unjudged.why_unjudged}")
    if shared := shared_note(sum(one.shared for one in found.counts)):
        print(shared)
    empty = [one.task_id for one in found.counts if not one.programs]
    if empty:
        print(f"{len(empty)} of {len(found.counts)} tasks have no program, the first {empty[0]}; no rate is over them")
    where = "" if options.output is None else f", scores in {options.output}"
    print(
        f"decoding {plan.written_by['decoding']} {json.dumps(plan.written_by['settings'])}, "
        f"{found.restored} programs from the journal, {circumstances}{where}"
    )
