"""Build repair experiences: a failed program with its failing test as the prompt, a right program as the answer.

The source of the idea is self-debugging (arXiv 2304.05128) and CYCLE (arXiv 2403.18746): a model that has learned to
repair programs can use the message of a test. No program is generated for it, and none judged.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from trl_pper.replay.experience import repair_id
from trl_pper.rounds.journal import JudgedProgram
from trl_pper.tasks.task import Message, Prompt

#: The longest part of a verdict's message in a prompt, in characters.
MESSAGE_LENGTH = 500
_ASKED = "This program fails a test:\n\n{message}\n\nWrite the right program."


def repairs(judged: Sequence[JudgedProgram], limit: int) -> list[JudgedProgram]:
    """Return repairs of failed programs of a task, as programs whose log-probability is not known yet.

    Failed programs are taken in the order in which they were generated, of equal programs the first. Each is answered
    by the first program that passes every test.

    Args:
        judged: The judged programs of a task, the most probable first.
        limit: Largest number of repairs.

    Returns:
        The passing program for each failed program, with the prompt of `repair_prompt` and a task id of its own;
        nothing unless some programs pass and others fail.
    """
    right = next((one for one in judged if one.verdict.pass_rate == 1.0 and not one.truncated), None)
    if right is None:
        return []
    wrong: dict[str, JudgedProgram] = {}
    for one in judged:
        if one.verdict.pass_rate is not None and one.verdict.pass_rate < 1.0 and one.extracted:
            wrong.setdefault(one.program, one)
    generated = replace(right.generated, logprob=None, num_tokens=None, scorer="")
    return [
        replace(
            right,
            task=replace(
                right.task,
                task_id=repair_id(right.task.task_id, one.program),
                prompt=repair_prompt(right.task.prompt, one.generated.completion, one.verdict.message),
            ),
            generated=generated,
        )
        for one in list(wrong.values())[:limit]
    ]


def repair_prompt(prompt: Prompt, completion: str, message: str) -> Prompt:
    """Return the prompt of a task with a failed completion and the message of its verdict.

    Args:
        prompt: The prompt of the task: chat messages, or text to be continued.
        completion: The failed completion.
        message: The message of its verdict.

    Returns:
        Chat messages with the completion as the assistant's and the message as the next question; or the text behind
        comments with both, so that a function signature is still the end of it.
    """
    message = message.strip()[:MESSAGE_LENGTH]
    if isinstance(prompt, list):
        asked: Message = {"role": "user", "content": _ASKED.format(message=message)}
        return [*prompt, {"role": "assistant", "content": completion}, asked]
    said = f"This program fails a test:\n{completion.rstrip()}\n{message}\nThe right program:"
    return "".join(f"# {line}\n" for line in said.splitlines()) + prompt
