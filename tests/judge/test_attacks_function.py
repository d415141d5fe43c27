"""Programs that try to pass function tests without the answer."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from tests.judge.hostile.attack import ANSWERS, ONE, SECRET, WORD, harmless, parametrize
from tests.judge.hostile.forging_functions import ATTACKS, FORGED_SHARED, SPEAK
from trl_pper import FunctionTests

pytestmark = [pytest.mark.hostile, pytest.mark.slow]


@parametrize(ATTACKS)
def test_no_program_forges_an_answer(arena, attack):
    arena.withstand(attack)


@parametrize(ATTACKS)
def test_shared_tests_stop_what_the_page_says(arena, attack):
    """The attacks that pass shared tests are the ones that the page lists, no more and no fewer."""
    attack = replace(attack, tests=replace(attack.tests, run="shared"))
    verdict = arena.run(attack)
    assert verdict.run == "shared"
    assert verdict.pass_rate is not None, verdict.message
    assert verdict.accepted == (attack.name in FORGED_SHARED), verdict.message


def test_the_page_lists_what_passes_shared_tests():
    page = (Path(__file__).parents[2] / "docs" / "how-fast-how-safe.md").read_text(encoding="utf-8")
    listed = page[page.index("### Shared tests") :].split("\n\n")[1]
    assert {
        line.removeprefix("- ").split(":")[0] for line in listed.splitlines() if line.startswith("- ")
    } == FORGED_SHARED
    assert f"{len(FORGED_SHARED)} of the {len(ATTACKS)}" in page
    assert FORGED_SHARED <= {attack.name for attack in ATTACKS}


def test_a_program_that_knows_the_answers_is_accepted(arena):
    """The tests that no attack passes can be passed."""
    arena.withstand(harmless(f"def f(x): return {ANSWERS!r}[x]", SECRET))


def test_an_answer_spoken_by_hand_is_heard(arena):
    """The frames that forge answers are well formed: with the right value in them they are answers."""
    program = f"{SPEAK}def f(x):\n    os.write(3, frame(('value', {ANSWERS[1]}), 1))\n    time.sleep(9)"
    arena.withstand(harmless(program, ONE))


def test_what_an_earlier_program_keeps_is_found_within_one(arena):
    """The ways in which programs leave something to the next do leave it, as long as the program runs."""
    tests = FunctionTests(code="assert f(1) == [99, 99, 99]", entry_point="f")
    program = (
        "import builtins, os\nbuiltins.left = 99\nos.environ['LEFT'] = '99'\nopen('left', 'w').write('99')\n"
        "def f(x): return [builtins.left, int(os.environ['LEFT']), int(open('left').read())]"
    )
    arena.withstand(harmless(program, tests))


def test_the_hunts_find_an_answer_that_is_there(arena):
    program = next(attack.program for attack in ATTACKS if attack.name == "hunt through garbage collector")
    tests = FunctionTests(code=f"assert f(1) == {WORD!r}", entry_point="f")
    arena.withstand(harmless(f"{program}\nword = {WORD!r}", tests, profile="patient"))
