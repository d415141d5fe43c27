"""Buffers joined, copied and bounded: the latest round wins, tokenizers do not mix, age or P2Value lets go."""

import itertools

import pytest

from tests.support.naive_replay import NaiveBuffer, make
from trl_pper.replay.buffer import AddReport, ReplayBuffer


def buffer_of(*experiences, **settings):
    buffer = ReplayBuffer(**settings)
    buffer.add(experiences)
    return buffer


def rounds(buffer):
    return [(one.program, one.round_index) for one in buffer]


def test_the_experience_of_the_latest_round_stays():
    buffer = buffer_of(make(1, round_index=2), make(2, round_index=0))
    report = buffer.merge(buffer_of(make(1, round_index=1), make(2, round_index=1), make(3, round_index=0)))
    assert rounds(buffer) == [("g1", 2), ("g2", 1), ("g3", 0)]
    assert report == AddReport(added=1, refreshed=1, evicted=0)
    buffer.check_valid()


def test_draws_of_a_program_are_kept_in_any_order():
    drawn = [make(1, round_index=0, times_drawn=5), make(1, round_index=3, times_drawn=2), make(1, round_index=1)]
    for order in itertools.permutations(drawn):
        together, one_by_one, merged = ReplayBuffer(), ReplayBuffer(), ReplayBuffer()
        together.add(order)
        for one in order:
            one_by_one.add([one])
            alone = ReplayBuffer()
            alone.add([one])
            merged.merge(alone)
        for buffer in (together, one_by_one, merged):
            assert buffer.times_drawn().tolist() == [5]
            buffer.check_valid()
        assert merged[0].round_index == 3


def test_of_equal_rounds_the_buffer_named_later_wins():
    first, second = (buffer_of(make(1, source=source)) for source in ("first", "second"))
    buffer = ReplayBuffer()
    buffer.merge(first, second)
    assert [one.source for one in buffer] == ["second"]
    buffer.merge(first)
    assert [one.source for one in buffer] == ["first"]


def test_a_buffer_added_later_wins_whatever_its_round():
    buffer = buffer_of(make(1, round_index=2))
    buffer.add(buffer_of(make(1, round_index=1)))
    assert rounds(buffer) == [("g1", 1)]


def test_any_order_of_shards_gives_the_same_experiences():
    shards = [buffer_of(*(make(n, round_index=shard) for n in range(shard, shard + 4))) for shard in range(3)]
    merged = []
    for order in itertools.permutations(shards):
        buffer = ReplayBuffer()
        buffer.merge(*order)
        merged.append(sorted(rounds(buffer)))
    assert all(one == merged[0] for one in merged)


def test_settings_stay_those_of_the_buffer_merged_into():
    buffer = buffer_of(make(1), seed=1, priority="rank", capacity=10)
    before = buffer.settings()
    buffer.merge(buffer_of(make(2), seed=2, priority="uniform", capacity=1))
    assert buffer.settings() == before


def test_a_merge_evicts_once_everything_is_there():
    buffer = buffer_of(make(1, pass_rate=0.4), capacity=2)
    parts = [buffer_of(make(2, pass_rate=0.3), make(3, pass_rate=0.2)), buffer_of(make(2, pass_rate=0.9))]
    assert buffer.merge(*parts) == AddReport(added=2, refreshed=1, evicted=1)
    assert [one.pass_rate for one in buffer] == [0.4, 0.9]


def test_a_buffer_merged_with_itself_or_nothing_stays_as_it_is():
    buffer = buffer_of(make(1), make(2))
    digest = buffer.digest()
    assert buffer.merge(buffer) == AddReport(added=0, refreshed=2, evicted=0)
    assert buffer.merge() == AddReport(added=0, refreshed=0, evicted=0)
    assert buffer.merge(ReplayBuffer()) == AddReport(added=0, refreshed=0, evicted=0)
    assert buffer.digest() == digest
    buffer.check_valid()


def test_what_is_no_buffer_is_refused_before_anything_is_stored():
    buffer = buffer_of(make(1))
    with pytest.raises(TypeError, match=r"others: must be replay buffers; got list\. add\(\) takes experiences"):
        buffer.merge(buffer_of(make(2)), [make(3)])
    assert len(buffer) == 1


@pytest.mark.parametrize("join", [ReplayBuffer.merge, ReplayBuffer.add])
def test_buffers_of_different_tokenizers_do_not_mix(join):
    buffer = buffer_of(make(1), tokenizer="a")
    with pytest.raises(ValueError, match=r"^tokenizer: .*'a', 'b'.*Collect anew"):
        join(buffer, buffer_of(make(2), tokenizer="b"))
    assert len(buffer) == 1
    join(buffer, buffer_of(make(2), tokenizer="a"))
    join(buffer, buffer_of(make(3)))
    assert (len(buffer), buffer.tokenizer) == (3, "a")


