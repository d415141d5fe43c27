"""A model and its tokenizer from the Hub or a folder, for inference on the device of this process.

Enters: a model's id or path, of a full model or of an adapter. Leaves: the model in evaluation mode and its tokenizer.
"""

from __future__ import annotations

from typing import Any

from accelerate import PartialState
from transformers import AutoModelForCausalLM, AutoTokenizer


def load_model(name: str, *, dtype: str | None = None, revision: str | None = None) -> tuple[Any, Any]:
    """Return a model and its tokenizer.

    Args:
        name: Id or path of a causal language model, or of a PEFT adapter, whose base model is loaded below it.
        dtype: Number type of the weights, such as "bfloat16"; that of the checkpoint if None.
        revision: Branch, tag or commit.

    Raises:
        OSError: There is no such model.
        ValueError: There is no such number type.
    """
    chosen = {"dtype": dtype, "revision": revision}
    given = {key: value for key, value in chosen.items() if value is not None}
    tokenizer = AutoTokenizer.from_pretrained(name, revision=revision)
    model = AutoModelForCausalLM.from_pretrained(name, **given)
    return model.eval().to(PartialState().device), tokenizer
