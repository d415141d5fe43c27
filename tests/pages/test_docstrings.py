"""Every example in a docstring runs and prints what it says."""

import doctest
import importlib
import pkgutil
import warnings

import pytest

import trl_pper

MODULES = sorted(
    module.name
    for module in pkgutil.walk_packages(trl_pper.__path__, "trl_pper.")
    # These are programs: the processes of the judge, the metric's script, and what trains the demo's model.
    if module.name
    not in {"trl_pper.judge.worker.zygote", "trl_pper.metrics.pass_rate.pass_rate", "trl_pper.cli.__main__"}
)


@pytest.mark.parametrize("name", MODULES)
def test_examples_run(name):
    with warnings.catch_warnings():
        # A configuration made as a user would: TRL's own default uses a name that transformers deprecates.
        warnings.filterwarnings("ignore", message="`gradient_checkpointing` is deprecated")
        failed, _ = doctest.testmod(importlib.import_module(name), optionflags=doctest.ELLIPSIS)
    assert failed == 0


def test_examples_were_found():
    attempted = sum(
        doctest.testmod(importlib.import_module(f"trl_pper.{name}")).attempted
        for name in ("tasks.task", "replay.buffer")
    )
    assert attempted >= 4
