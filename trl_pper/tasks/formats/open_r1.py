"""Read open-r1's verifiable coding problems: a prompt with a column `verification_info` or `official_tests`.

Test cases of `verification_info` have the type stdin_stdout or function_call. Rows of open-r1/codeforces have their
tests in `official_tests`; `generated_checker` of either is a special judge, which becomes the checker of the tests.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from trl_pper.tasks.formats.fields import (
    CALL_PREAMBLE,
    Row,
    identifier,
    json_lines,
    mapping,
    optional_text,
    parse_json,
    parsed,
    read_pairs,
    sequence,
    solution_class,
    stdio_tests,
)
from trl_pper.tasks.formats.test_code import WRAPPED_COMPARISON, call_tests
from trl_pper.tasks.task import CodingTask, StdioTests, Tests

_TYPES = ("stdin_stdout", "function_call")
#: A checker that runs a script, which gets the paths of input, expected output and output and prints a score.
_SCRIPT_CHECKER = """\
import contextlib, io, runpy, sys

SCRIPT = {script!r}


def check(input, output, expected):
    texts = dict(zip(("input.txt", "correct_output.txt", "solution_output.txt"), (input, expected, output)))
    for name, text in [*texts.items(), ("checker.py", SCRIPT)]:
        with open(name, "w", encoding="utf-8", errors="surrogatepass", newline="") as file:
            file.write(text)
    sys.argv[:] = ["checker.py", *texts]
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        try:
            runpy.run_path("checker.py", run_name="__main__")
        except SystemExit:
            pass
    lines = printed.getvalue().strip().splitlines()
    if not lines:
        raise ValueError("the checker printed no score")
    return float(lines[-1]) > 0
"""


def open_r1_task(row: Row) -> CodingTask:
    """Build a task from a row.

    Raises:
        ValueError: A field is missing or malformed, or the language is not Python; the message begins with the field's
            name.
    """
    if row.get("prompt") is None:
        raise ValueError(f"prompt: required, text or messages; the row has {sorted(map(str, row))}")
    reference = optional_text(row, "gold_standard_solution")
    metadata = mapping(parsed(row, "metadata"), "metadata") if row.get("metadata") else {}
    if row.get("verification_info") is None:
        tests, seconds = _official_tests(row), row.get("time_limit")
    else:
        info = mapping(parsed(row, "verification_info"), "verification_info")
        _check_language(info, "verification_info.language")
        tests, seconds = _tests(info, str(row["prompt"]), reference), None
    script = optional_text(row, "generated_checker")
    if script is not None and isinstance(tests, StdioTests):
        tests = replace(tests, checker=_SCRIPT_CHECKER.format(script=script))
    return CodingTask(
        task_id=identifier(row, "problem_id", "task_id", "in_source_id", "id"),
        prompt=row["prompt"],
        tests=tests,
        source=optional_text(row, "source"),
        difficulty=optional_text(row, "difficulty")
        or optional_text(metadata, "difficulty")
        or (str(row["rating"]) if row.get("rating") else None),
        cpu_seconds=float(seconds) if isinstance(seconds, int | float) and seconds > 0 else None,
        reference=reference,
        preamble=None if isinstance(tests, StdioTests) else CALL_PREAMBLE,
    )


def _check_language(row: Row, field: str) -> None:
    language = row.get("language") or "python"
    if language not in ("python", "python3"):
        raise ValueError(f"{field}: must be python; got {language!r}")


def _official_tests(row: Row) -> Tests:
    """Return the tests of a row of open-r1/codeforces."""
    _check_language(row, "language")
    if row.get("input_mode") not in (None, "", "stdio"):
        raise ValueError(
            f"input_mode: must be stdio, since only standard input and output are judged; got {row['input_mode']!r}"
        )
    return stdio_tests(read_pairs(parsed(row, "official_tests"), "official_tests"), "official_tests")


def _tests(info: Row, prompt: str, reference: str | None) -> Tests:
    field = "verification_info.test_cases"
    listed = info.get("test_cases")
    cases = sequence(parsed({field: listed}, field) if isinstance(listed, str) else listed, field)
    kinds, names = set(), set()
    for number, case in enumerate(cases):
        place = f"{field}[{number}]"
        # Cases without a type are told apart by the name of a function.
        kinds.add(str(mapping(case, place).get("type") or _TYPES[bool(case.get("fn_name"))]))
        names.add(str(case.get("fn_name")))
        for side in ("input", "output"):
            if case.get(side) is None:
                raise ValueError(f"{place}.{side}: required; the case has {sorted(map(str, case))}")
    if len(kinds) > 1 or not kinds <= set(_TYPES):
        raise ValueError(f"{field}: the type of all must be stdin_stdout or function_call; got {sorted(kinds)}")
    if kinds != {"function_call"}:
        return stdio_tests([(case["input"], case["output"]) for case in cases], field)
    if len(names) > 1:
        raise ValueError(f"{field}: all must call one function; got fn_name {sorted(names)}")
    calls = [
        (_arguments(case["input"], f"{field}[{number}].input"), _expected(case["output"]))
        for number, case in enumerate(cases)
    ]
    return call_tests(solution_class(names.pop(), reference or prompt), calls, comparison=WRAPPED_COMPARISON)


def _arguments(value: Any, field: str) -> list[Any]:
    """Return the arguments of a call, from a list, from JSON of a list, or from lines of JSON."""
    if not isinstance(value, str):
        return list(sequence(value, field))
    try:
        whole = parse_json(value, field)
    except ValueError:
        return json_lines(value, field)
    # A single value is the only argument.
    return whole if isinstance(whole, list) else [whole]


def _expected(value: Any) -> Any:
    """Return the expected value; text that is JSON is parsed."""
    try:
        return parse_json(value, "output") if isinstance(value, str) else value
    except ValueError:
        return value