@pytest.mark.parametrize("join", [ReplayBuffer.merge, ReplayBuffer.add])
def test_an_unknown_tokenizer_takes_the_known_one(join):
    buffer = buffer_of(make(1))
    join(buffer, buffer_of(make(2), tokenizer="a"))
    assert buffer.tokenizer == "a"


def test_two_others_of_different_tokenizers_are_refused_too():
    buffer = ReplayBuffer()
    with pytest.raises(ValueError, match=r"^tokenizer:"):
        buffer.merge(buffer_of(make(1), tokenizer="a"), buffer_of(make(2), tokenizer="b"))
    assert (len(buffer), buffer.tokenizer) == (0, None)


def test_the_tokenizer_is_saved_and_is_no_setting(tmp_path):
    buffer = buffer_of(make(1), tokenizer="tok")
    buffer.save(tmp_path / "buffer.parquet")
    assert ReplayBuffer.load(tmp_path / "buffer.parquet").tokenizer == "tok"
    other = ReplayBuffer()
    other.load_state_dict(buffer.state_dict())
    assert other.tokenizer == "tok"
    assert "tokenizer" not in buffer.settings()
    assert buffer.digest() == buffer_of(make(1)).digest()


def test_age_lets_the_earliest_round_and_then_the_oldest_go():
    buffer = ReplayBuffer(3, eviction="age")
    buffer.add([make(1, round_index=3), make(2, round_index=0, pass_rate=1.0), make(3, round_index=0)])
    buffer.add([make(4, round_index=3, pass_rate=0.0)])
    assert rounds(buffer) == [("g1", 3), ("g3", 0), ("g4", 3)]
    # A program written again is young again, though it stays where it stands.
    buffer.add([make(3, round_index=4)])
    buffer.add([make(5, round_index=4), make(6, round_index=4)])
    assert rounds(buffer) == [("g3", 4), ("g5", 4), ("g6", 4)]


@pytest.mark.parametrize("eviction", ["p2value", "age"])
def test_ties_of_any_number_leave_in_the_order_stored(eviction):
    buffer, twin = ReplayBuffer(4, eviction=eviction), NaiveBuffer(4, eviction)
    for first in range(0, 30, 5):
        batch = [make(number, pass_rate=0.5, round_index=number // 10) for number in range(first, first + 5)]
        assert buffer.add(batch) == twin.add(batch)
        assert list(buffer) == twin.items


def test_eviction_is_a_setting_that_files_keep(tmp_path):
    buffer = buffer_of(make(1), eviction="age")
    buffer.save(tmp_path / "buffer.parquet")
    assert ReplayBuffer.load(tmp_path / "buffer.parquet").settings()["eviction"] == "age"
    assert buffer.digest() != buffer_of(make(1)).digest()


def test_a_copy_is_independent():
    buffer, copy = buffer_of(make(1), make(2), seed=4, tokenizer="t"), ReplayBuffer()
    copy.assign(buffer)
    assert (copy.digest(), copy.tokenizer) == (buffer.digest(), "t")
    copy.add([make(1, pass_rate=1.0)])
    assert [one.pass_rate for one in buffer] == [0.5, 0.5]
    copy.add([make(3)])
    copy.seed = 9
    assert [one.pass_rate for one in buffer] == [0.5, 0.5]
    assert (len(buffer), buffer.seed) == (2, 4)
    buffer.add([make(4)])
    assert [one.program for one in copy] == ["g1", "g2", "g3"]
    buffer.check_valid()
    copy.check_valid()


def test_experiences_are_taken_as_from_a_list():
    experiences = [make(number) for number in range(5)]
    buffer = buffer_of(*experiences)
    assert buffer[0] == buffer[-5] == experiences[0]
    assert buffer[1:4:2] == experiences[1:4:2]
    assert buffer[::-1] == experiences[::-1]
    assert buffer[9:] == []
    assert buffer.take([3, 3, 0]) == [experiences[3], experiences[3], experiences[0]]
    assert buffer.take([]) == []
    for beyond in (5, -6):
        with pytest.raises(IndexError):
            buffer[beyond]
        with pytest.raises(IndexError):
            buffer.take([beyond])


@pytest.mark.parametrize("key", ["t", ("t",), ("t", 1), ("t", "\ud800"), None, ("t", "g1", "x")])
def test_what_names_no_program_is_not_in_the_buffer(key):
    assert key not in buffer_of(make(1))
