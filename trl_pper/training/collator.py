"""Put numbers of rows into batches, and scale the log-probabilities of a model by weights and coefficients of rows.

TRL's collator and model are called unchanged. Rows without numbers have no effect on batches and log-probabilities.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

ROW_KEY = "loss_weight"
BATCH_KEY = "loss_weights"
#: Keys of rows for the columns of an objective, by their names, and the key of a batch under which they stand. Rows of
#: an evaluation set may have columns of the bare names.
OBJECTIVE_ROW_KEYS = {
    name: f"objective.{name}" for name in ("pass_rate", "task_pass_rate", "task_accuracy", "logprob", "num_tokens")
}
OBJECTIVE_KEY = "objective_columns"
ROW_KEYS = (ROW_KEY, *OBJECTIVE_ROW_KEYS.values())
_ROW_OF_TOKEN = "row_of_token"


@dataclass(frozen=True)
class ColumnCollator:
    """A collator that adds numbers of rows to the batches of another collator.

    Args:
        collate: The other collator, which gets rows without these numbers.
        padding_free: Whether it concatenates the rows of a batch into a single row.
    """

    collate: Callable[[list[dict[str, Any]]], dict[str, Any]]
    padding_free: bool = False

    def __call__(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """Return the batch, with the numbers of its rows.

        Args:
            rows: Rows of token ids and labels, all with the same keys of `ROW_KEYS`.

        Returns:
            The batch. Weights have type float32 and shape [rows, 1], or [1, tokens] if padding-free. Columns of an
            objective are a mapping to tensors of type float32 and shape [rows]; if padding-free, the mapping has the
            row of each token, too, shape [1, tokens].
        """
        bare = [{name: value for name, value in row.items() if name not in ROW_KEYS} for row in rows]
        batch = self.collate(bare)
        if ROW_KEY in rows[0]:
            weights = _column(rows, ROW_KEY)
            batch[BATCH_KEY] = self._along_tokens(weights, bare, batch) if self.padding_free else weights[:, None]
        columns = {name: _column(rows, key) for name, key in OBJECTIVE_ROW_KEYS.items() if key in rows[0]}
        if columns:
            if self.padding_free:
                columns[_ROW_OF_TOKEN] = self._along_tokens(torch.arange(len(rows)), bare, batch)
            batch[OBJECTIVE_KEY] = columns
        return batch

    def _along_tokens(
        self, values: torch.Tensor, rows: Sequence[Mapping[str, Any]], batch: Mapping[str, Any]
    ) -> torch.Tensor:
        lengths = torch.tensor([len(row["input_ids"]) for row in rows])
        along = values.repeat_interleave(lengths)[None]
        # The tokens that `pad_to_multiple_of` adds have no label, so that their value has no effect.
        return torch.nn.functional.pad(along, (0, batch["input_ids"].size(1) - along.size(1)))


def _column(rows: Sequence[Mapping[str, Any]], key: str) -> torch.Tensor:
    return torch.tensor([row[key] for row in rows], dtype=torch.float32)


def with_scaled_log_probs(
    model: Callable[..., Any],
    weights: torch.Tensor | None,
    columns: Mapping[str, torch.Tensor] | None = None,
    coefficients: Callable[[Mapping[str, torch.Tensor], torch.Tensor], torch.Tensor] | None = None,
) -> Callable[..., Any]:
    """Wrap a model so that the log-probabilities in its outputs are multiplied by weights and coefficients.

    Args:
        model: The model, as `compute_loss` receives it.
        weights: Weights of a `ColumnCollator`; None for no weights.
        columns: Columns of an objective, of a `ColumnCollator`; None for no objective.
        coefficients: Function from the columns and the log-probability of each row's completion, shape [rows], to the
            coefficient of each row, shape [rows]; required with columns.
    """

    def scored(**inputs: Any) -> Any:
        outputs = model(**inputs)
        # `SFTTrainer.compute_loss` sums `-outputs.log_probs` of TRL's fused head. Its metrics use other outputs.
        if not inputs.get("fused_lm_head"):
            return outputs
        log_probs = outputs.log_probs
        if weights is not None:
            outputs.log_probs = outputs.log_probs * _beside(weights, log_probs)
        if columns is not None and coefficients is not None:
            # Of the values before any scaling: the ratio of an objective is that of the model's own probabilities.
            found = coefficients(columns, _row_sums(log_probs.detach().float(), columns))
            tokens = columns.get(_ROW_OF_TOKEN)
            along = found[:, None] if tokens is None else found[tokens]
            outputs.log_probs = outputs.log_probs * _beside(along, log_probs)
        return outputs

    return scored


def _row_sums(log_probs: torch.Tensor, columns: Mapping[str, torch.Tensor]) -> torch.Tensor:
    """Return the sum over each row's tokens, shape [rows]; tokens without a label have the value 0."""
    tokens = columns.get(_ROW_OF_TOKEN)
    rows = columns["pass_rate"].numel()
    if tokens is None:
        _beside(columns["pass_rate"][:, None], log_probs)
        return log_probs.sum(1)
    # No `index_add`, which adds in any order on a GPU: a resumed run has to be the same to the bit.
    own = _beside(tokens, log_probs) == torch.arange(rows, device=log_probs.device)[:, None]
    return torch.where(own, log_probs, 0.0).sum(1)


def _beside(values: torch.Tensor, log_probs: torch.Tensor) -> torch.Tensor:
    # The first token of a row has no log-probability: `log_probs[:, j]` belongs to token j + 1.
    chosen = values if values.size(1) == 1 else values[:, 1:]
    if chosen.size(0) != log_probs.size(0) or chosen.size(1) not in (1, log_probs.size(1)):
        raise ValueError(
            "data_collator: importance_exponent, loss_weighting and objective need log-probabilities of shape "
            f"[rows, tokens - 1]; got {list(log_probs.shape)} for weights of shape {list(values.shape)}. Use TRL's "
            "own collator"
        )
    return chosen.to(log_probs.device)
