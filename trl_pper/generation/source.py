"""What every source of programs promises: for each task a list of completions, with log-probabilities where known.

Enters: tasks, and the model in training for sources that have none of their own. Leaves: `GeneratedProgram` records,
one list per task, in the order of the tasks. Extraction and judging happen later, in the collector.

Numbers that a source is made with: each is checked before anything is generated, and named where it will not do.

Enters: numbers by the names of their arguments. Leaves: nothing, or a ValueError.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

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


@runtime_checkable
class ProgramSource(Protocol):
    """Anything that writes programs for tasks.

    Five further members are optional:

    - `batch_size`, how many tasks are generated for at once (1 without it): a collection is shared out among
      processes, and gone on with after a crash, in such batches;
    - `identity(student=...)`, plain values that decide what would be written. Without it nothing tells whether
      programs from before a crash are those that would be written now, and a restarted collection begins anew;
    - `check(tasks, student=...)`, which raises what `generate` would raise, before anything is generated;
    - `for_round(round_index)`, the source to use in a round: one that draws with other random numbers in each;
    - `uses_student`, False for a source that never calls the model in training. With sharded weights the processes
      have to take the same number of batches from any other (True without it).
    """

    def generate(
        self, tasks: Sequence[CodingTask], *, student: LocalModel | None = None
    ) -> Iterator[list[GeneratedProgram]]:
        """Yield the programs of each task, in the order of the tasks.

        Args:
            tasks: What to write programs for.
            student: The model in training, for a source without a model of its own.
        """
        ...


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
