import json
import random
import threading

import numpy as np
import pytest

from tests.support.naive_replay import NaiveBuffer, make
from trl_pper.replay.buffer import AddReport, ReplayBuffer
from trl_pper.replay.draw_rule import draw_probabilities
from trl_pper.replay.priority import p2value


def square(values):
    return values**2


@pytest.mark.parametrize("capacity", [None, 1, 7, 30])
def test_a_buffer_equals_its_naive_twin_after_every_mutation(capacity):
    chance = random.Random(capacity or 0)
    buffer, twin = ReplayBuffer(capacity), NaiveBuffer(capacity)
    for round_index in range(40):
        batch = [
            make(
                chance.randrange(20),
                task=chance.choice("abc"),
                pass_rate=chance.choice([0.0, 0.5, 1.0]),
                logprob=chance.choice([None, -1.0, -3.0]),
                num_tokens=2,
                round_index=round_index,
            )
            for _ in range(chance.randrange(6))
        ]
        assert buffer.add(batch) == twin.add(batch)
        buffer.check_valid()
        assert list(buffer) == twin.items
        assert buffer.p2values().tolist() == pytest.approx([twin.p2(item) for item in twin.items])
        for item in batch:
            assert ((item.task_id, item.program) in buffer) == any(item.key == kept.key for kept in twin.items)
        if chance.random() < 0.2:
            buffer.load_state_dict(json.loads(json.dumps(buffer.state_dict())))
            buffer.check_valid()
    assert len(buffer) == (44 if capacity is None else capacity)


def test_a_repeat_refreshes_in_place():
    buffer = ReplayBuffer()
    buffer.add([make(1), make(2)])
    better = make(1, pass_rate=1.0, logprob=-1.0, num_tokens=2, source="new", round_index=4)
    assert buffer.add([better]) == AddReport(added=0, refreshed=1, evicted=0)
    assert buffer[0] == better
    assert buffer.pass_rates().tolist() == [1.0, 0.5]


def test_eviction_takes_the_lowest_p2value_then_the_oldest():
    buffer = ReplayBuffer(3)
    report = buffer.add(
        [make(0, pass_rate=0.5), make(1, pass_rate=0.2), make(2, pass_rate=0.5), make(3, pass_rate=0.9)]
    )
    assert report.evicted == 1
    assert [item.completion for item in buffer] == ["c0", "c2", "c3"]
    buffer.add([make(4, pass_rate=0.5)])
    assert [item.completion for item in buffer] == ["c2", "c3", "c4"]


def test_adding_something_else_changes_nothing():
    buffer = ReplayBuffer()
    with pytest.raises(TypeError, match=r"Experience\.from_row"):
        buffer.add([make(1), {"program": "x"}])
    assert len(buffer) == 0


def test_probabilities_are_those_of_the_pure_functions():
    for priority in ("proportional", "rank", "uniform", "filter", square):
        buffer = ReplayBuffer(possibility_weight=0.3, possibility="product", priority=priority, priority_exponent=2.0)
        buffer.add([make(i, pass_rate=i / 4, logprob=-i, num_tokens=3) for i in range(5)])
        values = p2value(np.exp(-np.arange(5.0)), np.arange(5) / 4, possibility_weight=0.3)
        rates = np.arange(5) / 4
        expected = draw_probabilities(values, priority=priority, exponent=2.0, pass_rate=rates)
        assert buffer.probabilities().tolist() == expected.tolist()
        buffer.check_valid()


def test_arrays_follow_content_and_settings_and_are_read_only():
    buffer = ReplayBuffer()
    assert buffer.probabilities().shape == (0,)
    buffer.add([make(1, pass_rate=1.0, logprob=-1.0, num_tokens=1)])
    before = buffer.p2values()
    assert buffer.p2values() is before
    buffer.possibility_weight = 0.0
    assert buffer.p2values().tolist() == [1.0]
    buffer.add([make(2)])
    assert buffer.probabilities().shape == (2,)
    with pytest.raises(ValueError, match="read-only"):
        buffer.probabilities()[0] = 0.0


def test_drawing_from_an_empty_buffer_says_what_to_do():
    with pytest.raises(ValueError, match=r"empty.*add\(\)"):
        ReplayBuffer().sample(1, round_index=0, step=0)


def test_a_draw_depends_on_seed_round_and_step_alone():
    experiences = [make(i) for i in range(100)]
    buffer, other = ReplayBuffer(seed=3), ReplayBuffer(seed=4)
    buffer.add(experiences)
    other.add(experiences)
    drawn = buffer.draw(20, round_index=1, step=5)
    assert drawn.dtype == np.int64
    buffer.draw(20, round_index=1, step=6)
    assert buffer.draw(20, round_index=1, step=5).tolist() == drawn.tolist()
    assert buffer.draw(20, round_index=2, step=5).tolist() != drawn.tolist()
    assert other.draw(20, round_index=1, step=5).tolist() != drawn.tolist()
    assert buffer.sample(20, round_index=1, step=5) == [buffer[index] for index in drawn]


