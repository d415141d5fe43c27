"""Define the base class of sources of programs, the record of a generated program, and checks of their arguments.

A source writes completions for tasks, with log-probabilities where it knows them. It neither extracts programs from
completions nor judges them. While it writes, it may tell how far it is.
"""

from __future__ import annotations

import contextlib
import json
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from trl_pper.tasks.task import CodingTask

FINISH_REASONS = ("", "eos", "stop", "length")
#: What writes samples of a local model: `generate`, or `generate_batch` with a paged cache.
ENGINES = ("transformers", "continuous_batching")

if TYPE_CHECKING:
    from trl_pper.generation.local_model import LocalModel


@dataclass(frozen=True, kw_only=True)
class GeneratedProgram:
    """A completion t_i of a task's prompt.

    Args:
        completion: The text as generated, before a program is extracted from it; lone surrogates become "?".
        logprob: log P(t_i), the sum of the token log-probabilities in nats; None if the source does not know it.
        num_tokens: Number of tokens that `logprob` sums over.
        source: The name of the model or person that wrote it.
        scorer: The name of the model that computed `logprob`; "" without a log-probability.
        settings: How it was generated, as `settings_json` writes it; "" if unknown.
        finish_reason: How the completion ended: "eos" by the model's end token, "stop" before a stop, "length" at the
            longest length; "" if unknown.
        token_ids: The tokens to learn, where they are others than the tokenizer makes of the text; empty otherwise.
    """

    completion: str
    logprob: float | None
    num_tokens: int | None
    source: str
    scorer: str = ""
    settings: str = ""
    finish_reason: str = ""
    token_ids: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if self.finish_reason not in FINISH_REASONS:
            raise ValueError(
                f"finish_reason: must be one of {', '.join(map(repr, FINISH_REASONS))}; got {self.finish_reason!r:.80}"
            )
        # A server may send half of a surrogate pair, which neither tokenizers nor files accept.
        object.__setattr__(self, "completion", self.completion.encode("utf-8", "replace").decode())


def is_truncated(finish_reason: str, *, extracted: bool) -> bool:
    """Return whether a completion is a part of what the model would have written.

    A stop may end a completion in the middle of a program, too: behind such a completion belongs no end token.

    Args:
        finish_reason: The reason of `GeneratedProgram`.
        extracted: Whether a whole program was found in the completion.
    """
    return finish_reason == "length" or (finish_reason == "stop" and not extracted)


#: A context variable, so that no source has to pass it on. A server's coroutines run in their caller's context, too.
_listener: ContextVar[Callable[[float], None] | None] = ContextVar("listener", default=None)


def tell_written(tasks: float) -> None:
    """Tell a display that programs of so many more tasks are written; a source may call this inside `generate`.

    A display learns of whole tasks when `generate` yields them. A source that writes a batch for minutes can tell of
    parts before, in any thread that has the context of its caller.

    Args:
        tasks: Number of tasks since the last call, usually a fraction. Over all calls they sum up to the number of
            tasks given to `generate`.
    """
    listener = _listener.get()
    if listener is not None:
        listener(tasks)


@contextlib.contextmanager
def hearing(listener: Callable[[float], None] | None) -> Iterator[None]:
    """Have `tell_written` call a function inside the context.

    Args:
        listener: Function called with the number of tasks, in any thread; None for no function.
    """
    token = _listener.set(listener)
    try:
        yield
    finally:
        _listener.reset(token)


class ProgramSource(ABC):
    """A base class of sources of programs; a subclass has to define `generate` only.

    Examples:
        >>> class Template(ProgramSource):
        ...     def generate(self, tasks, *, student=None):
        ...         for task in tasks:
        ...             yield [GeneratedProgram(completion="pass", logprob=None, num_tokens=None, source="template")]
        >>> Template().batch_size
        1
    """

    #: Number of tasks in a batch. Batches are the unit in which a collection is divided among processes, and in which
    #: it resumes after a crash.
    batch_size: int = 1

    #: Whether all processes have to write each batch together, as for a model that is sharded over them.
    in_step: bool = False

    #: Whether `generate` may call the model in training. If its weights are sharded, every process has to generate the
    #: same number of batches with such a source.
    uses_student: bool = True

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
        """Return plain values that are equal for sources that write the same programs; None if that is unknown."""
        # With None a killed collection starts anew: the programs in its journal may differ from the programs now.
        return None

    def check(self, tasks: Sequence[CodingTask], *, student: LocalModel | None = None) -> None:
        """Check the arguments as `generate` does and raise its errors, before anything is generated."""
        return None

    def for_round(self, round_index: int) -> ProgramSource:
        """Return the source to use in a round, such as a copy with the random numbers of that round."""
        return self


