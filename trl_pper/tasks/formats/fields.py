"""Fields of benchmark rows, read with errors that name them.

Enters: a row. Leaves: text, lists of text and parsed JSON. Numbers too long for Python to convert are kept as
`LongNumber`, digit by digit.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

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
