"""Fingerprints of weights and tokenizers: whether two models would write the same, without keeping a copy.

Enters: a model or a tokenizer. Leaves: 16 or 32 hexadecimal digits. Equal weights have equal fingerprints on every
device; different ones differ but for a chance of about 2**-64. They are no defence against somebody who wants a
collision.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import json
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from trl_pper.generation.local_model import LocalModel

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
