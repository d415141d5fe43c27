"""Run `trl-pper collect`, `merge` and `rescore`: fill buffers apart from training, on one machine, many or a cluster.

An existing buffer file is added to. Judged programs are in a journal beside the buffer until the collection is
complete; after an error or a kill the same command resumes from it.
"""

from __future__ import annotations

import argparse
import contextlib
import os
from collections.abc import Sequence
from pathlib import Path

from accelerate import PartialState

from trl_pper.cli.judge import make_judge
from trl_pper.cli.sources import build_source, put_to_writer, read_given_tasks, source_builder
from trl_pper.generation.cluster.cluster_source import ClusterSource
from trl_pper.generation.dataset import DatasetSource
from trl_pper.generation.local_model import load_model
from trl_pper.generation.scorer import Scorer
from trl_pper.generation.servers.server_source import ServerSource
from trl_pper.generation.source import ProgramSource
from trl_pper.replay.buffer import ReplayBuffer
from trl_pper.rounds.collection_report import CollectionReport
from trl_pper.rounds.collector import BeamSampleCollector
from trl_pper.rounds.journal import clear_journal, journal_beside
from trl_pper.rounds.labels import compare_labels
from trl_pper.rounds.processes import join_processes
from trl_pper.rounds.revise import rescore
from trl_pper.rounds.share import own_batches
from trl_pper.tasks.task import CodingTask


def collect(options: argparse.Namespace) -> int:
    """Run the command and return its exit code."""
    join_processes()
    _check_cluster(options)
    every_task = read_given_tasks(options.tasks, options)
    tasks = take_shard(every_task, options.shard_index, options.num_shards, options.batch_size)
    with contextlib.ExitStack() as stack:
        if options.cluster is None or options.model is None:
            source = build_source(options)
        else:
            source = stack.enter_context(_writers(options))
        return _collect(options, source, every_task, tasks)


def _check_cluster(options: argparse.Namespace) -> None:
    """Check that no option divides the work that a cluster divides; programs are judged there as well."""
    if options.cluster is None:
        return
    if options.num_shards != 1 or options.shard_index is not None:
        raise ValueError("--num_shards: a cluster divides the tasks by itself; leave it out, or --cluster")
    if options.judge_cluster is not None:
        raise ValueError("--judge_cluster: programs are judged where --cluster says; leave out one of the two")
    if PartialState().num_processes > 1:
        raise ValueError(
            f"--cluster: one process divides the work among the nodes; got {PartialState().num_processes} processes. "
            "Start the command without a launcher"
        )
    options.judge_cluster = options.cluster


def _writers(options: argparse.Namespace) -> ClusterSource:
    """Return the source that loads the model of the options on the nodes of a cluster."""
    if os.path.isdir(options.model):
        # Ray's processes have other working directories.
        options.model = os.path.abspath(options.model)
    source = ClusterSource(source_builder(options), options.cluster)
    print(f"{len(source.nodes)} writers, on {', '.join(source.nodes)}")
    return source


def _collect(
    options: argparse.Namespace, source: ProgramSource, every_task: list[CodingTask], tasks: list[CodingTask]
) -> int:
    output = shard_path(options.output, options.shard_index, options.num_shards)
    buffer = ReplayBuffer.load(output) if output.exists() else ReplayBuffer()
    every_task, tasks = (put_to_writer(each, source, options.prompts) for each in (every_task, tasks))
    # On the tasks of all machines: a file may hold programs for any of them.
    source.check(every_task)
    scorer = None if options.scorer is None else Scorer(*load_model(options.scorer), name=options.scorer)
    journal_folder = journal_beside(output)
    try:
        with make_judge(options) as judge:
            collector = BeamSampleCollector(
                source=source,
                judge=judge,
                tasks=tasks,
                journal_folder=journal_folder,
                scorer=scorer,
                learn=options.learn,
            )
            collector.attach(buffer)
            report = collector.collect(quiet=False)
    finally:
        if len(buffer) and PartialState().is_main_process:
            buffer.save(output)
        if isinstance(source, ServerSource):
            # After an error as well: the tokens were paid for.
            print(f"{source.model}: {source.usage.describe(options.prompt_price, options.completion_price)}")
    if PartialState().is_main_process:
        _finish(report, journal_folder, len(tasks), f"{len(buffer)} programs in {output}{_by_processes()}")
        if isinstance(source, DatasetSource):
            _say_matches(source, every_task, tasks, buffer)
    return 0


