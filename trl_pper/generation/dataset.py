"""Read programs that a teacher wrote earlier from a file or a data set (paper, appendix C1).

Rows name a task by its id or by its prompt, so that preference and SFT sets of others can be judged. Rows need no
log-probability: the collector has programs without one scored. Completions are not cut at stops.
"""

from __future__ import annotations

import copy
import hashlib
import json
import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trl_pper.files import read_rows
from trl_pper.generation.preferences import (
    AskedPrompt,
    PromptIndex,
    PromptKey,
    PromptMatches,
    RowAnswer,
    read_answers,
)
from trl_pper.generation.source import GeneratedProgram, ProgramSource, check_likelihood, settings_json
from trl_pper.tasks.chat import as_chat
from trl_pper.tasks.loading import match_task_id
from trl_pper.tasks.task import CodingTask

if TYPE_CHECKING:
    from trl_pper.generation.local_model import LocalModel


logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class LabelledProgram:
    """A completion that its data set says is good or bad.

    Args:
        task: The task that it was matched to.
        completion: The completion.
        label: "chosen" or "rejected" for an answer of a pair; "desirable" or "undesirable" for one by itself.
        row: Number of its row; the two of a pair have the same.
    """

    task: CodingTask
    completion: str
    label: str
    row: int


class DatasetSource(ProgramSource):
    """A source of programs that reads them from rows of a file or a data set.

    A row is `{"task_id", "completion" or "program" or "completions", "logprob"?, "num_tokens"?, "source"?, "scorer"?,
    "settings"?, "truncated"?}`. "completions" is a list of strings, all for the same task. "source" names the writer
    of the program, "scorer" the model that computed "logprob", "settings" (an object, or text) says how it was
    generated, and "truncated" (true or false) whether it was cut off, so that no end token is learned behind it.

    Rows of preference and SFT sets have `{"prompt", "chosen", "rejected"}`, `{"prompt", "completion", "label"?}` or
    `{"messages"}`, as text or chat messages. Without a "task_id" they belong to the task whose prompt they have
    (`PromptIndex` says what counts as equal). Both answers of a pair are programs; their writers are named
    `<source>:chosen` and `<source>:rejected`.

    Args:
        rows: A path (.jsonl, .jsonl.gz, .json, .parquet), a `datasets.Dataset`, or an iterable of mappings.
        name: The writer of programs whose row has no "source"; the file name by default.
        scorer: The model behind log-probabilities whose row has no "scorer"; the writer by default.

    Raises:
        ValueError: A row has no task id and no prompt, or no completion, or a field has an invalid value; the message
            names row and field.

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
        #: The programs by what their rows name the task with: its id, or its prompt.
        self._programs: dict[str | AskedPrompt, list[GeneratedProgram]] = {}
        #: Label, what the row names the task with, and completion of each answer with a label, by row.
        self._labelled: dict[int, list[tuple[str, str | AskedPrompt, str]]] = {}
        #: Keys of prompts that several tasks have, of all tasks that were checked.
        self._ambiguous: frozenset[PromptKey] = frozenset()
        for number, row in numbered:
            where = f"{origin}:{number}"
            answers = _named_answers(row, where)
            programs = self._parse(row, [answer for _, answer in answers], where)
            for (named, answer), program in zip(answers, programs, strict=True):
                self._programs.setdefault(named, []).append(program)
                if answer.label:
                    self._labelled.setdefault(number, []).append((answer.label, named, program.completion))

    def __len__(self) -> int:
        return sum(len(programs[: self.num_programs]) for programs in self._programs.values())

    @property
    def has_labels(self) -> bool:
        """Whether any row says that an answer is good or bad."""
        return bool(self._labelled)

    def first(self, num_programs: int) -> DatasetSource:
        """Return a source of at most the first `num_programs` programs of each task."""
        other = copy.copy(self)
        other.num_programs = num_programs
        return other

    def most_programs(self, tasks: Sequence[CodingTask]) -> int:
        """Return the largest number of programs of any of `tasks`."""
        return max(map(len, self.generate(tasks)), default=0)

    def as_asked(self, tasks: Sequence[CodingTask]) -> list[CodingTask]:
        """Return tasks with text prompts as the rows ask them, so that a set keeps its own chat messages.

        A task changes if all of its rows have chat messages with the same words; the first of them become its prompt.
        """
        found: dict[str, list[str | AskedPrompt]] = {}
        for named, task_id in self._find(tasks)[0].items():
            found.setdefault(task_id, []).append(named)
        return [_put(task, found.get(task.task_id, [])) for task in tasks]

    def matches(self, tasks: Sequence[CodingTask]) -> PromptMatches:
        """Return how many programs without a task id found one of `tasks` by their prompt."""
        return self._matches(*self._find(tasks))

    def _matches(self, found: Mapping[str | AskedPrompt, str], index: PromptIndex) -> PromptMatches:
        asked = {named: len(programs) for named, programs in self._programs.items() if isinstance(named, AskedPrompt)}
        missed = [named for named in asked if named not in found]
        ambiguous = [named for named in missed if named.key in index.ambiguous]
        unknown = [named for named in missed if named.key not in index.ambiguous]
        return PromptMatches(
            programs=sum(asked.values()),
            matched=sum(number for named, number in asked.items() if named in found),
            unknown=sum(asked[named] for named in unknown),
            ambiguous=sum(asked[named] for named in ambiguous),
            first_unknown=unknown[0].show() if unknown else "",
            first_ambiguous=ambiguous[0].show() if ambiguous else "",
        )

    def labelled(self, tasks: Sequence[CodingTask]) -> Iterator[LabelledProgram]:
        """Yield the answers with a label whose row belongs to one of `tasks`, row by row."""
        found, index = self._find(tasks)
        by_id = {task.task_id: task for task in tasks}
        for row, answers in self._labelled.items():
            for label, named, completion in answers:
                if named in found:
                    task = by_id[found[named]]
                    text = _fit(completion, named, task, index)
                    yield LabelledProgram(task=task, completion=text, label=label, row=row)

    def _find(self, tasks: Sequence[CodingTask]) -> tuple[dict[str | AskedPrompt, str], PromptIndex]:
        """Return the id of the task that each name of a task means, and the index of the tasks' prompts."""
        # Rows may spell the id of the same task differently: 2, "2" or "Mbpp/2".
        ids = {task.task_id: None for task in tasks}
        is_asked = any(isinstance(named, AskedPrompt) for named in self._programs)
        # Putting thousands of tasks as messages takes seconds, and rows with task ids do without.
        index = PromptIndex(tasks if is_asked else [], ambiguous=self._ambiguous)
        found = {
            named: index.find(named) if isinstance(named, AskedPrompt) else match_task_id(named, ids)
            for named in self._programs
        }
        return {named: task_id for named, task_id in found.items() if task_id is not None}, index

    def _parse(self, row: Mapping[str, Any], answers: Sequence[RowAnswer], where: str) -> list[GeneratedProgram]:
        is_pair = any(answer.label in ("chosen", "rejected") for answer in answers)
        # The columns of a pair are about the pair.
        logprob, num_tokens = (None, None) if is_pair else _likelihood(row, len(answers), where)
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
                completion=answer.text,
                logprob=logprob,
                num_tokens=num_tokens,
                source=f"{source}:{answer.label}" if answer.label else source,
                scorer=scorer,
                settings=written,
                finish_reason="length" if truncated else "",
            )
            for answer in answers
        ]

    def identity(self, *, student: LocalModel | None = None) -> dict[str, Any]:
        """Return everything that decides the programs: a digest of the programs themselves."""
        sha = hashlib.sha256()
        for named, programs in self._programs.items():
            task_id = [named.key, named.tail, named.messages] if isinstance(named, AskedPrompt) else named
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
        """Warn about programs that belong to none of `tasks`, or to several: they are left out.

        The tasks have to be all that there are, since a prompt that two of them share names neither of them.

        Raises:
            ValueError: No program belongs to any of the tasks.
        """
        found, index = self._find(tasks)
        self._ambiguous = index.ambiguous
        if len(found) == len(self._programs):
            return
        strange = [named for named in self._programs if named not in found and not isinstance(named, AskedPrompt)]
        number = sum(len(self._programs[named]) for named in strange)
        matches = self._matches(found, index)
        # Some strange rows are normal, as when the tasks are part of a benchmark. If no row fits, the tasks are likely
        # those of another benchmark.
        if not found and strange:
            raise ValueError(
                f"{self.name}: task_id: must name one of the {len(tasks)} tasks, such as "
                f"{next((task.task_id for task in tasks), None)!r}; none of the {number} programs does, the first "
                f"names {strange[0]!r}"
            )
        if not found:
            raise ValueError(
                f"{self.name}: prompt: must be the prompt of one of the {len(tasks)} tasks, word for word, text or in "
                f"a user's message; none of the {matches.programs} programs has one: {matches.unmatched()}. Give the "
                "tasks that the set was made of, in the words of their format (not of prompts='chat'), or a task_id"
            )
        if strange:
            logger.warning(
                "%s: left out %d programs for %d task ids that belong to none of the %d tasks; the first is %r",
                self.name, number, len(strange), len(tasks), strange[0],
            )  # fmt: skip
        if matches.matched < matches.programs:
            logger.warning(
                "%s: left out %d of %d programs without a task_id: %s",
                self.name, matches.programs - matches.matched, matches.programs, matches.unmatched(),
            )  # fmt: skip

    def generate(
        self, tasks: Sequence[CodingTask], *, student: LocalModel | None = None
    ) -> Iterator[list[GeneratedProgram]]:
        """Yield the stored programs of each task; a task without programs gets an empty list."""
        found, index = self._find(tasks)
        by_id = {task.task_id: task for task in tasks}
        by_task: dict[str, list[GeneratedProgram]] = {}
        for named, programs in self._programs.items():
            if named in found:
                task = by_id[found[named]]
                by_task.setdefault(task.task_id, []).extend(_fitted(one, named, task, index) for one in programs)
        for task in tasks:
            yield by_task.get(task.task_id, [])[: self.num_programs]


