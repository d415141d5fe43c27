"""Draws of the sampler: the same for every number of processes and after every restart."""

import numpy as np
import pytest

from trl_pper.experience import Experience
from trl_pper.replay import ReplayBuffer
from trl_pper.sampler import PrioritizedSampler


@pytest.fixture
def buffer() -> ReplayBuffer:
    buffer = ReplayBuffer(possibility_weight=0.0)
    buffer.add(
        Experience(task_id=f"t{i}", prompt="p", completion="c", program=str(i), pass_rate=i / 4) for i in range(5)
    )
    return buffer


def sampler(buffer, step=0, **overrides) -> PrioritizedSampler:
    settings = {"draws_per_step": 8, "steps_per_round": 3, "seed": 1}
    return PrioritizedSampler(buffer, global_step=lambda: step, **{**settings, **overrides})


def test_length_is_static_and_right(buffer):
    empty = ReplayBuffer()
    assert len(sampler(empty)) == 24
    assert len(list(sampler(buffer))) == len(sampler(buffer)) == 24


def test_each_step_draws_what_the_buffer_draws(buffer):
    drawn = np.array(list(sampler(buffer, step=7))).reshape(3, 8)
    buffer.seed = 1
    for step in range(3):
        assert drawn[step].tolist() == buffer.draw(8, round_index=2, step=step).tolist()


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


@pytest.mark.parametrize("processes", [1, 2, 4])
def test_processes_share_one_global_minibatch(buffer, processes):
    """Accelerate deals whole batches round-robin: together the processes hold what one process alone would."""
    from accelerate.data_loader import BatchSamplerShard
    from torch.utils.data import BatchSampler

    expected = np.array(list(sampler(buffer))).reshape(3, 8)
    batches = BatchSampler(sampler(buffer), batch_size=8 // processes, drop_last=False)
    shards = [list(BatchSamplerShard(batches, num_processes=processes, process_index=i)) for i in range(processes)]
    assert {len(shard) for shard in shards} == {3}
    for step in range(3):
        together = sorted(index for shard in shards for index in shard[step])
        assert together == sorted(expected[step].tolist())
