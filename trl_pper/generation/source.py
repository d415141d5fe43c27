"""What every source of programs promises: for each task a list of completions, with log-probabilities where known.

Enters: tasks, and the model in training for sources that have none of their own. Leaves: `GeneratedProgram` records,
one list per task, in the order of the tasks. Extraction and judging happen later, in the collector.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from trl_pper.task import CodingTask

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
