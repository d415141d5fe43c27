"""Programs that kill, that will not die, and that leave what cannot be cleaned up."""

from __future__ import annotations

import threading
import time

import pytest

from tests.judge.hostile.attack import Attack, parametrize, silent
from tests.judge.hostile.survival import ATTACKS

pytestmark = [pytest.mark.hostile, pytest.mark.slow]


@parametrize(ATTACKS)
def test_no_program_outlives_itself(arena, attack):
    arena.withstand(attack)


def test_a_process_that_is_left_would_be_seen(arena):
    """While a program with a child runs, both are among the worker's descendants."""
    judge = arena.judge("family")
    program = "import os, time\nif os.fork() == 0:\n    time.sleep(60)\ntime.sleep(60)"
    task = Attack(name="control", target="control", program=program, tests=silent()).task
    thread = threading.Thread(target=judge.run, args=([(task, [program])],))
    thread.start()
    seen = 0
    while thread.is_alive():
        seen = max(seen, arena.count_processes("family"))
        time.sleep(0.01)
    thread.join()
    assert seen >= arena.idle["family"] + 2
