"""Put tasks to a model as it was made for: as messages to an instruct model, as text with stops to a base model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from trl_pper.generation.encoding import Encoder
from trl_pper.tasks.chat import PROMPTS, as_chat, chat_parts
from trl_pper.tasks.formats.fields import code_stops
from trl_pper.tasks.task import CodingTask, FunctionTests


@dataclass(frozen=True, kw_only=True)
class Prompted:
    """Tasks as a model is asked them.

    Args:
        tasks: The tasks, in order.
        line: A sentence on how text prompts are put to the model; "" without text prompts.
    """

    tasks: list[CodingTask]
    line: str = ""


def put_to(tasks: Sequence[CodingTask], encoder: Encoder, *, prompts: str = "auto") -> Prompted:
    """Return tasks as a model is to be asked them; chat messages stay as they are.

    Args:
        tasks: The tasks.
        encoder: The encoder of the model.
        prompts: "text" to continue text prompts, "chat" to put them as messages; "auto" asks instruct models in
            messages, and has base models continue the text.

    Raises:
        ValueError: `prompts` has another value, or asks for messages and the tokenizer has no chat template.
    """
    if prompts not in PROMPTS:
        raise ValueError(f"prompts: must be one of {', '.join(PROMPTS)}; got {prompts!r}")
    if all(isinstance(task.prompt, list) for task in tasks):
        return Prompted(tasks=list(tasks))
    if prompts == "chat" and not encoder.has_template:
        raise ValueError(
            "prompts: 'chat' needs a tokenizer with a chat template, and this one has none; use 'text', or set "
            "chat_template_path"
        )
    if prompts == "chat" or (prompts == "auto" and encoder.answers_messages):
        line = (
            "text prompts are put as chat messages, as this is an instruct model (prompts='text' continues the text)"
        )
        return Prompted(tasks=as_chat(tasks), line=line if prompts == "auto" else "")
    line = "text prompts are continued as text, as this is a base model"
    if encoder.has_template:
        line += " by its end token (prompts='chat' puts them as messages)"
    return Prompted(tasks=[_with_stops(task) for task in tasks], line=line if prompts == "auto" else "")


def _with_stops(task: CodingTask) -> CodingTask:
    """Return a task with the stops of Python functions, if it asks for a function and has no stops."""
    # A base model goes on after the function, up to the longest length: its program would be cut off.
    if task.stop or not isinstance(task.prompt, str) or not isinstance(task.tests, FunctionTests):
        return task
    opened = chat_parts(task).kind == "complete"
    return replace(task, stop=code_stops(task.entry_point, opened=opened))
