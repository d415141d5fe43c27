"""The display of a collection: both phases on a terminal, nothing elsewhere."""

import io
import re

from rich.console import Console

from trl_pper.progress import CollectionProgress
from trl_pper.verdict import Outcome, Verdict

PASSING = Verdict(outcomes=(Outcome.PASSED,))
FAILING = Verdict(outcomes=(Outcome.WRONG_ANSWER,))


def show(terminal: bool, quiet: bool = False, unextracted: int = 0) -> str:
    screen = io.StringIO()
    console = Console(file=screen, force_terminal=terminal, width=120, color_system=None)
    with CollectionProgress(4, title="round 1", quiet=quiet, console=console) as progress:
        for programs in (3, 3, 2):
            progress.generated(programs)
        progress.judged([PASSING, FAILING, FAILING])
        progress.judged([PASSING, PASSING, FAILING], unextracted=unextracted)
    assert (progress.programs_generated, progress.programs_judged, progress.programs_passing) == (8, 6, 3)
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", screen.getvalue())


def test_a_terminal_shows_how_far_generating_and_judging_are():
    shown = show(terminal=True)
    assert re.search(r"round 1 generated .* 3/4 tasks · 8 programs ", shown)
    assert re.search(r"round 1 judged .* 2/4 tasks · 6 programs, 3 pass ", shown)


def test_completions_without_a_program_are_shown_once_there_are_any():
    assert re.search(r"6 programs, 3 pass, 2 without a program ", show(terminal=True, unextracted=2))
    assert "without" not in show(terminal=True)


def test_nothing_is_shown_elsewhere_or_when_quiet():
    assert show(terminal=False).strip() == ""
    assert show(terminal=True, quiet=True).strip() == ""
