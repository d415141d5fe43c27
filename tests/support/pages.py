"""The pages of the documentation as code: their blocks and commands, made small enough to run here."""

import importlib
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
#: No GPU here, few steps, no tracker; everything else is the text of the page.
SMALL = "use_cpu=True, bf16=False, report_to=[], steps_per_round=1, disable_tqdm=True, judge_workers=1"
SMALL_COMMAND = (
    "--use_cpu --bf16 false --report_to none --steps_per_round 1 --disable_tqdm true --judge_workers 1"
).split()


def blocks(page: Path, language: str) -> list[str]:
    """Return the fenced blocks of a language, in order."""
    return re.findall(rf"```{language}\n(.*?)```", page.read_text(), flags=re.DOTALL)


def small(code: str) -> str:
    """Return code of a page with options that fit this machine in its configurations."""
    code = re.sub(r'(Config\(\s*output_dir="[^"]*")', rf"\1, {SMALL}", code)
    return re.sub(r"max_completion_length=\d+", "max_completion_length=8", code)


def commands(page: Path) -> Iterator[list[str]]:
    """Yield the arguments of each `trl-pper` command of a page."""
    for block in blocks(page, "bash"):
        for line in block.replace("\\\n", " ").splitlines():
            words = shlex.split(line, comments=True)
            if words[:1] == ["trl-pper"]:
                yield words[1:]


def marked_to_run() -> set[str]:
    """Return the pages and examples that tests are marked to run, as paths in the repository."""
    found: set[str] = set()
    for path in sorted((ROOT / "tests").rglob("test_*.py")):
        module = importlib.import_module(".".join(path.relative_to(ROOT).with_suffix("").parts))
        tests = [value for name, value in vars(module).items() if name.startswith("test_")]
        for marked in (module, *tests):
            marks = getattr(marked, "pytestmark", [])
            for mark in marks if isinstance(marks, list) else [marks]:
                found.update(mark.args if mark.name == "runs" else ())
    return found


def launched() -> list[str]:
    """Return the commands of several processes that are run, as `test_launch.py` is given them."""
    from tests.cli.test_launch import test_a_documented_command_trains_with_two_processes as test

    (commands,) = (mark.args[1] for mark in test.pytestmark if mark.name == "parametrize")
    return list(commands)
