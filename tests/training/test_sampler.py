"""Draws of the sampler: the same for every number of processes and after every restart, in order of their length."""

import itertools
from collections import Counter

import numpy as np
import pytest

from trl_pper.replay.buffer import ReplayBuffer
from trl_pper.replay.distribution import Distribution
from trl_pper.replay.experience import Experience
from trl_pper.training.sampler import PrioritizedSampler


@pytest.fixture
def buffer() -> ReplayBuffer:
    buffer = ReplayBuffer(possibility_weight=0.0, priority="proportional")
    buffer.add(
        Experience(task_id=f"t{i}", prompt="p", completion="c", program=str(i), pass_rate=i / 4) for i in range(5)
    )
    return buffer


LENGTHS = np.array([9, 7, 7, 2, 5])


def of_one_length(positions):
    return np.ones(len(positions), dtype=np.int64)


def of_many_lengths(positions):
    return LENGTHS[positions]


def sampler(buffer, step=0, **overrides) -> PrioritizedSampler:
    settings = {"prepare": of_one_length, "draws_per_step": 8, "steps_per_round": 3, "seed": 1}
    return PrioritizedSampler(buffer, global_step=lambda: step, **{**settings, **overrides})


def by_step(chosen: PrioritizedSampler) -> list[list[int]]:
    return np.array(list(chosen)).reshape(chosen.steps_per_round, chosen.draws_per_step).tolist()


def test_length_is_static_and_right(buffer):
    empty = ReplayBuffer()
    assert len(sampler(empty)) == 24
    assert len(list(sampler(buffer))) == len(sampler(buffer)) == 24


def test_each_step_draws_what_the_buffer_draws(buffer):
    drawn = by_step(sampler(buffer, step=7))
    buffer.seed = 1
    for step in range(3):
        assert drawn[step] == buffer.draw(8, round_index=2, step=step).tolist()


def test_any_step_of_a_round_starts_the_same_round(buffer):
    assert list(sampler(buffer, step=3)) == list(sampler(buffer, step=5))
    assert list(sampler(buffer, step=3)) != list(sampler(buffer, step=6))


def test_seeds_differ(buffer):
    assert list(sampler(buffer)) != list(sampler(buffer, seed=2))


def test_a_program_without_priority_is_never_drawn(buffer):
    assert 0 not in set(sampler(buffer, draws_per_step=500))


def test_probabilities_stay_fixed_within_a_round(buffer):
    expected = list(sampler(buffer))
    iterator = iter(sampler(buffer))
    drawn = [next(iterator)]
    buffer.add([Experience(task_id="new", prompt="p", completion="c", program="n", pass_rate=1.0)])
    assert [*drawn, *iterator] == expected


def test_a_round_is_prepared_once_before_its_first_draw(buffer):
    prepared = []

    def prepare(positions):
        prepared.append(positions.tolist())
        return of_many_lengths(positions)

    iterator = iter(sampler(buffer, prepare=prepare))
    first = next(iterator)
    assert len(prepared) == 1
    assert sorted(prepared[0]) == sorted([first, *iterator])
    assert len(prepared) == 1


def test_draws_of_a_step_come_by_length_and_equal_ones_as_drawn(buffer):
    drawn = by_step(sampler(buffer))
    ordered = by_step(sampler(buffer, prepare=of_many_lengths))
    assert ordered == [sorted(step, key=lambda position: LENGTHS[position]) for step in drawn]
    assert ordered != drawn
    # Programs 1 and 2 are of equal length; sorted by position they would stand apart.
    equal = [[position for position in step if position in (1, 2)] for step in drawn]
    assert [[position for position in step if position in (1, 2)] for step in ordered] == equal
    assert any(step != sorted(step) for step in equal)


@pytest.mark.parametrize("grouping_steps", [1, 2, 3])
@pytest.mark.parametrize("processes", [1, 2, 4])
def test_processes_share_one_global_minibatch(buffer, processes, grouping_steps):
    """Accelerate deals whole batches round-robin: together the processes hold what one process alone would."""
    from accelerate.data_loader import BatchSamplerShard
    from torch.utils.data import BatchSampler

    def drawn():
        return sampler(buffer, prepare=of_many_lengths, grouping_steps=grouping_steps, micro_batch_size=2)

    expected = by_step(drawn())
    batches = BatchSampler(drawn(), batch_size=2, drop_last=False)
    shards = [list(BatchSamplerShard(batches, num_processes=processes, process_index=i)) for i in range(processes)]
    accumulation = 4 // processes
    assert {len(shard) for shard in shards} == {3 * accumulation}
    for step in range(3):
        own = [shard[step * accumulation : (step + 1) * accumulation] for shard in shards]
        assert sorted(itertools.chain(*itertools.chain(*own))) == sorted(expected[step])


