"""A run that was killed, wherever it stood, goes on to the bit: draws, losses, weights and buffer."""

import pytest

from tests.support.forked_plan import carry_out

SAVING = {"save_strategy": "steps", "save_steps": 2}
#: Where each run is killed, and the checkpoint it goes on from. Seven tasks make a collection, three steps a round:
#: the tenth task is judged in the second collection, the fifth step is in the middle of the second round.
KILLED = {
    "first collection": ({"append": 3}, None),
    "second collection": ({"append": 10}, 2),
    "middle of a round": ({"step": 5}, 4),
    "writing a checkpoint": ({"save": 4}, 2),
}
KILLED_PAIR = {
    "first collection, second process": ({"append": 2, "rank": 1}, None),
    "second collection": ({"append": 6}, 2),
    "middle of a round": ({"step": 5, "rank": 1}, 4),
}


@pytest.fixture(scope="module")
def outcome(tmp_path_factory):
    """Run everything once: whole runs, and for each place a killed run with the one that goes on from it."""
    folder = tmp_path_factory.mktemp("killed")
    plan = []
    for processes, places in ((1, KILLED), (2, KILLED_PAIR)):
        common = {"processes": processes, "lora": processes == 2, "config": {**SAVING}}
        common["config"]["per_device_train_batch_size"] = 2 // processes
        plan.append({**common, "name": f"whole {processes}", "output": f"whole-{processes}"})
        for number, (place, (kill, checkpoint)) in enumerate(places.items()):
            output = f"killed-{processes}-{number}"
            plan.append({**common, "name": f"killed {processes} {place}", "output": output, "kill": kill})
            resume = True if checkpoint else None
            plan.append({**common, "name": f"resumed {processes} {place}", "output": output, "resume": resume})
    return carry_out(folder, plan)


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    ("processes", "place", "checkpoint"),
    [
        *((1, place, checkpoint) for place, (_, checkpoint) in KILLED.items()),
        *((2, place, checkpoint) for place, (_, checkpoint) in KILLED_PAIR.items()),
    ],
)
def test_a_killed_run_goes_on_to_the_bit(outcome, processes, place, checkpoint):
    seen, exits = outcome.seen, outcome.exits
    assert -9 in exits[f"killed {processes} {place}"]
    whole, resumed = seen(f"whole {processes}"), seen(f"resumed {processes} {place}")
    assert [one["world_size"] for one in whole + resumed] == [processes] * 2 * processes
    for before, after in zip(whole, resumed, strict=True):
        # Not a run of failures alone: draws that depend on nothing would agree by themselves.
        assert len(before["pass_rates"]) > 2
        assert after["steps"] == before["steps"] == len(before["batches"]) == 6
        assert after["batches"] == before["batches"][checkpoint or 0 :]
        for what in ("losses", "digest", "weights"):
            assert after[what] == before[what], what
    assert len({one["weights"] for one in whole}) == 1
    assert len({one["digest"] for one in whole}) == 1


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_what_was_judged_before_the_kill_is_not_generated_again(outcome):
    seen = outcome.seen
    # Three tasks with two programs each were in the journal, and with a batch of two the first two tasks are skipped.
    assert seen("resumed 1 first collection")[0]["restored"] == [6, 0]
    assert seen("resumed 1 second collection")[0]["restored"] == [6]
    assert seen("resumed 1 middle of a round")[0]["restored"] == []


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_checkpoint_that_was_being_written_is_passed_over(outcome):
    seen, errors = outcome.seen, outcome.errors
    assert "checkpoint-4: skipped" in errors
    # The one before it is older than the second collection, which comes from the journal as a whole.
    assert seen("resumed 1 writing a checkpoint")[0]["restored"] == [14]
