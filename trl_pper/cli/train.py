"""Run `trl-pper train`: from a command line to a run, in this process or in processes that Accelerate starts."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from trl_pper.cli.launch import is_first_process, is_launched, is_worth_a_launch, launch
from trl_pper.cli.options import OptionErrors, split_config
from trl_pper.cli.yaml_file import read_entries
from trl_pper.files import check_outputs

if TYPE_CHECKING:
    from trl_pper.cli.train_options import TrainOptions
    from trl_pper.training.trainer import PPERTrainer

#: A process waits this long for the first one of its machine to print their common error.
_PATIENCE_SECONDS = 20.0


def train(arguments: Sequence[str]) -> int:
    """Run `trl-pper train`.

    Args:
        arguments: The arguments behind `train`.

    Returns:
        0 for success, 2 for wrong options, files or tasks, and the exit code of processes that were launched and
        failed. An error in training is raised as it is.
    """
    try:
        # Libraries read their environment when they are imported; train_options imports them.
        _set_environment(arguments)
        from trl_pper.cli.train_options import train_options

        options = train_options(arguments)
        if not is_launched() and is_worth_a_launch(options.launch, use_cpu=bool(options.given.get("use_cpu"))):
            options.check()
            return launch(options.launch, options.arguments)
        trainer = _prepare(options)
    except (ValueError, OSError) as error:
        if not is_first_process():
            # An error of all processes is to appear once: when the first one has printed it and ended, the launcher
            # ends this one. An error of this process alone is printed after the wait.
            time.sleep(_PATIENCE_SECONDS)
        # Libraries break the lines of their messages; a file's errors have a line each.
        lines = str(error).splitlines() if isinstance(error, OptionErrors) else [str(error)]
        for line in lines:
            print(f"trl-pper train: {' '.join(line.split())}", file=sys.stderr, flush=True)
        return 2
    # Outside the `try`: an error in training is a bug or a full disk, and its traceback is needed.
    from trl_pper.cli.train_run import run

    run(trainer)
    return 0


def _prepare(options: TrainOptions) -> PPERTrainer:
    if options.typed_launch is not None:
        raise ValueError(
            f"{options.typed_launch}: a launcher started this process already; give it to the launcher, or start "
            "trl-pper train without one"
        )
    from trl_pper.cli.train_run import prepare
    from trl_pper.rounds.processes import check_processes

    configurations = options.configurations()
    # Found now, not when the first checkpoint is written.
    check_outputs({"--output_dir": (configurations[1].output_dir, ())})
    # Processes that do not know of each other would train the same model several times.
    try:
        check_processes()
    except RuntimeError as error:
        raise ValueError(str(error)) from error
    return prepare(*configurations)


def _set_environment(arguments: Sequence[str]) -> None:
    path, _ = split_config(arguments)
    entry = None if path is None else read_entries(path).get("env")
    if entry is None or entry.value is None:
        return
    if not isinstance(entry.value, Mapping):
        got = type(entry.value).__name__
        raise ValueError(f"{entry.where}: must be a mapping of environment variables to values; got {got}")
    os.environ.update({str(name): str(value) for name, value in entry.value.items()})
