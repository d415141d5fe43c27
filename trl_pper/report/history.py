"""Find the buffer and the log of a run, and read the log as scores by round.

A run may be given as a buffer file, a checkpoint, or the output folder of a run.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trl_pper.metrics.scores import figure_named
from trl_pper.replay.buffer import ReplayBuffer

if TYPE_CHECKING:
    from trl_pper.rounds.collection_report import CollectionReport


_PREFIX = "pper/"


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """Scores on held-out tasks at a point of the run.

    Args:
        rounds_trained: Rounds of training before the evaluation: 0 for the initial model, 1.5 in the middle of the
            second round.
        scores: Scores in [0, 1] by name.
    """

    rounds_trained: float
    scores: Mapping[str, float]


@dataclass(frozen=True, kw_only=True)
class History:
    """The log of a run.

    Args:
        rounds: Numbers of each round, named as in `CollectionReport`, including `round_index`.
        evaluations: Evaluations on held-out tasks, in order.
    """

    rounds: tuple[Mapping[str, float], ...] = ()
    evaluations: tuple[Evaluation, ...] = ()

    def scores(self) -> dict[str, tuple[Evaluation, Evaluation]]:
        """Return the first and the last evaluation with each score, by name of the score, accuracies first."""
        names = sorted({name for one in self.evaluations for name in one.scores}, key=_order)
        having = {name: [one for one in self.evaluations if name in one.scores] for name in names}
        return {name: (found[0], found[-1]) for name, found in having.items()}


def history_of(
    reports: Iterable[CollectionReport] = (),
    *,
    log: Iterable[Mapping[str, Any]] = (),
    evaluations: Iterable[tuple[float, Mapping[str, Any]]] = (),
) -> History:
    """Return the history of a run from its reports, its log, or both.

    Args:
        reports: Reports of the collector, one for each round.
        log: Rows of `TrainerState.log_history`; rounds and evaluations are recognised by their names.
        evaluations: Further evaluations, each with the rounds trained before and the dictionary that
            `PPERTrainer.evaluate` returned.
    """
    logged = _Logged()
    for report in reports:
        logged.add(report.metrics(), report.round_index)
    for row in log:
        # The trainer trains a round in each epoch.
        logged.add(row, row.get("epoch") or 0.0)
    for rounds_trained, row in evaluations:
        logged.add(row, rounds_trained)
    rounds = tuple(logged.rounds[index] for index in sorted(logged.rounds))
    scores = sorted(logged.scores.items())
    return History(
        rounds=rounds, evaluations=tuple(Evaluation(rounds_trained=when, scores=found) for when, found in scores)
    )


@dataclass
class _Logged:
    rounds: dict[float, dict[str, float]] = field(default_factory=dict)
    scores: dict[float, dict[str, float]] = field(default_factory=dict)

    def add(self, row: Mapping[str, Any], rounds_trained: float) -> None:
        figures = {name.removeprefix(_PREFIX): value for name, value in row.items() if name.startswith(_PREFIX)}
        if "round_index" in figures:
            self.rounds[figures["round_index"]] = figures
        found = {score: value for name, value in row.items() if (score := _score(name)) is not None}
        if found:
            # Rounded, because the log rounds its epochs: the sets of an evaluation have separate rows that
            # must meet here.
            self.scores.setdefault(round(rounds_trained, 3), {}).update(found)


def _score(name: str) -> str | None:
    """Return the name of a score on held-out tasks, with its data set if there are several; None for other numbers."""
    named = figure_named(name)
    # Scores by difficulty would be too many lines for a chart.
    if named is None or named.figure == "loss" or named.difficulty is not None:
        return None
    return named.figure if named.data is None else f"{named.figure} of {named.data}"


def _order(name: str) -> tuple[int, str]:
    scores = ("accuracy", "pass_rate", "pass@", "first_pass_rate")
    return next(place for place, score in enumerate(scores) if name.startswith(score)), name


_STATE_FILE = "trainer_state.json"


@dataclass(frozen=True, kw_only=True)
class Run:
    """The content of a report.

    Args:
        path: The file or folder found; for a run, its newest complete checkpoint.
        buffer: The buffer.
        history: Log of the run up to the checkpoint; empty for a buffer file.
    """

    path: Path
    buffer: ReplayBuffer
    history: History


def find_run(path: str | Path) -> Run:
    """Read a buffer and, if it is in a checkpoint, the log of the run so far.

    Args:
        path: A buffer file (.parquet), a checkpoint folder, or the output folder of a run; of a run the newest
            complete checkpoint is read.

    Raises:
        ValueError: There is no buffer, or the buffer is malformed.
        OSError: The path does not exist, or cannot be read.
    """
    source = Path(path)
    if not source.is_dir():
        return Run(path=source, buffer=ReplayBuffer.load(source), history=History())
    # Imported late: it loads transformers, which takes seconds, and a buffer file does not need it.
    from trl_pper.training.checkpoint import BUFFER_FILE, newest_complete_checkpoint

    checkpoint = source if (source / BUFFER_FILE).is_file() else newest_complete_checkpoint(source)
    if checkpoint is None:
        raise ValueError(
            f"{source}: must be a buffer file, or a folder with {BUFFER_FILE} or a complete checkpoint. "
            "Runs save checkpoints unless save_strategy is 'no'"
        )
    return Run(path=checkpoint, buffer=ReplayBuffer.load(checkpoint / BUFFER_FILE), history=_logged(checkpoint))


def _logged(checkpoint: Path) -> History:
    file = checkpoint / _STATE_FILE
    if not file.is_file():
        return History()
    try:
        return history_of(log=json.loads(file.read_text(encoding="utf-8"))["log_history"])
    # The log of a damaged file may hold any JSON.
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(f"{file}: must be the state of a Trainer with its log_history; got {error!r}") from error
