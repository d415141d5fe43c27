"""Text that others wrote, for eyes: what is not seen, or acts on a terminal, or reorders the rest, is spelled out.

Enters: any text. Leaves: text that shows all it holds. Letters of every script stay as they are.
"""

from __future__ import annotations

import re

#: Control and format characters, bidirectional overrides and separators of lines among them, and half characters. Tabs
#: and new lines are themselves. The script of the report has the same.
INVISIBLE = (
    r"[\x00-\x08\x0b-\x1f\x7f-\x9f\xad\u061c\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb"
    r"\ud800-\udfff\U000e0000-\U000e007f]"
)


def visible(text: str) -> str:
    r"""Return text in which characters of `INVISIBLE` are written as their code points.

    Examples:
        >>> print(visible("\x1b[2Jreturn\u202e x"))
        ⟨U+001B⟩[2Jreturn⟨U+202E⟩ x
    """
    return re.sub(INVISIBLE, lambda match: f"\u27e8U+{ord(match[0]):04X}\u27e9", text)


def shortened(text: str, *, lines: int, characters: int) -> str:
    """Return text fit for a terminal, at most so many lines and characters of it; the rest is counted.

    Args:
        text: Anything; tabs become four spaces, and line ends line feeds.
        lines: The most lines that are kept.
        characters: The most characters that are kept, before any is spelled out.
    """
    plain = text.replace("\r\n", "\n")
    kept = "\n".join(plain[:characters].split("\n")[:lines])
    shown = visible(kept).replace("\t", "    ")
    return shown if len(kept) == len(plain) else f"{shown}\n… {len(plain) - len(kept)} more characters"
