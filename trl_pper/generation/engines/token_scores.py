"""Note the log-probabilities of the tokens that `generate` writes, while it writes them.

`generate` can return scores itself, but they take steps * rows * vocabulary floats. These processors note what may
be chosen: a few numbers for each row and step.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from transformers import LogitsProcessor


@dataclass(frozen=True)
class Completion:
    """A completion with what its model thought of it.

    Args:
        ids: The token ids, up to the first end token.
        logprobs: Log-probability of each token, in nats, given those before it; None where it was not noted.
        end_logprobs: For each token the log-probabilities of the end tokens in its place; the keys are their ids.
    """

    ids: list[int]
    logprobs: Sequence[float] | None = None
    end_logprobs: Sequence[dict[int, float]] = field(default=())

    def logprob(self, number: int, end: int | None) -> float | None:
        """Return the log-probability of the first `number` tokens with an end token behind them, in nats.

        Args:
            number: Number of tokens.
            end: The end token; None for none.

        Returns:
            None if it was not noted.
        """
        if self.logprobs is None:
            return None
        total = float(sum(self.logprobs[:number]))
        if end is not None:
            if number >= len(self.end_logprobs) or end not in self.end_logprobs[number]:
                return None
            total += self.end_logprobs[number][end]
        return total


class SampleScores(LogitsProcessor):  # type: ignore[misc]
    """A logits processor that notes log-probabilities of samples, and changes nothing.

    It has to stand before processors that change scores; `generate` calls those of temperature and truncation last.

    Args:
        end_token_ids: The end tokens.
    """

    def __init__(self, end_token_ids: Sequence[int]) -> None:
        self.end_token_ids = list(end_token_ids)
        self._chosen: list[torch.Tensor] = []
        self._ends: list[torch.Tensor] = []
        self._last: torch.Tensor | None = None

    def __call__(self, input_ids: torch.LongTensor, scores: torch.Tensor) -> torch.Tensor:
        """Return the scores unchanged, shape [rows, vocabulary]."""
        self._choose(input_ids[:, -1])
        self._last = scores.log_softmax(-1)
        self._ends.append(self._last[:, self.end_token_ids])
        return scores

    @property
    def steps(self) -> int:
        """Number of steps noted."""
        return len(self._ends)

    def _choose(self, tokens: torch.Tensor) -> None:
        # Which tokens were chosen is seen one step later.
        if self._last is not None:
            self._chosen.append(self._last.gather(-1, tokens[:, None])[:, 0])

    def completions(self, written: torch.Tensor, rows: Sequence[list[int]]) -> list[Completion]:
        """Return the completions with their log-probabilities.

        Args:
            written: Token ids behind the prompts, as `generate` returned them, shape [rows, steps].
            rows: The token ids of each row up to its first end token.
        """
        # On a GPU `generate` looks for the end of all rows a step late, and has then seen the last tokens.
        if len(self._chosen) < written.shape[1]:
            self._choose(written[:, -1])
        self._last = None
        chosen = torch.stack(self._chosen, 1).tolist()
        ends = torch.stack(self._ends, 1).tolist()
        return [
            Completion(ids, logprobs[: len(ids)], [dict(zip(self.end_token_ids, one, strict=True)) for one in end])
            for ids, logprobs, end in zip(rows, chosen, ends, strict=True)
        ]


class BeamScores(LogitsProcessor):  # type: ignore[misc]
    """A logits processor that notes log-probabilities of beams, and changes nothing.

    It has to be the first processor. Beam search chooses tokens among the `number` best continuations of all beams of
    a prompt, so that each is among the `number` best of its own beam.

    Args:
        number: Number of tokens to note for each beam.
        end_token_ids: The end tokens.
    """

    def __init__(self, number: int, end_token_ids: Sequence[int]) -> None:
        self.number = number
        self.end_token_ids = list(end_token_ids)
        self._best: list[tuple[torch.Tensor, torch.Tensor]] = []
        self._ends: list[torch.Tensor] = []

    def __call__(self, input_ids: torch.LongTensor, scores: torch.Tensor) -> torch.Tensor:
        """Return the scores unchanged, log-probabilities, shape [rows, vocabulary]."""
        found = scores.topk(min(self.number, scores.shape[-1]), dim=-1)
        self._best.append((found.values, found.indices))
        self._ends.append(scores[:, self.end_token_ids])
        return scores

    @property
    def steps(self) -> int:
        """Number of steps noted."""
        return len(self._ends)

    def completions(self, beam_indices: torch.Tensor, rows: Sequence[list[int]]) -> list[Completion]:
        """Return the completions with their log-probabilities.

        Args:
            beam_indices: For each completion and step the row whose scores its token was chosen by, below 0 behind
                its end, shape [completions, steps], as `generate` returns it.
            rows: The token ids of each completion up to its first end token.
        """
        values = torch.stack([one for one, _ in self._best]).tolist()
        tokens = torch.stack([one for _, one in self._best]).tolist()
        ends = torch.stack(self._ends).tolist()
        found = []
        for ids, parents in zip(rows, beam_indices.tolist(), strict=True):
            steps = range(len(ids))
            noted = [dict(zip(tokens[at][parents[at]], values[at][parents[at]], strict=True)) for at in steps]
            chosen = [best.get(token) for best, token in zip(noted, ids, strict=True)]
            # Of equal tokens another may have been noted than was chosen.
            logprobs = None if None in chosen else [one for one in chosen if one is not None]
            end = [dict(zip(self.end_token_ids, ends[at][parents[at]], strict=True)) for at in steps]
            found.append(Completion(ids, logprobs, end))
        return found