def filled(priority="rank"):
    buffer = ReplayBuffer(50, seed=9, possibility_weight=0.25, priority=priority, priority_exponent=0.7)
    buffer.add(
        make(i, pass_rate=i / 9, outcomes=["passed", "timeout"], logprob=-i / 3 if i % 3 else None, num_tokens=i + 1)
        for i in range(10)
    )
    return buffer


def test_state_restores_content_settings_and_draws():
    buffer, restored = filled(), ReplayBuffer()
    restored.load_state_dict(json.loads(json.dumps(buffer.state_dict())))
    assert restored.digest() == buffer.digest()
    assert restored.settings() == buffer.settings()
    drawn = buffer.draw(30, round_index=2, step=9)
    assert restored.draw(30, round_index=2, step=9).tolist() == drawn.tolist()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"version": 0}, "version"),
        ({"settings": None}, "settings"),
        ({"settings": {"capacity": 1}}, "settings"),
        ({"experiences": "x"}, "experiences"),
        ({"experiences": [{"prompt": "p"}]}, "completion"),
    ],
)
def test_a_malformed_state_is_refused_and_changes_nothing(change, message):
    buffer = filled()
    before = buffer.digest()
    with pytest.raises(ValueError, match=message):
        buffer.load_state_dict({**buffer.state_dict(), **change})
    assert buffer.digest() == before
    buffer.check_valid()


def test_a_state_with_repeats_or_beyond_its_capacity_is_refused():
    state = filled().state_dict()
    with pytest.raises(ValueError, match="1 repeated"):
        ReplayBuffer().load_state_dict({**state, "experiences": [*state["experiences"], state["experiences"][0]]})
    with pytest.raises(ValueError, match="too many"):
        ReplayBuffer().load_state_dict({**state, "settings": {**state["settings"], "capacity": 3}})


def test_a_priority_function_has_to_be_passed_again(tmp_path):
    buffer = filled(priority=square)
    buffer.save(tmp_path / "buffer.parquet")
    restored = ReplayBuffer.load(tmp_path / "buffer.parquet", priority=square)
    assert restored.probabilities().tolist() == buffer.probabilities().tolist()
    with pytest.raises(ValueError, match=r"square.*Pass that function"):
        ReplayBuffer.load(tmp_path / "buffer.parquet")
    with pytest.raises(ValueError, match="Pass that function"):
        ReplayBuffer(priority="rank").load_state_dict(buffer.state_dict())
    same = ReplayBuffer(priority=square)
    same.load_state_dict(buffer.state_dict())
    assert same.digest() == buffer.digest()


class HalfSized(ReplayBuffer):
    """Derives something of its own from the settings."""

    def __init__(self, capacity: int = 8, **settings) -> None:
        super().__init__(capacity, **settings)
        self.half = capacity // 2


def test_a_subclass_is_loaded_through_its_constructor(tmp_path):
    buffer = HalfSized(100, seed=3)
    buffer.add([make(0)])
    buffer.save(tmp_path / "buffer.parquet")
    loaded = HalfSized.load(tmp_path / "buffer.parquet")
    assert (loaded.half, loaded.capacity, loaded.seed, len(loaded)) == (50, 100, 3, 1)
    fresh = HalfSized()
    fresh.load_state_dict(buffer.state_dict())
    assert (fresh.half, fresh.settings()) == (50, buffer.settings())


def test_settings_do_not_copy_a_priority_function():
    class Locked:
        def __init__(self):
            self.lock = threading.Lock()

        def __call__(self, p2values):
            return p2values

    buffer = ReplayBuffer(priority=Locked())
    assert buffer.settings()["priority"].startswith("function:")
    assert "Locked" in repr(buffer)
    assert buffer.digest()


def test_an_assigned_setting_is_checked_and_takes_effect():
    buffer = ReplayBuffer()
    buffer.add(make(n, pass_rate=n / 4) for n in range(5))
    with pytest.raises(ValueError, match=r"priority_exponent|exponent: must be finite"):
        buffer.priority_exponent = -1.0
    with pytest.raises(ValueError, match="eviction: must be one of p2value, age"):
        buffer.eviction = "luck"
    buffer.priority = "uniform"
    assert buffer.probabilities().tolist() == [0.2] * 5


def test_the_digest_sees_content_order_and_settings():
    a, b = make(1), make(2)
    digests = set()
    for items, settings in [([a, b], {}), ([b, a], {}), ([a], {}), ([a, b], {"seed": 1}), ([], {})]:
        buffer = ReplayBuffer(**settings)
        buffer.add(items)
        digests.add(buffer.digest())
    assert len(digests) == 5


def test_a_file_keeps_everything_also_mixed_prompts(tmp_path):
    buffer = filled()
    buffer.add([make(1, task="chat", prompt=[{"role": "user", "content": "é\u2028", "name": "x"}])])
    path = tmp_path / "seed=1" / "buffer.parquet"
    buffer.save(path)
    buffer.save(path)
    restored = ReplayBuffer.load(path)
    restored.check_valid()
    assert restored.digest() == buffer.digest()
    assert [file.name for file in path.parent.iterdir()] == ["buffer.parquet"]


