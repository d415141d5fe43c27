"""Read CodeContests: contest problems with public, private and generated tests, and a time limit.

Rows may come from deepmind/code_contests, or from data sets that hold its problems with a column `tests` or `test`.
Tests keep the order public, private, generated.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from trl_pper.tasks.formats.fields import (
    QUESTION_STOPS,
    Row,
    first_program,
    identifier,
    mapping,
    optional_text,
    parsed,
    question_prompt,
    read_pairs,
    sequence,
    stdio_tests,
    text,
)
from trl_pper.tasks.task import CodingTask

_COLUMNS = ("public_tests", "private_tests", "generated_tests")
#: Names of the numbers in the `difficulty` column: `Difficulty` in contest_problem.proto of its repository.
_DIFFICULTIES = ("", "EASY", "MEDIUM", "HARD", "HARDER", "HARDEST", "EXTERNAL", *"ABCDEFGHIJKLMNOPQRSTUV")
#: PYTHON3 of `Language` in the same file; 1 is Python 2.
_PYTHON3 = 3


def code_contests_task(row: Row) -> CodingTask:
    """Build a task from a row.

    Raises:
        ValueError: A field is missing or malformed, or the problem reads or writes files; the message begins with the
            name of the field.
    """
    # Some rows name the standard streams as their files.
    for field, stream in (("input_file", "stdin"), ("output_file", "stdout")):
        if row.get(field) and row[field] != stream:
            raise ValueError(
                f"{field}: programs use the file {row[field]!r}; only standard input and output are judged"
            )
    # Some copies of the data set hold name and difficulty in a column `labels`.
    labels = mapping(parsed(row, "labels"), "labels") if row.get("labels") else {}
    named = {**row, **{field: labels[field] for field in ("name", "difficulty") if labels.get(field)}}
    return CodingTask(
        task_id=identifier(named, "name", "id"),
        prompt=question_prompt(text(row, "content" if row.get("description") is None else "description")),
        stop=QUESTION_STOPS,
        tests=stdio_tests(_pairs(row), "tests"),
        difficulty=_difficulty(named.get("difficulty")),
        cpu_seconds=_seconds(row.get("time_limit")),
        reference=optional_text(row, "solution") or _python_solution(row.get("solutions")),
    )


def _pairs(row: Row) -> list[tuple[Any, Any]]:
    if row.get("tests") is not None:
        return read_pairs(parsed(row, "tests"), "tests")
    if row.get("test") is not None:
        cases = sequence(parsed(row, "test"), "test")
        return [
            (_stream(case, "input", "stdin", number), _stream(case, "output", "stdout", number))
            for number, case in enumerate(cases)
        ]
    return [pair for field in _COLUMNS if row.get(field) is not None for pair in read_pairs(parsed(row, field), field)]


def _stream(case: Any, side: str, stream: str, number: int) -> Any:
    field = f"test[{number}].{side}"
    return mapping(mapping(case, f"test[{number}]").get(side), field).get(stream)


def _difficulty(value: Any) -> str | None:
    if isinstance(value, int) and not isinstance(value, bool):
        if not 0 <= value < len(_DIFFICULTIES):
            raise ValueError(f"difficulty: must be in 0..{len(_DIFFICULTIES) - 1}; got {value}")
        value = _DIFFICULTIES[value]
    return value if isinstance(value, str) and value else None


def _seconds(limit: Any) -> float | None:
    """Return a time limit in seconds, from a number or from an object with `seconds` and `nanos`."""
    if isinstance(limit, Mapping):
        parts = [limit.get(name) or 0 for name in ("seconds", "nanos")]
        if not all(isinstance(part, int | float) for part in parts):
            raise ValueError(f"time_limit: must hold numbers of seconds and nanos; got {str(limit)[:80]}")
        limit = parts[0] + parts[1] / 1e9
    return float(limit) if isinstance(limit, int | float) and limit > 0 else None


def _python_solution(solutions: Any) -> str | None:
    """Return the first solution in Python 3 that parses, or None."""
    # `datasets` turns a list of objects into an object of lists; other readers leave it a list.
    if isinstance(solutions, Mapping):
        lists = [solutions.get(name) for name in ("language", "solution")]
        languages, programs = (each if isinstance(each, list | tuple) else () for each in lists)
        pairs = ((language, program) for language, program in zip(languages, programs, strict=False))
    elif isinstance(solutions, list):
        pairs = ((each.get("language"), each.get("solution")) for each in solutions if isinstance(each, Mapping))
    else:
        return None
    return first_program(program for language, program in pairs if language in (_PYTHON3, "PYTHON3"))
