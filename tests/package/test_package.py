"""What importing the package costs, and which names it offers."""

import subprocess
import sys

import pytest

import trl_pper

HEAVY = ("torch", "transformers", "trl", "datasets", "evaluate", "accelerate", "numpy", "pyarrow")


def run(code: str) -> str:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()


def test_importing_the_package_loads_no_library():
    code = f"import sys, trl_pper; print([m for m in {HEAVY} if m in sys.modules])"
    assert run(code) == "[]"


def test_importing_the_package_loads_one_module():
    loaded = run("import sys; before = {*sys.modules}; import trl_pper; print(*{*sys.modules} - before)").split()
    assert [name for name in loaded if name.partition(".")[0] not in sys.stdlib_module_names] == ["trl_pper"]


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


@pytest.mark.slow
def test_the_trainer_is_imported_without_a_word():
    pytest.importorskip("bitsandbytes")
    code = "import sys; from trl_pper import PPERTrainer; assert 'bitsandbytes' in sys.modules"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("", "")


@pytest.mark.slow
def test_a_run_with_an_adapter_begins_without_a_warning(tmp_path):
    code = f"""
from importlib.resources import files
from trl_pper import CodingTask, FunctionTests, PPERConfig, PPERTrainer
from peft import LoraConfig
task = CodingTask(task_id="f", prompt="def f(x):", tests=FunctionTests(code="assert f(1)", entry_point="f"))
trainer = PPERTrainer(
    model=str(files("trl_pper.demo") / "model"),
    args=PPERConfig("{tmp_path}", use_cpu=True, bf16=False, report_to=[], max_completion_length=1, disable_tqdm=True,
        max_steps=1, judge_workers=1),
    train_dataset=[task], peft_config=LoraConfig(task_type="CAUSAL_LM"),
)
trainer.train()
assert trainer.args.gradient_checkpointing
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "Warning" not in done.stderr


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="nothing_here"):
        trl_pper.nothing_here  # noqa: B018


@pytest.mark.parametrize(
    # `train --help` lists the options of TRL, which have to be loaded for it.
    "command",
    [[], ["judge"], ["collect"], ["demo"], ["evaluate"], ["report"], ["export"]],
)
def test_help_loads_no_library_but_that_for_yaml(command):
    script = f"""
import sys
from trl_pper.cli.commands import main
try:
    code = main([*{command}, "--help"])
except SystemExit as stop:
    code = stop.code
assert not code, code
print([m for m in {HEAVY} if m in sys.modules], file=sys.stderr)
files = {{name.partition(".")[0]: str(getattr(module, "__file__", "")) for name, module in sys.modules.items()}}
print(*(name for name, file in files.items() if "site-packages" in file), file=sys.stderr)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    heavy, installed = done.stderr.splitlines()
    assert heavy == "[]"
    # The second belongs to the environment, the third is installed where it is no checkout.
    assert {*installed.split()} <= {"yaml", "_distutils_hack", "trl_pper"}
    assert "trl-pper" in done.stdout
