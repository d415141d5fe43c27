"""Fields of benchmark rows, read with errors that name them.

Enters: a row. Leaves: text, lists of text and parsed JSON. Numbers too long for Python to convert are kept as
`LongNumber`, digit by digit.

Test cases as benchmarks write them down: text, lists of lines or numbers for a program, arguments for a function.

Enters: the values of a JSON column. Leaves: `StdioTests` and `FunctionTests`.

The prompt of a problem in words: the question, the code to start from, how the program is called, and ANSWER.

Enters: what a benchmark says. Leaves: text that a base model continues with a program, and the stops at which it has
begun something else. The layout is the one that the authors of APPS fine-tuned and evaluated with
(github.com/hendrycks/apps, eval/generate_gpt_codes.py), also for CodeContests and LiveCodeBench, so that a mixture
asks in one way.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeAlias

from trl_pper.tasks.syntax import Parser, parse_open
from trl_pper.tasks.task import StdioCase, StdioTests

Row: TypeAlias = Mapping[str, Any]

#: The longest whole number that Python converts between text and int without being told otherwise.
_LONGEST_DIGITS = 4300


class LongNumber(str):
    """The digits of a whole number too long to convert, as the JSON of APPS holds some."""


def text(row: Row, field: str) -> str:
    """Return a field that has to hold text.

    Raises:
        ValueError: It does not, or is blank.
    """
    value = row.get(field)
    if not isinstance(value, str) or not value.strip():
        raise ValueError(f"{field}: required, text; got {str(value)[:80]!r}. The row has {sorted(row)}")
    return value


def optional_text(row: Row, *fields: str) -> str | None:
    """Return the first of some fields that holds text, or None."""
    values = (row.get(field) for field in fields)
    return next((value for value in values if isinstance(value, str) and value.strip()), None)


def texts(row: Row, field: str, *, required: bool = True) -> list[str]:
    """Return a field that has to hold a list of text.

    Raises:
        ValueError: It does not, or is empty though required.
    """
    value = row.get(field)
    found = [] if value is None else value
    if not isinstance(found, list | tuple) or not all(isinstance(each, str) for each in found):
        raise ValueError(f"{field}: must be a list of strings; got {str(value)[:80]!r}")
    if required and not found:
        raise ValueError(f"{field}: a task needs at least one test; got none. Add one or drop the task")
    return list(found)


def identifier(row: Row, *fields: str) -> str:
    """Return the first of some fields that holds a name or a number, as text.

    Raises:
        ValueError: None of them does.
    """
    for field in fields:
        raw = row.get(field)
        if isinstance(raw, str | int) and not isinstance(raw, bool) and raw != "":
            return str(raw)
    raise ValueError(f"{fields[0]}: required, a name or a number; got {row.get(fields[0])!r}")


def numbered(benchmark: str, raw: object) -> str:
    """Return "APPS/2" for 2, "2", "0002" and "apps/2" of the benchmark "APPS"; any other id as it is."""
    name, _, number = str(raw).rpartition("/")
    if number.isdecimal() and number.isascii() and name.lower() in ("", benchmark.lower()):
        return f"{benchmark}/{int(number)}"
    return str(raw)


def parsed(row: Row, field: str) -> Any:
    """Return a field that holds JSON, or what JSON would hold.

    Raises:
        ValueError: Nothing is there, or text that is not JSON.
    """
    value = row.get(field)
    if isinstance(value, str) and value.strip():
        return parse_json(value, field)
    if value is None or isinstance(value, str):
        raise ValueError(f"{field}: required, JSON; got {value!r}. The row has {sorted(row)}")
    return value


def parse_json(value: str | bytes, field: str) -> Any:
    """Parse JSON, whole numbers of any length included.

    Raises:
        ValueError: It is not JSON; the message begins with `field`.
    """
    try:
        return json.loads(value, parse_int=_whole_number)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{field}: malformed JSON ({error})") from error


def _whole_number(digits: str) -> int | LongNumber:
    return int(digits) if len(digits) <= _LONGEST_DIGITS else LongNumber(digits)


def sequence(value: object, field: str) -> Sequence[Any]:
    """Return a list as it is.

    Raises:
        ValueError: It is not one.
    """
    if not isinstance(value, Sequence) or isinstance(value, str | bytes):
        raise ValueError(f"{field}: must be a list; got {str(value)[:80]!r}")
    return value


def mapping(value: object, field: str) -> Mapping[str, Any]:
    """Return an object as it is.

    Raises:
        ValueError: It is not one.
    """
    if not isinstance(value, Mapping):
        raise ValueError(f"{field}: must be an object; got {str(value)[:80]!r}")
    return value


def unix(value: str) -> str:
    """Return text with the line ends of Unix."""
    return value.replace("\r\n", "\n")


def stdio_tests(pairs: Iterable[tuple[Any, Any]], field: str) -> StdioTests:
    """Return tests of a whole program from inputs and outputs, each as text, as lines or as plain values.

    Raises:
        ValueError: There is no pair, or one is no such thing; the message begins with `field`.
    """
    cases = tuple(
        StdioCase(input=as_text(given, f"{field}[{number}].input"), output=as_text(out, f"{field}[{number}].output"))
        for number, (given, out) in enumerate(pairs)
    )
    if not cases:
        raise ValueError(f"{field}: a task needs at least one test; got none. Add one or drop the task")
    return StdioTests(cases=cases)


def as_text(value: Any, field: str) -> str:
    """Return what stands for text as text: a list is one line per item, a list in it one line of words.

    Raises:
        ValueError: It stands for no text.
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
    """Return input and output of each case, from a list of objects or an object of two lists.

    Raises:
        ValueError: It is neither, or an input lacks its output; the message begins with `field`.
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
                raise ValueError(f"{field}[{number}].{side}: required; the case has {sorted(case)}")
        pairs.append((case["input"], case["output"]))
    return pairs


def zipped(inputs: object, outputs: object, field: str) -> list[tuple[Any, Any]]:
    """Return each input with its output.

    Raises:
        ValueError: They are not lists of one length; the message begins with `field`.
    """
    if not isinstance(inputs, list | tuple) or not isinstance(outputs, list | tuple):
        raise ValueError(f"{field}: inputs and outputs must be lists; got {str(inputs)[:40]!r}, {str(outputs)[:40]!r}")
    if len(inputs) != len(outputs):
        raise ValueError(f"{field}: each input needs an output; got {len(inputs)} inputs, {len(outputs)} outputs")
    return list(zip(inputs, outputs, strict=True))


def json_lines(value: str, field: str) -> list[Any]:
    """Return the arguments of a call that are written one to a line, as JSON.

    Raises:
        ValueError: A line is not JSON.
    """
    return [parse_json(line, field) for line in value.split("\n") if line.strip()]


def solution_class(function: str, *sources: str | None) -> str:
    """Return how a function is called: as a method of `Solution` when one of the sources defines that class."""
    inside = any(source and "class Solution" in source for source in sources)
    return f"Solution().{function}" if inside else function


_TYPING = ("Any", "Callable", "Deque", "Dict", "Iterable", "Iterator", "List", "Optional", "Set", "Tuple", "Union")
_NAMES = re.compile(rf"\b(?:{'|'.join(_TYPING)})\b")
_LAYOUT = re.compile(r"\nQUESTION:\n(?P<text>.*)\nUse (?:Call-Based|Standard Input) format\n\nANSWER:\n", re.DOTALL)
_CODE_LINE = re.compile(r"^(?:from|import|class|def|async|@)\b", re.MULTILINE)
#: Stands before programs of which a function is called: LeetCode, where many of them come from, needs no imports.
CALL_PREAMBLE = f"from typing import {', '.join(_TYPING)}\n"
#: Where a model that was asked in the layout of `question_prompt` has begun another problem.
QUESTION_STOPS = ("\nQUESTION:",)
# What follows a function that is finished. `def`, `import` and `#` alone do not: they begin a helper that the function
# calls, or the function once more. `benchmarks/completions.py` counts the right programs that each stop would break.
_CODE_STOPS = ("\nif __name__", "\nprint(", "\nassert ", '\n"""', "\ndef test", "\ndef main(", "\ndef check(")
_PREFIX_STOPS = ("\nclass ", "\n# ")


