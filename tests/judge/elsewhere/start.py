"""Runs `trl-pper` with the arguments given where everything that only Linux has was taken away."""

import sys
from pathlib import Path

from tests.judge.elsewhere.not_linux import take_away


def main(arguments):
    """Return the exit code of the command."""
    if arguments[0] != "judge":
        _import_libraries()
    take_away()
    from trl_pper.judge.host import worker

    worker._ZYGOTE = Path(__file__).with_name("zygote.py")
    from trl_pper.cli.commands import main as command

    return command(arguments)


def _import_libraries():
    # Built for Linux, they look for what it has while they are imported.
    import datasets
    import peft
    import psutil
    import torch
    import trl

    torch.set_num_threads(1)
    assert datasets
    assert peft
    assert psutil
    assert trl.SFTTrainer


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
