"""Read the answers in rows of preference and SFT data sets, and find the task that a prompt asks for.

Rows are those of TRL: `prompt` with `chosen` and `rejected`, or with `completion` (and `label`), or `messages`; text
or chat messages. Nothing is guessed: a prompt that is not the prompt of a single task belongs to none.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from trl_pper.tasks.chat import as_chat
from trl_pper.tasks.task import CodingTask, Message, Prompt, content_text

#: Role and text of each message without the system's; of a text prompt, those of a user's message.
PromptKey: TypeAlias = tuple[tuple[str, str], ...]

#: The roles whose messages say how to answer, and not what is asked.
_INSTRUCTING = ("system", "developer")
_SHOWN = 100


@dataclass(frozen=True, kw_only=True)
class AskedPrompt:
    """A prompt of a row, which may be the prompt of a task.

    Args:
        key: Decides whether two prompts ask the same.
        tail: White space at the end of a text prompt, behind which the completion goes on; None for messages.
        messages: The chat messages, as JSON; "" for a text prompt.
        where: Place of the first row with this prompt, for messages to the user.
    """

    key: PromptKey
    tail: str | None
    messages: str
    where: str = field(compare=False)

    def show(self) -> str:
        """Return the beginning of the last message and the place of the row."""
        words = self.key[-1][1] if self.key else ""
        return f"{words[:_SHOWN]!r} ({self.where})"


@dataclass(frozen=True, kw_only=True)
class RowAnswer:
    """An answer in a row.

    Args:
        text: The text of the answer.
        prompt: The prompt that it answers; None if the row has none.
        label: "chosen" or "rejected" for an answer of a pair, "desirable" or "undesirable" for one with a label of its
            own, "" without a label.
    """

    text: str
    prompt: AskedPrompt | None
    label: str = ""


@dataclass(frozen=True, kw_only=True)
class PromptMatches:
    """Counts of the programs whose row names no task: which of them found a task by their prompt.

    Args:
        programs: Number of programs without a task id.
        matched: Programs whose prompt is the prompt of a single task.
        unknown: Programs whose prompt is the prompt of no task.
        ambiguous: Programs whose prompt is the prompt of several tasks.
        first_unknown: The first prompt of no task, with its row; "" if there is none.
        first_ambiguous: The first prompt of several tasks, with its row; "" if there is none.
    """

    programs: int = 0
    matched: int = 0
    unknown: int = 0
    ambiguous: int = 0
    first_unknown: str = ""
    first_ambiguous: str = ""

    def unmatched(self) -> str:
        """Return in words how many programs found no task, with the first example of each kind."""
        kinds = (
            (self.unknown, "whose prompt is that of no task", self.first_unknown),
            (self.ambiguous, "whose prompt several tasks have", self.first_ambiguous),
        )
        return ", and ".join(f"{number} {kind}, the first {first}" for number, kind, first in kinds if number)


class PromptIndex:
    """A table from prompts to tasks.

    A text prompt is found by itself, by a user's message that says the same, and by the message that `as_chat` makes
    of it; chat messages are found by the messages other than the system's. White space around a text and the kind of
    line ends make no difference; anything else does.

    Args:
        tasks: The tasks.
        ambiguous: Keys that are known to belong to several tasks, of which `tasks` may be a part.
    """

    def __init__(self, tasks: Sequence[CodingTask], *, ambiguous: Iterable[PromptKey] = ()) -> None:
        self.prompts = {task.task_id: task.prompt for task in tasks}
        self._ids: dict[PromptKey, set[str]] = {}
        for task, put in zip(tasks, as_chat(tasks), strict=True):
            for prompt in (task.prompt, put.prompt):
                self._ids.setdefault(prompt_key(prompt), set()).add(task.task_id)
        self.ambiguous = frozenset(ambiguous) | {key for key, ids in self._ids.items() if len(ids) > 1}

    def find(self, asked: AskedPrompt) -> str | None:
        """Return the id of the single task that a prompt asks for; None if there is none."""
        if asked.key in self.ambiguous:
            return None
        for task_id in self._ids.get(asked.key, ()):
            if self.gap(asked, task_id) is not None:
                return task_id
        return None

    def gap(self, asked: AskedPrompt, task_id: str) -> tuple[str, str] | None:
        """Return the white space to take from the start of a completion, if it is there, and the white space to add.

        The prompt of the row may end with white space that the task's prompt lacks, or the other way round: in Python
        it belongs to the program. Returns None if neither end begins with the other.
        """
        prompt = self.prompts[task_id]
        if asked.tail is None or not isinstance(prompt, str) or prompt_key(prompt) != asked.key:
            return "", ""
        own = _tail(prompt)
        if asked.tail.startswith(own):
            return "", asked.tail.removeprefix(own)
        return (own.removeprefix(asked.tail), "") if own.startswith(asked.tail) else None

    def fit(self, completion: str, asked: AskedPrompt, task_id: str) -> str:
        """Return a completion of the row's prompt as a completion of the task's."""
        surplus, missing = self.gap(asked, task_id) or ("", "")
        return missing + completion.removeprefix(surplus)


def prompt_key(prompt: Prompt) -> PromptKey:
    r"""Return what decides whether two prompts ask the same.

    Examples:
        >>> prompt_key("Double x.\n") == prompt_key([{"role": "user", "content": "Double x."}])
        True
    """
    if isinstance(prompt, str):
        return (("user", _plain(prompt)),)
    return tuple(
        (message["role"], _plain(_words(message["content"])))
        for message in prompt
        if message["role"] not in _INSTRUCTING
    )


def read_answers(row: Mapping[str, Any], where: str) -> list[RowAnswer]:
    """Return the answers in a row, each with its prompt.

    Args:
        row: The row. A column that is None counts as missing.
        where: Place of the row, for errors.

    Raises:
        ValueError: The row has no answer, or prompt or answer are malformed; the message names the column.
    """
    try:
        if row.get("chosen") is not None or row.get("rejected") is not None:
            return [_answer(row, label, where, label) for label in ("chosen", "rejected")]
        if row.get("completions") is not None:
            texts = row["completions"]
            if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
                raise ValueError(f"completion: a string is required (or a list under completions); got {texts!r:.200}")
            return [RowAnswer(text=text, prompt=_asked(row.get("prompt"), [], where)) for text in texts]
        label = row.get("label")
        kind = ("desirable" if label else "undesirable") if isinstance(label, bool) else ""
        for column in ("completion", "program", "messages"):
            if row.get(column) is not None:
                return [_answer(row, column, where, kind)]
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from error
    raise ValueError(
        f"{where}: completion: a string is required (or a list under completions, chosen and rejected, or messages); "
        f"the row has {sorted(map(str, row))}"
    )


def _answer(row: Mapping[str, Any], column: str, where: str, label: str) -> RowAnswer:
    value = row.get(column)
    if isinstance(value, str) and column != "messages":
        return RowAnswer(text=value, prompt=_asked(row.get("prompt"), [], where), label=label)
    if not isinstance(value, list) or not value:
        kinds = "chat messages" if column == "messages" else "a string, or chat messages,"
        raise ValueError(f"{column}: {kinds} required; got {value!r:.200}")
    *before, last = _messages(value, column)
    if last["role"] != "assistant":
        raise ValueError(
            f"{column}: must end with a message of the assistant, the answer; the last role is {last['role']!r}. "
            "Leave such conversations out"
        )
    # A conversation holds its prompt, whatever else the row has.
    prompt = None if column == "messages" else row.get("prompt")
    return RowAnswer(text=last["content"], prompt=_asked(prompt, before, where), label=label)


def _asked(prompt: Any, before: list[Message], where: str) -> AskedPrompt | None:
    """Return the prompt of an answer, from the column of prompts and the messages before the answer."""
    if prompt is None and not before:
        return None
    if isinstance(prompt, str):
        if not any(message["role"] == "user" for message in before):
            return AskedPrompt(key=prompt_key(prompt), tail=_tail(prompt), messages="", where=where)
        # The text is a copy of what the conversation asks, as in sets made for several kinds of trainers.
        given: list[Message] = []
    else:
        given = [] if prompt is None else _messages(prompt, "prompt")
    messages = before if before[: len(given)] == given else given + before
    return AskedPrompt(key=prompt_key(messages), tail=None, messages=json.dumps(messages), where=where)


def _messages(value: Any, column: str) -> list[Message]:
    """Return chat messages with a role and a text each, without other fields."""
    if not isinstance(value, list) or not value:
        raise ValueError(f"{column}: must be text or a list of chat messages; got {value!r:.200}")
    for message in value:
        if not isinstance(message, Mapping) or not isinstance(message.get("role"), str) or "content" not in message:
            raise ValueError(f'{column}: chat messages need the keys "role" and "content"; got {message!r:.200}')
    return [{"role": message["role"], "content": _words(message["content"])} for message in value]


def _words(content: Any) -> str:
    """Return the text of a message, which may be a list of parts."""
    parts = content if isinstance(content, list) else []
    texts = all(isinstance(part, Mapping) and part.get("type") in (None, "text") for part in parts)
    if not texts or not (content is None or isinstance(content, str | list)):
        raise ValueError(f"content: must be text, or parts of text; got {content!r:.200}. Leave out rows with images")
    return content_text(content)


def _plain(text: str) -> str:
    return text.replace("\r\n", "\n").strip()


def _tail(text: str) -> str:
    text = text.replace("\r\n", "\n")
    return text[len(text.rstrip()) :]