class _Adapted(ProgramSource):
    """A wrapper of an object that is no `ProgramSource`: it has `generate` and any of the other members."""

    def __init__(self, given: Any) -> None:
        self.given = given
        self.batch_size = int(getattr(given, "batch_size", ProgramSource.batch_size))
        self.uses_student = bool(getattr(given, "uses_student", ProgramSource.uses_student))

    def generate(
        self, tasks: Sequence[CodingTask], *, student: LocalModel | None = None
    ) -> Iterator[list[GeneratedProgram]]:
        return iter(self.given.generate(tasks, student=student))

    def identity(self, *, student: LocalModel | None = None) -> Any:
        # An object that cannot describe itself is never resumed, as with the base class.
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
        given: A `ProgramSource`, or any object with a method `generate` and any other members of `ProgramSource`.

    Raises:
        TypeError: The object has no method `generate`.
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
    """Return settings as JSON for the record: equal settings give equal text."""
    return json.dumps(dict(settings), sort_keys=True, ensure_ascii=False)


def check_at_least_one(**counts: int) -> None:
    """Raise ValueError unless every count is at least 1."""
    for name, value in counts.items():
        if value < 1:
            raise ValueError(f"{name}: must be at least 1; got {value}")


def check_above_zero(**numbers: float | None) -> None:
    """Raise ValueError unless every number other than None is above 0."""
    for name, value in numbers.items():
        if value is not None and value <= 0:
            raise ValueError(f"{name}: must be above 0; got {value}")


def check_sampling(*, temperature: float, top_p: float, top_k: int) -> None:
    """Raise ValueError unless a distribution of samples can be made with these options."""
    # `not >` instead of `<=`, so that NaN fails, too.
    if not temperature > 0:
        raise ValueError(
            f"temperature: must be above 0; got {temperature}. Use beam search to generate without randomness"
        )
    if not 0 < top_p <= 1:
        raise ValueError(f"top_p: must be above 0 and at most 1; got {top_p}")
    if top_k < 0:
        raise ValueError(f"top_k: must not be negative; got {top_k}. Use 0 to sample from all tokens")


def keeps_distribution(*, temperature: float, top_p: float, top_k: int) -> bool:
    """Return whether samples are drawn from the model's own distribution, so that an engine's numbers are its own."""
    return temperature == 1.0 and top_p == 1.0 and top_k == 0


def check_not_negative(**numbers: float) -> None:
    """Raise ValueError unless every number is at least 0."""
    for name, value in numbers.items():
        if value < 0:
            raise ValueError(f"{name}: must not be negative; got {value}")


#: How far above 0 a log-probability may lie: sums of token log-probabilities in half precision round.
LOGPROB_TOLERANCE = 1e-3

_INT64 = 2**63


def check_likelihood(logprob: float | None, num_tokens: int | None) -> None:
    """Raise ValueError unless a log-probability (None if unknown) and its number of tokens are valid."""
    # Experiences store the number as int64. NumPy and torch have whole numbers of their own.
    if num_tokens is not None and not (is_number(num_tokens, whole=True) and 1 <= num_tokens < _INT64):
        raise ValueError(f"num_tokens: must be a whole number of at least 1, and below 2**63; got {num_tokens!r:.80}")
    if logprob is None:
        return
    if num_tokens is None:
        raise ValueError("num_tokens: required with logprob, to derive the mean token probability; got None")
    # `not <=` instead of `>`, so that NaN fails, too. Minus infinity is valid: a program of probability 0.
    if not (is_number(logprob) and logprob <= LOGPROB_TOLERANCE):
        raise ValueError(f"logprob: must be a number of at most 0, or None when unknown; got {logprob!r:.80}")


def is_number(value: object, *, whole: bool = False) -> bool:
    """Return whether a value is a number that fits a column; scalars of NumPy and torch are."""
    # Python counts bool as a number, and text compares with nothing.
    if isinstance(value, bool | str | bytes | None):
        return False
    try:
        return math.isnan(number := float(value)) or not whole or number == int(number)  # type: ignore[arg-type]
    except (TypeError, ValueError, OverflowError):
        return False
