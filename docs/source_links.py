"""A hook of mkdocs: links to source files, which the site does not hold, become plain text.

On a checkout the links of docs/architecture.md lead to the files, as tests/pages/test_links.py checks.
"""

import re
from typing import Any

_TO_SOURCE = re.compile(r"\[([^\]]+)\]\(\.\./[^)]+\)")


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Return a page without its links to files above the folder of the documentation."""
    return _TO_SOURCE.sub(r"\1", markdown)
