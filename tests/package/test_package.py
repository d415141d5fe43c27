"""What importing the package costs, and which names it offers."""

import subprocess
import sys
import time

import pytest

import trl_pper

HEAVY = ("torch", "transformers", "trl", "datasets", "evaluate", "accelerate", "numpy", "pyarrow")


def run(code: str) -> str:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()


def test_importing_the_package_loads_no_library():
    code = f"import sys, trl_pper; print([m for m in {HEAVY} if m in sys.modules])"
    assert run(code) == "[]"


def test_importing_the_package_takes_under_a_tenth_of_a_second():
    code = "import time; t = time.perf_counter(); import trl_pper; print(time.perf_counter() - t)"
    assert min(float(run(code)) for _ in range(3)) < 0.1


FLOORS = (
    "tasks.task tasks.loading generation.extraction judge.verdict judge.judge replay.priority replay.experience"
    " replay.buffer"
)


@pytest.mark.parametrize("module", FLOORS.split())
def test_the_lower_floors_load_no_heavy_library(module):
    heavy = ("torch", "transformers", "evaluate", "trl")
    code = f"import sys, trl_pper.{module}; print([m for m in {heavy} if m in sys.modules])"
    assert run(code) == "[]"


def test_every_public_name_loads_and_they_are_sorted():
    assert trl_pper.__all__ == sorted(trl_pper.__all__)
    for name in trl_pper.__all__:
        assert getattr(trl_pper, name).__name__ == name
    assert set(trl_pper.__all__) <= set(dir(trl_pper))


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="nothing_here"):
        trl_pper.nothing_here  # noqa: B018


@pytest.mark.parametrize(
    # `train --help` lists the options of TRL, which have to be loaded for it.
    "command",
    [[], ["judge"], ["collect"], ["demo"], ["evaluate"], ["report"], ["export"]],
)
def test_help_answers_at_once_and_loads_no_library(command):
    script = f"""
import sys, time
started = time.perf_counter()
from trl_pper.cli.commands import main
try:
    code = main([*{command}, "--help"])
except SystemExit as stop:
    code = stop.code
assert not code, code
print([m for m in {HEAVY} if m in sys.modules], file=sys.stderr)
"""
    started = time.perf_counter()
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert time.perf_counter() - started < 2  # the budget of 0.3 s is measured on an idle machine, this bounds imports
    assert done.stderr.strip() == "[]"
    assert "trl-pper" in done.stdout
