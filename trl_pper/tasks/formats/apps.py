"""Read APPS: questions with a column `input_output` that holds inputs and outputs of programs, or calls of a function.

Rows may come from codeparrot/apps, from folders of the original download, or from data sets with `test_list`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from trl_pper.tasks.formats.fields import (
    APPS_PREAMBLE,
    QUESTION_STOPS,
    Row,
    first_program,
    identifier,
    mapping,
    numbered,
    optional_text,
    parse_json,
    parsed,
    question_prompt,
    read_pairs,
    sequence,
    solution_class,
    stdio_tests,
    text,
    with_typing,
    zipped,
)
from trl_pper.tasks.formats.test_code import WRAPPED_COMPARISON, call_tests
from trl_pper.tasks.task import CodingTask, StdioTests, Tests

#: File names of the original download, and the columns of the same content on the Hub.
_FILES = {
    "question.txt": "question",
    "input_output.json": "input_output",
    "solutions.json": "solutions",
    "starter_code.py": "starter_code",
}


def apps_task(row: Row) -> CodingTask:
    """Build a task from a row.

    Raises:
        ValueError: A field is missing or malformed; the message begins with its name.
    """
    starter_code = optional_text(row, "starter_code") or ""
    reference = _first_solution(row)
    tests = _tests(row, starter_code, reference)
    prompt = question_prompt(
        text(row, "description" if row.get("question") is None else "question"),
        starter_code=starter_code,
        calls=not isinstance(tests, StdioTests),
    )
    return CodingTask(
        task_id=numbered("APPS", identifier(row, "problem_id", "id", "task_id", "name", "url")),
        prompt=prompt,
        stop=QUESTION_STOPS,
        preamble=APPS_PREAMBLE,
        tests=tests,
        difficulty=optional_text(row, "difficulty"),
        reference=reference,
    )


def apps_rows(folder: Path) -> Iterator[tuple[Path, dict[str, Any]]]:
    """Yield the folder and the row of each problem below `folder`, sorted by path."""
    for question in sorted(folder.glob("**/question.txt")):
        row: dict[str, Any] = {"problem_id": question.parent.name}
        for name, column in _FILES.items():
            path = question.with_name(name)
            row[column] = path.read_text(encoding="utf-8") if path.is_file() else ""
        metadata = question.with_name("metadata.json")
        if metadata.is_file():
            # The metadata holds difficulty and url; it must not replace a column read from a file.
            row |= {key: value for key, value in json.loads(metadata.read_bytes()).items() if key not in row}
        yield question.parent, row


def _tests(row: Row, starter_code: str, reference: str | None) -> Tests:
    # Some copies of APPS have `test_list` in place of `input_output`.
    if row.get("input_output") is None and row.get("test_list") is not None:
        if starter_code:
            raise ValueError("test_list: the row asks for a function, but does not say how it is called (fn_name)")
        return stdio_tests(read_pairs(row["test_list"], "test_list"), "test_list")
    data = mapping(parsed(row, "input_output"), "input_output")
    pairs = zipped(data.get("inputs"), data.get("outputs"), "input_output")
    function = data.get("fn_name")
    if not function:
        return stdio_tests(pairs, "input_output")
    cases = [(_arguments(given, number), _with_number_keys(out)) for number, (given, out) in enumerate(pairs)]
    return call_tests(solution_class(function, starter_code or reference), cases, comparison=WRAPPED_COMPARISON)


def _arguments(value: Any, number: int) -> list[Any]:
    return [_with_number_keys(item) for item in sequence(value, f"input_output.inputs[{number}]")]


def _with_number_keys(value: Any) -> Any:
    """Return an object with int keys if all of its keys are whole numbers; any other value unchanged."""
    if not isinstance(value, Mapping) or not all(key.removeprefix("-").isdecimal() for key in value):
        return value
    # JSON has text keys only, but some functions take dictionaries of ints.
    return {int(key): item for key, item in value.items()}


def _first_solution(row: Row) -> str | None:
    """Return the first human solution in Python 3; None if the column is empty or malformed."""
    value = row.get("solutions")
    try:
        # A reference is optional, so that a malformed column must not cost the task.
        found = parse_json(value, "solutions") if isinstance(value, str) else value
    except ValueError:
        return None
    first = first_program(found if isinstance(found, list) else ())
    return None if first is None else with_typing(first)
