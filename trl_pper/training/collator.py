"""Put the loss weights of rows into batches, and scale the log-probabilities of a model by them.

TRL's collator and model are called unchanged. Rows without a weight have no effect on batches and log-probabilities.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

ROW_KEY = "loss_weight"
BATCH_KEY = "loss_weights"


@dataclass(frozen=True)
class WeightCollator:
    """A collator that adds loss weights to the batches of another collator.

    Args:
        collate: The other collator, which gets rows without weights.
        padding_free: Whether it concatenates the rows of a batch into a single row.
    """

    collate: Callable[[list[dict[str, Any]]], dict[str, Any]]
    padding_free: bool = False

    def __call__(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """Return the batch, with the weights of weighted rows.

        Args:
            rows: Rows of token ids and labels, all with a weight or all without.

        Returns:
            The batch. Weights have type float32 and shape [rows, 1], or [1, tokens] if padding-free.
        """
        bare = [{name: value for name, value in row.items() if name != ROW_KEY} for row in rows]
        batch = self.collate(bare)
        if ROW_KEY in rows[0]:
            weights = torch.tensor([row[ROW_KEY] for row in rows], dtype=torch.float32)
            batch[BATCH_KEY] = self._along_tokens(weights, bare, batch) if self.padding_free else weights[:, None]
        return batch

    def _along_tokens(
        self, weights: torch.Tensor, rows: Sequence[Mapping[str, Any]], batch: Mapping[str, Any]
    ) -> torch.Tensor:
        lengths = torch.tensor([len(row["input_ids"]) for row in rows])
        along = weights.repeat_interleave(lengths)[None]
        # The tokens that `pad_to_multiple_of` adds have no label, so that their weight has no effect.
        return torch.nn.functional.pad(along, (0, batch["input_ids"].size(1) - along.size(1)))


def with_scaled_log_probs(model: Callable[..., Any], weights: torch.Tensor) -> Callable[..., Any]:
    """Wrap a model so that the log-probabilities in its outputs are multiplied by weights.

    Args:
        model: The model, as `compute_loss` receives it.
        weights: Weights of a `WeightCollator`.
    """

    def scored(**inputs: Any) -> Any:
        outputs = model(**inputs)
        # `SFTTrainer.compute_loss` sums `-outputs.log_probs` of TRL's fused head. Its metrics use other outputs.
        if inputs.get("fused_lm_head"):
            outputs.log_probs = outputs.log_probs * _beside(weights, outputs.log_probs)
        return outputs

    return scored


def _beside(weights: torch.Tensor, log_probs: torch.Tensor) -> torch.Tensor:
    # The first token of a row has no log-probability: `log_probs[:, j]` belongs to token j + 1.
    chosen = weights if weights.size(1) == 1 else weights[:, 1:]
    if chosen.size(0) != log_probs.size(0) or chosen.size(1) not in (1, log_probs.size(1)):
        raise ValueError(
            "data_collator: importance_exponent and loss_weighting need log-probabilities of shape [rows, tokens - 1];"
            f" got {list(log_probs.shape)} for weights of shape {list(weights.shape)}. Use TRL's own collator"
        )
    return chosen.to(log_probs.device)
