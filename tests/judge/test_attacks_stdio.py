"""Programs that try to pass stdio tests without printing the answer."""

from __future__ import annotations

import pytest

from tests.judge.hostile.attack import NEXT, harmless, parametrize, silent
from tests.judge.hostile.forging_scripts import ATTACKS, SPEAK

pytestmark = [pytest.mark.hostile, pytest.mark.slow]


@parametrize(ATTACKS)
def test_no_program_forges_an_output(arena, attack):
    arena.withstand(attack)


def test_the_words_of_the_runner_spoken_by_hand_are_heard(arena):
    """The frames that forge an end are well formed: after the right output they are one."""
    arena.withstand(harmless(f"{SPEAK}print('right', flush=True)\nos.write(3, DONE)\ntime.sleep(60)", silent("right")))


def test_an_output_is_what_was_printed_before_the_end(arena):
    arena.withstand(harmless("import os\nos.write(1, b'right')\nos._exit(0)", silent("right")))


@pytest.mark.parametrize("name", ["print", "input"])
def test_replacing_a_builtin_changes_nothing_of_the_judgement(arena, name):
    """What undoes attacks on later tests must not fail an honest program."""
    program = (
        f"import builtins, sys\nreal = builtins.{name}\nbuiltins.{name} = lambda *a: real(*a)\nprint(int(input()) + 1)"
    )
    arena.withstand(harmless(program, NEXT))
