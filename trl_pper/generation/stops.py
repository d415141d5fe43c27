"""Stop sequences: where a completion ends because the model has begun something else.

Enters: text and the texts that end it. Leaves: the place of the first of them, or the text before it.

Which tokens of a completion lie before the place where its text is cut, so that P(t) is that of what is kept.

Enters: a text and where its tokens end, or what an OpenAI-style reply says of them. Leaves: the text that is kept, and
how many tokens it consists of. A cut moves to the end of a token where only white space lies between, which no program
misses; through any other token it leaves nothing known.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any


def first_stop(text: str, stops: Iterable[str]) -> int | None:
    r"""Return where the earliest stop in a text begins, or None.

    Args:
        text: What a model wrote.
        stops: The texts that end it, none of them empty.

    Examples:
        >>> first_stop("return x\ndef g(): ...\n# end", ["\n#", "\ndef "])
        8
    """
    return min((place for stop in stops if (place := text.find(stop)) >= 0), default=None)


def cut_at_stop(text: str, stops: Iterable[str]) -> str:
    r"""Return the text before its earliest stop: all of it when there is none.

    Args:
        text: What a model wrote.
        stops: The texts that end it, none of them empty.

    Examples:
        >>> cut_at_stop("return x\n\nQUESTION:\nAdd", ["\nQUESTION:"])
        'return x\n'
    """
    return text[: first_stop(text, stops)]


@dataclass(frozen=True, kw_only=True)
class Kept:
    """What is left of a text after a cut.

    Args:
        text: The text before the cut, up to the nearest end of a token: a little less or a little more white space.
        num_tokens: How many of the tokens it consists of; None when that is not known.
    """

    text: str
    num_tokens: int | None


def token_ends(text: str, said: Any) -> list[int] | None:
    """Return where each token ends, in bytes of UTF-8 from the start of the text; None when the reply does not say.

    The tokens may go on after the text: with an end token, or with a stop that the server left out.

    Args:
        text: The text of a choice.
        said: Its `logprobs`: `tokens`, perhaps with `text_offset`, of a completion, or `content` of a chat.
    """
    if not isinstance(said, Mapping):
        return None
    whole = _encoded(text)
    for pieces in _pieces(said):
        if b"".join(pieces).startswith(whole):
            return list(accumulate(map(len, pieces)))
    offsets = said.get("text_offset")
    if not isinstance(offsets, list) or not offsets or not all(type(offset) is int for offset in offsets):
        return None
    # Some servers count from the start of the prompt.
    starts = [offset - offsets[0] for offset in offsets]
    if starts != sorted(starts) or starts[-1] > len(text):
        return None
    return [len(_encoded(text[:start])) for start in [*starts[1:], len(text)]]


def goes_on_with(text: str, said: Any, stops: Sequence[str]) -> bool:
    """Return whether the tokens go on after the text with a stop: the server wrote it, and left it out of the text."""
    if not isinstance(said, Mapping):
        return False
    whole = _encoded(text)
    return any(joined.startswith(whole + _encoded(stop)) for joined in map(b"".join, _pieces(said)) for stop in stops)


def kept_before(text: str, cut: int, ends: Sequence[int] | None) -> Kept:
    r"""Return what is kept of a text that is cut at a place.

    Args:
        text: What was written.
        cut: Where it is cut.
        ends: Where its tokens end, in bytes of UTF-8 from the start of the text, ascending; None when unknown.

    Examples:
        >>> kept_before("return x\n\n# end", 9, [6, 8, 10, 15])
        Kept(text='return x', num_tokens=2)
        >>> kept_before("f(x)\n# end", 4, [3, 5, 10])
        Kept(text='f(x)\n', num_tokens=2)
    """
    if ends is None:
        return Kept(text=text[:cut], num_tokens=None)
    whole = _encoded(text[:cut])
    number = bisect_right(ends, len(whole))
    boundary = ends[number - 1] if number else 0
    if whole[boundary:].strip():
        written = _encoded(text)
        boundary = ends[number] if number < len(ends) else len(written) + 1
        # Tokens such as ")\n" reach into a stop that begins with a line break.
        if boundary > len(written) or written[len(whole) : boundary].strip():
            return Kept(text=text[:cut], num_tokens=None)
        whole, number = written, number + 1
    return Kept(text=whole[:boundary].decode("utf-8", "surrogatepass"), num_tokens=number)


def _pieces(said: Mapping[str, Any]) -> list[list[bytes]]:
    """Return the tokens as text and, where a reply has them, as bytes: a character may be spread over tokens."""
    content = said.get("content")
    entries = [entry for entry in content if isinstance(entry, Mapping)] if isinstance(content, list) else []
    tokens = [entry.get("token") for entry in entries] if entries else said.get("tokens")
    found = []
    if isinstance(tokens, list) and tokens and all(isinstance(token, str) for token in tokens):
        found.append([_encoded(token) for token in tokens])
    spelled = [list(each) for entry in entries if isinstance(each := entry.get("bytes"), list)]
    if entries and len(spelled) == len(entries) and all(_is_byte(byte) for each in spelled for byte in each):
        found.append([bytes(each) for each in spelled])
    return found


def _is_byte(value: Any) -> bool:
    return type(value) is int and 0 <= value < 256


def _encoded(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")