def code_stops(entry_point: str | None, *, opened: bool) -> tuple[str, ...]:
    """Return where a model that continues code has begun something else.

    Args:
        entry_point: The function asked for, whose own definition is no stop.
        opened: Whether the prompt opens that function, so that a class or a comment comes after it.
    """
    stops = (*_CODE_STOPS, *(_PREFIX_STOPS if opened else ()))
    return tuple(stop for stop in stops if not f"\ndef {entry_point}(".startswith(stop))


def question_prompt(question: str, *, starter_code: str = "", calls: bool = False) -> str:
    """Return the prompt.

    Args:
        question: The problem.
        starter_code: What the program begins with, or ""; it gets the imports from typing that it lacks.
        calls: Whether a function is called, instead of standard input read.
    """
    start = f"\n{with_typing(starter_code)}" if starter_code.strip() else ""
    kind = "Call-Based" if calls else "Standard Input"
    return f"\nQUESTION:\n{question}\n{start}\nUse {kind} format\n\nANSWER:\n"


def question_parts(prompt: str) -> tuple[str, str] | None:
    """Return question and starter code of a prompt that `question_prompt` made, or None for another prompt."""
    asked = _LAYOUT.fullmatch(prompt)
    if asked is None:
        return None
    text = asked["text"]
    for start in _CODE_LINE.finditer(text):
        code = text[start.start() :]
        if parse_open(code, Parser(10 * len(code) + 1000)) is not None:
            return text[: start.start()].strip("\n"), code.rstrip(" ").rstrip("\n")
    return text.strip("\n"), ""


def with_typing(code: str) -> str:
    """Return code with the imports from typing that it needs: LeetCode runs `def f(x: List[int])` without any."""
    names = sorted(set(_NAMES.findall(code)))
    if not names or re.search(r"^\s*(?:from typing import|import typing\b)", code, re.MULTILINE):
        return code
    return f"from typing import {', '.join(names)}\n\n{code.lstrip(chr(10))}"
