"""What an OpenAI-style reply says: its programs, their log-probabilities where all of them are there, its tokens.

Enters: the JSON of a reply. Leaves: `GeneratedProgram` records and a `Usage`. A log-probability is that of everything
the model wrote, the end token too where the server reports it, or of what is kept before a stop; one that is
incomplete is None and never made up.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from trl_pper.generation.kept_tokens import goes_on_with, kept_before, token_ends
from trl_pper.generation.source import GeneratedProgram
from trl_pper.generation.stops import first_stop
from trl_pper.generation.usage import Usage

#: Servers write this for a token outside those they keep track of; it is no log-probability.
_UNKNOWN_LOGPROB = -9999.0
#: Servers round: a token of probability one may come out a little above zero.
_ROUNDING = 1e-3


def choices_of(reply: Mapping[str, Any], *, most: int) -> list[Mapping[str, Any]]:
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


def program_of(
    choice: Mapping[str, Any], *, source: str, stops: Sequence[str] = (), settings: str = ""
) -> GeneratedProgram:
    """Return the program of a choice, cut before the first stop.

    Args:
        choice: One that `choices_of` returned.
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


def usage_of(reply: Mapping[str, Any], choices: list[Mapping[str, Any]]) -> Usage:
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
