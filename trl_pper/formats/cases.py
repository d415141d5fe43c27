"""Test cases as benchmarks write them down: text, lists of lines or numbers for a program, arguments for a function.

Enters: the values of a JSON column. Leaves: `StdioTests` and `FunctionTests`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from trl_pper.formats.fields import mapping, parse_json
from trl_pper.task import StdioCase, StdioTests


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


def pairs_of(value: object, field: str) -> list[tuple[Any, Any]]:
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
