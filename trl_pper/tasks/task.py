"""Define coding tasks: a prompt for the model, and the tests that judge its programs.

The judge, the generation sources and the trainer share these frozen records. Nothing here runs code or reads files;
`trl_pper.tasks.formats` builds tasks from the rows of benchmarks.
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

COMPARISONS = (
    "tokens", "exact", "lines", "ignore_case", "unordered_lines", "unordered_tokens", "permutation", "yes_no"
)  # fmt: skip
#: Languages of a checker that travels with a task; the judge runs the first alone.
CHECKER_LANGUAGES = ("python", "cpp")
_FLOATS = re.compile(r"floats(?:\(([^,()]+),([^,()]+)\))?")

#: A day: a test that needs more has no end in practice, and systems refuse timers of centuries.
MAX_CPU_SECONDS = 86_400.0

#: Columns that a native row may have in addition to `task_id`, `prompt` and `tests`.
OPTIONAL_COLUMNS = ("source", "difficulty", "cpu_seconds", "reference", "stop", "preamble")

#: A user's own comparison: `checker(input, output, expected) -> bool`, called in the user's own process.
Checker: TypeAlias = Callable[[str, str, str], bool]


@dataclass(frozen=True, kw_only=True)
class StdioCase:
    """A test of a program that reads standard input: the text to send in, and the output to expect."""

    input: str
    output: str

    def __post_init__(self) -> None:
        for name, text in (("input", self.input), ("output", self.output)):
            if not isinstance(text, str):
                raise ValueError(f"{name}: must be text, as a program reads and writes it; got {type(text).__name__}")


@dataclass(frozen=True, kw_only=True)
class StdioTests:
    """Tests of a whole program; every case is a test.

    Args:
        cases: Input and expected output of each test, in order.
        compare: How to compare the output with the expected output: a name in `COMPARISONS`; "floats(abs, rel)", which
            lets numbers differ by max(abs, rel * |expected|); a `Checker`; or the name of a checker that
            `register_comparison` was given. Files and data sets hold names only.
        checker: Source of a special judge that travels with the task, in place of `compare`: it defines
            `check(input, output, expected)`, which returns a bool, or a bool and a message. The judge runs it in a
            jail of its own. None compares by `compare`.
        checker_language: A name in `CHECKER_LANGUAGES`. The judge cannot run "cpp": such tests are `unsupported`.

    Examples:
        >>> StdioTests(cases=(StdioCase(input="2", output="1.41421"),), compare="floats(0, 1e-4)").tolerances
        (0.0, 0.0001)
    """

    cases: tuple[StdioCase, ...]
    compare: str | Checker = "tokens"
    checker: str | None = None
    checker_language: str = "python"

    def __post_init__(self) -> None:
        # A list would let the caller change frozen tests. Frozen classes can only be set in this way.
        object.__setattr__(self, "cases", tuple(self.cases))
        if isinstance(self.compare, str) and self.compare in _registered:
            object.__setattr__(self, "compare", _registered[self.compare])
        if callable(self.compare):
            _check_hashable(self.compare)
        elif self.compare not in COMPARISONS:
            # Raises ValueError for an unknown comparison.
            _ = self.tolerances
        self._check_checker()
        if not self.cases:
            raise ValueError("cases: a task needs at least one test; got none. Add a case or drop the task")
        for place, case in enumerate(self.cases):
            if not isinstance(case, StdioCase):
                raise ValueError(f"cases[{place}]: must be a StdioCase; got {type(case).__name__}")

    def _check_checker(self) -> None:
        """Raise ValueError unless the fields about the checker agree."""
        if self.checker_language not in CHECKER_LANGUAGES:
            raise ValueError(
                f"checker_language: must be one of {', '.join(CHECKER_LANGUAGES)}; got {self.checker_language!r:.80}"
            )
        if self.checker is None:
            if self.checker_language != "python":
                raise ValueError(
                    f"checker_language: tells the language of a checker, and there is none; got"
                    f" {self.checker_language!r}. Give a checker or leave the language out"
                )
            return
        if not isinstance(self.checker, str) or not self.checker.strip():
            raise ValueError(
                "checker: must be the source text of check(input, output, expected), or None; got"
                f" {self.checker!r:.80}. Give a function as compare"
            )
        if self.compare != "tokens":
            raise ValueError(
                f"checker: decides in place of compare, so that only one of the two may be given; got a checker and"
                f" compare={self.compare!r:.80}. Leave one out"
            )

    @property
    def tolerances(self) -> tuple[float, float]:
        """The absolute and the relative tolerance of "floats(abs, rel)"; 1e-6 each for plain "floats".

        Raises:
            ValueError: `compare` is any other comparison.
        """
        match = _FLOATS.fullmatch(self.compare.replace(" ", "")) if isinstance(self.compare, str) else None
        try:
            found = [float(text or 1e-6) for text in match.groups()] if match else []
        except ValueError:
            found = []
        if len(found) != 2 or not all(math.isfinite(value) and value >= 0 for value in found):
            known = f" ({', '.join(_registered)})" if _registered else ""
            raise ValueError(
                f"compare: must be one of {', '.join(COMPARISONS)}, floats(abs, rel) with two numbers of at least 0,"
                f" a function of input, output and expected output, or a name that is registered in this process"
                f"{known}; got {self.compare!r}. register_comparison(name, function) registers a function"
            )
        return found[0], found[1]


#: The comparisons of `register_comparison`, by name.
_registered: dict[str, Checker] = {}


def register_comparison(name: str, checker: Checker) -> None:
    """Name a function that compares outputs, so that tasks that compare with it can be rows of files and data sets.

    A row holds the name alone. Every process that reads such rows has to register the function first, so register it
    where the function is defined: at the top level of a module that each of them imports.

    Args:
        name: The name in the field `compare` of tests, letters, digits, "_", "-" and "." alone.
        checker: A function of input, output and expected output, as for `StdioTests`.

    Raises:
        TypeError: `checker` cannot be called.
        ValueError: The name means something else already, or the function cannot be hashed.

    Examples:
        >>> def divides(given, output, expected):
        ...     return int(given) % int(output) == 0
        >>> register_comparison("divides", divides)
        >>> tests = StdioTests(cases=(StdioCase(input="12", output="3"),), compare=divides)
        >>> tests_from_json(tests_to_json(tests)) == tests
        True
    """
    if not isinstance(name, str) or not re.fullmatch(r"[\w.-]+", name):
        raise ValueError(f"name: must be letters, digits, '_', '-' and '.' alone; got {name!r:.80}")
    if not callable(checker):
        raise TypeError(f"checker: must be a function of input, output and expected output; got {checker!r:.80}")
    _check_hashable(checker)
    if name in COMPARISONS or _FLOATS.fullmatch(name):
        raise ValueError(f"name: {name!r} is a comparison of every task already. Choose another name")
    if name in _registered and not _is_same_function(_registered[name], checker):
        raise ValueError(
            f"name: {name!r} is the name of {_registered[name]!r:.200} already, and tests would be judged by another "
            "function than they were written with. Choose another name"
        )
    _registered[name] = checker


def _is_same_function(known: Checker, new: Checker) -> bool:
    # A cell of a notebook that runs again, and a module that is loaded again, define the same function anew.
    places = [(getattr(one, "__module__", None), getattr(one, "__qualname__", "<object>")) for one in (known, new)]
    return known == new or (places[0] == places[1] and "<" not in places[0][1])


def _check_hashable(compare: Checker) -> None:
    try:
        hash(compare)
    except TypeError as error:
        raise ValueError(
            f"compare: must be hashable, since verdicts are remembered by it; got {type(compare).__name__}: {error}."
            " Give a function"
        ) from None


#: Ways to run function tests, as tasks ask for them.
RUNS = ("auto", "separate", "shared")


@dataclass(frozen=True, kw_only=True)
class FunctionTests:
    """Tests of functions or classes: Python test code that calls them.

    Args:
        code: Test code. A statement that checks something is a test: at top level, or in the body of a function that
            the top level calls, such as HumanEval's `check`. Methods of `unittest.TestCase` and functions and classes
            that pytest would collect are tests, too.
        entry_point: Name of the function that the program must define; None when only the tests name it.
        setup: Code to run before the tests, for instance imports.
        run: "separate" for tests in a process of their own, which the program cannot forge; "shared" for tests in the
            program's process, as unittest and the published graders run them; "auto" for separate wherever the tests
            mean the same in that way.
    """

    code: str
    entry_point: str | None = None
    setup: str = ""
    run: str = "auto"

    def __post_init__(self) -> None:
        # Cheap, as thousands of tasks are built at once. The readers of benchmarks parse the code as well.
        for name, text in (("code", self.code), ("setup", self.setup), ("entry_point", self.entry_point or "")):
            if not isinstance(text, str):
                raise ValueError(f"{name}: must be text; got {type(text).__name__}")
        if not self.code.strip():
            raise ValueError("code: a task needs at least one test; the test code is empty")
        if self.run not in RUNS:
            raise ValueError(f"run: must be one of {', '.join(RUNS)}; got {self.run!r}")


Tests: TypeAlias = StdioTests | FunctionTests


@dataclass(frozen=True, kw_only=True)
class CodingTask:
    r"""A coding task X with its test set S (arXiv 2410.12236, section 3).

    Args:
        task_id: Name, unique within a collection of tasks.
        prompt: Text for the model to continue, or a list of chat messages with "role" and "content" for it to answer.
        tests: Tests that a program must pass.
        source: Name of the data set the task comes from, used to group scores; `mix_tasks` sets it.
        difficulty: Difficulty label that the source gives, for instance "interview".
        cpu_seconds: CPU seconds allowed for each test, in place of the judge's own limit: above 0, and at most 86,400,
            a day. None keeps the judge's.
        reference: A program that the source states to pass, or None. No model ever sees it.
        stop: Stop texts: a completion is cut before the first of them that occurs.
        preamble: Code that the benchmark supplies, such as imports. The judge puts it before every program of the
            task; it belongs to neither prompt nor completion.

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
        # Python counts bool as int, and a YAML or JSON file may hold `true`.
        if isinstance(seconds, bool) or not isinstance(seconds, int | float) or not 0 < seconds <= MAX_CPU_SECONDS:
            raise ValueError(
                f"cpu_seconds: must be a finite number above 0 and at most {MAX_CPU_SECONDS:,.0f} seconds, a day, or"
                f" None for the judge's own limit; got {seconds!r:.80}"
            )
        object.__setattr__(self, "cpu_seconds", float(seconds))

    @property
    def entry_point(self) -> str | None:
        """Name of the function that a program must define; None when the tests name none or judge whole programs."""
        return self.tests.entry_point if isinstance(self.tests, FunctionTests) else None

    def to_row(self) -> dict[str, Any]:
        """Return the native row: "task_id", "prompt", "tests" (as JSON) and every optional column that is set."""
        row = {"task_id": self.task_id, "prompt": self.prompt, "tests": tests_to_json(self.tests)}
        # JSON and Arrow have lists, not tuples. An unset column is left out, so that rows stay short.
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
                raise ValueError(f"{column}: required in a native task row; the row has {sorted(map(str, row))}")
        known = {name: row.get(name) for name in OPTIONAL_COLUMNS} | {"stop": row.get("stop") or ()}
        # Some data sets number their tasks; ids are text here.
        return cls(task_id=str(row["task_id"]), prompt=row["prompt"], tests=tests_from_json(row["tests"]), **known)


