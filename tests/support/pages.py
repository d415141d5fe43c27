"""The pages of the documentation as code: their blocks and commands, made small enough to run here."""

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
