"""Several processes of `trl-pper train`, started through `accelerate launch`.

Enters: options of `accelerate launch` and arguments of the run. Leaves: the exit code of the processes. Whatever this
command does beside it is Accelerate's: its options, its default configuration, its launchers.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.resources
import os
import subprocess
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path

from trl_pper.cli.options.types import option_actions

ACCELERATE_CONFIG = "accelerate_config"
ACCELERATE_CONFIG_HELP = (
    "Configuration of `accelerate launch`: a file, or a name that TRL has one for, as multi_gpu, zero2 or fsdp2."
)
#: What launchers set for each process that they start; the last ones are those of MPI.
_LAUNCHED = (
    "LOCAL_RANK", "ACCELERATE_MIXED_PRECISION", "OMPI_COMM_WORLD_LOCAL_RANK", "MPI_LOCALRANKID",
    "MV2_COMM_WORLD_LOCAL_RANK",
)  # fmt: skip
#: Options of the launch that say what is launched: here it is always `trl-pper train`.
_WHAT = ("module", "no_python", "no-python")
_PARADIGMS = ("multi_gpu", "cpu", "tpu", "use_deepspeed", "use_fsdp", "use_megatron_lm")
_STORE_SECONDS = 10


def is_launched() -> bool:
    """Return whether this process was started by a launcher: torchrun, `accelerate launch` or MPI."""
    return any(name in os.environ for name in _LAUNCHED)


def launch_actions() -> dict[str, argparse.Action]:
    """Return the options of `accelerate launch` by name, with `--accelerate_config`, as TRL has it."""
    from accelerate.commands.launch import launch_command_parser

    extra = argparse.ArgumentParser(add_help=False)
    extra.add_argument(f"--{ACCELERATE_CONFIG}", metavar="NAME_OR_FILE", help=ACCELERATE_CONFIG_HELP)
    actions = {**option_actions(launch_command_parser()), **option_actions(extra)}
    return {name: action for name, action in actions.items() if name not in _WHAT}


def is_worth_a_launch(options: Sequence[str], *, use_cpu: bool) -> bool:
    """Return whether a run has to be started through `accelerate launch`.

    It has to where an option of the launch is given, where there is a default configuration of Accelerate, and where
    several GPUs wait. Otherwise the launch would start the single process that is running already.

    Args:
        options: Options of the launch.
        use_cpu: Whether the run leaves GPUs alone.
    """
    if options:
        return True
    import torch
    from accelerate.commands.config import default_config_file

    return Path(default_config_file).is_file() or (not use_cpu and torch.accelerator.device_count() > 1)


def launch(options: Sequence[str], arguments: Sequence[str]) -> int:
    """Start the processes of a run, wait for them and return the exit code of the first that failed, or 0.

    Args:
        options: Options of the launch.
        arguments: What each process gets: the arguments of `trl-pper train`.

    Raises:
        ValueError: Options of the launch are wrong, contradict each other, or need what is not installed.
        OSError: The launcher cannot start, for instance because its port is in use.
    """
    from accelerate.commands.launch import launch_command, launch_command_parser
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

    parser = launch_command_parser()
    parser.exit_on_error = False
    command = ["-m", "trl_pper.cli", "train", *arguments]
    try:
        chosen = parser.parse_args([*_with_config_file(options), *command])
    except argparse.ArgumentError as error:
        raise ValueError(str(error)) from error
    if chosen.training_script != command[1]:
        raise ValueError(f"{chosen.training_script}: must be the value of an option; the one before it takes no more")
    if _is_left_to_mpirun(chosen):
        chosen.multi_gpu = True
    try:
        launch_command(chosen)
    except subprocess.CalledProcessError as error:
        return _exit_code(error.returncode)
    except ChildFailedError as error:
        return _exit_code(error.get_first_failure()[1].exitcode)
    except ImportError as error:
        # What the launch needs, such as DeepSpeed, is not installed.
        raise ValueError(str(error)) from error
    return 0


def first_to_say(message: str) -> bool:
    """Return whether no other process of this launch has said the same, so that an error appears once."""
    address, port = os.environ.get("MASTER_ADDR"), os.environ.get("MASTER_PORT")
    if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True" or address is None or port is None:
        return True
    import torch.distributed

    attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    name = hashlib.sha256(message.encode()).hexdigest()[:16]
    try:
        # The launcher holds it until all processes have ended.
        store = torch.distributed.TCPStore(  # type: ignore[attr-defined]
            address, int(port), is_master=False, wait_for_workers=False, timeout=timedelta(seconds=_STORE_SECONDS)
        )
        return bool(store.add(f"trl_pper/said/{attempt}/{name}", 1) == 1)
    except torch.distributed.DistError:
        return True


def _with_config_file(options: Sequence[str]) -> list[str]:
    """Return options with the file that `--accelerate_config` stands for."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    parser.add_argument(f"--{ACCELERATE_CONFIG}", f"--{ACCELERATE_CONFIG.replace('_', '-')}")
    found, others = parser.parse_known_args(options)
    if found.accelerate_config is None:
        return others
    if any(option.startswith(("--config_file", "--config-file")) for option in others):
        raise ValueError(f"{ACCELERATE_CONFIG}: stands for --config_file; give one of them")
    return [*others, "--config_file", str(_config_file(found.accelerate_config))]


def _config_file(name: str) -> Path:
    if Path(name).is_file():
        return Path(name)
    shipped = {path.name: path for path in importlib.resources.files("trl.accelerate_configs").iterdir()}
    if f"{name}.yaml" not in shipped:
        names = ", ".join(sorted(path.removesuffix(".yaml") for path in shipped if path.endswith(".yaml")))
        raise ValueError(f"{ACCELERATE_CONFIG}: must be a file or one of {names}; got {name!r}")
    return Path(str(shipped[f"{name}.yaml"]))


def _is_left_to_mpirun(chosen: argparse.Namespace) -> bool:
    """Return whether Accelerate would start one process of several without a word: it does without a GPU."""
    import torch
    from accelerate.commands.config import default_config_file

    configured = chosen.config_file is not None or Path(default_config_file).is_file()
    told = configured or any(getattr(chosen, name) for name in _PARADIGMS)
    return not told and (chosen.num_processes or 1) > 1 and not torch.accelerator.is_available()


def _exit_code(code: int) -> int:
    """Return an exit code as shells give it: 128 and the number of the signal for a process that was killed."""
    return 128 - code if code < 0 else code