def test_an_empty_buffer_is_saved_and_restored(tmp_path):
    ReplayBuffer(5).save(tmp_path / "empty.parquet")
    assert ReplayBuffer.load(tmp_path / "empty.parquet").capacity == 5


def test_an_interrupted_save_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "buffer.parquet"
    buffer = filled()
    buffer.save(path)
    digest = buffer.digest()
    buffer.add([make(77)])
    monkeypatch.setattr("os.fsync", lambda _: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        buffer.save(path)
    assert ReplayBuffer.load(path).digest() == digest
    assert [file.name for file in tmp_path.iterdir()] == ["buffer.parquet"]


def test_files_of_others_are_refused_with_the_remedy(tmp_path):
    pq, pa = pytest.importorskip("pyarrow.parquet"), pytest.importorskip("pyarrow")
    pq.write_table(pa.table({"prompt": ["p"]}), tmp_path / "other.parquet")
    with pytest.raises(ValueError, match="from_dataset"):
        ReplayBuffer.load(tmp_path / "other.parquet")
    (tmp_path / "junk.parquet").write_bytes(b"junk" * 10)
    with pytest.raises(ValueError, match="Parquet"):
        ReplayBuffer.load(tmp_path / "junk.parquet")
    with pytest.raises(FileNotFoundError, match=r"none\.parquet: no such file\. .* write buffers"):
        ReplayBuffer.load(tmp_path / "none.parquet")


@pytest.mark.parametrize("prompt", ["text", [{"role": "user", "content": "hi"}]])
def test_a_dataset_round_trip_keeps_every_experience(prompt):
    buffer = ReplayBuffer(seed=2)
    buffer.add([make(i, prompt=prompt, outcomes=["passed"], logprob=-1.0, num_tokens=2) for i in range(3)])
    dataset = buffer.to_dataset()
    assert dataset[0]["prompt"] == prompt
    assert ReplayBuffer.from_dataset(dataset, seed=2).digest() == buffer.digest()


def test_an_empty_dataset_has_the_columns_all_the_same():
    assert "pass_rate" in ReplayBuffer().to_dataset().column_names


def test_text_prompts_are_counted_as_one_by_one():
    chat = [{"role": "user", "content": "hi"}]
    buffer, counts = ReplayBuffer(3), [0]
    assert buffer.text_prompts() == 0
    for number, prompt in enumerate([chat, "p", "q", chat, chat]):
        buffer.add([make(number, prompt=prompt)])
        counts.append(buffer.text_prompts())
        assert counts[-1] == sum(isinstance(one.prompt, str) for one in buffer)
    assert max(counts) == 2


def test_mixed_prompts_do_not_fit_one_column():
    buffer = ReplayBuffer()
    buffer.add([make(1), make(2, prompt=[{"role": "user", "content": "hi"}])])
    with pytest.raises(ValueError, match=r"^prompt: .*save\(\)"):
        buffer.to_dataset()


@pytest.mark.parametrize(
    ("settings", "name"),
    [
        ({"capacity": 0}, "capacity"),
        ({"seed": -1}, "seed"),
        ({"possibility": "median"}, "possibility"),
        ({"possibility_weight": 2}, "possibility_weight"),
        ({"priority": "worst"}, "priority"),
        ({"priority_exponent": -1}, "priority_exponent"),
        ({"eviction": "random"}, "eviction"),
        ({"tokenizer": ""}, "tokenizer"),
        ({"tokenizer": 3}, "tokenizer"),
    ],
)
def test_settings_are_checked_at_the_door(settings, name):
    with pytest.raises(ValueError, match=f"^{name}:"):
        ReplayBuffer(**settings)


def test_check_valid_finds_broken_invariants():
    buffer = filled()
    buffer._table._entries.popitem()
    with pytest.raises(AssertionError, match="index"):
        buffer.check_valid()
    buffer = filled()
    buffer._table.numbers["row"][0] = 1
    with pytest.raises(AssertionError, match="share a row"):
        buffer.check_valid()
    buffer = filled()
    buffer.pass_rates()
    buffer._table.numbers["pass_rate"][0] = 0.99
    with pytest.raises(AssertionError, match="stale"):
        buffer.check_valid()
    buffer = filled()
    buffer.capacity = 3
    with pytest.raises(AssertionError, match="capacity"):
        buffer.check_valid()


@pytest.mark.slow
def test_a_hundred_thousand_experiences_are_no_burden():
    import time

    buffer = ReplayBuffer(90_000)
    experiences = [make(i, pass_rate=i % 11 / 10, logprob=-1.0, num_tokens=2) for i in range(100_000)]
    start = time.process_time()
    buffer.add(experiences)
    buffer.draw(64, round_index=0, step=0)
    assert time.process_time() - start < 5
    assert len(buffer) == 90_000