def task_rows(tasks: Sequence[CodingTask]) -> list[dict[str, Any]]:
    """Return native rows with the same columns in all of them: every column that any task sets."""
    rows = [task.to_row() for task in tasks]
    # Arrow tables need the same columns in every row. A dict keeps their order, unlike a set.
    columns = dict.fromkeys(name for row in rows for name in row)
    return [{name: row.get(name) for name in columns} for row in rows]


def answer(prompt: Prompt, completion: str) -> str | list[Message]:
    """Return a completion in the form TRL expects beside its prompt: text for text, messages for messages."""
    return completion if isinstance(prompt, str) else [{"role": "assistant", "content": completion}]


def content_text(content: Any) -> str:
    """Return the text of a message's content: text, None, or parts, of which those without text add nothing."""
    return "".join(part.get("text") or "" for part in content) if isinstance(content, list) else content or ""


def checked_stop(stop: object) -> tuple[str, ...]:
    """Return stop texts as a tuple.

    Raises:
        ValueError: The argument is not a list of non-empty texts.
    """
    # A string is a sequence of letters, and would cut every completion at the first of them.
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
            _check_parts(prompt)
            return
        # Prompts can be pages long; the error shows their beginning.
        raise ValueError('prompt: chat messages need the keys "role" and "content"; got ' + repr(prompt)[:200])
    raise ValueError(f"prompt: must be non-empty text or a list of chat messages; got {prompt!r}"[:300])


