"""Start several processes of `trl-pper train` through `accelerate launch`.

Accelerate does all of it: its options, its default configuration, its launchers.
"""

from __future__ import annotations

import argparse
import importlib.resources
import os
import subprocess
from collections.abc import Sequence
from pathlib import Path

from trl_pper.cli.options import Wanted, wanted_of_hint

ACCELERATE_CONFIG_HELP = (
    "Configuration of `accelerate launch`: a file, or a name that TRL has one for, as multi_gpu, zero2 or fsdp2."
)
#: The number of a process on its machine: of torchrun and `accelerate launch`, and of MPI.
_LOCAL_RANKS = ("LOCAL_RANK", "OMPI_COMM_WORLD_LOCAL_RANK", "MPI_LOCALRANKID", "MV2_COMM_WORLD_LOCAL_RANK")
#: Variables that launchers set for each process they start; a launch of a single process sets the last alone.
LAUNCHED = (*_LOCAL_RANKS, "ACCELERATE_MIXED_PRECISION")
_PARADIGMS = ("multi_gpu", "cpu", "tpu", "use_deepspeed", "use_fsdp", "use_megatron_lm")


def is_launched() -> bool:
    """Return whether this process was started by a launcher: torchrun, `accelerate launch` or MPI."""
    return any(name in os.environ for name in LAUNCHED)


def is_first_process() -> bool:
    """Return whether this process is the first of its launch on this machine."""
    return all(os.environ.get(name, "0") == "0" for name in _LOCAL_RANKS)


def launch_parser() -> argparse.ArgumentParser:
    """Return the parser of `accelerate launch`, with `--accelerate_config` added, which TRL's commands have."""
    from accelerate.commands.launch import launch_command_parser

    parser: argparse.ArgumentParser = launch_command_parser()
    parser.add_argument("--accelerate_config", help=ACCELERATE_CONFIG_HELP)
    # argparse would print its usage and exit; here an error is a single line.
    parser.exit_on_error = False
    return parser


def launch_options() -> dict[str, Wanted]:
    """Return the values that the options of `accelerate launch` take, by name; null stands for "not given"."""
    # argparse has no public list of the options of a parser that somebody else made; TrlParser reads the same member.
    actions = {text[2:]: action for action in launch_parser()._actions for text in action.option_strings}
    # --module and --no_python say how the script is started: here it is always `trl-pper train`.
    left_out = ("help", "module", "no_python")
    return {
        name: wanted_of_action(action)
        for name, action in actions.items()
        if len(name) > 1 and "-" not in name and name not in left_out
    }


def wanted_of_action(action: argparse.Action) -> Wanted:
    """Return the values that an argument of argparse takes."""
    kind = bool if action.nargs == 0 else action.type if action.type in (int, float, bool) else str
    # Accelerate appends the values of --vm.
    several = action.nargs in ("+", "*") or action.dest == "vm"
    return wanted_of_hint((list[kind] if several else kind) | None, action.choices)  # type: ignore[valid-type]


def is_worth_a_launch(options: Sequence[str], *, use_cpu: bool) -> bool:
    """Return whether a run has to be started through `accelerate launch`.

    It has to if an option of the launch is given, if Accelerate has a default configuration on this machine, or if
    there are several GPUs. Otherwise the launch would start the single process that is running already.

    Args:
        options: Options of the launch.
        use_cpu: Whether the run leaves GPUs alone.
    """
    if options:
        return True
    # Not needed where an option decides, and slow.
    import torch
    from accelerate.commands.config import default_config_file

    return Path(default_config_file).is_file() or (not use_cpu and torch.accelerator.device_count() > 1)


def launch(options: Sequence[str], arguments: Sequence[str]) -> int:
    """Start the processes of a run, wait for them and return the exit code of the first that failed, or 0.

    Args:
        options: Options of the launch.
        arguments: The arguments of `trl-pper train` for each process.

    Raises:
        ValueError: Options of the launch are wrong, contradict each other, or need a package that is not installed.
        OSError: The launcher cannot start, for instance because its port is in use.
    """
    from accelerate.commands.launch import launch_command
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

    command = ["-m", "trl_pper.cli", "train", *arguments]
    try:
        chosen = launch_parser().parse_args([*options, *command])
    except argparse.ArgumentError as error:
        raise ValueError(str(error)) from error
    # A value too many stands where Accelerate expects the script.
    if chosen.training_script != command[1]:
        raise ValueError(f"{chosen.training_script}: must be the value of an option; the one before it takes no more")
    if chosen.accelerate_config is not None:
        if chosen.config_file is not None:
            raise ValueError("accelerate_config: stands for --config_file; give one of them")
        chosen.config_file = str(_config_file(chosen.accelerate_config))
    if _is_left_to_mpirun(chosen):
        chosen.multi_gpu = True
    try:
        launch_command(chosen)
    except subprocess.CalledProcessError as error:
        return _exit_code(error.returncode)
    except ChildFailedError as error:
        return _exit_code(error.get_first_failure()[1].exitcode)
    except SignalException as error:
        # The launcher has ended its processes, of which the first has said how to go on.
        return _exit_code(-error.sigval)
    except ImportError as error:
        # The launch needs a package, such as DeepSpeed.
        raise ValueError(str(error)) from error
    return 0


def _config_file(name: str) -> Path:
    if Path(name).is_file():
        return Path(name)
    shipped = {path.name: path for path in importlib.resources.files("trl.accelerate_configs").iterdir()}
    if f"{name}.yaml" not in shipped:
        names = ", ".join(sorted(path.removesuffix(".yaml") for path in shipped if path.endswith(".yaml")))
        raise ValueError(f"accelerate_config: must be a file or one of {names}; got {name!r}")
    return Path(str(shipped[f"{name}.yaml"]))


def _is_left_to_mpirun(chosen: argparse.Namespace) -> bool:
    """Return whether Accelerate would start a single process although several are asked for."""
    import torch
    from accelerate.commands.config import default_config_file

    # Without a GPU, and with no kind of launch chosen, Accelerate expects mpirun to start the processes.
    configured = chosen.config_file is not None or Path(default_config_file).is_file()
    decided = configured or any(getattr(chosen, name) for name in _PARADIGMS)
    return not decided and (chosen.num_processes or 1) > 1 and not torch.accelerator.is_available()


def _exit_code(code: int) -> int:
    """Return an exit code as shells give it: 128 plus the number of the signal for a process that was killed."""
    return 128 - code if code < 0 else code
