"""Write programs on the nodes of a Ray cluster: batches go to copies of a source, and come back in order."""

from __future__ import annotations

import copy
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from types import TracebackType
from typing import TYPE_CHECKING, Any

from trl_pper.cluster import ClusterUnavailable, Connection, checked_wait
from trl_pper.generation.cluster.node import Asked
from trl_pper.generation.cluster.writers import Writer, Writers
from trl_pper.generation.source import GeneratedProgram, ProgramSource, tell_written
from trl_pper.tasks.task import CodingTask, StdioTests

if TYPE_CHECKING:
    from trl_pper.generation.local_model import LocalModel

#: Longest wait for a batch before nodes are looked at again.
_TURN_SECONDS = 2.0
#: Batches that are begun, for each writer, before the first of them has to be there.
_AHEAD = 4
#: Times that a batch is lost before it is given up.
_LOSSES = 3


class ClusterSource(ProgramSource):
    """A source of programs that another source writes on the nodes of a Ray cluster, one for each GPU.

    Programs are those of the other source on one machine: its batches stay whole, and arrive in the order of the
    tasks. Nodes that join later are used. The batches of a lost node are written elsewhere; a batch that is lost a
    third time is an error, since it may be what ends the processes. A connection to Ray that this process already has
    is used, whatever `address` says, and stays open.

    Args:
        build: Function that returns the other source; it is pickled, and called once for each GPU, on its node.
            Without GPUs in the cluster it is called once for each node.
        address: The cluster, as for `RayJudge`.
        wait_seconds: Longest wait for a free place at the start, and for a node when none is left. Loading a model
            may take longer.

    Raises:
        ImportError: Ray is not installed.
        ValueError: An argument is out of range, or `build` cannot be pickled.
        ClusterUnavailable: There is no cluster at the address, none of its nodes had a free place in time, or a node
            cannot make the source, makes another than the others, or has another version of this package; the message
            names the node.

    Examples:
        >>> def build():
        ...     from transformers import AutoModelForCausalLM, AutoTokenizer
        ...     name = "Qwen/Qwen2.5-Coder-7B-Instruct"
        ...     model = AutoModelForCausalLM.from_pretrained(name, device_map="auto")
        ...     return BeamSearchSource(model, AutoTokenizer.from_pretrained(name), num_beams=5)
        >>> source = ClusterSource(build, "auto")  # doctest: +SKIP
    """

    uses_student = False

    def __init__(self, build: Callable[[], Any], address: str | None = None, *, wait_seconds: float = 60.0) -> None:
        if not callable(build):
            raise ValueError(f"build: must be a function that returns a source; got {type(build).__name__}")
        self.round_index = 0
        self._connection = Connection(address)
        self._writers = Writers(self._connection, build, wait_seconds=checked_wait(wait_seconds))
        self._writers.open()
        state = self._writers.state
        assert state is not None
        self.batch_size = state.batch_size
        #: How the model of the other source is asked; None if it has none.
        self.asked: Asked | None = state.asked
        self._identities = {0: state.identity}

    @property
    def nodes(self) -> list[str]:
        """The names of the nodes that write, one for each writer."""
        return [writer.node.name for writer in self._writers.ready]

    def __enter__(self) -> ClusterSource:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the writers, with their models; writing again starts new ones."""
        self._writers.close()

    def for_round(self, round_index: int) -> ClusterSource:
        """Return this source, with the same writers, for a round."""
        other = copy.copy(self)
        other.round_index = round_index
        return other

    def identity(self, *, student: LocalModel | None = None) -> Any:
        """Return the identity of the other source: a journal of one machine goes on here, and the other way round."""
        if self.round_index not in self._identities:
            self._identities[self.round_index] = self._ask("identity", self.round_index)
        return self._identities[self.round_index]

    def check(self, tasks: Sequence[CodingTask], *, student: LocalModel | None = None) -> None:
        """Check tasks as the other source does.

        Raises:
            Exception: The errors of the other source.
        """
        self._ask("check", self.round_index, _without_functions(tasks))

    def generate(
        self, tasks: Sequence[CodingTask], *, student: LocalModel | None = None
    ) -> Iterator[list[GeneratedProgram]]:
        """Yield the programs of each task, in the order of the tasks.

        Args:
            tasks: The tasks to write programs for.
            student: Is not used.

        Raises:
            ClusterUnavailable: No node is left, or a batch was lost with several.
            Exception: An error of the other source, behind the programs of the batches before.
        """
        size = self.batch_size
        run = _Run([list(tasks[first : first + size]) for first in range(0, len(tasks), size)])
        for number in range(len(run.batches)):
            # Once even if the batch is there already, so that no writer is idle while its programs are judged.
            self._turn(run, number)
            while number not in run.ended:
                self._turn(run, number)
            result = run.ended.pop(number)
            if isinstance(result, Exception):
                raise result
            yield from result

    def _turn(self, run: _Run, number: int) -> None:
        """Give batches to writers, and take those that are written; wait if batch `number` is not."""
        self._hand_out(run, number)
        ended = self._writers.wait(list(run.calls), 0.0 if number in run.ended else _TURN_SECONDS)
        for call in ended:
            self._take(run, call)

    def _hand_out(self, run: _Run, number: int) -> None:
        while run.waiting and (ready := self._writers.ready):
            # Of this call of `generate` alone: one before may have been left with batches in flight.
            busy = Counter(writer for _, writer in run.calls.values())
            writer = min(ready, key=lambda writer: busy[writer])
            # A second batch in reserve, but not near the end, where another writer might be free first.
            room = 2 if len(run.waiting) > 2 * len(ready) else 1
            if busy[writer] >= room or run.waiting[0] >= number + _AHEAD * len(ready):
                return
            batch = run.waiting.popleft()
            call = writer.actor.write.remote(self.round_index, _without_functions(run.batches[batch]))
            run.calls[call] = batch, writer

    def _take(self, run: _Run, call: Any) -> None:
        batch, writer = run.calls.pop(call)
        programs, error = self._connection.outcome(call)
        if error is None:
            run.ended[batch] = programs
            tell_written(len(run.batches[batch]))
        elif not self._connection.is_loss(error):
            run.ended[batch] = self._connection.cause(error)
            # Nothing behind it would be used.
            run.waiting = deque(number for number in run.waiting if number < batch)
        else:
            # A batch in reserve was not what ended the process.
            if self._writers.lose(writer):
                run.losses[batch].append(writer.node.name)
            if len(run.losses[batch]) < _LOSSES:
                # In order, so that the batch to be yielded next is never behind one that is too far ahead.
                run.waiting = deque(sorted((batch, *run.waiting)))
            else:
                run.ended[batch] = self._lost(run, batch)

    def _lost(self, run: _Run, batch: int) -> ClusterUnavailable:
        tasks = ", ".join(task.task_id for task in run.batches[batch])
        return ClusterUnavailable(
            f"the batch of the tasks {tasks:.300} was lost with the nodes {', '.join(run.losses[batch])}: it may be "
            "what ends their processes. See the logs of Ray, and use a smaller batch size if memory runs out; what "
            "was written before is kept"
        )

    def _ask(self, method: str, *arguments: Any) -> Any:
        """Return the answer of a writer, of the next one if the first is lost."""
        while True:
            while not self._writers.ready:
                self._writers.wait([], _TURN_SECONDS)
            writer = self._writers.ready[0]
            call = getattr(writer.actor, method).remote(*arguments)
            while not self._writers.wait([call], _TURN_SECONDS):
                pass
            answer, error = self._connection.outcome(call)
            if error is None:
                return answer
            if not self._connection.is_loss(error):
                raise self._connection.cause(error)
            self._writers.lose(writer)


def _without_functions(tasks: Sequence[CodingTask]) -> list[CodingTask]:
    """Return tasks without functions as `compare`: a writer needs none, and nodes may not be able to unpickle them."""
    sent = []
    for task in tasks:
        tests = task.tests
        if isinstance(tests, StdioTests) and callable(tests.compare):
            task = replace(task, tests=replace(tests, compare="tokens"))
        sent.append(task)
    return sent


class _Run:
    """The batches of a call of `generate`."""

    def __init__(self, batches: list[list[CodingTask]]) -> None:
        self.batches = batches
        #: Numbers of batches to write, in order.
        self.waiting = deque(range(len(batches)))
        #: The batch and the writer of each call in flight.
        self.calls: dict[Any, tuple[int, Writer]] = {}
        #: The programs of each task of batches that are written, or an error.
        self.ended: dict[int, list[list[GeneratedProgram]] | Exception] = {}
        #: The nodes that each batch was lost with.
        self.losses: defaultdict[int, list[str]] = defaultdict(list)
