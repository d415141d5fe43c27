"""Text that others wrote, fit for a terminal: what would act on it is spelled out instead.

Enters: any text. Leaves: text whose only control character is the line feed. Letters of every script stay as they are.
"""

from __future__ import annotations

import unicodedata

#: Separators of lines and paragraphs: a terminal may break a line there, unlike what counts the lines.
_SEPARATORS = ("Zl", "Zp")


def visible(text: str) -> str:
    r"""Spell out control, format, private and unassigned characters, escape sequences and bidi overrides among them.

    Args:
        text: Anything; tabs become four spaces.

    Examples:
        >>> print(visible("\x1b[2Jreturn\u202e x"))
        \x1b[2Jreturn\u202e x
    """
    plain = text.replace("\r\n", "\n").replace("\t", "    ")
    return "".join(character if _is_harmless(character) else _spelled(character) for character in plain)


def shortened(text: str, *, lines: int, characters: int) -> str:
    """Return visible text, at most so many lines and characters of it; the rest is counted.

    Args:
        text: Anything.
        lines: The most lines that are kept.
        characters: The most characters that are kept, before any is spelled out.
    """
    kept = "\n".join(text[:characters].split("\n")[:lines])
    if len(kept) == len(text):
        return visible(text)
    return f"{visible(kept)}\n… {len(text) - len(kept)} more characters"


def _is_harmless(character: str) -> bool:
    if character == "\n":
        return True
    category = unicodedata.category(character)
    return category[0] != "C" and category not in _SEPARATORS


def _spelled(character: str) -> str:
    return character.encode("unicode_escape").decode("ascii")
