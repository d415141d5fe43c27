"""Read LiveCodeBench: contest problems with private tests that are JSON, packed by base64, zlib and pickle.

Rows may come from livecodebench/code_generation or code_generation_lite. Public tests come first, then private tests.
Unpickling builds plain data only; a pickle that names a class or function is refused.
"""

from __future__ import annotations

import base64
import binascii
import io
import pickle
import zlib
from typing import Any

from trl_pper.tasks.formats.fields import (
    QUESTION_STOPS,
    Row,
    identifier,
    json_lines,
    mapping,
    optional_text,
    parse_json,
    parsed,
    question_prompt,
    read_pairs,
    sequence,
    solution_class,
    stdio_tests,
    text,
)
from trl_pper.tasks.formats.test_code import call_tests
from trl_pper.tasks.task import CodingTask, StdioTests, Tests

# Modules whose names the grader gives to every program (github.com/LiveCodeBench/LiveCodeBench,
# lcb_runner/evaluation/testing_util.py). Of two modules with the same name the later counts there, such as operator's
# `sub` before that of re. The builtins come last, so that `open`, `pow` and `abs` keep their meaning.
_MODULES = (
    "string re datetime collections heapq bisect copy math random statistics itertools functools operator io sys json"
    " typing builtins"
).split()
#: The same with the modules themselves, which count before a name such as `random.random`, and with the grader's
#: recursion limit.
_PREAMBLE = (
    "".join(f"from {module} import *\n" for module in _MODULES)
    + f"import {', '.join(_MODULES)}\nsys.setrecursionlimit(50000)\n"
)

# A small zlib file can unpack to any size.
_MAX_UNPACKED_BYTES = 1 << 30


def live_code_bench_task(row: Row) -> CodingTask:
    """Build a task from a row.

    Raises:
        ValueError: A field is missing or malformed; the message begins with its name.
    """
    starter_code = optional_text(row, "starter_code") or ""
    tests = _tests(row, starter_code)
    return CodingTask(
        task_id=identifier(row, "question_id"),
        prompt=question_prompt(
            text(row, "question_content"), starter_code=starter_code, calls=not isinstance(tests, StdioTests)
        ),
        stop=QUESTION_STOPS,
        preamble=_PREAMBLE,
        tests=tests,
        source=optional_text(row, "platform"),
        difficulty=optional_text(row, "difficulty"),
    )


def _tests(row: Row, starter_code: str) -> Tests:
    cases = [*sequence(parsed(row, "public_test_cases"), "public_test_cases")]
    if row.get("private_test_cases"):
        cases += _private_cases(row["private_test_cases"])
    pairs = read_pairs(cases, "test_cases")
    kinds = {str(case.get("testtype")) for case in cases}
    if kinds == {"stdin"} or not cases:
        return stdio_tests(pairs, "test_cases")
    if kinds != {"functional"}:
        raise ValueError(f"test_cases: testtype of all must be stdin or functional; got {sorted(kinds)}")
    function = mapping(parsed(row, "metadata"), "metadata").get("func_name")
    if not isinstance(function, str):
        raise ValueError(f"metadata.func_name: required where testtype is functional; got {function!r}")
    calls = [(json_lines(given, "input"), parse_json(out, "output")) for given, out in pairs]
    return call_tests(solution_class(function, starter_code), calls)


def _private_cases(value: Any) -> list[Any]:
    """Return the private tests, from a list, from JSON, or from packed JSON."""
    field = "private_test_cases"
    # JSON of a list begins with a bracket, which base64 does not have.
    if isinstance(value, str) and not value.lstrip().startswith("["):
        try:
            packed = base64.b64decode(value, validate=True)
            value = _PlainUnpickler(io.BytesIO(_unpacked(packed))).load()
        except (binascii.Error, zlib.error, pickle.UnpicklingError, EOFError, ValueError, TypeError) as error:
            raise ValueError(
                f"{field}: must be JSON, or JSON packed by base64, zlib and pickle; got neither ({error})"
            ) from error
    return list(sequence(parse_json(value, field) if isinstance(value, str | bytes) else value, field))


def _unpacked(packed: bytes) -> bytes:
    unpacker = zlib.decompressobj()
    content = unpacker.decompress(packed, _MAX_UNPACKED_BYTES)
    if not unpacker.eof:
        raise ValueError(f"cut off, or more than {_MAX_UNPACKED_BYTES} bytes")
    return content


class _PlainUnpickler(pickle.Unpickler):
    """An unpickler for plain data such as text, numbers and lists; it refuses everything that would need an import."""

    # A pickle runs code through the classes and functions that it names: a data set from the Hub is not trusted.
    def find_class(self, module: str, name: str) -> Any:
        raise pickle.UnpicklingError(f"{module}.{name} is asked for; only plain data is taken")

    def persistent_load(self, pid: Any) -> Any:
        raise pickle.UnpicklingError("an object from elsewhere is asked for; only plain data is taken")
