"""For pytest: has the tests' judges take the level `processes` where they ask for "auto", on Linux or without it."""

from __future__ import annotations

import os
from pathlib import Path

from tests.judge.elsewhere.not_linux import take_away
from tests.judge.hostile import attack

# Before conftest.py reads it.
attack.LEVELS = ("processes",)
EMULATED = os.environ.get("ELSEWHERE") == "emulated"


def prepare() -> None:
    """Have judges take the level `processes`, and take Linux away where that is wanted."""
    if EMULATED:
        from trl_pper.judge.host import worker

        take_away()
        worker._ZYGOTE = Path(__file__).with_name("zygote.py")
    from trl_pper.judge import judge as pool
    from trl_pper.judge import levels as ladder

    pool.choose_level = lambda isolation: ladder.choose_level("processes" if isolation == "auto" else isolation)


def pytest_configure(config) -> None:
    """Prepare this process before a test module is imported."""
    # Test modules import these, and they look at the system they were built for.
    import hypothesis
    import numpy

    assert hypothesis
    assert numpy
    prepare()
