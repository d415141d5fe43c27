"""Run a prompt through a model once, and share its keys and values among the completions of the prompt."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any

import torch
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer


def left_padded(rows: Sequence[Sequence[int]], pad: int, device: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """Return token ids padded on the left, and the mask of what is no padding, both int64, shape [rows, width]."""
    width = max(map(len, rows))
    ids = [[pad] * (width - len(row)) + list(row) for row in rows]
    mask = [[0] * (width - len(row)) + [1] * len(row) for row in rows]
    return torch.tensor(ids, device=device), torch.tensor(mask, device=device)


def positions(mask: torch.Tensor) -> torch.Tensor:
    """Return the position of each token, from 0, for a mask padded on the left, shape [rows, width]."""
    return (mask.cumsum(-1) - 1).clamp(min=0)


def prompt_cache(bare: Any, ids: torch.Tensor, mask: torch.Tensor) -> DynamicCache | None:
    """Return the keys and values of all tokens of each prompt but the last.

    The last token is left for the forward pass that predicts the first token of a completion.

    Args:
        bare: The model, in evaluation mode.
        ids: Token ids of the prompts, padded on the left, shape [prompts, width].
        mask: 1 for tokens, 0 for padding, of the same shape.

    Returns:
        The cache, with a row for each prompt; None if the model has no cache of keys and values alone, whose rows can
        be selected, or if a prompt is a single token.
    """
    # A row of padding alone attends to nothing, and its values may be NaN.
    if int(mask.sum(-1).min()) < 2 or not takes(bare, "past_key_values"):
        return None
    known: dict[str, Any] = {"position_ids": positions(mask)[:, :-1]} if takes(bare, "position_ids") else {}
    # The logits of a prompt take its length * vocabulary floats, and none is needed.
    known |= {"logits_to_keep": 1} if takes(bare, "logits_to_keep") else {}
    found = bare(input_ids=ids[:, :-1], attention_mask=mask[:, :-1], use_cache=True, **known)
    cache = getattr(found, "past_key_values", None)
    # States of linear attention and of state-space models cannot be selected by rows in every version.
    if not isinstance(cache, DynamicCache) or type(cache) is not DynamicCache:
        return None
    return cache if all(type(layer) in (DynamicLayer, DynamicSlidingWindowLayer) for layer in cache.layers) else None


def takes(bare: Any, argument: str) -> bool:
    """Return whether the forward pass of a model has an argument."""
    model = bare.get_base_model() if hasattr(bare, "get_base_model") else bare
    return argument in inspect.signature(model.forward).parameters
