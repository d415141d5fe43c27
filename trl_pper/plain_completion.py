"""The completion that says a program and nothing else: what a student learns of a teacher that chats.

Enters: a program and the prompt it answers. Leaves: a completion from which the same program is extracted again. It
promises nothing of how likely anybody finds it.
"""

from __future__ import annotations

from trl_pper.extraction import extract_program
from trl_pper.task import Prompt

#: What is learned of what a source writes.
LEARNED = ("completion", "program")


def plain_completion(program: str, *, prompt: Prompt = "", entry_point: str | None = None) -> str | None:
    r"""Return the program as a completion of its prompt, without prose.

    Args:
        program: What was extracted from a reply.
        prompt: What was asked: of text that a program begins with the completion is the rest; chat messages are
            answered by one fenced block.
        entry_point: The function the program must define, if known.

    Returns:
        The completion, or None where none gives this program, as when a reply defines the prompt's function anew.

    Examples:
        >>> plain_completion("def f(x):\n    return x\n", prompt="def f(x):\n")
        '    return x\n'
        >>> plain_completion("print(1)\n", prompt="Print one.")
        'print(1)\n'
    """
    if isinstance(prompt, str):
        rest = [program.removeprefix(prompt)] if program.startswith(prompt) else []
        candidates = [*rest, program]
    else:
        candidates = [f"```python\n{program.rstrip()}\n```"]
    for completion in candidates:
        again = extract_program(completion, prompt=prompt, entry_point=entry_point)
        if again.rstrip() == program.rstrip():
            return completion
    return None
