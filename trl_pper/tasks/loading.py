"""`load_tasks`: rows of any format to a list of tasks, chosen and cut as asked.

Enters: a file, a folder, a data set or rows. Leaves: tasks with unique ids, each with at least one test. Test code is
parsed, never run; every error names the place (file and line), the field and the remedy.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from trl_pper.formats.fields import Row, numbered
from trl_pper.formats.origin import name_of, placed_rows
from trl_pper.formats.recognise import FORMATS, READERS, recognise
from trl_pper.task import CodingTask, StdioTests, Tests

if TYPE_CHECKING:
    import datasets

logger = logging.getLogger(__name__)

_SHOWN_ERRORS = 3


def load_tasks(
    source: str | Path | datasets.Dataset | Iterable[Row | CodingTask],
    format: str = "auto",
    *,
    subset: str | None = None,
    split: str | None = None,
    difficulty: str | Sequence[str] | None = None,
    max_tests: int | None = None,
    on_error: str = "raise",
    errors: list[str] | None = None,
) -> list[CodingTask]:
    """Read coding tasks.

    Args:
        source: A file (.jsonl, .jsonl.gz, .json holding a list, .parquet), a folder of APPS problems or of data files,
            the id of a data set on the Hub such as "openai/openai_humaneval", a `datasets.Dataset`, or rows. Tasks
            that are `CodingTask` objects already pass through.
        format: One of `FORMATS`; "auto" looks at the fields of the first row.
        subset: Configuration of a data set of the Hub, for instance "sanitized" of MBPP.
        split: Split of a data set; may be left out where there is one.
        difficulty: Keep the tasks of this difficulty, or of these, in the words of the source.
        max_tests: Keep the first so many tests of each task; None keeps all. What was dropped is logged.
        on_error: "raise", or "skip" to leave malformed rows out, with a warning.
        errors: A list to add the errors of skipped rows to.

    Returns:
        The tasks, in order. HumanEval ids stay as they are; number 2 of MBPP becomes "MBPP/2", that of APPS "APPS/2".

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: A row is malformed, has no test or repeats an id, the format or difficulty is unknown, or there is
            no task; the message names file, line and field.

    Examples:
        >>> [task] = load_tasks([{"task_id": 2, "text": "Double a number.", "test_list": ["assert double(2) == 4"]}])
        >>> task.task_id, task.entry_point
        ('MBPP/2', 'double')
    """
    _check_options(source, format, max_tests, on_error)
    found: list[str] = []
    skip = (lambda error: found.append(str(error))) if on_error == "skip" else None
    rows = placed_rows(source, subset=subset, split=split, bad_row=skip)
    tasks = _unique(_read_all(rows, READERS.get(format), skip), skip)
    if found:
        shown = "; ".join(found[:_SHOWN_ERRORS]) + ("; ..." if len(found) > _SHOWN_ERRORS else "")
        logger.warning("%s: %d malformed rows left out: %s", name_of(source), len(found), shown)
        if errors is not None:
            errors.extend(found)
    if not tasks:
        raise ValueError(f"{name_of(source)}: holds no task" + (f" but {len(found)} malformed rows" if found else ""))
    if difficulty is not None:
        tasks = _of_difficulty(tasks, [difficulty] if isinstance(difficulty, str) else difficulty, name_of(source))
    return tasks if max_tests is None else _with_first_tests(tasks, max_tests, name_of(source))


def match_task_id(raw: object, ids: Collection[str]) -> str | None:
    """Find the task that a row of programs names.

    Args:
        raw: The id in the row. MBPP tasks are named 2, "2", "Mbpp/2" or "MBPP/2", depending on who wrote the row;
            APPS tasks 2, "2" or "0002".
        ids: Ids of the tasks; a set or dict is searched fastest.

    Returns:
        The id as the tasks have it, or None when no task is meant, or more than one may be.
    """
    if isinstance(raw, bool) or not isinstance(raw, str | int):
        return None
    if str(raw) in ids:
        return str(raw)
    meant = {name for name in (numbered("MBPP", raw), numbered("APPS", raw)) if name in ids}
    return meant.pop() if len(meant) == 1 else None


def _check_options(source: object, format: str, max_tests: int | None, on_error: str) -> None:
    if format not in ("auto", *FORMATS):
        raise ValueError(f"{name_of(source)}: format: must be auto, {', '.join(FORMATS)}; got {format!r}")
    if on_error not in ("raise", "skip"):
        raise ValueError(f"on_error: must be raise or skip; got {on_error!r}")
    if max_tests is not None and (isinstance(max_tests, bool) or not isinstance(max_tests, int) or max_tests < 1):
        raise ValueError(f"max_tests: must be a whole number of at least 1, or None for all; got {max_tests!r}")


def _read_all(
    rows: Iterable[tuple[str, Row | CodingTask]],
    reader: Callable[[Row], CodingTask] | None,
    skip: Callable[[ValueError], None] | None,
) -> Iterator[tuple[str, CodingTask]]:
    for place, row in rows:
        try:
            if isinstance(row, CodingTask):
                yield place, row
                continue
            reader = reader or READERS[recognise(row)]
            task = reader(row)
        except ValueError as error:
            placed = ValueError(f"{place}: {error}")
            if skip is None or reader is None:
                raise placed from error
            skip(placed)
        else:
            yield place, task


def _unique(placed: Iterable[tuple[str, CodingTask]], skip: Callable[[ValueError], None] | None) -> list[CodingTask]:
    tasks: list[CodingTask] = []
    places: dict[str, str] = {}
    for place, task in placed:
        if task.task_id not in places:
            places[task.task_id] = place
            tasks.append(task)
            continue
        error = ValueError(f"{place}: task_id: {task.task_id!r} is already the task of {places[task.task_id]}")
        if skip is None:
            raise error
        skip(error)
    return tasks


def _of_difficulty(tasks: list[CodingTask], wanted: Sequence[str], name: str) -> list[CodingTask]:
    present = list(dict.fromkeys(task.difficulty for task in tasks if task.difficulty is not None))
    unknown = [each for each in wanted if each not in present]
    if unknown or not wanted:
        there = f"must be of {', '.join(present)}" if present else "no task states any"
        raise ValueError(f"{name}: difficulty: {there}; got {', '.join(map(repr, unknown)) or 'none'}")
    return [task for task in tasks if task.difficulty in wanted]


def _with_first_tests(tasks: list[CodingTask], most: int, name: str) -> list[CodingTask]:
    kept, tests, cut = [], 0, 0
    for task in tasks:
        first, dropped = _first_tests(task.tests, most)
        kept.append(replace(task, tests=first) if dropped else task)
        tests += dropped
        cut += dropped > 0
    logger.warning("%s: max_tests=%d drops %d tests of %d of the %d tasks", name, most, tests, cut, len(tasks))
    return kept


def _first_tests(tests: Tests, most: int) -> tuple[Tests, int]:
    if isinstance(tests, StdioTests):
        return replace(tests, cases=tests.cases[:most]), max(0, len(tests.cases) - most)
    # What counts as a test is for the judge to say; the rest of it is not needed to read tasks.
    from trl_pper.judge.testplan import first_tests

    code, count = first_tests(tests.code, most)
    return replace(tests, code=code), max(0, count - most)
