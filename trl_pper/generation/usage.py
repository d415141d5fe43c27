"""What programs from a server took: requests, tokens, and the cost at given prices.

Enters: what each reply says of its tokens. Leaves: sums. Replies that say nothing are counted as such and not guessed
at; tokens of a request whose reply never came are unknown, too.
"""

from __future__ import annotations

from dataclasses import dataclass, fields


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
