"""Every example in a docstring runs and prints what it says, and so does the Python of the documentation."""

import doctest
import importlib
import pkgutil
import re
import warnings
from pathlib import Path

import pytest

import trl_pper

MODULES = sorted(
    module.name
    for module in pkgutil.walk_packages(trl_pper.__path__, "trl_pper.")
    # These are programs: the processes of the judge, the metric's script, and what trains the demo's model.
    if module.name not in {"trl_pper.judge.zygote", "trl_pper.metrics.pass_rate.pass_rate"}
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
        doctest.testmod(importlib.import_module(f"trl_pper.{name}")).attempted for name in ("task", "replay")
    )
    assert attempted >= 4


FOLDER = Path(__file__).parents[1] / "docs"
#: These pages need files and a model; test_training_page.py and the like bring them.
DOCS = sorted(
    set(FOLDER.glob("*.md"))
    - {FOLDER / f"{name}.md" for name in ("training", "tasks", "evaluation", "hub", "metric", "report", "rewards")}
)


@pytest.mark.parametrize(
    "page", [page for page in DOCS if "```python" in page.read_text()], ids=lambda page: page.name
)
def test_python_in_the_documentation_runs(page):
    names: dict = {}
    for block in re.findall(r"```python\n(.*?)```", page.read_text(), flags=re.DOTALL):
        exec(compile(block, str(page), "exec"), names)
