"""Say what every source of programs offers: for each task a list of completions, with log-probabilities where known.

Programs are extracted from completions, and judged, later: a source knows nothing of either. The checks of the
numbers that sources are made with stand here, too.
"""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from trl_pper.tasks.task import CodingTask

if TYPE_CHECKING:
    from trl_pper.generation.local_model import LocalModel


@dataclass(frozen=True, kw_only=True)
class GeneratedProgram:
    """One completion t_i of a task's prompt.

    Args:
        completion: The text as generated, before a program is extracted from it; lone surrogates become "?".
        logprob: log P(t_i), the sum of the token log-probabilities in nats; None when the source does not know it.
        num_tokens: How many tokens `logprob` sums over.
        source: Who generated it, for the record.
        scorer: Whose log-probability `logprob` is; "" without one.
        settings: How it was generated, as `settings_json` writes it; "" when unknown.
    """

    completion: str
    logprob: float | None
    num_tokens: int | None
    source: str
    scorer: str = ""
    settings: str = ""

    def __post_init__(self) -> None:
        # A server may send half of a surrogate pair, which neither tokenizer nor file takes.
        object.__setattr__(self, "completion", self.completion.encode("utf-8", "replace").decode())


class ProgramSource(ABC):
    """Base class of everything that writes programs for tasks; only `generate` has to be written.

    Examples:
        >>> class Template(ProgramSource):
        ...     def generate(self, tasks, *, student=None):
        ...         for task in tasks:
        ...             yield [GeneratedProgram(completion="pass", logprob=None, num_tokens=None, source="template")]
        >>> Template().batch_size
        1
    """

    #: Tasks generated for at once: a collection is dealt out to processes, and resumed after a crash, in such batches.
    batch_size: int = 1

    @property
    def uses_student(self) -> bool:
        """Whether `generate` may call the model in training.

        With sharded weights every process has to take the same number of batches from such a source.
        """
        return True

    @abstractmethod
    def generate(
        self, tasks: Sequence[CodingTask], *, student: LocalModel | None = None
    ) -> Iterator[list[GeneratedProgram]]:
        """Yield the programs of each task, in the order of the tasks.

        Args:
            tasks: The tasks to write programs for.
            student: The model in training, for a source without a model of its own.
        """

    def identity(self, *, student: LocalModel | None = None) -> Any:
        """Return plain values that decide what would be written; None if nothing can tell.

        With None a collection that was killed starts anew, since the programs from before may be others than would be
        written now.
        """
        return None

    def check(self, tasks: Sequence[CodingTask], *, student: LocalModel | None = None) -> None:
        """Raise the error that `generate` would raise, before anything is generated."""
        return None

    def for_round(self, round_index: int) -> ProgramSource:
        """Return the source to use in a round, such as one that draws with other random numbers in each."""
        return self


class _Adapted(ProgramSource):
    """A source that is no `ProgramSource`: an object with `generate` and any of the other members."""

    def __init__(self, given: Any) -> None:
        self.given = given
        self.batch_size = int(getattr(given, "batch_size", ProgramSource.batch_size))

    @property
    def uses_student(self) -> bool:
        return bool(getattr(self.given, "uses_student", True))

    def generate(
        self, tasks: Sequence[CodingTask], *, student: LocalModel | None = None
    ) -> Iterator[list[GeneratedProgram]]:
        return iter(self.given.generate(tasks, student=student))

    def identity(self, *, student: LocalModel | None = None) -> Any:
        found = getattr(self.given, "identity", None)
        return None if found is None else found(student=student)

    def check(self, tasks: Sequence[CodingTask], *, student: LocalModel | None = None) -> None:
        if hasattr(self.given, "check"):
            self.given.check(tasks, student=student)

    def for_round(self, round_index: int) -> ProgramSource:
        return as_source(self.given.for_round(round_index)) if hasattr(self.given, "for_round") else self


def as_source(given: Any) -> ProgramSource:
    """Return a source of programs as a `ProgramSource`.

    Args:
        given: A `ProgramSource`, or any object that has its method `generate` and perhaps others of its members.

    Raises:
        TypeError: There is no method `generate`.
    """
    if isinstance(given, ProgramSource):
        return given
    if not callable(getattr(given, "generate", None)):
        raise TypeError(
            f"source: must have a method generate(tasks, student=None); got {type(given).__name__}. "
            "Subclass trl_pper.ProgramSource"
        )
    return _Adapted(given)


def settings_json(settings: Mapping[str, Any]) -> str:
    """Return how programs are generated as text for the record, the same text for equal settings."""
    return json.dumps(dict(settings), sort_keys=True, ensure_ascii=False)


def check_at_least_one(**counts: int) -> None:
    """Raise ValueError unless every count is at least 1."""
    for name, value in counts.items():
        if value < 1:
            raise ValueError(f"{name}: must be at least 1; got {value}")


def check_above_zero(**numbers: float | None) -> None:
    """Raise ValueError unless every number that is given is above 0."""
    for name, value in numbers.items():
        if value is not None and value <= 0:
            raise ValueError(f"{name}: must be above 0; got {value}")


def check_not_negative(**numbers: float) -> None:
    """Raise ValueError unless every number is at least 0."""
    for name, value in numbers.items():
        if value < 0:
            raise ValueError(f"{name}: must not be negative; got {value}")


#: How far above 0 a log-probability may lie: sums of token log-probabilities in half precision round.
LOGPROB_TOLERANCE = 1e-3

_INT64 = 2**63


def check_likelihood(logprob: float | None, num_tokens: int | None) -> None:
    """Raise ValueError unless a log-probability (None if unknown) and its number of tokens can be."""
    if num_tokens is not None and not 1 <= num_tokens < _INT64:
        raise ValueError(f"num_tokens: must be at least 1, and below 2**63; got {num_tokens!r}")
    if logprob is None:
        return
    if num_tokens is None:
        raise ValueError("num_tokens: required with logprob, to derive the mean token probability; got None")
    # Written so that NaN fails too; minus infinity is a program of probability 0.
    if not logprob <= LOGPROB_TOLERANCE:
        raise ValueError(f"logprob: must be at most 0, or None when unknown; got {logprob!r}")
