"""Read programs, log-probabilities and token counts from the replies of OpenAI-compatible servers.

A log-probability is read only if the reply has one for every token of the text, and for nothing else.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

from trl_pper.generation.source import GeneratedProgram
from trl_pper.generation.stops import first_stop, goes_on_with, kept_before, token_ends

#: Servers send this number for a token whose log-probability they do not know.
_UNKNOWN_LOGPROB = -9999.0
#: Servers round: the log-probability of a token with probability 1 may be slightly above 0.
_ROUNDING = 1e-3
#: Kinds of parts without tokens. Parts of all other kinds but text, whatever a server calls its reasoning, may have
#: tokens that the log-probabilities cover.
_IMAGES = ("image", "image_url")


def read_choices(reply: Mapping[str, Any], *, most: int) -> list[Mapping[str, Any]]:
    """Return the choices of a reply, an empty list if it has none.

    Args:
        reply: The JSON object.
        most: Number of choices requested; further choices are ignored.

    Raises:
        ValueError: The reply has no list of choices, a choice has no text, or its content cannot be read.
    """
    choices = reply.get("choices")
    if not isinstance(choices, list):
        raise ValueError(f"holds no list of choices; got {str(dict(reply))[:200]}")
    for choice in choices:
        message = choice.get("message") if isinstance(choice, dict) else None
        if not (isinstance(message, dict) or (isinstance(choice, dict) and isinstance(choice.get("text"), str))):
            raise ValueError(f"holds a choice without text or message; got {str(choice)[:200]}")
        content = message.get("content") if isinstance(message, dict) else None
        parts = content if isinstance(content, list) else []
        if not (content is None or isinstance(content, str | list)) or not all(map(_is_part, parts)):
            raise ValueError(f"holds content that is neither text nor a list of parts; got {str(content)[:200]}")
    return choices[:most]


def read_program(
    choice: Mapping[str, Any], *, source: str, stops: Sequence[str] = (), settings: str = ""
) -> GeneratedProgram:
    """Return the program of a choice, cut before the first stop.

    Args:
        choice: A choice that `read_choices` returned.
        source: The name of the model that wrote it.
        stops: Texts at which a completion ends; the server need not have stopped there.
        settings: How it was generated, for the record.
    """
    text, reasons = _text_and_reasoning(choice)
    said = choice.get("logprobs")
    logprobs = None if reasons or text is None else _token_logprobs(said)
    text = text or ""
    cut = first_stop(text, stops)
    if cut is None and goes_on_with(text, said, stops):
        cut = len(text)
    if cut is not None:
        ends = token_ends(text, said)
        kept = kept_before(text, cut, ends if logprobs and ends and len(ends) == len(logprobs) else None)
        # An empty completion has no log-probability.
        text, logprobs = kept.text, logprobs[: kept.num_tokens] if logprobs and kept.num_tokens else None
    # Servers of vLLM name the stop that ended a completion; others say "stop" for an end token, too.
    stopped = cut is not None or isinstance(choice.get("stop_reason"), str)
    ended = "length" if choice.get("finish_reason") == "length" else ""
    return GeneratedProgram(
        completion=text,
        logprob=None if logprobs is None else math.fsum(logprobs),
        num_tokens=None if logprobs is None else len(logprobs),
        source=source,
        scorer="" if logprobs is None else source,
        settings=settings,
        finish_reason="stop" if stopped else ended,
    )


def _text_and_reasoning(choice: Mapping[str, Any]) -> tuple[str | None, bool]:
    """Return the text of a choice, None if it has none, and whether the model wrote reasoning beside it."""
    message = choice.get("message") or {}
    content = choice["text"] if isinstance(choice.get("text"), str) else message.get("content")
    # Reasoning is no part of the text, but the log-probabilities may cover its tokens.
    reasons = bool(message.get("reasoning_content") or message.get("reasoning"))
    if isinstance(content, list):
        reasons = reasons or any(part["type"] not in ("text", *_IMAGES) for part in content)
        texts = [part["text"] for part in content if part["type"] == "text"]
        content = "".join(texts) if texts else None
    return content, reasons


def _is_part(part: Any) -> bool:
    """Return whether an item of a message's content is a part that `_text_and_reasoning` can read."""
    kind = part.get("type") if isinstance(part, dict) else None
    return isinstance(kind, str) and (kind != "text" or isinstance(part.get("text"), str))


def read_usage(reply: Mapping[str, Any], choices: list[Mapping[str, Any]]) -> Usage:
    """Return the usage that a reply reports: its tokens, and how many of its programs reached the longest length."""
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
    """Return the log-probability of each token, in nats; None unless the reply has all of them."""
    if not isinstance(said, dict):
        return None
    # Completions have `tokens` and `token_logprobs`, chats have `content`.
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
    """A record of requests and tokens; usages can be added.

    Args:
        requests: Requests sent, including retries.
        retries: Requests sent again after an error.
        prompt_tokens: Tokens of the prompts, as the server counts them.
        completion_tokens: Tokens of the completions, as the server counts them.
        programs: Programs received.
        cut_off: Programs that ended at the longest length (`finish_reason` "length") before the model had finished.
        missing: Programs requested that the server did not send.
        uncounted: Replies without token counts; if there are any, the sums of tokens are lower bounds.

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
        """Return a readable line, with the cost if a price is given."""
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
