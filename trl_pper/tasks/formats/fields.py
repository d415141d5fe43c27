"""Read the columns of benchmark rows, and build stdin tests and prompts from their values.

Errors name the column. Whole numbers too long for Python to convert stay text, as `LongNumber`.

The prompt layout is that of the APPS authors, who fine-tuned and evaluated with it (github.com/hendrycks/apps,
eval/generate_gpt_codes.py). CodeContests and LiveCodeBench use it too, so that a mixture of data sets asks in the same
way everywhere.
"""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeAlias

from trl_pper.tasks.syntax import Parser, parse, parse_open
from trl_pper.tasks.task import StdioCase, StdioTests

Row: TypeAlias = Mapping[str, Any]

#: Most digits that Python converts between text and int by default (`sys.get_int_max_str_digits`).
_LONGEST_DIGITS = 4300
_LONGEST_LITERAL_CHARS = 10**6


class LongNumber(str):
    """The digits of a whole number that is too long to convert; the JSON of APPS holds some."""


def text(row: Row, field: str) -> str:
    """Return a required text field.

    Raises:
        ValueError: The field is missing, blank or not text.
    """
    value = row.get(field)
    if not isinstance(value, str) or not value.strip():
        raise ValueError(f"{field}: required, text; got {str(value)[:80]!r}. The row has {sorted(map(str, row))}")
    return value


def optional_text(row: Row, *fields: str) -> str | None:
    """Return the first of the given fields that holds text, or None."""
    values = (row.get(field) for field in fields)
    return next((value for value in values if isinstance(value, str) and value.strip()), None)


def texts(row: Row, field: str, *, required: bool = True) -> list[str]:
    """Return a field that holds a list of texts.

    Raises:
        ValueError: The field holds anything else, or is empty although `required`.
    """
    value = row.get(field)
    found = [] if value is None else value
    if not isinstance(found, list | tuple) or not all(isinstance(each, str) for each in found):
        raise ValueError(f"{field}: must be a list of strings; got {str(value)[:80]!r}")
    if required and not found:
        raise ValueError(f"{field}: a task needs at least one test; got none. Add one or drop the task")
    return list(found)


def identifier(row: Row, *fields: str) -> str:
    """Return, as text, the first of the given fields that holds a name or a number.

    Raises:
        ValueError: No field does.
    """
    for field in fields:
        raw = row.get(field)
        if isinstance(raw, str | int) and not isinstance(raw, bool) and raw != "":
            return str(raw)
    raise ValueError(f"{fields[0]}: required, a name or a number; got {row.get(fields[0])!r}")


def numbered(benchmark: str, raw: object) -> str:
    """Return a task id with the benchmark's name: "APPS/2" for 2, "2", "0002" and "apps/2"; other ids unchanged."""
    name, _, number = str(raw).rpartition("/")
    if (
        number.isdecimal()
        and number.isascii()
        # Longer numbers are no number of a task, and Python does not convert them.
        and len(number) <= _LONGEST_DIGITS
        and name.lower() in ("", benchmark.lower())
    ):
        return f"{benchmark}/{int(number)}"
    return str(raw)


def parsed(row: Row, field: str) -> Any:
    """Return the value of a field that holds JSON text, or the value itself when a loader has parsed it already.

    Text that is not JSON may be a Python list or dict, as `str` writes it.

    Raises:
        ValueError: The field is missing or its text is neither.
    """
    value = row.get(field)
    if isinstance(value, str) and value.strip():
        try:
            return parse_json(value, field)
        except ValueError:
            found = _python_literal(value.strip())
            if found is None:
                raise
            return found
    if value is None or isinstance(value, str):
        raise ValueError(f"{field}: required, JSON; got {value!r}. The row has {sorted(map(str, row))}")
    return value


def parse_json(value: str | bytes, field: str) -> Any:
    """Parse JSON, including whole numbers of any length.

    Raises:
        ValueError: The text is not JSON; the message begins with `field`.
    """
    try:
        return json.loads(value, parse_int=_whole_number)
    except (ValueError, TypeError, RecursionError) as error:
        raise ValueError(f"{field}: malformed JSON ({error})") from error


def _python_literal(value: str) -> list[Any] | dict[Any, Any] | None:
    # Python's parser takes about a hundred bytes of memory for each character.
    if not value.startswith(("{", "[")) or len(value) > _LONGEST_LITERAL_CHARS:
        return None
    try:
        [statement] = parse(value).body
        found = ast.literal_eval(statement.value) if isinstance(statement, ast.Expr) else None
    except (SyntaxError, ValueError, TypeError, RecursionError, MemoryError):
        return None
    return found if isinstance(found, list | dict) else None