@pytest.mark.parametrize("processes", [1, 2, 4, 8])
def test_the_minibatch_does_not_depend_on_how_it_is_cut(buffer, processes):
    cut = sampler(buffer, prepare=of_many_lengths, micro_batch_size=8 // processes)
    assert list(cut) == list(sampler(buffer, prepare=of_many_lengths))


class DrawsInTurn:
    """Stands in for a buffer, whose positions repeat: draws 0, 1, 2 and so on, so that a position tells its draw."""

    def distribution(self):
        return self

    def draw(self, size, *, seed, round_index, step):
        return np.arange(step * size, (step + 1) * size)


def padded(lengths, rows: int) -> int:
    return int(sum(batch.max() * rows for batch in np.asarray(lengths).reshape(-1, rows)))


def test_grouped_steps_hold_the_same_draws_and_pad_less():
    """Each draw gets a length of its own, so that a length tells which draw it is."""
    unique = np.random.default_rng(0).permutation(8 * 12) + 1

    def lengths_of(**settings) -> np.ndarray:
        chosen = sampler(
            DrawsInTurn(), prepare=lambda positions: unique, steps_per_round=12, micro_batch_size=2, **settings
        )
        return unique[np.array(list(chosen))].reshape(12, 8)

    alone, grouped, all_together = (lengths_of(grouping_steps=steps) for steps in (1, 4, 12))
    for block in range(0, 12, 4):
        assert sorted(grouped[block : block + 4].ravel()) == sorted(alone[block : block + 4].ravel())
    assert sorted(all_together.ravel()) == sorted(alone.ravel())
    assert padded(all_together, 2) < padded(grouped, 2) < padded(alone, 2) < padded(unique, 2)
    # Whole micro-batches of neighbours in length, and within a step the short ones first.
    ranks = np.sort(unique)
    assert {tuple(micro) for micro in all_together.reshape(-1, 2)} == {tuple(pair) for pair in ranks.reshape(-1, 2)}
    assert all((np.diff(step) > 0).all() for step in all_together)
    # Dealt at random: a step does not hold neighbours only.
    assert max(step.max() - step.min() for step in all_together) > 30


def test_a_round_not_divided_by_groups_ends_with_a_smaller_one(buffer):
    grouped = by_step(sampler(buffer, prepare=of_many_lengths, grouping_steps=2, micro_batch_size=4))
    last = sampler(buffer, prepare=of_many_lengths)
    assert grouped[2] == by_step(last)[2]


def test_grouping_changes_from_round_to_round_and_with_the_seed():
    def deal(**settings) -> list[int]:
        return list(sampler(DrawsInTurn(), grouping_steps=3, micro_batch_size=2, **settings))

    assert deal() == deal() == deal(step=2)
    assert len({tuple(deal(step=3 * round_index, seed=seed)) for round_index in range(3) for seed in (1, 2)}) == 6


def test_the_deal_is_drawn_from_a_stream_of_its_own():
    chosen = sampler(DrawsInTurn(), draws_per_step=2, steps_per_round=12, grouping_steps=12, micro_batch_size=2)
    dealt = [first // 2 for first in list(chosen)[::2]]
    fine = Distribution(np.full(10**6, 1e-6)).draw(12, seed=1, round_index=0, step=0)
    assert sorted(dealt) == list(range(12))
    assert dealt != np.argsort(fine).tolist()


def test_each_place_of_a_grouped_step_keeps_its_probability(buffer):
    """Over rounds the programs of the first step occur as drawn, the long ones no more often than the short."""
    rounds = 400
    chosen = [
        by_step(sampler(buffer, step=3 * n, prepare=of_many_lengths, grouping_steps=3, micro_batch_size=4))[0]
        for n in range(rounds)
    ]
    counts = Counter(itertools.chain(*chosen))
    draws = 8 * rounds
    for position, probability in enumerate(buffer.probabilities()):
        # Draws of a step hang together by their length, four at a time: their variance is at most four-fold.
        spread = (4 * draws * probability * (1 - probability)) ** 0.5
        assert abs(counts[position] - draws * probability) <= 4 * spread


def test_micro_batches_that_do_not_divide_a_step_are_refused(buffer):
    with pytest.raises(ValueError, match=r"micro_batch_size: must divide draws_per_step \(8\); got 3"):
        sampler(buffer, micro_batch_size=3)
