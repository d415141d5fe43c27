"""Read programs that a teacher wrote earlier from a file or a data set (paper, appendix C1).

Rows need no log-probability: the collector has programs without one scored. Completions are not cut at stops.
"""

from __future__ import annotations

import copy
import hashlib
import json
import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trl_pper.files import read_rows
from trl_pper.generation.source import GeneratedProgram, ProgramSource, check_likelihood, settings_json
from trl_pper.tasks.loading import match_task_id
from trl_pper.tasks.task import CodingTask

if TYPE_CHECKING:
    from trl_pper.generation.local_model import LocalModel


logger = logging.getLogger(__name__)


class DatasetSource(ProgramSource):
    """A source of programs that reads them from rows of a file or a data set.

    A row is `{"task_id", "completion" or "program" or "completions", "logprob"?, "num_tokens"?, "source"?, "scorer"?,
    "settings"?, "truncated"?}`. "completions" is a list of strings, all for the same task. "source" names the writer
    of the program, "scorer" the model that computed "logprob", "settings" (an object, or text) says how it was
    generated, and "truncated" (true or false) whether it was cut off, so that no end token is learned behind it.

    Args:
        rows: A path (.jsonl, .jsonl.gz, .json, .parquet), a `datasets.Dataset`, or an iterable of mappings.
        name: The writer of programs whose row has no "source"; the file name by default.
        scorer: The model behind log-probabilities whose row has no "scorer"; the writer by default.

    Raises:
        ValueError: A row has no task id or no completion, or a field has an invalid value; the message names row and
            field.

    Examples:
        >>> source = DatasetSource([{"task_id": "double", "completion": "    return 2 * x"}], name="teacher")
        >>> len(source)
        1
    """

    uses_student = False

    def __init__(
        self,
        rows: str | Path | Iterable[Mapping[str, Any]],
        *,
        name: str | None = None,
        scorer: str | None = None,
    ) -> None:
        origin = str(rows) if isinstance(rows, str | Path) else "rows"
        self.name = name or (Path(origin).name if isinstance(rows, str | Path) else "dataset")
        self.scorer = scorer
        self.num_programs: int | None = None
        numbered = read_rows(rows) if isinstance(rows, str | Path) else enumerate(rows, start=1)
        self._programs: dict[str, list[GeneratedProgram]] = {}
        for number, row in numbered:
            for program in self._parse(row, f"{origin}:{number}"):
                self._programs.setdefault(str(row["task_id"]), []).append(program)

    def __len__(self) -> int:
        return sum(len(programs[: self.num_programs]) for programs in self._programs.values())

    def first(self, num_programs: int) -> DatasetSource:
        """Return a source of at most the first `num_programs` programs of each task."""
        other = copy.copy(self)
        other.num_programs = num_programs
        return other

    def most_programs(self, tasks: Sequence[CodingTask]) -> int:
        """Return the largest number of programs of any of `tasks`."""
        return max(map(len, self.generate(tasks)), default=0)

    def _parse(self, row: Mapping[str, Any], where: str) -> list[GeneratedProgram]:
        if row.get("task_id") is None:
            raise ValueError(f"{where}: task_id: required; the row has {sorted(map(str, row))}")
        texts = row.get("completions")
        if texts is None:
            text = row.get("completion", row.get("program"))
            texts = None if text is None else [text]
        if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
            raise ValueError(f"{where}: completion: a string is required (or a list under completions); got {texts!r}")
        logprob, num_tokens = _likelihood(row, len(texts), where)
        source = _text(row, "source", where) or self.name
        # The text is not cut at the task's stops: it may be a chat reply, and its log-probability covers all of it.
        scorer = "" if logprob is None else _text(row, "scorer", where) or self.scorer or source
        settings = row.get("settings")
        if isinstance(settings, Mapping):
            written = _unicode(settings_json(settings), "settings", where)
        else:
            written = _text(row, "settings", where)
        truncated = row.get("truncated")
        if truncated is not None and not isinstance(truncated, bool):
            raise ValueError(f"{where}: truncated: must be true or false; got {truncated!r:.80}")
        return [
            GeneratedProgram(
                completion=text,
                logprob=logprob,
                num_tokens=num_tokens,
                source=source,
                scorer=scorer,
                settings=written,
                finish_reason="length" if truncated else "",
            )
            for text in texts
        ]

    def identity(self, *, student: LocalModel | None = None) -> dict[str, Any]:
        """Return everything that decides the programs: a digest of the programs themselves."""
        sha = hashlib.sha256()
        for task_id, programs in self._programs.items():
            rows = [
                (one.completion, one.logprob, one.num_tokens, one.source, one.scorer, one.settings)
                # Digests of whole programs are those of versions without a finish reason.
                + ((one.finish_reason,) if one.finish_reason else ())
                for one in programs
            ]
            sha.update(json.dumps([task_id, rows]).encode() + b"\n")
        few = {} if self.num_programs is None else {"num_programs": self.num_programs}
        return {"source": type(self).__name__, "programs": sha.hexdigest(), **few}

    def check(self, tasks: Sequence[CodingTask], *, student: LocalModel | None = None) -> None:
        """Warn about programs that belong to none of `tasks`: they are left out.

        Raises:
            ValueError: No program belongs to any of the tasks.
        """
        ids = {task.task_id: None for task in tasks}
        strange = [raw for raw in self._programs if match_task_id(raw, ids) is None]
        if not strange:
            return
        number = sum(len(self._programs[raw]) for raw in strange)
        # Some strange rows are normal, as when the tasks are part of a benchmark. If no row fits, the tasks are likely
        # those of another benchmark.
        if len(strange) == len(self._programs):
            raise ValueError(
                f"{self.name}: task_id: must name one of the {len(ids)} tasks, such as {next(iter(ids), None)!r}; "
                f"none of the {number} programs does, the first names {strange[0]!r}"
            )
        logger.warning(
            "%s: left out %d programs for %d task ids that belong to none of the %d tasks; the first is %r",
            self.name, number, len(strange), len(ids), strange[0],
        )  # fmt: skip

    def generate(
        self, tasks: Sequence[CodingTask], *, student: LocalModel | None = None
    ) -> Iterator[list[GeneratedProgram]]:
        """Yield the stored programs of each task; a task without programs gets an empty list."""
        # Rows may spell the id of the same task differently: 2, "2" or "Mbpp/2".
        ids = {task.task_id: None for task in tasks}
        by_task: dict[str, list[GeneratedProgram]] = {}
        for raw, programs in self._programs.items():
            task_id = match_task_id(raw, ids)
            if task_id is not None:
                by_task.setdefault(task_id, []).extend(programs)
        for task in tasks:
            yield by_task.get(task.task_id, [])[: self.num_programs]


