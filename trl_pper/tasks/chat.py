"""Put tasks to a model as it was made for: as messages to an instruct model, as text with stops to a base model.

Imports and helper functions that a prompt supplies become part of the task's preamble.
`trl_pper.generation.extraction` reads the program from the model's reply.
"""

from __future__ import annotations

import ast
import re
import string
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Literal, Protocol, TypeAlias

from trl_pper.tasks.formats.fields import code_stops, question_parts
from trl_pper.tasks.syntax import Parser, parse_open
from trl_pper.tasks.task import CodingTask, FunctionTests, Message, StdioTests

#: How text prompts are put to a model: "text" to be continued, "chat" as messages; "auto" as the model was made for.
PROMPTS = ("auto", "text", "chat")


@dataclass(frozen=True, kw_only=True)
class ChatParts:
    """The parts of a task's prompt from which the user message is written.

    Args:
        kind: "complete" for a prompt that opens a function or class, "stdin" for a program that reads standard input,
            "function" for a function or method that the tests call.
        question: Problem statement; for "complete" the code.
        starter_code: Code that the program must begin with, or "".
        entry_point: Name of the function to call, such as `f` or `Solution().f`, or "".
    """

    kind: Literal["complete", "stdin", "function"]
    question: str
    starter_code: str
    entry_point: str


#: A template of the user message with the names of `ChatParts` in braces, or a function of the parts.
Instruction: TypeAlias = str | Callable[[ChatParts], str]


def as_chat(
    tasks: Iterable[CodingTask], *, system: str | None = None, instruction: Instruction | None = None
) -> list[CodingTask]:
    r"""Return tasks with chat messages in place of text prompts; tasks that have messages already stay unchanged.

    Args:
        tasks: The tasks.
        system: Text of a system message before the user message; None for no system message.
        instruction: The user message, in place of the default: a template with the names of `ChatParts` in braces
            (double a brace to write it literally), or a function of the parts.

    Returns:
        The tasks in order. Chat tasks have no stop texts.

    Raises:
        ValueError: `instruction` is a malformed template or names an unknown field, or a message would be empty.
        TypeError: `instruction` returned a value other than text.

    Examples:
        >>> from trl_pper import FunctionTests
        >>> tests = FunctionTests(entry_point="double", code="assert double(2) == 4")
        >>> task = CodingTask(task_id="double", prompt="Double x.", tests=tests)
        >>> as_chat([task], instruction="{question} Call it {entry_point}.")[0].prompt
        [{'role': 'user', 'content': 'Double x. Call it double.'}]
    """
    if system is not None and not system.strip():
        raise ValueError(f"system: must be text or None for no message; got {system!r}")
    say = _as_function(instruction)
    return [task if isinstance(task.prompt, list) else _chat_task(task, task.prompt, system, say) for task in tasks]


@dataclass(frozen=True, kw_only=True)
class Prompted:
    """Tasks as a model is asked them.

    Args:
        tasks: The tasks, in order.
        line: A sentence on how text prompts are put to the model; "" without text prompts.
    """

    tasks: list[CodingTask]
    line: str = ""


class AnswersMessages(Protocol):
    """A description of a model: whether it can be asked in messages, and whether it was made for that."""

    @property
    def has_template(self) -> bool:
        """Whether chat messages can be encoded."""

    @property
    def answers_messages(self) -> bool:
        """Whether the model is an instruct model."""


def put_to(tasks: Sequence[CodingTask], model: AnswersMessages, *, prompts: str = "auto") -> Prompted:
    """Return tasks as a model is to be asked them; chat messages stay as they are.

    Args:
        tasks: The tasks.
        model: Tells how the model is asked, as `trl_pper.generation.encoding.Encoder` does.
        prompts: "text" to continue text prompts, "chat" to put them as messages; "auto" asks instruct models in
            messages, and has base models continue the text.

    Raises:
        ValueError: `prompts` has another value, or asks for messages and the tokenizer has no chat template.
    """
    if prompts not in PROMPTS:
        raise ValueError(f"prompts: must be one of {', '.join(PROMPTS)}; got {prompts!r}")
    if all(isinstance(task.prompt, list) for task in tasks):
        return Prompted(tasks=list(tasks))
    if prompts == "chat" and not model.has_template:
        raise ValueError(
            "prompts: 'chat' needs a tokenizer with a chat template, and this one has none; use 'text', or set "
            "chat_template_path"
        )
    if prompts == "chat" or (prompts == "auto" and model.answers_messages):
        line = (
            "text prompts are put as chat messages, as this is an instruct model (prompts='text' continues the text)"
        )
        return Prompted(tasks=as_chat(tasks), line=line if prompts == "auto" else "")
    line = "text prompts are continued as text, as this is a base model"
    if model.has_template:
        line += " by its end token (prompts='chat' puts them as messages)"
    return Prompted(tasks=[_with_stops(task) for task in tasks], line=line if prompts == "auto" else "")


def _with_stops(task: CodingTask) -> CodingTask:
    """Return a task with the stops of Python functions, if it asks for a function and has no stops."""
    # A base model goes on after the function, up to the longest length: its program would be cut off.
    if task.stop or not isinstance(task.prompt, str) or not isinstance(task.tests, FunctionTests):
        return task
    opened = chat_parts(task).kind == "complete"
    return replace(task, stop=code_stops(task.entry_point, opened=opened))


