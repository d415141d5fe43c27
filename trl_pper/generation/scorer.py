"""Compute the log-probability of programs that another model wrote, and fingerprints of weights and tokenizers.

Log-probabilities of different models are not comparable, so each is stored with the name of its model. Fingerprints
tell whether two models write the same, without a copy of the weights. Two different models have equal fingerprints
with a probability of about 2**-64. Fingerprints do not protect against somebody who constructs a collision.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import json
import logging
import math
from collections.abc import Iterator, Mapping, Sequence
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
    """A log-probability of a completion with the name of the model that computed it.

    Args:
        logprob: log P(completion | prompt), the sum of the token log-probabilities in nats.
        num_tokens: Number of tokens in the sum, with the end token unless the completion is truncated.
        scorer: The model's name.
    """

    logprob: float
    num_tokens: int
    scorer: str


class Scorer:
    """A model that computes the log-probability of programs, whoever wrote them.

    Args:
        model: A causal language model.
        processing_class: The model's tokenizer. The writer of the programs may have another tokenizer.
        name: The scorer's name in the record; the model's name by default.
        batch_size: How many sequences go through the model at once.
        chat_template_kwargs: Further arguments of the chat template, such as `enable_thinking`.

    Raises:
        ValueError: The tokenizer is missing.

    Examples:
        `BeamSampleCollector(source=teacher, scorer=Scorer(model, tokenizer))`
    """

    def __init__(
        self,
        model: Any,
        processing_class: Any = None,
        *,
        name: str | None = None,
        batch_size: int = 8,
        chat_template_kwargs: Mapping[str, Any] | None = None,
    ) -> None:
        if isinstance(model, LocalModel):
            self.local = model
        else:
            local = own_model(model, processing_class, chat_template_kwargs)
            if local is None:
                raise ValueError("model: required; pass the model that scores, and its tokenizer")
            self.local = local
        self.name = name or self.local.name
        self.batch_size = batch_size

    def check(self, prompts: Sequence[Prompt]) -> None:
        """Check that the model can score completions of these prompts, before anything is generated.

        Raises:
            ValueError: Prompts are chat messages, and the tokenizer has no chat template.
        """
        chats = any(not isinstance(prompt, str) for prompt in prompts)
        if chats and not getattr(self.local.processing_class, "chat_template", None):
            raise ValueError(
                f"scorer: the tokenizer of {self.name} has no chat template, and the tasks are chat messages; choose "
                "a model that has one, or text prompts"
            )

    def score(
        self,
        pairs: Sequence[tuple[Prompt, str]],
        *,
        truncated: Sequence[bool] | None = None,
        token_ids: Sequence[Sequence[int]] | None = None,
        filler: Prompt | None = None,
    ) -> list[Likelihood | None]:
        """Return the likelihood of each completion given its prompt.

        Args:
            pairs: Prompts with their completions.
            truncated: For each pair whether its completion is truncated, and so scored without an end token; None if
                all are whole.
            token_ids: For each pair the ids of the completion as `Encoder.row` takes them; None for the ids that the
                tokenizer makes of the texts.
            filler: A prompt to fill up batches with, for a sharded model; all processes have to call this method.

        Returns:
            A `Likelihood` for each pair, in order; None if the pair does not fit the model's context.
        """
        encoder = self.local.encoder
        encoded = [
            encoder.pair(prompt, completion, ended=not cut_off, token_ids=ids)
            for (prompt, completion), cut_off, ids in zip(
                pairs, truncated or [False] * len(pairs), token_ids or [()] * len(pairs), strict=True
            )
        ]
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
        # Sorted by length: a batch of sequences of similar length has little padding.
        fits.sort(key=lambda index: len(encoded[index][0]) + len(encoded[index][1]))
        rows = [encoded[index] for index in fits]
        # A forward pass of a sharded model needs all processes, so that they all have to run as many batches.
        if filler is not None and self.local.is_sharded:
            rows = even_pairs(rows, encoder.pair(filler, ""), batch_size=self.batch_size)
        logprobs = self.local.logprobs(
            [prompt for prompt, _ in rows], [completion for _, completion in rows], batch_size=self.batch_size
        )
        found: list[Likelihood | None] = [None] * len(pairs)
        # Fillers stand at the end and have no index.
        for index, logprob in zip(fits, logprobs, strict=False):
            found[index] = Likelihood(logprob=logprob, num_tokens=len(encoded[index][1]), scorer=self.name)
        return found


def even_pairs(
    pairs: Sequence[tuple[list[int], list[int]]], filler: tuple[list[int], list[int]], *, batch_size: int
) -> list[tuple[list[int], list[int]]]:
    """Fill up `pairs` so that every process of a sharded model scores the same number of batches."""
    needed = max(gather_object([math.ceil(len(pairs) / batch_size)])) * batch_size
    return [*pairs, *[filler] * (needed - len(pairs))]


_CHUNK = 1 << 22


def weights_fingerprint(model: torch.nn.Module) -> str:
    """Return a fingerprint of the names, types and bits of a model's parameters and buffers.

    Equal weights have equal fingerprints on every device, sharded or not. The parameters of a sharded model are
    gathered in turn, so that all processes have to call this function.

    Returns:
        16 hexadecimal digits.
    """
    # Sums of integers modulo 2**64 do not depend on the order of summation, so that CPU and GPU agree.
    total = 0
    for name, tensor in itertools.chain(model.named_parameters(), model.named_buffers()):
        with _whole(tensor) as whole:
            label = f"{name} {whole.dtype} {tuple(whole.shape)}".encode()
            salt = int.from_bytes(hashlib.sha256(label).digest()[:8], "big")
            total = (total + salt * (2 * _bit_sum(whole) + 1)) % 2**64
    return f"{total:016x}"


def model_identity(local: LocalModel) -> dict[str, Any]:
    """Return everything in a model that decides its programs: weights, tokenizer, chat template and end tokens."""
    # Inside `inference`, weights that DeepSpeed shards are gathered together instead of in turn.
    with local.inference() as bare:
        weights = weights_fingerprint(bare)
    return {
        "weights": weights,
        "tokenizer": tokenizer_fingerprint(local.processing_class),
        "chat_template": local.chat_template or getattr(local.processing_class, "chat_template", None),
        **({"chat_template_kwargs": dict(local.chat_template_kwargs)} if local.chat_template_kwargs else {}),
        "eos_token_ids": local.eos_token_ids(),
    }


def tokenizer_fingerprint(tokenizer: Any) -> str:
    """Return a fingerprint of everything that decides the tokens of a text: 32 hexadecimal digits."""
    # A multimodal processor holds the tokenizer of text in an attribute.
    tokenizer = getattr(tokenizer, "tokenizer", tokenizer)
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is not None:
        # Padding and truncation are settings of the last call and may differ between equal tokenizers.
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
        # A DTensor: the shards of FSDP.
        yield tensor.detach().full_tensor()
    elif hasattr(tensor, "ds_id") and not tensor.numel():
        # A parameter that ZeRO-3 shards and `LocalModel.inference` has not gathered.
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
        # The even multiplier makes every weight odd, so that no bit of any position vanishes modulo 2**64.
        weights = positions * 0x5851F42D4C957F2E + 1
        total = (total + int((bits * weights).sum())) % 2**64
    return total
