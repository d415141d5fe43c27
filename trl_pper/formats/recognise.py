"""Which format a row is in, told by its columns, and the reader of each format.

Enters: a row. Leaves: the name of its format; or an error that says what each format lacks, or which ones fit.
"""

from __future__ import annotations

from collections.abc import Callable

from trl_pper.formats.apps import apps_task
from trl_pper.formats.code_contests import code_contests_task
from trl_pper.formats.fields import Row
from trl_pper.formats.humaneval import humaneval_task
from trl_pper.formats.live_code_bench import live_code_bench_task
from trl_pper.formats.mbpp import mbpp_task
from trl_pper.formats.open_r1 import open_r1_task
from trl_pper.task import CodingTask

READERS: dict[str, Callable[[Row], CodingTask]] = {
    "humaneval": humaneval_task,
    "mbpp": mbpp_task,
    "apps": apps_task,
    "code_contests": code_contests_task,
    "open_r1": open_r1_task,
    "live_code_bench": live_code_bench_task,
    "native": CodingTask.from_row,
}
FORMATS = tuple(READERS)

# Alternatives are listed together; a format is recognised when a row has one of each.
_FIELDS: dict[str, tuple[tuple[str, ...], ...]] = {
    "native": (("task_id",), ("prompt",), ("tests",)),
    "humaneval": (("task_id",), ("prompt",), ("entry_point",), ("test", "base_input")),
    "mbpp": (("task_id",), ("text", "prompt"), ("test_list",)),
    "apps": (("question", "description"), ("input_output", "test_list")),
    "code_contests": (
        ("description", "content"),
        ("public_tests", "private_tests", "generated_tests", "tests", "test"),
    ),
    "open_r1": (("prompt",), ("verification_info",)),
    "live_code_bench": (("question_content",), ("public_test_cases",)),
}


def recognise(row: Row) -> str:
    """Return the one format whose columns a row has.

    Raises:
        ValueError: No format fits, or more than one.
    """
    lacking = {
        name: [" or ".join(either) for either in fields if all(row.get(field) is None for field in either)]
        for name, fields in _FIELDS.items()
    }
    fitting = [name for name, fields in lacking.items() if not fields]
    if len(fitting) == 1:
        return fitting[0]
    found = ", ".join(sorted(map(str, row)))
    if fitting:
        raise ValueError(f"the fields {found} fit the formats {' and '.join(fitting)}: name one of them as format")
    reasons = "; ".join(f"{name} needs {', '.join(fields)}" for name, fields in lacking.items())
    raise ValueError(f"format not recognised from the fields {found}: {reasons}")
