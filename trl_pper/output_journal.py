"""The journal beside the file that a command writes: it is kept as long as the file does not hold all of it.

Enters: the file, and how many programs could not be judged. Leaves: the journal's folder, or nothing of it.
"""

from __future__ import annotations

import shutil
from pathlib import Path


def journal_beside(output: Path) -> Path:
    """Return the folder of the journal of an output file."""
    return output.with_name(f"{output.name}.journal")


def clear_journal(folder: Path, *, unjudged: int) -> None:
    """Remove a journal, unless it holds programs that could not be judged; then say so."""
    if unjudged:
        print(f"The programs without a verdict are kept in {folder}; run this again to have them judged")
    else:
        # All of it is in the output now; left behind, it would stand for the next run.
        shutil.rmtree(folder, ignore_errors=True)
