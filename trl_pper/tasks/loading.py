"""Load coding tasks from files, folders, the Hub or rows in memory, and write them as native rows.

The format of a row is recognised by its columns. Every task that is loaded has a unique id and at least one test. Test
code is parsed, never run. Every error names the place (file and line), the field and the remedy.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trl_pper.files import SUFFIXES, atomic_file, read_rows
from trl_pper.tasks.formats.apps import apps_rows, apps_task
from trl_pper.tasks.formats.code_contests import code_contests_task
from trl_pper.tasks.formats.fields import Row, numbered
from trl_pper.tasks.formats.humaneval import humaneval_task
from trl_pper.tasks.formats.live_code_bench import live_code_bench_task
from trl_pper.tasks.formats.mbpp import mbpp_task
from trl_pper.tasks.formats.open_r1 import open_r1_task
from trl_pper.tasks.formats.unittest_tasks import big_code_bench_task, classeval_task
from trl_pper.tasks.syntax import why_unreadable
from trl_pper.tasks.task import CodingTask, StdioTests, Tests, task_rows

if TYPE_CHECKING:
    import datasets

    from trl_pper.judge.judge import Judge


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
    check_references: Judge | None = None,
) -> list[CodingTask]:
    """Read coding tasks.

    Args:
        source: A file (.jsonl, .jsonl.gz, .json holding a list, .parquet), a folder of APPS problems or of data files,
            the id of a data set on the Hub such as "openai/openai_humaneval", a `datasets.Dataset`, or rows. Rows that
            are `CodingTask` objects already are returned as they are.
        format: A name in `FORMATS`; "auto" recognises the format from the fields of the first row.
        subset: Configuration of a data set on the Hub, for instance "sanitized" of MBPP.
        split: Split of a data set; optional when it has only a single split.
        difficulty: Difficulty label, or labels, of the tasks to return, as the source spells them.
        max_tests: Number of tests to keep of each task, from the first; None keeps all. The number of dropped tests is
            logged.
        on_error: "raise", or "skip" to leave malformed rows out with a warning.
        errors: A list to which the errors of skipped rows are appended, and the tasks whose references do not pass.
        check_references: A judge for the references of the tasks. A task whose own reference does not pass its tests
            is left out with a warning that gives the reason, as no program can be expected to pass. Tasks without a
            reference stay. None checks nothing.

    Returns:
        The tasks, in order. HumanEval ids stay unchanged; number 2 of MBPP becomes "MBPP/2", number 2 of APPS
        "APPS/2".

    Raises:
        FileNotFoundError: The file does not exist.
        ValueError: A row is malformed, has no test or repeats an id; the format or the difficulty is unknown; or there
            is no task, or none whose reference passes. The message names file, line and field.
        TypeError: `source` holds no rows, or `check_references` is no judge.

    Examples:
        >>> [task] = load_tasks([{"task_id": 2, "text": "Double a number.", "test_list": ["assert double(2) == 4"]}])
        >>> task.task_id, task.entry_point
        ('MBPP/2', 'double')
    """
    _check_options(source, format, max_tests, on_error)
    if check_references is not None and not hasattr(check_references, "run_pairs"):
        raise TypeError(f"check_references: must be a Judge, or None; got {check_references!r:.80}. Pass Judge()")
    found: list[str] = []
    skip = (lambda error: found.append(str(error))) if on_error == "skip" else None
    rows = placed_rows(source, subset=subset, split=split, bad_row=skip)
    tasks = _unique(_read_all(rows, READERS.get(format), skip), skip)
    if found:
        logger.warning("%s: %d malformed rows left out: %s", source_name(source), len(found), _shown(found))
        if errors is not None:
            errors.extend(found)
    if not tasks:
        raise ValueError(
            f"{source_name(source)}: holds no task" + (f" but {len(found)} malformed rows" if found else "")
        )
    if difficulty is not None:
        tasks = _of_difficulty(tasks, [difficulty] if isinstance(difficulty, str) else difficulty, source_name(source))
    if max_tests is not None:
        tasks = _with_first_tests(tasks, max_tests, source_name(source))
    if check_references is not None:
        # Last, so that only the tests and tasks that are kept are judged.
        tasks = _with_right_references(tasks, check_references, source_name(source), errors)
    return tasks


def match_task_id(raw: object, ids: Collection[str]) -> str | None:
    """Find the task that a row of programs names.

    Args:
        raw: The id in the row. Files of programs write MBPP tasks as 2, "2", "Mbpp/2" or "MBPP/2", and APPS tasks as
            2, "2" or "0002".
        ids: Ids of the tasks. A set or dict is searched fastest.

    Returns:
        The task's own id; None when no task fits, or several do.
    """
    if isinstance(raw, bool) or not isinstance(raw, str | int):
        return None
    if str(raw) in ids:
        return str(raw)
    # A bare number fits both benchmarks; in a mixture of them it is ambiguous.
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
            # From the first row on: one file has one format, and a malformed row could look like another.
            reader = reader or READERS[recognise(row)]
            task = reader(row)
        # Numbers that no float holds raise OverflowError. A text in the row, or the row, may be nested too deep.
        except (ValueError, OverflowError, RecursionError, MemoryError) as error:
            unfit = not isinstance(error, ValueError)
            reason = f"must hold numbers and lists that fit: {why_unreadable(error)}" if unfit else str(error)
            placed = ValueError(f"{place}: {reason}")
            # An unknown format is an error of the call, not of a row.
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
    # Dropping tests changes pass rates, so the log states how many.
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
    # Only function tests need the parser of test code.
    from trl_pper.tasks.tests import first_tests

    code, count = first_tests(tests.code, most)
    return replace(tests, code=code), max(0, count - most)


def _with_right_references(
    tasks: list[CodingTask], judge: Judge, name: str, errors: list[str] | None
) -> list[CodingTask]:
    pairs = [(task, task.reference) for task in tasks if task.reference is not None]
    verdicts = judge.run_pairs(pairs)
    wrong = {
        task.task_id: f"{task.task_id}: reference: {verdict.reason}"
        for (task, _), verdict in zip(pairs, verdicts, strict=True)
        if not verdict.accepted
    }
    if wrong:
        reasons = list(wrong.values())
        logger.warning(
            "%s: %d of %d references do not pass, and their tasks are left out: %s",
            name,
            len(wrong),
            len(pairs),
            _shown(reasons),
        )
        if errors is not None:
            errors.extend(reasons)
    kept = [task for task in tasks if task.task_id not in wrong]
    if not kept:
        raise ValueError(f"{name}: check_references: no reference passes; {_shown(list(wrong.values()))}")
    return kept


def _shown(reasons: Sequence[str]) -> str:
    return "; ".join(reasons[:_SHOWN_ERRORS]) + ("; ..." if len(reasons) > _SHOWN_ERRORS else "")


READERS: dict[str, Callable[[Row], CodingTask]] = {
    "humaneval": humaneval_task,
    "mbpp": mbpp_task,
    "apps": apps_task,
    "code_contests": code_contests_task,
    "open_r1": open_r1_task,
    "live_code_bench": live_code_bench_task,
    "classeval": classeval_task,
    "big_code_bench": big_code_bench_task,
    "native": CodingTask.from_row,
}
FORMATS = tuple(READERS)

# A row fits a format if it has a column of every group; columns in a group are alternatives.
_FIELDS: dict[str, tuple[tuple[str, ...], ...]] = {
    "native": (("task_id",), ("prompt",), ("tests",)),
    "humaneval": (("task_id",), ("prompt",), ("entry_point",), ("test", "base_input")),
    "mbpp": (("task_id",), ("text", "prompt"), ("test_list",)),
    "apps": (("question", "description"), ("input_output", "test_list")),
    "code_contests": (
        ("description", "content"),
        ("public_tests", "private_tests", "generated_tests", "tests", "test"),
    ),
    "open_r1": (("prompt",), ("verification_info", "official_tests")),
    "live_code_bench": (("question_content",), ("public_test_cases",)),
    "classeval": (("task_id",), ("skeleton",), ("class_name",), ("test",)),
    "big_code_bench": (("task_id",), ("complete_prompt",), ("entry_point",), ("test",)),
}


def recognise(row: Row) -> str:
    """Return the name of the format that a row's columns fit.

    Raises:
        ValueError: No format fits, or several do; the message lists the columns that each format lacks.
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


