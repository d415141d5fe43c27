"""P(t) of programs that somebody else wrote: one teacher-forced pass under a named model, with its own tokenizer.

Enters: prompts with completions, as text. Leaves: log P(completion | prompt) in nats and the number of tokens it sums
over. Log-probabilities of different models do not compare, so that each is kept with the name of its model. What is
longer than the model's context has none.

Fingerprints of weights and tokenizers: whether two models would write the same, without keeping a copy.

Enters: a model or a tokenizer. Leaves: 16 or 32 hexadecimal digits. Equal weights have equal fingerprints on every
device; different ones differ but for a chance of about 2**-64. They are no defence against somebody who wants a
collision.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import json
import logging
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from accelerate.utils import gather_object

from trl_pper.generation.decoding import own_model
from trl_pper.generation.local_model import LocalModel
from trl_pper.tasks.task import Prompt

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Likelihood:
    """How likely a model finds a completion.

    Args:
        logprob: log P(completion | prompt), the sum of the token log-probabilities in nats.
        num_tokens: How many tokens it sums over, the end token among them.
        scorer: The model's name.
    """

    logprob: float
    num_tokens: int
    scorer: str


class Scorer:
    """A model that says how likely programs are which other models wrote.

    Args:
        model: A causal language model.
        processing_class: Its tokenizer, which need not be that of the model that wrote the programs.
        name: What the record says of who scored; the model's name by default.
        batch_size: How many sequences go through the model at once.

    Raises:
        ValueError: The tokenizer is missing.

    Examples:
        `BeamSampleCollector(source=teacher, scorer=Scorer(model, tokenizer))`
    """

    def __init__(
        self, model: Any, processing_class: Any = None, *, name: str | None = None, batch_size: int = 8
    ) -> None:
        if isinstance(model, LocalModel):
            self.local = model
        else:
            local = own_model(model, processing_class)
            if local is None:
                raise ValueError("model: required; pass the model that scores, and its tokenizer")
            self.local = local
        self.name = name or self.local.name
        self.batch_size = batch_size

    def check(self, prompts: Sequence[Prompt]) -> None:
        """Raise ValueError if a prompt cannot be put to this model, before anything is generated."""
        chats = any(not isinstance(prompt, str) for prompt in prompts)
        if chats and not getattr(self.local.processing_class, "chat_template", None):
            raise ValueError(
                f"scorer: the tokenizer of {self.name} has no chat template, and the tasks are chat messages; choose "
                "a model that has one, or text prompts"
            )

    def score(self, pairs: Sequence[tuple[Prompt, str]], *, filler: Prompt | None = None) -> list[Likelihood | None]:
        """Return how likely the model finds each completion after its prompt.

        Args:
            pairs: Prompts with their completions.
            filler: A prompt to fill batches up with where a sharded model takes every process the same number of
                times; every process then has to call this.

        Returns:
            One `Likelihood` a pair, in their order; None for what does not fit the model's context.
        """
        encoded = [self.local.encode_completion(prompt, completion) for prompt, completion in pairs]
        context = self.local.context
        fits = [
            index
            for index, (prompt, completion) in enumerate(encoded)
            if prompt and completion and (context is None or len(prompt) + len(completion) <= context)
        ]
        if len(fits) < len(pairs):
            logger.warning(
                "%s: %d of %d programs do not fit its context of %s tokens and have no log-probability",
                self.name, len(pairs) - len(fits), len(pairs), context,
            )  # fmt: skip
        # Short sequences beside short ones: padding is wasted work.
        fits.sort(key=lambda index: len(encoded[index][0]) + len(encoded[index][1]))
        rows = [encoded[index] for index in fits]
        if filler is not None and self.local.is_sharded:
            rows = even_pairs(rows, self.local.encode_completion(filler, ""), batch_size=self.batch_size)
        logprobs = self.local.logprobs(
            [prompt for prompt, _ in rows], [completion for _, completion in rows], batch_size=self.batch_size
        )
        found: list[Likelihood | None] = [None] * len(pairs)
        for index, logprob in zip(fits, logprobs, strict=False):
            found[index] = Likelihood(logprob=logprob, num_tokens=len(encoded[index][1]), scorer=self.name)
        return found


def even_pairs(
    pairs: Sequence[tuple[list[int], list[int]]], filler: tuple[list[int], list[int]], *, batch_size: int
) -> list[tuple[list[int], list[int]]]:
    """Return `pairs` filled up so that every process of a sharded model scores the same number of batches."""
    needed = max(gather_object([math.ceil(len(pairs) / batch_size)])) * batch_size
    return [*pairs, *[filler] * (needed - len(pairs))]


_CHUNK = 1 << 22


def weights_fingerprint(model: torch.nn.Module) -> str:
    """Return 16 hexadecimal digits for the names, types and bits of a model's parameters and buffers.

    The weights of a sharded model come together one parameter at a time, so that every process has to call this and
    all get what an unsharded model gives. Sums of integers modulo 2**64 do not depend on their order, so that CPU and
    GPU agree.
    """
    total = 0
    for name, tensor in itertools.chain(model.named_parameters(), model.named_buffers()):
        with _whole(tensor) as whole:
            label = f"{name} {whole.dtype} {tuple(whole.shape)}".encode()
            salt = int.from_bytes(hashlib.sha256(label).digest()[:8], "big")
            total = (total + salt * (2 * _bit_sum(whole) + 1)) % 2**64
    return f"{total:016x}"


def model_identity(local: LocalModel) -> dict[str, Any]:
    """Return what of a model decides what it writes: its weights, its tokenizer, the template, the end tokens."""
    with local.inference() as bare:
        weights = weights_fingerprint(bare)
    return {
        "weights": weights,
        "tokenizer": tokenizer_fingerprint(local.processing_class),
        "chat_template": getattr(local.processing_class, "chat_template", None),
        "eos_token_ids": local.eos_token_ids(),
    }


def tokenizer_fingerprint(tokenizer: Any) -> str:
    """Return 32 hexadecimal digits for what decides a tokenizer's tokens; padding and truncation do not."""
    # A processor of several modalities holds the tokenizer of its text.
    tokenizer = getattr(tokenizer, "tokenizer", tokenizer)
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is not None:
        parts = json.loads(backend.to_str())
        parts = {name: value for name, value in parts.items() if name not in ("padding", "truncation")}
    else:
        parts = {"vocabulary": tokenizer.get_vocab()}
    special = {name: str(value) for name, value in tokenizer.special_tokens_map.items()}
    text = json.dumps([parts, special], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:32]