def _check_parts(messages: list[Message]) -> None:
    for message in messages:
        content = message["content"]
        parts: list[Any] = content if isinstance(content, list) else []
        for part in parts:
            kind = part.get("type") if isinstance(part, dict) else None
            if kind not in (None, "text"):
                raise ValueError(
                    f"prompt: chat messages must be text, from which programs are written; got a part of type "
                    f"{kind!r}. Leave out tasks with images"
                )


def tests_to_json(tests: Tests) -> str:
    """Serialise tests as the JSON string of the native `tests` column.

    Raises:
        ValueError: The tests compare with a function that is not registered, which cannot be written to a file.
    """
    if isinstance(tests, StdioTests):
        compare = _comparison_name(tests.compare)
        cases = [{"input": case.input, "output": case.output} for case in tests.cases]
        # Left out where there is none, so that texts and digests of other tests stay as they were.
        checker = {} if tests.checker is None else {"checker": tests.checker}
        if tests.checker_language != "python":
            checker["checker_language"] = tests.checker_language
        return json.dumps({"type": "stdio", "cases": cases, "compare": compare, **checker})
    fields = {"type": "function", "entry_point": tests.entry_point, "setup": tests.setup, "code": tests.code}
    # Left out where it is the default, for the same reason.
    return json.dumps(fields if tests.run == "auto" else fields | {"run": tests.run})


