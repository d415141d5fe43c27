"""An experience: one judged program, (X, S, t_i, P(t_i), pass_rate_i) of arXiv 2410.12236, and its columns.

Enters: a program, its verdict and its log-probability. Leaves: a frozen record, or a flat row for a data set. The
tests S are named by `task_id`, not carried.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from trl_pper.generation.source import _INT64, check_likelihood
from trl_pper.judge.verdict import Outcome
from trl_pper.tasks.task import Prompt, check_prompt

if TYPE_CHECKING:
    import pyarrow as pa


FloatArray: TypeAlias = NDArray[np.float64]

POSSIBILITIES = ("mean", "product")


#: Columns of an experience in a data set, in order, and their Arrow types; a chat prompt is a list of structs instead.
#: Files, digests and the buffer's columns follow from this table: a new column goes to its end.
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
}


@dataclass(frozen=True, kw_only=True)
class Experience:
    """One judged program.

    Args:
        task_id: The task the program answers.
        prompt: What the model was asked: text, or a list of chat messages.
        completion: What the model wrote; what it is trained on.
        program: The program in the completion, the one that was judged.
        pass_rate: Share of tests passed, in [0, 1].
        outcomes: One outcome per test, in the order of the tests; empty when only the pass rate is known.
        cpu_seconds: CPU time the program used over all tests; None when unknown. Measured, it differs from run to
            run: no part of what makes experiences equal, nor of a buffer's digest.
        logprob: Natural logarithm of P(completion | prompt), at most 0; None when unknown.
        num_tokens: Number of tokens `logprob` sums over, at least 1; required with `logprob`.
        source: Who generated the program, for instance a model's name.
        scorer: Whose log-probability `logprob` is, for instance a model's name; "" when unknown.
        settings: How it was generated, as JSON (method, beams, temperature, ...); "" when unknown.
        round_index: Round of the BTP pipeline it was generated in, from 0.

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
    cpu_seconds: float | None = field(default=None, compare=False)
    logprob: float | None = None
    num_tokens: int | None = None
    source: str = ""
    scorer: str = ""
    settings: str = ""
    round_index: int = 0

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
        if not 0 <= self.round_index < _INT64:
            raise ValueError(f"round_index: must not be negative, and below 2**63; got {self.round_index!r}")
        object.__setattr__(self, "outcomes", tuple(Outcome(outcome) for outcome in self.outcomes))
        # NumPy and torch scalars are welcome at the door; rows, digests and JSON hold plain numbers only.
        object.__setattr__(self, "pass_rate", float(self.pass_rate))
        object.__setattr__(self, "round_index", int(self.round_index))
        for name in ("logprob", "cpu_seconds"):
            if getattr(self, name) is not None:
                object.__setattr__(self, name, float(getattr(self, name)))
        if self.num_tokens is not None:
            object.__setattr__(self, "num_tokens", int(self.num_tokens))

    @property
    def key(self) -> tuple[str, str]:
        """What makes two experiences the same: the task and the program."""
        return (self.task_id, self.program)

    def possibility(self, kind: str = "mean") -> float:
        """Return P(program), the possibility of Eq. 6.

        Args:
            kind: "mean", the geometric mean of the token probabilities, `exp(logprob / num_tokens)`; or "product",
                the probability of the whole completion, `exp(logprob)`, which vanishes with length.

        Returns:
            A number in [0, 1], or NaN when the log-probability is unknown.
        """
        logprob = np.nan if self.logprob is None else self.logprob
        return float(possibility(logprob, self.num_tokens or 1, kind=kind))

    def to_row(self) -> dict[str, Any]:
        """Return the experience as a flat row with the keys of `COLUMNS`, made of plain values only."""
        row: dict[str, Any] = {name: getattr(self, name) for name in COLUMNS}
        row["outcomes"] = [str(outcome) for outcome in self.outcomes]
        if isinstance(self.prompt, list):
            row["prompt"] = [dict(message) for message in self.prompt]
        return row

    @classmethod
    def from_row(cls, row: Mapping[str, Any]) -> Experience:
        """Build an experience from a row; columns that are not its own are ignored.

        Args:
            row: At least `prompt`, `completion` and `pass_rate`. Without a `program` the completion is the program;
                without a `task_id` the prompt names the task, so that equal prompts are one task.

        Raises:
            ValueError: A column is missing or malformed; the message names it.
        """
        for column in ("prompt", "completion", "pass_rate"):
            if row.get(column) is None:
                raise ValueError(f"{column}: required in an experience row; the row has {sorted(row)}")
        fields = {name: row[name] for name in COLUMNS if row.get(name) is not None}
        fields["prompt"] = without_padding(row["prompt"])
        fields.setdefault("program", fields["completion"])
        fields.setdefault("task_id", prompt_name(fields["prompt"]))
        return cls(**fields)


