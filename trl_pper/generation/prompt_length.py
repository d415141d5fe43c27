"""Tasks whose prompts leave room for a program: the others are left out, and said to be.

Enters: tasks and a tokenizer. Leaves: those with short enough prompts.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any, TypeVar

from trl_pper.generation.local_model import LocalModel
from trl_pper.task import Prompt

logger = logging.getLogger(__name__)

T = TypeVar("T")


def with_short_prompts(
    things: Sequence[T], prompts: Sequence[Prompt], tokenizer: Any, *, max_prompt_length: int
) -> list[T]:
    """Return those things whose prompt has no more tokens than allowed, and warn of the others.

    Args:
        things: Tasks, or whatever has a prompt.
        prompts: The prompt of each.
        tokenizer: What counts the tokens; chat messages go through its template.
        max_prompt_length: The most tokens a prompt may have.

    Raises:
        ValueError: The length is below 1, or no prompt is short enough.
    """
    if max_prompt_length < 1:
        raise ValueError(f"max_prompt_length: must be at least 1; got {max_prompt_length}")
    lengths = list(map(len, LocalModel(model=None, processing_class=tokenizer).encode(prompts)))
    kept = [thing for thing, length in zip(things, lengths, strict=True) if length <= max_prompt_length]
    if things and not kept:
        raise ValueError(
            f"max_prompt_length: no prompt has at most {max_prompt_length} tokens, the shortest has {min(lengths)}"
        )
    if len(kept) < len(things):
        logger.warning(
            "max_prompt_length: %d of %d are left out, whose prompts have more than %d tokens; the longest has %d",
            len(things) - len(kept), len(things), max_prompt_length, max(lengths),
        )  # fmt: skip
    return kept
