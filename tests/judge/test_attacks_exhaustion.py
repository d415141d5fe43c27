"""Programs that use up time, memory, processes, files, output and descriptors: stopped, and nobody else notices."""

from __future__ import annotations

import pytest

from tests.judge.hostile.attack import harmless, parametrize, silent
from tests.judge.hostile.exhaustion import ATTACKS

pytestmark = [pytest.mark.hostile, pytest.mark.slow]


@parametrize(ATTACKS)
def test_no_program_uses_up_more_than_it_may(arena, attack):
    arena.withstand(attack)


@pytest.mark.parametrize(
    "program",
    [
        "x = bytes(1 << 24)",
        "import threading\nthreads = [threading.Thread(target=len, args=('',)) for _ in range(9)]\n"
        "[one.start() for one in threads]",
        "[open(str(n), 'x').close() for n in range(100)]",
        "open('x', 'wb').write(bytes(1 << 19))",
        "kept = [open('/dev/null') for _ in range(30)]",
        "import sys\nsys.stderr.write('x' * 10**5)",
        "exec('(' * 90 + ')' * 90)",
    ],
)
def test_what_stays_within_the_limits_is_accepted(arena, program):
    arena.withstand(harmless(f"{program}\nprint('right')", silent("right")))


def test_processes_within_the_limits_are_accepted(arena):
    program = "import os\nfor _ in range(3):\n    if os.fork() == 0: os._exit(0)\n    os.wait()\nprint('right')"
    arena.withstand(harmless(program, silent("right"), profile="family"))