#: Branch where the Hub keeps Parquet copies of data sets that are stored in another form.
_PARQUET_BRANCH = "refs/convert/parquet"
_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")


def source_name(source: object) -> str:
    """Return the name of a source for error messages."""
    return str(source) if isinstance(source, str | Path) else "source"


def placed_rows(
    source: Any, *, subset: str | None, split: str | None, bad_row: Callable[[ValueError], None] | None
) -> Iterator[tuple[str, Row | CodingTask]]:
    """Yield every row of a source with its place.

    Args:
        source: See `load_tasks`.
        subset: Configuration of a data set on the Hub.
        split: Split of a data set.
        bad_row: Called with the error of each line that is not JSON, which is then skipped. None raises the error
            instead.

    Raises:
        FileNotFoundError: The file does not exist.
        ValueError: A file cannot be read, or a split is missing or does not apply.
        TypeError: The source holds no rows.
    """
    if isinstance(source, str | Path):
        path = Path(source)
        if path.is_dir():
            yield from _folder_rows(path, subset=subset, split=split)
            return
        # Both a path and a Hub id may read a/b. Files come first, and a missing file must not become a request
        # to the Hub.
        if not path.exists() and _HUB_ID.fullmatch(str(source)) and not str(source).endswith(SUFFIXES):
            yield from _numbered(str(source), _hub_data_set(str(source), subset=subset, split=split))
            return
        _refuse(source, subset=subset, split=split)
        for number, row in read_rows(path, bad_row):
            yield f"{source}:{number}", row
        return
    # A `datasets.DatasetDict`, recognised without importing datasets.
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
    # The original APPS download has a folder for each problem.
    if next(inside.glob("**/question.txt"), None) is not None:
        for place, row in apps_rows(inside):
            yield str(place), row
        return
    import datasets

    try:
        loaded = datasets.load_dataset(str(folder), subset, split=split)
    except FileNotFoundError as error:
        raise FileNotFoundError(
            f"{folder}: must be a file, or a folder of data files or of APPS problems; got {error}"
        ) from error
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
    """Return whether a data set on the Hub is a script, such as codeparrot/apps.

    `datasets` no longer runs scripts.
    """
    import httpx2
    import huggingface_hub

    try:
        # Asked first, because `datasets` would load any subset of the script that its cache holds.
        return huggingface_hub.file_exists(name, f"{name.rpartition('/')[2]}.py", repo_type="dataset")
    except (OSError, httpx2.HTTPError):
        # Without a connection `datasets` may still have a copy in its cache, and reports the error if not.
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
    """Write tasks as native rows; `load_tasks` reads equal tasks back.

    Args:
        path: File to write, .jsonl or .parquet. A Parquet file holds either text prompts or chat prompts.
        tasks: At least one task.

    Raises:
        ValueError: The file is of another kind, there is no task, or a task compares with a function.
    """
    path = Path(path)
    if path.suffix == ".parquet":
        rows = _dataset(task_rows(tasks), remedy="there is no task")
        with atomic_file(path) as file:
            rows.to_parquet(file)
    elif path.suffix == ".jsonl":
        text = "".join(json.dumps(task.to_row()) + "\n" for task in tasks)
        with atomic_file(path) as file:
            file.write(text.encode())
    else:
        raise ValueError(f"{path}: must end in .jsonl or .parquet; got {path.suffix!r}")


def _dataset(rows: list[dict[str, Any]], *, remedy: str) -> datasets.Dataset:
    import datasets

    if not rows:
        raise ValueError(f"nothing to export: {remedy}")
    # A column of an Arrow table has a single type.
    chats = sum(isinstance(row["prompt"], list) for row in rows)
    if 0 < chats < len(rows):
        raise ValueError(
            "prompt: a data set holds either text or chat prompts; got "
            f"{len(rows) - chats} rows with text and {chats} with chat messages. "
            "Collect the programs of a buffer with the same --prompts, or export two buffers"
        )
    return datasets.Dataset.from_list(rows)
