"""Stop sequences: where a completion ends because the model has begun something else.

Enters: text and the texts that end it. Leaves: the place of the first of them, or the text before it.
"""

from __future__ import annotations

from collections.abc import Iterable


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