def _named_answers(row: Mapping[str, Any], where: str) -> list[tuple[str | AskedPrompt, RowAnswer]]:
    """Return the answers in a row, each with the id or the prompt of its task."""
    task_id = row.get("task_id")
    if task_id is None and all(row.get(name) is None for name in ("prompt", "messages", "chosen", "rejected")):
        raise ValueError(f"{where}: task_id: required, or a prompt; the row has {sorted(map(str, row))}")
    named: list[tuple[str | AskedPrompt, RowAnswer]] = []
    for answer in read_answers(row, where):
        name = answer.prompt if task_id is None else str(task_id)
        if name is None:
            raise ValueError(f"{where}: prompt: required, or a task_id; the row has {sorted(map(str, row))}")
        named.append((name, answer))
    return named


def _put(task: CodingTask, named: Sequence[str | AskedPrompt]) -> CodingTask:
    """Return a task with a text prompt as all of its rows ask it, if they do it in the same chat messages."""
    asked = [one for one in named if isinstance(one, AskedPrompt) and one.messages]
    if isinstance(task.prompt, list) or not asked or len(asked) < len(named) or len({one.key for one in asked}) > 1:
        return task
    # As messages, a task has no stops, and what its text supplied becomes its preamble.
    [put] = as_chat([task])
    return replace(put, prompt=json.loads(asked[0].messages))


def _fit(completion: str, named: str | AskedPrompt, task: CodingTask, index: PromptIndex) -> str:
    return index.fit(completion, named, task.task_id) if isinstance(named, AskedPrompt) else completion


def _fitted(one: GeneratedProgram, named: str | AskedPrompt, task: CodingTask, index: PromptIndex) -> GeneratedProgram:
    text = _fit(one.completion, named, task, index)
    return one if text == one.completion else replace(one, completion=text)


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