def _comparison_name(compare: str | Checker) -> str:
    if isinstance(compare, str):
        return compare
    for name, known in _registered.items():
        if known == compare:
            return name
    raise ValueError(
        f"compare: a function cannot be written to a file; got {compare!r:.200}, which is not registered. "
        "register_comparison(name, function) lets rows hold its name; or give the source of a checker as checker"
    )


def tests_from_json(text: str | Mapping[str, Any]) -> Tests:
    """Parse the native `tests` column.

    Args:
        text: The JSON string, or the object parsed from it.

    Raises:
        ValueError: The JSON is malformed, the type unknown, a field missing or the list of tests empty; the message
            names the field.
    """
    value = _json_object(text)
    kind = value.get("type")
    if kind == "stdio":
        # Files that other tools wrote may hold null for an absent field.
        return StdioTests(
            cases=_stdio_cases(value.get("cases")),
            compare=value.get("compare") or "tokens",
            checker=value.get("checker"),
            checker_language=value.get("checker_language") or "python",
        )
    if kind == "function":
        code = value.get("code")
        if not isinstance(code, str):
            raise ValueError(f"tests.code: must be a string of Python test code; got {type(code).__name__}")
        # Files that other tools wrote may hold null or "" for an absent field.
        return FunctionTests(
            code=code,
            entry_point=value.get("entry_point") or None,
            setup=value.get("setup") or "",
            run=value.get("run") or "auto",
        )
    raise ValueError(f'tests.type: must be "stdio" or "function"; got {kind!r}')


def _json_object(text: str | Mapping[str, Any]) -> Mapping[str, Any]:
    if isinstance(text, Mapping):
        return text
    try:
        value = json.loads(text)
    # Whole numbers of too many digits raise ValueError itself, brackets nested too deep RecursionError.
    except (TypeError, ValueError, RecursionError) as error:
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
