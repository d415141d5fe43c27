"""Write programs on a node of a cluster: the actor that Ray starts there, around a source of programs."""

from __future__ import annotations

import functools
import pickle
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ParamSpec, TypeVar

from trl_pper import __version__
from trl_pper.generation.source import GeneratedProgram, ProgramSource, as_source
from trl_pper.tasks.task import CodingTask

P = ParamSpec("P")
T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Asked:
    """The way in which a model is asked, as `trl_pper.tasks.chat.put_to` needs it.

    Args:
        has_template: Whether its tokenizer has a chat template.
        answers_messages: Whether it was made to answer messages.
    """

    has_template: bool
    answers_messages: bool


@dataclass(frozen=True, kw_only=True)
class WriterState:
    """The answer of a writer that has loaded its source.

    Args:
        version: Version of this package on the node.
        batch_size: Number of tasks in a batch of the source.
        identity: The identity of the source in round 0.
        asked: How its model is asked; None without a model.
    """

    version: str
    batch_size: int
    identity: Any
    asked: Asked | None


def _portable_errors(method: Callable[P, T]) -> Callable[P, T]:
    """Have a method raise errors that pickle restores: Ray takes the loss of an error for the loss of a process."""

    @functools.wraps(method)
    def wrapped(*given: P.args, **named: P.kwargs) -> T:
        try:
            return method(*given, **named)
        except Exception as error:
            portable = _portable(error)
            if portable is error:
                raise
            raise portable from None

    return wrapped


def _portable(error: Exception) -> Exception:
    """Return an error that pickle restores: the error itself, or else the nearest built-in one with its text."""
    from ray import cloudpickle

    try:
        pickle.loads(cloudpickle.dumps(error))
    except Exception:
        # Whatever the error's own `__reduce__` or constructor raises.
        kind = next(kind for kind in type(error).__mro__ if kind.__module__ == "builtins")
        text = str(error) or type(error).__name__
        try:
            restored: Exception = kind(text)
        except TypeError:
            restored = RuntimeError(text)
        return restored
    return error


class NodeWriter:
    """An actor that writes programs on its node, a batch at a time."""

    def __init__(self) -> None:
        self._source: ProgramSource | None = None

    def here(self) -> None:
        """Return, as soon as the actor has its place on a node."""

    @_portable_errors
    def load(self, build: Callable[[], Any], threads: int) -> WriterState:
        """Make the source.

        Args:
            build: Function that returns the source.
            threads: Number of threads of torch, where the source uses it and there is no accelerator.
        """
        source = self._source = as_source(build())
        torch = sys.modules.get("torch")
        # Ray leaves one thread to an actor that reserves no CPUs; a source without torch needs none of it.
        if torch is not None and not torch.accelerator.is_available():
            torch.set_num_threads(threads)
        own = getattr(source, "own_model", None)
        asked = None
        if own is not None:
            asked = Asked(has_template=own.encoder.has_template, answers_messages=own.encoder.answers_messages)
        return WriterState(
            version=__version__,
            batch_size=source.batch_size,
            identity=source.for_round(0).identity(),
            asked=asked,
        )

    @_portable_errors
    def identity(self, round_index: int) -> Any:
        """Return the identity of the source in a round."""
        return self._for_round(round_index).identity()

    @_portable_errors
    def check(self, round_index: int, tasks: Sequence[CodingTask]) -> None:
        """Check tasks as the source does."""
        self._for_round(round_index).check(tasks)

    @_portable_errors
    def write(self, round_index: int, tasks: Sequence[CodingTask]) -> list[list[GeneratedProgram]]:
        """Return the programs of each task of a batch.

        Raises:
            ValueError: The source yields another number of lists than there are tasks.
        """
        found = [list(programs) for programs in self._for_round(round_index).generate(tasks)]
        if len(found) != len(tasks):
            # The programs of all later batches would be taken for those of other tasks.
            raise ValueError(
                f"generate: a source must yield one list of programs for each task; {type(self._source).__name__} "
                f"yielded {len(found)} for the {len(tasks)} tasks from {tasks[0].task_id!r} on"
            )
        return found

    def _for_round(self, round_index: int) -> ProgramSource:
        if self._source is None:
            raise RuntimeError("the source of this writer has not been loaded")
        return self._source.for_round(round_index)
