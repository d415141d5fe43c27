"""Serve the metric `pass_rate` as a Space: a page that judges the programs and tests that a visitor enters.

Programs run in the judge. The Space's owner must consent to that with `HF_ALLOW_CODE_EVAL=1` among the Space's
variables. `trl_pper.metrics.space` writes this file into the Space.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import evaluate
import gradio

from trl_pper import Judge, Limits

#: Limits for the programs of visitors, far below the limits of a training run.
LIMITS = Limits(cpu_seconds=2.0, memory_bytes=2**29)
SEPARATOR = "# ---"
COLUMNS = ["program", "pass_rate", "passed", "total", "outcomes", "message"]
PROGRAMS = f"def double(x):\n    return 2 * x\n{SEPARATOR}\ndef double(x):\n    return x * x\n"
TESTS = '{"type": "function", "entry_point": "double", "code": "assert double(2) == 4\\nassert double(3) == 6"}'
STDIO_PROGRAM = "print(sum(map(int, input().split())))\n"
STDIO_TESTS = '{"type": "stdio", "cases": [{"input": "1 2", "output": "3"}], "compare": "tokens"}'


def split_programs(text: str) -> list[str]:
    """Split a text into programs at lines of `# ---`."""
    programs: list[str] = []
    lines: list[str] = []
    for line in [*text.splitlines(), SEPARATOR]:
        if line.strip() == SEPARATOR:
            programs.append("\n".join(lines))
            lines = []
        else:
            lines.append(line)
    return programs


def judge_programs(text: str, tests: str) -> tuple[dict[str, Any], list[list[Any]]]:
    """Judge the programs of a task, and return the scores and a row for each program.

    Args:
        text: Programs, separated by lines of `# ---`.
        tests: Tests of the task, as JSON.

    Raises:
        gradio.Error: Consent is missing, the tests are malformed, or the judge cannot isolate programs.
    """
    programs = split_programs(text)
    # In memory, because visitors at the same time would share a cache file.
    metric = evaluate.load(str(Path(__file__).with_name("pass_rate.py")), keep_in_memory=True)
    try:
        with Judge(workers=1, limits=LIMITS) as judge:
            figures = metric.compute(
                predictions=[programs], references=[tests], k=list(range(1, len(programs) + 1)), judge=judge
            )
    # Gradio shows only errors of its own class to visitors.
    except (ValueError, RuntimeError, OSError) as error:
        raise gradio.Error(str(error)) from error
    # Shown in a table, not in the JSON of the scores.
    rows = figures.pop("rows")
    shown = [[row["program"] + 1, *(row[name] for name in COLUMNS[1:])] for row in rows]
    return figures, [[", ".join(cell) if isinstance(cell, list) else cell for cell in row] for row in shown]


def build() -> gradio.Blocks:
    """Return the page."""
    with gradio.Blocks(title="pass_rate") as page:
        gradio.Markdown(
            "# pass_rate\nHow many of their tests programs pass. Programs, best first, stand between lines of "
            f"`{SEPARATOR}`; tests are the JSON of trl_pper's `tests` column."
        )
        with gradio.Row():
            programs = gradio.Code(PROGRAMS, language="python", label="Programs")
            tests = gradio.Code(TESTS, language="json", label="Tests")
        button = gradio.Button("Judge", variant="primary")
        figures = gradio.JSON(label="Figures")
        rows = gradio.Dataframe(headers=COLUMNS, label="Programs")
        button.click(judge_programs, inputs=[programs, tests], outputs=[figures, rows])
        gradio.Examples([[PROGRAMS, TESTS], [STDIO_PROGRAM, STDIO_TESTS]], inputs=[programs, tests])
    return page


if __name__ == "__main__":
    build().launch()
