"""Cut completions at stop sequences, and count the tokens before the cut.

A stop is a text at which a completion ends because the model goes on to something else, such as another problem. The
tokens before the cut are counted so that the log-probability covers exactly the remaining text.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any


def first_stop(text: str, stops: Iterable[str]) -> int | None:
    r"""Return the index at which the earliest stop in a text begins, or None without a stop.

    Args:
        text: The completion.
        stops: Texts that end it, none empty.

    Examples:
        >>> first_stop("return x\ndef g(): ...\n# end", ["\n#", "\ndef "])
        8
    """
    return min((place for stop in stops if (place := text.find(stop)) >= 0), default=None)


def cut_at_stop(text: str, stops: Iterable[str]) -> str:
    r"""Return the part of a text before its earliest stop; the whole text without a stop.

    Args:
        text: The completion.
        stops: Texts that end it, none empty.

    Examples:
        >>> cut_at_stop("return x\n\nQUESTION:\nAdd", ["\nQUESTION:"])
        'return x\n'
    """
    return text[: first_stop(text, stops)]


@dataclass(frozen=True, kw_only=True)
class Kept:
    """A text that was cut, with its number of tokens.

    Args:
        text: The text before the cut; it may have less or more white space at its end, so that it ends with a token.
        num_tokens: Number of tokens of the text; None if unknown.
    """

    text: str
    num_tokens: int | None


def token_ends(text: str, said: Any) -> list[int] | None:
    """Return where each token of a server's choice ends in its text; None if the reply does not tell.

    Args:
        text: The text of the choice.
        said: The field `logprobs` of the choice: `tokens`, perhaps with `text_offset`, of a completion, or `content`
            of a chat.

    Returns:
        Ends in bytes of UTF-8 from the start of the text.
    """
    if not isinstance(said, Mapping):
        return None
    whole = _encoded(text)
    # Tokens may go on after the text: with an end token, or with a stop that the server removed from the text.
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
    """Return whether the tokens continue the text with a stop, which the server then removed from the text."""
    if not isinstance(said, Mapping):
        return False
    whole = _encoded(text)
    return any(joined.startswith(whole + _encoded(stop)) for joined in map(b"".join, _pieces(said)) for stop in stops)


def kept_before(text: str, cut: int, ends: Sequence[int] | None) -> Kept:
    r"""Cut a text at an index, moved to the end of a token if only white space lies between.

    Args:
        text: The text.
        cut: Index of the first character after the cut.
        ends: Where the tokens end, in bytes of UTF-8 from the start of the text, ascending; None if unknown.

    Returns:
        The text before the cut. Its number of tokens is None if the cut goes through a token.

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
    # White space at the end of a program has no effect, so that the cut may move back over it to the last token.
    if whole[boundary:].strip():
        written = _encoded(text)
        boundary = ends[number] if number < len(ends) else len(written) + 1
        # Tokens such as ")\n" reach into a stop that begins with a line break: the cut moves forward to their end.
        if boundary > len(written) or written[len(whole) : boundary].strip():
            return Kept(text=text[:cut], num_tokens=None)
        whole, number = written, number + 1
    return Kept(text=whole[:boundary].decode("utf-8", "surrogatepass"), num_tokens=number)


def _pieces(said: Mapping[str, Any]) -> list[list[bytes]]:
    """Return the tokens from their texts and, where a reply has them, from their bytes."""
    # Texts of tokens do not join to the text where a character is spread over several tokens; bytes always do.
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
    # Not `isinstance`, for which True and False are integers.
    return type(value) is int and 0 <= value < 256


def _encoded(text: str) -> bytes:
    # A server may send half of a surrogate pair, which is no valid UTF-8.
    return text.encode("utf-8", "surrogatepass")