def chat_parts(task: CodingTask) -> ChatParts:
    """Split the text prompt of a task into its parts.

    Raises:
        ValueError: The prompt is a list of messages.
    """
    if not isinstance(task.prompt, str):
        raise ValueError(f"prompt: must be text to be taken apart; task {task.task_id!r} has messages")
    asked = question_parts(task.prompt)
    question, starter_code = asked or (_words(task.prompt), "")
    kind: Literal["complete", "stdin", "function"] = "stdin" if isinstance(task.tests, StdioTests) else "function"
    if asked is None and _opened(task.prompt) is not None:
        kind, question = "complete", task.prompt.strip("\n")
    return ChatParts(
        kind=kind, question=question, starter_code=starter_code.rstrip(), entry_point=task.entry_point or ""
    )


def default_instruction(parts: ChatParts) -> str:
    """Return the default user message for a task."""
    asked = {
        "complete": f"Complete {_named(parts.entry_point)} below. Answer with one Python code block that holds all of "
        "it, signature and imports included.",
        "stdin": "Write a Python program that solves the problem below. It reads standard input and prints to "
        "standard output. Answer with one Python code block that holds the whole program.",
        "function": f"Write {_named(parts.entry_point, parts.starter_code)} in Python so that it solves the problem "
        "below. Answer with one Python code block that holds all of it, imports included.",
    }[parts.kind]
    said = [asked, _fenced(parts.question) if parts.kind == "complete" else parts.question]
    if parts.starter_code:
        said += ["Begin with this code:", _fenced(parts.starter_code)]
    return "\n\n".join(said)


def _chat_task(task: CodingTask, prompt: str, system: str | None, say: Callable[[ChatParts], str]) -> CodingTask:
    parts = chat_parts(task)
    said = say(parts)
    if not isinstance(said, str):
        raise TypeError(f"instruction: must return text; got {type(said).__name__} for task {task.task_id!r}")
    if not said.strip():
        raise ValueError(f"instruction: must say something; got {said!r} for task {task.task_id!r}")
    messages: list[Message] = [] if system is None else [{"role": "system", "content": system}]
    messages.append({"role": "user", "content": said})
    # A reply that repeats only the function would lack the imports and helpers that the prompt wrote above it.
    given = _given_by(prompt) if parts.kind == "complete" else ""
    # A benchmark may supply them as well.
    preamble = "\n\n".join(dict.fromkeys(filter(None, (task.preamble, given)))) or None
    # Stop texts belong to a text that is continued; in a reply they could cut the program.
    return replace(task, prompt=messages, preamble=preamble, stop=())


def _as_function(instruction: Instruction | None) -> Callable[[ChatParts], str]:
    if instruction is None:
        return default_instruction
    if not isinstance(instruction, str):
        return instruction
    known = sorted(ChatParts.__dataclass_fields__)
    try:
        fields = _field_names(instruction)
    except ValueError as error:
        raise ValueError(f"instruction: {error}. Double a brace that means itself") from error
    unknown = sorted(fields - set(known))
    if unknown:
        raise ValueError(
            f"instruction: knows the fields {', '.join(known)}; got {', '.join(map(repr, unknown))}. Double a brace "
            "that means itself"
        )
    # Parts are inserted, not parsed, so that braces in a question do no harm.
    return lambda parts: instruction.format(**vars(parts))


def _field_names(text: str) -> set[str]:
    found: set[str] = set()
    for _, name, inner, _ in string.Formatter().parse(text):
        if name is not None:
            # A format specification can hold fields of its own, as in {question:{starter_code}}.
            found |= {name} | _field_names(inner or "")
    return found


def _named(entry_point: str, starter_code: str = "") -> str:
    owner, _, name = entry_point.rpartition("().")
    if owner:
        return f"the method `{name}` of the class `{owner}`"
    if re.search(rf"^class {re.escape(name)}\b", starter_code, re.MULTILINE):
        return f"the class `{name}`"
    return f"the function `{name}`" if name else "the function"


def _fenced(code: str) -> str:
    # A fence must be longer than every fence inside the code (CommonMark, section 4.5).
    longest = max(map(len, re.findall(r"`{3,}", code)), default=2)
    marks = "`" * (longest + 1)
    return f"{marks}python\n{code}\n{marks}"


def _words(prompt: str) -> str:
    """Return the text of a prompt that is only a docstring, such as MBPP's; any other prompt as it is, stripped."""
    # Prompts may come from anywhere: the budget bounds the time that parsing takes.
    tree = Parser(2 * len(prompt) + 200).parse(prompt)[0]
    match tree.body if tree is not None else []:
        case [ast.Expr(value=ast.Constant(value=str(text)))]:
            return text.strip()
    return prompt.strip()


def _opened(prompt: str) -> ast.stmt | None:
    """Return the last function or class of a prompt that is Python code, or None."""
    # Enough for the four attempts that `parse_open` makes.
    tree = parse_open(prompt, Parser(10 * len(prompt) + 1000))
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
    return next((node for node in reversed(tree.body) if isinstance(node, kinds)), None) if tree is not None else None


def _given_by(prompt: str) -> str:
    """Return the code that a prompt holds before the function or class that it opens."""
    opened = _opened(prompt)
    assert isinstance(opened, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)
    # `lineno` is the line of `def`; decorators stand above it.
    start = min([opened.lineno, *(each.lineno for each in opened.decorator_list)])
    given = "\n".join(prompt.split("\n")[: start - 1]).strip("\n")
    return given + "\n" if given.strip() else ""
