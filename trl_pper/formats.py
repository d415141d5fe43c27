"""Benchmark files to coding tasks: HumanEval, MBPP and native rows become `CodingTask`.

Enters: a file, a data set or rows. Leaves: tasks with unique ids, each with at least one test. Test code is parsed,
never run; every error names the place (file and line), the field and the remedy.
"""

from __future__ import annotations

import ast
import builtins
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trl_pper.row_file import read_rows as read_rows
from trl_pper.syntax import Parser, module_names, parse
from trl_pper.task import CodingTask, FunctionTests

if TYPE_CHECKING:
    import datasets

Row = Mapping[str, Any]

FORMATS = ("humaneval", "mbpp", "native")


def load_tasks(
    source: str | Path | datasets.Dataset | Iterable[Row | CodingTask], format: str = "auto"
) -> list[CodingTask]:
    """Read coding tasks.

    Args:
        source: A file (.jsonl, .jsonl.gz, .json holding a list, .parquet), a `datasets.Dataset`, or rows. Tasks that
            are `CodingTask` objects already pass through.
        format: "humaneval", "mbpp" or "native"; "auto" looks at the fields of the first row.

    Returns:
        The tasks, in order. HumanEval ids stay as they are; MBPP's number 2 becomes "MBPP/2".

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: A row is malformed, has no test or repeats an id, the format is unknown, or there is no task; the
            message names file, line and field.

    Examples:
        >>> [task] = load_tasks([{"task_id": 2, "text": "Double a number.", "test_list": ["assert double(2) == 4"]}])
        >>> task.task_id, task.entry_point
        ('MBPP/2', 'double')
    """
    if format not in ("auto", *FORMATS):
        raise ValueError(f"{_name(source)}: format: must be auto, {', '.join(FORMATS)}; got {format!r}")
    tasks: list[CodingTask] = []
    places: dict[str, str] = {}
    reader = _READERS.get(format)
    for place, row in _placed_rows(source):
        if isinstance(row, CodingTask):
            task = row
        else:
            reader = reader or _READERS[_recognise(row, place)]
            task = _read(reader, row, place)
        if task.task_id in places:
            raise ValueError(f"{place}: task_id: {task.task_id!r} is already the task of {places[task.task_id]}")
        places[task.task_id] = place
        tasks.append(task)
    if not tasks:
        raise ValueError(f"{_name(source)}: holds no task")
    return tasks


def match_task_id(raw: object, ids: Collection[str]) -> str | None:
    """Find the task that a row of programs names.

    Args:
        raw: The id in the row. MBPP tasks are named 2, "2", "Mbpp/2" or "MBPP/2", depending on who wrote the row.
        ids: Ids of the tasks; a set or dict is searched fastest.

    Returns:
        The id as the tasks have it, or None when no task is meant.
    """
    if isinstance(raw, bool) or not isinstance(raw, str | int):
        return None
    return next((name for name in (str(raw), _mbpp_id(raw)) if name in ids), None)


def humaneval_task(row: Row) -> CodingTask:
    """Build a task from a HumanEval row: the prompt opens a function, `test` defines `check(candidate)`."""
    entry_point = _text(row, "entry_point")
    code = _text(row, "test")
    tree = _tests_tree("test", code)
    # Some editions of the benchmark call `check` themselves; a second call would count every test twice.
    if not any(isinstance(node, ast.Expr) and _called_name(node.value) == "check" for node in tree.body):
        code = f"{code}\n\ncheck({entry_point})\n"
    prompt = _text(row, "prompt")
    return CodingTask(
        task_id=_task_id(row),
        prompt=prompt,
        tests=FunctionTests(entry_point=entry_point, code=code, setup=_given_definitions(prompt, entry_point)),
    )


def _given_definitions(prompt: str, entry_point: str) -> str:
    """Return what a prompt defines, finished, with its imports, or "" when it defines nothing.

    HumanEval/32, 38 and 50 test one function with another that the prompt gives; tasks on linked lists give the class
    of a node. Those have to come from here, or a program could answer for them by defining them anew.
    """
    parser = Parser(budget_chars=10**6)
    tree = parser.parse(prompt)[0] or parser.parse(f"{prompt}\n    pass\n")[0]
    body = tree.body if tree is not None else []
    asked = re.split(r"\W", entry_point)[0]
    given = [
        node
        for node in body
        if isinstance(node, ast.Assign | ast.AnnAssign)
        or (isinstance(node, ast.FunctionDef | ast.ClassDef) and node.name != asked)
    ]
    if not given:
        return ""
    imports = [node for node in body if isinstance(node, ast.Import | ast.ImportFrom)]
    return "\n".join(ast.unparse(node) for node in [*imports, *given]) + "\n"


def mbpp_task(row: Row) -> CodingTask:
    """Build a task from an MBPP row, of the full edition (`text`) or the sanitized one (`prompt`).

    The prompt is a module docstring with the text and the asserts, as base models complete it: without the asserts no
    model could know the function's name.
    """
    text = _text(row, "prompt" if row.get("text") is None else "text")
    tests = [_unix(test).strip() for test in _texts(row, "test_list")]
    setup = _unix(row.get("test_setup_code") or "\n".join(_texts(row, "test_imports", required=False)))
    code = "\n".join(tests)
    _tests_tree("test_list", code)
    described = f"{_unix(text).strip()}\n{code}".replace("\\", "\\\\").replace('"""', '\\"\\"\\"')
    return CodingTask(
        task_id=_mbpp_id(_task_id(row)),
        prompt=f'"""\n{described}\n"""\n',
        tests=FunctionTests(
            entry_point=infer_entry_point(code, setup=setup, reference=row.get("code") or ""), code=code, setup=setup
        ),
    )