def _whole_number(digits: str) -> int | LongNumber:
    return int(digits) if len(digits) <= _LONGEST_DIGITS else LongNumber(digits)


def sequence(value: object, field: str) -> Sequence[Any]:
    """Return a list unchanged.

    Raises:
        ValueError: The value is not a list.
    """
    if not isinstance(value, Sequence) or isinstance(value, str | bytes):
        raise ValueError(f"{field}: must be a list; got {str(value)[:80]!r}")
    return value


def mapping(value: object, field: str) -> Mapping[str, Any]:
    """Return a JSON object unchanged.

    Raises:
        ValueError: The value is not an object.
    """
    if not isinstance(value, Mapping):
        raise ValueError(f"{field}: must be an object; got {str(value)[:80]!r}")
    return value


def unix(value: str) -> str:
    """Return text with Unix line ends."""
    return value.replace("\r\n", "\n")


def stdio_tests(pairs: Iterable[tuple[Any, Any]], field: str) -> StdioTests:
    """Return tests of a whole program from pairs of input and output, each given as text, lines or plain values.

    Raises:
        ValueError: There is no pair, or a value cannot be written as text; the message begins with `field`.
    """
    cases = tuple(
        StdioCase(input=as_text(given, f"{field}[{number}].input"), output=as_text(out, f"{field}[{number}].output"))
        for number, (given, out) in enumerate(pairs)
    )
    if not cases:
        raise ValueError(f"{field}: a task needs at least one test; got none. Add one or drop the task")
    return StdioTests(cases=cases)


def as_text(value: Any, field: str) -> str:
    """Return the text that a value stands for: a list has an item on each line, a nested list the words of a line.

    Raises:
        ValueError: The value stands for no text.
    """
    if isinstance(value, str):
        return str(value)
    if isinstance(value, list | tuple):
        return "\n".join(
            " ".join(map(_word, item)) if isinstance(item, list | tuple) else _word(item) for item in value
        )
    if isinstance(value, int | float):
        return _word(value)
    raise ValueError(f"{field}: must be text or lines of text; got {str(value)[:80]!r}")


def _word(value: Any) -> str:
    return str(value)


def read_pairs(value: object, field: str) -> list[tuple[Any, Any]]:
    """Return input and output of each case, from a list of objects or from an object with two lists.

    Raises:
        ValueError: The value has another form, or an input lacks its output; the message begins with `field`.
    """
    if isinstance(value, Mapping):
        inputs, outputs = value.get("input"), value.get("output")
        return zipped(inputs, outputs, field)
    if not isinstance(value, Sequence) or isinstance(value, str):
        raise ValueError(f"{field}: must be a list of inputs and outputs; got {str(value)[:80]!r}")
    pairs = []
    for number, case in enumerate(value):
        for side in ("input", "output"):
            if mapping(case, f"{field}[{number}]").get(side) is None:
                raise ValueError(f"{field}[{number}].{side}: required; the case has {sorted(map(str, case))}")
        pairs.append((case["input"], case["output"]))
    return pairs


def zipped(inputs: object, outputs: object, field: str) -> list[tuple[Any, Any]]:
    """Return each input with its output.

    Raises:
        ValueError: The arguments are not two lists of equal length; the message begins with `field`.
    """
    if not isinstance(inputs, list | tuple) or not isinstance(outputs, list | tuple):
        raise ValueError(f"{field}: inputs and outputs must be lists; got {str(inputs)[:40]!r}, {str(outputs)[:40]!r}")
    if len(inputs) != len(outputs):
        raise ValueError(f"{field}: each input needs an output; got {len(inputs)} inputs, {len(outputs)} outputs")
    return list(zip(inputs, outputs, strict=True))


def json_lines(value: str, field: str) -> list[Any]:
    """Return the arguments of a call from text that holds a JSON value on each line.

    Raises:
        ValueError: A line is not JSON.
    """
    if not isinstance(value, str):
        raise ValueError(f"{field}: must be text with a JSON value on each line; got {str(value)[:80]!r}")
    return [parse_json(line, field) for line in value.split("\n") if line.strip()]


def solution_class(function: str, *sources: str | None) -> str:
    """Return the expression that calls a function: a method of `Solution` if a source defines that class."""
    inside = any(source and "class Solution" in source for source in sources)
    return f"Solution().{function}" if inside else function