def _likelihood(row: Mapping[str, Any], texts: int, where: str) -> tuple[float | None, int | None]:
    """Return the log-probability and the number of tokens of a row.

    Raises:
        ValueError: They are invalid. Checked while rows are read, before any program is judged.
    """
    logprob, num_tokens = row.get("logprob"), row.get("num_tokens")
    if logprob is None and num_tokens is None:
        return None, None
    # A log-probability belongs to a single completion, and "mean" divides it by its number of tokens.
    if logprob is not None and (texts != 1 or num_tokens is None):
        raise ValueError(
            f"{where}: logprob: needs num_tokens and a single completion in its row; got num_tokens={num_tokens!r} "
            f"and {texts} completions"
        )
    try:
        check_likelihood(logprob, num_tokens)
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from error
    return None if logprob is None else float(logprob), None if num_tokens is None else int(num_tokens)


def _text(row: Mapping[str, Any], name: str, where: str) -> str:
    value = row.get(name)
    if value is not None and not isinstance(value, str):
        raise ValueError(f"{where}: {name}: must be text; got {type(value).__name__}")
    return _unicode(value or "", name, where)


def _unicode(text: str, name: str, where: str) -> str:
    """Return text unchanged, unless no file can hold it."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        # Now, and not when the first judged program is written down.
        raise ValueError(f"{where}: {name}: must be text without lone surrogates; got {error}") from error
    return text
