"""A coding task: what the model is asked, and the tests its program is judged by.

Enters: text. Leaves: frozen records that the judge, the generation sources and the trainer share. Nothing here runs
code or reads files; `trl_pper.tasks.formats` builds tasks from benchmark files.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

Message: TypeAlias = dict[str, str]
Prompt: TypeAlias = str | list[Message]

COMPARISONS = ("tokens", "exact", "lines", "ignore_case")
_FLOATS = re.compile(r"floats(?:\(([^,()]+),([^,()]+)\))?")

#: Columns that a native row may have beside `task_id`, `prompt` and `tests`.
OPTIONAL_COLUMNS = ("source", "difficulty", "cpu_seconds", "reference", "stop", "preamble")

#: A judge of output by the user: `checker(input, output, expected) -> bool`, called in the user's own process.
Checker: TypeAlias = Callable[[str, str, str], bool]


@dataclass(frozen=True, kw_only=True)
class StdioCase:
    """One test of a program that reads standard input: the text that goes in and the text expected to come out."""

    input: str
    output: str

    def __post_init__(self) -> None:
        for name, text in (("input", self.input), ("output", self.output)):
            if not isinstance(text, str):
                raise ValueError(f"{name}: must be text, as a program reads and writes it; got {type(text).__name__}")


@dataclass(frozen=True, kw_only=True)
class StdioTests:
    """Tests of a whole program: every case is one test.

    Args:
        cases: The input and expected output of each test, in order.
        compare: How output is compared with what is expected: one of `COMPARISONS`; "floats(abs, rel)" for tokens of
            which numbers may differ by max(abs, rel * |expected|); or a `Checker`, which a task in a file cannot have.

    Examples:
        >>> StdioTests(cases=(StdioCase(input="2", output="1.41421"),), compare="floats(0, 1e-4)").tolerances
        (0.0, 0.0001)
    """

    cases: tuple[StdioCase, ...]
    compare: str | Checker = "tokens"

    def __post_init__(self) -> None:
        object.__setattr__(self, "cases", tuple(self.cases))
        if not callable(self.compare) and self.compare not in COMPARISONS:
            _ = self.tolerances
        if not self.cases:
            raise ValueError("cases: a task needs at least one test; got none. Add a case or drop the task")

    @property
    def tolerances(self) -> tuple[float, float]:
        """The absolute and the relative tolerance of "floats(abs, rel)", 1e-6 each for plain "floats".

        Raises:
            ValueError: `compare` is something else.
        """
        match = _FLOATS.fullmatch(self.compare.replace(" ", "")) if isinstance(self.compare, str) else None
        try:
            found = [float(text or 1e-6) for text in match.groups()] if match else []
        except ValueError:
            found = []
        if len(found) != 2 or not all(math.isfinite(value) and value >= 0 for value in found):
            raise ValueError(
                f"compare: must be one of {', '.join(COMPARISONS)}, floats(abs, rel) with two numbers of at least 0,"
                f" or a function of input, output and expected output; got {self.compare!r}"
            )
        return found[0], found[1]


@dataclass(frozen=True, kw_only=True)
class FunctionTests:
    """Tests of a function: Python test code whose asserts call the program's function.

    Args:
        code: Test code; each statement that holds an assert, at top level or in the body of a function such as
            HumanEval's `check` that the top level calls, is one test.
        entry_point: The name the program must define, or None when the asserts alone name it.
        setup: Code run before the tests, for instance imports.
    """

    code: str
    entry_point: str | None = None
    setup: str = ""

    def __post_init__(self) -> None:
        if "assert" not in self.code:
            raise ValueError("code: a task needs at least one test; the test code holds no assert")


Tests: TypeAlias = StdioTests | FunctionTests


@dataclass(frozen=True, kw_only=True)
class CodingTask:
    r"""A task X with its test set S (arXiv 2410.12236, section 3).

    Args:
        task_id: Unique name within a collection of tasks.
        prompt: What the model continues or answers: plain text, or a list of chat messages with "role" and "content".
        tests: What a program must pass.
        source: Where the task comes from, for figures by source; `mix_tasks` writes it.
        difficulty: How hard its source says it is, in the words of the source.
        cpu_seconds: CPU seconds of one test, in place of those of the judge's limits; None leaves them as they are.
        reference: A program that is said to pass, or None. Nothing shows it to a model.
        stop: Texts at which a completion of this prompt ends: it is cut before the first of them.
        preamble: Code that the benchmark supplies, such as imports. The judge puts it before every program of the
            task; it is part of neither prompt nor completion.

    Examples:
        >>> task = CodingTask(
        ...     task_id="double",
        ...     prompt="def double(x):\n",
        ...     tests=FunctionTests(entry_point="double", code="assert double(2) == 4"),
        ... )
        >>> task.entry_point
        'double'
    """

    task_id: str
    prompt: Prompt
    tests: Tests
    source: str | None = None
    difficulty: str | None = None
    cpu_seconds: float | None = None
    reference: str | None = None
    stop: tuple[str, ...] = ()
    preamble: str | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.task_id, str) or not self.task_id:
            raise ValueError(f"task_id: must be a non-empty string; got {self.task_id!r}")
        check_prompt(self.prompt)
        object.__setattr__(self, "stop", checked_stop(self.stop))
        for name in ("source", "difficulty", "reference", "preamble"):
            text = getattr(self, name)
            if text is not None and (not isinstance(text, str) or not text):
                raise ValueError(f"{name}: must be non-empty text or None; got {text!r:.80}")
        seconds = self.cpu_seconds
        if seconds is None:
            return
        if isinstance(seconds, bool) or not isinstance(seconds, int | float) or not 0 < seconds < math.inf:
            raise ValueError(f"cpu_seconds: must be a finite number above 0, or None; got {seconds!r}")
        object.__setattr__(self, "cpu_seconds", float(seconds))

    @property
    def entry_point(self) -> str | None:
        """The function name a program must define, or None for whole programs."""
        return self.tests.entry_point if isinstance(self.tests, FunctionTests) else None

    def to_row(self) -> dict[str, Any]:
        """Return the native row: `{"task_id", "prompt", "tests"}`, `tests` as JSON, and what else is known."""
        row = {"task_id": self.task_id, "prompt": self.prompt, "tests": tests_to_json(self.tests)}
        known = {name: getattr(self, name) for name in OPTIONAL_COLUMNS} | {"stop": list(self.stop) or None}
        return row | {name: value for name, value in known.items() if value is not None}

    @classmethod
    def from_row(cls, row: Mapping[str, Any]) -> CodingTask:
        """Build a task from a native row.

        Raises:
            ValueError: A column is missing or malformed; the message names it.
        """
        for column in ("task_id", "prompt", "tests"):
            if row.get(column) is None:
                raise ValueError(f"{column}: required in a native task row; the row has {sorted(row)}")
        known = {name: row.get(name) for name in OPTIONAL_COLUMNS} | {"stop": row.get("stop") or ()}
        return cls(task_id=str(row["task_id"]), prompt=row["prompt"], tests=tests_from_json(row["tests"]), **known)


def task_rows(tasks: Sequence[CodingTask]) -> list[dict[str, Any]]:
    """Return native rows that all have the same columns, as a table wants them: those that any of the tasks has."""
    rows = [task.to_row() for task in tasks]
    columns = dict.fromkeys(name for row in rows for name in row)
    return [{name: row.get(name) for name in columns} for row in rows]


def answer(prompt: Prompt, completion: str) -> str | list[Message]:
    """Return a completion in the shape TRL wants beside its prompt: text for text, messages for messages."""
    return completion if isinstance(prompt, str) else [{"role": "assistant", "content": completion}]


def checked_stop(stop: object) -> tuple[str, ...]:
    """Return stop sequences as a tuple.

    Raises:
        ValueError: They are no list of non-empty texts.
    """
    if isinstance(stop, str):
        raise ValueError(f"stop: a list of texts is required; got {stop!r:.80}. Write [{stop!r:.80}]")
    if not isinstance(stop, Sequence) or not all(isinstance(text, str) and text for text in stop):
        raise ValueError(f"stop: must hold non-empty texts alone; got {stop!r:.80}. Leave it out for none")
    return tuple(stop)


def check_prompt(prompt: object) -> None:
    """Raise ValueError unless `prompt` is non-empty text or a list of chat messages."""
    if isinstance(prompt, str) and prompt:
        return
    if isinstance(prompt, list) and prompt:
        if all(isinstance(m, dict) and isinstance(m.get("role"), str) and "content" in m for m in prompt):
            return
        raise ValueError('prompt: chat messages need the keys "role" and "content"; got ' + repr(prompt)[:200])
    raise ValueError(f"prompt: must be non-empty text or a list of chat messages; got {prompt!r}"[:300])


def tests_to_json(tests: Tests) -> str:
    """Serialise tests as the JSON string of the native `tests` column.

    Raises:
        ValueError: The tests compare with a function, which no file can hold.
    """
    if isinstance(tests, StdioTests):
        if callable(tests.compare):
            raise ValueError(
                "compare: a function cannot be written to a file; give the tests their checker after loading"
            )
        cases = [{"input": case.input, "output": case.output} for case in tests.cases]
        return json.dumps({"type": "stdio", "cases": cases, "compare": tests.compare})
    return json.dumps({"type": "function", "entry_point": tests.entry_point, "setup": tests.setup, "code": tests.code})


def tests_from_json(text: str | Mapping[str, Any]) -> Tests:
    """Parse the native `tests` column.

    Args:
        text: The JSON string, or the object it stands for.

    Raises:
        ValueError: Malformed JSON, an unknown type, a missing field or no test at all; the message names the field.
    """
    value = _json_object(text)
    kind = value.get("type")
    if kind == "stdio":
        return StdioTests(cases=_stdio_cases(value.get("cases")), compare=value.get("compare", "tokens"))
    if kind == "function":
        code = value.get("code")
        if not isinstance(code, str):
            raise ValueError(f"tests.code: must be a string of Python test code; got {type(code).__name__}")
        return FunctionTests(code=code, entry_point=value.get("entry_point") or None, setup=value.get("setup") or "")
    raise ValueError(f'tests.type: must be "stdio" or "function"; got {kind!r}')


def _json_object(text: str | Mapping[str, Any]) -> Mapping[str, Any]:
    if isinstance(text, Mapping):
        return text
    try:
        value = json.loads(text)
    except (TypeError, json.JSONDecodeError) as error:
        raise ValueError(f"tests: malformed JSON ({error})") from error
    if not isinstance(value, dict):
        raise ValueError(f"tests: must be a JSON object; got {type(value).__name__}")
    return value


def _stdio_cases(cases: object) -> tuple[StdioCase, ...]:
    if not isinstance(cases, Sequence) or isinstance(cases, str):
        raise ValueError(f"tests.cases: must be a list of input and output pairs; got {type(cases).__name__}")
    parsed = []
    for index, case in enumerate(cases):
        for field in ("input", "output"):
            if not isinstance(case, Mapping) or not isinstance(case.get(field), str):
                raise ValueError(f"tests.cases[{index}].{field}: must be a string")
        parsed.append(StdioCase(input=case["input"], output=case["output"]))
    return tuple(parsed)
