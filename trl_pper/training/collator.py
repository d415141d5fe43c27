"""Loss weights on their way: from the rows of the data set into the batch, from the batch onto the log-probabilities.

Enters: rows with a `loss_weight` beside their tokens, and the collator and the model of TRL, which are called as they
are. Leaves: batches with `loss_weights`, and model outputs whose log-probabilities are scaled by them. Rows without a
weight pass through untouched.
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
    """Collate rows as another collator does and put their weights beside the tokens.

    Args:
        collate: The collator that makes the batch; it never sees a weight.
        padding_free: Whether it joins the rows to a single one, one behind the other.
    """

    collate: Callable[[list[dict[str, Any]]], dict[str, Any]]
    padding_free: bool = False

    def __call__(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """Return the batch; of weighted rows with float32 weights: [rows, 1], or [1, tokens] where rows are joined."""
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
        # What `pad_to_multiple_of` adds carries no label, so its weight is never read.
        return torch.nn.functional.pad(along, (0, batch["input_ids"].size(1) - along.size(1)))


def with_scaled_log_probs(model: Callable[..., Any], weights: torch.Tensor) -> Callable[..., Any]:
    """Return a callable that calls `model` and, where TRL's fused head scores the labels, scales what the loss sums.

    `SFTTrainer.compute_loss` sums `-outputs.log_probs`; every other output, which feeds the metrics, stays as it was.

    Args:
        model: The model, as `compute_loss` is handed it.
        weights: Weights of a `WeightCollator`.
    """

    def scored(**inputs: Any) -> Any:
        outputs = model(**inputs)
        if inputs.get("fused_lm_head"):
            outputs.log_probs = outputs.log_probs * _beside(weights, outputs.log_probs)
        return outputs

    return scored


def _beside(weights: torch.Tensor, log_probs: torch.Tensor) -> torch.Tensor:
    # `log_probs[:, j]` belongs to token j + 1.
    chosen = weights if weights.size(1) == 1 else weights[:, 1:]
    if chosen.size(0) != log_probs.size(0) or chosen.size(1) not in (1, log_probs.size(1)):
        raise ValueError(
            "data_collator: importance_exponent and loss_weighting need log-probabilities of shape [rows, tokens - 1];"
            f" got {list(log_probs.shape)} for weights of shape {list(weights.shape)}. Use TRL's own collator"
        )
    return chosen.to(log_probs.device)
