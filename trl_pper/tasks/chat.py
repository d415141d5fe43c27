"""Chat prompts: what a task asks, as the message of a user, for models that answer instead of continuing.

Enters: tasks with text prompts. Leaves: the same tasks with messages. What a prompt gave the function it opened, its
imports and helpers, stands before the program from then on, since a reply need not repeat it. The replies are read by
`trl_pper.generation.extraction`, which looks for one block of code.
"""

from __future__ import annotations

import ast
import re
import string
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Literal, TypeAlias

from trl_pper.tasks.formats.fields import question_parts
from trl_pper.tasks.syntax import Parser, parse_open
from trl_pper.tasks.task import CodingTask, Message, StdioTests


@dataclass(frozen=True, kw_only=True)
class ChatParts:
    """What the message of a user is made of.

    Args:
        kind: "complete" for code that the prompt opens, "stdin" for a program that reads standard input, "function"
            for a function or method that is called.
        question: The problem in words; for "complete" the code.
        starter_code: Code that the program is to begin with, or "".
        entry_point: What is called, such as `f` or `Solution().f`, or "".
    """

    kind: Literal["complete", "stdin", "function"]
    question: str
    starter_code: str
    entry_point: str


#: The words of a message: `kind`, `question`, `starter_code` and `entry_point` in braces, or a function of the parts.
Instruction: TypeAlias = str | Callable[[ChatParts], str]


def as_chat(
    tasks: Iterable[CodingTask], *, system: str | None = None, instruction: Instruction | None = None
) -> list[CodingTask]:
    r"""Return tasks whose text prompts have become chat messages; those that have messages stay as they are.

    Stops are cleared, for they are those of a text that is continued.

    Args:
        tasks: The tasks.
        system: What a message of the system says before that of the user; None for no such message.
        instruction: What the user says, in place of the words that come along: text in which the names of `ChatParts`
            stand in braces (and a brace is doubled to mean itself), or a function of the parts.

    Raises:
        ValueError: `instruction` names an unknown field or is no such text, or a message would be empty.
        TypeError: `instruction` returned something other than text.

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


def chat_parts(task: CodingTask) -> ChatParts:
    """Return what a task with a text prompt asks for, in parts.

    Raises:
        ValueError: Its prompt is messages.
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
    """Return the message of a user in the words that come along."""
    asked = {
        "complete": f"Complete {_named(parts.entry_point)} below. Answer with one Python code block that holds all of "
        "it, signature and imports included.",
        "stdin": "Write a Python program that solves the problem below. It reads standard input and prints to "
        "standard output. Answer with one Python code block that holds the whole program.",
        "function": f"Write {_named(parts.entry_point)} in Python so that it solves the problem below. Answer with "
        "one Python code block that holds all of it, imports included.",
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
    given = _given_by(prompt) if parts.kind == "complete" else ""
    preamble = "\n\n".join(filter(None, (task.preamble, given))) or None
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
    return lambda parts: instruction.format(**vars(parts))


def _field_names(text: str) -> set[str]:
    found: set[str] = set()
    for _, name, inner, _ in string.Formatter().parse(text):
        if name is not None:
            found |= {name} | _field_names(inner or "")
    return found


def _named(entry_point: str) -> str:
    owner, _, name = entry_point.rpartition("().")
    if owner:
        return f"the method `{name}` of the class `{owner}`"
    return f"the function `{name}`" if name else "the function"


def _fenced(code: str) -> str:
    longest = max(map(len, re.findall(r"`{3,}", code)), default=2)
    marks = "`" * (longest + 1)
    return f"{marks}python\n{code}\n{marks}"


def _words(prompt: str) -> str:
    """Return a prompt that is a docstring, as that of MBPP, without its quotes, and any other as it is."""
    tree = Parser(2 * len(prompt) + 200).parse(prompt)[0]
    match tree.body if tree is not None else []:
        case [ast.Expr(value=ast.Constant(value=str(text)))]:
            return text.strip()
    return prompt.strip()


def _opened(prompt: str) -> ast.stmt | None:
    """Return the last function or class of a prompt that is Python, or None."""
    tree = parse_open(prompt, Parser(10 * len(prompt) + 1000))
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
    return next((node for node in reversed(tree.body) if isinstance(node, kinds)), None) if tree is not None else None


def _given_by(prompt: str) -> str:
    """Return what a prompt holds before the function that it opens."""
    opened = _opened(prompt)
    assert isinstance(opened, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)
    start = min([opened.lineno, *(each.lineno for each in opened.decorator_list)])
    given = "\n".join(prompt.split("\n")[: start - 1]).strip("\n")
    return given + "\n" if given.strip() else ""