def infer_entry_point(tests: str, *, setup: str = "", reference: str = "") -> str | None:
    """Find the function that asserts are about: the one name they call that the program has to define.

    Args:
        tests: Test code.
        setup: Code run before it; what it defines or imports is not asked of the program.
        reference: A solution, if one is known: then only a name it defines counts, also one that shadows a builtin.

    Returns:
        The name, or None when there is none or more than one.
    """
    called = _called_in_asserts(tests)
    wanted = called & _defined(reference) if reference else set()
    wanted = wanted or called - set(dir(builtins))
    wanted -= _defined(setup) | _defined(tests)
    return wanted.pop() if len(wanted) == 1 else None


_READERS: dict[str, Callable[[Row], CodingTask]] = {
    "humaneval": humaneval_task,
    "mbpp": mbpp_task,
    "native": CodingTask.from_row,
}

# Alternatives are listed together; a format is recognised when a row has one of each.
_FIELDS: dict[str, tuple[tuple[str, ...], ...]] = {
    "native": (("task_id",), ("prompt",), ("tests",)),
    "humaneval": (("task_id",), ("prompt",), ("entry_point",), ("test",)),
    "mbpp": (("task_id",), ("text", "prompt"), ("test_list",)),
}


def _name(source: object) -> str:
    return str(source) if isinstance(source, str | Path) else "source"


def _placed_rows(source: Any) -> Iterator[tuple[str, Row | CodingTask]]:
    if isinstance(source, str | Path):
        for number, row in read_rows(source):
            yield f"{source}:{number}", row
        return
    if isinstance(source, Mapping) or not isinstance(source, Iterable):
        raise TypeError(
            f"source: must be a path, a datasets.Dataset or a list of rows; got {type(source).__name__}. "
            "Of a data set with several splits, pass one"
        )
    for number, row in enumerate(source, start=1):
        if not isinstance(row, Mapping | CodingTask):
            raise TypeError(f"row {number}: must be a mapping or a CodingTask; got {type(row).__name__}")
        yield f"row {number}", row


def _recognise(row: Row, place: str) -> str:
    lacking = {
        name: [" or ".join(either) for either in fields if all(row.get(field) is None for field in either)]
        for name, fields in _FIELDS.items()
    }
    for name, fields in lacking.items():
        if not fields:
            return name
    reasons = "; ".join(f"{name} needs {', '.join(fields)}" for name, fields in lacking.items())
    raise ValueError(f"{place}: format not recognised from the fields {', '.join(sorted(map(str, row)))}: {reasons}")


def _read(reader: Callable[[Row], CodingTask], row: Row, place: str) -> CodingTask:
    try:
        return reader(row)
    except ValueError as error:
        raise ValueError(f"{place}: {error}") from error


def _task_id(row: Row) -> str:
    raw = row.get("task_id")
    if isinstance(raw, bool) or not isinstance(raw, str | int) or raw == "":
        raise ValueError(f"task_id: required, a name or a number; got {raw!r}")
    return str(raw)


def _mbpp_id(raw: object) -> str:
    number = re.fullmatch(r"(?:mbpp/)?([0-9]+)", str(raw), flags=re.IGNORECASE)
    return f"MBPP/{int(number[1])}" if number else str(raw)


def _text(row: Row, field: str) -> str:
    value = row.get(field)
    if not isinstance(value, str) or not value.strip():
        raise ValueError(f"{field}: required, text; got {str(value)[:80]!r}. The row has {sorted(row)}")
    return value


def _texts(row: Row, field: str, *, required: bool = True) -> list[str]:
    value = row.get(field)
    texts = [] if value is None else value
    if not isinstance(texts, list | tuple) or not all(isinstance(text, str) for text in texts):
        raise ValueError(f"{field}: must be a list of strings; got {str(value)[:80]!r}")
    if required and not texts:
        raise ValueError(f"{field}: a task needs at least one test; got none. Add one or drop the task")
    return list(texts)


def _unix(text: str) -> str:
    return text.replace("\r\n", "\n")


def _tests_tree(field: str, code: str) -> ast.Module:
    try:
        tree = parse(code)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise ValueError(f"{field}: must be Python test code; got {error}") from error
    if not any(isinstance(node, ast.Assert) for node in ast.walk(tree)):
        raise ValueError(f"{field}: a task needs at least one test; the test code holds no assert")
    return tree


def _called_name(node: ast.AST) -> str | None:
    return node.func.id if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) else None


def _called_in_asserts(code: str) -> set[str]:
    asserts = [node for node in ast.walk(parse(code)) if isinstance(node, ast.Assert)]
    return {name for test in asserts for node in ast.walk(test) if (name := _called_name(node))}


def _defined(code: str) -> set[str]:
    try:
        return module_names(parse(code))
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return set()
