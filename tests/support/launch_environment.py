"""What `accelerate launch` sets for the processes it starts from one of the shipped configurations."""

import os
from pathlib import Path
from unittest import mock

from accelerate.commands import launch
from accelerate.utils.launch import prepare_deepspeed_cmd_env, prepare_multi_gpu_env

CONFIGURATIONS = Path(__file__).parents[2] / "examples" / "accelerate"


def launch_environment(configuration: str, processes: int) -> dict[str, str]:
    """Return the environment variables that would be new, with full precision, which CPU runs compare by."""
    options = ["--config_file", str(CONFIGURATIONS / configuration), "--num_processes", str(processes)]
    arguments = launch.launch_command_parser().parse_args([*options, "--mixed_precision", "no", "script.py"])
    with (
        mock.patch.object(launch, "multi_gpu_launcher") as plain,
        mock.patch.object(launch, "deepspeed_launcher") as deepspeed,
    ):
        launch.launch_command(arguments)
    if deepspeed.called:
        _, environment = prepare_deepspeed_cmd_env(*deepspeed.call_args.args)
    else:
        environment = prepare_multi_gpu_env(*plain.call_args.args)
    kept = {"PYTHONPATH", "OMP_NUM_THREADS"}
    return {name: value for name, value in environment.items() if os.environ.get(name) != value and name not in kept}
