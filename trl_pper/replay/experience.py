"""Define an experience, the record of a judged program, and its columns in files and data sets.

An experience is (X, S, t_i, P(t_i), pass_rate_i) of arXiv 2410.12236. It names its task by `task_id` and does not
contain the tests S.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from trl_pper.generation.source import _INT64, check_likelihood, is_number
from trl_pper.judge.verdict import Outcome
from trl_pper.tasks.task import Prompt, check_prompt

if TYPE_CHECKING:
    import pyarrow as pa


FloatArray: TypeAlias = NDArray[np.float64]

POSSIBILITIES = ("mean", "product")


#: Columns of an experience in a data set, in order, and their Arrow types; a chat prompt is a list of structs instead.
#: Files, digests and the buffer's columns are derived from this table: append new columns at its end.
COLUMNS = {
    "task_id": "string",
    "prompt": "string",
    "completion": "string",
    "program": "string",
    "pass_rate": "float64",
    "outcomes": "list<string>",
    "cpu_seconds": "float64",
    "logprob": "float64",
    "num_tokens": "int64",
    "source": "string",
    "scorer": "string",
    "settings": "string",
    "round_index": "int64",
    "truncated": "bool",
    "token_ids": "list<int32>",
    "times_drawn": "int64",
}


@dataclass(frozen=True, kw_only=True)
class Experience:
    """A judged program.

    Args:
        task_id: The task of the program.
        prompt: The prompt of the task: text, or a list of chat messages.
        completion: The text that the model wrote, and the text to train on.
        program: The program extracted from the completion, and judged.
        pass_rate: Fraction of the tests that passed, in [0, 1].
        outcomes: The outcome of each test, in the order of the tests; empty if only the pass rate is known.
        cpu_seconds: CPU time of the program over all tests; None if unknown. It is ignored in comparisons and digests.
        logprob: Natural logarithm of P(completion | prompt), at most 0; None if unknown.
        num_tokens: Number of tokens that `logprob` sums over, at least 1; required with `logprob`.
        source: Name of the model or person that wrote the program.
        scorer: Name of the model that computed `logprob`; "" if unknown.
        settings: How the program was generated, as JSON (method, beams, temperature, ...); "" if unknown.
        round_index: Round of the BTP pipeline in which the program was generated, from 0.
        truncated: Whether the completion was cut off, by the longest length or by a stop within a program: no end
            token is scored or learned behind it.
        token_ids: The tokens of the completion, where the model wrote others than its tokenizer makes of the text;
            empty otherwise. The log-probability is of these tokens, and they are learned.
        times_drawn: Number of draws in rounds of training that are over.

    Raises:
        ValueError: A field is out of range; the message names it.

    Examples:
        >>> experience = Experience(
        ...     task_id="one", prompt="def one():", completion=" return 1", program="def one(): return 1",
        ...     pass_rate=1.0, logprob=-2.0, num_tokens=4,
        ... )
        >>> round(experience.possibility(), 4), round(experience.possibility("product"), 4)
        (0.6065, 0.1353)
    """

    task_id: str
    prompt: Prompt
    completion: str
    program: str
    pass_rate: float
    outcomes: tuple[Outcome, ...] = ()
    # A measurement that differs from run to run: experiences of equal runs have to be equal.
    cpu_seconds: float | None = field(default=None, compare=False)
    logprob: float | None = None
    num_tokens: int | None = None
    source: str = ""
    scorer: str = ""
    settings: str = ""
    round_index: int = 0
    truncated: bool = False
    token_ids: tuple[int, ...] = ()
    times_drawn: int = 0

    def __post_init__(self) -> None:
        if not isinstance(self.task_id, str) or not self.task_id:
            raise ValueError(f"task_id: must be a non-empty string; got {self.task_id!r}")
        check_prompt(self.prompt)
        for name in ("task_id", "completion", "program", "source", "scorer", "settings"):
            _check_text(name, getattr(self, name))
        _check_text("prompt", self.prompt if isinstance(self.prompt, str) else chat_json(self.prompt))
        _check_pass_rate(self.pass_rate)
        _check_cpu_seconds(self.cpu_seconds)
        check_likelihood(self.logprob, self.num_tokens)
        for name in ("round_index", "times_drawn"):
            value = getattr(self, name)
            if not (is_number(value, whole=True) and 0 <= value < _INT64):
                raise ValueError(f"{name}: must be a whole number, not negative, and below 2**63; got {value!r:.80}")
        if not isinstance(self.truncated, bool | np.bool_):
            raise ValueError(f"truncated: must be True or False; got {self.truncated!r:.80}")
        object.__setattr__(self, "outcomes", _outcomes(self.outcomes))
        object.__setattr__(self, "token_ids", _token_ids(self.token_ids))
        # NumPy and torch scalars are accepted here; rows, digests and JSON hold plain numbers only.
        object.__setattr__(self, "pass_rate", float(self.pass_rate))
        object.__setattr__(self, "round_index", int(self.round_index))
        object.__setattr__(self, "times_drawn", int(self.times_drawn))
        object.__setattr__(self, "truncated", bool(self.truncated))
        for name in ("logprob", "cpu_seconds"):
            if getattr(self, name) is not None:
                object.__setattr__(self, name, float(getattr(self, name)))
        if self.num_tokens is not None:
            object.__setattr__(self, "num_tokens", int(self.num_tokens))

    @property
    def key(self) -> tuple[str, str]:
        """The task and the program, which identify an experience."""
        return (self.task_id, self.program)

    def possibility(self, kind: str = "mean") -> float:
        """Return P(program), the possibility of Eq. 6.

        Args:
            kind: "mean", the geometric mean of the token probabilities, `exp(logprob / num_tokens)`; or "product",
                the probability of the whole completion, `exp(logprob)`, which approaches 0 with its length.

        Returns:
            A number in [0, 1]; NaN if the log-probability is unknown.
        """
        logprob = np.nan if self.logprob is None else self.logprob
        return float(possibility(logprob, self.num_tokens or 1, kind=kind))

    def to_row(self) -> dict[str, Any]:
        """Return the experience as a flat row with the keys of `COLUMNS`, made of plain values only."""
        row: dict[str, Any] = {name: getattr(self, name) for name in COLUMNS}
        row["outcomes"] = [str(outcome) for outcome in self.outcomes]
        row["token_ids"] = list(self.token_ids)
        if isinstance(self.prompt, list):
            row["prompt"] = [dict(message) for message in self.prompt]
        return row

    @classmethod
    def from_row(cls, row: Mapping[str, Any]) -> Experience:
        """Build an experience from a row; unknown columns are ignored.

        Args:
            row: At least `prompt`, `completion` and `pass_rate`. Without a `program` the completion is the program;
                without a `task_id` the task is named after the prompt, so that equal prompts belong to the same task.

        Raises:
            ValueError: A column is missing or malformed; the message names it.
        """
        if not isinstance(row, Mapping):
            raise ValueError(f"row: must be a mapping with the columns of an experience; got {type(row).__name__}")
        for column in ("prompt", "completion", "pass_rate"):
            if row.get(column) is None:
                raise ValueError(f"{column}: required in an experience row; the row has {sorted(map(str, row))}")
        fields = {name: row[name] for name in COLUMNS if row.get(name) is not None}
        fields["prompt"] = without_padding(row["prompt"])
        fields.setdefault("program", fields["completion"])
        fields.setdefault("task_id", prompt_name(fields["prompt"]))
        return cls(**fields)


#: The end of a repair's task id, a pattern that Arrow reads, too.
REPAIR = " repair [0-9a-f]{12}$"


def repair_id(task_id: str, program: str) -> str:
    """Return the task id of a repair experience: that of its task, and a name of the failed program.

    A repair has a task id of its own, since a buffer keeps a program once for each task.
    """
    return f"{task_id} repair {hashlib.sha256(program.encode('utf-8', 'surrogatepass')).hexdigest()[:12]}"


def repaired_task(task_id: str) -> str:
    """Return the task of a repair experience; for any other task id, the task id.

    Examples:
        >>> repaired_task(repair_id("add", "x")), repaired_task("add")
        ('add', 'add')
    """
    return re.sub(REPAIR, "", task_id)


def possibility(logprob: ArrayLike, num_tokens: ArrayLike, *, kind: str = "mean") -> FloatArray:
    """Return P(program) of many programs, the possibility of Eq. 6; see `Experience.possibility`.

    Args:
        logprob: Natural log-probabilities, shape [n]; NaN where unknown.
        num_tokens: Number of tokens in each sum, shape [n], at least 1 where the log-probability is known.
        kind: "mean" or "product".

    Returns:
        Possibilities, float64, shape [n], in [0, 1]; NaN where the log-probability is unknown.

    Raises:
        ValueError: The kind is unknown.
    """
    if kind not in POSSIBILITIES:
        raise ValueError(f"possibility: must be one of {', '.join(POSSIBILITIES)}; got {kind!r}")
    logarithm = np.asarray(logprob, dtype=np.float64)
    if kind == "mean":
        # The number of tokens is 0 where it is unknown.
        logarithm = logarithm / np.maximum(num_tokens, 1)
    # Sums of token log-probabilities in half precision round, and may end slightly above 0.
    return np.asarray(np.minimum(np.exp(logarithm), 1.0), dtype=np.float64)


def chat_json(prompt: Any) -> str:
    """Return a chat prompt as JSON text; equal prompts give equal text.

    Raises:
        ValueError: A message contains a value that JSON does not support.
    """
    try:
        return json.dumps(prompt, sort_keys=True, ensure_ascii=False)
    except (TypeError, ValueError) as error:
        raise ValueError(f"prompt: chat messages must hold values that JSON supports; got {error}") from error


def arrow_types() -> dict[str, pa.DataType]:
    """Return the Arrow types of the columns of experiences and journals, by their names."""
    # Imported late: pyarrow takes long to load, and experiences can be made without it.
    import pyarrow as pa

    return {
        "string": pa.string(),
        "float64": pa.float64(),
        "int64": pa.int64(),
        "bool": pa.bool_(),
        "list<string>": pa.list_(pa.string()),
        "list<int32>": pa.list_(pa.int32()),
    }


def arrow_schema(*, chat: bool = False) -> pa.Schema:
    """Return the Arrow schema of `COLUMNS`.

    Args:
        chat: Whether prompts are lists of chat messages rather than text.
    """
    import pyarrow as pa

    types = arrow_types()
    message = pa.struct([("role", pa.string()), ("content", pa.string())])
    fields = [(name, types[kind]) for name, kind in COLUMNS.items()]
    return pa.schema([(name, pa.list_(message) if chat and name == "prompt" else kind) for name, kind in fields])


def _check_text(field: str, text: object) -> None:
    if not isinstance(text, str):
        raise ValueError(f"{field}: must be a string; got {type(text).__name__}")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ValueError(
            f"{field}: must be valid Unicode text, as no tokenizer or file accepts lone surrogates; got {error}. "
            'Clean it with text.encode("utf-8", "replace").decode()'
        ) from error


def _outcomes(outcomes: object) -> tuple[Outcome, ...]:
    # Text would be read letter by letter.
    if isinstance(outcomes, str) or not isinstance(outcomes, Iterable):
        raise ValueError(f"outcomes: must be a list of outcomes; got {outcomes!r:.80}")
    try:
        return tuple(Outcome(outcome) for outcome in outcomes)
    except ValueError as error:
        known = ", ".join(Outcome)
        raise ValueError(f"outcomes: must be of {known}; got {str(outcomes)[:80]}") from error


def _token_ids(ids: object) -> tuple[int, ...]:
    if isinstance(ids, str) or not isinstance(ids, Iterable):
        raise ValueError(f"token_ids: must be a list of token ids; got {ids!r:.80}")
    found = tuple(ids)
    if not all(is_number(one, whole=True) and 0 <= one < 2**31 for one in found):
        raise ValueError(f"token_ids: must be whole numbers, not negative, and below 2**31; got {str(found)[:80]}")
    return tuple(map(int, found))


def _check_pass_rate(pass_rate: float | None) -> None:
    if pass_rate is None:
        raise ValueError("pass_rate: got None; programs that were not judged are not experiences, leave them out")
    if not (is_number(pass_rate) and 0.0 <= pass_rate <= 1.0):
        raise ValueError(f"pass_rate: must be in [0, 1]; got {pass_rate!r:.80}")


def _check_cpu_seconds(seconds: float | None) -> None:
    if seconds is not None and not (is_number(seconds) and 0.0 <= seconds < np.inf):
        raise ValueError(f"cpu_seconds: must be None or a finite number of at least 0; got {seconds!r:.80}")


def without_padding(prompt: Any) -> Any:
    """Return a prompt without the keys that a column of a data set added to its chat messages."""
    # Arrow gives every message of a column the same keys, and fills missing values with None. `content` may be None
    # in the original, as in a message that only calls a tool.
    if not isinstance(prompt, list):
        return prompt
    return [
        {key: value for key, value in message.items() if value is not None or key == "content"}
        if isinstance(message, Mapping)
        else message
        for message in prompt
    ]


def prompt_name(prompt: Prompt) -> str:
    """Return a task id for a row without a task id; equal prompts get equal ids."""
    text = prompt if isinstance(prompt, str) else chat_json(prompt)
    # Lone surrogates are refused by the checks of an experience, which name the field.
    return f"prompt-{hashlib.sha256(text.encode('utf-8', 'surrogatepass')).hexdigest()[:16]}"
