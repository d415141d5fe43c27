"""What an OpenAI-style reply says: its programs, their log-probabilities where all of them are there, its tokens.

Enters: the JSON of a reply. Leaves: `GeneratedProgram` records and a `Usage`. A log-probability is that of everything
the model wrote, the end token too where the server reports it, or of what is kept before a stop; one that is
incomplete is None and never made up.

What programs from a server took: requests, tokens, and the cost at given prices.

Enters: what each reply says of its tokens. Leaves: sums. Replies that say nothing are counted as such and not guessed
at; tokens of a request whose reply never came are unknown, too.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

from trl_pper.generation.source import GeneratedProgram
from trl_pper.generation.stops import first_stop, goes_on_with, kept_before, token_ends

#: Servers write this for a token outside those they keep track of; it is no log-probability.
_UNKNOWN_LOGPROB = -9999.0
#: Servers round: a token of probability one may come out a little above zero.
_ROUNDING = 1e-3


def read_choices(reply: Mapping[str, Any], *, most: int) -> list[Mapping[str, Any]]:
    """Return the choices of a reply, which may be none.

    Args:
        reply: The JSON object.
        most: How many were asked for; further ones are left out.

    Raises:
        ValueError: There is no list of choices, or a choice holds no text.
    """
    choices = reply.get("choices")
    if not isinstance(choices, list):
        raise ValueError(f"holds no list of choices; got {str(dict(reply))[:200]}")
    for choice in choices:
        message = choice.get("message") if isinstance(choice, dict) else None
        if not (isinstance(message, dict) or (isinstance(choice, dict) and isinstance(choice.get("text"), str))):
            raise ValueError(f"holds a choice without text or message; got {str(choice)[:200]}")
    return choices[:most]


def read_program(
    choice: Mapping[str, Any], *, source: str, stops: Sequence[str] = (), settings: str = ""
) -> GeneratedProgram:
    """Return the program of a choice, cut before the first stop.

    Args:
        choice: One that `read_choices` returned.
        source: Who generated it.
        stops: Texts at which a completion ends, whether or not the server did so.
        settings: How it was generated, for the record.
    """
    message = choice.get("message") or {}
    text = choice["text"] if isinstance(choice.get("text"), str) else message.get("content")
    # Reasoning is no part of the text, and its tokens may be among those the log-probabilities are of.
    reasons = bool(message.get("reasoning_content") or message.get("reasoning"))
    said = choice.get("logprobs")
    logprobs = None if reasons or text is None else _token_logprobs(said)
    text = text or ""
    cut = first_stop(text, stops)
    if cut is None and goes_on_with(text, said, stops):
        cut = len(text)
    if cut is not None:
        ends = token_ends(text, said)
        kept = kept_before(text, cut, ends if logprobs and ends and len(ends) == len(logprobs) else None)
        # Of no token at all there is no probability.
        text, logprobs = kept.text, logprobs[: kept.num_tokens] if logprobs and kept.num_tokens else None
    return GeneratedProgram(
        completion=text,
        logprob=None if logprobs is None else math.fsum(logprobs),
        num_tokens=None if logprobs is None else len(logprobs),
        source=source,
        scorer="" if logprobs is None else source,
        settings=settings,
    )


def read_usage(reply: Mapping[str, Any], choices: list[Mapping[str, Any]]) -> Usage:
    """Return what a reply says of its tokens, and how many of its programs were cut off."""
    said = reply.get("usage")
    counts = [said.get(name) for name in ("prompt_tokens", "completion_tokens")] if isinstance(said, dict) else []
    known = [count for count in counts if isinstance(count, int)]
    prompt, completion = known if len(known) == 2 else (0, 0)
    return Usage(
        prompt_tokens=prompt,
        completion_tokens=completion,
        uncounted=int(len(known) != 2),
        programs=len(choices),
        cut_off=sum(choice.get("finish_reason") == "length" for choice in choices),
    )


def _token_logprobs(said: Any) -> list[float] | None:
    """Return the log-probability of each token, in nats; None unless all of them are there."""
    if not isinstance(said, dict):
        return None
    tokens = said.get("tokens")
    values = said.get("token_logprobs")
    if values is None:
        entries = said.get("content")
        values = [e.get("logprob") if isinstance(e, dict) else None for e in entries] if entries else None
    if not isinstance(values, list) or not values or (isinstance(tokens, list) and len(tokens) != len(values)):
        return None
    if not all(_is_logprob(value) for value in values):
        return None
    return [min(value, 0.0) for value in values]


def _is_logprob(value: Any) -> bool:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return number and math.isfinite(value) and _UNKNOWN_LOGPROB < value <= _ROUNDING


@dataclass(frozen=True, kw_only=True)
class Usage:
    """Counts that add up.

    Args:
        requests: Requests sent, retries among them.
        retries: Requests sent again after an error.
        prompt_tokens: Tokens of the prompts, as the server counts them.
        completion_tokens: Tokens of the completions, as the server counts them.
        programs: Programs received.
        cut_off: Programs that ended at the longest length (`finish_reason` "length") and not where the model ended.
        missing: Programs asked for that the server did not send.
        uncounted: Replies without token counts; with any of them the sums of tokens are lower bounds.

    Examples:
        >>> (Usage(requests=1, prompt_tokens=3) + Usage(requests=2)).describe()
        '3 requests (0 retries), 3 prompt and 0 completion tokens'
        >>> Usage(prompt_tokens=2_000_000, completion_tokens=500_000).cost(0.15, 0.6)
        0.6
    """

    requests: int = 0
    retries: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    programs: int = 0
    cut_off: int = 0
    missing: int = 0
    uncounted: int = 0

    def __add__(self, other: Usage) -> Usage:
        return Usage(**{one.name: getattr(self, one.name) + getattr(other, one.name) for one in fields(self)})

    def cost(self, prompt_price: float, completion_price: float) -> float:
        """Return the cost of the tokens, in the currency of the prices.

        Args:
            prompt_price: Price of a million prompt tokens.
            completion_price: Price of a million completion tokens.
        """
        return (self.prompt_tokens * prompt_price + self.completion_tokens * completion_price) / 1e6

    def describe(self, prompt_price: float | None = None, completion_price: float | None = None) -> str:
        """Return one line for people, with the cost where a price is given."""
        least = "at least " if self.uncounted else ""
        line = (
            f"{self.requests} requests ({self.retries} retries), {least}{self.prompt_tokens} prompt and "
            f"{self.completion_tokens} completion tokens"
        )
        if prompt_price is not None or completion_price is not None:
            line += f", cost {least}{self.cost(prompt_price or 0.0, completion_price or 0.0):.4f}"
        if self.cut_off:
            line += f"; {self.cut_off} of {self.programs} programs cut off at the longest length"
        if self.missing:
            line += f"; {self.missing} programs not sent"
        return line