_TYPING = ("Any", "Callable", "Deque", "Dict", "Iterable", "Iterator", "List", "Optional", "Set", "Tuple", "Union")
_NAMES = re.compile(rf"\b(?:{'|'.join(_TYPING)})\b")
# Reads back the prompts that `question_prompt` writes.
_LAYOUT = re.compile(r"\nQUESTION:\n(?P<text>.*)\nUse (?:Call-Based|Standard Input) format\n\nANSWER:\n", re.DOTALL)
_CODE_LINE = re.compile(r"^(?:from|import|class|def|async|@)\b", re.MULTILINE)
#: Preamble of tasks that call a function. Many of them come from LeetCode, where programs need no such imports.
CALL_PREAMBLE = f"from typing import {', '.join(_TYPING)}\n"
#: The imports that the grader of APPS puts before every program (github.com/hendrycks/apps, eval/testing_util.py),
#: with those of `CALL_PREAMBLE`.
APPS_PREAMBLE = f"""\
import collections, fractions, heapq, itertools, math, random, sys, time
import numpy as np
from collections import ChainMap, Counter, OrderedDict, defaultdict, deque
from functools import lru_cache
from heapq import *
from itertools import accumulate, combinations, permutations, product
from math import ceil, cos, exp, fabs, floor, gcd, log, log2, sin, sqrt, tan
{CALL_PREAMBLE}"""
#: Stop text for prompts of `question_prompt`: the model has begun another problem.
QUESTION_STOPS = ("\nQUESTION:",)
# Text that only follows a finished function. `def`, `import` and `#` alone are no stops: a helper function, or the
# function once more, begins with them. `benchmarks/completions.py` counts the right programs that each stop would
# break.
_CODE_STOPS = ("\nif __name__", "\nprint(", "\nassert ", '\n"""', "\ndef test", "\ndef main(", "\ndef check(")
_PREFIX_STOPS = ("\nclass ", "\n# ")


def code_stops(entry_point: str | None, *, opened: bool) -> tuple[str, ...]:
    """Return the stop texts for a model that continues code: text that cannot belong to the requested function.

    Args:
        entry_point: Name of the requested function; its own definition is not a stop.
        opened: Whether the prompt ends inside that function, so that a class or a comment at the margin ends it.
    """
    stops = (*_CODE_STOPS, *(_PREFIX_STOPS if opened else ()))
    return tuple(stop for stop in stops if not f"\ndef {entry_point}(".startswith(stop))


def question_prompt(question: str, *, starter_code: str = "", calls: bool = False) -> str:
    """Return a prompt in the layout of APPS, for a base model to continue with a program.

    Args:
        question: Problem statement.
        starter_code: Code that the program must begin with, or ""; missing imports from typing are added.
        calls: Whether the tests call a function; otherwise the program reads standard input.
    """
    start = f"\n{with_typing(starter_code)}" if starter_code.strip() else ""
    kind = "Call-Based" if calls else "Standard Input"
    return f"\nQUESTION:\n{question}\n{start}\nUse {kind} format\n\nANSWER:\n"


def question_parts(prompt: str) -> tuple[str, str] | None:
    """Split a prompt written by `question_prompt` into question and starter code; return None for any other prompt."""
    asked = _LAYOUT.fullmatch(prompt)
    if asked is None:
        return None
    text = asked["text"]
    # Questions may hold lines that look like code; the starter code is the first text that parses to the end.
    for start in _CODE_LINE.finditer(text):
        code = text[start.start() :]
        if parse_open(code, Parser(10 * len(code) + 1000)) is not None:
            return text[: start.start()].strip("\n"), code.rstrip(" ").rstrip("\n")
    return text.strip("\n"), ""


def first_program(candidates: Iterable[Any]) -> str | None:
    """Return the first of the candidates that is text and that Python can parse, or None."""
    # Solutions in Python 2 stand among those of Python 3, often without a label.
    return next(
        (
            each
            for each in candidates
            if isinstance(each, str) and each.strip() and Parser(2 * len(each) + 200).parse(each)[0] is not None
        ),
        None,
    )


def with_typing(code: str) -> str:
    """Return code with the imports from typing that it uses but lacks."""
    # LeetCode runs `def f(x: List[int])` without any import.
    names = sorted(set(_NAMES.findall(code)))
    if not names or re.search(r"^\s*(?:from typing import|import typing\b)", code, re.MULTILINE):
        return code
    return f"from typing import {', '.join(names)}\n\n{code.lstrip(chr(10))}"