def possibility(logprob: ArrayLike, num_tokens: ArrayLike, *, kind: str = "mean") -> FloatArray:
    """Return P(program) of many programs, the possibility of Eq. 6; see `Experience.possibility`.

    Args:
        logprob: Log-probabilities (natural), shape [n]; NaN where unknown.
        num_tokens: Number of tokens each sums over, shape [n], at least 1 where the log-probability is known.
        kind: "mean" or "product".

    Returns:
        Possibilities, float64, shape [n], in [0, 1]; NaN where the log-probability is unknown.

    Raises:
        ValueError: The kind is neither.
    """
    if kind not in POSSIBILITIES:
        raise ValueError(f"possibility: must be one of {', '.join(POSSIBILITIES)}; got {kind!r}")
    logarithm = np.asarray(logprob, dtype=np.float64)
    if kind == "mean":
        logarithm = logarithm / np.maximum(num_tokens, 1)
    return np.asarray(np.minimum(np.exp(logarithm), 1.0), dtype=np.float64)


def chat_json(prompt: Any) -> str:
    """Return a chat prompt as JSON text, the same text for equal prompts.

    Raises:
        ValueError: A message holds what JSON cannot.
    """
    try:
        return json.dumps(prompt, sort_keys=True, ensure_ascii=False)
    except (TypeError, ValueError) as error:
        raise ValueError(f"prompt: chat messages must hold what JSON can hold; got {error}") from error


def arrow_types() -> dict[str, pa.DataType]:
    """Return the Arrow type of each kind of column that experiences and journals have, by its name."""
    import pyarrow as pa

    return {
        "string": pa.string(),
        "float64": pa.float64(),
        "int64": pa.int64(),
        "bool": pa.bool_(),
        "list<string>": pa.list_(pa.string()),
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
            f"{field}: must be valid Unicode text, as no tokenizer or file takes lone surrogates; got {error}. "
            'Clean it with text.encode("utf-8", "replace").decode()'
        ) from error


def _check_pass_rate(pass_rate: float | None) -> None:
    if pass_rate is None:
        raise ValueError("pass_rate: got None; programs that were not judged are not experiences, leave them out")
    if not 0.0 <= pass_rate <= 1.0:
        raise ValueError(f"pass_rate: must be in [0, 1]; got {pass_rate!r}")


def _check_cpu_seconds(seconds: float | None) -> None:
    if seconds is not None and not 0.0 <= seconds < np.inf:
        raise ValueError(f"cpu_seconds: must be None or a finite number of at least 0; got {seconds!r}")


def without_padding(prompt: Any) -> Any:
    """Return a prompt without the keys of chat messages that a column of a data set filled with None."""
    # Arrow gives every message of a column the same keys and fills the missing ones with None.
    if not isinstance(prompt, list):
        return prompt
    return [
        {key: value for key, value in message.items() if value is not None or key == "content"}
        if isinstance(message, Mapping)
        else message
        for message in prompt
    ]


def prompt_name(prompt: Prompt) -> str:
    """Return the name of the task of a row that has none: equal prompts are one task."""
    text = prompt if isinstance(prompt, str) else chat_json(prompt)
    return f"prompt-{hashlib.sha256(text.encode()).hexdigest()[:16]}"
