"""P(t) of programs that somebody else wrote: one teacher-forced pass under a named model, with its own tokenizer.

Enters: prompts with completions, as text. Leaves: log P(completion | prompt) in nats and the number of tokens it sums
over. Log-probabilities of different models do not compare, so that each is kept with the name of its model. What is
longer than the model's context has none.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from accelerate.utils import gather_object

from trl_pper.generation.local_model import LocalModel
from trl_pper.generation.local_programs import own_model
from trl_pper.replay import ReplayBuffer
from trl_pper.task import Prompt

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


def rescore(buffer: ReplayBuffer, scorer: Scorer, *, only_missing: bool = True) -> ReplayBuffer:
    """Give the programs of a buffer the log-probabilities of a named model.

    Args:
        buffer: Whose programs to score; it stays as it is.
        scorer: The model.
        only_missing: Whether programs that have a log-probability keep it. Possibilities of different models do not
            compare: with False all are of this one, and a program that does not fit its context has none.

    Returns:
        A buffer with the same settings, order and pass rates.

    Raises:
        ValueError: A prompt is chat messages, and the scorer's tokenizer has no template for them.
    """
    chosen = [one for one in buffer if one.logprob is None or not only_missing]
    scorer.check([one.prompt for one in chosen])
    found = scorer.score([(one.prompt, one.completion) for one in chosen])
    likelihoods = {one.key: likelihood for one, likelihood in zip(chosen, found, strict=True)}
    none = {"logprob": None, "num_tokens": None, "scorer": ""}
    result = ReplayBuffer(**{**buffer.settings(), "priority": buffer.priority})
    result.add(
        replace(one, **(asdict(likelihood) if (likelihood := likelihoods[one.key]) else none))
        if one.key in likelihoods
        else one
        for one in buffer
    )
    return result