@contextlib.contextmanager
def _whole(tensor: Any) -> Iterator[torch.Tensor]:
    if hasattr(tensor, "full_tensor"):
        # DTensor, as FSDP shards.
        yield tensor.detach().full_tensor()
    elif hasattr(tensor, "ds_id") and not tensor.numel():
        # Sharded by ZeRO-3, and not gathered by `LocalModel.inference` already.
        import deepspeed

        with deepspeed.zero.GatheredParameters([tensor]):
            yield tensor.detach()
    else:
        yield tensor.detach()


def _bit_sum(tensor: torch.Tensor) -> int:
    """Return the sum over positions of bits times an odd weight of the position, modulo 2**64."""
    flat = tensor.contiguous().reshape(-1).view(torch.uint8)
    if flat.numel() % 4 == 0:
        flat = flat.view(torch.int32)
    total = 0
    for start in range(0, flat.numel(), _CHUNK):
        bits = flat[start : start + _CHUNK].to(torch.int64)
        positions = torch.arange(start, start + bits.numel(), device=bits.device, dtype=torch.int64)
        # An even multiplier makes every weight odd: no bit of any position can vanish modulo 2**64.
        weights = positions * 0x5851F42D4C957F2E + 1
        total = (total + int((bits * weights).sum())) % 2**64
    return total
