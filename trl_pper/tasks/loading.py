"""`load_tasks`: rows of any format to a list of tasks, chosen and cut as asked.

Enters: a file, a folder, a data set or rows. Leaves: tasks with unique ids, each with at least one test. Test code is
parsed, never run; every error names the place (file and line), the field and the remedy.

Which format a row is in, told by its columns, and the reader of each format.

Enters: a row. Leaves: the name of its format; or an error that says what each format lacks, or which ones fit.

Where rows of tasks come from: a file, a folder, a data set of the Hub or in memory, or a list.

Enters: what the user names. Leaves: rows, each with its place for errors. What the fields mean is not known here.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trl_pper.files import SUFFIXES, read_rows
from trl_pper.tasks.formats.apps import apps_rows, apps_task
from trl_pper.tasks.formats.code_contests import code_contests_task
from trl_pper.tasks.formats.fields import Row, numbered
from trl_pper.tasks.formats.humaneval import humaneval_task
from trl_pper.tasks.formats.live_code_bench import live_code_bench_task
from trl_pper.tasks.formats.mbpp import mbpp_task
from trl_pper.tasks.formats.open_r1 import open_r1_task
from trl_pper.tasks.task import CodingTask, StdioTests, Tests, task_rows

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
        logger.warning("%s: %d malformed rows left out: %s", source_name(source), len(found), shown)
        if errors is not None:
            errors.extend(found)
    if not tasks:
        raise ValueError(
            f"{source_name(source)}: holds no task" + (f" but {len(found)} malformed rows" if found else "")
        )
    if difficulty is not None:
        tasks = _of_difficulty(tasks, [difficulty] if isinstance(difficulty, str) else difficulty, source_name(source))
    return tasks if max_tests is None else _with_first_tests(tasks, max_tests, source_name(source))


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
        raise ValueError(f"{source_name(source)}: format: must be auto, {', '.join(FORMATS)}; got {format!r}")
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
    from trl_pper.tasks.tests import first_tests

    code, count = first_tests(tests.code, most)
    return replace(tests, code=code), max(0, count - most)


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


#: Where the Hub puts Parquet files of data sets that have none of their own.
_PARQUET_BRANCH = "refs/convert/parquet"
_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")


def source_name(source: object) -> str:
    """Return how a source is called in errors."""
    return str(source) if isinstance(source, str | Path) else "source"


def placed_rows(
    source: Any, *, subset: str | None, split: str | None, bad_row: Callable[[ValueError], None] | None
) -> Iterator[tuple[str, Row | CodingTask]]:
    """Yield every row of a source with its place.

    Args:
        source: See `load_tasks`.
        subset: Configuration of a data set of the Hub.
        split: Split of a data set.
        bad_row: Called for a line that is not JSON, which is then passed over; None raises instead.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: A file cannot be read, or a split is missing or out of place.
        TypeError: The source is nothing that holds rows.
    """
    if isinstance(source, str | Path):
        path = Path(source)
        if path.is_dir():
            yield from _folder_rows(path, subset=subset, split=split)
            return
        if not path.exists() and _HUB_ID.fullmatch(str(source)) and not str(source).endswith(SUFFIXES):
            yield from _numbered(str(source), _hub_data_set(str(source), subset=subset, split=split))
            return
        _refuse(source, subset=subset, split=split)
        for number, row in read_rows(path, bad_row):
            yield f"{source}:{number}", row
        return
    if isinstance(source, Mapping) and hasattr(source, "column_names"):
        source = _one_split("source", source, split)
    else:
        _refuse("source", subset=subset, split=split)
    if isinstance(source, Mapping) or not isinstance(source, Iterable):
        raise TypeError(
            f"source: must be a path, a datasets.Dataset or a list of rows; got {type(source).__name__}. "
            "Of a data set with several splits, pass one"
        )
    yield from _numbered("", source)


def _folder_rows(folder: Path, *, subset: str | None, split: str | None) -> Iterator[tuple[str, Row | CodingTask]]:
    inside = folder / split if split is not None else folder
    if next(inside.glob("**/question.txt"), None) is not None:
        for place, row in apps_rows(inside):
            yield str(place), row
        return
    import datasets

    loaded = datasets.load_dataset(str(folder), subset, split=split)
    yield from _numbered(str(folder), _one_split(str(folder), loaded, split))


def _hub_data_set(name: str, *, subset: str | None, split: str | None) -> Any:
    import datasets

    if not _is_script(name):
        return _one_split(name, datasets.load_dataset(name, subset, split=split), split)
    if subset is None:
        raise ValueError(
            f"{name}: subset: required, as the data set is a script, whose rows the Hub keeps as Parquet files by "
            "subset, for instance 'all' of codeparrot/apps; or download its files and pass their path"
        )
    loaded = datasets.load_dataset(name, data_dir=subset, split=split, revision=_PARQUET_BRANCH)
    return _one_split(name, loaded, split)


def _is_script(name: str) -> bool:
    """Return whether a data set of the Hub is a script, as codeparrot/apps is, which `datasets` no longer runs.

    Asked beforehand, because `datasets` then answers with whatever subset it has in its cache.
    """
    import httpx2
    import huggingface_hub

    try:
        return huggingface_hub.file_exists(name, f"{name.rpartition('/')[2]}.py", repo_type="dataset")
    except (OSError, httpx2.HTTPError):
        # Without a connection a copy in the cache may do; if not, `datasets` says what is wrong.
        return False


def _one_split(name: str, splits: Any, split: str | None) -> Any:
    if not isinstance(splits, Mapping):
        return splits
    if split is None and len(splits) == 1:
        return next(iter(splits.values()))
    if split is None or split not in splits:
        raise ValueError(f"{name}: split: must be one of {', '.join(splits)}; got {split!r}")
    return splits[split]


def _refuse(source: object, *, subset: str | None, split: str | None) -> None:
    for option, value in (("subset", subset), ("split", split)):
        if value is not None:
            raise ValueError(f"{source}: {option}: only a data set with splits has one; got {value!r}. Leave it out")


def _numbered(name: str, rows: Iterable[Any]) -> Iterator[tuple[str, Row | CodingTask]]:
    for number, row in enumerate(rows, start=1):
        place = f"{name}, row {number}" if name else f"row {number}"
        if not isinstance(row, Mapping | CodingTask):
            raise TypeError(f"{place}: must be a mapping or a CodingTask; got {type(row).__name__}")
        yield place, row


def write_tasks(path: str | Path, tasks: Sequence[CodingTask]) -> None:
    """Write tasks as native rows, which `load_tasks` reads back as equal tasks.

    Args:
        path: A file to write, .jsonl or .parquet; Parquet holds either text or chat prompts.
        tasks: At least one.

    Raises:
        ValueError: The file is of another kind, there is no task, or one compares by a function.
    """
    path = Path(path)
    if path.suffix == ".parquet":
        _dataset(task_rows(tasks), remedy="there is no task").to_parquet(str(path))
    elif path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(task.to_row()) + "\n" for task in tasks), encoding="utf-8")
    else:
        raise ValueError(f"{path}: must end in .jsonl or .parquet; got {path.suffix!r}")


def _dataset(rows: list[dict[str, Any]], *, remedy: str) -> datasets.Dataset:
    import datasets

    if not rows:
        raise ValueError(f"nothing to export: {remedy}")
    if len({isinstance(row["prompt"], list) for row in rows}) > 1:
        raise ValueError("prompt: a data set holds either text or chat prompts; got both. Export two buffers")
    return datasets.Dataset.from_list(rows)
