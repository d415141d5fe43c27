"""A Space that tries the metric `pass_rate` in the browser: programs and tests in, figures and outcomes out.

Programs run in the judge, which needs the consent of the Space's owner: `HF_ALLOW_CODE_EVAL=1` among its variables.
`trl_pper.metrics.space` writes this file into the Space.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import evaluate
import gradio

from trl_pper import Judge, Limits

#: What visitors may use: far less than a training run.
LIMITS = Limits(cpu_seconds=2.0, memory_bytes=2**29)
SEPARATOR = "# ---"
COLUMNS = ["program", "pass_rate", "passed", "total", "outcomes", "message"]
PROGRAMS = f"def double(x):\n    return 2 * x\n{SEPARATOR}\ndef double(x):\n    return x * x\n"
TESTS = '{"type": "function", "entry_point": "double", "code": "assert double(2) == 4\\nassert double(3) == 6"}'
STDIO_PROGRAM = "print(sum(map(int, input().split())))\n"
STDIO_TESTS = '{"type": "stdio", "cases": [{"input": "1 2", "output": "3"}], "compare": "tokens"}'


def split_programs(text: str) -> list[str]:
    """Return the programs of a text, which lines of `# ---` stand between."""
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
    """Judge the programs for one task and return the figures and a row for each program.

    Args:
        text: The programs.
        tests: The tests of the task, as JSON.

    Raises:
        gradio.Error: There is no consent, the tests are malformed, or the judge cannot lock programs in.
    """
    programs = split_programs(text)
    metric = evaluate.load(str(Path(__file__).with_name("pass_rate.py")), keep_in_memory=True)
    try:
        with Judge(workers=1, limits=LIMITS) as judge:
            figures = metric.compute(
                predictions=[programs], references=[tests], k=list(range(1, len(programs) + 1)), judge=judge
            )
    except (ValueError, RuntimeError, OSError) as error:
        raise gradio.Error(str(error)) from error
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