def _say_matches(
    source: DatasetSource, every_task: list[CodingTask], tasks: list[CodingTask], buffer: ReplayBuffer
) -> None:
    """Print how many programs found their task by a prompt, and what became of the labels of a set."""
    matches = source.matches(every_task)
    if matches.programs:
        print(f"{source.name}: {matches.matched} of {matches.programs} programs matched to tasks by their prompts")
    if source.has_labels:
        print(f"{source.name}: {compare_labels(source, tasks, buffer).line()}")


def _by_processes() -> str:
    number = PartialState().num_processes
    return f", by {number} processes" if number > 1 else ""


def _finish(report: CollectionReport, journal_folder: Path, tasks: int, result: str) -> None:
    clear_journal(journal_folder, unjudged=report.unjudged)
    print(
        f"{report.programs} programs for {tasks} tasks: {report.added} new, {report.duplicates} repeated, "
        f"{report.unjudged} not judged, {report.unextracted} without a program; "
        f"mean pass rate {report.pass_rate:.3f}, {report.solved:.1%} of tasks solved; "
        f"{result}"
    )
    for source, one in report.by_source.items():
        print(
            f"{source}: {one.programs} programs for {one.tasks} tasks; mean pass rate {one.pass_rate:.3f}, "
            f"{one.solved:.1%} of tasks solved"
        )


def take_shard(tasks: Sequence[CodingTask], index: int | None, num_shards: int, batch_size: int) -> list[CodingTask]:
    """Return the tasks of a machine: whole batches, dealt out in turn.

    Raises:
        ValueError: The index is missing or out of range, or no task is left for this machine.
    """
    if num_shards < 1:
        raise ValueError(f"--num_shards: must be at least 1; got {num_shards}")
    if num_shards == 1 and index is None:
        return list(tasks)
    if index is None or not 0 <= index < num_shards:
        raise ValueError(f"--shard_index: must be in 0 to {num_shards - 1}, one for each machine; got {index}")
    # Whole batches, so that padding and samples are those of a single machine.
    batches = own_batches(len(tasks), batch_size, process_index=index, num_processes=num_shards)
    if not batches:
        raise ValueError(
            f"--num_shards: {len(tasks)} tasks in batches of {batch_size} leave none for shard {index} of "
            f"{num_shards}; use fewer shards or a smaller --batch_size"
        )
    return [tasks[position] for batch in batches for position in batch]


def shard_path(output: Path, index: int | None, num_shards: int) -> Path:
    """Return the file that a machine writes."""
    if num_shards == 1:
        return output
    # A file for each machine, since they may share a disk.
    return output.with_name(f"{output.stem}-{index or 0:05d}-of-{num_shards:05d}{output.suffix}")


def merge(options: argparse.Namespace) -> int:
    """Merge the buffers of several machines into a single file; return the exit code."""
    buffers = [ReplayBuffer.load(path) for path in options.sources]
    # The settings and the tokenizer of the first buffer hold; a buffer of another tokenizer is refused.
    merged = ReplayBuffer(**{**buffers[0].settings(), "tokenizer": buffers[0].tokenizer})
    report = merged.merge(*buffers)
    merged.save(options.output)
    print(
        f"{sum(map(len, buffers))} programs of {len(buffers)} buffers: {report.refreshed} repeated, {report.evicted} "
        f"left out for the capacity; {len(merged)} programs in {options.output}"
    )
    return 0


def rescore_file(options: argparse.Namespace) -> int:
    """Score the programs of a buffer under a model; return the exit code."""
    buffer = ReplayBuffer.load(options.buffer)
    scorer = Scorer(*load_model(options.scorer), name=options.scorer)
    scored = rescore(buffer, scorer, only_missing=not options.all)
    scored.save(options.output)
    known = sum(one.logprob is not None for one in scored)
    print(f"{known} of {len(scored)} programs have a log-probability: {options.output}")
    return 0
